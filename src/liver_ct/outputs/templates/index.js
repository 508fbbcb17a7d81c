"use strict";
// Sorts the table by the heading that is pressed, again to turn the order round.

const table = document.getElementById("studies");

function compare(a, b, key) {
  if (key !== "case") return a.dataset[key] - b.dataset[key];
  return a.dataset.case.localeCompare(b.dataset.case, undefined, { numeric: true });
}

function sortBy(heading) {
  const key = heading.dataset.key;
  const first = key === "case" ? "ascending" : "descending";
  const other = first === "ascending" ? "descending" : "ascending";
  const order = heading.getAttribute("aria-sort") === first ? other : first;
  for (const each of table.querySelectorAll("[aria-sort]")) each.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", order);
  const sign = order === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows].sort((a, b) => sign * compare(a, b, key));
  table.tBodies[0].append(...rows);
}

for (const heading of table.querySelectorAll("[data-key]")) {
  heading.querySelector("button").addEventListener("click", () => sortBy(heading));
}

// Everything by keys alone.

const paneOf = (target) => panes[target.closest?.(".pane")?.id] ?? Object.values(panes).find((pane) => pane.element.matches(":hover")) ?? panes.axial;
const toggle = (id) => find(id) && !find(id).disabled && find(id).click();
const KEYS = {
  m: () => toggle("show-prob"),
  r: () => toggle("show-regions"),
  o: () => toggle("show-lesions"),
  f: goToNextFlagged,
  l: () => goToLesion((state.lesion + 1) % data.lesions.length),
  p: () => takeTool("point"),
  w: () => takeTool("window"),
  g: () => takeTool("pan"),
  d: rulerByKey,
  escape: removeRulers,
  "+": (pane) => zoom(1.25, pane),
  "=": (pane) => zoom(1.25, pane),
  "-": (pane) => zoom(0.8, pane),
  0: showWhole,
  "?": () => find("help").showModal(),
};
const ARROWS = { ArrowRight: [1, 0, 1], ArrowLeft: [-1, 0, -1], ArrowUp: [0, -1, 1], ArrowDown: [0, 1, -1] };

// How many slices a key moves; up and down only where they do not scroll the page.
function steps(event) {
  const inPicture = event.target.closest(".pane, #curve, #place") || document.querySelector(".pane:hover");
  if (event.key in ARROWS && (inPicture || !ARROWS[event.key][1])) return ARROWS[event.key][2];
  return inPicture ? { PageUp: 10, PageDown: -10, Home: -1e6, End: 1e6 }[event.key] : undefined;
}

function onKey(event) {
  const typing = event.target === find("opacity") || event.target.type === "number" || find("help").open;
  if (event.altKey || event.ctrlKey || event.metaKey || typing) return;
  const pane = paneOf(event.target), key = event.key.toLowerCase();
  if (event.shiftKey && event.key in ARROWS) {
    const [u, v] = crossIn(pane), [across, down] = ARROWS[event.key];
    moveCross(pane, [u + (across * 2) / pane.width_mm, v + down * stepDown(pane)]);
  } else if (key in KEYS) KEYS[key](pane);
  else if (key >= "1" && key <= "5") document.querySelectorAll("[data-window]")[key - 1].click();
  else if (steps(event)) travel(event.target.closest("#curve, #place") ? panes.axial : pane, steps(event));
  else return;
  event.preventDefault();
}

// 2 mm, but a slice where the picture shows slices.
const stepDown = (pane) => (pane.v === "place" ? 1 / data.count : 2 / pane.height_mm);

// What is shown now, and how one moves through it.

const state = { place: 0, x: 0.5, y: 0.5, window: [-60, 200], tool: "point", lesion: -1 };
const [mmX, mmY, mmZ] = data.size_mm;
const panes = {
  axial: new Pane("axial", "slice", ["x", "y", "place"], [mmX, mmY], 900),
  coronal: new Pane("coronal", "front", ["x", "place", "y"], [mmX, mmZ], 600),
  sagittal: new Pane("sagittal", "side", ["y", "place", "x"], [mmY, mmZ], 600),
};
const level = () => (state.window[0] + state.window[1]) / 2;
const width = () => state.window[1] - state.window[0];
const hold = (value, low, high) => Math.min(high, Math.max(low, value));
const minus = (text) => String(text).replace("-", "\u2212");
const share = (key) => (key === "place" ? heightOf(state.place) : state[key]);
const crossIn = (pane) => [share(pane.u), share(pane.v)];
const flagged = (place) => data.slices[place][2] !== null && data.slices[place][2] >= data.threshold;

function drawPane(pane) {
  const overlays = [];
  for (const [name, overlay] of [["prob", drawProb], ["regions", drawRegions], ["lesions", drawLesions]]) {
    const layer = data.layers[name];
    const map = layer && layer.values && find(`show-${name}`).checked ? layerPlane(layer, pane.id, state) : null;
    if (map) overlays.push([map, overlay]);
  }
  compose(pane.canvas, grayPlane(pane.id, state), overlays, find("opacity").value / 100, state.window);
}

async function draw() {
  const place = state.place;
  await decode(place);
  if (place !== state.place) return; // moved on meanwhile
  drawPane(panes.axial);
  find("hu").textContent = `${minus(Math.round(huAtCross()))} HU`;
  find("slice").dataset.drawn = place;
  requestAnimationFrame(drawAcross);
}

function drawAcross() {
  drawPane(panes.coronal);
  drawPane(panes.sagittal);
}

// Mean of 3 x 3 pixels.
function huAtCross() {
  const { values, width, height } = grayPlane("axial", state);
  let sum = 0, count = 0;
  for (let y = clampIndex(state.y, height) - 1, rows = 0; rows < 3; y++, rows++) {
    for (let x = clampIndex(state.x, width) - 1, columns = 0; columns < 3; x++, columns++) {
      if (x < 0 || y < 0 || x >= width || y >= height) continue;
      sum += HU[values[y * width + x]];
      count++;
    }
  }
  return sum / count;
}

function arrange() {
  for (const pane of Object.values(panes)) {
    const labels = pane.id === "axial" && find("show-lesions")?.checked ? labelsHere() : [];
    pane.arrange(crossIn(pane), pane.ruler?.to && { ...pane.ruler, now: state[pane.through] }, labels);
  }
}

function labelsHere() {
  const [slice] = data.slices[state.place];
  const here = data.lesions.filter((lesion) => lesion.first_slice <= slice && slice <= lesion.last_slice);
  return here.map((lesion) => [lesion.number, lesion.edge]);
}

function say() {
  const [slice, z, probability] = data.slices[state.place];
  const verdict = probability === null ? "not considered" : `tumour probability ${probability.toFixed(2)}`;
  const text = `slice ${slice}, z ${minus(z.toFixed(1))} mm, ${verdict}${flagged(state.place) ? ", flagged" : ""}`;
  find("now").textContent = text;
  find("now").className = flagged(state.place) ? "flag" : "";
  const plot = find("curve").dataset;
  find("cursor").style.left = `${(100 * (z - plot.low)) / (plot.high - plot.low)}%`;
  find("curve").setAttribute("aria-valuenow", z);
  find("curve").setAttribute("aria-valuetext", text);
  find("place").value = state.place;
  find("place").setAttribute("aria-valuetext", text);
}

function go(place) {
  state.place = hold(place, 0, data.slices.length - 1);
  for (const pane of [panes.coronal, panes.sagittal]) pane.follow(crossIn(pane));
  say();
  arrange();
  draw();
}

function goToHeight(z) {
  const distances = data.slices.map((slice) => Math.abs(slice[1] - z));
  go(distances.indexOf(Math.min(...distances)));
}

function goToNextFlagged() {
  const count = data.slices.length;
  for (let i = 1; i <= count; i++) {
    const place = (state.place + i) % count;
    if (flagged(place)) return go(place);
  }
}

function goToSlice(slice) {
  go(data.slices.findIndex((shown) => shown[0] === slice));
}

function goToLesion(index) {
  const lesion = data.lesions[index];
  if (!lesion) return;
  state.lesion = index;
  [state.x, state.y] = lesion.at;
  for (const button of document.querySelectorAll("[data-lesion]")) {
    button.setAttribute("aria-current", Number(button.dataset.lesion) === index);
  }
  goToSlice(lesion.key_slice);
  panes.axial.follow(crossIn(panes.axial));
  arrange();
}

// The cross of a picture to a point in it; a ruler that is being drawn by keys follows.
function moveCross(pane, [u, v]) {
  const to = { [pane.u]: hold(u, 0, 1), [pane.v]: hold(v, 0, 1) };
  if ("place" in to) to.place = placeAt(to.place);
  Object.assign(state, to);
  if (pane.ruler?.open) measure(pane, crossIn(pane));
  for (const each of Object.values(panes)) each.follow(crossIn(each));
  go(state.place);
}

// Moves a picture's own plane by some steps.
function travel(pane, steps) {
  if (pane.through === "place") return go(state.place + steps);
  const one = 1 / (pane.through === "y" ? volume.height : volume.width);
  state[pane.through] = hold(state[pane.through] - steps * one, 0, 1);
  go(state.place);
}

function measure(pane, to) {
  pane.ruler.to = to;
  find("measured").textContent = `${pane.id}: ${pane.length(pane.ruler).toFixed(1)} mm`;
  arrange();
}

function removeRulers() {
  for (const pane of Object.values(panes)) delete pane.ruler;
  find("measured").textContent = "";
  arrange();
}

function setWindow(middle, wide) {
  const half = hold(wide, 1, 2524) / 2;
  const at = hold(middle, -1024, 1500);
  state.window = [at - half, at + half];
  find("level").value = Math.round(at);
  find("width").value = Math.round(2 * half);
  for (const button of document.querySelectorAll("[data-window]")) {
    button.setAttribute("aria-pressed", button.dataset.window === state.window.join());
  }
  if (volume.values) draw();
}

function takeTool(tool) {
  state.tool = tool;
  for (const button of document.querySelectorAll("[data-tool]")) {
    button.setAttribute("aria-pressed", button.dataset.tool === tool);
  }
}

// The first time the tool, then a ruler between two places of the cross.
function rulerByKey(pane) {
  if (state.tool !== "ruler") return takeTool("ruler");
  if (pane.ruler?.open) pane.ruler.open = false;
  else {
    pane.ruler = { from: crossIn(pane), at: state[pane.through], open: true };
    measure(pane, crossIn(pane));
  }
}

function zoom(factor, pane) {
  pane.zoomBy(factor, crossIn(pane));
  arrange();
}

function showWhole() {
  for (const pane of Object.values(panes)) pane.whole();
  arrange();
}

const onClick = (selector, act) => {
  for (const button of document.querySelectorAll(selector)) button.addEventListener("click", () => act(button.dataset));
};

function listen() {
  find("place").addEventListener("input", (event) => go(Number(event.target.value)));
  onClick("#up", () => go(state.place + 1));
  onClick("#down", () => go(state.place - 1));
  onClick("#next", goToNextFlagged);
  onClick("#zoom-in", () => zoom(1.25, panes.axial));
  onClick("#zoom-out", () => zoom(0.8, panes.axial));
  onClick("#reset", showWhole);
  onClick("#help-open", () => find("help").showModal());
  onClick("[data-tool]", ({ tool }) => takeTool(tool));
  onClick("[data-keep]", (chosen) => keep(chosen.keep));
  onClick("[data-lesion]", ({ lesion }) => goToLesion(Number(lesion)));
  onClick("[data-slice]", ({ slice }) => (goToSlice(Number(slice)), find("viewer").scrollIntoView({ block: "nearest" })));
  onClick("[data-window]", (chosen) => {
    const [low, high] = chosen.window.split(",").map(Number);
    setWindow((low + high) / 2, high - low);
  });
  for (const id of ["show-prob", "show-regions", "show-lesions", "opacity"]) {
    find(id)?.addEventListener("input", () => (arrange(), draw()));
  }
  for (const id of ["level", "width"]) {
    find(id).addEventListener("change", () => setWindow(Number(find("level").value), Number(find("width").value)));
  }
  const plot = find("curve").dataset;
  onDrag(find("curve"), (x) => goToHeight(Number(plot.low) + x * (plot.high - plot.low)));
  Object.values(panes).forEach(listenTo);
  document.addEventListener("keydown", onKey);
  new ResizeObserver(arrange).observe(find("viewer"));
}

// Where the cross is at first: in a lesion of that slice, else where its score comes from, else in the liver.
function startingPoint(place) {
  const lesion = data.lesions.find((each) => each.key_slice === data.slices[place][0]);
  if (lesion) return lesion.at;
  for (const layer of [flagged(place) && data.layers.regions, data.layers.prob]) {
    const map = layer && layerPlane(layer, "axial", { place });
    if (map && map.values.some(Boolean)) return hottest(map);
  }
  return [0.5, 0.5];
}

async function start() {
  await inflateLayers();
  const order = data.slices.map((slice, place) => [slice[2] ?? -1, place]);
  const first = order.reduce((best, one) => (one[0] > best[0] ? one : best))[1];
  listen();
  setWindow(70, 260);
  [state.x, state.y] = startingPoint(first);
  go(first);
  await decode(first);
  await decodeAll(first, drawAcross);
  document.body.dataset.whole = "";
}

start().catch((error) => {
  find("now").textContent = `The slices cannot be shown (${error.message}). A browser of 2023 or later can.`;
});

"use strict";
// Draws the CT's slices with their overlays, and moves through them. All data lies in the page itself.

const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
const state = { place: 0, window: [-60, 200] };
const grays = new Map(); // decoded slices
const LIVER = [53, 201, 193];
const LINES = [[26, 0.6], [128, 1.4], [230, 0.6]]; // Prob-Mask 0.1, 0.5 and 0.9, and how strong

const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

async function inflate(text) {
  const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function context(width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  return canvas.getContext("2d", { willReadFrequently: true });
}

async function decode(jpeg) {
  const image = new Image();
  image.src = "data:image/jpeg;base64," + jpeg;
  await image.decode();
  const scratch = context(image.width, image.height);
  scratch.drawImage(image, 0, 0);
  const rgba = scratch.getImageData(0, 0, image.width, image.height).data;
  const values = new Uint8Array(image.width * image.height);
  for (let i = 0; i < values.length; i++) values[i] = rgba[4 * i];
  return { values, width: image.width, height: image.height };
}

// A canvas of gray values, each value passed through a table.
function paint({ values, width, height }, table) {
  const target = context(width, height);
  const pixels = new ImageData(width, height);
  const words = new Uint32Array(pixels.data.buffer); // A B G R
  for (let i = 0; i < values.length; i++) {
    const gray = table ? table[values[i]] : values[i];
    words[i] = 0xff000000 | (gray << 16) | (gray << 8) | gray;
  }
  target.putImageData(pixels, 0, 0);
  return target.canvas;
}

function windowTable([low, high]) {
  const [first, last] = data.window;
  return Uint8ClampedArray.from({ length: 256 }, (_, i) => ((first + (i / 255) * (last - first) - low) / (high - low)) * 255);
}

// A map's values, 0 to 255, at every pixel of a canvas of this size.
function spread(map, [left, top, width, height], columns, rows) {
  const target = context(columns, rows);
  target.drawImage(paint(map), left * columns, top * rows, width * columns, height * rows);
  return target.getImageData(0, 0, columns, rows).data;
}

function blend(pixels, i, [red, green, blue], alpha) {
  pixels[i] += (red - pixels[i]) * alpha;
  pixels[i + 1] += (green - pixels[i + 1]) * alpha;
  pixels[i + 2] += (blue - pixels[i + 2]) * alpha;
}

function drawProb(pixels, field, columns, opacity) {
  for (let i = 0; i < field.length; i += 4) {
    const value = field[i];
    if (!value) continue;
    blend(pixels, i, LIVER, opacity * 0.2 * (value / 255));
    const lowest = Math.min(field[i - 4] ?? 255, field[i + 4] ?? 255, field[i - 4 * columns] ?? 255, field[i + 4 * columns] ?? 255);
    for (const [level, strength] of LINES) {
      if (value >= level && lowest < level) blend(pixels, i, LIVER, Math.min(1, opacity * strength));
    }
  }
}

function drawRegions(pixels, field, opacity) {
  for (let i = 0; i < field.length; i += 4) {
    const share = field[i] / 255;
    if (share < 0.02) continue;
    const color = share < 0.5 ? [255, 210 - 250 * share, 63 - 70 * share] : [255 - 120 * (share - 0.5), 85 - 170 * (share - 0.5), 28];
    blend(pixels, i, color, opacity * Math.min(0.85, 0.15 + share));
  }
}

// The layer's map for a place in the list of slices, if it has one.
function mapAt(name, place) {
  const layer = data.layers[name];
  const index = layer ? layer.slices.indexOf(place) : -1;
  if (index < 0) return null;
  const [, height, width] = layer.shape;
  const start = layer.start + index * width * height;
  return { values: data.bytes.subarray(start, start + width * height), width, height };
}

function compose(canvas, gray, overlays) {
  const target = canvas.getContext("2d", { willReadFrequently: true });
  target.imageSmoothingQuality = "high";
  target.drawImage(paint(gray, windowTable(state.window)), 0, 0, canvas.width, canvas.height);
  const opacity = find("opacity").value / 100;
  const image = target.getImageData(0, 0, canvas.width, canvas.height);
  for (const { map, place, draw } of overlays) {
    if (map && opacity) draw(image.data, spread(map, place, canvas.width, canvas.height), opacity);
  }
  target.putImageData(image, 0, 0);
}

async function draw() {
  const place = state.place;
  if (!grays.has(place)) grays.set(place, await decode(data.ct[place]));
  if (place !== state.place) return; // moved on meanwhile
  const overlays = [];
  if (find("show-prob").checked) {
    const width = find("slice").width;
    const outline = (pixels, field, opacity) => drawProb(pixels, field, width, opacity);
    overlays.push({ map: mapAt("prob", place), place: data.layers.prob.place, draw: outline });
  }
  if (find("show-regions").checked) {
    overlays.push({ map: mapAt("regions", place), place: data.layers.regions.place, draw: drawRegions });
  }
  compose(find("slice"), grays.get(place), overlays);
  find("slice").dataset.drawn = place;
}

function drawScout() {
  const [height, width] = data.coronal.shape;
  const map = { values: data.coronal.bytes, width, height };
  const outline = (pixels, field, opacity) => drawProb(pixels, field, find("scout").width, opacity);
  compose(find("scout"), data.coronal.gray, find("show-prob").checked ? [{ map, place: [0, 0, 1, 1], draw: outline }] : []);
}

function say() {
  const [slice, z, probability] = data.slices[state.place];
  const flagged = probability !== null && probability >= data.threshold;
  const verdict = probability === null ? "not considered" : `tumour probability ${probability.toFixed(2)}`;
  const text = `slice ${slice}, z ${z.toFixed(1).replace("-", "\u2212")} mm, ${verdict}`;
  find("now").textContent = flagged ? text + ", flagged" : text;
  find("now").className = flagged ? "flag" : "";
  const plot = find("curve").dataset;
  find("cursor").style.left = `${(100 * (z - plot.low)) / (plot.high - plot.low)}%`;
  find("curve").setAttribute("aria-valuenow", z);
  find("curve").setAttribute("aria-valuetext", text);
  find("place").value = state.place;
  find("place").setAttribute("aria-valuetext", text);
  const [upper, lower] = data.coronal.z_mm;
  find("height").style.top = `${(100 * (upper - z)) / (upper - lower)}%`;
}

function go(place) {
  state.place = Math.max(0, Math.min(data.slices.length - 1, place));
  say();
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
    if (data.slices[place][2] !== null && data.slices[place][2] >= data.threshold) return go(place);
  }
}

// Press or drag on an element: where, as a share of its width and height.
function onDrag(element, move) {
  const report = (event) => {
    const box = element.getBoundingClientRect();
    move((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  };
  element.addEventListener("pointerdown", (event) => {
    element.setPointerCapture(event.pointerId);
    report(event);
  });
  element.addEventListener("pointermove", (event) => event.buttons && report(event));
}

function onKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target === find("opacity")) return;
  const atPictures = event.target.closest("#axial, #curve, #place") || find("axial").matches(":hover");
  const steps = { ArrowRight: 1, ArrowLeft: -1 };
  if (atPictures) Object.assign(steps, { ArrowUp: 1, ArrowDown: -1, PageUp: 10, PageDown: -10, Home: -1e6, End: 1e6 });
  const boxes = { m: "show-prob", r: "show-regions" };
  if (event.key in steps) go(state.place + steps[event.key]);
  else if (event.key.toLowerCase() in boxes) find(boxes[event.key.toLowerCase()]).click();
  else if (event.key.toLowerCase() === "f") goToNextFlagged();
  else return;
  event.preventDefault();
}

function listen() {
  find("place").addEventListener("input", (event) => go(Number(event.target.value)));
  find("up").addEventListener("click", () => go(state.place + 1));
  find("down").addEventListener("click", () => go(state.place - 1));
  find("next").addEventListener("click", goToNextFlagged);
  for (const id of ["show-prob", "show-regions", "opacity"]) {
    find(id).addEventListener("input", () => (draw(), drawScout()));
  }
  for (const button of document.querySelectorAll("[data-window]")) {
    button.addEventListener("click", () => {
      for (const other of document.querySelectorAll("[data-window]")) other.setAttribute("aria-pressed", other === button);
      state.window = button.dataset.window.split(",").map(Number);
      draw();
      drawScout();
    });
  }
  for (const button of document.querySelectorAll("[data-slice]")) {
    button.addEventListener("click", () => {
      go(data.slices.findIndex((slice) => slice[0] === Number(button.dataset.slice)));
      find("viewer").scrollIntoView({ block: "nearest" });
    });
  }
  let turned = 0; // of the wheel: a notch is one slice, trackpads send many small steps
  find("axial").addEventListener("wheel", (event) => {
    event.preventDefault();
    turned += event.deltaMode ? event.deltaY * 50 : event.deltaY;
    if (Math.abs(turned) < 50) return;
    go(state.place - Math.sign(turned));
    turned = 0;
  }, { passive: false });
  const plot = find("curve").dataset;
  onDrag(find("curve"), (x) => goToHeight(Number(plot.low) + x * (plot.high - plot.low)));
  const [upper, lower] = data.coronal.z_mm;
  onDrag(find("coronal"), (_, y) => goToHeight(upper + y * (lower - upper)));
  document.addEventListener("keydown", onKey);
}

// As many pixels as a large screen shows, in the CT's own proportions.
function size(canvas, [width, height], pixels) {
  canvas.width = pixels;
  canvas.height = Math.round((pixels * height) / width);
}

async function start() {
  data.bytes = await inflate(data.maps);
  let offset = 0;
  for (const layer of Object.values(data.layers)) {
    layer.start = offset;
    offset += layer.shape.reduce((a, b) => a * b);
  }
  data.coronal.bytes = await inflate(data.coronal.prob);
  data.coronal.gray = await decode(data.coronal.ct);
  size(find("slice"), data.size_mm, 900);
  size(find("scout"), data.coronal.size_mm, 450);
  find("ruler").style.width = `${(100 * 50) / data.size_mm[0]}%`;
  const order = data.slices.map((slice, place) => [slice[2] ?? -1, place]);
  listen();
  go(order.reduce((best, one) => (one[0] > best[0] ? one : best))[1]);
  drawScout();
}

start().catch((error) => {
  find("now").textContent = `The slices cannot be shown (${error.message}). A browser of 2023 or later can.`;
});

"use strict";
// The CT's slices, decoded one after the other into one volume of gray levels. All data lies in the page itself.

const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
const volume = { width: 0, height: 0, values: null, there: [] }; // slice after slice, feet to head

function bytes(text) {
  const raw = atob(text), found = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) found[i] = raw.charCodeAt(i);
  return found;
}

async function inflate(text) {
  const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function context(width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  return canvas.getContext("2d", { willReadFrequently: true });
}

async function decode(place) {
  if (volume.there[place]) return;
  const image = await createImageBitmap(new Blob([bytes(data.ct[place])]), { colorSpaceConversion: "none" });
  const { width, height } = image;
  if (!volume.values) Object.assign(volume, { width, height, values: new Uint8Array(width * height * data.ct.length) });
  const scratch = context(width, height);
  scratch.drawImage(image, 0, 0);
  image.close();
  const rgba = scratch.getImageData(0, 0, width, height).data;
  const start = place * width * height;
  for (let i = 0; i < width * height; i++) volume.values[start + i] = rgba[4 * i];
  volume.there[place] = true;
}

// All others, from a place outwards, some at a time; calls step after each few.
async function decodeAll(first, step) {
  const places = data.ct.map((_, place) => place).sort((a, b) => Math.abs(a - first) - Math.abs(b - first));
  for (let i = 0; i < places.length; i += 8) {
    await Promise.all(places.slice(i, i + 8).map(decode));
    if (i % 64 === 0) step();
    await new Promise((done) => setTimeout(done)); // keys and mouse come first
  }
  step();
}

async function inflateLayers() {
  const all = await inflate(data.maps);
  for (const layer of Object.values(data.layers)) {
    const [count, height, width] = layer.shape;
    layer.values = all.subarray(layer.start, layer.start + count * height * width);
    layer.index = data.ct.map((_, place) => layer.slices.indexOf(place));
  }
}

// HU of a gray level.
function toHU(gray) {
  const { hu, gray: level } = data.knots;
  let i = 1;
  while (i < level.length - 1 && gray > level[i]) i++;
  return hu[i - 1] + ((gray - level[i - 1]) / (level[i] - level[i - 1])) * (hu[i] - hu[i - 1]);
}

const HU = Float32Array.from({ length: 256 }, (_, gray) => toHU(gray));

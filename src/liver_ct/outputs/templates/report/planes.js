// Planes through the volume and its layers, and how they are drawn.

const LIVER = [53, 201, 193];
const LESION = [255, 255, 255];
const LINES = [[26, 0.6], [128, 1.4], [230, 0.6]]; // Prob-Mask 0.1, 0.5 and 0.9, and how strong
const TINT = 0.08; // of the liver within them: a lesion must be seen through it
const WHOLE = [0, 0, 1, 1];

// For each slice of the CT, head first, the shown slices below and above it, and how far it lies between them.
const between = Array.from({ length: data.count }, (_, row) => {
  const slice = data.count - 1 - row;
  let above = data.shown.findIndex((shown) => shown >= slice);
  if (above < 0) above = data.shown.length - 1;
  const below = data.shown[above] > slice ? Math.max(0, above - 1) : above;
  const gap = data.shown[above] - data.shown[below];
  return [below, above, gap ? Math.min(1, (slice - data.shown[below]) / gap) : 0];
});

// Where a slice lies in the coronal and sagittal, as a share from the head, and back.
const heightOf = (place) => (data.count - data.shown[place] - 0.5) / data.count;
function placeAt(share) {
  const slice = data.count - 1 - Math.min(data.count - 1, Math.max(0, Math.floor(share * data.count)));
  const distances = data.shown.map((shown) => Math.abs(shown - slice));
  return distances.indexOf(Math.min(...distances));
}

const clampIndex = (share, count) => Math.min(count - 1, Math.max(0, Math.floor(share * count)));

// A line of voxels of one slice: its row (coronal) or its column (sagittal).
const LINE = {
  coronal: (width, height) => ({ length: width, first: (row) => row * width, step: 1 }),
  sagittal: (width, height) => ({ length: height, first: (column) => column, step: width }),
};

function grayPlane(name, state) {
  const { width, height, values } = volume;
  const size = width * height;
  if (name === "axial") return { values: values.subarray(state.place * size, (state.place + 1) * size), width, height };
  const { length, first, step } = LINE[name](width, height);
  const start = first(name === "coronal" ? clampIndex(state.y, height) : clampIndex(state.x, width));
  const plane = new Uint8Array(length * between.length);
  between.forEach(([below, above, share], row) => {
    const low = below * size + start, high = above * size + start;
    for (let i = 0; i < length; i++) {
      const value = values[low + i * step];
      plane[row * length + i] = value + share * (values[high + i * step] - value);
    }
  });
  return { values: plane, width: length, height: between.length };
}

// The layer's map in a plane and its place there, if it has one.
function layerPlane(layer, name, state) {
  const [, height, width] = layer.shape;
  const size = width * height;
  const [left, top, across, down] = layer.place;
  if (name === "axial") {
    const index = layer.index[state.place];
    return index < 0 ? null : { values: layer.values.subarray(index * size, (index + 1) * size), width, height, place: layer.place };
  }
  const { length, first, step } = LINE[name](width, height);
  const at = name === "coronal" ? Math.floor(((state.y - top) / down) * height) : Math.floor(((state.x - left) / across) * width);
  if (at < 0 || at >= (name === "coronal" ? height : width)) return null;
  const start = first(at);
  const plane = new Uint8Array(length * between.length);
  between.forEach(([below, above, share], row) => {
    const index = layer.index[share < 0.5 ? below : above];
    if (index < 0) return;
    for (let i = 0; i < length; i++) plane[row * length + i] = layer.values[index * size + start + i * step];
  });
  return { values: plane, width: length, height: between.length, place: name === "coronal" ? [left, 0, across, 1] : [top, 0, down, 1] };
}

// The middle of where a map is highest, as shares of the picture.
function hottest({ values, width, height, place: [left, top, across, down] }) {
  const highest = values.reduce((a, b) => Math.max(a, b));
  let x = 0, y = 0, count = 0;
  values.forEach((value, i) => {
    if (value < 0.95 * highest) return;
    x += (i % width) + 0.5;
    y += Math.floor(i / width) + 0.5;
    count++;
  });
  return [left + (across * x) / count / width, top + (down * y) / count / height];
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

const windowTable = ([low, high]) => Uint8ClampedArray.from(HU, (hu) => ((hu - low) / (high - low)) * 255);

// A map's values, 0 to 255, at every pixel of a canvas of this size.
function spread(map, columns, rows) {
  const [left, top, width, height] = map.place;
  const target = context(columns, rows);
  target.drawImage(paint(map), left * columns, top * rows, width * columns, height * rows);
  return target.getImageData(0, 0, columns, rows).data;
}

function blend(pixels, i, [red, green, blue], alpha) {
  pixels[i] += (red - pixels[i]) * alpha;
  pixels[i + 1] += (green - pixels[i + 1]) * alpha;
  pixels[i + 2] += (blue - pixels[i + 2]) * alpha;
}

const lowestAround = (field, i, row) =>
  Math.min(field[i - 4] ?? 255, field[i + 4] ?? 255, field[i - row] ?? 255, field[i + row] ?? 255);

function drawProb(pixels, field, columns, opacity) {
  for (let i = 0; i < field.length; i += 4) {
    const value = field[i];
    if (!value) continue;
    blend(pixels, i, LIVER, opacity * TINT * (value / 255));
    const lowest = lowestAround(field, i, 4 * columns);
    for (const [level, strength] of LINES) {
      if (value >= level && lowest < level) blend(pixels, i, LIVER, Math.min(1, opacity * strength));
    }
  }
}

// A white outline, dark on its outside, which is seen on any gray and by any eye.
function drawLesions(pixels, field, columns, opacity) {
  for (let i = 0; i < field.length; i += 4) {
    if (!field[i]) continue;
    const inside = field[i] >= 128;
    const edge = inside ? lowestAround(field, i, 4 * columns) < 128 : true;
    if (edge) blend(pixels, i, inside ? LESION : [0, 0, 0], Math.min(1, opacity * (inside ? 1.4 : 0.7)));
  }
}

// The stronger, the brighter, so that hue alone tells nothing.
function drawRegions(pixels, field, columns, opacity) {
  for (let i = 0; i < field.length; i += 4) {
    const share = field[i] / 255;
    if (share >= 0.02) blend(pixels, i, [255, 96 + 110 * share, 30 + 20 * share], opacity * Math.min(0.55, 0.1 + 0.6 * share));
  }
}

function compose(canvas, gray, overlays, opacity, hounsfield) {
  const target = canvas.getContext("2d", { willReadFrequently: true });
  target.imageSmoothingQuality = "high";
  target.drawImage(paint(gray, windowTable(hounsfield)), 0, 0, canvas.width, canvas.height);
  if (!opacity || !overlays.length) return;
  const image = target.getImageData(0, 0, canvas.width, canvas.height);
  for (const [map, overlay] of overlays) overlay(image.data, spread(map, canvas.width, canvas.height), canvas.width, opacity);
  target.putImageData(image, 0, 0);
}

// A picture on the screen: zoom, pan, the cross, a ruler, and where in it something is.

const SVG = "http://www.w3.org/2000/svg";

// The cross is open in the middle, so that what it points at is seen: a line up to there, a gap, the rest.
const GAP = 12; // px to either side
const openAt = (middle) => `${Math.max(0, middle - GAP)} ${GAP + Math.min(GAP, Math.max(0, middle))} 99999`;

class Pane {
  // u and v: which coordinate of the state lies across and down; through: which one the wheel moves.
  constructor(id, canvas, [u, v, through], [width_mm, height_mm], pixels) {
    Object.assign(this, { id, u, v, through, width_mm, height_mm });
    this.element = find(id);
    this.canvas = find(canvas);
    this.bar = this.element.querySelector(".bar5");
    this.canvas.width = Math.round(width_mm >= height_mm ? pixels : (pixels * width_mm) / height_mm);
    this.canvas.height = Math.round((this.canvas.width * height_mm) / width_mm);
    this.svg = this.element.querySelector("svg");
    this.parts = {};
    for (const [name, tag] of Object.entries({ across: "line", down: "line", halo: "line", ruler: "line", length: "text", number: "g" })) {
      this.parts[name] = document.createElementNS(SVG, tag);
      this.parts[name].setAttribute("class", name);
      this.svg.append(this.parts[name]);
    }
    this.whole();
  }

  whole() {
    this.view = { zoom: 1, u: 0.5, v: 0.5 };
  }

  // Left, top, width and height of the whole picture within the element, px.
  rect() {
    const { clientWidth: wide, clientHeight: high } = this.element;
    const scale = Math.min(wide / this.width_mm, high / this.height_mm) * this.view.zoom;
    const width = this.width_mm * scale, height = this.height_mm * scale;
    return { left: wide / 2 - this.view.u * width, top: high / 2 - this.view.v * height, width, height, scale };
  }

  toShare(event) {
    const box = this.element.getBoundingClientRect(), { left, top, width, height } = this.rect();
    return [(event.clientX - box.left - left) / width, (event.clientY - box.top - top) / height];
  }

  zoomBy(factor, [u, v]) {
    const zoom = Math.min(16, Math.max(1, this.view.zoom * factor)), kept = this.view.zoom / zoom;
    this.view = { zoom, u: u + (this.view.u - u) * kept, v: v + (this.view.v - v) * kept };
    this.clamp();
  }

  pan(dx, dy) {
    const { width, height } = this.rect();
    Object.assign(this.view, { u: this.view.u - dx / width, v: this.view.v - dy / height });
    this.clamp();
  }

  // The picture stays in the middle where it is smaller than the element, else it covers it.
  clamp() {
    const { width, height } = this.rect();
    const hold = (at, half) => (half >= 0.5 ? 0.5 : Math.min(1 - half, Math.max(half, at)));
    this.view.u = hold(this.view.u, this.element.clientWidth / width / 2);
    this.view.v = hold(this.view.v, this.element.clientHeight / height / 2);
  }

  // Moves the view where the cross would be outside of it.
  follow([u, v]) {
    const { left, top, width, height } = this.rect();
    const x = left + u * width, y = top + v * height;
    if (x < 0 || x > this.element.clientWidth) this.view.u = u;
    if (y < 0 || y > this.element.clientHeight) this.view.v = v;
    this.clamp();
  }

  set(name, values) {
    for (const [key, value] of Object.entries(values)) this.parts[name].setAttribute(key, value);
  }

  // Puts canvas, cross, ruler and scale where they belong.
  arrange(cross, ruler, labels) {
    const { left, top, width, height, scale } = this.rect();
    Object.assign(this.canvas.style, { left: `${left}px`, top: `${top}px`, width: `${width}px`, height: `${height}px` });
    const point = ([u, v]) => [left + u * width, top + v * height];
    const [x, y] = point(cross);
    this.set("across", { x1: 0, x2: this.element.clientWidth, y1: y, y2: y, "stroke-dasharray": openAt(x) });
    this.set("down", { x1: x, x2: x, y1: 0, y2: this.element.clientHeight, "stroke-dasharray": openAt(y) });
    const shown = ruler && Math.abs(ruler.at - ruler.now) < 1e-9;
    const [[x1, y1], [x2, y2]] = shown ? [point(ruler.from), point(ruler.to)] : [[-9, -9], [-9, -9]];
    for (const name of ["halo", "ruler"]) this.set(name, { x1, y1, x2, y2 });
    this.set("length", { x: Math.max(x1, x2) + 6, y: (y1 + y2) / 2 - 6 });
    this.parts.length.textContent = shown ? `${this.length(ruler).toFixed(1)} mm` : "";
    this.parts.number.replaceChildren(...labels.map(([text, at]) => this.label(text, point(at))));
    const mm = 50 * scale <= this.element.clientWidth * 0.45 ? 50 : 10;
    this.bar.style.width = `${mm * scale}px`;
    const onPaper = { "--bar": (100 * mm) / this.width_mm, "--u": 100 * cross[0], "--v": 100 * cross[1] }; // %, of the whole
    for (const [name, percent] of Object.entries(onPaper)) this.element.style.setProperty(name, `${percent}%`);
    this.bar.lastElementChild.textContent = `${mm / 10} cm`;
  }

  label(text, [x, y]) {
    const label = document.createElementNS(SVG, "text");
    label.setAttribute("x", x + 4);
    label.setAttribute("y", y);
    label.textContent = text;
    return label;
  }

  // Of a ruler, in mm: pixels need not be square.
  length({ from, to }) {
    return Math.hypot((to[0] - from[0]) * this.width_mm, (to[1] - from[1]) * this.height_mm);
  }
}

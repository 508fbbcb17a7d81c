// Mouse, fingers and wheel in the pictures.

// Press or drag on an element: where, as a share of its width.
function onDrag(element, move) {
  const report = (event) => {
    const box = element.getBoundingClientRect();
    move((event.clientX - box.left) / box.width);
  };
  element.addEventListener("pointerdown", (event) => {
    element.setPointerCapture(event.pointerId);
    report(event);
  });
  element.addEventListener("pointermove", (event) => event.buttons && report(event));
}

const TOOLS = {
  point: (pane, event) => moveCross(pane, pane.toShare(event)),
  window: (_, event, dx, dy) => setWindow(level() + dy, width() + 2 * dx),
  pan: (pane, event, dx, dy) => (pane.pan(dx, dy), arrange()),
  ruler: (pane, event, dx, dy, first) => {
    if (first) pane.ruler = { from: pane.toShare(event), at: state[pane.through] };
    measure(pane, pane.toShare(event));
  },
};

const toolOf = (event) => ({ 0: state.tool, 1: "pan", 2: "window" })[event.button] ?? "point";

function listenTo(pane) {
  const fingers = new Map();
  let tool = null, turned = 0;
  pane.element.addEventListener("contextmenu", (event) => event.preventDefault());
  pane.element.addEventListener("pointerdown", (event) => {
    if (event.button === 1) event.preventDefault(); // no scrolling
    pane.element.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    tool = fingers.size > 1 ? null : toolOf(event);
    if (tool) TOOLS[tool](pane, event, 0, 0, true);
  });
  pane.element.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId)) return;
    const [x, y] = fingers.get(event.pointerId);
    const before = fingers.size === 2 ? apart(fingers) : 0;
    fingers.set(event.pointerId, [event.clientX, event.clientY]);
    const dx = event.clientX - x, dy = event.clientY - y;
    if (fingers.size === 2) {
      pane.zoomBy(apart(fingers) / before, pane.toShare(event));
      pane.pan(dx / 2, dy / 2);
      arrange();
    } else if (tool) TOOLS[tool](pane, event, dx, dy, false);
  });
  for (const end of ["pointerup", "pointercancel"]) {
    pane.element.addEventListener(end, (event) => fingers.delete(event.pointerId));
  }
  pane.element.addEventListener("wheel", (event) => {
    event.preventDefault();
    const by = event.deltaMode ? event.deltaY * 50 : event.deltaY;
    if (event.ctrlKey) {
      pane.zoomBy(Math.exp(-by / 400), pane.toShare(event));
      return arrange();
    }
    turned += by; // a notch is one slice, trackpads send many small steps
    if (Math.abs(turned) < 50) return;
    travel(pane, -Math.sign(turned));
    turned = 0;
  }, { passive: false });
}

function apart(fingers) {
  const [[ax, ay], [bx, by]] = fingers.values();
  return Math.max(1, Math.hypot(ax - bx, ay - by));
}

// The points of the Drag node, clicked on the picture that is connected to it. They live in its text input, a line
// "x,y -> x,y" each, in px of the picture, so that workflows are the same with and without this widget.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const SVG = "http://www.w3.org/2000/svg";
const NUMBER = "\\s*(-?[\\d.]+)\\s*";
const LINE = new RegExp(`^${NUMBER},${NUMBER}->${NUMBER},${NUMBER}$`);
const HINT = "Click what to move, then where to. Right-click takes a point off.";
const HIGHEST = 400; // of the picture in the node, in px of the canvas
const BELOW = 20; // for the words under it
const EMPTY = "Connect a Load Image to click points on its picture, or type them above.";

export function pairsOf(text) {
  return text.split(/[\n;]/).map((line) => LINE.exec(line)).filter(Boolean).map((match) => match.slice(1).map(Number));
}

export function textOf(pairs) {
  return pairs.map(([x, y, toX, toY]) => `${x},${y} -> ${toX},${toY}`).join("\n");
}

// The place of pairs that lies nearest to a point by either of its ends, -1 for none.
export function nearestPair(pairs, x, y) {
  const apart = pairs.map(([a, b, c, d]) => Math.min(Math.hypot(a - x, b - y), Math.hypot(c - x, d - y)));
  return apart.indexOf(Math.min(...apart));
}

function sourceOf(node) {
  let at = node;
  for (let name = "image", hops = 0; hops < 20; hops += 1, name = null) {
    const slot = name ? at.inputs?.findIndex((input) => input.name === name) : 0;
    const next = slot >= 0 ? at.getInputNode?.(slot) : null;
    if (!next) return null;
    if (next.type !== "Reroute") return next;
    at = next;
  }
  return null;
}

// The address of the picture that a node shows, null where it has shown none yet.
function addressOf(source) {
  if (source?.imgs?.length) return source.imgs[0].src;
  const file = source?.widgets?.find((widget) => widget.name === "image")?.value;
  if (typeof file !== "string" || !file) return null;
  const parts = file.replace(/ \[(input|output|temp)\]$/, "").split("/");
  const query = new URLSearchParams({ filename: parts.pop(), subfolder: parts.join("/"), type: "input" });
  return api.apiURL(`/view?${query}`);
}

function element(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent?.append(made);
  return made;
}

class PointWidget {
  constructor(node, text) {
    this.node = node;
    this.text = text;
    this.open = null; // a handle whose target is not clicked yet
    this.root = document.createElement("div");
    this.root.className = "odeon-drag-points";
    this.root.style.cssText = "width:100%;height:100%;display:flex;flex-direction:column;font:12px sans-serif;" +
                              "color:var(--input-text,#ccc)";
    this.drawing = element("svg", { style: "width:100%;display:none;flex:0 1 auto;min-height:0;cursor:crosshair;" +
                                           `touch-action:none;max-height:${HIGHEST}px` }, this.root);
    this.picture = element("image", {}, this.drawing);
    this.marks = element("g", {}, this.drawing);
    this.words = document.createElement("div");
    this.root.append(this.words);
    this.drawing.addEventListener("pointerdown", (event) => this.clicked(event));
    this.drawing.addEventListener("contextmenu", (event) => this.removed(event));
    this.root.addEventListener("pointerenter", () => this.refresh());
    this.refresh();
  }

  refresh() {
    const address = addressOf(sourceOf(this.node));
    this.words.textContent = address ? HINT : EMPTY;
    if (!address) this.drawing.style.display = "none";
    else if (address !== this.address) this.load(address);
    this.address = address;
    this.draw();
  }

  load(address) {
    const image = new Image();
    image.onload = () => {
      this.drawing.setAttribute("viewBox", `0 0 ${image.naturalWidth} ${image.naturalHeight}`);
      this.drawing.style.display = "block";
      this.drawing.style.aspectRatio = `${image.naturalWidth} / ${image.naturalHeight}`;
      for (const [key, value] of [["href", address], ["width", image.naturalWidth], ["height", image.naturalHeight]])
        this.picture.setAttribute(key, value);
      this.size = [image.naturalWidth, image.naturalHeight];
      this.draw();
      const [width, height] = this.node.size;
      this.node.setSize?.([width, Math.max(height, this.node.computeSize?.()[1] ?? 0)]); // it would hang out below
      this.node.setDirtyCanvas?.(true, true);
    };
    image.src = address;
  }

  // How much place the widget wants in a node of this width.
  height() {
    if (!this.size) return BELOW * 2;
    return Math.min((this.node.size[0] - 20) * this.size[1] / this.size[0], HIGHEST) + BELOW;
  }

  // Where on the picture an event is, in whole px; null beside it.
  placeOf(event) {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.drawing.getScreenCTM().inverse());
    const place = [Math.floor(at.x), Math.floor(at.y)];
    return place.every((value, i) => value >= 0 && value < this.size[i]) ? place : null;
  }

  clicked(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    event.stopPropagation();
    const place = this.placeOf(event);
    if (!place) return;
    if (this.open) {
      this.write([...pairsOf(this.text.value ?? ""), [...this.open, ...place]]);
      this.open = null;
    } else this.open = place;
    this.draw();
  }

  removed(event) {
    event.preventDefault();
    event.stopPropagation();
    const place = this.placeOf(event);
    if (this.open) this.open = null;
    else if (place) {
      const pairs = pairsOf(this.text.value ?? "");
      pairs.splice(nearestPair(pairs, ...place), pairs.length ? 1 : 0);
      this.write(pairs);
    }
    this.draw();
  }

  write(pairs) {
    this.text.value = textOf(pairs);
    this.text.callback?.(this.text.value);
    this.node.setDirtyCanvas?.(true, true);
  }

  draw() {
    this.marks.replaceChildren();
    if (!this.size) return;
    const r = Math.max(...this.size) / 60;
    const dot = (x, y, fill) => element("circle", { cx: x + 0.5, cy: y + 0.5, r, fill, stroke: "#fff",
                                                    "stroke-width": r / 3 }, this.marks);
    for (const [x, y, toX, toY] of pairsOf(this.text.value ?? "")) {
      element("line", { x1: x + 0.5, y1: y + 0.5, x2: toX + 0.5, y2: toY + 0.5, stroke: "#fff",
                        "stroke-width": r / 2 }, this.marks);
      dot(x, y, "#e33");
      dot(toX, toY, "#36f");
    }
    if (this.open) dot(...this.open, "#e33");
  }
}

// The first Vue nodes (ComfyUI 0.3.64) leave out widgets of packs: there the picture is hung into the node itself.
function hangIn(points) {
  if (points.root.isConnected || !window.LiteGraph?.vueNodesMode) return;
  document.querySelector(`[data-node-id="${points.node.id}"] .lg-node-widgets`)?.append(points.root);
  if (points.root.isConnected) points.refresh();
}

app.registerExtension({
  name: "Odeon.DragPoints",
  nodeCreated(node) {
    const text = node.comfyClass === "OdeonDrag" && node.widgets?.find((widget) => widget.name === "points");
    if (!text || !node.addDOMWidget) return;
    const points = new PointWidget(node, text);
    const widget = node.addDOMWidget("odeon_points", "odeon_points", points.root, {
      serialize: false, hideOnZoom: false, getMinHeight: () => points.height(), getValue: () => "",
      setValue: () => {} });
    widget.serialize = false;
    const hanging = setInterval(() => hangIn(points), 700);
    const removed = node.onRemoved;
    node.onRemoved = function (...args) {
      clearInterval(hanging);
      removed?.apply(this, args);
    };
    const connected = node.onConnectionsChange;
    node.onConnectionsChange = function (...args) {
      connected?.apply(this, args);
      points.refresh();
    };
    const changed = text.callback;
    text.callback = function (...args) {
      changed?.apply(this, args);
      points.draw();
    };
    const executed = node.onExecuted;
    node.onExecuted = function (...args) {
      executed?.apply(this, args);
      points.refresh();
    };
  },
});

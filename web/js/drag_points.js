// The points of the Drag node, clicked on the picture that is connected to it. They live in its text input, a line
// "x,y -> x,y" each, in px of the picture, so that workflows are the same with and without this widget.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const SVG = "http://www.w3.org/2000/svg";
const NUMBER = "\\s*(-?[\\d.]+)\\s*";
const LINE = new RegExp(`^${NUMBER},${NUMBER}->${NUMBER},${NUMBER}$`);
const HINT = "Click what to move, then where to. Right-click takes a point off.";
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
    this.root.style.cssText = "width:100%;min-height:60px;font:12px sans-serif;color:var(--input-text,#ccc)";
    this.drawing = element("svg", { style: "width:100%;display:none;cursor:crosshair;touch-action:none" }, this.root);
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
      for (const [key, value] of [["href", address], ["width", image.naturalWidth], ["height", image.naturalHeight]])
        this.picture.setAttribute(key, value);
      this.size = [image.naturalWidth, image.naturalHeight];
      this.draw();
    };
    image.src = address;
  }

  // Where on the picture an event is, in whole px.
  placeOf(event) {
    const box = this.drawing.getBoundingClientRect();
    const shares = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    return shares.map((share, i) => Math.min(Math.max(Math.floor(share * this.size[i]), 0), this.size[i] - 1));
  }

  clicked(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    event.stopPropagation();
    const place = this.placeOf(event);
    if (this.open) {
      this.write([...pairsOf(this.text.value ?? ""), [...this.open, ...place]]);
      this.open = null;
    } else this.open = place;
    this.draw();
  }

  removed(event) {
    event.preventDefault();
    event.stopPropagation();
    if (this.open) this.open = null;
    else {
      const pairs = pairsOf(this.text.value ?? "");
      pairs.splice(nearestPair(pairs, ...this.placeOf(event)), pairs.length ? 1 : 0);
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

app.registerExtension({
  name: "Odeon.DragPoints",
  nodeCreated(node) {
    const text = node.comfyClass === "OdeonDrag" && node.widgets?.find((widget) => widget.name === "points");
    if (!text || !node.addDOMWidget) return;
    const points = new PointWidget(node, text);
    const widget = node.addDOMWidget("odeon_points", "odeon-drag-points", points.root,
                                     { serialize: false, hideOnZoom: false, getMinHeight: () => 160 });
    widget.serialize = false;
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

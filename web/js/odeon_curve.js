// A live curve on every node of Odeon's that gives SIGMAS: the levels come from the node's own function on the server.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const SETTING = "Odeon.Curve";
const WIDTH = 200, HEIGHT = 44, PAD = 4;
const LOOK_MS = 300; // values are looked at, not waited for: widgets change by typing, undo, primitives and other packs
const classes = new Set();
const curves = new Map(); // node -> its curve

// The node that feeds an input, through reroutes; null where that is not one simple node.
function sourceOf(node, input) {
    const link = input.link == null ? null : node.graph?.getLink?.(input.link) ?? node.graph?.links?.[input.link];
    const origin = link ? node.graph.getNodeById(link.origin_id) : null;
    if (!origin || origin.mode === 2 || origin.mode === 4) return null;
    return origin.type === "Reroute" ? sourceOf(origin, origin.inputs[0]) : origin;
}

function widgetValues(node) {
    return Object.fromEntries((node.widgets ?? []).filter(w => w.serialize !== false && w.options?.serialize !== false)
        .map(w => [w.name, w.value]));
}

// All that decides which MODEL comes in, to tell whether it is still the one of the last run.
function wiring(node, depth = 0) {
    const feeds = depth > 16 ? [] : (node.inputs ?? []).filter(i => i.link != null && i.type === "MODEL")
        .map(i => { const from = sourceOf(node, i); return from ? wiring(from, depth + 1) : "?"; });
    return JSON.stringify([node.type, depth ? widgetValues(node) : "", feeds]);
}

// What the server needs to know of a node: its class, its values, and what feeds its sockets.
function describe(node, depth = 0) {
    const inputs = widgetValues(node);
    for (const input of node.inputs ?? []) {
        if (input.link == null) continue;
        const from = sourceOf(node, input);
        if (from && /^Primitive/.test(from.type)) inputs[input.name] = from.widgets?.[0]?.value;
        else if (from && input.type === "SIGMAS" && depth < 16) inputs[input.name] = describe(from, depth + 1);
        else inputs[input.name] = from ? { class: from.type, inputs: widgetValues(from) } : null;
    }
    const ran = curves.get(node)?.ran;
    return { id: String(node.id), class: node.comfyClass ?? node.type, inputs, ran: ran != null && ran === wiring(node) };
}

function draw(curve, levels) {
    const top = levels[0], logarithmic = top > 1.5, shown = logarithmic ? levels.filter(v => v > 0) : levels;
    const scale = v => logarithmic ? Math.log(v) : v;
    const low = scale(Math.min(...shown)), high = scale(Math.max(...shown)), last = Math.max(levels.length - 1, 1);
    const points = levels.map((v, i) => {
        const part = logarithmic && v <= 0 ? 0 : (scale(v) - low) / (high - low || 1);
        return [PAD + i / last * (WIDTH - 2 * PAD), HEIGHT - PAD - part * (HEIGHT - 2 * PAD)];
    });
    curve.line.setAttribute("points", points.map(p => p.map(c => c.toFixed(2)).join(",")).join(" "));
    const short = v => Number(v.toPrecision(3)).toString();
    curve.words.textContent = levels.length < 2 ? "no steps" : `${levels.length - 1} steps, sigma ${short(top)} to ` +
        short(levels.at(-1)) + (logarithmic ? " (log axis)" : "");
}

async function refresh(node, curve) {
    const spec = JSON.stringify(describe(node));
    if (spec === curve.spec) return;
    curve.spec = spec;
    let answer;
    try {
        const response = await api.fetchApi("/odeon/sigmas", {
            method: "POST", body: spec, headers: { "Content-Type": "application/json" } });
        answer = await response.json();
    } catch {
        if (curve.spec === spec) curve.spec = null; // asked again at the next look: the server was away
        return;
    }
    if (curve.spec !== spec) return; // the values went on changing
    const levels = answer.levels ?? [];
    if (levels.length) draw(curve, levels);
    else {
        curve.line.setAttribute("points", "");
        curve.words.textContent = answer.words ?? "no steps: the schedule is empty";
    }
    curve.element.dataset.levels = levels.length;
}

// The first Vue nodes (ComfyUI 0.3.64) leave out widgets of packs: there the curve is hung into the node itself.
function hangIn(node, curve) {
    if (curve.element.isConnected || !window.LiteGraph?.vueNodesMode) return;
    document.querySelector(`[data-node-id="${node.id}"] .lg-node-widgets`)?.append(curve.element);
}

function addCurve(node) {
    const element = document.createElement("div");
    element.className = "odeon-curve";
    element.style.cssText = "width:100%;min-height:60px;overflow:hidden;pointer-events:none";
    element.innerHTML = `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" preserveAspectRatio="none" style="display:block;width:100%;` +
        `height:${HEIGHT}px;background:rgba(127,127,127,.12);border-radius:4px"><polyline fill="none" stroke="#5b9bff" ` +
        `stroke-width="2" vector-effect="non-scaling-stroke"/></svg><div style="font:11px sans-serif;line-height:14px;` +
        `max-height:28px;color:var(--input-text,#aaa)"></div>`;
    const widget = node.addDOMWidget("odeon_curve", "odeon_curve", element, {
        serialize: false, hideOnZoom: true, getMinHeight: () => 62, getMaxHeight: () => 80, getValue: () => "",
        setValue: () => {} });
    widget.serialize = false; // saved workflows hold values by position: this is none
    const curve = { element, line: element.querySelector("polyline"), words: element.lastElementChild, spec: null,
                    ran: null };
    curves.set(node, curve);
    const removed = node.onRemoved;
    node.onRemoved = function (...args) {
        curves.delete(node);
        element.remove();
        return removed?.apply(this, args);
    };
}

app.registerExtension({
    name: "Odeon.Curve",
    settings: [{ id: SETTING, name: "Show the curve of a schedule on its node (takes effect on new nodes)",
                 type: "boolean", defaultValue: true, category: ["Odeon", "Schedules", "Curve"] }],
    beforeRegisterNodeDef(_type, data) {
        const found = Object.values(data.input?.required ?? {}).some(([type]) => type === "CONDITIONING"); // by a search
        const ours = data.name.startsWith("Odeon") && data.category?.startsWith("Odeon/schedules");
        if (ours && !found && data.output?.includes("SIGMAS")) classes.add(data.name);
    },
    nodeCreated(node) {
        if (classes.has(node.comfyClass) && app.extensionManager.setting.get(SETTING) !== false) addCurve(node);
    },
    setup() {
        let starting = new Map();
        api.addEventListener("execution_start", () => {
            starting = new Map([...curves.keys()].map(node => [node, wiring(node)]));
        });
        api.addEventListener("execution_success", () => {
            for (const [node, wires] of starting) if (curves.has(node)) curves.get(node).ran = wires;
        });
        setInterval(() => {
            for (const [node, curve] of document.hidden ? [] : curves) {
                if (!node.graph) continue;
                hangIn(node, curve);
                refresh(node, curve);
            }
        }, LOOK_MS);
    },
});

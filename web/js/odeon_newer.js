// Workflows saved by another version of Odeon: inputs renamed since then get their name of today, and what only a newer
// Odeon knows is named. The page itself lists missing nodes, but says nothing of an input it drops.
import { app } from "../../../scripts/app.js";

const known = {}; // node id -> names of its inputs
let renamed = {}; // node id -> {old name: name of today}, as host/renamed.py reads it
let strange = [];

const ours = (type) => typeof type === "string" && type.startsWith("Odeon");
const graphsOf = (data) => [data, ...(data.definitions?.subgraphs ?? [])];

function rename(node) {
    const sockets = node.inputs ?? [];
    for (const [before, now] of Object.entries(renamed[node.type] ?? {})) {
        const socket = sockets.find((one) => one.name === before);
        if (socket && !sockets.some((one) => one.name === now)) {
            socket.name = now;
            if (socket.widget) socket.widget.name = now;
        }
        const values = node.widgets_values;
        if (values && !Array.isArray(values) && before in values && !(now in values)) {
            values[now] = values[before];
            delete values[before];
        }
    }
}

function strangersOf(node) {
    if (!known[node.type]) return [`node ${node.id} (${node.type})`];
    const unknown = (node.inputs ?? []).filter((socket) => !known[node.type].has(socket.name));
    return unknown.map((socket) => `input '${socket.name}' of node ${node.id} (${node.type})`);
}

app.registerExtension({
    name: "Odeon.Newer",
    async init() {
        renamed = await (await fetch(new URL("../renamed.json", import.meta.url))).json();
    },
    beforeRegisterNodeDef(nodeType, nodeData) {
        if (!ours(nodeData.name)) return;
        const { required, optional } = nodeData.input ?? {};
        known[nodeData.name] = new Set([...Object.keys(required ?? {}), ...Object.keys(optional ?? {})]);
    },
    beforeConfigureGraph(data) {
        const nodes = graphsOf(data).flatMap((graph) => graph.nodes ?? []).filter((node) => ours(node.type));
        nodes.forEach(rename);
        strange = nodes.flatMap(strangersOf);
    },
    afterConfigureGraph() {
        if (!strange.length) return;
        const detail = `This Odeon does not know: ${strange.join("; ")}. Update Odeon, or the picture will differ.`;
        app.extensionManager.toast.add({ severity: "warn", summary: "Made with a newer Odeon", detail });
        strange = [];
    },
});

// A node that draws by itself and then shows a picture, as Compare grid, would go on showing the last preview of its run:
// the page puts previews before pictures, and takes a preview away too late to look for the picture again.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

app.registerExtension({
    name: "Odeon.Pictures",
    setup() {
        api.addEventListener("executed", ({ detail }) => {
            const id = detail?.display_node ?? detail?.node, node = app.graph?.getNodeById?.(id);
            if (!node?.comfyClass?.startsWith("Odeon") || !detail.output?.images?.length) return;
            for (const url of app.nodePreviewImages?.[id] ?? []) URL.revokeObjectURL(url);
            delete app.nodePreviewImages?.[id];
            node.setDirtyCanvas?.(true, true);
        });
    },
});

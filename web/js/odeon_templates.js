// ComfyUI lists a pack's templates in whatever order the disk has them: ours go by name, the one to begin with first.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const FIRST = "quickstart";

app.registerExtension({
    name: "Odeon.Templates",
    init() {
        const own = api.getWorkflowTemplates;
        if (!own) return;
        const folder = decodeURIComponent(new URL(import.meta.url).pathname.split("/").at(-3));
        api.getWorkflowTemplates = async function (...args) {
            const found = await own.apply(this, args);
            found[folder]?.sort((a, b) => (b === FIRST) - (a === FIRST) || a.localeCompare(b));
            return found;
        };
    },
});

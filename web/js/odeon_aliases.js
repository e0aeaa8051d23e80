// Search words of Odeon's nodes for pages older than ComfyUI 0.11, which look at names and titles alone. Where the page
// reads them itself, or keeps its search elsewhere, this does nothing.
import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";

const MOST = 8; // nodes added to what the page finds by itself

function matching(aliases, wanted) {
    if (wanted.length < 3) return [];
    const places = Object.entries(aliases).map(([id, words]) => [id, Math.min(...words.map(
        word => word === wanted ? 0 : word.startsWith(wanted) ? 1 : word.includes(wanted) ? 2 : Infinity))]);
    return places.filter(([, place]) => place < Infinity).sort((a, b) => a[1] - b[1]).slice(0, MOST).map(([id]) => id);
}

app.registerExtension({
    name: "Odeon.Aliases",
    async setup() {
        const store = app.extensionManager?._p?._s?.get("nodeDef");
        const search = store?.nodeSearchService && Object.getPrototypeOf(store.nodeSearchService);
        const ours = Object.values(store?.nodeDefsByName ?? {}).find(def => def.name.startsWith("Odeon"));
        if (!search?.searchNode || !ours || ours.search_aliases) return;
        const aliases = await (await api.fetchApi("/odeon/aliases")).json();
        const own = search.searchNode;
        search.searchNode = function (query, filters, ...rest) {
            const found = own.call(this, query, filters, ...rest);
            if (filters?.length) return found;
            const wanted = (query ?? "").trim().toLowerCase(), known = new Set(found.map(def => def.name));
            const more = matching(aliases, wanted).filter(id => !known.has(id)).map(id => store.nodeDefsByName[id]);
            const named = found.filter(def => def.display_name.toLowerCase().startsWith(wanted));
            return [...new Set([...named, ...more.filter(Boolean), ...found])]; // a name before search words
        };
    },
});

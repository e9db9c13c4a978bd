// What the page asks the search over the stores. A token is kept until the tab is closed; an address
// that ends with #token=... brings one along.
"use strict";

const service = (() => {
  const kept = "layra-search-token";
  const most = 32; // knowledge bases of one search
  let bases = null;

  const brought = new URLSearchParams(location.hash.slice(1)).get("token");
  if (brought) {
    sessionStorage.setItem(kept, brought);
    // Whoever gets the address from here needs a token of their own.
    history.replaceState(null, "", location.pathname + location.search);
  }

  const send = async (path, options = {}) => {
    const token = sessionStorage.getItem(kept);
    const headers = { ...options.headers, ...(token && { authorization: `Bearer ${token}` }) };
    const response = await fetch(path, { ...options, headers });
    const body = await response.json();
    if (response.ok) return body;
    const problem = response.status === 401 ? "a token is needed" : body.detail ?? body.title;
    return { problem, needsToken: response.status === 401 };
  };

  const load = async () => {
    const found = await send("/v1/knowledge_bases");
    if (!found.problem) bases = found.knowledge_bases;
    return found;
  };

  return {
    get all() {
      return bases && bases.length <= most ? "all knowledge bases" : "";
    },

    useToken(token) {
      sessionStorage.setItem(kept, token);
      bases = null;
    },

    async ask(question, base) {
      if (!bases) {
        const found = await load();
        if (found.problem) return found;
      }
      const ids = base ? [base] : bases.map(({ id }) => id);
      if (!ids.length) return { pages: [], note: "There is no knowledge base to search." };
      if (ids.length > most) return { problem: "choose a knowledge base" };
      const began = performance.now();
      const found = await send("/v1/search", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({ question, knowledge_bases: ids, top: 6, heat: true }),
      });
      if (found.problem) return found;
      const name = (id) => bases.find((base) => base.id === id)?.name || id;
      const pages = found.pages.map((page) => ({
        ...page,
        knowledge_base: name(page.knowledge_base),
        image: page.image_url,
        original: `${page.file_url}#page=${page.page}`,
      }));
      const took = Math.round(performance.now() - began);
      const note = pages.length ? `${count(pages.length, "page")}, in ${took} ms` : "No page was found.";
      return { pages, note };
    },

    async status() {
      const found = await load();
      const shown = (bases ?? []).map(({ id, name }) => ({ name: id, label: name || id }));
      return { bases: shown, text: "", wait: 60000, needsToken: Boolean(found.needsToken) };
    },
  };
})();

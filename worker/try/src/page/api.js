// What the page asks the program that reads a folder.
"use strict";

const service = {
  all: "all documents",

  async ask(question, base) {
    const response = await fetch("/v1/search", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ question, knowledge_base: base || null, top: 6, heat: true }),
    });
    const found = await response.json();
    if (!response.ok) return { problem: found.detail ?? found.title };
    const note = found.pages.length
      ? `${count(found.pages.length, "page")}, best of ${found.compared}, in ${found.took_ms} ms`
      : "No page can be searched yet.";
    return { pages: found.pages, note };
  },

  async status() {
    const status = await (await fetch("/v1/status")).json();
    const bases = status.knowledge_bases.map(({ name, pages }) =>
      ({ name, label: `${name} (${count(pages, "page")})` }));
    const failed = status.knowledge_bases.reduce((sum, { failed }) => sum + failed, 0);
    const parts = [];
    if (status.indexing) {
      parts.push(`Reading: ${status.files_done} of ${count(status.files, "file")}, ` +
        `${count(status.pages_added, "page")} so far`);
      if (status.seconds_left !== null) {
        parts.push(status.seconds_left < 90
          ? `about ${status.seconds_left} s left`
          : `about ${Math.round(status.seconds_left / 60)} min left`);
      }
    }
    if (failed) parts.push(`${count(failed, "file")} cannot be read`);
    return { bases, text: parts.join(", "), wait: status.indexing ? 2000 : 10000 };
  },
};

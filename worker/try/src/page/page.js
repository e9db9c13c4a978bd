// The page: asks POST /v1/search and shows the pages that answer. What comes from documents is
// only ever set as text, never as markup.
"use strict";

const byId = (id) => document.getElementById(id);
const form = byId("ask"), question = byId("question"), base = byId("base"), heat = byId("heat");
const message = byId("message"), list = byId("pages"), large = byId("large");
let answers = [];
let shown = 0;
let asked = 0;

const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

const title = (answer) => `${answer.file}, page ${answer.page}`;

// A picture with the heat painted over it.
const picture = (answer, alt) => {
  const image = element("img", {
    src: answer.image, alt, width: answer.width, height: answer.height, loading: "lazy",
  });
  const canvas = element("canvas", { width: answer.width, height: answer.height });
  canvas.setAttribute("aria-hidden", "true");
  const paint = canvas.getContext("2d");
  for (const part of answer.heat ?? []) {
    paint.fillStyle = `rgba(255, 150, 0, ${0.65 * part.weight})`;
    paint.fillRect(part.left * answer.width, part.top * answer.height,
      part.width * answer.width, part.height * answer.height);
  }
  return element("span", { className: "picture" }, image, canvas);
};

const original = (answer, link) => {
  link.href = answer.original;
  link.setAttribute("aria-label", `Open the original of ${title(answer)}`);
  return link;
};

const item = (answer, place) => {
  const open = element("button", { type: "button", className: "open" },
    picture(answer, `Enlarge ${title(answer)}`));
  open.addEventListener("click", () => enlarge(place));
  const link = element("a", { target: "_blank", rel: "noopener", textContent: "Original" });
  return element("li", {},
    element("h3", { textContent: title(answer) }),
    element("p", { className: "where" },
      element("span", { textContent: `score ${answer.score.toFixed(3)}` }),
      element("span", { textContent: answer.knowledge_base }),
      original(answer, link)),
    open,
    element("p", { className: "snippet", textContent: answer.snippet }));
};

const enlarge = (place) => {
  shown = (place + answers.length) % answers.length;
  const answer = answers[shown];
  byId("large-title").textContent = `${shown + 1} of ${answers.length}: ${title(answer)}`;
  original(answer, byId("large-original"));
  byId("large-page").replaceChildren(picture(answer, `${title(answer)}: ${answer.snippet}`));
  if (!large.open) large.showModal();
  large.scrollTop = 0;
};

const count = (number, one) => `${number} ${one}${number === 1 ? "" : "s"}`;

// Asks what the address says.
const ask = async () => {
  const address = new URLSearchParams(location.search);
  question.value = address.get("q") ?? "";
  selectBase(address.get("in") ?? "");
  document.title = question.value ? `${question.value} – search` : "Search your documents";
  const mine = ++asked;
  answers = [];
  list.replaceChildren();
  if (!question.value.trim()) {
    message.textContent = "";
    return;
  }
  message.textContent = "Searching …";
  try {
    const response = await fetch("/v1/search", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({
        question: question.value, knowledge_base: base.value || null, top: 6, heat: true,
      }),
    });
    const found = await response.json();
    if (mine !== asked) return;
    if (!response.ok) {
      message.textContent = `Not answered: ${found.detail ?? found.title}`;
      return;
    }
    answers = found.pages;
    list.replaceChildren(...answers.map(item));
    message.textContent = answers.length
      ? `${count(answers.length, "page")}, best of ${found.compared}, in ${found.took_ms} ms`
      : "No page can be searched yet.";
  } catch {
    if (mine === asked) message.textContent = "The program does not answer. Is it still running?";
  }
};

const selectBase = (name) => {
  if (![...base.options].some((option) => option.value === name)) {
    base.append(element("option", { value: name, textContent: name }));
  }
  base.value = name;
};

const go = () => {
  const address = new URLSearchParams({ q: question.value });
  if (base.value) address.set("in", base.value);
  history.pushState(null, "", `?${address}`);
  ask();
};

form.addEventListener("submit", (event) => {
  event.preventDefault();
  go();
});
base.addEventListener("change", () => question.value.trim() && go());
addEventListener("popstate", () => {
  large.close();
  ask();
});
const showHeat = () => document.body.classList.toggle("no-heat", !heat.checked);
heat.addEventListener("change", showHeat);
byId("close").addEventListener("click", () => large.close());
byId("previous").addEventListener("click", () => enlarge(shown - 1));
byId("next").addEventListener("click", () => enlarge(shown + 1));
large.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") enlarge(shown - 1);
  if (event.key === "ArrowRight") enlarge(shown + 1);
});
large.addEventListener("close", () => {
  list.querySelectorAll(".open")[shown]?.focus();
});
addEventListener("keydown", (event) => {
  if (event.key === "/" && !large.open && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName)) {
    event.preventDefault();
    question.select();
    question.focus();
  }
});

// The knowledge bases, and how far the folder is.
const refresh = async () => {
  let wait = 10000;
  try {
    const status = await (await fetch("/v1/status")).json();
    const chosen = base.value;
    const all = element("option", { value: "", textContent: "all documents" });
    base.replaceChildren(all, ...status.knowledge_bases.map(({ name, pages }) =>
      element("option", { value: name, textContent: `${name} (${count(pages, "page")})` })));
    selectBase(chosen);
    const failed = status.knowledge_bases.reduce((sum, { failed }) => sum + failed, 0);
    const parts = [];
    if (status.indexing) {
      wait = 2000;
      parts.push(`Reading: ${status.files_done} of ${count(status.files, "file")}, ` +
        `${count(status.pages_added, "page")} so far`);
      if (status.seconds_left !== null) {
        parts.push(status.seconds_left < 90
          ? `about ${status.seconds_left} s left`
          : `about ${Math.round(status.seconds_left / 60)} min left`);
      }
    }
    if (failed) parts.push(`${count(failed, "file")} cannot be read`);
    const text = parts.join(", ");
    if (byId("progress").textContent !== text) byId("progress").textContent = text;
  } catch {
    wait = 30000;
  }
  setTimeout(refresh, wait);
};

// Browsers keep the box's state when a page is reloaded.
showHeat();
ask().then(refresh);
if (!question.value) question.focus();

// The page: asks the service of api.js and shows the pages that answer. What comes from documents
// is only ever set as text, never as markup.
"use strict";

const byId = (id) => document.getElementById(id);
const form = byId("ask"), question = byId("question"), base = byId("base"), heat = byId("heat");
const access = byId("access");
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
  // Without its size, the picture gets it when it is there; the heat is stretched over it.
  const size = answer.width ? { width: answer.width, height: answer.height } : {};
  const image = element("img", { src: answer.image, alt, loading: "lazy", ...size });
  const { width, height } = { width: 827, height: 1169, ...size };
  const canvas = element("canvas", { width, height });
  canvas.setAttribute("aria-hidden", "true");
  const paint = canvas.getContext("2d");
  for (const part of answer.heat ?? []) {
    paint.fillStyle = `rgba(255, 150, 0, ${0.65 * part.weight})`;
    paint.fillRect(part.left * width, part.top * height, part.width * width, part.height * height);
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
    element("p", { className: "snippet", textContent: answer.snippet ?? "" }));
};

const enlarge = (place) => {
  shown = (place + answers.length) % answers.length;
  const answer = answers[shown];
  byId("large-title").textContent = `${shown + 1} of ${answers.length}: ${title(answer)}`;
  original(answer, byId("large-original"));
  byId("large-page").replaceChildren(picture(answer, `${title(answer)}: ${answer.snippet ?? ""}`));
  if (!large.open) large.showModal();
  large.scrollTop = 0;
};

const count = (number, one) => `${number} ${one}${number === 1 ? "" : "s"}`;

// Asks what the address says.
const ask = async () => {
  const address = new URLSearchParams(location.search);
  question.value = address.get("q") ?? "";
  const chosen = address.get("in") ?? "";
  if (chosen || service.all) selectBase(chosen);
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
    const found = await service.ask(question.value, base.value);
    if (mine !== asked) return;
    access.hidden = !found.needsToken;
    if (found.problem) {
      message.textContent = `Not answered: ${found.problem}`;
      if (found.needsToken) byId("token").focus();
      return;
    }
    answers = found.pages;
    list.replaceChildren(...answers.map(item));
    message.textContent = found.note;
  } catch {
    if (mine === asked) message.textContent = "There is no answer. Is the program still running?";
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

access.addEventListener("submit", (event) => {
  event.preventDefault();
  service.useToken(byId("token").value.trim());
  byId("token").value = "";
  refresh().then(ask);
});

// The knowledge bases, and how far the folder is.
let timer;
const refresh = async () => {
  let wait = 30000;
  try {
    const status = await service.status();
    const chosen = base.value;
    const all = service.all ? [element("option", { value: "", textContent: service.all })] : [];
    base.replaceChildren(...all, ...status.bases.map(({ name, label }) =>
      element("option", { value: name, textContent: label })));
    if (chosen || service.all) selectBase(chosen);
    if (status.needsToken) access.hidden = false;
    if (byId("progress").textContent !== status.text) byId("progress").textContent = status.text;
    wait = status.wait;
  } catch {
    // It is asked again.
  }
  clearTimeout(timer);
  timer = setTimeout(refresh, wait);
};

// Browsers keep the box's state when a page is reloaded.
showHeat();
refresh().then(ask);
if (!new URLSearchParams(location.search).get("q")) question.focus();

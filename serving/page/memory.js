// The memory's classes: found, renamed, removed.

import { askJson, thumbnail } from "./ask.js";
import { $, el, tell } from "./dom.js";

const COUNT = 30;
let shown = 0;
let turn = 0;

function pictures(sources, label) {
  const some = el("div", { className: "some" });
  for (const source of sources) {
    thumbnail(source).then((url) => { if (url) some.append(el("img", { className: "thumb", src: url, alt: `an example of ${label}`, loading: "lazy" })); });
  }
  return some;
}

const path = (label) => `/memory/${encodeURIComponent(label)}`;

async function rename(label) {
  const name = prompt("The new name; that of another class joins them:", label)?.trim();
  if (!name || name === label) return;
  try {
    const done = await askJson(path(label), { method: "PATCH", body: JSON.stringify({ label: name }), headers: { "Content-Type": "application/json" } });
    const undo = done.merged ? null : async () => {
      await askJson(path(name), { method: "PATCH", body: JSON.stringify({ label }), headers: { "Content-Type": "application/json" } });
      list();
    };
    tell(done.merged ? `“${label}” joined “${name}”.` : `“${label}” is “${name}” now.`, undo && "Undo", undo);
    list();
  } catch (error) { tell(error.message); }
}

async function remove(one) {
  if (!confirm(`Remove “${one.label}” with its ${one.pictures} pictures? This cannot be undone.`)) return;
  try {
    await askJson(path(one.label), { method: "DELETE" });
    tell(`“${one.label}” was removed.`);
    list();
  } catch (error) { tell(error.message); }
}

function item(one) {
  const counts = [`${one.pictures} picture${one.pictures === 1 ? "" : "s"}`];
  if (one.texts) counts.push(`${one.texts} text${one.texts === 1 ? "" : "s"}`);
  return el("li", {},
    el("div", { className: "name" }, el("strong", { textContent: one.label }), el("div", { className: "quiet", textContent: counts.join(", ") })),
    el("div", { className: "row" },
      el("button", { type: "button", className: "small", textContent: "Rename", onclick: () => rename(one.label) }),
      el("button", { type: "button", className: "small", textContent: "Remove", onclick: () => remove(one) })),
    pictures(one.sources, one.label));
}

/** Lists the classes from the start, or the next ones. */
export async function list(more = false) {
  const own = ++turn;
  const start = more ? shown : 0;
  const asked = new URLSearchParams({ start, count: COUNT, contains: $("find").value.trim() });
  try {
    const found = await askJson(`/memory?${asked}`);
    if (own !== turn) return;
    const items = found.classes.map(item);
    if (more) $("classes").append(...items);
    else $("classes").replaceChildren(...items);
    shown = start + found.classes.length;
    $("more").hidden = shown >= found.total;
    $("more").textContent = `More (${found.total - shown})`;
  } catch (error) { tell(error.message); }
}

export function startMemory() {
  $("find").addEventListener("input", () => list());
  $("more").addEventListener("click", () => list(true));
  document.addEventListener("view", (event) => { if (event.detail === "memory") list(); });
}

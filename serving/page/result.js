// One picture and what was said of it; boxes can be drawn on it.

import { askJson, thumbnail } from "./ask.js";
import { $, el, tell } from "./dom.js";
import { drawn } from "./boxes.js";

const percent = (share) => `${(100 * share).toFixed(share > 0.995 || share < 0.1 ? 1 : 0)} %`;

function small(label, entry) {
  const letter = el("span", { className: "thumb letter", textContent: [...label][0] ?? "?", ariaHidden: "true" });
  if (entry?.modality === "pictures" && entry.source) {
    thumbnail(entry.source).then((url) => {
      if (url) letter.replaceWith(el("img", { className: "thumb", src: url, alt: `an example of ${label}` }));
    });
  }
  return letter;
}

function candidate(one, share, text, up = false) {
  const bar = el("i");
  bar.style.width = `${Math.max(0, Math.min(100, 100 * share))}%`;
  const name = el("span", { className: up ? "name up" : "name", textContent: up ? `↑ ${one.label}` : one.label });
  const measured = el("span", { className: "bar" }, bar, el("b", { textContent: text }));
  return el("li", {}, small(one.label, one.entry), name, measured);
}

function lists(row) {
  const byLabel = new Map(row.candidates.map((one) => [one.label, one]));
  const before = row.retrieved.map((label) => byLabel.get(label));
  const retrieved = el("ol", {}, ...before.map((one) => candidate(one, one.similarity, one.similarity.toFixed(3))));
  const columns = [el("div", {}, el("h3", { textContent: "By similarity" }), retrieved)];
  const after = row.candidates.map((one, place) =>
    candidate(one, row.probabilities[place], percent(row.probabilities[place]), row.retrieved.indexOf(one.label) > place));
  const who = row.ranked_by ? `Ranked by ${row.ranked_by}` : "Not ranked";
  const why = row.skipped && !row.ranked_by ? ` (${row.skipped})` : "";
  columns.push(el("div", {}, el("h3", { textContent: who + why }), el("ol", {}, ...after)));
  return el("div", { className: "lists" }, ...columns);
}

function stages(row, waited) {
  const all = { ...(waited === null ? {} : { wait: waited }), ...row.milliseconds };
  const bar = el("div", { className: "stages", ariaHidden: "true" });
  for (const [, ms] of Object.entries(all)) {
    const part = el("i");
    part.style.flex = `${Math.max(ms, 0.001)} 0 0`;
    bar.append(part);
  }
  const sum = Object.values(all).reduce((total, ms) => total + ms, 0);
  const told = Object.entries(all).map(([stage, ms]) => `${stage} ${ms.toFixed(1)}`).join(" · ");
  return el("div", {}, bar, el("p", { className: "quiet ms", textContent: `${sum.toFixed(0)} ms: ${told}` }));
}

/** What one row says. `none` is called with nothing if the user says that none of these is right. */
function said(row, waited, none, heading = "") {
  const box = el("div", { className: "said" });
  if (row.error) {
    box.append(el("h2", { className: "wrong", textContent: `${heading}${row.error}` }));
    return box;
  }
  const stranger = row.label === null;
  const best = heading + (stranger ? "None of these" : row.label);
  const title = stranger ? "probability that it is none of the classes" : "probability among these";
  box.append(
    el("div", { className: "best" }, el("h2", { textContent: best }),
      el("span", { className: "sure", title, textContent: percent(stranger ? row.unknown : row.probability) })),
    lists(row), stages(row, waited));
  if (none) box.append(el("button", { type: "button", className: "small none", textContent: "None of these: teach it", onclick: none }));
  return box;
}

function options() {
  const asked = new URLSearchParams();
  if ($("k").value) asked.set("k", $("k").value);
  if ($("unknown").checked) asked.set("unknown", "reject");
  if ($("rank").value) asked.set("rank", $("rank").value);
  return asked;
}

export async function recognise(blob, more = {}) {
  const asked = options();
  for (const [name, value] of Object.entries(more)) asked.set(name, value);
  return askJson(`/recognize?${asked}`, { method: "POST", body: blob, headers: { "Content-Type": "application/octet-stream" } }, true);
}

/** A card with a picture and its answer; `teach` is called with the picture. */
export class Card {
  constructor(blob, name, teach) {
    this.blob = blob;
    this.name = name;
    this.teach = teach;
    this.url = URL.createObjectURL(blob);
    this.image = el("img", { src: this.url, alt: name });
    this.canvas = el("canvas", { ariaLabel: "Draw boxes around things to name them" });
    this.draw = el("button", { type: "button", className: "small", textContent: "Draw boxes", ariaPressed: "false" });
    this.draw.onclick = () => { this.draw.ariaPressed = String(this.canvas.classList.toggle("drawing")); };
    this.clear = el("button", { type: "button", className: "small", textContent: "Whole picture", hidden: true });
    this.answers = el("div", {}, el("p", { className: "quiet", textContent: "Looking…" }));
    const figure = el("figure", { className: "seen" }, el("div", {}, this.image, this.canvas), el("figcaption", {}, this.draw, this.clear));
    figure.firstChild.className = "seen";
    this.element = el("article", { className: "result" }, figure, this.answers);
    this.boxes = drawn(this.canvas, this.image, (boxes) => this.ask(boxes));
    this.clear.onclick = () => { this.boxes.clear(); this.ask([]); };
    this.asked = 0;
  }

  /** Shows another picture in the same card, as a live camera's. */
  replace(blob) {
    URL.revokeObjectURL(this.url);
    this.blob = blob;
    this.url = URL.createObjectURL(blob);
    this.image.src = this.url;
    this.boxes.clear();
    this.clear.hidden = true;
  }

  async ask(boxes = []) {
    const turn = ++this.asked;
    this.clear.hidden = !boxes.length;
    try {
      const answer = await recognise(this.blob, boxes.length ? { boxes: JSON.stringify(boxes) } : {});
      if (turn !== this.asked) return null; // the user has drawn on meanwhile
      const rows = answer.results.map((row, place) =>
        said(row, boxes.length ? null : answer.waited_ms, boxes.length ? null : () => this.teach(this.blob), boxes.length ? `${place + 1}  ` : ""));
      this.answers.replaceChildren(...rows);
      this.boxes.name(boxes.length ? answer.results.map((row) => row.label ?? "–") : []);
      return answer;
    } catch (error) {
      if (turn === this.asked) this.answers.replaceChildren(el("h2", { className: "wrong", textContent: error.message }));
      tell(error.message);
      return null;
    }
  }
}

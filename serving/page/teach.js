// Teaching: a name and some shots; what was taught can be undone.

import { askJson } from "./ask.js";
import { Camera } from "./camera.js";
import { $, el, show, tell } from "./dom.js";
import { Card } from "./result.js";

const WANTED = 3;
const MOST = 12;
let shots = [];
const camera = new Camera($("shot-video"));

function draw() {
  const items = shots.map((shot, place) => el("li", {},
    el("img", { src: shot.url, alt: `shot ${place + 1}` }),
    el("button", { type: "button", textContent: "×", ariaLabel: `Remove shot ${place + 1}`, onclick: () => remove(place) })));
  for (let place = items.length; place < WANTED; place++) items.push(el("li", { className: "empty", textContent: place + 1 }));
  $("shots").replaceChildren(...items);
  $("learn").disabled = !shots.length || !$("name").value.trim();
}

function remove(place) {
  URL.revokeObjectURL(shots[place].url);
  shots.splice(place, 1);
  draw();
}

export function addShots(blobs) {
  for (const blob of blobs) if (shots.length < MOST) shots.push({ blob, url: URL.createObjectURL(blob) });
  draw();
}

/** Opens the view with a picture that none of the candidates fits. */
export function teachThis(blob) {
  show("teach");
  addShots([blob]);
  $("name").focus();
}

async function undo(label, taught) {
  const path = `/memory/${encodeURIComponent(label)}`;
  const only = new URLSearchParams(taught.sources.map((source) => ["source", source]));
  try {
    await askJson(taught.created.length ? path : `${path}?${only}`, { method: "DELETE" });
    tell(`“${label}” is as it was before.`);
    $("learned").replaceChildren();
  } catch (error) {
    tell(error.message);
  }
}

async function learn(event) {
  event.preventDefault();
  const label = $("name").value.trim();
  const form = new FormData();
  shots.forEach((shot, place) => form.append("image", shot.blob, `shot-${place}.jpg`));
  form.append("labels", label);
  $("learn").disabled = true;
  try {
    const taught = await askJson("/memory", { method: "POST", body: form });
    const many = shots.length === 1 ? "one shot" : `${shots.length} shots`;
    tell(`Learned “${taught.labels[0]}” from ${many}.`, "Undo", () => undo(taught.labels[0], taught));
    // Seen again at once: by the camera if it is open, or else on the last shot.
    const seen = camera.stream ? await camera.shot() : shots.at(-1).blob;
    const card = new Card(seen, "seen again", teachThis);
    $("learned").replaceChildren(el("h3", { textContent: "Seen again:" }), card.element);
    for (const shot of shots) URL.revokeObjectURL(shot.url);
    shots = [];
    $("name").value = "";
    draw();
    await card.ask();
  } catch (error) {
    tell(error.message);
    draw();
  }
}

/** Offers the names of classes that are there, so that shots of one join it. */
async function offer() {
  const contains = $("name").value.trim();
  if (!contains) return;
  try {
    const found = await askJson(`/memory?${new URLSearchParams({ contains, count: 8 })}`);
    $("known").replaceChildren(...found.classes.map((one) => el("option", { value: one.label })));
  } catch { /* it is only an offer */ }
}

export function startTeaching() {
  $("teach-form").addEventListener("submit", learn);
  $("name").addEventListener("input", () => { draw(); offer(); });
  $("shot-files").addEventListener("change", (event) => { addShots(event.target.files); event.target.value = ""; });
  $("shot-camera").addEventListener("click", async () => {
    if (camera.stream) { camera.close(); $("shot-view").hidden = true; return; }
    try {
      $("shot-view").hidden = false;
      await camera.open();
    } catch (error) {
      $("shot-view").hidden = true;
      tell(error.message);
    }
  });
  $("take").addEventListener("click", async () => addShots([await camera.shot()]));
  document.addEventListener("view", (event) => {
    if (event.detail !== "teach" && camera.stream) { camera.close(); $("shot-view").hidden = true; }
  });
  draw();
}

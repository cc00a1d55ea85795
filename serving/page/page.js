// The page: pictures come in by drop, by choice, by paste or from the camera, and become cards.

import { askJson } from "./ask.js";
import { Camera } from "./camera.js";
import { $, show, tell } from "./dom.js";
import { startMemory } from "./memory.js";
import { Card } from "./result.js";
import { addShots, startTeaching, teachThis } from "./teach.js";

const MOST_CARDS = 24;
const camera = new Camera($("video"));
let liveCard = null;

function add(card) {
  $("results").prepend(card.element);
  while ($("results").children.length > MOST_CARDS) $("results").lastChild.remove();
}

async function recogniseAll(files) {
  const pictures = [...files].filter((file) => !file.type || file.type.startsWith("image/"));
  if (!pictures.length) { tell("These are no pictures."); return; }
  const cards = pictures.map((file) => new Card(file, file.name, teachThis));
  for (const card of cards) add(card);
  await Promise.all(cards.map((card) => card.ask()));
}

function startDropping() {
  const drop = $("drop");
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
    });
  }
  document.addEventListener("drop", (event) => {
    if ($("teach").hidden) { show("recognise"); recogniseAll(event.dataTransfer.files); }
    else addShots(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => {
    const files = event.clipboardData?.files ?? [];
    if (files.length) recogniseAll(files);
  });
  $("files").addEventListener("change", async (event) => {
    const files = [...event.target.files];
    event.target.value = "";
    await recogniseAll(files);
  });
}

async function live() {
  liveCard = null;
  while ($("live").checked && camera.stream) {
    const shot = await camera.shot();
    if (liveCard) liveCard.replace(shot);
    else { liveCard = new Card(shot, "camera", teachThis); add(liveCard); }
    if (!(await liveCard.ask())) await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

function closeCamera() {
  $("live").checked = false;
  camera.close();
  $("camera").hidden = true;
  $("camera-open").disabled = false;
}

function startCamera() {
  $("camera-open").addEventListener("click", async () => {
    try {
      $("camera").hidden = false;
      $("camera-open").disabled = true;
      await camera.open();
    } catch (error) {
      closeCamera();
      tell(error.message);
    }
  });
  $("camera-close").addEventListener("click", closeCamera);
  $("shoot").addEventListener("click", async () => {
    const card = new Card(await camera.shot(), "camera", teachThis);
    add(card);
    await card.ask();
  });
  $("live").addEventListener("change", live);
  document.addEventListener("view", (event) => { if (event.detail !== "recognise" && camera.stream) closeCamera(); });
}

async function start() {
  for (const button of document.querySelectorAll("nav button")) button.addEventListener("click", () => show(button.dataset.view));
  startDropping();
  startCamera();
  startTeaching();
  startMemory();
  try {
    const about = await askJson("/healthz");
    $("about").textContent = `${about.classes} classes, on ${about.provider}`;
    $("rank").append(...about.ranks.map((rank) => new Option(rank, rank)));
    $("k").max = about.classes;
  } catch (error) { tell(error.message); }
}

start();

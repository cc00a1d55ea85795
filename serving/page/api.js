// /openapi.json as a page.

import { $, el } from "./dom.js";

const METHODS = ["get", "post", "patch", "delete"];

function operation(path, method, said, above) {
  const parameters = [...(above.parameters ?? []), ...(said.parameters ?? [])];
  const bodies = Object.keys(said.requestBody?.content ?? {});
  return el("section", {},
    el("h2", { textContent: `${method.toUpperCase()} ${path}` }),
    el("p", { textContent: [said.summary, said.description].filter(Boolean).join(". ") }),
    parameters.length ? el("ul", {}, ...parameters.map((one) => el("li", {}, el("code", { textContent: one.name }), ` ${one.description ?? ""}`))) : null,
    bodies.length ? el("p", { className: "quiet", textContent: `Body: ${bodies.join(", ")}` }) : null,
    el("p", { className: "quiet", textContent: `Answers: ${Object.keys(said.responses).join(", ")}` }));
}

const description = await (await fetch("/openapi.json")).json();
$("described").append(el("p", { textContent: description.info.description }));
for (const [path, said] of Object.entries(description.paths)) {
  for (const method of METHODS) if (said[method]) $("described").append(operation(path, method, said[method], said));
}

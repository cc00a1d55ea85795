// Small helpers; texts are always set as texts, never as HTML.

export const $ = (id) => document.getElementById(id);

/** An element with properties and children. */
export function el(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

let hide = 0;

/** Tells something at the bottom, with one thing that can be done about it. */
export function tell(text, action = null, call = null) {
  const told = $("told");
  told.replaceChildren(el("span", { textContent: text }));
  if (action) {
    told.append(el("button", { type: "button", className: "small", textContent: action, onclick: () => { told.hidden = true; call(); } }));
  }
  told.hidden = false;
  clearTimeout(hide);
  hide = setTimeout(() => { told.hidden = true; }, action ? 20000 : 6000);
}

/** Shows one view. */
export function show(view) {
  for (const section of document.querySelectorAll("main > section")) section.hidden = section.id !== view;
  for (const button of document.querySelectorAll("nav button")) {
    if (button.dataset.view === view) button.setAttribute("aria-current", "page");
    else button.removeAttribute("aria-current");
  }
  document.dispatchEvent(new CustomEvent("view", { detail: view }));
}

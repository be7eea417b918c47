/** Helpers for the document. Text is always inserted as text, never as HTML. */

export const byId = (id) => document.getElementById(id);

/** An element with attributes, listeners (`onclick`) and children; `null` children are left out. */
export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

const SVG = "http://www.w3.org/2000/svg";

/** The same for an element of an SVG image. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null)
      element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** The button that closes a panel. */
export const closeButton = (close) =>
  el(
    "button",
    { type: "button", class: "plain close", "aria-label": "Close", onclick: close },
    "×",
  );

/** Lets a screen reader read one sentence. */
export function announce(text) {
  byId("status").textContent = text;
}

let toastTimer;

/** Shows a sentence for a while, with a button if there is something to do about it. */
export function toast(text, action = null) {
  const box = byId("toast");
  const close = () => {
    box.hidden = true;
  };
  const run = () => {
    close();
    action.run();
  };
  box.replaceChildren(el("span", {}, text));
  if (action) box.append(el("button", { type: "button", onclick: run }, action.label));
  box.append(
    el("button", { type: "button", class: "plain", "aria-label": "Dismiss", onclick: close }, "×"),
  );
  box.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(close, 10_000);
}

/** Copies text, also where the page has no secure context and thus no clipboard API. */
export async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = el("textarea", { class: "unseen" });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

/** Saves text as a file of the reader. */
export function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  el("a", { href: url, download: name }).click();
  URL.revokeObjectURL(url);
}

/** Which parts of the page are visible: chat or training, the list, and one of the panels. */

import { byId } from "./dom.js";

const VIEWS = ["chat", "training"];
const PANELS = ["token", "settings"];

export function showView(name) {
  for (const one of VIEWS) {
    byId(one).hidden = one !== name;
    byId(`show-${one}`).setAttribute("aria-pressed", String(one === name));
  }
  if (name !== "chat" && isPanelOpen("token")) showPanel(null);
}

/** Opens a panel and closes the other one; null closes both. */
export function showPanel(name) {
  for (const one of PANELS) byId(one).hidden = one !== name;
  byId("show-settings").setAttribute("aria-expanded", String(name === "settings"));
}

export const isPanelOpen = (name) => !byId(name).hidden;

export function togglePanel(name) {
  showPanel(isPanelOpen(name) ? null : name);
  byId(name).querySelector("input, textarea")?.focus();
}

/** The list is always visible where there is room; on a narrow screen it is opened and closed. */
export function showList(isOpen) {
  byId("list").classList.toggle("open", isOpen);
  byId("show-list").setAttribute("aria-expanded", String(isOpen));
}

export function toggleList() {
  showList(!byId("list").classList.contains("open"));
  byId("new").focus();
}

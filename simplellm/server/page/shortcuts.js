/** Keyboard shortcuts: one table for the keys and for the help. */

import { byId, el } from "./dom.js";

const WRITTEN = [
  ["Enter", "send the message"],
  ["Shift+Enter", "new line"],
  ["↑ in an empty message", "edit your last message"],
  ["Escape", "stop the reply, or close a panel"],
  ["← → Home End in a reply", "choose a token"],
  ["Enter on a token", "its alternatives; ↑ ↓ choose one, Enter goes on with it"],
  ["?", "this list"],
];

/** shortcuts: from a letter, pressed with Alt, to what it does and its function. */
export function startShortcuts(shortcuts, onEscape) {
  const rows = [
    ...Object.entries(shortcuts).map(([letter, [what]]) => [`Alt+${letter}`, what]),
    ...WRITTEN,
  ];
  byId("shortcuts").replaceChildren(
    ...rows.flatMap(([keys, what]) => [el("dt", {}, el("kbd", {}, keys)), el("dd", {}, what)]),
  );
  const help = () => byId("help-dialog").showModal();
  byId("show-help").addEventListener("click", help);
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    const isTyping = event.target.matches("input, textarea, select");
    const isAlt = event.altKey && !event.ctrlKey && !event.metaKey;
    const shortcut = isAlt && shortcuts[event.code.replace("Key", "")];
    if (shortcut) shortcut[1]();
    else if (event.key === "Escape" && !event.isComposing) onEscape();
    else if (event.key === "?" && !isTyping) help();
    else return;
    event.preventDefault();
  });
}

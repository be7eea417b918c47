/** The turns of a conversation on the screen, with what can be done with each. */

import { copyText, el, toast } from "./dom.js";
import { ShadedText } from "./shaded.js";
import { shownReply } from "./store.js";

/** A turn of the reader: its element, and `edit`, which opens a field. actions: { edit(text) }. */
export function userTurn(turn, actions) {
  const text = el("div", { class: "text", dir: "auto" }, turn.text);
  const element = el("article", { class: "turn user", "aria-label": "You" }, text);
  const edit = () =>
    element.replaceChildren(
      editor(turn.text, actions.edit, () => element.replaceChildren(text, bar)),
    );
  const bar = el(
    "div",
    { class: "actions" },
    button("Edit", edit, "edit"),
    copyButton(() => turn.text),
  );
  element.append(bar);
  return { element, edit };
}

/** A turn of the model: its element, and `view` with the shaded text.
 *
 * actions: { choose(view, index, byKey), regenerate(), extend(), show(number), edit() }; `edit` is
 * for the turn before. earlier: the view of this turn until now; it stays, with its chosen token,
 * if the reply is the same.
 */
export function modelTurn(turn, actions, { isLast, earlier }) {
  const reply = shownReply(turn);
  const onChoose = (index, byKey) => actions.choose(view, index, byKey);
  const view = earlier?.reply === reply ? earlier : new ShadedText(reply, { onChoose });
  view.update();
  const isCut = reply.reason === "length" || reply.reason === "interrupted";
  const bar = el(
    "div",
    { class: "actions" },
    turn.versions.length > 1 ? versions(turn, actions.show) : null,
    copyButton(() => reply.text),
    button("Regenerate", actions.regenerate, "regenerate"),
    button("Edit text", actions.edit, "edit-before"),
    isLast && isCut && reply.promptIds ? button("Continue", actions.extend, "extend") : null,
  );
  const element = el("article", { class: "turn model", "aria-label": "Reply" }, view.element, bar);
  return { element, view };
}

const button = (label, run, name) =>
  el("button", { type: "button", class: `plain ${name}`, onclick: run }, label);

function copyButton(text) {
  return button(
    "Copy",
    async () => {
      await copyText(text());
      toast("Copied.");
    },
    "copy",
  );
}

function versions({ versions: all, shown }, show) {
  const step = (label, sign, number) =>
    el(
      "button",
      {
        type: "button",
        class: "plain",
        "aria-label": label,
        disabled: number < 0 || number >= all.length,
        onclick: () => show(number),
      },
      sign,
    );
  return el(
    "span",
    { class: "versions", role: "group", "aria-label": "Versions of this reply" },
    step("Earlier version", "‹", shown - 1),
    el("span", {}, `${shown + 1} of ${all.length}`),
    step("Later version", "›", shown + 1),
  );
}

/** A text field in place of a message. */
function editor(text, save, cancel) {
  const area = el("textarea", { rows: "3", dir: "auto", "aria-label": "Edit the message" });
  area.value = text;
  const submit = () => (area.value.trim() ? save(area.value) : cancel());
  area.addEventListener("keydown", (event) => {
    if (isSend(event)) submit();
    else if (event.key === "Escape") cancel();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  const bar = el(
    "div",
    { class: "actions" },
    button("Cancel", cancel, ""),
    button("Send", submit, "primary"),
  );
  queueMicrotask(() => area.focus());
  return el("div", { class: "editor" }, area, bar);
}

/** Whether a key sends: Enter, unless it ends the composition of a Korean or Japanese word. */
export const isSend = (event) =>
  event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;

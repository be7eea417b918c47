/** The field for messages below the chat. */

import { byId } from "./dom.js";
import { isSend } from "./turns.js";

const MOST_HEIGHT = 200; // pixels; a longer message is scrolled

export function startComposer(facts, chat) {
  const field = byId("message");
  const label = facts.is_chat ? "Message" : "Beginning of a text";
  byId("message-label").textContent = label;
  field.placeholder = label;

  const fit = () => {
    field.style.height = "auto";
    field.style.height = `${Math.min(field.scrollHeight + 2, MOST_HEIGHT)}px`;
  };
  const send = () => {
    if (chat.isWriting || !field.value.trim()) return;
    const text = field.value;
    field.value = "";
    fit();
    chat.send(text);
  };
  field.addEventListener("input", fit);
  field.addEventListener("keydown", (event) => {
    if (isSend(event)) send();
    else if (event.key === "ArrowUp" && !field.value) chat.editLast();
    else return;
    event.preventDefault();
  });
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  byId("stop").addEventListener("click", () => {
    chat.stop();
    field.focus();
  });
  return { focus: () => field.focus() };
}

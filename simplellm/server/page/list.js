/** The list of conversations: open, rename, export, delete. */

import { byId, download, el, toast } from "./dom.js";
import {
  allConversations,
  deleteConversation,
  renameConversation,
  saveConversation,
  toLine,
} from "./store.js";

export class ConversationList {
  constructor(chat) {
    this.chat = chat;
    byId("export-all").addEventListener("click", () =>
      download(
        "conversations.jsonl",
        allConversations()
          .map((one) => `${toLine(one)}\n`)
          .join(""),
      ),
    );
    addEventListener("storage", () => this.render()); // another tab has changed something
  }

  render() {
    const all = allConversations();
    byId("conversations").replaceChildren(...all.map((conversation) => this.item(conversation)));
    byId("export-all").hidden = !all.length;
  }

  item(conversation) {
    const isOpen = conversation.id === this.chat.conversation.id;
    const title = conversation.title || "Untitled";
    const action = (label, run) =>
      el(
        "button",
        { type: "button", class: "plain", "aria-label": `${label} ${title}`, onclick: run },
        label,
      );
    const item = el(
      "li",
      { class: isOpen ? "open" : null },
      el(
        "button",
        {
          type: "button",
          class: "title",
          dir: "auto",
          "aria-current": isOpen && "true",
          onclick: () => this.chat.open(conversation),
        },
        title,
      ),
      el(
        "span",
        { class: "actions" },
        action("Rename", () => this.rename(item, conversation)),
        action("Export", () => download("conversation.jsonl", `${toLine(conversation)}\n`)),
        action("Delete", () => this.remove(conversation)),
      ),
    );
    return item;
  }

  rename(item, conversation) {
    const input = el("input", { "aria-label": "New title", dir: "auto" });
    input.value = conversation.title;
    const finish = () => {
      const own =
        this.chat.conversation.id === conversation.id ? this.chat.conversation : conversation;
      renameConversation(own, input.value.trim() || conversation.title);
      this.render();
    };
    input.addEventListener("keydown", (event) => {
      if (event.key === "Escape") input.value = conversation.title;
      if ((event.key === "Enter" && !event.isComposing) || event.key === "Escape") input.blur();
    });
    input.addEventListener("blur", finish, { once: true });
    item.replaceChildren(input);
    input.focus();
    input.select();
  }

  remove(conversation) {
    deleteConversation(conversation.id);
    if (conversation.id === this.chat.conversation.id) this.chat.startNew();
    this.render();
    toast(`“${conversation.title}” was deleted.`, {
      label: "Undo",
      run: () => {
        saveConversation(conversation);
        this.render();
      },
    });
  }
}

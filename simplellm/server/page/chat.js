/** The chat: sends messages, shows replies as they are written, and changes the conversation. */

import { announce, byId, el, toast } from "./dom.js";
import { branched, idsBefore, interrupt, newReply, write } from "./reply.js";
import { allConversations, newConversation, saveConversation, shownReply } from "./store.js";
import { modelTurn, userTurn } from "./turns.js";

const OPENED = "simplellm.opened";
const NEAR_THE_END = 80; // pixels: the text is scrolled along only if the reader is at its end

export class Chat {
  /** Calls onToken({ number, reply, view, index, byKey }) for a token that is chosen, onOpen() when
   * another conversation is opened, and onSaved() after each change. */
  constructor(facts, settings, { onToken, onOpen, onSaved }) {
    this.facts = facts;
    this.model = `${facts.model}@${facts.step}`;
    this.settings = settings;
    this.onToken = onToken;
    this.onOpen = onOpen;
    this.onSaved = onSaved;
    this.running = null; // the AbortController of the reply that is written
    this.conversation = newConversation();
    this.views = []; // of the turns on the screen
    addEventListener("pagehide", () => this.keepUnfinished());
  }

  get isWriting() {
    return this.running !== null;
  }

  /** The text of the last message; empty before the first one. */
  get lastMessage() {
    return this.conversation.turns.findLast(({ role }) => role === "user")?.text ?? "";
  }

  // ------------------------------------------------------------ the conversation

  open(conversation) {
    this.stop();
    this.conversation = conversation;
    sessionStorage.setItem(OPENED, conversation.id);
    this.onOpen();
    this.render();
    this.scrollToEnd();
  }

  startNew() {
    this.open(newConversation());
  }

  /** Opens the conversation that this tab had open before it was loaded again. */
  openLast() {
    const id = sessionStorage.getItem(OPENED);
    this.open(allConversations().find((one) => one.id === id) ?? newConversation());
  }

  send(text) {
    this.conversation.title ||= text.trim().split("\n")[0].slice(0, 60);
    this.conversation.turns.push({ role: "user", text });
    return this.reply();
  }

  edit(number, text) {
    this.cut(number);
    return this.send(text);
  }

  /** Another reply to the same message, also where a seed is set; the earlier ones stay. */
  regenerate(number) {
    this.cut(number + 1);
    const [seed] = crypto.getRandomValues(new Uint32Array(1));
    return this.reply({ seed });
  }

  /** Continues the last reply with its own tokens. */
  extend(number) {
    const reply = shownReply(this.conversation.turns[number]);
    return this.write(reply, () => ({ prompt: idsBefore(reply) }));
  }

  /** A version of the reply that has another token at `index`, and goes on from there. */
  branch(number, index, token) {
    const turn = this.conversation.turns[number];
    const isEnd = this.facts.end_ids.includes(token.id);
    const reply = branched(shownReply(turn), index, isEnd ? null : token);
    this.cut(number + 1);
    this.addVersion(turn, reply);
    if (!isEnd) return this.write(reply, () => ({ prompt: idsBefore(reply) }));
    reply.reason = "stop";
    return this.save();
  }

  editLast() {
    this.views.findLast(({ edit }) => edit)?.edit();
  }

  regenerateLast() {
    const last = this.conversation.turns.length - 1;
    if (last > 0 && !this.isWriting) this.regenerate(last);
  }

  showVersion(number, version) {
    this.conversation.turns[number].shown = version;
    this.save();
  }

  /** Saves a reply that is being written when the page is closed or loaded again. */
  keepUnfinished() {
    if (!this.isWriting) return;
    for (const turn of this.conversation.turns.filter(({ versions }) => versions)) {
      if (shownReply(turn).reason === null) interrupt(shownReply(turn));
    }
    saveConversation(this.conversation);
  }

  stop() {
    this.running?.abort();
  }

  /** Removes turns from number `first` on. The reader can take that back. */
  cut(first) {
    this.stop();
    const { conversation } = this;
    const removed = conversation.turns.slice(first);
    const isLastReply = first === conversation.turns.length - 1 && removed[0]?.versions;
    conversation.turns.length = first;
    if (!removed.length || isLastReply) return;
    const before = structuredClone([...conversation.turns, ...removed]);
    toast("Later turns were removed.", {
      label: "Undo",
      run: () => {
        this.stop();
        conversation.turns = before;
        this.save(conversation);
      },
    });
  }

  // ------------------------------------------------------------ replies

  reply(changes = {}) {
    const { turns } = this.conversation;
    if (turns.at(-1).role === "user") turns.push({ role: "assistant", versions: [], shown: 0 });
    const reply = newReply(this.model);
    this.addVersion(turns.at(-1), reply);
    return this.write(reply, (nLeftOut) => this.start(nLeftOut), changes);
  }

  addVersion(turn, reply) {
    turn.versions.push(reply);
    turn.shown = turn.versions.length - 1;
  }

  /** What the model reads before the last reply without the first `nLeftOut` turns, or null. */
  start(nLeftOut) {
    const turns = this.conversation.turns.slice(0, -1);
    const first = this.settings.keepsContext ? nLeftOut : turns.length - 1;
    const read = turns.slice(first);
    if (!read.length) return null;
    const texts = read.map((turn) => turn.text ?? shownReply(turn).text);
    if (!this.facts.is_chat) {
      const pairs = texts.map((text, number) =>
        read[number].role === "user" && number ? `\n${text}` : text,
      );
      return { prompt: pairs.join("") };
    }
    const messages = read.map(({ role }, number) => ({ role, content: texts[number] }));
    const { system } = this.settings;
    return { messages: system ? [{ role: "system", content: system }, ...messages] : messages };
  }

  /** Writes a reply after `start(nLeftOut)`; turns that do not fit the context are left out. */
  async write(reply, start, changes = {}) {
    const { conversation } = this;
    const running = new AbortController();
    this.running = running;
    this.render();
    this.scrollToEnd();
    announce("The model is answering.");
    try {
      await this.writeWhatFits(reply, start, changes, running.signal);
      announce(`Reply: ${reply.text}`);
    } catch (error) {
      this.showProblem(error, conversation);
    } finally {
      if (this.running === running) this.running = null;
      this.save(conversation);
    }
  }

  async writeWhatFits(reply, start, changes, signal) {
    const settings = { ...this.settings.forApi, ...changes };
    for (let nLeftOut = 0; ; nLeftOut += 2) {
      try {
        await write(reply, start(nLeftOut), settings, {
          endIds: this.facts.end_ids,
          signal,
          onChange: () => this.update(reply),
        });
        if (nLeftOut) toast("The earliest turns were left out: the context of the model is full.");
        return;
      } catch (error) {
        const isTooLong = error.code === "context_length_exceeded";
        if (!isTooLong || start(nLeftOut + 2) === null || !this.settings.keepsContext) throw error;
      }
    }
  }

  showProblem(error, { turns }) {
    const turn = turns.at(-1);
    if (turn.versions && !shownReply(turn).tokens.length) {
      // nothing came: take the reply back
      turn.versions.pop();
      turn.shown = turn.versions.length - 1;
      if (!turn.versions.length) turns.pop();
    }
    toast(error.message, { label: "Try again", run: () => this.reply() });
  }

  save(conversation = this.conversation) {
    saveConversation(conversation);
    if (conversation === this.conversation) this.render();
    this.onSaved();
  }

  // ------------------------------------------------------------ the screen

  render() {
    const { turns } = this.conversation;
    this.views = turns.map((turn, number) => this.viewOf(turn, number));
    byId("turns").replaceChildren(
      ...(turns.length ? this.views.map(({ element }) => element) : [this.welcome()]),
    );
    byId("turns").classList.toggle("as-text", !this.facts.is_chat);
    byId("send").hidden = this.isWriting;
    byId("stop").hidden = !this.isWriting;
  }

  viewOf(turn, number) {
    if (turn.role === "user") {
      return userTurn(turn, { edit: (text) => this.edit(number, text) });
    }
    return modelTurn(
      turn,
      {
        choose: (view, index, byKey) =>
          this.onToken({ number, reply: view.reply, view, index, byKey }),
        regenerate: () => this.regenerate(number),
        extend: () => this.extend(number),
        show: (version) => this.showVersion(number, version),
        edit: () => this.views[number - 1].edit(),
      },
      {
        isLast: number === this.conversation.turns.length - 1,
        earlier: this.views[number]?.view,
      },
    );
  }

  welcome() {
    const text = this.facts.is_chat
      ? "Write a message. The model answers it."
      : "Write the beginning of a text. The model continues it.";
    return el(
      "div",
      { class: "welcome" },
      el("p", { class: "lead" }, text),
      el(
        "p",
        { class: "note" },
        "Each token of a reply is shaded by its probability. Click one to see what " +
          "could have stood there instead, and to go on with that.",
      ),
    );
  }

  /** Shows what was added to the reply that is written. */
  update(reply) {
    const view = this.views.find((one) => one.view?.reply === reply)?.view;
    if (!view) return;
    const { scrollHeight, scrollTop, clientHeight } = byId("turns");
    view.update();
    if (scrollHeight - scrollTop - clientHeight < NEAR_THE_END) this.scrollToEnd();
  }

  scrollToEnd() {
    byId("turns").scrollTop = byId("turns").scrollHeight;
  }
}

/** Text whose tokens are shaded by their probability and can be chosen with mouse or keys. */

import { announce, byId, el } from "./dom.js";
import { groupsOf, percent, SHADES, shadeOf, visible } from "./tokens.js";

const ENDS = { stop: "end", length: "length limit", interrupted: "stopped" };

const KEPT = "simplellm.shading";

/** The switch below the chat, and the explanation of the shades. */
export function startShading() {
  const checkbox = byId("shading");
  const samples = SHADES.map(([, name], shade) => el("span", { class: `shade-${shade}` }, name));
  byId("legend").replaceChildren("Probability: ", ...samples);
  const apply = () => document.body.classList.toggle("unshaded", !checkbox.checked);
  checkbox.checked = localStorage.getItem(KEPT) !== "off";
  checkbox.addEventListener("change", () => {
    localStorage.setItem(KEPT, checkbox.checked ? "on" : "off");
    apply();
  });
  apply();
}

/** One reply as shaded text. onChoose(index) is called with the number of a chosen token. */
export class ShadedText {
  constructor(reply, { onChoose = null, label = "Reply" } = {}) {
    this.reply = reply;
    this.onChoose = onChoose;
    this.chosen = null;
    this.groups = [];
    const keys = onChoose && {
      tabindex: "0",
      role: "group",
      "aria-label": `${label}. Arrow keys choose a token, Enter shows its alternatives.`,
      onkeydown: (event) => this.onKey(event),
      onclick: (event) => this.onClick(event),
    };
    this.element = el("div", { class: "shaded", dir: "auto", ...keys });
    this.update();
  }

  /** Shows what the reply has now; what is on the screen already stays. */
  update() {
    const { reply, element } = this;
    const groups = reply.tokens.length
      ? groupsOf(reply.tokens, reply.stops)
      : [{ text: reply.text, first: 0, end: 0, p: 1 }];
    const isSame = (group, number) =>
      this.groups[number]?.text === group.text && this.groups[number].end === group.end;
    const changed = groups.findIndex((group, number) => !isSame(group, number));
    const kept = changed < 0 ? groups.length : changed;
    while (element.childNodes.length > kept) element.lastChild.remove();
    element.append(
      ...groups
        .slice(kept)
        .map((group) => el("span", { class: `shade-${shadeOf(group.p)}` }, group.text)),
    );
    this.groups = groups;
    if (reply.reason) element.append(el("span", { class: "ending" }, ENDS[reply.reason]));
    this.mark();
  }

  /** Marks the token that is chosen; null marks none. */
  choose(index) {
    this.chosen = index;
    this.mark();
  }

  mark() {
    this.element.querySelector(".chosen")?.classList.remove("chosen");
    if (this.chosen !== null) this.element.childNodes[this.place()]?.classList.add("chosen");
  }

  /** The number of the group with the chosen token; the last child stands for the end. */
  place() {
    const found = this.groups.findIndex(({ end }) => this.chosen < end);
    return found < 0 ? this.groups.length : found;
  }

  onClick(event) {
    const place = [...this.element.childNodes].indexOf(event.target);
    if (place < 0 || !this.reply.tokens.length || !getSelection().isCollapsed) return;
    this.choose(this.groups[place]?.first ?? this.reply.tokens.length);
    this.onChoose(this.chosen);
  }

  onKey(event) {
    const last = this.reply.tokens.length - (this.reply.reason ? 0 : 1);
    const moves = {
      ArrowRight: (this.chosen ?? -1) + 1,
      ArrowLeft: (this.chosen ?? last + 1) - 1,
      Home: 0,
      End: last,
    };
    if (event.altKey || event.ctrlKey || event.metaKey || last < 0) return;
    if (event.key in moves) {
      this.choose(Math.min(Math.max(moves[event.key], 0), last));
      announce(this.spoken());
    } else if (event.key === "Enter" && this.chosen !== null) {
      this.onChoose(this.chosen, true);
    } else {
      return;
    }
    event.preventDefault();
  }

  spoken() {
    const token = this.reply.tokens[this.chosen];
    if (!token) return "End of the reply";
    const { text } = this.groups[this.place()];
    const place = `token ${this.chosen + 1} of ${this.reply.tokens.length}`;
    return `${visible(text)}, ${percent(token.p)}, ${place}`;
  }
}

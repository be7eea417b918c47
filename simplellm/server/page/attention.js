/** Attention of a token: how much of it goes to each part of the text before. */

import { ask } from "./api.js";
import { el } from "./dom.js";
import { percent, visible } from "./tokens.js";

const NAMED = 3; // parts that are named in words

export class AttentionView {
  constructor(facts) {
    this.facts = facts;
    this.isOpen = false;
    this.layer = 0;
    this.head = 0;
  }

  /** A part of the panel that asks the server when it is opened. ids: the last one is the token. */
  element({ ids }) {
    const result = el("div", { class: "attention", "aria-live": "polite" });
    const update = () => this.show(ids, result);
    const details = el(
      "details",
      {
        open: this.isOpen,
        ontoggle: () => {
          this.isOpen = details.open;
          if (details.open) update();
        },
      },
      el("summary", {}, "Attention: where this token looks"),
      el(
        "div",
        { class: "choices" },
        this.select("Layer", "layer", this.facts.layers, update),
        this.select("Head", "head", this.facts.heads, update),
      ),
      result,
    );
    return details;
  }

  select(label, name, count, update) {
    const options = Array.from({ length: count + 1 }, (_, number) =>
      el(
        "option",
        { value: number, selected: number === this[name] },
        number ? String(number) : "mean of all",
      ),
    );
    const input = el(
      "select",
      {
        onchange: () => {
          this[name] = Number(input.value);
          update();
        },
      },
      ...options,
    );
    return el("label", {}, `${label} `, input);
  }

  async show(ids, result) {
    try {
      const { spans, n_left_out: nLeftOut } = await ask("simplellm/attention", {
        ids,
        layer: this.layer,
        head: this.head,
      });
      result.replaceChildren(sentence(spans), text(spans, nLeftOut));
    } catch (error) {
      result.replaceChildren(el("p", { class: "problem" }, error.message));
    }
  }
}

function sentence(spans) {
  const most = [...spans].sort((one, other) => other.share - one.share).slice(0, NAMED);
  const names = most.map(({ text: name, share }) => `“${visible(name)}” ${percent(share)}`);
  return el("p", {}, `Most of it goes to ${names.join(", ")}.`);
}

function text(spans, nLeftOut) {
  const highest = Math.max(...spans.map(({ share }) => share));
  const parts = spans.map(({ text: part, share }, number) => {
    const isToken = number === spans.length - 1;
    const span = el("span", { title: percent(share), class: isToken ? "looking" : null }, part);
    const level = Math.sqrt(share / highest); // small shares stay visible
    span.style.setProperty("--share", level.toFixed(2));
    return span;
  });
  const before = nLeftOut ? `${nLeftOut} tokens before are outside of the context. ` : "";
  return el(
    "div",
    {},
    el(
      "div",
      {
        class: "read-text",
        dir: "auto",
        tabindex: "0",
        role: "group",
        "aria-label": "The text that the model reads",
      },
      ...parts,
    ),
    el(
      "p",
      { class: "note" },
      `${before}The darkest part gets ${percent(highest)}. The frame marks the token that looks.`,
    ),
  );
}

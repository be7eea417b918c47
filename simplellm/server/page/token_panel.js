/** The panel of one token: what could have stood there, and what the settings did. */

import { ask } from "./api.js";
import { AttentionView } from "./attention.js";
import { byId, closeButton, el } from "./dom.js";
import { idsBefore } from "./reply.js";
import { percent, toToken, visible } from "./tokens.js";
import { isPanelOpen, showPanel } from "./views.js";

const TOP = 10;
const NAMES = {
  repetition_penalty: "repetition penalty",
  temperature: "temperature",
  top_k: "top-k",
  top_p: "top-p",
  min_p: "min-p",
};
const NO_EFFECT = { repetition_penalty: 1, temperature: 1, top_k: 0, top_p: 1, min_p: 0 };

export class TokenPanel {
  /** onContinue(number, index, token) continues turn `number` with another token at `index`. */
  constructor(facts, settings, onContinue) {
    this.model = `${facts.model}@${facts.step}`;
    this.settings = settings;
    this.onContinue = onContinue;
    this.attention = new AttentionView(facts);
    this.shown = null;
  }

  /** shown: { number, reply, view, index, byKey }: token `index` of a reply, the turn `number`. */
  async show(shown) {
    if (this.shown?.view !== shown.view) this.shown?.view.choose(null);
    this.shown = shown;
    shown.view.choose(shown.index);
    showPanel("token");
    shown.view.element.querySelector(".chosen")?.scrollIntoView({ block: "nearest" });
    const body = el(
      "div",
      { class: "panel-body" },
      el("p", { class: "note" }, "Asking the model …"),
    );
    const focused = this.focusedLabel();
    byId("token").replaceChildren(this.header(), body);
    if (focused)
      byId("token")
        .querySelector(`[aria-label="${CSS.escape(focused)}"]`)
        ?.focus();
    try {
      const parts = await this.parts();
      if (this.shown !== shown) return;
      body.replaceChildren(...parts);
      if (shown.byKey && !focused) body.querySelector("button")?.focus();
    } catch (error) {
      body.replaceChildren(el("p", { class: "problem" }, error.message));
    }
  }

  /** The name of the button in the panel that has the focus, or null. */
  focusedLabel() {
    return document.activeElement.closest("#token") && document.activeElement.ariaLabel;
  }

  /** Asks again where the settings have changed. */
  refresh() {
    if (this.shown && isPanelOpen("token")) this.show({ ...this.shown, byKey: false });
  }

  close() {
    if (!this.shown) return;
    showPanel(null);
    const { view, byKey } = this.shown;
    this.shown = null;
    if (byKey) view.element.focus();
    else view.choose(null);
  }

  // ------------------------------------------------------------ parts

  header() {
    const { reply, index } = this.shown;
    const step = (label, sign, to) =>
      el(
        "button",
        {
          type: "button",
          class: "plain",
          "aria-label": label,
          disabled: to < 0 || to > reply.tokens.length,
          onclick: () => this.show({ ...this.shown, index: to }),
        },
        sign,
      );
    const place =
      index < reply.tokens.length
        ? `Token ${index + 1} of ${reply.tokens.length}`
        : "End of the reply";
    return el(
      "header",
      {},
      step("Previous token", "‹", index - 1),
      el("h2", {}, place),
      step("Next token", "›", index + 1),
      closeButton(() => this.close()),
    );
  }

  async parts() {
    const { reply, index } = this.shown;
    if (reply.model !== this.model)
      return [note(`This reply is by another model, ${reply.model}.`)];
    if (!reply.promptIds) return [note("The tokens of this reply are no longer kept.")];
    const token = reply.tokens[index];
    const next = await ask("simplellm/next", {
      ids: idsBefore(reply, index),
      top: TOP,
      settings: this.settings.sampling,
      ...(token && { also: token.id }),
    });
    const chosen = next.candidates.find(({ id }) => id === token?.id);
    return [
      chosen ? this.summary(chosen) : null,
      el("h3", {}, "What could stand here"),
      this.table(next, chosen),
      el("h3", {}, "What the settings do here"),
      this.steps(next, chosen ?? next.candidates[0]),
      this.attention.element({ ids: idsBefore(reply, index + 1) }),
    ].filter((part) => part !== null);
  }

  summary({ text, probability, rank, id }) {
    return el(
      "p",
      { class: "summary" },
      el("span", { class: "token-text" }, visible(text)),
      el("span", {}, ` ${percent(probability)}`),
      el(
        "span",
        { class: "note" },
        rank === 1 ? " · the most likely token" : ` · number ${rank} by probability`,
        ` · id ${id}`,
      ),
    );
  }

  table({ candidates }, chosen) {
    const rows = candidates.map((candidate) => this.row(candidate, candidate === chosen));
    const list = el("ul", { class: "candidates", onkeydown: moveFocus }, ...rows);
    return el(
      "div",
      {},
      el(
        "p",
        { class: "note columns", "aria-hidden": "true" },
        el("span", {}, "token"),
        el("span", {}, "model"),
        el("span", {}, "with the settings"),
      ),
      list,
      note("Choose one to go on from here with it."),
    );
  }

  row(candidate, isChosen) {
    const { text, probability, probabilities, removed_by: removedBy } = candidate;
    const after = removedBy ? `removed by ${NAMES[removedBy]}` : percent(probabilities.at(-1));
    const { number, index } = this.shown;
    const shares = `model ${percent(probability)}, with the settings ${after}`;
    const button = el(
      "button",
      {
        type: "button",
        class: `candidate${isChosen ? " is-chosen" : ""}${removedBy ? " is-removed" : ""}`,
        "aria-current": isChosen && "true",
        "aria-label": `${visible(text)}, ${shares}. Continue with it`,
        onclick: () => {
          this.close();
          this.onContinue(number, index, toToken(candidate));
        },
      },
      el("span", { class: "token-text" }, visible(text)),
      el("span", { class: "number" }, percent(probability)),
      el("span", { class: "number after" }, after),
      bar(probability, "before"),
      bar(probabilities.at(-1), "after"),
    );
    return el("li", {}, button);
  }

  /** One line for each setting: what it is, and what it does to the token. */
  steps({ steps }, { text, probability, probabilities }) {
    const lines = steps.map(({ setting, value, n_kept: nKept }, number) => {
      const before = number ? probabilities[number - 1] : probability;
      const name = `${NAMES[setting]} ${value}`;
      if (value === NO_EFFECT[setting])
        return el("li", { class: "note" }, `${NAMES[setting]} is off`);
      return el(
        "li",
        {},
        el("strong", {}, name),
        ` ${effect(setting, nKept, before, probabilities[number], text)}`,
      );
    });
    return el("ol", { class: "steps" }, ...lines);
  }
}

function effect(setting, nKept, before, after, text) {
  const kept = nKept === 1 ? "1 token is left" : `${nKept.toLocaleString("en")} tokens are left`;
  const isFilter = setting.startsWith("top") || setting === "min_p" || nKept === 1;
  const change =
    before > 0 && after === 0
      ? `${visible(text)} is removed`
      : `${visible(text)} ${percent(before)} → ${percent(after)}`;
  return (isFilter ? `${kept}` : "") + (before > 0 ? `${isFilter ? "; " : ""}${change}` : "");
}

function bar(share, name) {
  const filled = el("span", { class: `bar ${name}`, "aria-hidden": "true" });
  filled.style.setProperty("--share", share);
  return filled;
}

const note = (text) => el("p", { class: "note" }, text);

/** Arrow keys move between the buttons of a list. */
function moveFocus(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const buttons = [...event.currentTarget.querySelectorAll("button")];
  buttons[buttons.indexOf(event.target) + step]?.focus();
  event.preventDefault();
}

/** The settings of replies: the form, what each of them means, and their values. */

import { byId, closeButton, el } from "./dom.js";
import { showPanel } from "./views.js";

const KEPT = "simplellm.settings";
const MEANINGS = {
  temperature: [
    "Temperature",
    "Low values keep to likely tokens, high values take risks. 0 takes the most likely one.",
  ],
  top_k: ["Top-k", "Only this many of the most likely tokens stay. 0 keeps all."],
  top_p: [
    "Top-p",
    "Only the most likely tokens that together reach this probability stay. 1 keeps all.",
  ],
  min_p: [
    "Min-p",
    "Tokens less likely than this share of the most likely one are left out. 0 keeps all.",
  ],
  repetition_penalty: [
    "Repetition penalty",
    "Above 1, each of the last 64 tokens becomes less likely. 1 changes nothing.",
  ],
  max_new_tokens: ["Longest reply", "The reply is cut off after this many tokens."],
  stop: ["Stop texts", "A reply ends where one of these texts begins. One on each line."],
  seed: ["Seed", "The same seed gives the same reply again. Empty: another reply each time."],
};
const NAMES_IN_API = { max_new_tokens: "max_tokens" };

export class Settings {
  /** facts: of the served model. onChange is called after each change. */
  constructor(facts, onChange) {
    this.declared = facts.settings;
    this.isChat = facts.is_chat;
    this.usuallyKeepsContext = facts.keeps_context;
    this.onChange = onChange;
    this.given = { ...JSON.parse(localStorage.getItem(KEPT) ?? "{}") };
    this.render();
  }

  /** The sampling settings by their names in the library. */
  get sampling() {
    return Object.fromEntries(
      this.declared.map(({ name, default: usual }) => [name, this.given[name] ?? usual]),
    );
  }

  /** The sampling settings as the API names them. */
  get forApi() {
    const named = Object.entries(this.sampling).map(([name, value]) => [
      NAMES_IN_API[name] ?? name,
      value,
    ]);
    return Object.fromEntries(named.filter(([, value]) => value !== null));
  }

  /** The system message; empty for none. */
  get system() {
    return this.isChat ? (this.given.system ?? "") : "";
  }

  /** Whether the model reads the earlier turns. */
  get keepsContext() {
    return this.given.keepsContext ?? this.usuallyKeepsContext;
  }

  render() {
    const fields = this.declared.map((setting) => this.field(setting));
    byId("settings").replaceChildren(
      el(
        "header",
        {},
        el("h2", {}, "Settings"),
        closeButton(() => showPanel(null)),
      ),
      ...(this.isChat ? [this.systemField()] : []),
      this.contextField(),
      ...fields,
      el("button", { type: "button", onclick: () => this.reset() }, "Back to the defaults"),
    );
  }

  change(name, value) {
    if (value === undefined) delete this.given[name];
    else this.given[name] = value;
    localStorage.setItem(KEPT, JSON.stringify(this.given));
    this.onChange();
  }

  reset() {
    this.given = {};
    localStorage.removeItem(KEPT);
    this.render();
    this.onChange();
  }

  field(setting) {
    const { name, kind } = setting;
    const [label, meaning] = MEANINGS[name] ?? [name, setting.help];
    const id = `setting-${name}`;
    const input = kind === "texts" ? this.textsInput(setting, id) : this.numberInput(setting, id);
    return labelled(id, label, input, meaning);
  }

  numberInput(setting, id) {
    const { name, kind, minimum, maximum } = setting;
    const isWhole = kind === "int";
    const input = el("input", {
      id,
      type: "number",
      step: isWhole ? "1" : "any",
      min: minimum,
      max: maximum,
      placeholder: setting.default === null ? "random" : null,
      "aria-describedby": `${id}-meaning`,
      onchange: () => this.readNumber(setting, input),
    });
    input.value = this.sampling[name] ?? "";
    return input;
  }

  readNumber(setting, input) {
    const value = input.valueAsNumber;
    const isOutside =
      (setting.open_minimum && value <= setting.minimum) ||
      (setting.open_maximum && value >= setting.maximum);
    input.setCustomValidity(isOutside ? `The value is ${setting.range}.` : "");
    if (!input.reportValidity()) return;
    this.change(setting.name, Number.isNaN(value) ? undefined : value);
    input.value = this.sampling[setting.name] ?? "";
  }

  textsInput({ name }, id) {
    const input = el("textarea", {
      id,
      rows: "2",
      "aria-describedby": `${id}-meaning`,
      onchange: () =>
        this.change(
          name,
          input.value.split("\n").filter((line) => line),
        ),
    });
    input.value = this.sampling[name].join("\n");
    return input;
  }

  systemField() {
    const id = "setting-system";
    const input = el("textarea", {
      id,
      rows: "2",
      "aria-describedby": `${id}-meaning`,
      onchange: () => this.change("system", input.value || undefined),
    });
    input.value = this.system;
    return labelled(
      id,
      "System message",
      input,
      "What the model is told before the conversation begins.",
    );
  }

  contextField() {
    const id = "setting-context";
    const input = el("input", {
      id,
      type: "checkbox",
      "aria-describedby": `${id}-meaning`,
      onchange: () => this.change("keepsContext", input.checked),
    });
    input.checked = this.keepsContext;
    return labelled(
      id,
      "Earlier turns",
      input,
      "The model reads the earlier turns of the conversation too.",
    );
  }
}

function labelled(id, label, input, meaning) {
  return el(
    "div",
    { class: input.type === "checkbox" ? "setting switch" : "setting" },
    el("label", { for: id }, label),
    input,
    el("p", { id: `${id}-meaning`, class: "note" }, meaning),
  );
}

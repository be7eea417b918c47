/** The training of the run: its loss curve, and what the model wrote at each checkpoint. */

import { ask } from "./api.js";
import { LossChart } from "./chart.js";
import { byId, el } from "./dom.js";
import { ShadedText } from "./shaded.js";
import { toToken } from "./tokens.js";

const PAUSE = 250; // milliseconds that the slider rests before a checkpoint is asked
const ANSWER_TOKENS = 80;
const SEED = 1; // the same for all checkpoints, so that only the weights differ

export class Training {
  /** prompt: the text that is suggested first. */
  constructor(facts, settings) {
    this.facts = facts;
    this.settings = settings;
    this.answers = new Map(); // from the step and all that was asked to the reply
    this.hasAsked = false; // then each checkpoint on the way of the slider is asked
    this.loaded = null;
  }

  /** Asks for the curve the first time, and after a failure. */
  async show(prompt) {
    this.loaded ??= ask("simplellm/training");
    try {
      const curves = await this.loaded;
      if (!this.slider) this.render(curves, prompt);
    } catch (error) {
      this.loaded = null;
      byId("training").replaceChildren(el("p", { class: "problem" }, error.message));
    }
  }

  // ------------------------------------------------------------ parts

  render(curves, prompt) {
    this.samples = new Map(curves.samples.map(({ step, text }) => [step, text]));
    this.losses = new Map(curves.validation);
    this.kept = new Map(this.facts.checkpoints.map((checkpoint) => [checkpoint.step, checkpoint]));
    this.stops = [...new Set([...this.samples.keys(), ...this.kept.keys()])].sort(
      (one, other) => one - other,
    );
    this.chart =
      curves.validation.length || curves.train.length ? new LossChart(curves, this.kept) : null;
    this.sample = el("div", { class: "shaded" });
    this.answer = el("div", { class: "answer", "aria-live": "polite" });
    byId("training").replaceChildren(
      el("h2", {}, `Training of ${this.facts.run}`),
      this.curve(curves),
      this.sliderRow(),
      el("div", { class: "cards" }, this.sampleCard(), this.answerCard(prompt)),
    );
    const served =
      this.facts.checkpoints.find(({ is_served: isServed }) => isServed) ??
      this.facts.checkpoints.at(-1);
    this.slider.value = this.stops.indexOf(served.step);
    this.move();
  }

  curve({ best_step: best }) {
    if (!this.chart)
      return el("p", { class: "note" }, "There is no record of the training of this model.");
    return el(
      "figure",
      {},
      this.chart.element,
      el(
        "figcaption",
        { class: "note" },
        el("span", { class: "key train" }, "training loss"),
        el("span", { class: "key validation" }, "validation loss"),
        el("span", { class: "key dots" }, "weights kept"),
        best === null
          ? null
          : el(
              "span",
              {},
              `Best at step ${best}: ${this.losses.get(best).toFixed(3)} nats per token.`,
            ),
      ),
    );
  }

  sliderRow() {
    this.slider = el("input", {
      id: "checkpoint",
      type: "range",
      min: 0,
      max: this.stops.length - 1,
      list: "checkpoint-stops",
      oninput: () => this.move(),
    });
    this.place = el("output", { for: "checkpoint" });
    const stops = this.stops.map((_, number) => el("option", { value: number }));
    return el(
      "div",
      { class: "slider", hidden: this.stops.length < 2 },
      el("label", { for: "checkpoint" }, "Checkpoint"),
      this.slider,
      el("datalist", { id: "checkpoint-stops" }, ...stops),
      this.place,
    );
  }

  sampleCard() {
    return el(
      "section",
      { class: "card", "aria-labelledby": "sample-title" },
      el("h3", { id: "sample-title" }, "Sample from the training"),
      el(
        "p",
        { class: "note" },
        this.facts.is_chat
          ? "The answer to the first question of the held-out text, written at this step."
          : "A continuation of the beginning of the held-out text, written at this step.",
      ),
      this.sample,
    );
  }

  answerCard(prompt) {
    this.prompt = el("textarea", { id: "same-prompt", rows: "2", dir: "auto" });
    this.prompt.value = prompt;
    return el(
      "section",
      { class: "card", "aria-labelledby": "answer-title" },
      el("h3", { id: "answer-title" }, "Your prompt at this checkpoint"),
      el(
        "label",
        { for: "same-prompt", class: "note" },
        "The same prompt, settings and seed for each; only the weights differ.",
      ),
      this.prompt,
      el("button", { type: "button", class: "primary", onclick: () => this.ask() }, "Answer"),
      this.answer,
    );
  }

  // ------------------------------------------------------------ the slider

  get step() {
    return this.stops[Number(this.slider.value)];
  }

  move() {
    const { step } = this;
    const loss = this.losses.get(step) ?? this.kept.get(step)?.val_loss;
    const words = [
      `Step ${step.toLocaleString("en")}`,
      loss == null ? null : `validation loss ${loss.toFixed(3)}`,
      this.kept.get(step)?.is_best ? "the best" : null,
      this.kept.get(step)?.is_served ? "answers in the chat" : null,
      this.kept.has(step) ? null : "weights not kept",
    ].filter((word) => word !== null);
    this.place.textContent = words.join(" · ");
    this.slider.setAttribute("aria-valuetext", words.join(", "));
    this.chart?.mark(step);
    this.sample.textContent = this.samples.get(step) ?? "There is no sample of this step.";
    this.answer.replaceChildren(...this.shownAnswer());
    clearTimeout(this.timer);
    if (this.hasAsked && this.kept.has(step) && !this.answers.has(this.key())) {
      this.timer = setTimeout(() => this.ask(), PAUSE);
    }
  }

  /** The answer of the step of the slider, or why there is none. */
  shownAnswer() {
    if (!this.kept.has(this.step)) {
      const steps = [...this.kept.keys()].join(", ");
      return [
        el(
          "p",
          { class: "note" },
          `The weights of this step were deleted. Kept are those of step ${steps}.`,
        ),
      ];
    }
    const reply = this.answers.get(this.key());
    return reply ? [new ShadedText(reply).element] : [];
  }

  async ask() {
    this.running?.abort();
    if (!this.prompt.value || !this.kept.has(this.step)) return;
    this.hasAsked = true;
    const [running, key, { step }] = [new AbortController(), this.key(), this];
    this.running = running;
    this.answer.replaceChildren(el("p", { class: "note" }, `Step ${step} is answering …`));
    try {
      const found = await ask("simplellm/answer", this.request(), running.signal);
      this.answers.set(key, {
        text: found.text,
        tokens: found.tokens.map(toToken),
        stops: this.settings.sampling.stop,
        reason: found.stop_reason === "length" ? "length" : "stop",
      });
      if (key === this.key()) this.answer.replaceChildren(...this.shownAnswer());
    } catch (error) {
      if (error.name !== "AbortError")
        this.answer.replaceChildren(el("p", { class: "problem" }, error.message));
    }
  }

  request() {
    const settings = { ...this.settings.sampling, max_new_tokens: ANSWER_TOKENS };
    settings.seed ??= SEED;
    return { step: this.step, prompt: this.prompt.value, settings };
  }

  key() {
    return JSON.stringify(this.request());
  }
}

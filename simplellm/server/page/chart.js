/** The loss curves of a training as an SVG image. */

import { svg } from "./dom.js";

const [WIDTH, HEIGHT] = [720, 260];
const MARGIN = { left: 44, right: 26, top: 12, bottom: 30 };
const MOST_TICKS = 5;
const STEPS = [1, 2, 5, 10];

/** curves: { train, validation }, lists of [step, loss]. kept: steps whose weights still exist. */
export class LossChart {
  constructor({ train, validation }, kept) {
    const all = [...train, ...validation];
    this.x = scale(
      all.map(([step]) => step),
      MARGIN.left,
      WIDTH - MARGIN.right,
    );
    this.y = scale(
      all.map(([, loss]) => loss),
      HEIGHT - MARGIN.bottom,
      MARGIN.top,
    );
    this.cursor = svg("line", { class: "cursor", y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom });
    this.dots = new Map(
      validation.map(([step, loss]) => [
        step,
        svg("circle", {
          class: kept.has(step) ? "dot kept" : "dot",
          cx: this.x.at(step),
          cy: this.y.at(loss),
          r: 4,
        }),
      ]),
    );
    this.element = svg(
      "svg",
      {
        viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
        class: "chart",
        role: "img",
        "aria-label": inWords(validation),
      },
      ...this.y.ticks.flatMap((loss) => this.lossTick(loss)),
      ...this.x.ticks.map((step) => this.stepTick(step)),
      this.cursor,
      svg("path", { class: "train", d: this.path(train) }),
      svg("path", { class: "validation", d: this.path(validation) }),
      ...this.dots.values(),
    );
  }

  /** Marks a step with a line and a filled dot. */
  mark(step) {
    const x = this.x.at(step);
    this.cursor.setAttribute("x1", x);
    this.cursor.setAttribute("x2", x);
    for (const [own, dot] of this.dots) dot.classList.toggle("chosen", own === step);
  }

  path(points) {
    return points
      .map(
        ([step, loss], number) =>
          `${number ? "L" : "M"}${this.x.at(step).toFixed(1)} ${this.y.at(loss).toFixed(1)}`,
      )
      .join("");
  }

  lossTick(loss) {
    const y = this.y.at(loss);
    return [
      svg("line", { class: "grid", x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: y, y2: y }),
      svg(
        "text",
        { class: "tick", x: MARGIN.left - 8, y: y + 4, "text-anchor": "end" },
        tidy(loss),
      ),
    ];
  }

  stepTick(step) {
    const attributes = {
      class: "tick",
      x: this.x.at(step),
      y: HEIGHT - 8,
      "text-anchor": "middle",
    };
    return svg("text", attributes, step.toLocaleString("en"));
  }
}

/** A linear scale from the range of `values` to pixels, and round values for its ticks. */
function scale(values, from, to) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const width = high - low || 1;
  const rough = width / MOST_TICKS;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = STEPS.map((factor) => factor * power).find((one) => one >= rough);
  const first = Math.ceil(low / step);
  const count = Math.floor(high / step) - first + 1;
  return {
    at: (value) => from + ((value - low) / width) * (to - from),
    ticks: Array.from({ length: count }, (_, number) => (first + number) * step),
  };
}

const tidy = (number) => String(Number(number.toPrecision(4)));

function inWords(validation) {
  if (!validation.length) return "Loss curve of the training";
  const [[, first], [, last]] = [validation[0], validation.at(-1)];
  const best = validation.reduce((one, other) => (other[1] < one[1] ? other : one));
  return (
    `Loss curve: validation loss ${tidy(first)} at first, ${tidy(last)} at the end, ` +
    `best ${tidy(best[1])} at step ${best[0]}`
  );
}

/** Tokens of a reply: their text, and how likely they were.
 *
 * A token is { id, bytes, p }: `bytes` is a string with one character for each byte, which takes
 * little room in the storage of the browser; `p` is its probability without sampling settings.
 */

export const toToken = ({ id, bytes, probability }) => ({
  id,
  bytes: String.fromCharCode(...bytes),
  p: Number(probability.toPrecision(4)),
});

const bytesOf = (token) => Uint8Array.from(token.bytes, (character) => character.charCodeAt(0));

/** Tokens in groups with whole characters: { text, first, end, p }, up to a stop text.
 *
 * Many characters need several tokens; `p` is the product of their probabilities.
 */
export function groupsOf(tokens, stops) {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const groups = [];
  let [first, p] = [0, 1];
  tokens.forEach((token, index) => {
    const text = decoder.decode(bytesOf(token), { stream: true });
    p *= token.p;
    if (text || !token.bytes) {
      groups.push({ text, first, end: index + 1, p });
      [first, p] = [index + 1, 1];
    }
  });
  return cut(groups, stops);
}

/** The groups before a stop text, which may begin within a token. */
function cut(groups, stops) {
  const text = groups.map((group) => group.text).join("");
  const places = stops.map((stop) => text.indexOf(stop)).filter((place) => place >= 0);
  if (!places.length) return groups;
  const kept = [];
  let room = Math.min(...places);
  for (const group of groups) {
    if (room <= 0 && group.text) break;
    kept.push({ ...group, text: group.text.slice(0, room) });
    room -= group.text.length;
  }
  return kept;
}

export const textOf = (tokens, stops) =>
  groupsOf(tokens, stops)
    .map(({ text }) => text)
    .join("");

/** The shades: the least probability of each, and its name in the legend. */
export const SHADES = [
  [0.5, "≥ 50%"],
  [0.2, "≥ 20%"],
  [0.05, "≥ 5%"],
  [0.01, "≥ 1%"],
  [0, "< 1%"],
];

/** The number of the shade of a probability; 0 is for likely tokens and has no colour. */
export const shadeOf = (probability) => SHADES.findIndex(([least]) => probability >= least);

/** A probability for a reader: `23%`, `0.4%`, `<0.1%`. */
export function percent(probability) {
  if (probability > 0 && probability < 0.001) return "<0.1%";
  return `${(100 * probability).toFixed(probability < 0.0995 ? 1 : 0)}%`;
}

/** The text of one token for a reader: spaces and line ends are visible. */
export const visible = (text) =>
  text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥") || "∅";

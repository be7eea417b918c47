/** Replies of the model: { text, tokens, promptIds, stops, reason, model }.
 *
 * promptIds: the ids that the model read before the tokens; null where they are not known. reason:
 * why it ended: "stop", "length", "interrupted", or null while it is written.
 */

import { events } from "./api.js";
import { textOf, toToken } from "./tokens.js";

export const newReply = (model) => ({
  text: "",
  tokens: [],
  promptIds: null,
  stops: [],
  reason: null,
  model,
});

/** The reply as it was before token number `index`, followed by another token. */
export function branched(reply, index, token) {
  const tokens = [...reply.tokens.slice(0, index), ...(token ? [token] : [])];
  return { ...reply, tokens, text: textOf(tokens, reply.stops), reason: null };
}

/** Marks a reply as interrupted that the page can no longer write. */
export function interrupt(reply) {
  reply.reason = "interrupted";
  reply.text = textOf(reply.tokens, reply.stops);
}

/** The ids of everything that was read and written up to token number `index`. */
export const idsBefore = (reply, index = reply.tokens.length) => [
  ...reply.promptIds,
  ...reply.tokens.slice(0, index).map(({ id }) => id),
];

/** Appends what the model writes after `start`: { messages }, or { prompt } as text or ids.
 *
 * endIds: tokens that end a reply and are no part of it. onChange is called after each event. An
 * interruption leaves what was written so far.
 */
export async function write(reply, start, settings, { endIds, signal, onChange }) {
  const isChat = "messages" in start;
  const path = isChat ? "v1/chat/completions" : "v1/completions";
  const logprobs = isChat ? { logprobs: true } : { logprobs: 0 };
  const body = { ...start, ...settings, ...logprobs, stream: true, return_token_ids: true };
  reply.stops = settings.stop;
  reply.reason = null;
  try {
    for await (const event of events(path, body, signal)) {
      for (const choice of event.choices) {
        reply.promptIds ??= event.prompt_token_ids ?? choice.prompt_token_ids ?? null;
        add(reply, choice, endIds);
      }
      onChange();
    }
    reply.text = textOf(reply.tokens, reply.stops);
  } catch (error) {
    interrupt(reply);
    if (error.name !== "AbortError") throw error;
  } finally {
    onChange();
  }
}

function add(reply, choice, endIds) {
  const { logprobs, token_ids: ids, token_bytes: bytes } = choice;
  const logs = logprobs?.content?.map(({ logprob }) => logprob) ?? logprobs?.token_logprobs;
  const tokens = ids.map((id, number) =>
    toToken({ id, bytes: bytes[number], probability: Math.exp(logs[number]) }),
  );
  reply.tokens.push(...tokens.filter(({ id }) => !endIds.includes(id)));
  reply.reason = choice.finish_reason ?? reply.reason;
}

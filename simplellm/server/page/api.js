/** Requests to the server that this page comes from, and their errors in words. */

import { byId } from "./dom.js";

const KEY = "simplellm.api-key";
const GONE = "The server does not answer. Is `simplellm serve` still running?";
const BROKEN_OFF = "The server stopped in the middle of the reply.";

/** An error for the reader. code: of the API. */
export class Problem extends Error {
  constructor(message, code = null) {
    super(message);
    this.code = code;
  }
}

/** The JSON answer to a GET request, or to a POST request if there is a body. */
export async function ask(path, body = null, signal = null) {
  return (await send(path, body, signal)).json();
}

/** The events of a streamed answer, as objects. */
export async function* events(path, body, signal) {
  const response = await send(path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch(brokenOff);
      if (done) throw new Problem(BROKEN_OFF);
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const data of lines
        .filter((line) => line.startsWith("data: "))
        .map((line) => line.slice(6))) {
        if (data.trim() === "[DONE]") return;
        const event = JSON.parse(data);
        if (event.error) throw new Problem(sentence(event.error.message), event.error.code);
        yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function brokenOff(error) {
  throw error.name === "AbortError" ? error : new Problem(BROKEN_OFF);
}

async function send(path, body, signal) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const response = await fetch(path, {
      method: body ? "POST" : "GET",
      headers: {
        ...(body && { "content-type": "application/json" }),
        ...(key && { authorization: `Bearer ${key}` }),
      },
      body: body && JSON.stringify(body),
      signal,
    }).catch((error) => {
      throw error.name === "AbortError" ? error : new Problem(GONE);
    });
    if (response.ok) return response;
    if (response.status !== 401) throw await problemOf(response);
    await askForKey(key);
  }
}

async function problemOf(response) {
  const { error } = await response.json().catch(() => ({}));
  if (response.status === 429) {
    const seconds = response.headers.get("retry-after");
    return new Problem(
      `The server is busy. Try again${seconds ? ` in ${seconds} s` : " soon"}.`,
      error?.code,
    );
  }
  const message = error?.message ?? `The server answered with status ${response.status}.`;
  return new Problem(sentence(message), error?.code);
}

const sentence = (text) =>
  text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");

let asking = null; // one dialog for all requests that need the key

/** Waits until the reader gave another key than `refused`. */
async function askForKey(refused) {
  asking ??= showKeyDialog(refused).finally(() => {
    asking = null;
  });
  return asking;
}

function showKeyDialog(refused) {
  const [dialog, input] = [byId("key-dialog"), byId("key")];
  byId("key-reason").textContent = refused
    ? "The server refused this key."
    : "This server needs its API key.";
  input.value = "";
  dialog.returnValue = "cancel";
  dialog.showModal();
  input.focus();
  return new Promise((resolve, reject) => {
    dialog.addEventListener(
      "close",
      () => {
        if (dialog.returnValue !== "use")
          return reject(new Problem("The server needs its API key."));
        sessionStorage.setItem(KEY, input.value.trim());
        return resolve();
      },
      { once: true },
    );
  });
}

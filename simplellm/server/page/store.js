/** Conversations, kept in the browser: one entry of localStorage for each.
 *
 * A conversation is { id, title, updated, turns }. A turn of the reader is { role, text }, one of
 * the model { role, versions, shown }: all its replies, and the number of the visible one.
 */

const PREFIX = "simplellm.conversation.";

export const newConversation = () => ({
  id: crypto.getRandomValues(new Uint32Array(2)).join("-"),
  title: "",
  updated: 0,
  turns: [],
});

/** All conversations, the newest first. Entries that are damaged are left out. */
export function allConversations() {
  return Object.keys(localStorage)
    .filter((key) => key.startsWith(PREFIX))
    .map((key) => read(key))
    .filter((found) => found !== null)
    .sort((one, other) => other.updated - one.updated);
}

/** Saves a conversation. Where the storage is full, the oldest ones lose tokens, but no text. */
export function saveConversation(conversation) {
  if (!conversation.turns.length) return;
  conversation.updated = Date.now();
  const older = allConversations().filter(({ id }) => id !== conversation.id);
  for (;;) {
    try {
      localStorage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
      return;
    } catch (error) {
      if (error.name !== "QuotaExceededError" || !older.length) throw error;
      const oldest = withoutTokens(older.pop());
      localStorage.setItem(PREFIX + oldest.id, JSON.stringify(oldest));
    }
  }
}

export function deleteConversation(id) {
  localStorage.removeItem(PREFIX + id);
}

export function renameConversation(conversation, title) {
  conversation.title = title;
  localStorage.setItem(PREFIX + conversation.id, JSON.stringify(conversation));
}

/** The visible reply of a turn of the model. */
export const shownReply = (turn) => turn.versions[turn.shown];

/** A conversation as one line of a .jsonl file that `simplellm train` reads. */
export const toLine = ({ title, turns }) =>
  JSON.stringify({
    title,
    messages: turns.map((turn) => ({
      role: turn.role,
      content: turn.text ?? shownReply(turn).text,
    })),
  });

function read(key) {
  try {
    const found = JSON.parse(localStorage.getItem(key));
    return Array.isArray(found?.turns) ? found : null;
  } catch {
    return null;
  }
}

const withoutTokens = (conversation) => ({
  ...conversation,
  turns: conversation.turns.map((turn) =>
    turn.versions
      ? {
          ...turn,
          versions: turn.versions.map((reply) => ({ ...reply, tokens: [], promptIds: null })),
        }
      : turn,
  ),
});

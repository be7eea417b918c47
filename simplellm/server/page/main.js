/** Starts the page: asks the server what it serves, and connects the parts. */

import { ask } from "./api.js";
import { Chat } from "./chat.js";
import { startComposer } from "./composer.js";
import { byId, el } from "./dom.js";
import { ConversationList } from "./list.js";
import { Settings } from "./settings.js";
import { startShading } from "./shaded.js";
import { startShortcuts } from "./shortcuts.js";
import { startTheme } from "./theme.js";
import { TokenPanel } from "./token_panel.js";
import { Training } from "./training.js";
import { isPanelOpen, showList, showPanel, showView, toggleList, togglePanel } from "./views.js";

startTheme();
startShading();
start();

async function start() {
  try {
    connect(await ask("simplellm/run"));
  } catch (error) {
    const again = el("button", { type: "button", onclick: start }, "Try again");
    byId("turns").replaceChildren(el("p", { class: "problem" }, error.message), again);
  }
}

function connect(facts) {
  describe(facts);
  const settings = new Settings(facts, () => token.refresh());
  const token = new TokenPanel(facts, settings, (...place) => chat.branch(...place));
  const training = new Training(facts, settings);
  const chat = new Chat(facts, settings, {
    onToken: (shown) => token.show(shown),
    onOpen: () => {
      token.close();
      showList(false);
      list.render();
    },
    onSaved: () => list.render(),
  });
  const list = new ConversationList(chat);
  const composer = startComposer(facts, chat);
  const startNew = () => {
    showView("chat");
    chat.startNew();
    composer.focus();
  };
  const toggleTraining = () => {
    showView(byId("training").hidden ? "training" : "chat");
    training.show(chat.lastMessage);
  };
  const closeOrStop = () => {
    if (isPanelOpen("token")) token.close();
    else if (isPanelOpen("settings")) showPanel(null);
    else chat.stop();
  };
  byId("new").addEventListener("click", startNew);
  byId("show-list").addEventListener("click", toggleList);
  byId("show-settings").addEventListener("click", () => togglePanel("settings"));
  byId("show-chat").addEventListener("click", () => showView("chat"));
  byId("show-training").addEventListener("click", toggleTraining);
  startShortcuts(
    {
      N: ["new conversation", startNew],
      R: ["regenerate the last reply", () => chat.regenerateLast()],
      L: ["list of conversations", toggleList],
      S: ["settings", () => togglePanel("settings")],
      T: ["training, and back to the chat", toggleTraining],
      P: ["shading of tokens", () => byId("shading").click()],
      M: ["go to the message field", () => composer.focus()],
    },
    closeOrStop,
  );
  chat.openLast();
  list.render();
  composer.focus();
}

function describe(facts) {
  document.title = `${facts.run} · SimpleLLM`;
  byId("model-name").textContent = facts.run;
  const loss = facts.figures.bits_per_byte;
  const parts = [
    facts.step ? `step ${facts.step.toLocaleString("en")}` : null,
    `${(facts.parameters / 1e6).toPrecision(3)} M parameters`,
    `context ${facts.context.toLocaleString("en")}`,
    loss ? `${loss.toFixed(3)} bits per byte` : null,
  ];
  byId("model-facts").textContent = parts.filter((part) => part !== null).join(" · ");
}

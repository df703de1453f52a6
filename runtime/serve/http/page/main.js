// The page at /: parts and what joins them.
import { $ } from "./dom.js";
import { ask, isRunning, show, startChat, stop } from "./chat.js";
import { newConversation } from "./history.js";
import { startList } from "./list.js";
import { copyCodeOnClick } from "./markdown.js";
import { recall, startPanels } from "./panels.js";
import { watchServer } from "./server.js";
import { openStore } from "./store.js";

function startComposer() {
  const input = $("input"), touch = matchMedia("(pointer: coarse)");
  $("form").addEventListener("submit", event => {
    event.preventDefault();
    if (isRunning()) return stop();
    const text = input.value.trim();
    if (!text) return;
    input.value = "";
    ask(text);
  });
  input.addEventListener("keydown", event => {
    if (event.key === "Escape") stop();
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || touch.matches) return;
    event.preventDefault();
    if (!isRunning()) $("form").requestSubmit();
  });
  input.focus();
}

startPanels();
watchServer();
copyCodeOnClick($("chat"));
const store = await openStore(), { conversations } = store;
startChat(store, startList(store, conversations));
show(conversations.find(c => c.id === recall("open")) || newConversation());
startComposer();
document.documentElement.dataset.ready = "";

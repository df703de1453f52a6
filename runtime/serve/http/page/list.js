// The list of conversations: open, rename, delete, export.
import { $, announce, button, download, element, setText } from "./dom.js";
import { openConversation, remove, save, show } from "./chat.js";
import { newConversation, titleOf, toMarkdown } from "./history.js";
import { backToChat } from "./panels.js";

const fileName = (conversation, end) =>
  (titleOf(conversation).replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "conversation") + end;

export function startList(store, conversations) {
  function draw() {
    if ($("list").querySelector("input")) return;  // a name is being written
    const open = openConversation();
    if (open.turns.length && !conversations.includes(open)) conversations.push(open);
    conversations.sort((a, b) => b.changed - a.changed);
    $("list").replaceChildren();
    for (const conversation of conversations) {
      const item = element($("list"), "li");
      const title = button(item, titleOf(conversation), () => { show(conversation); backToChat(); });
      title.className = "title";
      if (conversation !== open) continue;
      title.setAttribute("aria-current", "true");
      addActions(item, title, conversation);
    }
    $("not-kept").hidden = !store.trouble;
    if (store.trouble) setText($("not-kept"), `Kept only until this page is left: ${store.trouble}`);
  }

  function addActions(item, title, conversation) {
    const actions = element(item, "div", "actions");
    button(actions, "Rename", () => rename(item, title, conversation), "Rename this conversation");
    const doomed = button(actions, "Delete", () => {
      if (doomed.textContent === "Really delete") return forget(conversation);
      doomed.textContent = "Really delete";
      doomed.setAttribute("aria-label", "Really delete this conversation");
    }, "Delete this conversation");
    doomed.addEventListener("blur", () => { doomed.textContent = "Delete"; });
    button(actions, "JSON", () => download(fileName(conversation, ".json"), "application/json",
      JSON.stringify(conversation, null, 2)), "Export as JSON");
    button(actions, "Markdown", () => download(fileName(conversation, ".md"), "text/markdown",
      toMarkdown(conversation)), "Export as Markdown");
  }

  function rename(item, title, conversation) {
    const input = document.createElement("input");
    input.value = titleOf(conversation);
    input.setAttribute("aria-label", "The conversation's name");
    title.replaceWith(input);
    input.select();
    let writing = true;  // the field that goes reports that it is left
    const done = keep => {
      if (!writing) return;
      writing = false;
      if (keep) conversation.title = input.value.trim();
      if (keep) save(conversation);
      input.remove();
      draw();
      $("list").querySelector("[aria-current]")?.focus();
    };
    input.addEventListener("keydown", event => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      done(event.key === "Enter");
    });
    input.addEventListener("blur", () => done(true));
  }

  async function forget(conversation) {
    conversations.splice(conversations.indexOf(conversation), 1);
    await remove(conversation);
    announce("Deleted");
    $("new").focus();
  }

  $("new").addEventListener("click", () => { show(newConversation()); backToChat(); $("input").focus(); });
  return draw;
}

// One turn on the page: what was said, and what can be done with it.
import { button, copyBy, element, setText } from "./dom.js";
import { showMarkdown } from "./markdown.js";

const ENDS = { length: "cut at the most tokens", stopped: "stopped" };

const pretty = text => {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch (error) {
    return text;  // not complete yet, or never
  }
};

function folded(parent, className) {
  const details = element(parent, "details", className);
  element(details, "summary");
  return details;
}

// A view has update(), which shows what the turn says now. `acts`: edit(text) or again(), what the buttons do.
export function showTurn(parent, turn, acts) {
  const root = element(parent, "article", `turn ${turn.role}`);
  root.setAttribute("aria-label", turn.role === "user" ? "Question" : "Answer");
  return turn.role === "user" ? questionView(root, turn, acts) : answerView(root, turn, acts);
}

function questionView(root, turn, acts) {
  const said = element(root, "div", "said", turn.content);
  const actions = element(root, "div", "actions");
  button(actions, "Copy", event => copyBy(event.target, turn.content), "Copy the question");
  const edit = button(actions, "Edit", () => {
    said.hidden = actions.hidden = true;
    editor(root, turn.content, acts.edit, () => { said.hidden = actions.hidden = false; edit.focus(); });
  }, "Edit the question and ask again");
  return { root, update() {} };
}

function editor(root, text, send, leave) {
  const form = element(root, "form");
  const area = element(form, "textarea");
  area.value = text;
  area.rows = Math.min(12, text.split("\n").length + 1);
  area.setAttribute("aria-label", "The question, changed");
  const close = () => { form.remove(); leave(); };
  element(form, "button", "", "Ask again");
  button(form, "Cancel", close);
  form.addEventListener("submit", event => {
    event.preventDefault();
    if (area.value.trim()) send(area.value.trim());
  });
  area.addEventListener("keydown", event => {
    if (event.key === "Escape") { event.preventDefault(); close(); }
  });
  area.focus();
}

function answerView(root, turn, acts) {
  const reasoning = folded(root, "reasoning"), thought = element(reasoning, "div");
  const said = element(root, "div"), calls = element(root, "div"), note = element(root, "p", "note");
  const error = element(root, "p", "error"), actions = element(root, "div", "actions");
  button(actions, "Copy", event => copyBy(event.target, turn.content), "Copy the answer");
  const again = button(actions, "", () => acts.again());
  let folds = true;  // until the reader folds it: open while the model reasons, closed when it answers
  reasoning.firstChild.addEventListener("click", () => { folds = false; });

  function update() {
    const running = turn.end === "running";
    root.setAttribute("aria-busy", String(running));
    reasoning.hidden = !turn.reasoning;
    if (folds) reasoning.open = running && !turn.content && turn.calls.length === 0;
    setText(reasoning.firstChild, "Reasoning" + (turn.thought ? `, ${turn.thought.toFixed(1)} s` : ""));
    showMarkdown(thought, turn.reasoning);
    showMarkdown(said, turn.content);
    turn.calls.forEach((call, at) => {
      const block = calls.children[at] || folded(calls, "call");
      setText(block.firstChild, `Call of ${call.name}`);
      setText(block.children[1] || element(block, "pre"), pretty(call.arguments));
    });
    note.classList.toggle("busy", running);
    setText(note, [turn.note, ENDS[turn.end]].filter(Boolean).join(" · "));
    note.hidden = !note.textContent;
    setText(error, turn.error);
    error.hidden = !turn.error;
    actions.hidden = running;
    setText(again, turn.end === "failed" ? "Try again" : "Regenerate");
    again.hidden = !acts.isLast(turn);
  }
  update();
  return { root, update };
}

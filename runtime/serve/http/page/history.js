// Conversations as values: {id, title, changed, turns}. A turn of the user is {role, content}; one of the assistant has
// reasoning, calls and end too: "running", "stop", "length", "stopped", or "failed" with an `error`.

export const newConversation = () =>
  ({ id: crypto.getRandomValues(new Uint32Array(4)).join("-"), title: "", changed: Date.now(), turns: [] });

export const newAnswer = () => ({ role: "assistant", content: "", reasoning: "", calls: [], note: "", error: "",
  end: "running" });

export const titleOf = conversation => conversation.title ||
  (conversation.turns[0]?.content || "").replace(/\s+/g, " ").slice(0, 60) || "New conversation";

const says = turn => turn.content || turn.reasoning || turn.calls.length > 0;

function toMessage(turn) {
  const message = { role: turn.role, content: turn.content };
  if (turn.reasoning) message.reasoning_content = turn.reasoning;
  if (turn.calls?.length)
    message.tool_calls = turn.calls.map(({ id, name, arguments: text }) =>
      ({ id, type: "function", function: { name, arguments: text } }));
  return message;
}

// What the model is told. A turn that failed, or was stopped before it said anything, goes with its question: it would
// only fail again.
export function toMessages(turns, system = "") {
  const kept = [];
  for (const turn of turns) {
    if (turn.role === "user" || (turn.end !== "failed" && says(turn))) kept.push(turn);
    else if (kept.at(-1)?.role === "user") kept.pop();
  }
  return (system ? [{ role: "system", content: system }] : []).concat(kept.map(toMessage));
}

// Adds what a chunk brings to the answer.
export function take(turn, chunk) {
  const choice = chunk.choices?.[0], delta = choice?.delta || {};
  turn.content += delta.content || "";
  turn.reasoning += delta.reasoning_content || "";
  for (const { index, id, function: f } of delta.tool_calls || []) {
    const call = turn.calls[index] ||= { id: "", name: "", arguments: "" };
    if (id) call.id = id;
    call.name += f?.name || "";
    call.arguments += f?.arguments || "";
  }
  if (choice?.finish_reason) turn.end = choice.finish_reason === "length" ? "length" : "stop";
}

// A fence longer than any in the text, so that the text cannot end it.
function fenced(text, language = "") {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(run => run[0].length));
  const fence = "`".repeat(longest + 1);
  return `${fence}${language}\n${text}\n${fence}`;
}

export function toMarkdown(conversation) {
  const parts = [`# ${titleOf(conversation)}`];
  for (const turn of conversation.turns) {
    parts.push(turn.role === "user" ? "## Question" : "## Answer");
    if (turn.reasoning) parts.push("Reasoning:", fenced(turn.reasoning));
    if (turn.content) parts.push(turn.content);
    for (const call of turn.calls || []) parts.push(`Call of \`${call.name}\`:`, fenced(call.arguments, "json"));
    if (turn.error) parts.push(`(failed: ${turn.error})`);
  }
  return parts.join("\n\n") + "\n";
}

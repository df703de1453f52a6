// The open conversation and the answers that are being written, also those of conversations that are not open.
import { $, announce, setText } from "./dom.js";
import { newAnswer, newConversation, take, toMessages } from "./history.js";
import { key, openPanel, parameters, remember, system } from "./panels.js";
import { Failure, chatStream } from "./stream.js";
import { showTurn } from "./turns.js";

const SAVE_EVERY_MS = 1000;
let store, onChange;
let open = newConversation();
const views = new Map();    // of the turns that are on the page
const running = new Map();  // AbortControllers, by conversation
const deleted = new WeakSet();

export const openConversation = () => open;

export function startChat(opened, changed) {
  store = opened;
  onChange = changed;
}

const isAtEnd = () => { const c = $("chat"); return c.scrollHeight - c.scrollTop - c.clientHeight < 120; };
const toEnd = () => { $("chat").scrollTop = $("chat").scrollHeight; };

function showButtons() {
  setText($("send"), running.has(open) ? "Stop" : "Send");
  for (const view of views.values()) view.update();
}

function append(turn) {
  views.set(turn, showTurn($("chat"), turn, {
    isLast: t => open.turns.at(-1) === t && !running.has(open),
    edit: text => askInstead(turn, text),
    again: () => askInstead(open.turns.at(-2)),
  }));
}

export function show(conversation) {
  open = conversation;
  remember("open", open.id);
  views.clear();
  $("chat").replaceChildren();
  open.turns.forEach(append);
  showButtons();
  toEnd();
  onChange();
}

export async function save(conversation) {
  if (deleted.has(conversation)) return;
  try {
    await store.save(conversation);
  } catch (error) {
    $("not-kept").hidden = false;
    setText($("not-kept"), `Not kept: ${error.message}`);
  }
}

function reading({ processed, total, cache, time_ms }) {
  const count = number => number.toLocaleString("en-US"), computed = processed - cache;
  const rate = computed > 0 && time_ms > 0 ? `, ${(1000 * computed / time_ms).toFixed(0)} tokens/s` : "";
  return `reading ${processed > 0 ? `${count(processed)} of ` : ""}${count(total)} tokens${rate}`;
}

// Before the first token, what is waited for; then tokens and their rate. `progress`: a chunk's prompt_progress.
function describe(usage, start, first, now, progress) {
  const seconds_waited = ((now - start) / 1000).toFixed(0);
  if (!first && progress) return `${reading(progress)}, ${seconds_waited} s`;
  if (!first) return `waiting, ${seconds_waited} s`;
  if (!usage) return "";
  const seconds = (now - first) / 1000, tokens = usage.completion_tokens;
  const rate = tokens > 1 && seconds > 0 ? ` · ${((tokens - 1) / seconds).toFixed(1)} tokens/s` : "";
  const found = usage.prompt_tokens_details?.cached_tokens, cached = found ? ` (${found} cached)` : "";
  return `${usage.prompt_tokens} tokens in${cached}, ${tokens} out${rate} · first after ` +
    `${((first - start) / 1000).toFixed(2)} s`;
}

// An update takes longer the longer the answer is: the page rests at least as long as the last one took.
function refresher(turn) {
  let due = 0, waits = false;
  return function refresh() {
    if (waits) return;
    waits = true;
    setTimeout(() => {
      waits = false;
      const begin = performance.now(), follow = isAtEnd();
      views.get(turn)?.update();
      if (follow && views.has(turn)) toEnd();
      due = performance.now() + Math.max(50, performance.now() - begin);
    }, Math.max(0, due - performance.now()));
  };
}

async function answer(conversation) {
  const turn = newAnswer(), controller = new AbortController(), refresh = refresher(turn), start = performance.now();
  const body = { model: $("model").textContent || "default", messages: toMessages(conversation.turns, system()),
    stream: true, stream_options: { include_usage: true, continuous_usage_stats: true }, return_progress: true,
    ...parameters() };
  let first = 0, last = start, usage = null, progress = null, saved = start;
  conversation.turns.push(turn);
  running.set(conversation, controller);
  if (conversation === open) append(turn);
  showButtons();
  toEnd();
  announce("Waiting for the answer");
  const ticks = setInterval(() => {
    if (!first) { turn.note = describe(null, start, 0, performance.now(), progress); refresh(); }
  }, 1000);
  try {
    for await (const chunk of chatStream(body, key(), controller.signal)) {
      if (turn.end === "running") last = performance.now();  // the usage comes after the last token
      const thinks = !turn.content && turn.calls.length === 0;
      take(turn, chunk);
      if (!first && (turn.content || turn.reasoning || turn.calls.length)) first = last;
      if (first && thinks) turn.thought = (last - first) / 1000;
      usage = chunk.usage || usage;
      progress = chunk.prompt_progress;
      turn.note = describe(usage, start, first, last, progress);
      refresh();
      if (last - saved > SAVE_EVERY_MS) { saved = last; save(conversation); }
    }
    if (turn.end === "running") turn.end = "stop";
  } catch (error) {
    if (controller.signal.aborted) turn.end = "stopped";
    else fail(turn, error);
  }
  clearInterval(ticks);
  if (!first) turn.note = "";
  running.delete(conversation);
  if (views.has(turn)) views.get(turn).update();
  showButtons();
  if (conversation === open) announce(turn.error || `Answer: ${turn.content.slice(0, 2000)}`);
  await save(conversation);
  onChange();
}

function fail(turn, error) {
  turn.end = "failed";
  turn.error = error instanceof Failure ? error.message : `The page failed: ${error.message}`;
  if (!error.needsKey) return;
  openPanel("parameters");
  $("key").focus();
}

// Asks in the open conversation; with `text`, a further question.
export async function ask(text) {
  const conversation = open;
  if (running.has(conversation)) return;
  if (text) {
    const turn = { role: "user", content: text };
    conversation.turns.push(turn);
    conversation.changed = Date.now();
    append(turn);
    save(conversation);
    onChange();
  }
  await answer(conversation);
}

// Asks a question again, changed if `text` is given; what came after it goes.
function askInstead(turn, text = turn.content) {
  if (running.has(open)) return;
  open.turns.length = open.turns.indexOf(turn);
  show(open);
  return ask(text);
}

export const isRunning = () => running.has(open);
export const stop = (conversation = open) => running.get(conversation)?.abort();

export async function remove(conversation) {
  deleted.add(conversation);
  stop(conversation);
  if (conversation === open) show(newConversation());
  await store.remove(conversation.id);
}

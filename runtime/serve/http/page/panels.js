// The panels beside the chat, and the parameters of requests. What was set is set again when the page is loaded.
import { $, setText } from "./dom.js";

const NARROW = matchMedia("(max-width: 60rem)");
const FIELDS = ["system", "temperature", "top_p", "max_tokens", "thinking", "tools"];
const panels = () => [...document.querySelectorAll(".panel")];
const opener = panel => document.querySelector(`button[data-panel=${panel.id}]`);

// Storage may be forbidden; then nothing is kept.
function load(storage, name) {
  try {
    return JSON.parse(window[storage].getItem(name));
  } catch (error) {
    return null;
  }
}
function keep(storage, name, value) {
  try {
    window[storage].setItem(name, JSON.stringify(value));
  } catch (error) { /* full or forbidden */ }
}
export const recall = name => load("localStorage", name);
export const remember = (name, value) => keep("localStorage", name, value);

function show(panel, shown) {
  panel.hidden = !shown;
  opener(panel).setAttribute("aria-expanded", String(shown));
}

export function openPanel(id, shown = true) {
  const panel = $(id);
  if (shown && NARROW.matches) for (const other of panels()) show(other, false);
  show(panel, shown);
  if (!NARROW.matches) remember("panels", panels().filter(p => !p.hidden).map(p => p.id));
}

// On a narrow screen a panel hides the chat: whoever is done with it comes back to that.
export function backToChat() {
  if (NARROW.matches) for (const panel of panels()) show(panel, false);
}

function arrange() {
  const open = NARROW.matches ? [] : recall("panels") || ["conversations", "parameters", "server"];
  for (const panel of panels()) show(panel, open.includes(panel.id));
}

const value = field => field.type === "checkbox" ? field.checked : field.value;

// The parsed tools, null where there are none; throws where they are no array.
function tools() {
  const text = $("tools").value.trim();
  if (!text) return null;
  const parsed = JSON.parse(text);
  if (!Array.isArray(parsed)) throw new Error("expected an array");
  return parsed.length ? parsed : null;
}

function checkTools() {
  let words = "";
  try {
    tools();
  } catch (error) {
    words = `Not a JSON array, and not sent: ${error.message}`;
  }
  setText($("tools-error"), words);
  $("tools-error").hidden = !words;
  $("tools").setAttribute("aria-invalid", String(!!words));
}

export const key = () => $("key").value;
export const system = () => $("system").value.trim();

// The members of a request that the panel sets; an empty field leaves the choice to the server.
export function parameters() {
  const thinking = $("thinking").checked;
  const set = { chat_template_kwargs: { thinking, enable_thinking: thinking } };
  for (const name of ["temperature", "top_p", "max_tokens"])
    if ($(name).value !== "") set[name] = Number($(name).value);
  try {
    const given = tools();
    if (given) set.tools = given;
  } catch (error) { /* the panel says so */ }
  return set;
}

export function startPanels() {
  const kept = recall("parameters") || {};
  for (const name of FIELDS) {
    const field = $(name);
    if (name in kept) field[field.type === "checkbox" ? "checked" : "value"] = kept[name];
    field.addEventListener("input", () =>
      remember("parameters", Object.fromEntries(FIELDS.map(f => [f, value($(f))]))));
  }
  $("tools").addEventListener("input", checkTools);
  checkTools();
  $("key").value = load("sessionStorage", "key") || "";
  $("key").addEventListener("input", () => keep("sessionStorage", "key", key()));
  for (const panel of panels()) {
    opener(panel).setAttribute("aria-controls", panel.id);
    opener(panel).addEventListener("click", () => openPanel(panel.id, panel.hidden));
    panel.addEventListener("keydown", event => {
      if (event.key !== "Escape" || event.defaultPrevented) return;
      openPanel(panel.id, false);
      opener(panel).focus();
    });
  }
  NARROW.addEventListener("change", arrange);
  arrange();
}

// What the server says of itself: gauges, placement of experts, ranks.
import { $, element, setText } from "./dom.js";
import { showMap, startMap } from "./heat_map.js";

const EVERY_MS = 2000, MAP_EVERY = 5;  // times

function fill(body, rows) {
  body.replaceChildren();
  for (const cells of rows) {
    const row = element(body, "tr");
    for (const cell of cells) element(row, "td", "", String(cell));
  }
}

const percent = (ratio, digits) => `${(100 * ratio).toFixed(digits)}\u00a0%`;

function showPlacement(experts) {
  $("placement").hidden = !experts?.all;
  if (!experts?.all) return;
  fill($("experts"), [
    ["On the trunk", `${experts.hot} of ${experts.all}`],
    ["Choices that fall on them", percent(experts.hit_ratio, 1)],
    ["Exchanged since the start", experts.exchanges],
  ]);
}

// Bytes that a rank holds, those that it reads in a second of work, and the share of its time that it waits.
function rankCells(rank, index) {
  return [index, rank.node, rank.role.replaceAll("+", " + "), (rank.memory_bytes / 1e9).toFixed(1),
    "bytes_per_second" in rank ? (rank.bytes_per_second / 1e9).toFixed(1) : "",
    "waited_ratio" in rank ? percent(rank.waited_ratio, 0) : ""];
}

let looks = 0;

async function watch() {
  try {
    const now = await (await fetch("status")).json();
    setText($("state"), now.status);
    if (!now.ranks) return;
    setText($("model"), now.model);
    fill($("gauges"), [
      ["Running requests", now.requests_running],
      ["Waiting requests", now.requests_waiting],
      ["Decode tokens/s", now.tokens_per_second.toFixed(1)],
      ["KV cache in use", `${percent(now.kv_tokens ? now.kv_tokens_used / now.kv_tokens : 0, 1)} of ${now.kv_tokens}`],
      ["Prompt tokens", now.prompt_tokens],
      ["of them cached", now.cached_tokens],
      ["Tokens made", now.generation_tokens],
      ["Kept for later prompts", now.kv_tokens_kept],
    ]);
    showPlacement(now.experts);
    if (looks++ % MAP_EVERY === 0 && now.experts?.hot) showMap(await (await fetch("status/experts")).json());
    fill($("ranks"), now.ranks.map(rankCells));
  } catch (error) {
    setText($("state"), "not reachable");
  }
}

export function watchServer() {
  startMap();
  watch();
  setInterval(() => { if (!document.hidden) watch(); }, EVERY_MS);
}

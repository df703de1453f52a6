// Experts of all layers: a column for each layer, a row for each expert. Darker ones are chosen more often, and those
// that trunk ranks hold have the accent's colour.
import { $, setText } from "./dom.js";

const NINTHS = 9, LEAST = 0.12;  // of the colour of an expert that is never chosen
let shown = null;

function draw() {
  const { experts, layers, hot, use } = shown, canvas = $("map"), style = getComputedStyle(canvas);
  canvas.width = layers.length;
  canvas.height = experts;
  const context = canvas.getContext("2d");
  layers.forEach((layer, column) => {
    const held = new Set(hot[column]);
    for (let expert = 0; expert < experts; ++expert) {
      const share = use ? use[column][expert] / NINTHS : held.has(expert) ? 1 : 0;
      context.globalAlpha = LEAST + (1 - LEAST) * share;
      context.fillStyle = style.getPropertyValue(held.has(expert) ? "--accent" : "--muted");
      context.fillRect(column, expert, 1, 1);
    }
  });
}

function words(event) {
  const { experts, layers, hot, use } = shown, box = $("map").getBoundingClientRect();
  const column = Math.min(layers.length - 1, Math.floor(layers.length * (event.clientX - box.left) / box.width));
  const expert = Math.min(experts - 1, Math.floor(experts * (event.clientY - box.top) / box.height));
  const chosen = use ? `, chosen ${use[column][expert]} ninths as often as the layer's first` : "";
  const where = hot[column].includes(expert) ? "on the trunk" : "cold";
  return `layer ${layers[column]}, expert ${expert}: ${where}${chosen}`;
}

// `map`: of /status/experts.
export function showMap(map) {
  shown = map;
  const held = map.hot.reduce((sum, layer) => sum + layer.length, 0);
  $("map").setAttribute("aria-label",
    `${map.layers.length} layers of ${map.experts} experts, of which the trunk holds ${held}`);
  const shades = map.use ? "; darker: chosen more often" : "";
  setText($("map-note"), `Columns are layers, rows experts; in colour: on the trunk${shades}`);
  draw();
}

export function startMap() {
  $("map").addEventListener("pointermove", event => { if (shown) $("map").title = words(event); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (shown) draw(); });
}

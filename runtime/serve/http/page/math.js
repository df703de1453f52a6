// markdown-it plugin: \( \), \[ \], $ $, $$ $$ and \begin{} \end{} become elements that hold their TeX, for KaTeX.
// How far an end is looked for is bounded: many beginnings without one must not take the square of a text's length.
const LONGEST_INLINE = 2000, MOST_LINES = 200;
const INLINE = [["\\(", "\\)", false], ["\\[", "\\]", true], ["$$", "$$", true], ["$", "$", false]];
const BLOCK = [["\\[", "\\]"], ["$$", "$$"]];

// As in Pandoc: "$5 and $6" are amounts, no formula.
function isFormula(tex, after, open) {
  if (!tex.trim() || tex.includes("\n\n")) return false;
  return open !== "$" || (!/^\s|\s$/.test(tex) && !/\d/.test(after));
}

function inline(state, silent) {
  const { src, pos } = state;
  if (src[pos] !== "$" && src[pos] !== "\\") return false;
  for (const [open, close, display] of INLINE) {
    if (!src.startsWith(open, pos)) continue;
    const from = pos + open.length, reach = src.slice(from, from + LONGEST_INLINE);
    let end = reach.indexOf(close);
    while (end > 0 && open === "$" && reach[end - 1] === "\\") end = reach.indexOf(close, end + 1);
    if (end < 0 || !isFormula(reach.slice(0, end), reach[end + close.length] || "", open)) return false;
    if (!silent) add(state, "math_inline", reach.slice(0, end), display);
    state.pos = from + end + close.length;
    return true;
  }
  return false;
}

function add(state, type, tex, display) {
  const token = state.push(type, "", 0);
  token.content = tex;
  token.meta = { display };
  return token;
}

// A formula's first line begins with its mark, and its last one ends with the other.
function block(state, start, end, silent) {
  const line = n => state.src.slice(state.bMarks[n] + state.tShift[n], state.eMarks[n]);
  const first = line(start), begin = /^\\begin\{([a-z]+\*?)\}/.exec(first);
  const [open, close] = begin ? ["", `\\end{${begin[1]}}`] : BLOCK.find(([mark]) => first.startsWith(mark)) || [];
  if (close === undefined || state.sCount[start] - state.blkIndent >= 4) return false;
  const found = [first.slice(open.length)];
  let n = start;
  while (!found.at(-1).trimEnd().endsWith(close)) {
    if (++n >= end || n - start > MOST_LINES || state.isEmpty(n) || state.sCount[n] < state.blkIndent) return false;
    found.push(line(n));
  }
  const last = found.pop().trimEnd();
  const tex = [...found, begin ? last : last.slice(0, -close.length)].join("\n");
  if (!tex.trim() || tex.includes(close) !== !!begin) return false;  // two formulas on a line are the other rule's
  if (silent) return true;
  add(state, "math_block", tex, true).map = [start, n + 1];
  state.line = n + 1;
  return true;
}

export function math(parser) {
  const rule = (tokens, at) => {
    const { content, meta } = tokens[at], tex = parser.utils.escapeHtml(content);
    return `<span class="math${meta.display ? " display" : ""}">${tex}</span>`;
  };
  parser.inline.ruler.before("escape", "math_inline", inline);
  parser.block.ruler.before("fence", "math_block", block, { alt: ["paragraph", "blockquote", "list"] });
  parser.renderer.rules.math_inline = parser.renderer.rules.math_block = rule;
}

// Draws the formulas below a node. KaTeX makes elements, no HTML; what it cannot read stays as it was written.
export function drawMath(root) {
  for (const node of root.querySelectorAll(".math")) {
    const tex = node.textContent;
    try {
      katex.render(tex, node, { displayMode: node.classList.contains("display"), throwOnError: true, strict: "ignore",
        trust: false, maxSize: 20, maxExpand: 500 });
    } catch (error) {
      node.textContent = tex;
      node.classList.add("wrong");
      node.title = String(error.message);
    }
  }
}

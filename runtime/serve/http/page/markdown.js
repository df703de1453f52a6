// Markdown to elements, for text that is not to be trusted. This is the one place where text becomes HTML: markdown-it
// escapes all HTML in it, and what it makes is held to a list of elements and attributes before it is shown.
import { copyBy } from "./dom.js";
import { drawMath, math } from "./math.js";

// Characters; beyond them, plain text. A paragraph full of stars and brackets takes the square of its length.
const LONGEST = 200000, LONGEST_PARAGRAPH = 10000, LONGEST_CODE = 50000;
const LINK = /^(https?:\/\/|mailto:)/i;
const ELEMENTS = new Set(("a blockquote br button code div em h3 h4 h5 h6 hr li ol p pre s span strong " +
  "table tbody td th thead tr ul").toUpperCase().split(" "));
const ATTRIBUTES = new Set("class href rel target title start tabindex role type aria-label".split(" "));

const parser = markdownit({ html: false, linkify: true, typographer: false }).use(math);
parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false, fuzzyIP: false });
parser.validateLink = url => LINK.test(url);
parser.core.ruler.before("inline", "long_paragraphs", state => {
  for (const token of state.tokens)
    if (token.type === "inline" && token.content.length > LONGEST_PARAGRAPH) token.type = "text";
});
const escape = parser.utils.escapeHtml, rules = parser.renderer.rules;

function highlight(code, language) {
  if (code.length > LONGEST_CODE || !language || !hljs.getLanguage(language)) return "";
  return hljs.highlight(language, code, true).value;
}

const anchor = href => `<a href="${escape(href)}" target="_blank" rel="noopener noreferrer">`;
rules.link_open = (tokens, at) => anchor(tokens[at].attrGet("href"));

// Nothing is loaded that a text names: an image is a link to it, or its words where it is in a link.
rules.image = (tokens, at, options, env, self) => {
  const words = escape(self.renderInlineAsText(tokens[at].children, options, env) || "image");
  const opened = tokens.slice(0, at).reduce((n, t) => n + (t.type === "link_open") - (t.type === "link_close"), 0);
  return opened ? words : `${anchor(tokens[at].attrGet("src"))}${words}</a>`;
};

function code(tokens, at) {
  const { content, info } = tokens[at], language = (info || "").trim().split(/\s/)[0];
  return `<div class="code"><div class="bar"><span>${escape(language)}</span>` +
    '<button type="button" class="copy">Copy</button></div>' +
    '<pre class="hljs" tabindex="0" role="group" aria-label="Code">' +
    `<code>${highlight(content, language.toLowerCase()) || escape(content)}</code></pre></div>`;
}
rules.fence = rules.code_block = code;

// Headings of an answer lie below those of the page.
rules.heading_open = (tokens, at) => `<h${Math.min(6, Number(tokens[at].tag[1]) + 2)}>`;
rules.heading_close = (tokens, at) => `</h${Math.min(6, Number(tokens[at].tag[1]) + 2)}>`;

rules.table_open = () => '<div class="wide" tabindex="0" role="group" aria-label="Table"><table>';
rules.table_close = () => "</table></div>";
rules.th_open = rules.td_open = (tokens, at) => {
  const { tag } = tokens[at], side = /(right|center)/.exec(tokens[at].attrGet("style"));  // the policy refuses styles
  return side ? `<${tag} class="${side[1]}">` : `<${tag}>`;
};

const policy = window.trustedTypes
  ? trustedTypes.createPolicy("ktmpi", { createHTML: html => html }) : { createHTML: html => html };

function toElement(html) {
  const made = document.createElement("template");
  made.innerHTML = policy.createHTML(`<div class="block">${html}</div>`);
  for (const node of made.content.querySelectorAll("*")) {
    if (!ELEMENTS.has(node.tagName)) node.replaceWith(node.textContent);
    for (const { name, value } of [...node.attributes])
      if (!ATTRIBUTES.has(name) || (name === "href" && !LINK.test(value))) node.removeAttribute(name);
  }
  drawMath(made.content);
  return made.content.firstChild;
}

// The HTML of each block that lies at the top.
function blocks(text) {
  const env = {}, tokens = parser.parse(text, env), found = [];
  for (let from = 0, at = 0, depth = 0; at < tokens.length; ++at) {
    depth += tokens[at].nesting;
    if (depth > 0) continue;
    found.push(parser.renderer.render(tokens.slice(from, at + 1), parser.options, env));
    from = at + 1;
  }
  return found;
}

const shown = new WeakMap();  // of each node: the HTML of its blocks

// Shows the text in a node. Of a text that grows only the blocks that differ are made anew: selections stay.
export function showMarkdown(node, text) {
  if (text.length > LONGEST) {
    node.className = "text plain";
    node.textContent = text;
    shown.delete(node);
    return;
  }
  node.className = "text";
  const before = shown.get(node) || [], now = blocks(text);
  let same = 0;
  while (same < before.length && before[same] === now[same]) ++same;
  while (node.childNodes.length > same) node.lastChild.remove();
  for (const html of now.slice(same)) node.append(toElement(html));
  shown.set(node, now);
}

export function copyCodeOnClick(root) {
  root.addEventListener("click", event => {
    if (!event.target.matches(".copy")) return;
    copyBy(event.target, event.target.closest(".code").querySelector("code").textContent);
  });
}

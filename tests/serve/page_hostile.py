"""Answers that would rather be a page: nothing of them runs, loads, or leads to where a link must not."""
import json

from page_driver import module

ANSWERS = [
    "<script>window.hacked = 1</script>", "<img src=x onerror='window.hacked = 1'>", "<svg onload=window.hacked=1>",
    "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe>", "<a href='javascript:window.hacked=1'>x</a>",
    "<style>*{display:none}</style>", "<base href='https://evil.example/'>", "<math><mtext><script>hacked=1</script>",
    "<form action='https://evil.example'><input name=key><button>go</button></form>",
    "[x](javascript:window.hacked=1)", "[x](JaVaScRiPt:window.hacked=1)", "[x](&#106;avascript:window.hacked=1)",
    "[x](java\tscript:window.hacked=1)", "[x](\x01javascript:window.hacked=1)", "[x](vbscript:x)",
    "<javascript:hacked=1>",
    "[x](data:text/html,<script>hacked=1</script>)", "[x](file:///etc/passwd)", "[x](//evil.example)", "[x](blob:x)",
    "[r]\n\n[r]: javascript:window.hacked=1", '[x](https://a.example "\\" onmouseover=\\"hacked=1")',
    "[x](https://a.example/\"onmouseover=\"hacked=1)", "![x](https://evil.example/pixel.png)",
    "![x\" onerror=\"hacked=1](https://evil.example/a)", "![x](javascript:hacked=1)", "![x](data:image/svg+xml,<svg/>)",
    "[![a](https://evil.example/i.png)](https://a.example)", "```\"><img src=x onerror=hacked=1>\ncode\n```",
    "```html\n<script>window.hacked = 1</script>\n```", "```constructor\nx\n```", "```__proto__\nx\n```",
    "    <script>window.hacked = 1</script>", "`<script>window.hacked = 1</script>`",
    r"$\href{javascript:window.hacked=1}{x}$", r"$\url{javascript:hacked=1}$", r"$\htmlData{x=1}{y}$",
    r"$\htmlStyle{position:fixed}{x}$", r"$\htmlClass{copy}{x}$", r"$\htmlId{send}{x}$",
    r"$\includegraphics{https://evil.example/x.png}$", r"$\text{<img src=x onerror=hacked=1>}$",
    r"$$\def\a{\a\a}\a$$", r"$$\rule{99999em}{99999em}$$", r"$\color{red;background:url(https://evil.example)}x$",
    r"$\unicode{x}$ $\verb|<script>hacked=1</script>|$", "| a |\n|:-:|\n| <script>hacked=1</script> |",
]
UNFINISHED = ["```python\nprint(1)", "~~~\nx", "$$x + ", r"\[ x", "**bold", "[link](https://a.example",
              "| a | b |\n|--", r"\begin{align} x", "<scr", "&#", "- a\n  - b\n    ```", "$", "\\", "> > > ```js\nlet"]


def huge(n):
    """Texts whose lengths grow with n, and whose times must not grow faster."""
    return {
        "brackets": "[" * 12500 * n, "emphasis": "*a_" * 10000 * n, "quotes": ">" * 5000 * n,
        "backticks": "`" * 15000 * n + "a", "ticks of all lengths": " ".join("`" * k for k in range(1, int(250 * n**0.5))),
        "spaces": "a" + " " * 37500 * n + "b", "images": "![" * 12500 * n, "links": "[a](b" * 10000 * n,
        "dollars": "$a " * 15000 * n, "displays": "$$a\n" * 10000 * n, "formula beginnings": "\\(" * 12500 * n,
        "formula blocks": "\\[\n" * 12500 * n, "environments": "\\begin{a}\n" * 5000 * n, "lists": "- " * 750 * n + "a",
        "nested formula": "$" + "{" * 225 * n + "}" * 225 * n + "$", "entities": "&amp" * 10000 * n,
        "table": "|" * 7500 * n + "\n" + "|-" * 7500 * n, "addresses": "https://" * 5000 * n, "lines": "\n" * 37500 * n,
        "code": "```cpp\n" + "int a = 0; /* " * 875 * n + "\n```", "beyond all": "**x** " * 25000 * n,
        "headings": "# " * 12500 * n, "angles": "<a" * 12500 * n, "autolinks": "<https:" * 6250 * n,
        "references": "[a]: b\n" * 5000 * n,
    }


# Of a node that shows an answer: what must not be there.
LOOK = """(async () => {
  const { showMarkdown } = await %s, texts = %s, found = [];
  for (const text of texts) {
    const node = document.createElement('div');
    document.querySelector('main').append(node);
    try { showMarkdown(node, text); } catch (error) { found.push([text.slice(0, 60), 'threw ' + error]); }
    await new Promise(done => setTimeout(done, 0));
    const bad = [...node.querySelectorAll('*')].filter(e =>
      /^(script|img|iframe|object|embed|form|input|style|link|base|meta|video|audio)$/i.test(e.localName) ||
      [...e.attributes].some(a => a.name.startsWith('on') || a.name === 'id' || a.name === 'srcdoc' ||
        (a.name === 'href' && !/^(https?:|mailto:)/.test(a.value)) || a.name.startsWith('data-')) ||
      (e.localName === 'a' && (e.rel !== 'noopener noreferrer' || e.target !== '_blank')) ||
      (e.localName === 'button' && !e.closest('.bar')));
    if (bad.length) found.push([text.slice(0, 60), bad[0].outerHTML.slice(0, 200)]);
    if (window.hacked !== undefined) { found.push([text, 'ran']); delete window.hacked; }
    node.remove();
  }
  return found;
})()"""


def hostile_answers_stay_text(browser):
    markdown = module(browser, "markdown.js")
    found = browser.run(LOOK % (markdown, json.dumps(ANSWERS + UNFINISHED)))
    assert not found, found

    def cpu_seconds_of(name, text):
        begin = browser.cpu_seconds()
        found = browser.run(LOOK % (markdown, json.dumps([text])))
        assert not found, (name, found)
        return browser.cpu_seconds() - begin

    short = huge(1)
    for name, text in huge(4).items():
        took = cpu_seconds_of(name, text)
        if took > 2:  # of four times the length: a square takes 16 times as long
            assert took < 8 * cpu_seconds_of(name, short[name]), (name, took)


def every_beginning_of_an_answer_can_be_shown(browser):
    """As it comes: one character more each time, in the same node; in the end it is what is shown at once."""
    text = ("# A\n\n1. *b* `c` [d](https://e.example) $x^2$\n\n```py\nprint(1)\n```\n\n$$\n\\frac{1}{2}\n$$\n\n"
            "|a|b|\n|-|-|\n|1|2|\n")
    assert browser.run(f"""{module(browser, 'markdown.js')}.then(({{ showMarkdown }}) => {{
        const grown = document.createElement('div'), whole = document.createElement('div'), text = {json.dumps(text)};
        for (let n = 0; n <= text.length; ++n) showMarkdown(grown, text.slice(0, n));
        showMarkdown(whole, text);
        return grown.innerHTML === whole.innerHTML && whole.children.length === 5; }})""")

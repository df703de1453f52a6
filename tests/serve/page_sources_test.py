"""The page's own files, read without a browser: page_sources_test.py ROOT

One line makes HTML of text; nothing is loaded from elsewhere; imports, exports and ids fit.
"""
import pathlib
import re
import sys

FOLDER = pathlib.Path(sys.argv[1]) / "runtime/serve/http/page"
FILES = {f.name: f.read_text(encoding="utf-8") for f in FOLDER.iterdir() if f.suffix in (".js", ".css", ".html")}
SCRIPTS = {name: text for name, text in FILES.items() if name.endswith(".js")}
INDEX = FILES["index.html"]
MAKES_HTML = r"\b(?:innerHTML|outerHTML|insertAdjacentHTML|srcdoc|document\.write|createContextualFragment|DOMParser)\b"
RUNS_TEXT = r"\b(?:eval|Function)\(|set(?:Timeout|Interval)\(\s*[\"'`]|javascript:"

wrong = []


def check(right, words):
    if not right:
        wrong.append(words)


for name, text in FILES.items():
    check(len(text.splitlines()) <= 300, f"{name} is longer than a topic")
    check(max(map(len, text.splitlines())) <= 120, f"{name} has a line of more than 120 characters")
    check(not re.search(r"[\"'(]\s*(?:https?:)?//\w", text), f"{name} names another server")

makers = [(name, line.strip()) for name, text in SCRIPTS.items() for line in text.splitlines()
          if re.search(MAKES_HTML, line)]
check([name for name, _ in makers] == ["markdown.js"], f"text becomes HTML in one line of markdown.js, not in {makers}")
for name, text in SCRIPTS.items():
    check(not re.search(RUNS_TEXT, text), f"{name} runs text")
check("html: false" in SCRIPTS["markdown.js"] and "trust: false" in SCRIPTS["math.js"], "libraries are told to trust")

check(not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", INDEX), "index.html has code or styles in it")
loaded = re.findall(r'(?:href|src)="([^"]+)"', INDEX)
check(all(path.startswith(("page/VERSION/", "data:")) for path in loaded), f"index.html loads {loaded}")
for path in loaded:
    own = path.removeprefix("page/VERSION/")
    check("/" in own or own.startswith("data:") or own in FILES, f"index.html loads {own}, which is not there")

ids = re.findall(r'\bid="([^"]+)"', INDEX)
check(len(ids) == len(set(ids)), "ids are there twice")
for target in re.findall(r'(?:for|aria-labelledby|aria-describedby|data-panel)="([^"]+)"', INDEX):
    check(target in ids, f"index.html refers to #{target}, which it has not")
for name, text in SCRIPTS.items():
    for target in re.findall(r'\$\("([^"]+)"\)', text):
        check(target in ids, f"{name} looks for #{target}, which index.html has not")
    for names, module in re.findall(r'^import \{ ([^}]+) \} from "\./([^"]+)";$', text, re.M):
        for imported in names.split(", "):
            check(re.search(rf"^export (?:const|async function\*?|function\*?|class) {re.escape(imported)}(?!\w)",
                            SCRIPTS.get(module, ""), re.M), f"{name} imports {imported}, which {module} has not")
            uses = re.findall(rf"(?<!\w){re.escape(imported)}(?!\w)", text)
            check(len(uses) > 1, f"{name} imports {imported} and does not use it")

print("\n".join(wrong) or f"{len(FILES)} files: all well")
sys.exit(bool(wrong))

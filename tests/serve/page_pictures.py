"""Pictures of the page at / for the documents, from a real server.

    page_pictures.py URL FOLDER QUESTION...

The server answers the questions for page.png, page_experts.png, page_dark.png and page_phone.png. page_code.png shows a written example,
which says so: a small model writes none with reasoning, a table, code and formulas in it.
"""
import json
import os
import sys

from browser import Browser, find_chromium
from page_driver import ask, click, fill, module, open_page

REASONING = "Sorting alone is not stable by two keys, but one key can be a pair. The cost is that of comparisons, n log n."
ANSWER = r"""Sort by a *pair*: the count first, falling, then the word.

```python
from collections import Counter

def most_common(text: str, n: int = 3) -> list[tuple[str, int]]:
    counts = Counter(text.lower().split())
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:n]
```

| part | time |
|---|--:|
| counting $m$ words | $O(m)$ |
| sorting $k$ different ones | $O(k \log k)$ |

$$T(m, k) = O(m + k \log k), \qquad k \le m$$
"""
EXAMPLE = {"id": "example", "title": "A written example", "changed": 0, "turns": [
    {"role": "user", "content": "(An example, written for this picture.) The most common words of a text in Python?"},
    {"role": "assistant", "content": ANSWER, "reasoning": REASONING, "calls": [], "error": "", "end": "stop",
     "note": "", "thought": 2.4}]}


def settle(browser):
    browser.run("new Promise(done => setTimeout(() => done(true), 2500))")  # the gauges follow every 2 s


def main():
    url, folder = sys.argv[1].rstrip("/"), sys.argv[2]
    with Browser(find_chromium()) as browser:
        def picture(name, width, height):
            browser.resize(width, height, mobile=width < 700)
            settle(browser)
            browser.screenshot(os.path.join(folder, name))

        browser.prefer("light")
        open_page(browser, url)
        fill(browser, "temperature", "0")
        fill(browser, "max_tokens", "300")
        for question in sys.argv[3:]:
            print(ask(browser, question, 120))
        open_page(browser, url)  # the map follows seldom
        click(browser, "[data-panel=parameters]")
        picture("page.png", 1280, 800)
        click(browser, "[data-panel=parameters]")
        browser.run("document.getElementById('map').scrollIntoView({block: 'center'})")
        picture("page_experts.png", 1000, 620)
        browser.prefer("dark")
        picture("page_dark.png", 1280, 800)
        picture("page_phone.png", 360, 720)
        browser.prefer("light")
        browser.resize(1280, 800)
        browser.run(f"""{module(browser, 'store.js')}.then(m => m.openStore()).then(s => s.save({json.dumps(EXAMPLE)}))
            .then(() => localStorage.setItem('open', '"example"'))""")
        open_page(browser, url)
        click(browser, "[data-panel=parameters]")
        click(browser, "[data-panel=server]")
        click(browser, ".reasoning summary")
        picture("page_code.png", 1000, 860)


if __name__ == "__main__":
    main()

"""The page at / in Chromium: a chat that streams and is kept, what it shows of the server, and nobody else is asked.

    page_test.py FAKE_SERVER VENV

Skipped (77) where Chromium is not installed; `scripts/setup browser` installs it, and for VENV the axe-core that looks
at the page as those see it who cannot see it well.
"""
import glob
import json
import sys

from browser import Browser, find_chromium
from page_driver import (IDLE, TURNS, answered_by_another, ask, click, fill, last_turn, open_page, press, send,
                         sent_messages, serving, start_anew, titles)
from page_hostile import every_beginning_of_an_answer_can_be_shown, hostile_answers_stay_text

CALL = "<tool_call>\n<function=weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>"
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}}}}]
RICH = """## Words

1. *first* `code`
2. **second** with $x^2$ and \\(y\\), not $5 or $6

| a | b |
|---|--:|
| 1 | 2 |

```python
def f(x): return "<b>"
```

$$\\frac{1}{2}$$

https://a.example ![picture](https://a.example/p.png)"""


def chat(browser):
    answer = ask(browser, "say:</think>It is <b>Paris</b>.")
    assert answer.startswith("It is <b>Paris</b>.\n"), answer
    assert "tokens in" in answer and "tokens/s" in answer and "first after" in answer, answer
    reasoned = ask(browser, "say:Let me see.</think>Right.")
    assert "Reasoning" in reasoned and "Right." in reasoned, reasoned
    assert "Let me see." not in reasoned, "folded when the answer is there"
    click(browser, ".turn:last-child summary")
    assert "Let me see." in browser.run(TURNS)[-1]
    assert len(browser.run(TURNS)) == 4
    ask(browser, "say:</think>Again.")
    assert sent_messages(browser) == [("user", "say:</think>It is <b>Paris</b>."), ("assistant", "It is <b>Paris</b>."),
                                      ("user", "say:Let me see.</think>Right."), ("assistant", "Right."),
                                      ("user", "say:</think>Again.")]


def markdown_is_drawn(browser):
    start_anew(browser)
    ask(browser, "say:</think>" + RICH)
    for selector, count in {"h4": 1, "ol > li": 2, "em": 1, "strong": 1, "td": 2, "td.right": 1, "pre.hljs > code": 1,
                            ".hljs-string": 1, ".katex": 3, ".katex-display": 1, "a[rel='noopener noreferrer']": 2,
                            "img": 0, ".math.wrong": 0}.items():
        found = browser.run(f"document.querySelectorAll({json.dumps('.text ' + selector)}).length")
        assert found == count, (selector, found)
    assert "not $5 or $6" in browser.run(TURNS)[-1]
    fonts = browser.run("""document.fonts.ready.then(all =>
        [...all].filter(f => f.status === 'loaded').map(f => f.family))""")
    assert any("KaTeX" in font for font in fonts), fonts
    browser.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    press(browser, "Copy", "document.querySelector('.bar')")
    browser.wait("document.querySelector('.copy').textContent === 'Copied'")
    assert browser.run("navigator.clipboard.readText()") == 'def f(x): return "<b>"\n'


def calls_are_folded(browser):
    start_anew(browser)
    fill(browser, "tools", "[")
    assert "Not a JSON array" in browser.run("document.getElementById('tools-error').innerText")
    fill(browser, "tools", json.dumps(TOOLS))
    answer = ask(browser, "say:</think>" + CALL)
    assert "Call of weather" in answer and "Paris" not in answer, answer
    shown = browser.run("document.querySelector('.call pre').textContent")
    assert json.loads(shown) == {"city": "Paris"}, shown
    fill(browser, "tools", "")


def failed_turns_are_not_sent_again(browser):
    start_anew(browser)
    ask(browser, "say:</think>One.")
    answer = ask(browser, "REFUSE")
    assert "no such words" in answer and "Try again" in answer, answer
    ask(browser, "say:</think>Two.")
    assert [content for _, content in sent_messages(browser)] == ["say:</think>One.", "One.", "say:</think>Two."]


def questions_can_be_changed_and_asked_again(browser):
    start_anew(browser)
    ask(browser, "say:</think>One.")
    ask(browser, "say:</think>Two.")
    press(browser, "Regenerate")
    assert last_turn(browser).startswith("Two."), browser.run(TURNS)
    assert len(sent_messages(browser)) == 3
    press(browser, "Edit the question and ask again", "document.querySelectorAll('.turn')[0]")
    browser.run("document.querySelector('.turn textarea').select()")
    browser.type("say:</think>Other.")
    press(browser, "Ask again")
    browser.wait("document.querySelectorAll('.turn').length === 2")
    assert last_turn(browser).startswith("Other.")
    assert sent_messages(browser) == [("user", "say:</think>Other.")]


def conversations_are_kept(browser, url):
    before = len(titles(browser))
    start_anew(browser)
    ask(browser, "say:</think>Kept, with `code`.")
    assert titles(browser)[0] == "say:</think>Kept, with `code`." and len(titles(browser)) == before + 1
    shown = browser.run("document.getElementById('chat').innerHTML")
    fill(browser, "system", "Be brief")
    open_page(browser, url)
    assert browser.run("document.getElementById('chat').innerHTML") == shown, "the open one is open again"
    assert len(titles(browser)) == before + 1
    assert browser.run("document.getElementById('system').value") == "Be brief"
    fill(browser, "system", "")

    press(browser, "Rename this conversation")
    browser.type("A name")
    browser.press_enter()
    assert titles(browser)[0] == "A name", titles(browser)
    browser.run("""window.saved = [];
        URL.createObjectURL = blob => { window.saved.push(blob.text()); return 'blob:x'; };
        HTMLAnchorElement.prototype.click = function () { window.saved.push(this.download); }""")
    press(browser, "Export as JSON")
    press(browser, "Export as Markdown")
    text, name, markdown, markdown_name = browser.run("Promise.all(window.saved)")
    turns = json.loads(text)["turns"]
    assert (name, markdown_name) == ("A-name.json", "A-name.md") and len(turns) == 2, (name, markdown_name, turns)
    assert turns[1]["content"] == "Kept, with `code`." and turns[1]["content"] in markdown
    assert markdown.startswith("# A name\n\n## Question\n"), markdown

    click(browser, "#list .title", 1)
    assert titles(browser)[0] == "A name" and "Kept" not in browser.run("document.getElementById('chat').innerText")
    click(browser, "#list .title")
    press(browser, "Delete this conversation")
    assert "A name" in titles(browser)
    press(browser, "Really delete this conversation")
    browser.wait("!document.getElementById('list').innerText.includes('A name')")
    open_page(browser, url)
    assert "A name" not in titles(browser) and len(titles(browser)) == before


def errors_are_words(browser):
    start_anew(browser)
    for status, headers, body, words in (
            (429, {"Retry-After": "7"}, '{"error": {"message": "the queue is full"}}',
             "the queue is full. It asks to try again after 7 s"),
            (503, {"Retry-After": "5"}, '{"error": {"message": "draining"}}',
             "takes no requests now: draining. It asks to try again after 5 s"),
            (502, {"Content-Type": "text/html"}, "<html>Bad Gateway</html>", "A proxy answered 502 for the server"),
            (500, {}, "", "The server answered 500"),
            (200, {}, 'data: {"choices": [{"delta": {"content": "Half"}}]}\n\n',
             "broke before the answer was complete"),
            (200, {}, 'data: {"error": {"message": "rank 1 is lost"}}\n\n', "rank 1 is lost"),
            (200, {}, "data: <html>\n\n", "no JSON")):
        with answered_by_another(browser, status, headers, body) as fulfil:
            send(browser, "hello")
            fulfil()
            answer = last_turn(browser)
            assert words in answer, (words, answer)
    press(browser, "Try again")
    assert last_turn(browser).startswith("Reasoning"), "the fake says the prompt again, without an end of reasoning"
    assert sent_messages(browser) == [("user", "hello")]


def server_is_shown(browser):
    browser.wait("document.querySelectorAll('#ranks tr').length === 3")
    shown = browser.run("document.body.innerText")
    rows = browser.run("[...document.querySelectorAll('#ranks tr')].map(r => [...r.cells].map(c => c.textContent))")
    assert rows == [["0", "0", "scheduler + trunk", "1.5", "", ""], ["1", "0", "expert", "20.0", "2.0", "25\u00a0%"],
                    ["2", "1", "expert", "0.0", "", ""]], rows
    for words in ("fake/model", "Running requests", "KV cache in use"):
        assert words in shown, shown


def placement_is_shown(browser):
    assert not browser.run("document.getElementById('placement').hidden")
    rows = browser.run("[...document.querySelectorAll('#experts td:last-child')].map(c => c.textContent)")
    assert rows == ["6 of 24", "37.5\u00a0%", "3"], rows
    browser.wait("document.getElementById('map').getAttribute('aria-label') === "
                 "'2 layers of 12 experts, of which the trunk holds 6'")
    alpha = lambda layer, expert: browser.run(
        f"document.getElementById('map').getContext('2d').getImageData({layer}, {expert}, 1, 1).data[3]")
    assert alpha(0, 0) == 255 and 25 < alpha(0, 11) < 40 and 120 < alpha(1, 1) < 160, [
        [alpha(layer, expert) for expert in range(12)] for layer in range(2)]


def are_open(browser, *panels):
    """A change of the window's size is told to the page a little later."""
    browser.wait(f"[...document.querySelectorAll('.panel')].filter(p => !p.hidden).map(p => p.id) == '{','.join(panels)}'")


def fits(browser):
    """Nothing is wider than the screen, and only the chat and the panels scroll."""
    sizes = browser.run("""[['html', innerWidth, innerHeight], ['main'], ['aside'], ['nav']].map(
        ([name, width = 1e9, height = 1e9]) => [name, document.querySelector(name), width, height]).filter(
        ([, e, width, height]) => e.scrollWidth > Math.min(width, e.clientWidth) || e.scrollHeight > height).map(
        ([name, e]) => [name, e.scrollWidth, e.clientWidth, e.scrollHeight, innerWidth, innerHeight])""")
    assert not sizes, sizes


def screens_of_all_sizes(browser):
    start_anew(browser)
    ask(browser, "say:</think>" + RICH + "\n\n```\n" + "long " * 60 + "\n```\n" + "w" * 200)
    for width, height in ((360, 640), (768, 1024), (1100, 960), (1920, 1080), (3840, 2160)):
        browser.resize(width, height, mobile=width < 700)
        if width < 900:
            are_open(browser)
            fits(browser)
            for panel in ("conversations", "parameters", "server"):
                click(browser, f"[data-panel={panel}]")
                are_open(browser, panel)
                fits(browser)
            click(browser, "[data-panel=server]")
        else:
            are_open(browser, "conversations", "parameters", "server")  # as they were
            fits(browser)
    browser.resize(1100, 960)


def keyboard_is_enough(browser):
    click(browser, "[data-panel=parameters]")
    browser.run("document.querySelector('[data-panel=parameters]').focus()")
    assert browser.run("document.activeElement.getAttribute('aria-expanded')") == "false"
    browser.press("Enter", 13, "\r")
    assert browser.run("document.activeElement.getAttribute('aria-expanded')") == "true"
    browser.run("document.getElementById('system').focus()")
    browser.press("Escape", 27)
    assert browser.run("document.activeElement.dataset.panel") == "parameters", "whence it was opened"
    assert browser.run("document.getElementById('parameters').hidden")
    browser.press("Enter", 13, "\r")
    browser.run("document.getElementById('input').focus()")
    browser.type("one")
    browser.press("Enter", 13, "\r", modifiers=8)  # with shift: a new line
    browser.type("two")
    assert browser.run("document.getElementById('input').value") == "one\ntwo"
    fill(browser, "input", "")


def nothing_keeps_readers_out(browser, axe):
    """axe-core finds nothing: names, roles, contrast (WCAG AA), in both schemes, wide and narrow. The order of headings
    in an answer is the model's."""
    start_anew(browser)
    fill(browser, "tools", json.dumps(TOOLS))
    ask(browser, "say:Let me see.</think>" + RICH + "\n" + CALL)
    fill(browser, "tools", "")
    ask(browser, "REFUSE")
    for summary in range(2):
        click(browser, ".turn summary", summary)
    with open(axe, encoding="utf-8") as file:
        browser.run(file.read() + "; 0")
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        for width in (1100, 360):
            browser.resize(width, 960)
            found = browser.run("""axe.run(document, {resultTypes: ['violations'],
                rules: {'heading-order': {enabled: false}}}).then(r => r.violations.map(v =>
                [v.impact, v.id, v.nodes.map(n => n.html.slice(0, 120))]))""")
            assert not found, (scheme, width, found)
    browser.prefer("light")
    browser.resize(1100, 960)


def nobody_else_is_asked(browser, url):
    asked = {r["request"]["url"] for r in browser.reported("Network.requestWillBeSent")}
    outside = [u for u in asked if not u.startswith((url + "/", "data:"))]
    assert not outside, outside
    assert {url + "/", url + "/status", url + "/v1/chat/completions"} <= asked, asked
    expected = ("400 (Bad Request)", "429 (", "503 (", "502 (", "500 (")
    broken = [e["entry"]["text"] for e in browser.reported("Log.entryAdded")
              if e["entry"]["level"] == "error" and not any(words in e["entry"]["text"] for words in expected)]
    broken += browser.reported("Runtime.exceptionThrown")
    assert not broken, broken


def answers_can_be_waited_for_and_stopped(browser, url):
    open_page(browser, url)
    send(browser, "say:</think>Late.")
    note = "document.querySelector('.turn:last-child .note')?.textContent"
    browser.wait(f"/^reading \\d+ tokens, 1 s/.test({note})")
    browser.wait(f"/^reading \\d+ of \\d+ tokens, \\d+ tokens\\/s, [2-5] s/.test({note})")
    assert browser.run("document.getElementById('send').textContent") == "Stop"
    assert browser.run("document.querySelector('.turn:last-child').getAttribute('aria-busy')") == "true"
    start_anew(browser)  # the other one goes on
    assert browser.run(IDLE)
    click(browser, "#list .title")
    assert browser.run("document.getElementById('send').textContent") == "Stop"
    click(browser, "#send")
    assert "stopped" in last_turn(browser)
    ask(browser, "say:</think>Said.")
    assert sent_messages(browser) == [("user", "say:</think>Said.")], "what was stopped unsaid is not sent"


def keys_are_asked_for(browser, url):
    open_page(browser, url)
    click(browser, "[data-panel=parameters]")
    assert "asks for a key" in ask(browser, "say:</think>Yes.")
    assert browser.run("document.activeElement.id") == "key"
    browser.type("a-key")
    press(browser, "Try again")
    assert last_turn(browser).startswith("Yes.")
    open_page(browser, url)
    assert browser.run("document.getElementById('key').value") == "a-key"


def the_server_can_go(browser):
    answer = ask(browser, "hello")
    assert "The server does not answer" in answer, answer
    browser.wait("document.getElementById('state').textContent === 'not reachable'")


def main():
    program = find_chromium()
    if not program:
        print("skipped: Chromium is not installed; scripts/setup browser does it")
        sys.exit(77)

    def passed(check, *given):
        check(*given)
        print("passed", check.__name__, flush=True)

    with Browser(program) as browser:
        with serving(sys.argv[1]) as url:
            open_page(browser, url)
            for check in (chat, markdown_is_drawn, calls_are_folded, failed_turns_are_not_sent_again,
                          questions_can_be_changed_and_asked_again, errors_are_words, server_is_shown,
                          placement_is_shown, screens_of_all_sizes, keyboard_is_enough,
                          every_beginning_of_an_answer_can_be_shown, hostile_answers_stay_text):
                passed(check, browser)
            passed(conversations_are_kept, browser, url)
            passed(nobody_else_is_asked, browser, url)
            axe = glob.glob(f"{sys.argv[2]}/lib/python3*/site-packages/axe_playwright_python/axe.min.js")
            if axe:
                passed(nothing_keeps_readers_out, browser, axe[0])
            else:
                print("not looked at with axe-core: scripts/setup browser installs it")
        with serving(sys.argv[1], first_token_ms=6000) as url:
            passed(answers_can_be_waited_for_and_stopped, browser, url)
        with serving(sys.argv[1], keys="a-key") as url:
            passed(keys_are_asked_for, browser, url)
        passed(the_server_can_go, browser)


if __name__ == "__main__":
    main()

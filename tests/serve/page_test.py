"""The page at / in Chromium: a chat that streams, what it shows of the server, and nobody else is asked.

    page_test.py FAKE_SERVER
    page_test.py --picture FILE URL QUESTION...    asks a real server, and keeps a picture of the page

Skipped (77) where Chromium is not installed; `scripts/setup browser` installs it.
"""
import subprocess
import sys

from browser import Browser, find_chromium

READY = "document.readyState === 'complete' && !!document.getElementById('model')?.textContent"
IDLE = "document.getElementById('send').textContent === 'Send'"
TURNS = "[...document.querySelectorAll('.turn')].map(t => t.innerText)"


def open_page(browser, url):
    browser.call("Page.navigate", url=url + "/")
    browser.wait(READY)


def ask(browser, question, seconds=20):
    browser.run("document.getElementById('input').focus()")
    browser.type(question)
    browser.press_enter()
    browser.wait("document.querySelectorAll('.turn').length % 2 === 0 && " + IDLE, seconds)
    return browser.run(TURNS)[-1]


def chat(browser):
    answer = ask(browser, "say:</think>It is <b>Paris</b>.")
    assert answer.startswith("It is <b>Paris</b>.\n"), answer
    assert "tokens in" in answer and "tokens/s" in answer and "first after" in answer, answer
    reasoned = ask(browser, "say:Let me see.</think>Right.")
    assert "Reasoning" in reasoned and "Right." in reasoned, reasoned
    assert len(browser.run(TURNS)) == 4
    assert browser.run("messages.length") == 4, "the history of the next request"


def errors_are_shown(browser):
    answer = ask(browser, "REFUSE")
    assert "no such words" in answer, answer
    browser.run("document.getElementById('clear').click()")
    assert browser.run(TURNS) == []


def server_is_shown(browser):
    browser.wait("document.querySelectorAll('#ranks tr').length === 3", 10)
    shown = browser.run("document.body.innerText")
    rows = browser.run("[...document.querySelectorAll('#ranks tr')].map(r => [...r.cells].map(c => c.textContent))")
    assert rows == [["0", "0", "scheduler + trunk", "1.5", "", ""], ["1", "0", "expert", "20.0", "2.0", "25\u00a0%"],
                    ["2", "1", "expert", "0.0", "", ""]], rows
    for words in ("fake/model", "Running requests", "KV cache in use"):
        assert words in shown, shown


def placement_is_shown(browser):
    assert not browser.run("document.getElementById('placement').hidden")
    rows = browser.run("[...document.querySelectorAll('#experts td:last-child')].map(c => c.textContent)")
    assert rows == ["6 of 24", "37.5 %", "3"], rows
    bars = browser.run("[...document.querySelectorAll('#layers div')].map(b => [b.title, b.offsetHeight])")
    assert [title for title, _ in bars] == ["layer 1: 4 on the trunk", "layer 2: 2 on the trunk"], bars
    assert bars[0][1] == 2 * bars[1][1] > 0, bars


def nobody_else_is_asked(browser, url):
    asked = {r["request"]["url"] for r in browser.reported("Network.requestWillBeSent")}
    outside = [u for u in asked if not u.startswith((url + "/", "data:"))]
    assert not outside, outside
    assert {url + "/", url + "/metrics", url + "/v1/chat/completions"} <= asked, asked
    broken = [e["entry"]["text"] for e in browser.reported("Log.entryAdded")
              if e["entry"]["level"] == "error" and "400 (Bad Request)" not in e["entry"]["text"]]
    broken += browser.reported("Runtime.exceptionThrown")
    assert not broken, broken


def picture(path, url, questions):
    with Browser(find_chromium()) as browser:
        open_page(browser, url.rstrip("/"))
        browser.run("document.getElementById('temperature').value = 0")
        for question in questions:
            print(ask(browser, question, 120))
        browser.wait("new Promise(done => setTimeout(() => done(true), 2500))")  # the gauges follow every 2 s
        browser.screenshot(path)


def main():
    program = find_chromium()
    if not program:
        print("skipped: Chromium is not installed; scripts/setup browser does it")
        sys.exit(77)
    if sys.argv[1] == "--picture":
        return picture(sys.argv[2], sys.argv[3], sys.argv[4:])
    server = subprocess.Popen([sys.argv[1], "", "qwen3_coder", "qwen3"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True)
    try:
        url = server.stdout.readline().strip()
        with Browser(program) as browser:
            open_page(browser, url)
            for check in (chat, errors_are_shown, server_is_shown, placement_is_shown):
                check(browser)
                print("passed", check.__name__, flush=True)
            nobody_else_is_asked(browser, url)
            print("passed nobody_else_is_asked")
    finally:
        server.stdin.close()
        assert server.wait(timeout=20) == 0


main()

"""What the tests of the page at / do with it, as its readers would."""
import base64
import contextlib
import json
import subprocess

READY = "document.documentElement?.dataset.ready === '' && !!document.getElementById('model')?.textContent"
IDLE = "document.getElementById('send').textContent === 'Send'"
TURNS = "[...document.querySelectorAll('.turn')].map(t => t.innerText)"


@contextlib.contextmanager
def serving(program, keys="", first_token_ms=0):
    """A server with a fake engine: its URL. It must end well."""
    server = subprocess.Popen([program, keys, "qwen3_coder", "qwen3", str(first_token_ms)], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)
    try:
        yield server.stdout.readline().strip()
    finally:
        server.stdin.close()
        assert server.wait(timeout=20) == 0


def open_page(browser, url):
    browser.call("Page.navigate", url=url + "/")
    browser.wait(READY)


def click(browser, selector, at=0):
    browser.run(f"document.querySelectorAll({json.dumps(selector)})[{at}].click()")


def press(browser, words, within="document"):
    """The last button that has these words, or is labelled with them."""
    browser.run(f"""[...{within}.querySelectorAll('button')].filter(b => b.checkVisibility() &&
        [b.textContent, b.getAttribute('aria-label')].includes({json.dumps(words)})).at(-1).click()""")


def fill(browser, name, text):
    browser.run(f"""(() => {{ const field = document.getElementById('{name}'); field.value = {json.dumps(text)};
        field.dispatchEvent(new Event('input')); }})()""")


def send(browser, question):
    browser.run("document.getElementById('input').focus()")
    browser.type(question)
    browser.press_enter()


def last_turn(browser, seconds=60):
    browser.wait("document.querySelectorAll('.turn').length % 2 === 0 && " + IDLE, seconds)
    return browser.run(TURNS)[-1]


def ask(browser, question, seconds=60):
    send(browser, question)
    return last_turn(browser, seconds)


def start_anew(browser):
    browser.run("document.getElementById('new').click()")
    assert browser.run(TURNS) == []


def titles(browser):
    return browser.run("[...document.querySelectorAll('#list .title')].map(t => t.textContent)")


def sent_messages(browser):
    """Of the last request for an answer: what the model is told."""
    bodies = [r["request"]["postData"] for r in browser.reported("Network.requestWillBeSent")
              if r["request"]["url"].endswith("/v1/chat/completions") and r["request"]["method"] == "POST"]
    return [(m["role"], m["content"]) for m in json.loads(bodies[-1])["messages"]]


def module(browser, name):
    """A JavaScript expression: the promise of one of the page's modules."""
    main = browser.run("document.querySelector('script[type=module]').src")
    return f"import({json.dumps(main.replace('main.js', name))})"


@contextlib.contextmanager
def answered_by_another(browser, status, headers, body):
    """Requests for answers are not sent: a proxy answers them."""
    browser.call("Fetch.enable", patterns=[{"urlPattern": "*/v1/chat/completions"}])

    def fulfil():
        paused = browser.wait_for("Fetch.requestPaused")
        browser.call("Fetch.fulfillRequest", requestId=paused["requestId"], responseCode=status,
                     responseHeaders=[{"name": n, "value": v} for n, v in headers.items()],
                     body=base64.b64encode(body.encode()).decode())

    yield fulfil
    browser.call("Fetch.disable")

"""Chromium without window, driven over its DevTools pipe: messages are JSON that ends with a zero byte."""
import base64
import json
import os
import shutil
import subprocess
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium():
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """`with Browser(program) as browser`: one page. `events` has all that the page's domains reported."""

    def __init__(self, program, width=1100, height=960):
        self.program, self.size = program, (width, height)
        self.events, self.number, self.buffer, self.session = [], 0, b"", None
        self.taken = {}  # how many events of a name wait_for() gave

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="ktmpi_browser_")
        theirs_in, self.out = os.pipe()
        self.incoming, theirs_out = os.pipe()

        def give_pipes():  # Chromium reads from 3 and writes to 4
            a, b = os.dup(theirs_in), os.dup(theirs_out)
            os.dup2(a, 3)
            os.dup2(b, 4)

        self.process = subprocess.Popen(
            [self.program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--no-first-run", "--disable-background-networking", f"--user-data-dir={self.folder}",
             f"--window-size={self.size[0]},{self.size[1]}", "--remote-debugging-pipe", "about:blank"],
            preexec_fn=give_pipes, close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(*self.size)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.out)
        os.close(self.incoming)
        shutil.rmtree(self.folder, ignore_errors=True)

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self.number:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]
            self.events.append(answer)

    def _read(self):
        while b"\0" not in self.buffer:
            more = os.read(self.incoming, 1 << 16)
            assert more, f"{self.program} has ended"
            self.buffer += more
        text, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(text)

    def run(self, script):
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, (script, result)
        return result["result"].get("value")

    def wait(self, script, seconds=60):
        """Until the expression is true; its value."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"not true after {seconds} s: {script}"
            time.sleep(0.05)
        return value

    def wait_for(self, method, seconds=60):
        """The first event of this name that was not given before."""
        deadline, had = time.monotonic() + seconds, self.taken.get(method, 0)
        while len(self.reported(method)) <= had:
            assert time.monotonic() < deadline, f"no {method} in {seconds} s"
            self.run("0")  # reads what has come
            time.sleep(0.02)
        self.taken[method] = had + 1
        return self.reported(method)[had]

    def cpu_seconds(self):
        """What the page's thread has computed so far, whatever else the machine does."""
        self.call("Performance.enable", timeDomain="threadTicks")
        return next(m["value"] for m in self.call("Performance.getMetrics")["metrics"] if m["name"] == "ThreadTime")

    def resize(self, width, height, mobile=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def prefer(self, scheme):
        """The colours that the system asks for: "light" or "dark"."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def type(self, text):
        self.call("Input.insertText", text=text)

    def press(self, key, code=0, text="", modifiers=0):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                      modifiers=modifiers, text=text if kind == "keyDown" else "")

    def press_enter(self):
        self.press("Enter", 13, "\r")

    def screenshot(self, path):
        data = self.call("Page.captureScreenshot", format="png")["data"]
        with open(path, "wb") as f:
            f.write(base64.b64decode(data))

    def reported(self, method):
        return [e["params"] for e in self.events if e.get("method") == method]

#!/usr/bin/env python3
"""ktmpi chat against a small endpoint, in a terminal and without one: chat_test.py KTMPI."""
import contextlib
import json
import os
import pty
import select
import subprocess
import sys
import tempfile
import time
import unittest

from chat_endpoint import Endpoint

KTMPI = sys.argv[1]
CHAT = "/v1/chat/completions"


def ask(endpoint, lines, *options):
    return subprocess.run([KTMPI, "chat", "--url", endpoint.url, *options], input=lines, capture_output=True,
                          text=True, timeout=60)


class Terminal:
    """ktmpi chat in a pseudo-terminal."""

    def __init__(self, *options):
        self.text = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            environment = {**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
            environment.pop("NO_COLOR", None)
            os.execve(KTMPI, [KTMPI, "chat", *options], environment)

    def type(self, text):
        os.write(self.fd, text.encode())

    def read(self, seconds):
        if not select.select([self.fd], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # the other side has closed
            return False
        self.text += data.decode("utf-8", "replace")
        return bool(data)

    def expect(self, text, seconds=20):
        """Waits for `text` and forgets everything up to its end; returns what came before."""
        end = time.monotonic() + seconds
        while text not in self.text:
            left = end - time.monotonic()
            if left <= 0 or not self.read(left):
                raise AssertionError(f"expected {text!r}, found {self.text!r}")
        before, self.text = self.text.split(text, 1)
        return before

    def exit_code(self, again=""):
        """`again` is typed each second until the chat ends: a key may fall between two prompts."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            while self.read(1):
                pass
            for _ in range(100):  # its side of the terminal closes before it is gone
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    os.close(self.fd)
                    return os.waitstatus_to_exitcode(status)
                time.sleep(0.01)
            if again:
                with contextlib.suppress(OSError):  # it has just ended
                    self.type(again)
        raise AssertionError(f"has not ended: {self.text!r}")


class WithoutTerminal(unittest.TestCase):
    def setUp(self):
        self.endpoint = Endpoint()

    def test_each_line_is_a_question_and_the_conversation_goes_on(self):
        answer = ask(self.endpoint, "one\n\ntwo ü\n", "--system", "be brief")

        self.assertEqual((answer.returncode, answer.stderr), (0, ""))
        self.assertEqual(answer.stdout, "echo one of 2\necho two ü of 4\n")
        body = self.endpoint.posts(CHAT)[1]
        self.assertEqual([m["role"] for m in body["messages"]], ["system", "user", "assistant", "user"])
        self.assertEqual(body["messages"][2]["content"], "echo one of 2")
        self.assertEqual(body["model"], "fake-model")
        self.assertEqual((body["stream"], body["stream_options"]), (True, {"include_usage": True}))
        self.assertNotIn("max_tokens", body)

    def test_options_and_the_key_reach_the_server(self):
        answer = ask(self.endpoint, "q\n", "--api-key", "secret", "--model", "m", "--max-tokens", "9",
                     "--temperature", "0")

        self.assertEqual(answer.returncode, 0)
        _, headers, body = self.endpoint.seen[-1]
        self.assertEqual(headers["Authorization"], "Bearer secret")
        self.assertEqual((body["model"], body["max_tokens"], body["temperature"]), ("m", 9, 0))

    def test_reasoning_is_left_out(self):
        self.assertEqual(ask(self.endpoint, "think\n").stdout, "thought\n")

    def test_clear_retry_stats_and_save(self):
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "chat.json")
            answer = ask(self.endpoint, f"a\n/retry\n/stats\n/clear\nb\n/save {file}\n/quit\nnever\n")
            with open(file, encoding="utf-8") as saved:
                body = json.load(saved)

        self.assertEqual(answer.returncode, 0, answer.stderr)
        lines = answer.stdout.splitlines()
        self.assertEqual(lines[:2], ["echo a of 1", "echo a of 1"])
        self.assertRegex(lines[2], r"^last answer: 3 tokens after a prompt of 7, first after \d+\.\d\d s, \d+\.\d tokens/s$")
        self.assertEqual(lines[3], "all 2 answers: 6 tokens, prompts 14 tokens")
        self.assertEqual(lines[4], "echo b of 1")
        self.assertEqual(body, {"model": "fake-model", "messages": [{"role": "user", "content": "b"},
                                                                    {"role": "assistant", "content": "echo b of 1"}]})
        self.assertNotIn("never", answer.stdout)

    def test_failures_are_said_and_leave_the_conversation_as_it_was(self):
        for question, words in (("refuse", "the server answered 400: that is refused"),
                                ("fail", "the model fell over")):
            answer = ask(self.endpoint, f"{question}\nafter\n")
            self.assertEqual(answer.returncode, 75)
            self.assertIn(words, answer.stderr)
            self.assertEqual(answer.stdout, "echo after of 1\n")

    def test_a_stream_that_breaks_off_is_a_failure(self):
        answer = ask(self.endpoint, "break\n")

        self.assertEqual((answer.returncode, answer.stdout), (75, "half\n"))
        self.assertIn("the answer broke off", answer.stderr)

    def test_unknown_commands_get_the_nearest_one(self):
        answer = ask(self.endpoint, "/stat\n/save\n/retry\n")

        self.assertEqual(answer.returncode, 75)
        self.assertIn("unknown command /stat; the nearest one is /stats", answer.stderr)
        self.assertIn("/save needs the name of a file", answer.stderr)
        self.assertIn("there is no question to ask again", answer.stderr)

    def test_no_server_and_bad_urls_are_errors(self):
        self.endpoint.server_close()
        absent = ask(self.endpoint, "")
        self.assertEqual(absent.returncode, 75)
        self.assertIn("is a server running there", absent.stderr)
        for url in ("https://h", "http://", "http://h:0x1", "http://h:99999", "http://[::1", "ftp://h", "http://a b"):
            bad = subprocess.run([KTMPI, "chat", "--url", url], input="", capture_output=True, text=True, timeout=60)
            self.assertEqual(bad.returncode, 2, url)
            self.assertIn("expected http://HOST:PORT", bad.stderr)


class InATerminal(unittest.TestCase):
    def setUp(self):
        self.endpoint = Endpoint()
        self.terminal = Terminal("--url", self.endpoint.url + "/v1/")
        self.terminal.expect("fake-model at ")
        self.terminal.expect("> ")

    def test_streams_answers_with_reasoning_dimmed(self):
        self.terminal.type("think\n")
        self.terminal.expect("\x1b[2mhm, yes")
        self.terminal.expect("\x1b[0mthought")
        self.terminal.expect("> ")
        self.terminal.type("/quit\n")

        self.assertEqual(self.terminal.exit_code(), 0)

    def test_ctrl_c_ends_an_answer_and_at_the_prompt_the_chat(self):
        self.terminal.type("slow\n")
        self.terminal.expect("tick tick ")
        self.terminal.type("\x03")
        self.terminal.expect("> ")
        self.terminal.type("again\n")
        self.terminal.expect("echo again of 3")  # what came of the answer is remembered
        self.terminal.expect("> ")
        self.terminal.type("half a line\x03")

        self.assertEqual(self.terminal.exit_code(again="\x03"), 0)
        end = time.monotonic() + 10
        while not self.endpoint.gone and time.monotonic() < end:
            time.sleep(0.01)
        self.assertEqual(len(self.endpoint.gone), 1)  # the server has seen the answer's end

    def test_lines_are_edited_and_remembered(self):
        self.terminal.type("aü\x7f\x01b\n")  # backspace over a character of two bytes, to the line's begin
        self.terminal.expect("echo ba of 1")
        self.terminal.expect("> ")
        self.terminal.type("\x1b[A\n")  # the line before
        self.terminal.expect("echo ba of 3")
        self.terminal.expect("> ")
        self.terminal.type("/help\n")
        self.terminal.expect("/save FILE")
        self.terminal.expect("> ")
        self.terminal.type("\x04")

        self.assertEqual(self.terminal.exit_code(), 0)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

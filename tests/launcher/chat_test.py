#!/usr/bin/env python3
"""ktmpi chat against a small endpoint, without a terminal: chat_test.py KTMPI."""
import fcntl
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from chat_endpoint import Endpoint
from chat_terminal import environment

KTMPI = sys.argv[1]
CHAT = "/v1/chat/completions"


def chat(*options, lines="", **variables):
    return subprocess.run([KTMPI, "chat", *options], input=lines, capture_output=True, text=True, timeout=60,
                          env=environment(**variables))


def ask(endpoint, lines, *options, **variables):
    return chat("--url", endpoint.url, *options, lines=lines, **variables)


class Questions(unittest.TestCase):
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

    def test_lines_between_quotes_are_one_question(self):
        ask(self.endpoint, '"""\none\n\n/two\n"""\n"""three"""\n"""four\nfive  """  \n"""never ended\nsix')

        questions = [body["messages"][-1]["content"] for body in self.endpoint.posts(CHAT)]
        self.assertEqual(questions, ["one\n\n/two", "three", "four\nfive  ", "never ended\nsix"])

    def test_options_and_the_key_reach_the_server(self):
        answer = ask(self.endpoint, "q\n", "--api-key", "secret", "--model", "m", "--max-tokens", "9",
                     "--temperature", "0", OPENAI_API_KEY="another")

        self.assertEqual(answer.returncode, 0)
        _, headers, body = self.endpoint.seen[-1]
        self.assertEqual(headers["Authorization"], "Bearer secret")
        self.assertEqual((body["model"], body["max_tokens"], body["temperature"]), ("m", 9, 0))

    def test_the_key_comes_from_a_file_or_a_variable(self):
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("# ours\nof-the-file\nsecond\n")
            file.flush()
            os.chmod(file.name, 0o600)
            ask(self.endpoint, "q\n", "--api-key-file", file.name, OPENAI_API_KEY="of-the-variable")
            ask(self.endpoint, "q\n", OPENAI_API_KEY="of-the-variable")
            os.chmod(file.name, 0o644)
            open_file = ask(self.endpoint, "q\n", "--api-key-file", file.name)

        keys = [headers["Authorization"] for path, headers, _ in self.endpoint.seen if path == CHAT]
        self.assertEqual(keys, ["Bearer of-the-file", "Bearer of-the-variable"])
        self.assertEqual(open_file.returncode, 2)
        self.assertIn("try chmod 600", open_file.stderr)

    def test_reasoning_is_left_out(self):
        self.assertEqual(ask(self.endpoint, "think\n").stdout, "thought\n")

    def test_nobody_is_told_to_wait_where_no_terminal_shows_it(self):
        self.endpoint.owned_by = {"owned_by": "ktmpi"}
        answer = ask(self.endpoint, "read\nlate\n")

        self.assertEqual((answer.stdout, answer.stderr), ("was read\nat last\n", ""))
        self.assertNotIn("return_progress", self.endpoint.posts(CHAT)[0])

    def test_answers_are_printed_byte_for_byte(self):
        text = "# A *b* `c`\n\n- d " + "word " * 50 + "\n\x1b[2J\tz"
        self.assertEqual(ask(self.endpoint, "say " + json.dumps(text) + "\n").stdout, text + "\n")

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

    def test_settings_hold_until_they_are_taken_back(self):
        answer = ask(self.endpoint, "/set temperature 0.5\n/set seed 7\n/set stop END\n/system be brief\n/model another\n"
                     "a\n/set seed\n/system -\nb\n/set\n/model\n")

        self.assertEqual(answer.returncode, 0, answer.stderr)
        first, second = self.endpoint.posts(CHAT)
        self.assertEqual((first["temperature"], first["seed"], first["stop"], first["model"]), (0.5, 7, "END", "another"))
        self.assertEqual(first["messages"][0], {"role": "system", "content": "be brief"})
        self.assertEqual([m["role"] for m in second["messages"]], ["user", "assistant", "user"])
        self.assertNotIn("seed", second)
        self.assertEqual(answer.stdout.splitlines()[-4:], ["temperature 0.5", 'stop "END"', "  fake-model", "* another"])

    def test_settings_that_are_none_are_refused(self):
        answer = ask(self.endpoint, "/set seed x\n/set top_p true\n/set temprature 1\n/set topp\na\n")

        self.assertEqual(answer.returncode, 75)
        for words in ("seed: expected a whole number, found 'x'", "top_p: expected a number, found 'true'",
                      "unknown parameter temprature; the nearest one is temperature",
                      "unknown parameter topp; the nearest one is top_p"):
            self.assertIn(words, answer.stderr)
        self.assertEqual(set(self.endpoint.posts(CHAT)[0]), {"model", "messages", "stream", "stream_options"})

    def test_files_go_before_the_next_question(self):
        with tempfile.TemporaryDirectory() as folder:
            code, binary = os.path.join(folder, "a b.md"), os.path.join(folder, "b")
            with open(code, "w", encoding="utf-8") as file:
                file.write("```\nx\n```")
            with open(binary, "wb") as file:
                file.write(b"\xff\xfe")
            answer = ask(self.endpoint, f"/load {code}\nwhat is it?\nand now?\n/load {binary}\n/load {folder}\n"
                         f"/load {folder}/none\n/load\n")

        questions = [body["messages"][-1]["content"] for body in self.endpoint.posts(CHAT)]
        self.assertEqual(questions, ["a b.md:\n````\n```\nx\n```\n````\n\nwhat is it?", "and now?"])
        for words in ("/b: is no text in UTF-8", ": is a folder", "/none: cannot be read", "/load needs the name"):
            self.assertIn(words, answer.stderr)

    def test_a_path_is_no_command(self):
        self.assertEqual(ask(self.endpoint, "/etc/passwd is what?\n").stdout, "echo /etc/passwd is what? of 1\n")

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
        self.assertIn("unknown command /stat; the nearest one is /stats, all are /help /system /set ", answer.stderr)
        self.assertIn("/save needs the name of a file", answer.stderr)
        self.assertIn("there is no question to ask again", answer.stderr)


class Servers(unittest.TestCase):
    def setUp(self):
        self.endpoint = Endpoint()
        self.state = self.enterContext(tempfile.TemporaryDirectory())

    def note(self, name, url, locked=True):
        """What a server of this machine would have written."""
        folder = os.path.join(self.state, "ktmpi/servers")
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, name)
        file = self.enterContext(open(path, "w", encoding="utf-8"))
        file.write(url + "\n")
        file.flush()
        if locked:
            fcntl.flock(file, fcntl.LOCK_EX)
        time.sleep(0.02)  # the times of files are to differ
        return path

    def test_without_an_address_the_server_is_asked_that_started_last(self):
        host = socket.gethostname()
        self.note(f"{host}.1", "http://127.0.0.1:9")
        self.note(f"{host}.2", self.endpoint.url)
        dead = self.note(f"{host}.3", "http://127.0.0.1:9", locked=False)
        self.note(f"{host}.4", "\0 no URL")
        self.note(f"{host}.5.new", "http://127.0.0.1:9")
        elsewhere = self.note("another-host.6", "http://127.0.0.1:9", locked=False)

        answer = chat("--wait", "0", lines="q\n", XDG_STATE_HOME=self.state)

        self.assertEqual((answer.returncode, answer.stdout), (0, "echo q of 1\n"), answer.stderr)
        self.assertFalse(os.path.exists(dead))
        self.assertTrue(os.path.exists(elsewhere))

    def test_a_server_that_loads_is_waited_for(self):
        self.endpoint.loads = 2

        answer = ask(self.endpoint, "q\n")

        self.assertEqual((answer.returncode, answer.stdout), (0, "echo q of 1\n"), answer.stderr)
        self.assertEqual(answer.stderr.count("the server answered 503: loading: the model is not ready yet; waiting"), 1)

    def test_a_server_that_is_not_there_yet_is_waited_for(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        late = threading.Timer(1, lambda: Endpoint(port))
        late.start()

        answer = chat(f"127.0.0.1:{port}", lines="q\n")

        late.join()
        self.assertEqual((answer.returncode, answer.stdout), (0, "echo q of 1\n"), answer.stderr)
        self.assertIn("no connection", answer.stderr)

    def test_patience_ends(self):
        self.endpoint.loads = 1000
        loading = ask(self.endpoint, "q\n", "--wait", "0.5")
        self.endpoint.shutdown()
        self.endpoint.server_close()
        absent = ask(self.endpoint, "q\n", "--wait", "0")

        self.assertEqual((loading.returncode, absent.returncode), (75, 75))
        self.assertIn("--wait waits longer", loading.stderr)
        self.assertIn("is a server running there", absent.stderr)

    def test_bad_urls_are_errors(self):
        for url in ("http://", "http://h:0x1", "http://h:99999", "http://[::1", "ftp://h", "http://a b", "http://u:k@h"):
            bad = chat("--url", url)
            self.assertEqual(bad.returncode, 2, url)
            self.assertIn("expected http://HOST:PORT or https://HOST", bad.stderr)

    def test_https_is_spoken_to_servers_with_a_trusted_certificate(self):
        key, certificate = (os.path.join(self.state, name) for name in ("key", "certificate"))
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate,
                        "-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"],
                       check=True, capture_output=True)
        secure = Endpoint(certificate=(certificate, key))

        trusted = ask(secure, "q\n", SSL_CERT_FILE=certificate)
        unknown = ask(secure, "q\n", "--wait", "0")

        self.assertEqual((trusted.returncode, trusted.stdout), (0, "echo q of 1\n"), trusted.stderr)
        self.assertEqual(unknown.returncode, 75)
        self.assertIn("certificate", unknown.stderr)

    def test_proxies_are_asked_but_for_this_machine(self):
        proxied = chat("http://far.invalid/v1", "--wait", "0", lines="q\n", http_proxy=self.endpoint.url)
        self.assertEqual((proxied.returncode, proxied.stdout), (0, "echo q of 1\n"), proxied.stderr)
        self.assertEqual(self.endpoint.seen[-1][0], "http://far.invalid" + CHAT)

        for own in ("127.0.0.1", "localhost"):
            direct = chat(f"{own}:{self.endpoint.server_address[1]}", lines="q\n", http_proxy="http://127.0.0.1:9",
                          no_proxy="other.example")
            self.assertEqual((direct.returncode, direct.stdout), (0, "echo q of 1\n"), direct.stderr)
        excepted = chat("http://far.invalid", "--wait", "0", http_proxy=self.endpoint.url, no_proxy="far.invalid")
        self.assertEqual(excepted.returncode, 75)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

#!/usr/bin/env python3
"""ktmpi chat in a terminal: keys, pastes, history, and how answers look: chat_terminal_test.py KTMPI."""
import json
import os
import re
import signal
import stat
import sys
import tempfile
import termios
import time
import unittest

from chat_endpoint import Endpoint
from chat_terminal import Terminal, shown

KTMPI = sys.argv[1]
CHAT = "/v1/chat/completions"


class InATerminal(unittest.TestCase):
    def setUp(self):
        self.endpoint = Endpoint()

    def open(self, **variables):
        terminal = Terminal(KTMPI, "--url", self.endpoint.url + "/v1/", **variables)
        terminal.expect("fake-model at ")
        terminal.prompt()
        return terminal

    def questions(self):
        return [body["messages"][-1]["content"] for body in self.endpoint.posts(CHAT)]

    def ask(self, terminal, question, answer):
        terminal.type(question + "\n")
        terminal.expect(answer)
        terminal.prompt()

    def leave(self, terminal):
        terminal.type("\x04")
        self.assertEqual(terminal.exit_code(), 0)
        self.assertTrue(terminal.echoes_at_end)


class Typing(InATerminal):
    def test_lines_are_edited_and_remembered(self):
        terminal = self.open()
        self.ask(terminal, "aü\x7f\x01b", "echo ba of 1")  # backspace over a character of two bytes, to the line's begin
        self.ask(terminal, "\x1b[A", "echo ba of 3")  # the line before
        terminal.type("/help\n")
        terminal.expect("/save FILE")
        terminal.prompt()
        self.leave(terminal)

    def test_a_paste_of_several_lines_is_one_message(self):
        terminal = self.open()
        terminal.type("explain: ")
        terminal.paste("def f():\n\treturn 1\n\n# 汉字 über \x07\n")
        time.sleep(0.3)
        self.assertEqual(self.questions(), [])  # until Enter
        terminal.type(" please\n")
        terminal.expect("of 1")
        terminal.prompt()
        self.ask(terminal, "next", "echo next of 3")

        self.assertEqual(self.questions(), ["explain: def f():\n\treturn 1\n\n# 汉字 über  please", "next"])
        self.leave(terminal)

    def test_a_paste_may_be_long_and_look_like_commands(self):
        terminal = self.open(columns=40)
        long = "\n".join(f"/quit {i} \"\"\" {'x' * (i % 97)}" for i in range(300))
        terminal.paste(long)
        terminal.type("\n")
        terminal.expect(" of 1")
        terminal.prompt()

        self.assertEqual(self.questions(), [long])
        self.leave(terminal)

    def test_what_is_pasted_while_an_answer_comes_is_the_next_message(self):
        terminal = self.open()
        terminal.type("late\n")
        time.sleep(0.3)
        terminal.paste("one\ntwo")
        terminal.type("\n")
        answer = terminal.expect("at last")
        terminal.expect(" of 3")

        self.assertNotIn("two", answer)
        self.assertEqual(self.questions(), ["late", "one\ntwo"])
        terminal.prompt()
        self.leave(terminal)

    def test_alt_enter_and_quotes_begin_another_line(self):
        terminal = self.open()
        self.ask(terminal, "a\x1b\rb", " of 1")
        terminal.type('"""\n')
        terminal.expect("... ")
        terminal.type("c\n")
        terminal.expect("... ")
        self.ask(terminal, '/quit"""', " of 3")

        self.assertEqual(self.questions(), ["a\nb", "c\n/quit"])
        self.leave(terminal)

    def test_ctrl_c_ends_an_answer_then_the_line_and_leaves_an_empty_line_the_second_time(self):
        terminal = self.open()
        terminal.type("slow\n")
        terminal.expect("tick tick ")
        terminal.type("\x03")
        terminal.prompt()
        self.ask(terminal, "again", "echo again of 3")  # what came of the answer is remembered
        terminal.type("half a line\x03")
        terminal.prompt()
        self.ask(terminal, "whole", "echo whole of 5")
        terminal.type('"""half a block\n')
        terminal.expect("... ")
        terminal.type("\x03")
        terminal.prompt()
        terminal.type("\x03")
        terminal.expect("Ctrl-C again leaves")
        terminal.prompt()
        self.ask(terminal, "stay", "echo stay of 7")
        terminal.type("\x03")
        terminal.expect("Ctrl-C again leaves")
        terminal.prompt()
        terminal.type("\x03")

        self.assertEqual(terminal.exit_code(), 0)
        self.assertTrue(terminal.echoes_at_end)
        end = time.monotonic() + 10
        while not self.endpoint.gone and time.monotonic() < end:
            time.sleep(0.01)
        self.assertEqual(len(self.endpoint.gone), 1)  # the server has seen the answer's end

    def test_the_terminal_is_as_before_when_a_signal_ends_the_chat(self):
        for number in (signal.SIGTERM, signal.SIGHUP):
            terminal = self.open()
            os.kill(terminal.pid, number)
            self.assertEqual(terminal.exit_code(), -number)
            self.assertTrue(terminal.echoes_at_end)
            self.assertIn("\x1b[?2004l", terminal.text)

    def test_after_a_stop_lines_are_edited_as_before(self):
        terminal = self.open()
        terminal.type("a")
        terminal.expect("a")
        os.kill(terminal.pid, signal.SIGSTOP)
        modes = termios.tcgetattr(terminal.fd)
        modes[3] |= termios.ECHO | termios.ICANON  # as a shell sets them
        termios.tcsetattr(terminal.fd, termios.TCSANOW, modes)
        os.kill(terminal.pid, signal.SIGCONT)
        terminal.expect("\x1b[?2004h")
        terminal.paste("b\nc")
        self.ask(terminal, "", "of 1")

        self.assertEqual(self.questions(), ["ab\nc"])
        self.leave(terminal)

    def test_tab_completes_commands_parameters_and_files(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("one.txt", "other"):
                with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                    file.write("in the file")
            terminal = self.open(HOME=folder)
            terminal.type("/se\t")  # /set; nothing else begins so
            terminal.type("temp\t0.5\n")
            terminal.expect("temperature 0.5")
            terminal.prompt()
            terminal.type("/s\t")
            terminal.expect("/system  /set  /save  /stats")
            terminal.type("\x15/load ~/o\tn\t\n")
            terminal.expect("before the next message")
            terminal.prompt()
            self.ask(terminal, "a\tb", "of 1")  # not in a question

        body = self.endpoint.posts(CHAT)[0]
        self.assertEqual(body["temperature"], 0.5)
        self.assertEqual(body["messages"][0]["content"], "one.txt:\n```\nin the file\n```\n\nab")
        self.leave(terminal)


class History(InATerminal):
    def test_it_outlives_the_chat_in_a_file_for_its_owner_alone(self):
        with tempfile.TemporaryDirectory() as home:
            terminal = self.open(HOME=home)
            self.ask(terminal, "first", "of 1")
            terminal.paste("a\\n\nb")
            self.ask(terminal, "", "of 3")
            self.ask(terminal, " secret", "of 5")
            self.leave(terminal)
            path = os.path.join(home, ".local/state/ktmpi/history")
            mode = stat.S_IMODE(os.stat(path).st_mode), stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode)

            terminal = self.open(HOME=home)
            self.ask(terminal, "\x1b[A", "of 1")
            self.ask(terminal, "\x1b[A\x1b[A", "of 3")
            self.leave(terminal)

        self.assertEqual(mode, (0o600, 0o700))
        self.assertEqual(self.questions(), ["first", "a\\n\nb", " secret", "a\\n\nb", "first"])

    def test_it_is_bounded(self):
        with tempfile.TemporaryDirectory() as state:
            path = os.path.join(state, "ktmpi/history")
            os.mkdir(os.path.dirname(path))
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(f"line {i}\n" for i in range(2500))
            os.chmod(path, 0o644)
            terminal = self.open(XDG_STATE_HOME=state)
            self.ask(terminal, "\x1b[A", "echo line 2499 of 1")
            self.leave(terminal)
            with open(path, encoding="utf-8") as file:
                lines = file.read().splitlines()

            self.assertEqual((len(lines), lines[0], lines[-1]), (1001, "line 1500", "line 2499"))
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)

    def test_a_folder_that_cannot_be_written_is_said_once(self):
        terminal = self.open(XDG_STATE_HOME="/proc")
        terminal.type("a\n")
        terminal.expect("/proc/ktmpi/history: cannot be written: no history is kept")
        terminal.expect("of 1")
        terminal.prompt()
        self.ask(terminal, "b", "of 3")
        self.leave(terminal)


class Looks(InATerminal):
    def look_of(self, markdown, **variables):
        terminal = self.open(**variables)
        terminal.type("say " + json.dumps(markdown) + "\n")
        terminal.expect("\n")
        text = terminal.expect("\r\n> ")
        self.leave(terminal)
        return re.sub(r"\r. waiting, \d+ s \x1b\[K", "", text).removeprefix("\r\x1b[K")  # a slow machine shows it

    def test_reasoning_is_dimmed(self):
        terminal = self.open()
        terminal.type("think\n")
        terminal.expect("\x1b[2mhm, yes")
        terminal.expect("\x1b[0m\r\n\r\nthought")
        terminal.prompt()
        self.leave(terminal)

    def test_reasoning_is_headed_where_nothing_can_be_dimmed(self):
        for variables in {"NO_COLOR": "1"}, {"TERM": "dumb"}:
            terminal = self.open(**variables)
            terminal.type("think\n")
            terminal.expect("Reasoning:\r\nhm, yes\r\n\r\nAnswer:\r\nthought")
            terminal.prompt()
            terminal.type("plain\n")
            self.assertNotIn("Answer:", terminal.expect("echo plain of 3"))
            terminal.prompt()
            self.leave(terminal)

    def test_markdown_is_shown_by_attributes(self):
        for markdown, expected in (
                ("# A *b*\ntext", "\x1b[1m\x1b[4mA \x1b[0m\x1b[1m\x1b[3m\x1b[4mb\r\n\x1b[0mtext"),
                ("## Two\n", "\x1b[1mTwo\r\n\x1b[0m"),
                ("so **is it**, *really*.", "so \x1b[1mis it\x1b[0m, \x1b[3mreally\x1b[0m."),
                ("use `a * b` now", "use \x1b[7ma * b\x1b[0m now"),
                ("``a ` b``", "\x1b[7ma ` b\x1b[0m"),
                ("- one\n  * two\n1. three", "• one\r\n  • two\r\n1. three"),
                ("> said", "\x1b[2m│ \x1b[0msaid"),
                ("---\n", "\x1b[2m" + "─" * 40 + "\r\n\x1b[0m"),
                ("```py\n# a *b*\n\n```\n*c*", "\x1b[2m```py\r\n# a *b*\r\n\r\n```\r\n\x1b[0m\x1b[3mc\x1b[0m"),
                ("a \\*b\\* \\(x\\)", "a *b* \\(x\\)")):
            self.assertEqual(self.look_of(markdown), expected, markdown)

    def test_what_is_no_markup_stays(self):
        for text in ("2 * 3 * 4 and 5*6*7", "pass *args and **kwargs", "a ` b", "snake_case_name", "#no", "-5", "**",
                     "1.5 and 2)", "*.cpp and *.h", "| a | b |", "``", "#", "-", "3.", "a**b"):
            self.assertEqual(self.look_of(text), text)

    def test_lines_are_broken_between_words(self):
        text = "- " + "word " * 12 + "\n\n" + "x" * 50 + " end\n" + "汉字" * 12 + "\n```\n" + "code " * 12 + "\n```"
        lines = shown(self.look_of(text, columns=30)).split("\n")

        self.assertEqual(lines[:5], ["• word word word word word", "  word word word word word", "  word word", "",
                                     "x" * 50 + " end"])
        self.assertEqual(lines[5:7], ["汉字" * 7 + "汉", "字" + "汉字" * 4])
        self.assertEqual(lines[7:], ["```", "code " * 12, "```"])

    def test_no_color_leaves_markdown_as_it_is(self):
        text = "# A\n- **b** `c`\n>d\n```\ne\n```"
        self.assertEqual(self.look_of(text, NO_COLOR="1"), text.replace("\n", "\r\n"))
        self.assertEqual(self.look_of(text, TERM="dumb"), text.replace("\n", "\r\n"))

    def test_answers_cannot_command_the_terminal(self):
        for text, expected in (("a\x1b[2Jb\x07c\x9bd", "a[2Jbcd"), ("```\n\x1b]0;t\x07\n```", "```\n]0;t\n```"),
                               ("a\u202eb", "ab")):
            self.assertEqual(shown(self.look_of(text)), expected)

    def test_a_sign_tells_that_time_passes_until_the_first_token(self):
        terminal = self.open()
        terminal.type("late\n")
        before = terminal.expect("at last")
        terminal.prompt()
        self.leave(terminal)

        self.assertRegex(before, r"waiting, 1 s")
        self.assertTrue(before.endswith("\r\x1b[K"), repr(before))
        self.assertNotIn("return_progress", self.endpoint.posts(CHAT)[0])

    def signs_of(self, question, answer, **variables):
        terminal = self.open(**variables)
        terminal.type(question + "\n")
        terminal.expect("\n")
        signs = re.findall(r"\r[-|/\\] (.*?) ?\x1b\[K", terminal.expect(answer))
        terminal.prompt()
        self.leave(terminal)
        return signs

    def test_the_sign_says_how_far_the_prompt_is_where_the_server_tells_it(self):
        for server in "ktmpi", "llamacpp":
            self.endpoint.owned_by = {"owned_by": server}
            signs = self.signs_of("read", "was read")

            self.assertRegex("\n".join(signs), r"""(?x)^(reading\ 64\ of\ 8,192\ tokens,\ \d\ s\n)+
                                 (reading\ 1,024\ of\ 8,192\ tokens,\ 1000\ tokens/s,\ \d\ s\n)+
                                 (waiting,\ \d\ s\n?)+$""")

    def test_the_sign_stays_in_one_line(self):
        self.endpoint.owned_by = {"owned_by": "ktmpi"}
        signs = self.signs_of("read", "was read", columns=20)

        self.assertIn("reading 1,024 of", signs)
        self.assertLessEqual(max(map(len, signs)), 17)

    def test_other_servers_are_not_asked_how_far_the_prompt_is(self):
        for owner in {}, {"owned_by": "openai"}, {"owned_by": None}:
            self.endpoint.owned_by = owner
            signs = self.signs_of("read", "was read")

            self.assertTrue(signs and all(re.fullmatch(r"waiting, \d s", sign) for sign in signs), signs)
            self.assertNotIn("return_progress", self.endpoint.posts(CHAT)[-1])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

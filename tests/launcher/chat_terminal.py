"""ktmpi chat in a pseudo-terminal."""
import fcntl
import os
import pty
import re
import select
import struct
import termios
import time

KEEPS = ("PATH", "LD_LIBRARY_PATH", "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS")


def environment(**variables):
    """Of a user who has set nothing but this; without a home, so that nothing is remembered."""
    return {**{name: os.environ[name] for name in KEEPS if name in os.environ}, "TERM": "xterm", "LC_ALL": "C.UTF-8",
            **variables}


class Terminal:
    def __init__(self, program, *options, columns=80, **variables):
        self.text = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            os.execve(program, [program, "chat", *options], environment(**variables))

    def type(self, text):
        os.write(self.fd, text.encode())

    def paste(self, text):
        """As terminals do: marks around it, and line breaks as Enter sends them."""
        self.type("\x1b[200~" + text.replace("\n", "\r") + "\x1b[201~")

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

    def prompt(self):
        return self.expect("> ")

    def exit_code(self):
        end = time.monotonic() + 30
        while time.monotonic() < end:
            while self.read(0.2):
                pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.echoes_at_end = bool(termios.tcgetattr(self.fd)[3] & termios.ECHO)
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"has not ended: {self.text!r}")


def shown(text):
    """Without attributes, as lines."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text).replace("\r\n", "\n")

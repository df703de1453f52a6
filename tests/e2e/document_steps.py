"""What a reader of a document would do, in order: the commands of its blocks and of its text, the files it shows, and
what it says that they print."""
import re
import shlex
from typing import NamedTuple

PIECE = re.compile(r"^```(\w*)\n(.*?)^```$|(?<!`)`([^`]+)`(?!`)|^#+ ([^\n]+)$", re.M | re.S)
PROGRAM = re.compile(r"(?:\S*/)?(?:ktmpi|kt)|\.|source|scripts/\S+|build/\S+")
SUBCOMMAND = r"[a-z]+(?:[|][a-z|]+)?"  # a word, or several to choose from
FILE = re.compile(r"`([\w-]+\.(?:yaml|json|toml)|hosts)`")


class Step(NamedTuple):
    document: str
    line: int
    section: str
    kind: str  # sh, a command of a block; span, one of the text; python; file; toml, json, yaml; shown: an output
    text: str
    name: str = ""  # of the file

    def __str__(self):
        return f"{self.document}:{self.line}: {self.text if self.kind in ('sh', 'span') else self.kind}"


def command_lines(block):
    """Line number in the block and text of each command: lines that quotes or a backslash at the end join are one."""
    pending, start = "", 0
    for number, line in enumerate(block.splitlines()):
        if not pending:
            start = number
        pending += line + "\n"
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quote that is open, or a backslash at the end
            continue
        if words and not pending.endswith("\\\n"):
            yield start, pending.strip()
        if not pending.endswith("\\\n"):
            pending = ""
    if pending.strip():
        yield start, pending.strip()


def is_command(span):
    """Of text in backticks: a command of ours, neither the name of a program or subcommand alone nor a synopsis."""
    first, _, rest = span.partition(" ")
    if not PROGRAM.fullmatch(first) or not rest or "[" in rest:
        return False
    words = rest.split()
    if first.endswith(("ktmpi", "kt")):
        while words and re.fullmatch(SUBCOMMAND, words[0]) and words[0] != "version":
            words.pop(0)
    return bool(words)


def steps(document, text):
    section = ""
    for found in PIECE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        kind, block, span, heading = found.groups()
        if heading:
            section = heading
        elif span:
            span = re.sub(r"\s+", " ", span.replace("\\|", "|"))
            if is_command(span):
                yield Step(document, line, section, "span", span)
        elif kind in ("sh", "bash"):
            for offset, command in command_lines(block):
                yield Step(document, line + 1 + offset, section, "sh", command)
        else:
            paragraph = text[:found.start()].rstrip().rpartition("\n\n")[2]
            name = FILE.search(paragraph)
            if kind == "python":
                yield Step(document, line, section, kind, block)
            elif name:
                yield Step(document, line, section, "file", block, name[1])
            else:
                yield Step(document, line, section, kind or "shown", block)

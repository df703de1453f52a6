#!/usr/bin/env python3
"""Holds the documents to the sources, without building anything: documents_test.py ROOT

What they name must be there: links and headings, files, options, paths of the server, exit codes, and the messages that
docs/troubleshooting.md quotes.
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(sys.argv[1])

# Options in backticks that are not ktmpi's, and whose they are.
FOREIGN_OPTIONS = {
    "--oversubscribe": "mpirun", "--bind-to": "mpirun", "--mca": "mpirun", "--mpi": "srun", "--network": "docker",
}
# Absolute paths in backticks that are no paths of this server.
FOREIGN_PATHS = {
    "/tmp": "a folder", "/help": "a command of ktmpi chat", "/v1": "the beginning of paths: base URLs of clients", "/v1/embeddings": "said to be absent",
}
SYSTEM = ("/etc/", "/usr", "/var/")  # where an installation is
MADE = {"build", "models"}  # folders that git does not have
SOURCE = (".h", ".cpp", ".py", ".sh", ".sbatch", ".yaml", ".md", ".txt", ".png")
PROGRAM = re.compile(r"([^=]*/)?ktmpi|scripts/slurm/ktmpi\.sbatch")  # what hands its options on to ktmpi, too
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def sources(*folders, ends=(".h", ".cpp")):
    return [f for folder in folders for f in sorted((ROOT / folder).rglob("*")) if f.suffix in ends]


# ---- what there is -------------------------------------------------------------------------------------------------

FILES = [f.relative_to(ROOT).as_posix() for top in ROOT.iterdir()
         if top.is_dir() and top.name not in MADE and not top.name.startswith(".git") for f in top.rglob("*")]
FILES += [f.name for f in ROOT.iterdir()]
FOLDERS = {f.split("/")[0] for f in FILES if "/" in f}


def serve_options():
    text = read("runtime/config/options.cpp")
    names = re.findall(r'\.name = "([^"]+)"', text)
    aliases = [name for found in re.findall(r'\.aliases = "([^"]+)"', text) for name in found.split("|")]
    return {"config", "help"} | set(names) | set(aliases)


def commands():
    """The options of each command, by its name: "serve", "bench step"."""
    serve = serve_options()
    table = {"serve": serve, "version": set()}
    for file in sources("launcher", ends=(".cpp",)):
        text = file.read_text(encoding="utf-8")
        named = re.search(r"^int (\w+)_command\(", text, re.M)
        if not named or named[1] in table:
            continue
        own = set(re.findall(r'\(\s*"([a-z][a-z-]+)(?:,h)?",\s*(?:(?:boost::program_options|po)::|s\.|")', text)) | {"help"}
        takes_serves = "parse_run_config" in text
        table[named[1].replace("bench_", "bench ")] = own | (serve if takes_serves else set())
    return table


def script_options():
    files = [f for f in (ROOT / "scripts").rglob("*") if f.is_file() and f.parent.name != "__pycache__"]
    texts = [f.read_text(encoding="utf-8") for f in files]
    return {option for text in texts for option in re.findall(r"--[a-z][a-z-]+", text)}


def routes():
    table = read("runtime/serve/http/routes.cpp").split("kRoutes[] = {")[1].split("};")[0]
    return [re.compile(re.escape(path).replace(r"\*", "[^/]+")) for path in re.findall(r'\{"(/[^"]*)"', table)]


def messages():
    """Texts of the sources as one would see them: adjacent literals joined, {} for what differs."""
    found = []
    for file in sources("runtime", "launcher"):
        for literals in re.findall(r'"(?:[^"\\\n]|\\.)*"(?:\s*"(?:[^"\\\n]|\\.)*")*', file.read_text(encoding="utf-8")):
            text = "".join(re.findall(r'"((?:[^"\\\n]|\\.)*)"', literals))
            found.append(re.sub(r"\{[^{}]*\}|<[^<>]*>", "{}", text.replace('\\"', '"')))
    return found


def slugs(text):
    """The anchors of a document's headings, as GitHub makes them."""
    found = []
    for heading in re.findall(r"^#+ +(.+)$", FENCE.sub("", text), re.M):
        heading = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return found


OPTIONS, ROUTES, SCRIPT_OPTIONS, FOUND_MESSAGES = commands(), routes(), script_options(), messages()
ALL_OPTIONS = set().union(*OPTIONS.values())


# ---- what the documents say ----------------------------------------------------------------------------------------

def wrong_links(document, prose):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / document).parent / path if path else ROOT / document
        if not file.exists():
            yield f"the link {target} leads nowhere"
        elif anchor and anchor not in slugs(file.read_text(encoding="utf-8")):
            yield f"the link {target}: {file.name} has no such heading"


def wrong_paths(words):
    """Words that look like files of ours: below one of our folders, or a name that ends as our sources do."""
    for word in words:
        word = word.rstrip("/:.,")
        if not re.fullmatch(r"[\w.*{},/+-]+", word) or word.startswith(SYSTEM):
            continue
        below = word.split("/")[0] in FOLDERS and "/" in word
        if not below and not (word.endswith(SOURCE) and "/" in word.strip("/")) and not word.endswith((".h", ".cpp")):
            continue
        pattern = re.sub(r"\\\{(.*?)\\\}", lambda m: "(" + m[1].replace(",", "|") + ")", re.escape(word))
        pattern = re.sub(r"\b[A-Z_]{3,}\b", "[^/]+", pattern.replace(r"\*", "[^/]*"))  # FILE, TARGET
        if not any(re.fullmatch(pattern if below else f"(.*/)?{pattern}", file) for file in FILES):
            yield f"there is no {word}"


def wrong_options(line):
    """Of a command line, or of several: ktmpi's own options, by the command that they are of."""
    for call in re.split(r"[|;&()]+|\n", line):
        words = call.split()
        at = next((i for i, word in enumerate(words) if PROGRAM.fullmatch(word)), None)
        if at is None:
            continue
        rest = words[at + 1:]
        if "#" in rest:
            rest = rest[:rest.index("#")]
        first, both = rest[0] if rest else "", " ".join(rest[:2])
        command = both if both in OPTIONS else first if first in OPTIONS else "serve"
        if re.fullmatch("[a-z]+", first) and first not in OPTIONS:
            yield f"ktmpi has no command {first}"
        for word in rest:
            name = word[2:].split("=")[0].strip("\"'`.,")
            if word.startswith("--") and name.replace("_", "-") not in OPTIONS[command]:
                yield f"ktmpi {command} has no option --{name}"


def wrong_keys(fences):
    for kind, body in fences:
        for key in re.findall(r"^([\w-]+):", body, re.M) if kind == "yaml" else []:
            if key not in OPTIONS["serve"]:
                yield f"ktmpi has no option {key}, a key of YAML"


def wrong_lone_options(spans):
    for span in spans:
        name = re.match(r"--[a-z][\w-]*", span)
        known = name and (name[0][2:] in ALL_OPTIONS or name[0] in SCRIPT_OPTIONS or name[0] in FOREIGN_OPTIONS)
        if name and not known:
            yield f"nobody has the option {name[0]}"


def is_route(path):
    path = path.split("?")[0]
    return path in FOREIGN_PATHS or path.startswith(SYSTEM) or any(route.fullmatch(path) for route in ROUTES)


def wrong_routes(spans, text):
    for span in spans:
        path = re.fullmatch(r"(?:(?:GET|POST|PUT|DELETE) )?(/[\w./{}*-]*)", span)
        if path and not is_route(path[1]):
            yield f"the server has no {path[1]}"
    for path in re.findall(r"http://(?:127\.0\.0\.1|localhost|HOST|n1):30000(/[\w./-]*)", text):
        if not is_route(path):
            yield f"the server has no {path}"


def wrong_messages(text):
    """The messages that tables quote: in the column of that name, what has a space."""
    column = None
    for line in text.splitlines():
        cells = [c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]
        if "message" in cells:
            column = cells.index("message")
        elif not cells:
            column = None
        elif column is not None:
            for quoted in re.findall(r"`([^`]+ [^`]+)`", cells[column]):
                wanted = re.sub(r"<[^>]*>", "{}", quoted)
                wanted = wanted.removeprefix("{}").removesuffix("{}")
                if not any(wanted in message for message in FOUND_MESSAGES):
                    yield f"no source says '{quoted}'"


def wrong_exit_codes(text):
    said = set(re.findall(r"^\| (\d+) \|", text.split("## Exit codes")[1].split("\n## ")[0], re.M))
    there = set(re.findall(r"^  kExit\w+ = (\d+),", read("runtime/base/error.h"), re.M))
    if said != there:
        yield f"exit codes: it has {sorted(said)}, runtime/base/error.h has {sorted(there)}"


def wrong_models(spans):
    """docs/models.md has each architecture, format and table of kernels that the sources have, and no other."""
    there = {name for file in sources("runtime/arch") for name in re.findall(r'\.hf_name = "(\w+)"', read(file))}
    there |= set(re.findall(r'\{"([A-Z0-9]+)", \d+', read("kernels/weight.h").split("kFormats[] = {")[1].split("};")[0]))
    tables = {name for file in sources("kernels/cpu") for name in re.findall(r'(?:make_table<\w+>\(|kRefOps = \{\.name = )"([\w-]+)"', read(file))}
    said = {span for span in spans if re.fullmatch(r"\w+For(?:CausalLM|ConditionalGeneration)|[A-Z]+\d+", span)}
    said |= {span for span in spans if re.fullmatch(r"ref|avx[\w-]*|amx[\w-]*", span)}
    for name in sorted(said ^ (there | tables)):
        yield f"{name} is in {'no source' if name in said else 'the sources and not here'}"


def wrong_list(text):
    """README.md lists every document."""
    listed = re.findall(r"\]\((docs/[^)#]+)\)", text.split("\n## Documents\n")[-1])
    for document in sorted(f.relative_to(ROOT).as_posix() for f in (ROOT / "docs").rglob("*.md")):
        if document not in listed:
            yield f"its list of documents has no {document}"


def complaints(document):
    text = read(document)
    prose = FENCE.sub("", text)
    spans = [re.sub(r"\s+", " ", span) for span in re.findall(r"`([^`]+)`", prose)]
    blocks = [body.replace("\\\n", " ") for _, body in FENCE.findall(text)]
    yield from wrong_links(document, prose)
    yield from wrong_paths(spans + [word for text in spans + blocks for word in text.split()])
    for piece in spans + blocks:
        yield from wrong_options(piece)
    yield from wrong_keys(FENCE.findall(text))
    yield from wrong_lone_options(spans)
    yield from wrong_routes(spans, text)
    if document == "README.md":
        yield from wrong_list(text)
    if document == "docs/models.md":
        yield from wrong_models(spans)
    if document == "docs/troubleshooting.md":
        yield from wrong_messages(text)
        yield from wrong_exit_codes(text)


def main():
    documents = ["README.md", "CONTRIBUTING.md"]
    documents += sorted(f.relative_to(ROOT).as_posix() for f in (ROOT / "docs").rglob("*.md"))
    counts = (len(ROUTES), len(ALL_OPTIONS), len(FOUND_MESSAGES), len(documents))
    if min(counts) < 10:
        sys.exit(f"the sources are not read as they are written: {counts} routes, options, messages, documents")
    wrong = [f"{document}: {complaint}" for document in documents for complaint in dict.fromkeys(complaints(document))]
    print("\n".join(wrong + [f"documents_test: {len(documents)} documents, {len(wrong)} complaints"]))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()

"""What configs/monitoring asks for is in /metrics.

    monitoring_test.py KTMPI [FOLDER]

A job of three ranks on a made-up model answers, refuses and gives up requests. Then every metric, label and matcher in
the alert rules and the dashboard must find something in its /metrics, every option that an alert names must be one, and
every sample must stand under the HELP of its family. Prints the metrics that no panel shows. FOLDER: another one than
configs/monitoring. Skipped (77) where mpirun or PyYAML is not installed.
"""
import json
import os
import re
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "e2e"))
from ktmpi_server import ROOT, Server, need_program, skip  # noqa: E402

try:
    import yaml
except ImportError:
    skip("PyYAML is not installed")

FOLDER = sys.argv[2] if len(sys.argv) > 2 else os.path.join(ROOT, "configs", "monitoring")
MODEL = {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 64, "head_dim": 32,
         "num_attention_heads": 2, "num_key_value_heads": 1, "num_experts": 4, "num_experts_per_tok": 2,
         "moe_intermediate_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 128,
         "max_position_embeddings": 512, "norm_topk_prob": True, "rope_theta": 1e6}
TARGET = {"job": "ktmpi", "instance": "127.0.0.1:30000"}  # labels that Prometheus adds
RARE = {"ktmpi_numa_misplaced_pages": {"rank": "0"}}      # has samples only on machines of several NUMA nodes

AGGREGATIONS = {"sum", "avg", "min", "max", "count", "topk"}
WORDS = AGGREGATIONS | {"rate", "increase", "deriv", "resets", "histogram_quantile", "min_over_time", "max_over_time",
                        "and", "or", "unless"}
STRING = r'"(?:[^"\\]|\\.)*"'
SELECTOR = re.compile(rf'\b([a-zA-Z_]\w*)\s*\{{((?:{STRING}|[^"}}])*)\}}')
MATCHER = re.compile(rf'\s*(\w+)\s*(=~|!~|!=|=)\s*({STRING})\s*(?:,|$)')
GROUPING = re.compile(r"\b(by|on|group_left|group_right)\s*\(([^()]*)\)\s*")


# ---- a job that has done everything ----------------------------------------------------------------------------------

def write_model(folder):
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    vocab = {chr(c): c - 33 for c in range(33, 127)}
    tokenizer = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": level, "decoder": level,
                 "post_processor": None, "model": {"type": "BPE", "vocab": vocab, "merges": []}}
    for name, content in (("config.json", MODEL), ("tokenizer.json", tokenizer)):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            json.dump(content, file)


def metrics_of_a_job(program):
    """/metrics, after an answer, a 404, a 429 and a 504."""
    with tempfile.TemporaryDirectory() as model:
        write_model(model)
        options = ["--load-format", "dummy", "--kt-num-gpu-experts", 1, "--max-running-requests", 2,
                   "--max-queued-requests", 4]
        with Server(program, model, world=3, options=options) as server:
            ask = {"model": "m", "prompt": [1, 2, 3], "max_tokens": 400}
            assert server.post("/v1/completions", ask)[0] == 200
            assert server.get("/nowhere")[0] == 404
            assert server.post("/v1/completions", {**ask, "n": 64})[0] == 429
            deadline = time.monotonic() + 60
            while (status := server.post("/v1/completions", {**ask, "timeout": 0.001})[0]) == 429:
                assert time.monotonic() < deadline  # the choices that were refused are still leaving the queue
                time.sleep(0.01)
            assert status == 504, status
            while True:
                text = server.get("/metrics")[1]
                if all(f'ktmpi_steps_total{{rank="{rank}"' in text for rank in range(3)):
                    return text
                assert time.monotonic() < deadline, "the ranks' clocks have not come:\n" + text
                time.sleep(0.2)


# ---- what there is ---------------------------------------------------------------------------------------------------

def read_samples(text):
    """name -> labels of each sample, and what is wrong with the text."""
    samples, wrong, families, family, kind = {}, [], set(), None, None
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split()[2]
            if not family.startswith("ktmpi_") or family in families or len(line.split()) < 4:
                wrong.append(f"{line}: expected a name that begins with ktmpi_, once, and its help")
            families.add(family)
            samples.setdefault(family, [])
        elif line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            if name != family:
                wrong.append(f"{line}: expected under the HELP of {name}, found under that of {family}")
        else:
            name = re.match(r"\w+", line).group()
            names = [family + s for s in ("_bucket", "_sum", "_count")] if kind == "histogram" else [family]
            if name not in names:
                wrong.append(f"{line}: expected one of {', '.join(names)}")
            labels = {label: json.loads(value) for label, value in re.findall(rf"(\w+)=({STRING})", line)}
            samples.setdefault(name, []).append({**TARGET, **labels})
        if kind == "histogram":
            samples.pop(family, None)  # it has parts only
    for name, labels in RARE.items():
        if samples.get(name) == []:
            samples[name].append({**TARGET, **labels})
    samples["up"] = [TARGET]
    return samples, wrong


def families_of(names):
    """Without the three suffixes of histograms, which no other name has."""
    return {re.sub("_(bucket|sum|count)$", "", name) for name in names}


# ---- what is asked for -----------------------------------------------------------------------------------------------

def closing(text, at):
    """Where the parenthesis that opens at `at` closes."""
    depth = 0
    for i in range(at, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    return len(text)


def is_match(labels, label, operator, value):
    found = labels.get(label, "")
    fits = re.fullmatch(value, found) is not None if "~" in operator else found == value
    return fits != operator.startswith("!")


def names_in(expression):
    """The metrics of an expression that has no selectors' braces any more."""
    bare = GROUPING.sub(" ", re.sub(r"\[[^\]]*\]", " ", expression))
    return [w for w in re.findall(r"(?<![\w.])[a-zA-Z_]\w*", bare) if w not in WORDS]


def check_query(query, samples):
    """The metrics that a PromQL query asks for, the labels that its answer has, and what is wrong."""
    wrong, query = [], query.replace("$__rate_interval", "5m")

    def take_selector(match):
        name, inside = match.groups()
        matchers = [(label, operator, json.loads(value)) for label, operator, value in MATCHER.findall(inside)]
        if MATCHER.sub("", inside).strip():
            wrong.append(f"{{{inside}}}: expected label, operator and value in quotes")
        known = samples.get(name, [])
        for label, _, _ in matchers:
            if known and not any(label in s for s in known):
                wrong.append(f"{name} has no label {label}")
        if known and not any(all(is_match(s, *m) for m in matchers) for s in known):
            wrong.append(f"nothing of {name} matches {{{inside}}}")
        return name + " "

    bare = SELECTOR.sub(take_selector, query)
    names = names_in(bare)
    wrong += [f"there is no metric {name}" for name in names if not samples.get(name)]

    def labels_of(metrics):
        return {label for name in metrics for sample in samples.get(name, []) for label in sample}

    kept = set()
    for match in GROUPING.finditer(bare):
        word, labels = match.group(1), set(re.findall(r"\w+", match.group(2)))
        inside = bare[match.end():closing(bare, match.end())] if word == "by" else bare
        wrong += [f"{word} ({label}): no metric there has it" for label in labels - labels_of(names_in(inside))]
        if word != "on":
            kept |= labels
    aggregated = AGGREGATIONS & set(re.findall(r"\w+", bare))
    return set(names), kept if aggregated else labels_of(names), wrong


def check_alerts(samples, options):
    with open(os.path.join(FOLDER, "alerts.yaml"), encoding="utf-8") as file:
        rules = [rule for group in yaml.safe_load(file)["groups"] for rule in group["rules"]]
    wrong, seen = [], set()
    for rule in rules:
        name, notes = rule["alert"], rule.get("annotations", {})
        _, labels, found = check_query(rule["expr"], samples)
        for note in ("summary", "description"):
            text = notes.get(note, "").strip()
            if not text:
                found.append(f"it has no {note}")
            found += [f"{note}: its answer has no label {label}"
                      for label in re.findall(r"\$labels\.(\w+)", text) if label not in labels]
            found += [f"{note}: there is no option {option}"
                      for option in re.findall(r"'([a-z0-9-]+)(?:: [^']*)?'", text) if option not in options]
        if name in seen:
            found.append("it is there twice")
        seen.add(name)
        wrong += [f"alerts.yaml, {name}: {what}" for what in found]
    print(f"{len(rules)} alerts")
    return wrong


def check_dashboard(samples):
    with open(os.path.join(FOLDER, "grafana.json"), encoding="utf-8") as file:
        text = file.read()
    dashboard = json.loads(text)
    wrong, shown, ids = [], set(), set()
    if text != json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n":
        wrong.append("expected an indentation of two spaces, a member a line, and a newline at the end")
    variables = [v["name"] for v in dashboard["templating"]["list"]]

    def check(where, query):
        query = re.sub(r"\$\{?(%s)\b\}?" % "|".join(variables), ".*", query)
        names, labels, found = check_query(query, samples)
        found += [f"there is no variable ${v}" for v in re.findall(r"\$(?!__rate_interval\b)(\w+)", query)]
        shown.update(names)
        wrong.extend(f"{where}: {what}" for what in found)
        return labels

    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            where, query = f"variable {variable['name']}", variable["query"]["query"]
            metric, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()
            if label not in check(where, metric):
                wrong.append(f"{where}: {metric} has no label {label}")
    for panel in dashboard["panels"]:
        where = f"{panel['title']} ({panel['id']})"
        if panel["id"] in ids:
            wrong.append(f"{where}: its id is there twice")
        ids.add(panel["id"])
        if panel["type"] == "row":
            continue
        if not panel["fieldConfig"]["defaults"].get("unit") or not panel.get("description") or not panel["targets"]:
            wrong.append(f"{where}: expected a unit, a description and queries")
        for target in panel["targets"]:
            labels = check(where, target["expr"])
            wrong += [f"{where}: its answer has no label {label}"
                      for label in re.findall(r"\{\{\s*(\w+)\s*\}\}", target["legendFormat"]) if label not in labels]
    print(f"{len(ids)} panels and rows")
    print("shown by no panel:", ", ".join(sorted(families_of(samples) - families_of(shown))) or "none")
    return [f"grafana.json, {what}" for what in wrong]


def check_scraping():
    with open(os.path.join(FOLDER, "prometheus.yaml"), encoding="utf-8") as file:
        config = yaml.safe_load(file)
    wrong = [f"prometheus.yaml: there is no {name}" for name in config["rule_files"]
             if not os.path.exists(os.path.join(FOLDER, name))]
    for job in config["scrape_configs"]:
        if (job["job_name"], job["metrics_path"]) != (TARGET["job"], "/metrics"):
            wrong.append(f"prometheus.yaml: expected the job {TARGET['job']} at /metrics, found {job}")
    return wrong


# ---- the checks find mistakes ----------------------------------------------------------------------------------------

MISTAKES = {  # query: what must be said of it
    "rate(ktmpi_request_total[5m])": "there is no metric ktmpi_request_total",
    "kmpi_requests_running > 1": "there is no metric kmpi_requests_running",
    "raet(ktmpi_requests_total[5m])": "there is no metric raet",
    "ktmpi_step_seconds": "there is no metric ktmpi_step_seconds",
    "ktmpi_requests_total_bucket": "there is no metric ktmpi_requests_total_bucket",
    'ktmpi_requests_total{status="200"}': "ktmpi_requests_total has no label status",
    'ktmpi_step_seconds_total{part="expert"}': 'nothing of ktmpi_step_seconds_total matches {part="expert"}',
    'ktmpi_requests_total{code=~"6.."}': 'nothing of ktmpi_requests_total matches {code=~"6.."}',
    "ktmpi_requests_total{code=200}": "{code=200}: expected label, operator and value in quotes",
    "sum by (rank) (ktmpi_batch_tokens) + sum by (rank) (ktmpi_rank_info)": "by (rank): no metric there has it",
    "ktmpi_batch_tokens * on (job) group_left (rol) ktmpi_rank_info": "group_left (rol): no metric there has it",
}


def check_that_mistakes_are_found(samples):
    for query, expected in MISTAKES.items():
        found = check_query(query, samples)[2]
        assert expected in found, f"{query}: expected {expected!r}, found {found}"
    query = 'sum by (rank) (rate(ktmpi_steps_total{phase!="decode"}[5m])) > 1e-3 and up{job="ktmpi"} == 1'
    right = check_query(query, samples)
    assert right == ({"ktmpi_steps_total", "up"}, {"rank"}, []), right
    wrong_text = "# HELP ktmpi_a Of a\n# TYPE ktmpi_a gauge\nktmpi_b 1\n"
    assert read_samples(wrong_text)[1] == ["ktmpi_b 1: expected one of ktmpi_a"]


def main():
    program = need_program(sys.argv[1])
    usage = subprocess.run([program, "serve", "--help"], capture_output=True, text=True, check=True).stdout
    samples, wrong = read_samples(metrics_of_a_job(program))
    check_that_mistakes_are_found(samples)
    options = set(re.findall(r"--([a-z0-9-]+)", usage))
    wrong += check_alerts(samples, options) + check_dashboard(samples) + check_scraping()
    for what in wrong:
        print(what)
    sys.exit(1 if wrong else 0)


main()

#!/usr/bin/env python3
"""Installs into a temporary folder and uses what is there: install_test.py CMAKE SOURCE_DIR BUILD_DIR."""
import gzip
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

CMAKE, SOURCE, BUILD = sys.argv[1:4]

# Calls the completion as bash does, for a line whose words are the arguments, and prints what it offers.
COMPLETE = r'''
source "$1"; shift
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
function=$(complete -p ktmpi) function=${function#*-F }
"${function%% *}" ktmpi "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
'''


def run(*command, text="", **options):
    return subprocess.run(command, capture_output=True, text=True, input=text, timeout=60, **options)


FOLDER = tempfile.TemporaryDirectory()


def setUpModule():
    done = run(CMAKE, "--install", BUILD, "--prefix", FOLDER.name + "/prefix")
    assert done.returncode == 0, done.stdout + done.stderr
    os.mkdir(FOLDER.name + "/elsewhere")


def tearDownModule():
    FOLDER.cleanup()


class Installed(unittest.TestCase):
    prefix, elsewhere = pathlib.Path(FOLDER.name, "prefix"), pathlib.Path(FOLDER.name, "elsewhere")

    def ktmpi(self, *arguments, text=""):
        return run(self.prefix / "bin/ktmpi", *arguments, text=text, cwd=self.elsewhere)

    def need(self, program):
        if not shutil.which(program):
            self.skipTest(f"{program} is not there")

    def found(self, pattern):
        files = list(self.prefix.glob(pattern))
        self.assertEqual(len(files), 1, pattern)
        return files[0]


class Install(Installed):
    def test_everything_is_there(self):
        for file in ("share/ktmpi/configs/demo.yaml", "share/ktmpi/configs/models/deepseek-v3.2/config.json",
                     "share/ktmpi/configs/hardware/4x4090-6454s.yaml", "share/ktmpi/configs/monitoring/alerts.yaml",
                     "share/ktmpi/mpi_environment.sh", "share/ktmpi/slurm/ktmpi.sbatch",
                     "share/ktmpi/systemd/ktmpi.yaml", "share/ktmpi/systemd/ktmpi.env", "lib/systemd/system/ktmpi.service", "lib/sysusers.d/ktmpi.conf",
                     "share/doc/ktmpi/README.md", "share/doc/ktmpi/docs/quickstart.md", "share/doc/ktmpi/docs/page.png",
                     "share/doc/ktmpi/CHANGELOG.md", "share/doc/ktmpi/LICENSE", "share/doc/ktmpi/copyright",
                     "share/bash-completion/completions/ktmpi"):
            self.assertTrue((self.prefix / file).is_file(), file)
        self.assertTrue(os.access(self.prefix / "share/ktmpi/slurm/ktmpi.sbatch", os.X_OK))

    def test_nothing_names_the_folders_it_was_built_in(self):
        files = [f for f in self.prefix.rglob("*") if f.is_file()]

        self.assertGreater(len(files), 30)
        for file in files:
            content = file.read_bytes()
            if file.suffix == ".gz":
                content = gzip.decompress(content)
            for folder in (SOURCE, BUILD):
                self.assertFalse(folder.encode() + b"/" in content, f"{file} names {folder}")

    def test_the_program_runs_from_there(self):
        version = self.ktmpi("version")

        self.assertEqual(version.returncode, 0, version.stderr)
        self.assertRegex(version.stdout, r"^ktmpi \d+\.\d+\.\d+\n")

    def test_kt_is_another_name_for_it(self):
        for link in ("bin/kt", "share/man/man1/kt.1.gz", "share/bash-completion/completions/kt",
                     "share/fish/vendor_completions.d/kt.fish"):
            path = self.prefix / link
            self.assertTrue(path.is_symlink(), link)
            self.assertEqual(os.readlink(path), path.name.replace("kt", "ktmpi", 1))  # wherever the prefix goes
        version = run(self.prefix / "bin/kt", "version", cwd=self.elsewhere)
        usage = run(self.prefix / "bin/kt", "chat", "--help", cwd=self.elsewhere)

        self.assertEqual((version.returncode, version.stdout), (0, self.ktmpi("version").stdout), version.stderr)
        self.assertEqual(usage.stdout, self.ktmpi("chat", "--help").stdout)

    def test_templates_are_rendered(self):
        record = {"template": "{{ messages[0].content | upper }}", "context": {"messages": [{"content": "hi"}]}}
        chat = self.elsewhere / "chat.jinja"
        chat.write_text("{{ messages }}")

        answer = self.ktmpi("template", "--chat-template", chat, text=json.dumps(record) + "\n")

        self.assertEqual(answer.stdout, '{"text":"HI"}\n', answer.stderr)

    def test_a_plan_of_an_installed_set_up_needs_nothing_else(self):
        share = self.prefix / "share/ktmpi/configs"

        plan = self.ktmpi("plan", "--model", share / "models/deepseek-v3.2", "--hardware",
                          share / "hardware/4x4090-6454s.yaml", "--max-total-tokens", "65536")

        self.assertIn("trunk weights", plan.stdout, plan.stderr)

    def test_the_manual_page_is_whole(self):
        page = gzip.decompress(self.found("share/man/man1/ktmpi.1.gz").read_bytes()).decode()

        said = {int(code) for code in re.findall(r"^\\fB(\d+)\\fR$", page, re.M)}
        there = re.findall(r"^  kExit\w+ = (\d+),", pathlib.Path(SOURCE, "runtime/base/error.h").read_text(), re.M)
        self.assertEqual(said, {int(code) for code in there})
        for option in re.findall(r"^  --([a-z-]+)", self.ktmpi("serve", "--help").stdout.split("\nNot built")[0], re.M):
            self.assertIn("\\-\\-" + option.replace("-", "\\-"), page)
        for command in re.findall(r"^  (\w+) ", self.ktmpi("--help").stdout, re.M):
            self.assertIn(f"\n\\fB{command}\\fR\n", page)

    def test_man_has_no_complaints_about_the_page(self):
        self.need("man")
        shown = run("man", "--warnings", "-E", "UTF-8", "-l", self.found("share/man/man1/ktmpi.1.gz"),
                    env={**os.environ, "MANWIDTH": "100", "LC_ALL": "C.UTF-8"})

        self.assertEqual(shown.stderr, "")
        self.assertIn("--tensor-parallel-size, --tp-size, --tp N", shown.stdout)

    def test_the_unit_starts_what_was_installed(self):
        unit = self.prefix / "lib/systemd/system/ktmpi.service"

        start = re.search(r"^ExecStart=(\S+) up (\S+) -np \$\{RANKS\} (\S+) ", unit.read_text(), re.M)
        self.assertEqual({start[1], start[3]}, {str(self.prefix / "bin/ktmpi")})
        self.assertTrue(os.access(start[2], os.X_OK), start[2])
        for path in re.findall(r"(?:file://|in )(/\S+/share/\S+\.\w+)", unit.read_text()):
            self.assertTrue(pathlib.Path(path).exists(), path)


class Completion(Installed):
    def offers(self, *words):
        script = self.prefix / "share/bash-completion/completions/ktmpi"
        answer = run("bash", "-u", "-c", COMPLETE, "complete", script, self.prefix / "bin/ktmpi", *words,
                     cwd=self.elsewhere)
        self.assertEqual((answer.returncode, answer.stderr), (0, ""))
        return answer.stdout.split("\n")[:-1]

    def test_bash_offers_commands_and_options(self):
        self.assertEqual(self.offers("pl"), ["plan", "placement"])
        self.assertEqual(self.offers("bench", ""), ["kernels", "step", "scale", "dispatch", "serve"])
        self.assertEqual(self.offers("completion", ""), ["bash", "zsh", "fish"])
        self.assertEqual(self.offers("--kt-cpu"), ["--kt-cpuinfer"])
        self.assertEqual(self.offers("serve", "--tp"), ["--tp-size", "--tp"])
        self.assertIn("--port", self.offers("serve", "--model", "m", ""))
        self.assertNotIn("--trust-remote-code", self.offers("serve", "--"))  # has no effect

    def test_bash_completes_kt_too(self):
        script = self.prefix / "share/bash-completion/completions/kt"
        answer = run("bash", "-u", "-c", COMPLETE.replace("complete -p ktmpi", "complete -p kt"), "complete", script,
                     self.prefix / "bin/kt", "chat", "--sys", cwd=self.elsewhere)
        self.assertEqual((answer.returncode, answer.stdout), (0, "--system\n"), answer.stderr)

    def test_bash_offers_the_words_that_work(self):
        self.assertEqual(self.offers("serve", "--load-format", ""), ["auto", "dummy"])
        self.assertEqual(self.offers("--load-format", "d"), ["dummy"])
        self.assertEqual(self.offers("serve", "--load-format", "=", "d"), ["dummy"])
        self.assertEqual(self.offers("serve", "--load-format", "="), ["auto", "dummy"])
        self.assertIn("qwen3_coder", self.offers("serve", "--tool-call-parser", "qw"))
        self.assertEqual(self.offers("serve", "--port", ""), [""])

    def test_bash_offers_files_and_folders(self):
        (self.elsewhere / "a model").mkdir(exist_ok=True)
        (self.elsewhere / "a.yaml").touch()

        self.assertEqual(self.offers("--model", "a"), ["a model"])
        self.assertEqual(self.offers("--config", "a."), ["a.yaml"])
        self.assertEqual(self.offers("placement", "a."), ["a.yaml"])

    def test_bash_offers_other_commands_own_options(self):
        self.assertEqual(self.offers("chat", "--sys"), ["--system"])
        self.assertEqual(self.offers("plan", "--hard"), ["--hardware"])
        self.assertEqual(self.offers("plan", "--kt-cpu"), ["--kt-cpuinfer"])
        self.assertEqual(self.offers("bench", "step", "--no-"), ["--no-indexer"])
        self.assertEqual(self.offers("bench", "kernels", "--top"), ["--topk"])
        self.assertEqual(self.offers("bench", "kernels", "--kt-cpu"), [""])

    def test_every_command_is_completed(self):
        commands = re.findall(r"^  (\w+) ", self.ktmpi("--help").stdout, re.M)

        self.assertEqual(self.offers(""), commands)

    def test_zsh_reads_its_file(self):
        self.need("zsh")
        answer = run("zsh", "-f", "-c", "autoload -Uz compinit; compinit -D; source $1; print -r -- $_comps[ktmpi] $_comps[kt]",
                     "zsh", self.found("share/zsh/*/_ktmpi"))
        self.assertEqual((answer.returncode, answer.stdout), (0, "_ktmpi _ktmpi\n"), answer.stderr)

    def test_fish_reads_its_file_and_completes(self):
        self.need("fish")
        answer = run("fish", "--no-config", "-c", "source $argv[1]; complete -C 'ktmpi serve --load-format '",
                     self.found("share/fish/vendor_completions.d/ktmpi.fish"))
        self.assertEqual(answer.returncode, 0, answer.stderr)
        self.assertEqual([line.split("\t")[0] for line in answer.stdout.splitlines()], ["auto", "dummy"])

    def test_an_unknown_shell_is_refused(self):
        answer = self.ktmpi("completion", "tcsh")

        self.assertEqual((answer.returncode, answer.stdout), (2, ""))
        self.assertIn("expected bash, zsh or fish, found 'tcsh'", answer.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

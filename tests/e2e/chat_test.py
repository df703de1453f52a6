"""A model of Hugging Face's cache is served by its name, and `ktmpi chat` finds its server without an address.

    chat_test.py --program KTMPI FIXTURE
"""
import argparse
import os
import signal
import subprocess
import tempfile

from ktmpi_server import Server, environment, fixture_folder, need_program

NAME, COMMIT = "An-Org/tiny.model", "0123abcd"


def make_cache(cache, fixture):
    """As `hf download` leaves it: files are links to blobs elsewhere."""
    model = os.path.join(cache, "models--" + NAME.replace("/", "--"))
    snapshot, blobs = os.path.join(model, "snapshots", COMMIT), os.path.join(model, "blobs")
    for folder in (snapshot, blobs, os.path.join(model, "refs")):
        os.makedirs(folder)
    for i, name in enumerate(sorted(os.listdir(fixture))):
        if os.path.isfile(os.path.join(fixture, name)):
            os.symlink(os.path.join(fixture, name), os.path.join(blobs, str(i)))
            os.symlink(f"../../blobs/{i}", os.path.join(snapshot, name))
    with open(os.path.join(model, "refs/main"), "w", encoding="utf-8") as file:
        file.write(COMMIT)


def notes_of(server):
    folder = os.path.join(server.folder, "ktmpi/servers")
    return os.listdir(folder) if os.path.isdir(folder) else []


def chat(program, server, lines, *options):
    """A chat of the same user."""
    return subprocess.run([program, "chat", "--max-tokens", "4", *options], input=lines, text=True,
                          capture_output=True, timeout=60, env={**environment(), "XDG_STATE_HOME": server.folder})


def finds_its_server(program, server):
    answer = chat(program, server, "hello\n/model\n")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.endswith(f"\n* {NAME}\n"), answer.stdout
    assert len(notes_of(server)) == 1, notes_of(server)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("fixture")
    args = parser.parse_args()
    program, fixture = need_program(args.program), fixture_folder(args.fixture)

    with tempfile.TemporaryDirectory() as cache:
        make_cache(cache, fixture)
        with Server(program, NAME, world=2, variables={"HF_HUB_CACHE": cache}) as server:
            finds_its_server(program, server)
            for pid in server.ranks():
                os.kill(pid, signal.SIGTERM)
            assert server.process.wait(20) == 0, server.log()
            assert notes_of(server) == [], notes_of(server)
        print("ok: found by name and without an address; nothing is left of it")

        with Server(program, f"{NAME}@{COMMIT}", world=0, variables={"HF_HUB_CACHE": cache}) as server:
            os.kill(server.process.pid, signal.SIGKILL)
            server.process.wait()
            assert len(notes_of(server)) == 1, notes_of(server)
            chat(program, server, "", "--wait", "0")
            assert notes_of(server) == [], notes_of(server)
        print("ok: what a killed server left is taken away")

        absent = Server(program, "An-Org/absent", world=2, variables={"HF_HUB_CACHE": cache})
        absent.start()
        assert absent.process.wait(20) == 64, absent.log()
        assert absent.log().count("try: hf download An-Org/absent") == 1, absent.log()
        absent.stop()
        print("ok: a model that is not there is said once, with what downloads it")


if __name__ == "__main__":
    main()

"""Ranks of several machines answer as those of one do: machines_test.py --program KTMPI FIXTURE

The machines are named by KTMPI_NODE on this one: their ranks share no memory, rows and sums travel by MPI. With
dispatch-dtype exact all gives the bytes of one rank; with other types close numbers, the same in every run.
"""
import os
import stat
import tempfile

from ktmpi_server import enter_venv

enter_venv()
from golden_test import drift, program_and_fixture, run_layouts  # noqa: E402


def on_machines(program, machines, folder, in_turn=False, options=""):
    """A program whose ranks are of so many machines, in equal shares: neighbours together, or in turn."""
    path = os.path.join(folder, f"ktmpi_on_{machines}" + "_in_turn" * in_turn)
    machine = f"RANK % {machines}" if in_turn else f"RANK * {machines} / OMPI_COMM_WORLD_SIZE"
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nexport KTMPI_NODE=m$((OMPI_COMM_WORLD_{machine}))\nexec {program} "$@" {options}\n')
    os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)
    return path


def main():
    program, fixture, prompts = program_and_fixture()
    tp2 = ["--tensor-parallel-size", "2"]
    exact = run_layouts(program, fixture, prompts, [(1, [], {})])

    with tempfile.TemporaryDirectory(prefix="ktmpi_e2e_") as folder:
        two, three = (on_machines(program, n, folder, options="--transport mpi") for n in (2, 3))

        def named(server, options):
            found = "expert sums between machines: " + (options[-1] if "--dispatch-dtype" in options else "exact")
            assert found in server.log(), f"the start's log does not say '{found}'"

        run_layouts(two, fixture, prompts, [
            (3, [], {}),
            (5, ["--expert-layout", "slice"], {}),
            (5, [*tp2, "--expert-layout", "expert"], {}),
            (4, [*tp2, "--kt-threadpool-count", "2"], {}),  # trunk ranks hold experts, and those of machine 2 are asked
            (4, ["--kt-gpu-experts-ratio", "0.4", "--kt-enable-dynamic-expert-update", "--kt-expert-update-rule",
                 "shuffle", "--kt-gpu-prefill-token-threshold", "100000"], {}),
            (4, ["--kt-gpu-prefill-token-threshold", "1"], {}),
        ], exact, then=named)
        # All experts on every machine, and every step the one way, the other, or some each.
        whole, sliced, both = ([*tp2, "--bank", "replicate", "--sliced-below", n] for n in ("0", "100000", "2"))

        def took(*layouts):
            def check(server, _):
                for layout in ("slice", "expert"):
                    steps = server.metric(f'ktmpi_replicated_steps_total{{layout="{layout}"}}')
                    assert (steps > 0) == (layout in layouts), (layout, steps)
            return check

        for options, layouts in ((whole, ["expert"]), (sliced, ["slice"]), (both, ["slice", "expert"])):
            run_layouts(two, fixture, prompts, [(6, options, {})], exact, then=took(*layouts))
        run_layouts(three, fixture, prompts, [(4, both[2:], {}), (6, [*both, "--kt-threadpool-count", "2"], {})], exact,
                    then=took("slice", "expert"))
        run_layouts(two, fixture, prompts, [(3, ["--bank", "replicate"], {})], exact)
        # Trunk ranks on both machines.
        run_layouts(three, fixture, prompts, [(3, tp2, {}), (6, tp2, {})], exact, then=named)
        late = ["--kt-max-deferred-experts-per-token", "1"]
        deferred = run_layouts(program, fixture, prompts, [(3, late, {})])
        run_layouts(two, fixture, prompts, [(3, late, {}), (5, [*late, *tp2], {}), (5, [*late, *both[2:]], {})], deferred)

        for dtype, most in (("float32", 0.05), ("bf16", 0.5)):
            rounded = run_layouts(two, fixture, prompts, [(3, ["--dispatch-dtype", dtype], {})] * 2, then=named)
            assert rounded != exact, f"{dtype} between machines changed nothing"
            median, largest = drift(exact, rounded)
            print(f"  {dtype}: prompt logprobs move by {median:.2g} (median), {largest:.2g} (most)")
            assert median < most, f"{dtype} between machines moves prompt logprobs by {median} (median)"
        # Where all ranks are of one machine nothing is rounded.
        run_layouts(program, fixture, prompts, [(3, ["--dispatch-dtype", "bf16"], {})], exact)


if __name__ == "__main__":
    main()

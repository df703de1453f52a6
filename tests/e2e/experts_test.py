"""Where an expert is computed changes no bit of an answer: experts_test.py --program KTMPI FIXTURE

Hot experts by every strategy, exchanged before every step or by prefills, experts that are streamed to the trunk layer
by layer, whole experts on ranks and copies of them: all give the bytes of one rank that does it all. Deferred experts give other bytes,
the same on every layout.
"""

from ktmpi_server import enter_venv

enter_venv()
from golden_test import drift, program_and_fixture, run_layouts  # noqa: E402


def update(rule, threshold):
    return ["--kt-enable-dynamic-expert-update", "--kt-expert-update-rule", rule,
            "--kt-gpu-prefill-token-threshold", threshold]


def check_metrics(server, options):
    """What was asked for has happened."""
    hot = "--kt-gpu-experts-ratio" in options or "--kt-num-gpu-experts" in options
    expected = {
        "ktmpi_hot_expert_pairs_total": hot,
        "ktmpi_hot_expert_exchanges_total": "shuffle" in options,
        "ktmpi_deferred_expert_pairs_total": "--kt-max-deferred-experts-per-token" in options,
        "ktmpi_layerwise_streamed_bytes_total": options[-2:] == ["--kt-gpu-prefill-token-threshold", "1!"] and not hot,
    }
    for name, wanted in expected.items():
        if wanted:
            assert server.metric(name) > 0, f"{name} is 0 with {' '.join(options)}"
    if not hot:
        assert server.metric("ktmpi_hot_expert_pairs_total") == 0
    for rank in range(len(server.ranks())):
        assert server.metric(f'ktmpi_heartbeat_age_seconds{{rank="{rank}"}}') < 30
    if "--kt-max-deferred-experts-per-token" in options:
        print(f"  deferred weight: {100 * server.metric('ktmpi_deferred_weight_ratio'):.1f} %")


def print_drift(deferred, exact, found):
    """How far prompt logprobs move when so many experts of a token are deferred."""
    median, most = drift(exact, found)
    print(f"  deferring {deferred}: prompt logprobs move by {median:.3f} (median), {most:.3f} (most)")


def main():
    program, fixture, prompts = program_and_fixture()

    ratio, tp2 = ["--kt-gpu-experts-ratio", "0.4"], ["--tensor-parallel-size", "2"]
    whole, copies = ["--expert-layout", "expert"], ["--ep-num-redundant-experts"]
    layouts = [
        (1, [], {}),
        (1, [*ratio, "--kt-expert-placement-strategy", "random"], {}),
        (3, [*ratio, *update("shuffle", "100000!")], {}),
        (4, [*ratio, *tp2, *update("average", "64!")], {}),
        (2, [*ratio, *tp2, "--kt-threadpool-count", "2", *update("chunk", "1!")], {}),
        (3, ["--kt-gpu-prefill-token-threshold", "1!"], {}),
        (3, ["--kt-num-gpu-experts", "1", *tp2, "--kt-threadpool-count", "3", *update("shuffle", "auto")], {}),
        (4, [*whole, *ratio], {}),
        (3, ["--expert-layout", "auto"], {}),
        (3, [*whole, *copies, "2"], {}),
        (4, [*whole, *copies, "5", *tp2, "--kt-threadpool-count", "4"], {}),
        (5, [*whole, *copies, "3", *tp2, *update("shuffle", "64!"), "--kt-gpu-experts-ratio", "0.1"], {}),
    ]
    exact = run_layouts(program, fixture, prompts, layouts, then=check_metrics)
    late = ["--kt-max-deferred-experts-per-token", "2"]
    deferred = run_layouts(program, fixture, prompts, [
        (2, late, {}),
        (3, [*late, "--chunked-prefill-size", "64"], {}),
        (5, [*late, *tp2, *whole], {}),
        (4, [*late, *whole, *copies, "4"], {}),
    ], then=check_metrics)
    assert deferred != exact, "deferring two experts of every token changed nothing"
    print_drift(2, exact, deferred)
    one = ["--kt-max-deferred-experts-per-token", "1"]
    print_drift(1, exact, run_layouts(program, fixture, prompts, [(2, one, {})], then=check_metrics))


if __name__ == "__main__":
    main()

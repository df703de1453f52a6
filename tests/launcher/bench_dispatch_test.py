#!/usr/bin/env python3
"""ktmpi bench dispatch between two ranks: bench_dispatch_test.py KTMPI MPIRUN."""
import json
import os
import subprocess
import sys
import unittest

KTMPI, MPIRUN = sys.argv[1], sys.argv[2]
ENVIRONMENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
               "OMPI_MCA_plm_rsh_agent": "/bin/false", "OMPI_MCA_btl_vader_single_copy_mechanism": "none",
               "UCX_TLS": "tcp,self,sm"}
ONE_MACHINE, TWO_MACHINES = "0", "$OMPI_COMM_WORLD_RANK"
TRANSPORTS = ["mpi"] if "no UCX" in subprocess.run([KTMPI, "version"], capture_output=True, text=True).stdout \
    else ["mpi", "ucx"]


class BenchDispatch(unittest.TestCase):
    def run_bench(self, *options, ranks=2, node=TWO_MACHINES):
        shell = f'KTMPI_NODE={node} exec "$0" "$@"'
        return subprocess.run([MPIRUN, "-np", str(ranks), "--oversubscribe", "--bind-to", "none", "sh", "-c", shell,
                               KTMPI, "bench", "dispatch", "--rounds", "2", *options],
                              capture_output=True, text=True, timeout=100, env={**os.environ, **ENVIRONMENT})

    def test_every_shape_is_a_line_with_the_bytes_that_travelled(self):
        for transport in TRANSPORTS:
            for dtype, value_bytes in (("exact", 8), ("float32", 4), ("bf16", 2)):
                answer = self.run_bench("--rows", "1,33", "--hidden", "64,2048", "--transport", transport,
                                        "--dispatch-dtype", dtype)
                self.assertEqual(answer.returncode, 0, answer.stderr)
                lines = [json.loads(line) for line in answer.stdout.splitlines()]
                self.assertEqual([(line["rows"], line["hidden"]) for line in lines],
                                 [(1, 64), (33, 64), (1, 2048), (33, 2048)])
                for line in lines:
                    values = line["rows"] * line["hidden"]
                    self.assertEqual((line["transport"], line["machines"]), (transport, 2))
                    self.assertEqual((line["out_bytes"], line["back_bytes"]), (2 * values, value_bytes * values))
                    self.assertAlmostEqual(line["gb_per_s"] * line["ms"] * 1e6, (2 + value_bytes) * values, delta=1)

    def test_ranks_of_one_machine_share_memory(self):
        answer = self.run_bench("--rows", "5", "--hidden", "96", "--dispatch-dtype", "bf16", node=ONE_MACHINE)

        self.assertEqual(answer.returncode, 0, answer.stderr)
        line = json.loads(answer.stdout)
        self.assertEqual((line["machines"], line["back_bytes"]), (1, 5 * 96 * 8))  # nothing is rounded there

    def test_what_cannot_be_measured_is_refused_once(self):
        for ranks, options, word in ((2, ["--rows", "0"], "found '0'"), (2, ["--hidden", "100"], "multiples of 32"),
                                     (2, ["--transport", "local"], "auto, mpi, ucx"), (2, ["--row", "1"], "--row"),
                                     (1, [], "found 1"), (3, [], "found 3")):
            answer = self.run_bench(*options, ranks=ranks)
            self.assertEqual(answer.returncode, 2, (options, answer.stderr))
            said = [line for line in answer.stderr.splitlines() if line.startswith("ktmpi: ")]
            self.assertEqual(len(said), 1, answer.stderr)
            self.assertIn(word, said[0])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])

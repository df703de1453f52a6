"""What a test does otherwise than documents say, and why: the tables of documents_commands_test.py. A row that no document
needs fails the test."""

# Models that a reader downloads: tiny ones of the same architecture and formats, of shapes_test.py.
MODELS = {"models/qwen3-coder-next-fp8": "qwen3_next-fp8"}

# What a reader puts in, and what is of another machine.
SAID = {
    "configs/hardware/FILE": "configs/hardware/two-core-zen5.yaml",
    "--config FILE": "--config configs/demo.yaml",
    "1gpu.yaml --model DIR": "1gpu.yaml --model configs/models/kimi-k2-thinking",
    "--model DIR": "--model models/qwen3-coder-next-fp8",
    "placement FILE": "placement $(ls expert_distribution_recorder_*.pt | tail -n 1)",
    "URL QUESTION": "http://127.0.0.1:30000 'What is a NUMA node?'",
    "https://HOST": "http://127.0.0.1:30000",
    "--api-key-file FILE": "--api-key-file keys.txt",
    "/load FILE": "/load hosts",
    "COMMAND --help": "plan --help",
    "/opt/ktmpi": "$PWD/opt/ktmpi",
    "/usr/share/ktmpi/": "$PWD/opt/ktmpi/share/ktmpi/",
    "eth1": "lo",
    "http://n1:": "http://127.0.0.1:",
    "--host 0.0.0.0": "--host 127.0.0.1",
    "plan --config server.yaml --world 2": "plan --config server.yaml --world 2 --hardware configs/hardware/4x4090-6454s.yaml",
}

# Commands that are only checked: pattern of "DOCUMENT: COMMAND" -> why, and what is done instead, for those that follow.
DEMO = "mpirun -np 3 build/release/ktmpi --config configs/demo.yaml"
NOT_RUN = {
    r"(quickstart|first_steps)\.md: scripts/demo --serve(\s+#.*)?$": ("installs and builds", [
        ". scripts/mpi_environment.sh", DEMO, "scripts/ask.py http://127.0.0.1:30000 'What is the capital of France?'"]),
    r": scripts/(demo|setup|build|test)\b": ("installs and builds", []),
    r"huggingface_hub$": ("installs a package", []),
    r"hf download \S+ config\.json": ("downloads", ["cp configs/models/qwen3-coder-next-fp8/config.json models/qwen3-coder-next-fp8/"]),
    r"hf download \S+ --local-dir": ("downloads", ["cp models/stand-in.json models/qwen3-coder-next-fp8/config.json"]),
    r": apt-get install": ("installs a package", []),
    r": systemd-sysusers|systemctl|^docs/operation\.md: (mkdir /etc|editor|journalctl)": ("changes the system", []),
    r": (KTMPI=\S+ )?(sbatch|srun)\b": ("needs a cluster under Slurm", []),
    r": cat ktmpi-\*/url": ("of the job under Slurm", []),
    r": claude$": ("not a package of scripts/dependencies.txt", []),
    r": docker run": ("downloads", []),
    r"from langchain_openai": ("not a package of scripts/dependencies.txt", []),
    r"build/cuda/ktmpi version": ("needs CUDA's compiler", []),
    r"build/cuda/ktmpi --model": ("needs a GPU", [". scripts/mpi_environment.sh", "mpirun -np 3 build/release/ktmpi --model DIR "
                                                  "--device cuda-emulated --kt-num-gpu-experts 4"]),
    r"check_gpu (bundle|run)": ("needs CUDA's compiler and a GPU", []),
    r"scripts/bench_peers\.py": ("installs other programs, takes half an hour", []),
    r"scripts/bench_placement\.py": ("takes an hour", []),
    r": ktmpi (convert|bench|bench step|plan) --(quant-method|compare|trunk-method) \w+$": ("a part of a command", []),
}
# Drawing, with --long and where /usr/bin/python3 has matplotlib.
DRAWN = r"scripts/(bench_stall|plot_context|scaling/bench_scaling)\.py"

# Smaller numbers, but for --long.
SHORTER = {
    "--prompt 64,2048,8192,32768": "--prompt 64,2048",
    "--prompt 64,512": "--prompt 64",
    "--layers 2 --experts 64": "--layers 2 --experts 16",
    "C=1024,2048,4096,8192,16384,32768,65536": "C=1024,2048",
    "--rows 1,128,2048": "--rows 1,128",
    "bench scale --model configs/models/deepseek-v3.2 --load-format dummy --layers 4 --experts 32":
        "bench scale --model models/qwen3-coder-next-fp8",
    "--ranks 1,2,3,4 --batch 1,4,16 --prompt 512": "--ranks 1,2 --batch 1 --prompt 16",
    "--inter 512 --experts 512": "--inter 512 --experts 16 --seconds 0.1",
    "--num-prompts 100 --random-input-len 1024": "--num-prompts 10 --random-input-len 100",
    "--batch 4 --decode 16 --rounds 5": "--batch 4 --decode 4 --rounds 1",
}

# Exit codes besides 0. doctor: this machine may have a problem.
MAY_LEAVE = {r"\bdoctor\b": {1}}

# What a reader has at the beginning of a document or section, beside what was done before in it.
NEW_SHELL = "exec bash"
ONE_MACHINE = ". scripts/mpi_environment.sh"
CLUSTER = ["exec bash", "export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",  # where one is not root
           "export OMPI_MCA_btl=self,tcp OMPI_MCA_rmaps_base_oversubscribe=1"]               # and machines share no /dev/shm
ASKING = "curl -sf http://127.0.0.1:30000/v1/completions -H 'Content-Type: application/json' -H 'Authorization: Bearer secret' "
BEFORE = {
    "docs/quickstart.md#Several machines": CLUSTER,
    "docs/cluster.md#Starting": CLUSTER,
    "docs/cluster.md#Measuring a way": CLUSTER,
    "docs/clients.md": [ONE_MACHINE, DEMO + " --served-model-name qwen3-coder-next"],
    "docs/performance.md": [ONE_MACHINE, "mpirun -np 2 build/release/ktmpi --config server.yaml", NEW_SHELL],
    "docs/operation.md": [ONE_MACHINE],
    "docs/operation.md#systemd": ["cmake --install build/release --prefix /opt/ktmpi"],
    "docs/operation.md#The log": [
        ONE_MACHINE, DEMO + " --api-key-file keys.txt",
        ASKING + "-H 'X-Request-Id: my-3' -H 'traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01' "
                 """-d '{"prompt": "One, two,", "max_tokens": 5, "stop": ["e", "o", "a", " "]}'""",
        "curl -s http://127.0.0.1:30000/v1/chat/completions -d '{}'"],
    "docs/operation.md#Before the first start, or when it is slow": CLUSTER,
}

# The same commands in another language.
TRANSLATIONS = {"docs/zh/quickstart.md": "docs/quickstart.md"}

FAKE_SSH = """#!/bin/sh
# ssh [-x] HOST COMMAND ...: every host is this one, under a name and with temporary files of its own
test "$1" = -x && shift
export KTMPI_NODE="$1" TMPDIR="$HOME/$1"
mkdir -p "$TMPDIR"
shift
exec sh -c "$*"
"""

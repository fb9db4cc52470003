"""Where `scvi train` spends its seconds, as a shell user starts it: a fresh process, cells in a file.

    python benchmarks/command.py --data FOLDER

Each run is a process of its own on all cells of a file, and its 2,000 most variable genes. A stage shows the seconds
that passed, and the seconds of processors, which other work on the machine changes less.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import DEFAULT_DATA, load_average, machine, median, table

STAGES = {
    "imports": "Python, torch and anndata",
    "command": "the rest of the command's own imports",
    "read": "reading the file",
    "written": "whether it can be written again",
    "genes": "variable genes, with a check of all counts",
    "made": "set-up (all counts are looked at) and network",
    "prepared": "split, epochs, checkpoint, starting values",
    "first": "the first step, with kernels from the disk",
    "fitted": "all other steps",
    "answered": "latent space, copy of the file, model, UMAP and picture",
}

RUN = """
import json, sys, time
times = {}
def mark(name):
    times[name] = time.time() - begin, time.process_time()
begin = float(sys.argv[1])
import os
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command says before it imports torch
import torch, anndata
mark("imports")
import scvi, scvi.cli
from scvi.cli import train
import scvi.estimators, scvi.cli.genes
from scvi.fit.step import Steps
mark("command")
def after(owner, name, stage):
    function = getattr(owner, name)
    def marked(*args, **kwargs):
        result = function(*args, **kwargs)
        if stage not in times:
            mark(stage)
        return result
    setattr(owner, name, marked)
after(train, "read_cells", "read")
after(train, "check_writable", "written")
after(scvi.cli.genes, "select_genes", "genes")
after(train, "_model", "made")
take = Steps.take
def first(self, *args):
    if "first" in times:
        return take(self, *args)
    mark("prepared")
    result = take(self, *args)
    mark("first")
    return result
Steps.take = first
after(scvi.estimators.SCVI, "train", "fitted")
after(train, "written", "answered")
options = ["--output", sys.argv[3], "--n-top-genes", "2000", "--max-epochs", sys.argv[4]]
code = scvi.cli.main(["train", sys.argv[2], *options])
print("TIMES", json.dumps(times))
sys.exit(code)
"""


def one_run(file: Path, epochs: int) -> dict[str, tuple[float, float]]:
    """Seconds and processor seconds of each stage."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", RUN, str(time.time()), str(file), folder, str(epochs)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    last = next(line for line in done.stdout.splitlines() if line.startswith("TIMES"))
    marks = {name: tuple(json.loads(last.removeprefix("TIMES"))[name]) for name in STAGES}
    found, before = {}, (0.0, 0.0)
    for name, mark in marks.items():
        found[name] = (mark[0] - before[0], mark[1] - before[1])
        before = mark
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument("--set", default="zeisel_cortex", help="file to take cells from")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    print(machine())
    print(f"load average {load_average()}; medians of {arguments.runs} processes, {arguments.epochs} epochs\n")
    file = arguments.data / f"{arguments.set}.h5ad"
    one_run(file, 1)  # fills the disk cache, and compiles what is missing
    runs = [one_run(file, arguments.epochs) for _ in range(arguments.runs)]
    rows = [[label, *(f"{median([r[name][k] for r in runs]):.2f}" for k in (0, 1))] for name, label in STAGES.items()]
    names = list(STAGES)[: list(STAGES).index("first") + 1]
    upto = [sum(median([r[name][k] for r in runs]) for name in names) for k in (0, 1)]
    rows.append(["all before the second step", *(f"{seconds:.2f}" for seconds in upto)])
    print(table(["stage", "seconds", "of processors"], rows))


if __name__ == "__main__":
    main()

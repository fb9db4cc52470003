"""Seconds that importing scvi adds to importing torch and anndata.

    python benchmarks/import_time.py

Each figure is the median over fresh interpreters, run in turn.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from common import load_average, machine, median, table

STEPS = {
    "torch and anndata": "import torch, anndata",
    "+ import scvi": "import scvi",
    "+ scvi.SCVI": "scvi.SCVI",
    "+ scvi.models, scvi.dataset, scvi.inference": "import scvi.models, scvi.dataset, scvi.inference",
    "+ the compiled kernels": "import scvi.kernels.fused, scvi.kernels.sparse",
}


def one_run() -> list[float]:
    """Seconds of each step in a fresh interpreter."""
    lines = ["from time import perf_counter as now", "t = [now()]"]
    for code in STEPS.values():
        lines += [code, "t.append(now())"]
    lines.append("print(*(b - a for a, b in zip(t, t[1:])))")
    command = [sys.executable, "-W", "ignore", "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(map(float, done.stdout.split()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()

    print(machine())
    print(f"load average {load_average()}; medians of {arguments.runs} interpreters\n")
    one_run()  # fills the disk cache
    runs = [one_run() for _ in range(arguments.runs)]
    seconds = [median(step) for step in zip(*runs, strict=True)]
    rows = [[name, f"{s:.2f}", f"{s / seconds[0]:.2f}"] for name, s in zip(STEPS, seconds, strict=True)]
    added = sum(seconds[1:4])
    rows.append(["scvi, all of it but the kernels", f"{added:.2f}", f"{added / seconds[0]:.2f}"])
    print(table(["import", "seconds", "ratio"], rows))


if __name__ == "__main__":
    main()

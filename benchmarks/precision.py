"""What bfloat16 costs in held-out likelihood and gains in time: fits of both precisions on the sets of quality.py.

    python benchmarks/precision.py --data FOLDER --file precision.json

By the protocol of ``quality.py``: a tenth of the cells is held out, and `train` chooses the plan of the others.
Each fit is written to the file as it ends, and those that are there are not fitted again, so that the comparison can be
stopped and goes on where it was. bfloat16 may be the default where the means over three seeds differ by less than 0.1 %
on every set. Seconds are those of the processors, which other work on the machine changes less than those of a clock.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from itertools import product
from pathlib import Path

import numpy as np
import torch
from common import DEFAULT_DATA, load_average, machine, table
from quality import TASKS, Task, held_out_elbo, load, split

from scvi import SCVI

PRECISIONS = "float32", "bf16"
SMALLEST_FIRST = "sc_mixology", "pbmc3k", "zeisel_cortex", "kang_ifnb_labelled", "sln_day2"
Found = dict[str, dict[str, float]]


def fitted(folder: Path, name: str, task: Task, seed: int, precision: str) -> dict[str, float]:
    """Held-out ELBO in nats a cell, and processor seconds of a fit."""
    train, held_out = split(load(folder, name))
    SCVI.setup_anndata(train, batch_key=task.batch)
    model = SCVI(train, seed=seed)
    begin = time.process_time()
    model.train(train_size=1.0, seed=seed, enable_progress_bar=False, precision=precision)
    return {"seconds": time.process_time() - begin, "elbo": held_out_elbo(model, held_out)}


def key_of(name: str, seed: int, precision: str) -> str:
    """The name of a fit in the file."""
    return f"{name} {seed} {precision}"


def row(found: Found, name: str, n_seeds: int) -> list[str] | None:
    """Means over the seeds that both precisions have."""
    pairs = [[found.get(key_of(name, seed, precision)) for precision in PRECISIONS] for seed in range(n_seeds)]
    both = [[fit for fit in pair if fit is not None] for pair in pairs if None not in pair]
    if not both:
        return None
    exact, low = np.mean([[fit["elbo"] for fit in pair] for pair in both], axis=0)
    seconds = np.mean([[fit["seconds"] for fit in pair] for pair in both], axis=0)
    shown = [f"{exact:.1f}", f"{low:.1f}", f"{(low - exact) / abs(exact):+.3%}"]
    return [name, str(len(both)), *shown, *(f"{s:.1f}" for s in seconds), f"{seconds[1] / seconds[0]:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument("--file", type=Path, default=Path("precision.json"), help="where fits are kept")
    parser.add_argument("--sets", nargs="+", choices=TASKS, default=list(SMALLEST_FIRST), help="data sets")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--threads", type=int, help="torch threads")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    found: Found = json.loads(arguments.file.read_text()) if arguments.file.exists() else {}
    print(machine())
    print(f"load average {load_average()}; {torch.get_num_threads()} threads\n")
    for name, seed, precision in product(arguments.sets, range(arguments.seeds), arguments.precisions):
        key = key_of(name, seed, precision)
        if key in found:
            continue
        found[key] = fitted(arguments.data, name, TASKS[name], seed, precision)
        part = arguments.file.with_suffix(".part")
        part.write_text(json.dumps(found, indent=1))
        os.replace(part, arguments.file)
    rows = [shown for name in arguments.sets if (shown := row(found, name, arguments.seeds)) is not None]
    header = ["set", "seeds", "float32 ELBO", "bf16 ELBO", "difference", "float32 s", "bf16 s", "ratio"]
    print(table(header, rows))


if __name__ == "__main__":
    main()

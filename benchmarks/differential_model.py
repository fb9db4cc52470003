"""What the model says of differential expression: how stable its calls are, what they cost, what memory they take.

    python benchmarks/differential_model.py --data FOLDER

(e) One fit of zeisel_cortex, each of seven types against the rest, asked with ten seeds: of all calls of two seeds
(genes and types that either calls) the share that both call, on average; of all that any seed calls the share that all
call.
(f) 7,500 cells drawn from zeisel_cortex x its 4,000 most counted genes, seven groups, 5,000 draws of each: time of the
question, without and with tests of the counts, beside that of decoding as many draws of given latent states, and the
most memory of the question beyond what was there before, with groups of this size and four times as large.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from common import DEFAULT_DATA, load_average, machine, most_counted, read, table

from scvi import SCVI
from scvi.cells.encode import encode

N_GROUPS, N_DRAWS, AT_ONCE = 7, 5000, 512


def fitted(adata: AnnData, max_epochs: int) -> SCVI:
    SCVI.setup_anndata(adata)
    model = SCVI(adata, seed=0)
    model.train(max_epochs=max_epochs, seed=0, enable_progress_bar=False)
    return model


def stability(folder: Path, n_seeds: int) -> list[tuple[str, str]]:
    adata = read(folder, "zeisel_cortex")
    model = fitted(most_counted(adata, 2000), 50)
    groups = {"adata": None, "groupby": "cell_type"}
    calls = []
    for seed in range(n_seeds):
        answer = model.differential_expression(**groups, seed=seed)
        called = answer[answer["is_de_fdr_0.05"]]
        calls.append(set(zip(called["group1"], called.index, strict=True)))
    pairs = [len(a & b) / len(a | b) for a, b in combinations(calls, 2)]
    return [
        ("calls, mean over seeds", f"{np.mean([len(one) for one in calls]):,.0f} of {len(answer):,}"),
        ("agreement of two seeds", f"{np.mean(pairs):.3f} (least {np.min(pairs):.3f})"),
        (
            "called by all seeds, of those called by any",
            f"{len(set.intersection(*calls)) / len(set.union(*calls)):.3f}",
        ),
    ]


def resized(folder: Path, n_cells: int) -> AnnData:
    adata = most_counted(read(folder, "zeisel_cortex"), 4000)
    rows = np.sort(np.random.default_rng(0).integers(0, adata.n_obs, n_cells))
    large = AnnData(adata.X[rows], var=adata.var.copy())
    large.obs_names = [f"cell{i}" for i in range(n_cells)]
    large.obs["group"] = [f"g{i % N_GROUPS}" for i in range(n_cells)]
    return large


def decoding(model: SCVI) -> None:
    """As many draws as all groups have, from given latent states, some at a time."""
    cells = encode(model.adata, model.schema)
    rows = np.random.default_rng(0).integers(0, len(cells), AT_ONCE)
    mb, generator = cells.minibatch(rows), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(N_GROUPS * N_DRAWS // AT_ONCE):
            z = torch.randn(AT_ONCE, model.module.n_latent, generator=generator)
            model.module.generative(z, torch.zeros(AT_ONCE, 1), mb).genes.scale.numpy()


def seconds(work: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return float(np.min(times))


def resident() -> int:
    """KiB of this process in memory (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def most_memory(work: Callable[[], Any]) -> float:
    """MiB beyond what the process had before."""
    done, before = threading.Event(), resident()
    most = [0]

    def watch() -> None:
        while not done.wait(0.005):
            most[0] = max(most[0], resident() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return most[0] / 2**10


def cost(folder: Path, n_cells: int, repeats: int) -> list[tuple[str, str]]:
    model = fitted(resized(folder, n_cells), 2)

    def question(all_stats: bool = False) -> None:
        model.differential_expression(groupby="group", n_samples=N_DRAWS, all_stats=all_stats, seed=0)

    question()  # compiles
    rows = []
    asked, decoded = seconds(question, repeats), seconds(lambda: decoding(model), repeats)
    whole = seconds(lambda: question(all_stats=True), repeats)
    rows.append((f"{n_cells:,} cells: question", f"{asked:.2f} s"))
    rows.append((f"{n_cells:,} cells: decoding {N_GROUPS * N_DRAWS:,} draws", f"{decoded:.2f} s"))
    rows.append((f"{n_cells:,} cells: ratio", f"{asked / decoded:.2f}"))
    rows.append((f"{n_cells:,} cells: ratio with the tests of the counts", f"{whole / decoded:.2f}"))
    rows.append((f"{n_cells:,} cells: most memory", f"{most_memory(question):,.0f} MiB"))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", nargs="+", default=["e", "f"], choices=["e", "f"])
    arguments = parser.parse_args()
    print(machine())
    rows: list[tuple[str, str]] = []
    if "e" in arguments.parts:
        rows += stability(arguments.data, arguments.seeds)
    if "f" in arguments.parts:
        rows += cost(arguments.data, 7500, arguments.repeats) + cost(arguments.data, 30_000, arguments.repeats)
    print(table(("zeisel_cortex", "scVI"), rows))
    print(f"load average: {load_average()}")


if __name__ == "__main__":
    main()

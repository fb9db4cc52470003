"""What set-up, making a model and questions cost, beside one pass over all counts.

    python benchmarks/setup.py --data FOLDER

A real data set, its cells drawn to the number wanted. A pass checks every stored value, and nothing else. Set-up is one
that also takes a digest of each cell; afterwards counts are looked at as they are read, so that a question about few
cells costs next to nothing however many there are.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from anndata import AnnData
from common import DEFAULT_DATA, load_average, machine, median, most_counted, read, resampled, table

import scvi
from scvi.cells.count_checks import Called, checked_counts


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Median of some runs, after one that compiles."""
    call()
    times = []
    for _ in range(repeats):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return median(times)


def rows_of(adata: AnnData, repeats: int) -> list[list[str]]:
    """One line for each thing that is done to the cells, with the ratio to a pass."""
    few = np.random.default_rng(0).integers(0, adata.n_obs, 10)
    scvi.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.SCVI(adata, seed=0)
    model.train(1, train_size=0.005, validation_size=0.0, seed=0, enable_progress_bar=False)
    other = adata.copy()
    calls: dict[str, Callable[[], Any]] = {
        "a pass over all counts": lambda: checked_counts(adata.X, Called("X", adata.obs_names, adata.var_names)),
        "set-up": lambda: scvi.SCVI.setup_anndata(adata, batch_key="batch"),
        "making a model": lambda: scvi.SCVI(adata, seed=0),
        "a question about 10 of its cells": lambda: model.get_latent_representation(indices=few),
        "a question about 10 of other cells": lambda: model.get_latent_representation(other, indices=few),
        "a question about all cells": lambda: model.get_latent_representation(),
    }
    taken = {name: seconds(call, repeats) for name, call in calls.items()}
    one_pass = taken["a pass over all counts"]
    return [[name, f"{time:.3f}", f"{time / one_pass:.2f}"] for name, time in taken.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--set", default="pbmc_cite_10k_5k")
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    adata = resampled(most_counted(read(arguments.data, arguments.set), arguments.genes), arguments.cells)
    filled = adata.X.nnz / (adata.n_obs * adata.n_vars)
    print(machine())
    print(f"load average {load_average()}; medians of {arguments.repeats} runs")
    print(f"{arguments.set}: {adata.n_obs} cells x {adata.n_vars} genes, {filled:.1%} filled\n")
    print(table(["", "seconds", "of a pass"], rows_of(adata, arguments.repeats)))


if __name__ == "__main__":
    main()

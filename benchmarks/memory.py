"""Peak resident memory of training and of each question, beside the size of the counts.

    python benchmarks/memory.py --data FOLDER

Every figure is from a process of its own: VmHWM of /proc/self/status (Linux) at its end, less VmRSS after the imports
and after a fit and all questions on a few cells, which compiles and loads what there is to compile and load. The cells
are those of pbmc_cite_10k_5k, a real data set, drawn with replacement until there are as many as wanted, with the genes
of highest total, in an uncompressed .h5ad that is read into memory or left on disk.

In memory the peak may be that of the counts (data, indices and indptr of the CSR matrix) and 600 MB. From a file it may
be 400 MB, two buffers of cells among them, and 300 bytes for each cell: its name, its codes, the end of its row, its
place in an epoch, but no counts. What a question returns is not counted. The exit code is 1 if any figure is above its
bar.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from common import DEFAULT_DATA, machine, most_counted, read, resampled, table
from scipy import sparse

from scvi import SCVI

SOURCE = "pbmc_cite_10k_5k"
IN_MEMORY, FROM_A_FILE, PER_CELL = 600e6, 400e6, 300  # bytes
FEW_GENES, SOME_CELLS = 10, 10_000


def status(name: str) -> int:
    """Bytes, of a line of /proc/self/status."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def train(adata: AnnData) -> SCVI:
    SCVI.setup_anndata(adata, batch_key="batch")
    model = SCVI(adata, seed=0)
    model.train(1, seed=0, enable_progress_bar=False)
    return model


def questions(adata: AnnData) -> dict[str, Callable[[SCVI], Any]]:
    """By name; the model has `adata`."""
    few = adata.var_names[:FEW_GENES].tolist()
    some = np.arange(min(SOME_CELLS, adata.n_obs))
    return {
        "latent": lambda model: model.get_latent_representation(),
        "library size": lambda model: model.get_latent_library_size(),
        "expression, few genes": lambda model: model.get_normalized_expression(gene_list=few),
        "expression, all genes": lambda model: model.get_normalized_expression(return_numpy=True),
        "expression, 25 draws": lambda model: model.get_normalized_expression(
            indices=some, gene_list=few, n_samples=25, return_mean=False
        ),
        "parameters, some cells": lambda model: model.get_likelihood_parameters(indices=some),
        "parameters, 3 draws": lambda model: model.get_likelihood_parameters(indices=some[::10], n_samples=3),
        "ELBO": lambda model: model.get_elbo(return_mean=False),
        "reconstruction": lambda model: model.get_reconstruction_error(),
        "marginal, 3 draws": lambda model: model.get_marginal_ll(n_mc_samples=3),
        "counts drawn again": lambda model: model.posterior_predictive_sample(),
        "the same, 10 draws": lambda model: model.posterior_predictive_sample(indices=some, n_samples=10),
        "Pearson, 3 draws": lambda model: model.get_feature_correlation_matrix(n_samples=3, correlation_type="pearson"),
        "weights, 20 draws": lambda model: model.get_importance_weights(n_mc_samples=20),
    }


def size(result: Any) -> int:
    """Bytes of what a question returns."""
    if isinstance(result, dict):
        return sum(map(size, result.values()))
    if isinstance(result, pd.DataFrame):
        return int(result.memory_usage(index=False).sum())
    if sparse.issparse(result):
        places = (result.indices, result.indptr) if result.format == "csr" else result.coords
        return result.data.nbytes + sum(place.nbytes for place in places)
    return result.nbytes if isinstance(result, np.ndarray) else 0


def child(path: Path, backed: bool, task: str, tiny: Path, model_path: Path) -> None:
    """Prints the peak less the baseline and the output, and the baseline, in bytes."""
    warm = anndata.read_h5ad(tiny)
    model = train(warm)
    for ask in questions(warm).values():
        ask(model)
    del warm, model
    gc.collect()
    baseline = status("VmRSS")
    adata = anndata.read_h5ad(path, backed="r" if backed else None)
    if task == "train":
        train(adata)
        output = 0
    else:
        output = size(questions(adata)[task](SCVI.load(model_path, adata=adata)))
    print(status("VmHWM") - baseline - output, baseline, output)


def measure(*arguments: object) -> tuple[int, int, int]:
    command = [sys.executable, __file__, "--child", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    peak, baseline, output = map(int, done.stdout.split())
    return peak, baseline, output


def mb(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument("--cells", nargs="+", type=int, default=[10_000, 50_000, 200_000])
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--tasks", nargs="+", help="train, or names of questions; all if not given")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        path, backed, task, tiny, model_path = arguments.child
        return child(Path(path), backed == "True", task, Path(tiny), Path(model_path))
    if not Path("/proc/self/status").exists():
        sys.exit("peak memory is read from /proc/self/status, which this system does not have")

    print(machine())
    print(f"{torch.get_num_threads()} threads; cells of {SOURCE}, drawn with replacement; MB = 1e6 bytes\n")
    source = most_counted(read(arguments.data, SOURCE), arguments.genes)
    rows, failed, baselines = [], False, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny, model_path = folder / "tiny.h5ad", folder / "model"
        resampled(source, 130).write_h5ad(tiny)
        train(resampled(source, 2000)).save(model_path)
        for n_cells in arguments.cells:
            path = folder / f"{n_cells}.h5ad"
            adata = resampled(source, n_cells)
            adata.write_h5ad(path)
            counts = adata.X.data.nbytes + adata.X.indices.nbytes + adata.X.indptr.nbytes
            for task in arguments.tasks or ["train", *questions(source)]:
                for backed in (False, True):
                    peak, baseline, output = measure(path, backed, task, tiny, model_path)
                    bar = FROM_A_FILE + PER_CELL * n_cells if backed else IN_MEMORY + counts
                    failed |= peak > bar
                    baselines.append(baseline)
                    figures = [f"{n_cells:,}", *map(mb, (counts, output, peak, bar)), "FAIL" if peak > bar else "ok"]
                    rows.append([f"{task}, {'from a file' if backed else 'in memory'}", *figures])
                    print(*rows[-1], sep="; ", file=sys.stderr)  # it takes a while
            path.unlink()
    print(table(["what", "cells", "counts MB", "output MB", "peak MB", "bar MB", ""], rows))
    print(f"\nBaseline of a process: {mb(min(baselines))} to {mb(max(baselines))} MB")
    sys.exit(int(failed))


if __name__ == "__main__":
    main()

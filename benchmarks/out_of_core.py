"""Training from a file against training in memory: cells per second, and quality after the same number of epochs.

    python benchmarks/out_of_core.py --data FOLDER

The cells are those of pbmc_cite_10k_5k, a real data set, drawn with replacement until there are as many as wanted, with
the genes of highest total. They are written to a temporary .h5ad (uncompressed, and with gzip) and to a zarr store (as
anndata writes it) in the order of their batch. The files are read once before anything is timed, so that they come from
the page cache of the operating system where there is memory for it.

Speed: whole epochs of the default model and plan, with 9 cells in 10 to train on and validation on the others, from one
store after the other, in several rounds; the best of each.

Quality: the file is in the order of batch and cell type, so that neighbours are alike, which is hard on an order that
only shuffles blocks and buffers. The ELBO is that of real cells that are not in the file. Once with the buffers as
they are, once with buffers of a sixteenth of the size.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import torch
from anndata import AnnData
from common import DEFAULT_DATA, load_average, machine, most_counted, read, resampled, table

from scvi import SCVI
from scvi.cells import storage
from scvi.cells.cell_data import CellData
from scvi.cells.encode import encode
from scvi.cells.setup import declare
from scvi.fit.fit import Fit
from scvi.fit.plan import Plan
from scvi.fit.split import split_cells
from scvi.fit.starting_values import initialise

SOURCE = "pbmc_cite_10k_5k"


def open_zarr(path: Path) -> AnnData:
    """Cells of a zarr store whose counts stay there."""
    import zarr
    from anndata.io import read_elem, sparse_dataset

    group = zarr.open_group(path, mode="r")
    return AnnData(sparse_dataset(group["X"]), obs=read_elem(group["obs"]), var=read_elem(group["var"]))


def stores(adata: AnnData, folder: Path, with_gzip: bool) -> dict[str, AnnData]:
    """The same cells in memory and in files."""
    found = {"memory": adata}
    for name, options in {"h5ad": {}, "h5ad, gzip": {"compression": "gzip"}}.items():
        if options and not with_gzip:
            continue
        path = folder / f"{name}.h5ad"
        adata.write_h5ad(path, **options)
        found[name] = anndata.read_h5ad(path, backed="r")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # anndata announces that it will write zarr version 3
        adata.write_zarr(folder / "cells.zarr")
    found["zarr"] = open_zarr(folder / "cells.zarr")
    return found


def one_epoch(model: SCVI, data: CellData) -> float:
    """Training cells per second of an epoch with its validation."""
    train, validation = split_cells(len(data), 0.9, None, None, seed=0)
    initialise(model.module, data, train)
    fit = Fit(model.module, data, train, validation, Plan(max_epochs=1), seed=0, show_progbar=False)
    begin = time.perf_counter()
    fit.fit()
    return len(train) / (time.perf_counter() - begin)


def timed(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def speed(source: AnnData, n_cells: int, rounds: int, folder: Path) -> None:
    cells = resampled(source, n_cells)
    rates: dict[str, list[float]] = {}
    setups: dict[str, tuple[float, float]] = {}
    models = {}
    for name, adata in stores(cells, folder, with_gzip=True).items():
        first = timed(lambda adata=adata: SCVI.setup_anndata(adata, batch_key="batch"))
        second = timed(lambda adata=adata, name=name: models.update({name: SCVI(adata, seed=0)}))
        schema, *_ = declare(adata, batch_key="batch")
        setups[name], rates[name] = (first, second), []
        models[name] = models[name], encode(adata, schema, validate=False)
    for _ in range(rounds):
        for name, (model, data) in models.items():
            rates[name].append(one_epoch(model, data))
    best = {name: max(values) for name, values in rates.items()}
    rows = [
        [
            name,
            f"{setups[name][0]:.1f}",
            f"{setups[name][1]:.1f}",
            f"{best[name]:,.0f}",
            f"{best[name] / best['memory']:.0%}",
        ]
        for name in rates
    ]
    print(f"\n{n_cells:,} cells, {cells.n_vars:,} genes, {cells.X.nnz / n_cells:.0f} counts a cell")
    print(table(["store", "setup s", "model s", "cells/s", "of memory"], rows))


def quality(source: AnnData, n_cells: int, epochs: int, seeds: int, folder: Path) -> None:
    held_out = np.random.default_rng(0).permutation(source.n_obs)[: source.n_obs // 10]
    rest = np.setdiff1d(np.arange(source.n_obs), held_out)
    cells = resampled(source[rest[np.argsort(source.obs["protein_gate"].to_numpy()[rest], kind="stable")]], n_cells)
    test = source[held_out].copy()
    found = stores(cells, folder, with_gzip=False)
    whole = storage.BUFFER_CELLS
    cases = [("memory", whole), ("h5ad", whole), ("zarr", whole), ("h5ad", whole // 16)]
    rows = []
    for name, buffer in cases:
        storage.BUFFER_CELLS = buffer
        elbos = [elbo(found[name], test, epochs, seed) for seed in range(seeds)]
        if name == "memory":
            memory = np.array(elbos)
        difference = 100 * (np.mean(elbos) - memory.mean()) / abs(memory.mean())
        size = "" if name == "memory" else f"{buffer:,}"
        rows.append([name, size, *(f"{value:.2f}" for value in elbos), f"{difference:+.3f} %"])
    storage.BUFFER_CELLS = whole
    print(
        f"\n{n_cells:,} cells in the order of batch and cell type, {epochs} epochs; ELBO of {len(held_out)} other cells"
    )
    print(table(["store", "buffer", *(f"seed {seed}" for seed in range(seeds)), "to memory"], rows))


def elbo(adata: AnnData, test: AnnData, epochs: int, seed: int) -> float:
    SCVI.setup_anndata(adata, batch_key="batch")
    model = SCVI(adata, seed=seed)
    model.train(epochs, seed=seed, enable_progress_bar=False)
    return float(model.get_elbo(test, seed=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument("--cells", type=int, default=200_000, help="cells of the timed fits; 0: leave them out")
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=2, help="timed epochs from each store")
    parser.add_argument("--quality-cells", type=int, default=30_000, help="0: leave the comparison out")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of that comparison")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, help="torch threads")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    print(machine())
    print(f"load average {load_average()}; cells of {SOURCE}, drawn with replacement")
    source = most_counted(read(arguments.data, SOURCE), arguments.genes)
    if arguments.cells:
        with tempfile.TemporaryDirectory() as folder:
            speed(source, arguments.cells, arguments.rounds, Path(folder))
    if arguments.quality_cells:
        with tempfile.TemporaryDirectory() as folder:
            quality(source, arguments.quality_cells, arguments.epochs, arguments.seeds, Path(folder))


if __name__ == "__main__":
    main()

"""Milliseconds per training step of gimVI, beside the bare matrix products of that step.

    python benchmarks/joint_step.py --data FOLDER

As benchmarks/train_step.py, for a step with 128 cells of each of two data sets: all genes in the one, half of them in
the other. Products, for each: the encoder's first layer, forward and weight gradient; each decoder head, forward,
weight gradient and input gradient. With the linear decoder of the paper a head has 10 inputs, and its products are
small; with one hidden layer they are those of scVI.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from anndata import AnnData
from common import DEFAULT_DATA, load_average, machine, median, read, table
from train_step import CELLS, HIDDEN, STEPS_BETWEEN_PRODUCTS, WARM_UP, TimedFit, counts_of

from scvi import GIMVI
from scvi.cells.joint import JointCells
from scvi.fit.plan import AdversarialPlan


def bare_products(n_genes: tuple[int, int], n_hidden: int) -> Callable[[], float]:
    """A function that runs the products once and returns their summed seconds; the first data set has two heads."""
    pairs = []
    for g, n_heads in zip(n_genes, (2, 1), strict=True):
        x, h, d_out = torch.rand(CELLS, g), torch.rand(CELLS, n_hidden), torch.rand(CELLS, g)
        w_in, w_out = torch.rand(HIDDEN, g), torch.rand(g, n_hidden)
        pairs += [(x, w_in.t()), (torch.rand(HIDDEN, CELLS), x)]
        pairs += n_heads * [(h, w_out.t()), (d_out.t(), h), (d_out, w_out)]
    results = [torch.empty(a.shape[0], b.shape[1]) for a, b in pairs]

    def run() -> float:
        begin = time.perf_counter()
        for (a, b), out in zip(pairs, results, strict=True):
            torch.mm(a, b, out=out)
        return time.perf_counter() - begin

    return run


def measure(adata: AnnData, n_layers_decoder: int, n_steps: int) -> tuple[float, float]:
    """Median milliseconds of a step and of its products."""
    half = adata[:, ::2].copy()
    GIMVI.setup_anndata(adata)
    GIMVI.setup_anndata(half)
    model = GIMVI(adata, half, n_layers_decoder=n_layers_decoder, seed=0)
    data = JointCells(tuple(cells.own("be timed") for cells in model._data_sets))
    products = bare_products((adata.n_vars, half.n_vars), HIDDEN if n_layers_decoder else 10)
    cells = np.arange(len(data))
    epochs = math.ceil((n_steps + WARM_UP) / (adata.n_obs // CELLS))
    plan = AdversarialPlan(max_epochs=epochs, batch_size=CELLS, precision="float32")
    fit = TimedFit(model._networks, data, cells, cells[:0], plan, seed=0, show_progbar=False, products=products)
    fit.fit()
    product_seconds = fit.product_seconds[WARM_UP // STEPS_BETWEEN_PRODUCTS :]
    return 1e3 * median(fit.step_seconds[WARM_UP:]), 1e3 * median(product_seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument("--genes", nargs="+", type=int, default=[2000, 10000])
    parser.add_argument("--steps", type=int, default=120, help="timed steps of each fit")
    parser.add_argument("--threads", type=int, help="torch threads")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(machine())
    print(f"load average {load_average()}; medians of {arguments.steps} steps; products interleaved\n")
    source, rows = read(arguments.data, "pbmc3k"), []
    for n_genes in arguments.genes:
        x, _ = counts_of(source, n_genes, np.random.default_rng(0))
        adata = AnnData(x, obs=source.obs[[]].copy())
        adata.var_names = [f"gene{j}" for j in range(n_genes)]
        for depth, decoder in ((0, "linear"), (1, "one hidden layer")):
            step, products = measure(adata, depth, arguments.steps)
            rows.append([f"{n_genes:,}", decoder, f"{step:.2f}", f"{products:.2f}", f"{step / products:.2f}"])
    print(table(["genes", "decoder", "step ms", "products ms", "ratio"], rows))


if __name__ == "__main__":
    main()

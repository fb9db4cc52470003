"""Seconds of the questions to a fitted model, on all cells of a data set.

    python benchmarks/inference.py --data FOLDER

zeisel_cortex, 3005 cells x the 2000 genes of the highest total, the default network after one epoch. Per question: the
median of three calls (one for the marginal likelihood), and how many matrix products of the decoder's size (minibatch
x 128 x genes) fit into that time, beside how many the question needs at the least.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from anndata import AnnData
from common import DEFAULT_DATA, load_average, machine, median, read, table
from train_step import counts_of

from scvi import SCVI

N_GENES, HIDDEN = 2000, 128


def seconds_of(call: Callable[[], object], repeats: int) -> float:
    def once() -> float:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    return median([once() for _ in range(repeats)])


def product_seconds(n_cells: int) -> float:
    """One product of all cells' hidden layer with a head's weights, 1024 cells at a time."""
    h, w = torch.rand(1024, HIDDEN), torch.rand(N_GENES, HIDDEN)
    out = torch.empty(1024, N_GENES)
    return seconds_of(lambda: torch.mm(h, w.t(), out=out), 50) * n_cells / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument("--draws", type=int, default=1000, help="of the marginal likelihood")
    arguments = parser.parse_args()
    source = read(arguments.data, "zeisel_cortex")
    x, _ = counts_of(source, N_GENES, np.random.default_rng(0))
    adata = AnnData(x, obs=source.obs[[]].copy())
    SCVI.setup_anndata(adata)
    model = SCVI(adata, seed=0)
    model.train(max_epochs=1, seed=0, enable_progress_bar=False)
    model.get_marginal_ll(indices=range(128), n_mc_samples=2)  # compiles
    model.get_feature_correlation_matrix(indices=range(128), n_samples=1)  # imports
    print(machine())
    print(f"load average {load_average()}; {adata.n_obs} cells x {N_GENES} genes\n")
    product = product_seconds(adata.n_obs)
    draws = arguments.draws
    questions: list[tuple[str, Callable[[], object], int, int]] = [
        ("latent space", model.get_latent_representation, 3, 1),
        ("normalised expression", lambda: model.get_normalized_expression(return_numpy=True), 3, 2),
        ("normalised expression, 25 draws", lambda: model.get_normalized_expression(n_samples=25), 3, 26),
        ("counts drawn again", model.posterior_predictive_sample, 3, 3),
        ("counts drawn again, 10 draws", lambda: model.posterior_predictive_sample(n_samples=10), 1, 21),
        ("correlations, Spearman, 3 draws", lambda: model.get_feature_correlation_matrix(n_samples=3), 1, 4),
        (
            "correlations, Pearson, 3 draws",
            lambda: model.get_feature_correlation_matrix(n_samples=3, correlation_type="pearson"),
            1,
            4,
        ),
        (
            "weighted expression, 100 draws",
            lambda: model.get_normalized_expression(weights="importance", n_mc_samples=100, return_numpy=True),
            1,
            301,
        ),
        ("ELBO", model.get_elbo, 3, 3),
        (f"marginal likelihood, {draws} draws", lambda: model.get_marginal_ll(n_mc_samples=draws), 1, 2 * draws),
    ]
    rows = []
    for name, call, repeats, n_products in questions:
        seconds = seconds_of(call, repeats)
        rows.append([name, f"{seconds:.2f}", f"{seconds / product:.1f}", str(n_products)])
    print(table(["question", "seconds", "in products", "products needed"], rows))


if __name__ == "__main__":
    main()

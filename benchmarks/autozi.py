"""Does AutoZI find the genes that are zero-inflated, and no others? And what does it say of real counts?

    python benchmarks/autozi.py --data FOLDER

Simulation: 1500 cells in four states x 300 genes. A third of the genes are Poisson log-normal and lose 10 to 60 % of
their counts, a third are Poisson log-normal, a third are negative binomial controls (inverse dispersion 1.6 to 12).
`AUC`: ROC of beta / (alpha + beta), the mean probability of zero inflation, for the genes that lose counts against all
others. `called`: shares of the three kinds that are called zero-inflated (alpha < beta). Wanted: an AUC of at least
0.95, at most 5 % of the controls called. Genes of few counts say little of their zeros: the second simulation shows
where that begins, by mean count.

Real counts: pbmc3k, 1000 genes by the seurat_v3 method. Reference: scvi-tools 1.4.2, 200 epochs, calls 77.5 % of the
genes. No truth is known; counts of molecules are hardly zero-inflated, so fewer calls are better news.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from anndata import AnnData
from common import DEFAULT_DATA, load_average, machine, table
from quality import load as load_cells
from scipy import sparse
from sklearn.metrics import roc_auc_score

from scvi import AUTOZI
from scvi.data.variable_genes import seurat_v3

KINDS = ("inflated", "log-normal", "controls")
HEADER = ("genes", "number", "AUC", *(f"called {kind}" for kind in KINDS))


def simulate(n_cells: int, n_genes: int, log_means: tuple[float, float], seed: int) -> AnnData:
    """Counts with `var["kind"]` and the mean before any loss in `var["mean"]`."""
    rng = np.random.default_rng(seed)
    shape, kind = (n_cells, n_genes), np.arange(n_genes) % 3
    state = rng.integers(4, size=n_cells)
    log_rate = rng.uniform(*log_means, n_genes) + rng.normal(0, 0.4, (4, n_genes))[state]
    log_rate = log_rate + rng.normal(size=(n_cells, 5)) @ rng.normal(0, 0.3, (5, n_genes))
    rate = np.exp(log_rate + rng.normal(0, 0.3, (n_cells, 1)))
    theta, sigma = np.exp(rng.uniform(0.5, 2.5, n_genes)), rng.uniform(0.2, 0.5, n_genes)
    gamma = rng.gamma(np.broadcast_to(theta, shape)) / theta
    log_normal = np.exp(rng.normal(size=shape) * sigma - sigma**2 / 2)
    counts = rng.poisson(rate * np.where(kind == 2, gamma, log_normal))
    counts[(kind == 0) & (rng.random(shape) < rng.uniform(0.1, 0.6, n_genes))] = 0
    adata = AnnData(sparse.csr_matrix(counts.astype(np.float32)))
    adata.var["kind"], adata.var["mean"] = np.array(KINDS)[kind], rate.mean(0)
    return adata


def fit(adata: AnnData, seed: int, arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean probability of zero inflation, whether it is called, seconds."""
    AUTOZI.setup_anndata(adata)
    model = AUTOZI(adata, seed=seed)
    begin = time.perf_counter()
    options = {"max_epochs": arguments.max_epochs, "weight_decay": arguments.weight_decay}
    model.train(**options, seed=seed, enable_progress_bar=False)
    found = model.get_alphas_betas()
    alpha, beta = found["alpha_posterior"], found["beta_posterior"]
    return beta / (alpha + beta), alpha < beta, time.perf_counter() - begin


def row(title: str, adata: AnnData, genes: np.ndarray, inflation: np.ndarray, called: np.ndarray) -> list[str]:
    kind = adata.var["kind"].to_numpy()
    auc = roc_auc_score(kind[genes] == "inflated", inflation[genes])
    shares = [called[genes & (kind == name)].mean() for name in KINDS]
    return [title, str(genes.sum()), f"{auc:.3f}", *(f"{share:.1%}" for share in shares)]


def simulations(arguments: argparse.Namespace) -> None:
    for log_means, bands in (((0.0, 2.5), ()), ((-2.5, 2.5), (0.3, 1.0))):
        print(f"simulation, mean counts from {np.exp(log_means[0]):.2f} to {np.exp(log_means[1]):.0f}\n")
        rows = []
        for seed in range(arguments.seeds):
            adata = simulate(1500, 300, log_means, seed)
            inflation, called, seconds = fit(adata, seed, arguments)
            mean, edges = adata.var["mean"].to_numpy(), [0.0, *bands, np.inf]
            rows.append(row(f"seed {seed}, {seconds:.0f} s", adata, mean > 0, inflation, called))
            for low, high in zip(edges[:-1], edges[1:], strict=True) if bands else ():
                chosen = (mean > low) & (mean <= high)
                rows.append(row(f"  mean {low:g} to {high:g}", adata, chosen, inflation, called))
        print(table(HEADER, rows), "\n")


def real_counts(arguments: argparse.Namespace) -> None:
    adata = load_cells(arguments.data, "pbmc3k")
    adata = adata[:, seurat_v3(adata.X, 1000)["highly_variable"].to_numpy()].copy()
    mean = np.asarray(adata.X.mean(axis=0)).ravel()
    print(f"pbmc3k: {adata.n_obs} cells x {adata.n_vars} genes; the reference calls 77.5 %\n")
    edges, rows = [0.0, 0.05, 0.2, 1.0, np.inf], []
    for seed in range(arguments.seeds):
        _, called, seconds = fit(adata, seed, arguments)
        bands = [(mean > low) & (mean <= high) for low, high in zip(edges[:-1], edges[1:], strict=True)]
        shares = [called.mean(), *(called[band].mean() for band in bands)]
        rows.append([f"seed {seed}, {seconds:.0f} s", *(f"{share:.1%}" for share in shares)])
    names = [f"mean {low:g} to {high:g}" for low, high in zip(edges[:-1], edges[1:], strict=True)]
    print(table(["called zero-inflated", "all", *names], rows), "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--max-epochs", type=int, help="default: what train chooses")
    parser.add_argument("--weight-decay", type=float, help="default: what train chooses")
    parser.add_argument("--threads", type=int, help="torch threads")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    print(machine())
    print(f"load average {load_average()}\n")
    simulations(arguments)
    real_counts(arguments)


if __name__ == "__main__":
    main()

"""Held-out likelihood and quality of the latent space on real data, beside published figures of the same protocol.

    python benchmarks/quality.py --data FOLDER

Protocol. Genes: 2000 by the seurat_v3 method over all cells, without batches (kang_ifnb_labelled: all). Cells:
RandomState(0).permutation; the first tenth is held out, the model is fitted to a copy of the others, to all of them
(train_size=1.0), as the reference was, and never sees the held-out cells. elbo: mean held-out ELBO in nats per cell,
observed library size. Scores are of the latent means of all cells: K-means (n_init 50, true number of classes) against
the labels, silhouette, vote of the 15 nearest neighbours, entropy of the batch among 50 neighbours beside that of the
batch proportions. PCA: 30 components of log1p counts scaled to the median total.

Reference: scvi-tools 1.4.2, default options, 400 epochs, one seed. Noise: 0.3 % in likelihood, 0.02 in scores, 0.03 in
entropy. Seconds are those of another machine.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from anndata import AnnData
from common import DEFAULT_DATA, load_average, machine, read, table

from scvi import SCVI, LinearSCVI
from scvi.data.variable_genes import seurat_v3
from scvi.queries import clustering

SCORES = ("ARI", "NMI", "ASW", "kNN15", "entropy")
HEADER = ("", "elbo", *SCORES, "epochs", "seconds")
Figures = dict[str, float]


@dataclass(frozen=True)
class Task:
    """A data set, what to drop from it, and what others reach on it."""

    batch: str | None
    reference: Figures
    pca: Figures
    linear: Figures | None = None
    label: str = "cell_type"
    drop: tuple[str, str] | None = None  # a column of obs and the value of the cells that are left out
    n_top_genes: int | None = 2000  # None: all genes


def figures(elbo: float | None, seconds: float | None, *scores: float) -> Figures:
    named = dict(zip(SCORES, scores, strict=False))
    if elbo is not None and seconds is not None:
        named |= {"elbo": elbo, "epochs": 400, "seconds": seconds}
    return named


TASKS = {
    "zeisel_cortex": Task(
        batch=None,
        reference=figures(-2803.1, 180, 0.686, 0.730, 0.204, 0.950),
        pca=figures(None, None, 0.826, 0.782, 0.279, 0.957),
        linear=figures(-2907.1, 143, 0.781, 0.780, 0.296, 0.951),
    ),
    "pbmc3k": Task(
        batch=None,
        reference=figures(-680.2, 146, 0.515, 0.668, 0.108, 0.862),
        pca=figures(None, None, 0.661, 0.776, 0.183, 0.887),
        drop=("cell_type", "unassigned"),
    ),
    "sc_mixology": Task(
        batch="batch",
        reference=figures(-2626.1, 58, 0.986, 0.982, 0.227, 0.999, 1.304),
        pca=figures(None, None, 0.674, 0.797, 0.279, 1.000, 0.637),
    ),
    "kang_ifnb_labelled": Task(
        batch="sample",
        reference=figures(-1079.7, 66, 0.692, 0.745, 0.132, 0.918, 1.267),
        pca=figures(None, None, 0.517, 0.642, 0.121, 0.925, 0.704),
        n_top_genes=None,
    ),
    "sln_day2": Task(
        batch="hashtag",
        reference=figures(-380.6, 400, 0.443, 0.595, 0.009, 0.830, 0.587),
        pca=figures(None, None, 0.523, 0.615, 0.046, 0.815, 0.566),
        label="cell_type_day2",
        drop=("hashtag", "Doublet"),
    ),
}


def select(adata: AnnData, n_top_genes: int | None) -> AnnData:
    """The genes of the protocol, by scanpy where it is installed."""
    if n_top_genes is None:
        return adata
    if find_spec("scanpy"):
        import scanpy

        scanpy.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=n_top_genes)
        chosen = adata.var["highly_variable"].to_numpy()
    else:
        chosen = seurat_v3(adata.X, n_top_genes)["highly_variable"].to_numpy()
    return adata[:, chosen].copy()


def load(folder: Path, name: str) -> AnnData:
    """Cells and genes of the protocol."""
    task, adata = TASKS[name], read(folder, name)
    if task.drop is not None:
        column, value = task.drop
        adata = adata[adata.obs[column] != value].copy()
    return select(adata, task.n_top_genes)


def split(adata: AnnData) -> tuple[AnnData, AnnData]:
    """The cells to fit, and the tenth that is held out."""
    held_out, fitted = np.split(np.random.RandomState(0).permutation(adata.n_obs), [adata.n_obs // 10])
    return adata[fitted].copy(), adata[held_out].copy()


def held_out_elbo(model: SCVI, held_out: AnnData) -> float:
    """One posterior draw a cell is noisy: the mean of ten."""
    return float(np.mean([model.get_elbo(held_out, seed=seed) for seed in range(10)]))


def scores(latent: np.ndarray, adata: AnnData, task: Task) -> Figures:
    labels = adata.obs[task.label]
    result = {
        **clustering.kmeans_scores(latent, labels),
        "ASW": clustering.silhouette(latent, labels),
        "kNN15": clustering.knn_accuracy(latent, labels),
    }
    if task.batch is not None:
        result["entropy"] = clustering.batch_entropy(latent, adata.obs[task.batch])
    return result


def fit(
    adata: AnnData, task: Task, estimator: type[SCVI], seed: int, marginal: bool = True, **options: object
) -> Figures:
    """One seed; `options` are those of `train`."""
    train, held_out = split(adata)
    estimator.setup_anndata(train, batch_key=task.batch)
    model = estimator(train, seed=seed)
    begin = time.perf_counter()
    model.train(**{"train_size": 1.0, "seed": seed, "enable_progress_bar": False, **options})
    seconds = time.perf_counter() - begin
    likelihoods = {"elbo": held_out_elbo(model, held_out)}
    if marginal:
        likelihoods["marginal"] = float(model.get_marginal_ll(held_out, n_mc_samples=200, seed=0))
    return {
        **likelihoods,
        **scores(model.get_latent_representation(adata), adata, task),
        "epochs": len(model.history["elbo_train"]),
        "seconds": seconds,
    }


def mean_and_half_range(found: Sequence[Figures]) -> tuple[Figures, Figures]:
    """Over the seeds."""
    values = {key: [one[key] for one in found] for key in found[0]}
    return {k: float(np.mean(v)) for k, v in values.items()}, {k: float(np.ptp(v) / 2) for k, v in values.items()}


def row(title: str, found: Figures, spread: Figures | None = None) -> list[str]:
    digits = {"elbo": 1, "epochs": 0, "seconds": 0}

    def cell(name: str) -> str:
        if name not in found:
            return ""
        text = f"{found[name]:.{digits.get(name, 3)}f}"
        if spread is None or name in ("epochs", "seconds"):
            return text
        return f"{text} ±{spread[name]:.{digits.get(name, 3)}f}"

    return [title, *map(cell, HEADER[1:])]


def run(name: str, task: Task, arguments: argparse.Namespace) -> None:
    adata = load(arguments.data, name)
    n_batches = "" if task.batch is None else f", batches {task.batch}"
    print(f"{name}: {adata.n_obs} cells x {adata.n_vars} genes{n_batches}\n")
    linear = arguments.model == "linear"
    estimator = LinearSCVI if linear else SCVI
    ours = [
        fit(adata, task, estimator, seed, max_epochs=arguments.max_epochs, precision=arguments.precision)
        for seed in range(arguments.seeds)
    ]
    mean, half_range = mean_and_half_range(ours)
    reference = task.linear if linear else task.reference
    rows = [row(f"scvi, mean of {len(ours)} seeds", mean, half_range)]
    if arguments.each:
        rows += [row(f"  seed {seed}", found) for seed, found in enumerate(ours)]
    if reference is not None:
        rows.append(row("reference", reference))
        difference = {key: mean[key] - value for key, value in reference.items() if key not in ("epochs", "seconds")}
        rows.append(row("  difference", difference))
    rows.append(row("PCA", scores(clustering.pca(adata.X), adata, task)))
    rows.append(row("PCA, reference", task.pca))
    if task.batch is not None:
        rows.append(row("largest entropy", {"entropy": clustering.max_batch_entropy(adata.obs[task.batch])}))
    print(table(HEADER, rows))
    print(f"\nimportance-weighted held-out log-likelihood: {mean['marginal']:.1f} (above the ELBO)\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument("--sets", nargs="+", choices=TASKS, default=list(TASKS), help="data sets")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--max-epochs", type=int, help="default: what train chooses")
    parser.add_argument(
        "--precision", choices=["float32", "bf16", "auto"], default="float32", help="of matrix products"
    )
    parser.add_argument("--model", choices=["scvi", "linear"], default="scvi")
    parser.add_argument("--each", action="store_true", help="show every seed")
    parser.add_argument("--threads", type=int, help="torch threads")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    print(machine())
    chosen = "scanpy" if find_spec("scanpy") else "scvi.data.variable_genes.seurat_v3 (scanpy is not installed)"
    print(f"load average {load_average()}; genes chosen by {chosen}; ± is half the range over seeds\n")
    for name in arguments.sets:
        run(name, TASKS[name], arguments)


if __name__ == "__main__":
    main()

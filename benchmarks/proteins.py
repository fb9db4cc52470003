"""totalVI: proteins imputed where they were hidden, and foregrounds, beside what the best-known package reaches.

    python benchmarks/proteins.py --data FOLDER

Few cells: proteins of 150 of the 500 cells of pbmc_eccite_500 (2,000 genes), and of the 200 cells of pbmc_5k in
pbmc_cite_two_panels_400 (the 14 that the other batch measured), are hidden and imputed as if these cells had been
measured with the others; mean and median over proteins of the Spearman correlation over cells. *as it was*: the encoder
sees all proteins that there are (hide_proteins=0), and the background is drawn, not averaged.

Many cells, those of pbmc_10k in pbmc_cite_10k_5k. Imputation: the cells are split at random in A and B, all proteins
of B are hidden, and imputed as if B had been measured with A (background included, ten draws); Pearson correlation of
log(1 + count). Foreground: ROC AUC of the probability that a protein is no background, for the gated cells that should
have it against the others. The gate was made from the proteins: the second shows that the mixture finds the two modes,
not that it finds cell types.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from anndata import AnnData
from common import DEFAULT_DATA, load_average, machine, read, table
from quality import select
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from scvi import TOTALVI
from scvi.queries import clustering

REFERENCE = {
    "CD127": 0.896, "CD14": 0.966, "CD15": 0.126, "CD16": 0.700, "CD19": 0.899, "CD25": 0.585, "CD3": 0.957,
    "CD45RA": 0.839, "CD45RO": 0.856, "CD4": 0.887, "CD56": 0.787, "CD8a": 0.784, "PD-1": 0.533, "TIGIT": 0.741,
    "mean": 0.754, "NMI": 0.789, "kNN15": 0.960, "seconds": 115,
}  # fmt: skip
GATED = {"CD3": ("CD4 T memory", "CD4 T naive", "CD8 T"), "CD19": ("B",), "CD14": ("CD14 Mono",)}
KEY = "proteins"


def cells_of(folder: Path) -> AnnData:
    """The run that measured proteins, with its cells in halves A and B."""
    adata = read(folder, "pbmc_cite_10k_5k")
    adata = adata[adata.obs["batch"] == "pbmc_10k"].copy()
    adata.obs["half"] = np.where(np.random.default_rng(0).random(adata.n_obs) < 0.5, "B", "A")
    return adata


def eccite(folder: Path) -> tuple[AnnData, np.ndarray]:
    """Cells of the protocol, and which of them are to be imputed."""
    adata = select(read(folder, "pbmc_eccite_500"), 2000)
    hidden = np.isin(np.arange(adata.n_obs), np.random.default_rng(0).choice(500, 150, replace=False))
    adata.obs["panel"] = np.where(hidden, "hidden", "shown")
    return adata, hidden


def two_panels(folder: Path) -> tuple[AnnData, np.ndarray]:
    """All cells, with the proteins that both batches measured, and which of them are to be imputed."""
    adata = select(read(folder, "pbmc_cite_two_panels_400"), 2000)
    shared = np.asarray(adata.uns["protein_measured"]["pbmc_10k"])
    adata.obsm["protein_counts"] = np.asarray(adata.obsm["protein_counts"])[:, shared]
    adata.uns["protein_names"] = np.asarray(adata.uns["protein_names"])[shared]
    hidden = (adata.obs["batch"] == "pbmc_5k").to_numpy()
    adata.obs["panel"] = np.where(hidden, "hidden", "shown")
    return adata, hidden


FEW_CELLS = {"pbmc_eccite_500": (eccite, (0.393, 0.38)), "pbmc_cite_two_panels_400": (two_panels, None)}


def of_few_cells(name: str, arguments: argparse.Namespace) -> None:
    """Prints how well hidden proteins are imputed, seed by seed."""
    cells, reference = FEW_CELLS[name]
    adata, hidden = cells(arguments.data)
    counts, rows = np.asarray(adata.obsm["protein_counts"]), []
    shown = np.where(hidden[:, None], 0, counts)
    for title, options in ({"": {}, "as it was, ": {"hide_proteins": 0.0}} if arguments.few else {"": {}}).items():
        for seed in range(arguments.seeds):
            model = fitted(adata, shown, "panel", arguments, seed, **options)
            _, imputed = model.get_normalized_expression(
                indices=hidden,
                transform_batch="shown",
                include_protein_background=True,
                n_samples=10,
                return_mean=not title,
                return_numpy=True,
                seed=0,
            )
            found = per_protein(imputed.mean(0) if title else imputed, counts[hidden])
            rows.append([f"{title}seed {seed}", f"{np.mean(found):.3f}", f"{np.median(found):.3f}"])
    if reference is not None:
        rows.append(["reference", *(f"{figure:.3f}" for figure in reference)])
    print(table([f"{name}, {counts.shape[1]} proteins", "mean", "median"], rows), "\n")


def per_protein(imputed: np.ndarray, true: np.ndarray) -> list[float]:
    """Spearman correlations over cells, of the proteins that vary."""
    return [spearmanr(imputed[:, j], true[:, j])[0] for j in np.flatnonzero(np.ptp(true, axis=0))]


def fitted(
    adata: AnnData,
    values: np.ndarray,
    batch_key: str | None,
    arguments: argparse.Namespace,
    seed: int,
    **options: float,
) -> TOTALVI:
    adata = adata.copy()
    adata.obsm[KEY] = values
    TOTALVI.setup_anndata(adata, KEY, "protein_names", batch_key=batch_key)
    model = TOTALVI(adata, seed=seed)
    model.train(max_epochs=arguments.max_epochs, seed=seed, enable_progress_bar=False, **options)
    return model


def imputation(adata: AnnData, arguments: argparse.Namespace, seed: int) -> dict[str, float]:
    counts = np.asarray(adata.obsm["protein_counts"])
    hidden = np.flatnonzero(adata.obs["half"] == "B")
    shown = counts.copy()
    shown[hidden] = 0
    begin = time.process_time()
    model = fitted(adata, shown, "half", arguments, seed)
    seconds = time.process_time() - begin
    _, imputed = model.get_normalized_expression(
        indices=hidden, transform_batch="A", include_protein_background=True, n_samples=10, seed=0
    )
    logs = np.log1p(imputed.to_numpy()), np.log1p(counts[hidden])
    found = {name: float(np.corrcoef(logs[0][:, j], logs[1][:, j])[0, 1]) for j, name in enumerate(imputed.columns)}
    known = (adata.obs["protein_gate"] != "unassigned").to_numpy()
    latent, gate = model.get_latent_representation()[known], adata.obs["protein_gate"][known]
    scores = {
        "mean": float(np.mean(list(found.values()))),
        "NMI": clustering.kmeans_scores(latent, gate)["NMI"],
        "kNN15": clustering.knn_accuracy(latent, gate),
        "seconds": seconds,
    }
    return found | scores


def foreground(adata: AnnData, arguments: argparse.Namespace, seed: int) -> dict[str, float]:
    model = fitted(adata, np.asarray(adata.obsm["protein_counts"]), None, arguments, seed)
    probability = model.get_protein_foreground_probability(n_samples=10, seed=0)
    gate = adata.obs["protein_gate"]
    known = (gate != "unassigned").to_numpy()
    return {
        protein: float(roc_auc_score(gate.isin(types)[known], probability[protein][known]))
        for protein, types in GATED.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--max-epochs", type=int, help="default: what train chooses")
    parser.add_argument("--threads", type=int, help="torch threads")
    parser.add_argument("--few", action="store_true", help="the sets of few cells only")
    arguments = parser.parse_args()
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    print(f"{machine()}\nload average {load_average()}\n")
    for name in FEW_CELLS:
        of_few_cells(name, arguments)
    if arguments.few:
        return
    adata = cells_of(arguments.data)
    print(f"{adata.n_obs} cells x {adata.n_vars} genes, {len(REFERENCE) - 4} proteins\n")
    seeds = range(arguments.seeds)
    runs = [imputation(adata, arguments, seed) for seed in seeds]
    rows = [[name, *(f"{run[name]:.3f}" for run in runs), f"{value:.3f}"] for name, value in REFERENCE.items()]
    print(table(["imputed", *(f"seed {seed}" for seed in seeds), "reference"], rows), "\n")
    areas = [foreground(adata, arguments, seed) for seed in seeds]
    rows = [[name, *(f"{area[name]:.4f}" for area in areas)] for name in GATED]
    print(table(["ROC AUC of the foreground", *(f"seed {seed}" for seed in seeds)], rows))


if __name__ == "__main__":
    main()

"""totalVI on the 10k cells of pbmc_cite_10k_5k beside what the best-known package reaches.

    python benchmarks/proteins.py --data FOLDER

Imputation: the cells are split at random in A and B, all proteins of B are hidden, and imputed as if B had been
measured with A (background included, ten draws); Pearson correlation of log(1 + count). Foreground: ROC AUC of the
probability that a protein is no background, for the gated cells that should have it against the others. The gate was
made from the proteins: the second shows that the mixture finds the two modes, not that it finds cell types.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from anndata import AnnData
from common import DEFAULT_DATA, load_average, machine, read, table
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


def fitted(
    adata: AnnData, values: np.ndarray, batch_key: str | None, arguments: argparse.Namespace, seed: int
) -> TOTALVI:
    adata = adata.copy()
    adata.obsm[KEY] = values
    TOTALVI.setup_anndata(adata, KEY, "protein_names", batch_key=batch_key)
    model = TOTALVI(adata, seed=seed)
    model.train(max_epochs=arguments.max_epochs, seed=seed, enable_progress_bar=False)
    return model


def imputation(adata: AnnData, arguments: argparse.Namespace, seed: int) -> dict[str, float]:
    counts = np.asarray(adata.obsm["protein_counts"])
    hidden = np.flatnonzero(adata.obs["half"] == "B")
    shown = counts.copy()
    shown[hidden] = 0
    begin = time.perf_counter()
    model = fitted(adata, shown, "half", arguments, seed)
    seconds = time.perf_counter() - begin
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
    arguments = parser.parse_args()
    if arguments.threads:
        import torch

        torch.set_num_threads(arguments.threads)
    adata = cells_of(arguments.data)
    print(machine())
    print(f"load average {load_average()}; {adata.n_obs} cells x {adata.n_vars} genes, {len(REFERENCE) - 4} proteins\n")
    seeds = range(arguments.seeds)
    runs = [imputation(adata, arguments, seed) for seed in seeds]
    rows = [[name, *(f"{run[name]:.3f}" for run in runs), f"{value:.3f}"] for name, value in REFERENCE.items()]
    print(table(["imputed", *(f"seed {seed}" for seed in seeds), "reference"], rows), "\n")
    areas = [foreground(adata, arguments, seed) for seed in seeds]
    rows = [[name, *(f"{area[name]:.4f}" for area in areas)] for name in GATED]
    print(table(["ROC AUC of the foreground", *(f"seed {seed}" for seed in seeds)], rows))


if __name__ == "__main__":
    main()

"""Spatial genes that are hidden and imputed by gimVI from dissociated cells, beside a figure of the same protocol.

    python benchmarks/imputation.py --data FOLDER

Protocol. Of the genes that both data sets of a pair have, some are hidden from the spatial one: the first of a
permutation by default_rng(0), drawn anew for each split. The model is fitted with its defaults to all genes of the
dissociated cells and to the spatial cells without the hidden genes. Score: Spearman correlation over spatial cells of
expected counts (not normalised) with the true counts of each hidden gene, 0 for a gene without variation; median over
the hidden genes of a split. neighbours: mean frequency of the gene in the 50 dissociated cells whose log frequencies of
the other shared genes, standardised within each data set, are nearest by angle, times the spatial cell's total over
these genes.

Pairs: hypothalamus, 134 shared genes, 20 hidden; cortex, zeisel_cortex with starmap_mpfc, 37 shared genes, 8 hidden,
the dissociated cells cut to the shared genes and their 1000 most counted others.

Reference, hypothalamus: scvi-tools 1.4.2, 200 epochs, one seed, three splits by default_rng(0), of which it is not
stated how they were drawn: compare the means over splits. seconds: of the processor, a fit and its answer.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from anndata import AnnData
from common import DEFAULT_DATA, load_average, machine, most_counted, read, table
from scipy.stats import rankdata
from sklearn.neighbors import NearestNeighbors

from scvi import GIMVI

REFERENCE = {"hypothalamus": (0.283, 0.364, 0.317)}
N_HIDDEN = {"hypothalamus": 20, "cortex": 8}
N_NEIGHBOURS = 50


def load(folder: Path, name: str) -> tuple[AnnData, AnnData]:
    """The dissociated and the spatial cells of a pair."""
    if name == "hypothalamus":
        return read(folder, "hypothalamus_scrna"), read(folder, "hypothalamus_merfish")
    seq, spatial = read(folder, "zeisel_cortex"), read(folder, "starmap_mpfc")
    shared = set(spatial.var_names)
    kept = shared | set(most_counted(seq[:, ~seq.var_names.isin(shared)].copy(), 1000).var_names)
    return seq[:, seq.var_names.isin(kept)].copy(), spatial


def correlations(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(g,) Spearman correlations of columns; 0 where one does not vary."""
    ranks = [rankdata(values, axis=0) for values in (predicted, true)]
    centred = [r - r.mean(axis=0) for r in ranks]
    size = np.sqrt(np.prod([(r**2).sum(axis=0) for r in centred], axis=0))
    return (centred[0] * centred[1]).sum(axis=0) / np.where(size > 0, size, np.inf)


def neighbours(seq: AnnData, spatial: AnnData, shared: list[str], hidden: list[str]) -> np.ndarray:
    """(n, hidden) what the nearest dissociated cells say."""
    seen = [gene for gene in shared if gene not in hidden]
    totals, features = [], []
    for adata in (seq, spatial):
        x = adata[:, seen].X.toarray().astype(np.float64)
        totals.append(np.maximum(x.sum(axis=1, keepdims=True), 1))
        logs = np.log1p(100 * x / totals[-1])
        features.append((logs - logs.mean(axis=0)) / np.maximum(logs.std(axis=0), 1e-6))
    nearest = NearestNeighbors(n_neighbors=N_NEIGHBOURS, metric="cosine").fit(features[0])
    frequency = seq[:, hidden].X.toarray() / totals[0]
    return frequency[nearest.kneighbors(features[1], return_distance=False)].mean(axis=1) * totals[1]


def impute(
    seq: AnnData, spatial: AnnData, hidden: list[str], seed: int, arguments: argparse.Namespace
) -> tuple[np.ndarray, GIMVI]:
    """(n, hidden) expected counts, and the model."""
    seq, seen = seq.copy(), spatial[:, ~spatial.var_names.isin(hidden)].copy()
    GIMVI.setup_anndata(seq)
    GIMVI.setup_anndata(seen)
    model = GIMVI(seq, seen, seed=seed)
    options = {name: getattr(arguments, name) for name in ("kappa", "max_epochs", "weight_decay")}
    model.train(**options, seed=seed, enable_progress_bar=False)
    return model.get_imputed_values(normalized=False, gene_list=hidden)[1], model


def run(name: str, arguments: argparse.Namespace) -> None:
    seq, spatial = load(arguments.data, name)
    shared = [gene for gene in spatial.var_names if gene in set(seq.var_names)]
    print(f"{name}: {seq.n_obs} x {seq.n_vars} and {spatial.n_obs} x {spatial.n_vars}, {len(shared)} genes shared\n")
    rng, rows = np.random.default_rng(0), []
    for split in range(arguments.splits):
        hidden = [shared[i] for i in np.sort(rng.permutation(len(shared))[: N_HIDDEN[name]])]
        true = spatial[:, hidden].X.toarray()
        medians, accuracies, begin = [], [], time.process_time()
        for seed in range(arguments.seeds):
            predicted, model = impute(seq, spatial, hidden, seed, arguments)
            medians.append(np.median(correlations(predicted, true)))
            accuracies.append(model.history["discriminator_accuracy_validation"].iloc[-1, 0])
        reference = REFERENCE.get(name)
        rows.append(
            [
                f"split {split}",
                f"{np.mean(medians):.3f} ±{np.ptp(medians) / 2:.3f}",
                "" if reference is None or split >= len(reference) else f"{reference[split]:.3f}",
                f"{np.median(correlations(neighbours(seq, spatial, shared, hidden), true)):.3f}",
                f"{np.mean(accuracies):.2f}",
                f"{(time.process_time() - begin) / arguments.seeds:.0f}",
            ]
        )
    print(table(["", "gimVI", "reference", "neighbours", "accuracy", "seconds"], rows) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument("--pairs", nargs="+", choices=N_HIDDEN, default=list(N_HIDDEN), help="pairs of data sets")
    parser.add_argument("--splits", type=int, default=3, help="number of random choices of hidden genes")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--kappa", type=float, default=5.0, help="weight of the adversary")
    parser.add_argument("--max-epochs", type=int, help="default: what train chooses")
    parser.add_argument("--weight-decay", type=float, help="default: what train chooses")
    parser.add_argument("--threads", type=int, help="torch threads")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(machine())
    print(
        f"load average {load_average()}; ± is half the range over seeds; accuracy: of the discriminator, mixed 0.50\n"
    )
    for name in arguments.pairs:
        run(name, arguments)


if __name__ == "__main__":
    main()

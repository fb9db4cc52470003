"""New batches mapped onto a fitted reference: are the cells at home, and is the reference as it was?

    python benchmarks/query_mapping.py --data FOLDER

sc_mixology, 1021 cells of five cell lines in five batches. Each batch in turn is left out: 2000 genes by the seurat_v3
method on the other four, which the reference is fitted to with default options; the fifth is mapped with
`load_query_data` and fitted with --lr. kNN15: share of the query's cells for which the 15 nearest cells of the
reference vote for their cell line, before training and after; entropy: of the batch among the 50 nearest neighbours of
a query cell in all cells (max is that of the batch proportions); elbo: mean of the query's cells in nats; change: the
largest change of a latent mean of the reference. PCA: 30 components of the reference's log1p counts scaled to the
median total, on which the query is projected.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from anndata import AnnData
from common import DEFAULT_DATA, load_average, machine, read, table
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from scvi import SCVI, LinearSCVI
from scvi.dataset.genes import seurat_v3
from scvi.queries import clustering

METHODS = {
    "SCVI, batch encoded": (SCVI, {"encode_covariates": True}),
    "SCVI": (SCVI, {}),
    "LinearSCVI, batch encoded": (LinearSCVI, {"encode_covariates": True}),
}
HEADER = ("query", "cells", "kNN15 before", "after", "entropy", "max", "elbo before", "after", "change", "seconds")


def votes(reference: np.ndarray, query: np.ndarray, cells: AnnData, mapped: AnnData) -> float:
    """Share of the query that its neighbours in the reference name rightly."""
    vote = KNeighborsClassifier(15).fit(reference, cells.obs["cell_type"])
    return float(vote.score(query, mapped.obs["cell_type"]))


def projected(cells: AnnData, query: AnnData) -> float:
    """The same vote in a PCA of the reference."""

    def logs(adata: AnnData) -> np.ndarray:
        x = sparse.csr_array(adata.X, dtype=np.float64)
        totals = x.sum(axis=1)
        x.data *= np.repeat(median / np.maximum(totals, 1), np.diff(x.indptr))
        return x.log1p().toarray()

    median = float(np.median(np.asarray(cells.X.sum(axis=1))))
    pca = PCA(30, random_state=0).fit(logs(cells))
    return votes(pca.transform(logs(cells)), pca.transform(logs(query)), cells, query)


def mapping(method: str, cells: AnnData, query: AnnData, lr: float) -> tuple[object, ...]:
    """One row of the table."""
    cls, options = METHODS[method]
    cls.setup_anndata(cells, batch_key="batch")
    reference = cls(cells, seed=0, **options)
    reference.train(seed=0, enable_progress_bar=False)
    fitted = reference.get_latent_representation()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*encode_covariates=False")
        model = cls.load_query_data(query, reference)
    before = votes(fitted, model.get_latent_representation(), cells, query), model.get_elbo(seed=0)
    begin = time.perf_counter()
    model.train(lr=lr, seed=0, enable_progress_bar=False)
    seconds = time.perf_counter() - begin
    latent, mapped = model.get_latent_representation(cells), model.get_latent_representation()
    batches = np.concatenate([cells.obs["batch"], query.obs["batch"]])
    entropy = clustering.neighbourhood_entropy(np.concatenate([latent, mapped]), batches)[len(latent) :].mean()
    return (
        query.obs["batch"].iloc[0],
        query.n_obs,
        f"{before[0]:.3f}",
        f"{votes(latent, mapped, cells, query):.3f}",
        f"{entropy:.3f}",
        f"{clustering.max_batch_entropy(batches):.3f}",
        f"{before[1]:.1f}",
        f"{model.get_elbo(seed=0):.1f}",
        f"{np.abs(latent - fitted).max():.0e}",
        f"{seconds:.1f}",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument("--threads", type=int, default=None, help="of torch")
    parser.add_argument("--lr", type=float, default=0.02, help="peak learning rate of the query's fit")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    source = read(arguments.data, "sc_mixology")
    print(machine())
    print(f"load average {load_average()}; lr {arguments.lr}\n")
    splits = {}
    for batch in source.obs["batch"].unique():
        is_query = (source.obs["batch"] == batch).to_numpy()
        genes = seurat_v3(source.X[~is_query], 2000)["highly_variable"].to_numpy()
        splits[batch] = source[~is_query, genes].copy(), source[is_query].copy()
    for method in METHODS:
        rows = [mapping(method, *split, arguments.lr) for split in splits.values()]
        print(f"{method}\n{table(HEADER, rows)}\n", flush=True)
    pca = ", ".join(
        f"{batch} {projected(cells, query[:, cells.var_names]):.3f}" for batch, (cells, query) in splits.items()
    )
    print(f"PCA of the reference, kNN15: {pca}")


if __name__ == "__main__":
    main()

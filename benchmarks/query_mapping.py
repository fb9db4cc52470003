"""New batches mapped onto a fitted reference: are the cells at home, and is the reference as it was?

    python benchmarks/query_mapping.py --data FOLDER

sc_mixology, 1021 cells of five cell lines in five batches, and kang_ifnb_labelled, 1556 blood cells of two donors,
stimulated and not, in four samples. Each batch in turn is left out: 2000 genes by the seurat_v3 method on the others
(kang: all 1267), to which the reference is fitted with default options; the batch is mapped with `load_query_data` and
fitted with --lr. kNN15: share of the query's cells for which the 15 nearest cells of the reference vote for their own
label, before training and after; entropy: of the batch among the 50 nearest neighbours of a query cell in all cells
(max is that of the batch proportions); elbo: mean of the query's cells in nats; change: the largest change of a latent
mean of the reference. PCA: 30 components of the reference's log1p counts scaled to the median total; the query is
projected.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from anndata import AnnData
from common import DEFAULT_DATA, load_average, machine, read, table
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from scvi import SCVI, LinearSCVI
from scvi.data.variable_genes import seurat_v3
from scvi.queries import clustering

METHODS = {
    "SCVI, batch encoded": (SCVI, {"encode_covariates": True}),
    "SCVI": (SCVI, {}),
    "LinearSCVI, batch encoded": (LinearSCVI, {"encode_covariates": True}),
}
SETS: dict[str, tuple[str, int | None]] = {"sc_mixology": ("batch", 2000), "kang_ifnb_labelled": ("sample", None)}
HEADER = ("query", "cells", "kNN15 before", "after", "entropy", "max", "elbo before", "after", "change", "seconds")


@dataclass(frozen=True)
class Split:
    """Cells of a reference with the genes that it reads, and a query."""

    cells: AnnData
    query: AnnData
    batch: str  # column of obs

    def votes(self, reference: np.ndarray, query: np.ndarray) -> float:
        """Share of the query that its neighbours in the reference name rightly."""
        vote = KNeighborsClassifier(15).fit(reference, self.cells.obs["cell_type"])
        return float(vote.score(query, self.query.obs["cell_type"]))

    def entropy(self, reference: np.ndarray, query: np.ndarray) -> float:
        """Of the batch about the query's cells."""
        near = clustering.neighbourhood_entropy(np.concatenate([reference, query]), self.batches)
        return float(near[len(reference) :].mean())

    @property
    def batches(self) -> np.ndarray:
        """Of all cells, the reference's first."""
        return np.concatenate([self.cells.obs[self.batch], self.query.obs[self.batch]])


def splits(source: AnnData, batch: str, n_genes: int | None) -> Iterator[Split]:
    """Each batch left out once."""
    for name in source.obs[batch].unique():
        is_query = (source.obs[batch] == name).to_numpy()
        chosen = np.ones(source.n_vars, bool)
        if n_genes is not None:
            chosen = seurat_v3(source.X[~is_query], n_genes)["highly_variable"].to_numpy()
        yield Split(source[~is_query, chosen].copy(), source[is_query].copy(), batch)


def projected(split: Split) -> tuple[object, ...]:
    """The row of a PCA."""

    def logs(adata: AnnData) -> np.ndarray:
        x = sparse.csr_array(adata.X, dtype=np.float64)
        totals = x.sum(axis=1)
        x.data *= np.repeat(median / np.maximum(totals, 1), np.diff(x.indptr))
        return x.log1p().toarray()

    cells, query = split.cells, split.query[:, split.cells.var_names]
    median = float(np.median(np.asarray(cells.X.sum(axis=1))))
    pca = PCA(30, random_state=0).fit(logs(cells))
    latent, mapped = pca.transform(logs(cells)), pca.transform(logs(query))
    votes, entropy = split.votes(latent, mapped), split.entropy(latent, mapped)
    return (*_names(split), f"{votes:.3f}", "", f"{entropy:.3f}", _most(split), "", "", "", "")


def mapped(method: str, split: Split, lr: float) -> tuple[object, ...]:
    """The row of a model."""
    cls, options = METHODS[method]
    cls.setup_anndata(split.cells, batch_key=split.batch)
    reference = cls(split.cells, seed=0, **options)
    reference.train(seed=0, enable_progress_bar=False)
    fitted = reference.get_latent_representation()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*encode_covariates=False")
        model = cls.load_query_data(split.query, reference)
    before, elbo = split.votes(fitted, model.get_latent_representation()), model.get_elbo(seed=0)
    begin = time.perf_counter()
    model.train(lr=lr, seed=0, enable_progress_bar=False)
    seconds = time.perf_counter() - begin
    latents = model.get_latent_representation(split.cells), model.get_latent_representation()
    return (
        *_names(split),
        f"{before:.3f}",
        f"{split.votes(*latents):.3f}",
        f"{split.entropy(*latents):.3f}",
        _most(split),
        f"{elbo:.1f}",
        f"{model.get_elbo(seed=0):.1f}",
        f"{np.abs(latents[0] - fitted).max():.0e}",
        f"{seconds:.1f}",
    )


def _names(split: Split) -> tuple[str, int]:
    return split.query.obs[split.batch].iloc[0], split.query.n_obs


def _most(split: Split) -> str:
    return f"{clustering.max_batch_entropy(split.batches):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS), help="which data")
    parser.add_argument("--threads", type=int, default=None, help="of torch")
    parser.add_argument("--lr", type=float, default=0.02, help="peak learning rate of the query's fit")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(machine())
    print(f"load average {load_average()}; lr {arguments.lr}\n")
    for name in arguments.sets:
        batch, n_genes = SETS[name]
        parts = list(splits(read(arguments.data, name), batch, n_genes))
        print(f"{name}, PCA\n{table(HEADER, [projected(split) for split in parts])}\n", flush=True)
        for method in METHODS:
            rows = [mapped(method, split, arguments.lr) for split in parts]
            print(f"{name}, {method}\n{table(HEADER, rows)}\n", flush=True)


if __name__ == "__main__":
    main()

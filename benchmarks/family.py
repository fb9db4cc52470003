"""Every estimator of one data set, as benchmarks/overfitting.py fits it: what it is set up with, how it is scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from anndata import AnnData

from scvi import AUTOZI, SCANVI, SCVI, TOTALVI, CondSCVI, LinearSCVI

LABELS = {  # columns with a label for every cell
    "lymph_node_scrna": "cell_type",
    "sc_mixology": "cell_type",
    "kang_ifnb_labelled": "cell_type",
    "pbmc3k": "cell_type",
    "zeisel_cortex": "cell_type",
}
UNKNOWN, HIDDEN = "Unknown", 0.9  # the probability that SCANVI is not told a label
TRUTH, TOLD = "truth", "told"
Figures = dict[str, float]


def prepared(adata: AnnData, file: str) -> AnnData:
    """With the columns 'truth' and 'told', where there are labels."""
    if file in LABELS:
        truth = adata.obs[LABELS[file]].astype(str).to_numpy()
        adata.obs[TRUTH] = truth
        adata.obs[TOLD] = np.where(np.random.default_rng(0).random(len(truth)) < HIDDEN, UNKNOWN, truth)
    return adata


def of_counts(estimator: Any) -> Callable[..., Any]:
    def make(adata: AnnData, batch: str | None, seed: int) -> Any:
        estimator.setup_anndata(adata, batch_key=batch)
        return estimator(adata, seed=seed)

    return make


def with_labels(adata: AnnData, batch: str | None, seed: int) -> CondSCVI:
    CondSCVI.setup_anndata(adata, TRUTH, batch_key=batch)
    return CondSCVI(adata, seed=seed)


def told_a_few(adata: AnnData, batch: str | None, seed: int) -> SCANVI:
    SCANVI.setup_anndata(adata, TOLD, UNKNOWN, batch_key=batch)
    return SCANVI(adata, seed=seed)


def after_scvi(adata: AnnData, batch: str | None, seed: int) -> SCANVI:
    """From a default fit of all cells, which does not count in the seconds."""
    first = of_counts(SCVI)(adata, batch, seed)
    first.train(train_size=1.0, seed=seed, enable_progress_bar=False)
    return SCANVI.from_scvi_model(first, UNKNOWN, TOLD, seed=seed)


def with_proteins(adata: AnnData, batch: str | None, seed: int) -> TOTALVI:
    TOTALVI.setup_anndata(adata, "protein_counts", "protein_names", batch_key=batch)
    return TOTALVI(adata, seed=seed)


MAKERS: dict[str, Callable[..., Any]] = {
    **{cls.__name__: of_counts(cls) for cls in (SCVI, LinearSCVI, AUTOZI)},
    "SCANVI": told_a_few,
    "SCANVI after SCVI": after_scvi,
    "CondSCVI": with_labels,
    "TOTALVI": with_proteins,
}


def can_read(model: str, adata: AnnData) -> bool:
    """Whether a set has what a model needs beside counts."""
    if model == "TOTALVI":
        return "protein_counts" in adata.obsm
    return TRUTH in adata.obs or not model.startswith(("SCANVI", "CondSCVI"))


def scores(model: Any, fitted: AnnData, held_out: AnnData) -> Figures:
    """ELBO of held-out cells, the mean of ten draws; of SCANVI, accuracy for the fitted cells that it was not told."""
    if not isinstance(model, SCANVI):
        return {"elbo": _elbo(model, held_out)}
    held_out.obs[TOLD] = UNKNOWN
    hidden = (fitted.obs[TOLD] == UNKNOWN).to_numpy()
    accuracy = float(np.mean(model.predict()[hidden] == fitted.obs[TRUTH].to_numpy()[hidden]))
    return {"elbo": _elbo(model, held_out), "accuracy": accuracy}


def _elbo(model: Any, held_out: AnnData) -> float:
    return float(np.mean([model.get_elbo(held_out, seed=seed) for seed in range(10)]))

"""Differential expression of real cells: what a rank test of the counts finds, stable over seeds, and nothing else."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, spearmanr
from sklearn.metrics import roc_auc_score

import scvi

pytestmark = pytest.mark.slow


@cache
def fitted() -> Any:
    """Five cell lines in five batches, 600 genes."""
    adata = scvi.demo.load()
    variance = adata.X.toarray().var(axis=0)
    adata = adata[:, np.sort(np.argsort(-variance)[:600])].copy()
    scvi.SCVI.setup_anndata(adata, batch_key="batch")
    model = scvi.SCVI(adata, seed=0)
    model.train(max_epochs=30, seed=0, enable_progress_bar=False)
    return model


def lines() -> np.ndarray:
    return fitted().adata.obs["cell_type"].to_numpy()


@pytest.mark.parametrize("weights", ["uniform", "importance"])
@pytest.mark.parametrize("batch_correction", [False, True])
def test_two_cell_lines_differ_where_ranks_differ(weights: Any, batch_correction: bool) -> None:
    model = fitted()
    x = model.adata.X.toarray()
    shares = x / x.sum(axis=1, keepdims=True) * 1e4
    first, second = (shares[lines() == name] for name in ("H1975", "HCC827"))
    differs = mannwhitneyu(first, second, axis=0).pvalue < 1e-8
    table = model.differential_expression(
        groupby="cell_type",
        group1="H1975",
        group2="HCC827",
        batch_correction=batch_correction,
        weights=weights,
        n_samples=5000 if weights == "uniform" else 1000,
        seed=0,
    ).loc[model.adata.var_names]
    assert roc_auc_score(differs, table["lfc_median"].abs()) > 0.88
    assert roc_auc_score(differs, table["proba_de"]) > 0.78
    ratio = np.log2((first.mean(axis=0) + 0.5) / (second.mean(axis=0) + 0.5))
    assert spearmanr(ratio, table["lfc_median"])[0] > 0.9
    called = table["is_de_fdr_0.05"]
    assert called.sum() > 100
    assert (np.sign(ratio[called]) == np.sign(table["lfc_median"][called])).mean() > 0.95


def test_halves_of_a_cell_line_do_not_differ() -> None:
    cells = np.random.default_rng(0).permutation(np.flatnonzero(lines() == "H1975"))
    table = fitted().differential_expression(idx1=cells[::2], idx2=cells[1::2], batch_correction=True, seed=0)
    assert table["is_de_fdr_0.05"].sum() <= 6  # one in a hundred
    assert table["lfc_median"].abs().median() < 0.1


def test_calls_hardly_depend_on_the_seed() -> None:
    calls = []
    for seed in range(3):
        table = fitted().differential_expression(groupby="cell_type", seed=seed)
        called = table[table["is_de_fdr_0.05"]]
        calls.append(set(zip(called["group1"], called.index, strict=True)))
    assert len(set.intersection(*calls)) > 0.95 * len(set.union(*calls))

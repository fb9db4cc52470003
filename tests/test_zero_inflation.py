"""AutoZI finds the genes that lose counts, and leaves alone those that do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anndata import AnnData
from scipy import sparse
from sklearn.metrics import roc_auc_score

import scvi


def simulate(n: int = 1000, g: int = 120, seed: int = 0) -> tuple[AnnData, np.ndarray]:
    """Counts, and the kind of each gene.

    0: Poisson log-normal with 10 to 60 % of the counts lost; 1: Poisson log-normal; 2: negative binomial controls.
    """
    rng = np.random.default_rng(seed)
    kind, state = np.arange(g) % 3, rng.integers(4, size=n)
    log_rate = rng.uniform(0.0, 2.5, g) + rng.normal(0, 0.4, (4, g))[state] + rng.normal(0, 0.3, (n, 1))
    log_rate = log_rate + rng.normal(size=(n, 5)) @ rng.normal(0, 0.3, (5, g))
    theta, sigma = np.exp(rng.uniform(0.5, 2.5, g)), rng.uniform(0.2, 0.5, g)
    log_normal = np.exp(rng.normal(size=(n, g)) * sigma - sigma**2 / 2)
    gamma = rng.gamma(np.broadcast_to(theta, (n, g))) / theta
    counts = rng.poisson(np.exp(log_rate) * np.where(kind == 2, gamma, log_normal))
    counts[(kind == 0) & (rng.random((n, g)) < rng.uniform(0.1, 0.6, g))] = 0
    return AnnData(sparse.csr_matrix(counts.astype(np.float32))), kind


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_inflated_genes_are_found_and_controls_are_not_called(seed: int) -> None:
    adata, kind = simulate(seed=seed)
    scvi.AUTOZI.setup_anndata(adata)
    model = scvi.AUTOZI(adata, seed=seed)
    model.train(seed=seed, enable_progress_bar=False)
    found = model.get_alphas_betas()
    tensors = model.get_alphas_betas(as_numpy=False)
    assert all(torch.equal(tensors[name], torch.from_numpy(values)) for name, values in found.items())
    inflation = found["beta_posterior"] / (found["alpha_posterior"] + found["beta_posterior"])
    assert roc_auc_score(kind == 0, inflation) >= 0.95
    called = model.get_zero_inflation().to_numpy() > 0.5
    np.testing.assert_array_equal(called, found["alpha_posterior"] < found["beta_posterior"])
    assert called[kind == 2].mean() <= 0.05
    assert called[kind == 1].mean() <= 0.05
    assert called[kind == 0].mean() >= 0.85


@pytest.mark.slow
def test_a_gene_may_be_inflated_in_one_batch_only() -> None:
    adata, kind = simulate(n=1600, g=60)
    rng = np.random.default_rng(1)
    second = np.arange(adata.n_obs) >= 800
    counts = adata.X.toarray()
    counts[np.ix_(second, kind == 2)] *= rng.random((800, 20)) > 0.4
    adata.X = sparse.csr_matrix(counts)
    adata.obs["batch"] = np.where(second, "lossy", "clean")
    scvi.AUTOZI.setup_anndata(adata, batch_key="batch")
    model = scvi.AUTOZI(adata, zero_inflation="gene-batch", seed=0)
    model.train(seed=0, enable_progress_bar=False)
    table = model.get_zero_inflation()
    assert table.columns.tolist() == ["clean", "lossy"]
    mean = (table > 0.5)[kind == 2].mean()
    assert mean["lossy"] >= 0.85
    assert mean["clean"] <= 0.1


@pytest.mark.slow
def test_entries_of_their_own() -> None:
    """Zeros of an inflated gene look lost, those of a control less so; a count that was seen was not lost."""
    adata, kind = simulate(n=600, g=60)
    scvi.AUTOZI.setup_anndata(adata)
    model = scvi.AUTOZI(adata, zero_inflation="gene-cell", seed=0)
    model.train(max_epochs=30, seed=0, enable_progress_bar=False)
    table, zero = model.get_zero_inflation(), adata.X.toarray() == 0
    assert table.shape == adata.shape
    values = table.to_numpy()
    assert values[zero].min() > 0.5 > values[~zero].max()
    means = [
        np.mean([values[zero[:, j], j].mean() for j in np.flatnonzero(kind == k) if zero[:, j].any()]) for k in (0, 2)
    ]
    assert means[0] > means[1] + 0.05

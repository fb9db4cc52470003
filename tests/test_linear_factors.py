"""The loadings of LinearSCVI tell which genes belong together: planted factors, and cell types of blood."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse
from scipy.linalg import orthogonal_procrustes
from scipy.stats import hypergeom

import scvi

PBMC = Path(__file__).parent / "sample_data" / "pbmc3k_small.h5ad"
GENE_SETS = {
    "T cells": "CD3D CD3E IL7R LDHB",
    "B cells": "MS4A1 CD79A CD79B CD74",
    "NK cells": "NKG7 GNLY PRF1 GZMB CST7",
    "monocytes": "LYZ S100A8 S100A9 CST3 FTL",
    "FCGR3A+ monocytes": "FCGR3A MS4A7 LST1",
    "megakaryocytes": "PPBP PF4",
}


def planted(n: int = 1500, factors: int = 4, genes_of_each: int = 12, others: int = 52) -> tuple[AnnData, np.ndarray]:
    """Counts of which each factor moves genes of its own, half of them up and half down; its loadings (g, d)."""
    rng = np.random.default_rng(0)
    g = factors * genes_of_each + others
    loadings = np.zeros((g, factors))
    for f in range(factors):
        genes = np.arange(f * genes_of_each, (f + 1) * genes_of_each)
        loadings[genes, f] = np.where(genes % 2, 0.8, -0.8)
    frequency = np.exp(rng.normal(size=(n, factors)) @ loadings.T + rng.normal(0, 0.7, g))
    mean = frequency / frequency.sum(1, keepdims=True) * rng.lognormal(np.log(800), 0.3, (n, 1))
    counts = rng.poisson(rng.gamma(8.0, mean / 8.0))
    return AnnData(sparse.csr_matrix(counts.astype(np.float32))), loadings


@pytest.mark.slow
def test_planted_factors_are_recovered() -> None:
    """Up to a rotation, of which the model knows nothing: its prior of z looks the same from all sides."""
    adata, loadings = planted()
    scvi.LinearSCVI.setup_anndata(adata)
    model = scvi.LinearSCVI(adata, n_latent=loadings.shape[1], seed=0)
    model.train(seed=0, enable_progress_bar=False)
    found = model.get_loadings().to_numpy()
    found, loadings = found - found.mean(0), loadings - loadings.mean(0)
    rotation, _ = orthogonal_procrustes(found, loadings)
    for recovered, true in zip((found @ rotation).T, loadings.T, strict=True):
        assert np.corrcoef(recovered, true)[0, 1] > 0.97


@pytest.mark.slow
def test_cell_types_of_blood_are_factors() -> None:
    """The 30 extreme genes of a factor, on one side, hold the markers of each type (hypergeometric, p < 1e-3)."""
    adata = anndata.read_h5ad(PBMC)
    scvi.LinearSCVI.setup_anndata(adata)
    model = scvi.LinearSCVI(adata, seed=0)
    model.train(seed=0, enable_progress_bar=False)
    loadings = model.get_loadings()
    extremes = [set(side(30, factor).index) for factor in loadings for side in (loadings.nlargest, loadings.nsmallest)]
    for name, listed in GENE_SETS.items():
        markers = set(listed.split())
        assert markers <= set(adata.var_names)
        hits = max(len(genes & markers) for genes in extremes)
        assert hypergeom.sf(hits - 1, adata.n_vars, len(markers), 30) < 1e-3, f"{name}: {hits} of {len(markers)}"

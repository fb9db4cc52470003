from __future__ import annotations

import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from grids import each_of
from scvi.cells import storage as counts_module
from scvi.cells.storage import as_dense
from scvi.data.variable_genes import dispersion_genes
from scvi.dataset import GeneExpressionDataset

N, G = 90, 120
FLAVORS = pytest.mark.parametrize("flavor", ["seurat_v2", "cell_ranger"])
LAYOUTS = pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix, sp.csc_array])


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    """NB counts of genes of many means; genes 0-9 vary most, gene 20 is constant, gene 21 is not expressed."""
    rng = np.random.default_rng(0)
    mean = np.exp(rng.normal(0.5, 1.2, G)) * rng.uniform(0.5, 2, N)[:, None]
    theta = np.where(np.arange(G) < 10, 0.1, 5.0)
    counts = rng.poisson(rng.gamma(theta, mean / theta))
    counts[:, 20], counts[:, 21] = 3, 0
    counts[0, 30] += 1
    return counts


def slow(counts: np.ndarray, flavor: str, n_bins: int = 20) -> np.ndarray:
    """Normalised dispersions, gene by gene and bin by bin."""
    x = counts / counts.sum(axis=1, keepdims=True) * 1e4
    x = np.log1p(x) if flavor == "cell_ranger" else x
    mean, variance = x.mean(axis=0), x.var(axis=0, ddof=1)
    dispersion = np.array([v / m if m > 0 else 0.0 for v, m in zip(variance, mean, strict=True)])
    if flavor == "cell_ranger":
        edges = [-np.inf, *np.percentile(mean, np.linspace(10, 100, n_bins - 1)), np.inf]
    else:
        mean = np.log1p(mean)
        edges = np.linspace(mean.min(), mean.max(), n_bins + 1)
        edges[0] -= 1
        dispersion = np.array([np.log(d) if d > 0 else np.nan for d in dispersion])
    result = np.full(len(mean), np.nan)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        genes = np.flatnonzero((mean > low) & (mean <= high))
        known = dispersion[genes][~np.isnan(dispersion[genes])]
        if flavor == "cell_ranger" and len(genes):
            centre = np.median(known)
            spread = np.median(abs(known - centre)) / 0.6744897501960817
            result[genes] = (dispersion[genes] - centre) / (spread or 1)
        elif len(known) == 1:
            result[genes] = np.where(np.isnan(dispersion[genes]), np.nan, 1.0)
        elif len(known):
            result[genes] = (dispersion[genes] - known.mean()) / known.std(ddof=1)
    return result


@FLAVORS
@LAYOUTS
@each_of(block=[2**24, 1000], n_bins=[20, 7])
def test_equals_the_slow_way(
    counts: np.ndarray, flavor: Any, layout: Callable, block: int, n_bins: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts_module, "_BLOCK_VALUES", block)
    table = dispersion_genes(layout(counts), flavor, 15, n_bins=n_bins)
    expected = slow(counts, flavor, n_bins)
    np.testing.assert_allclose(table["dispersions_norm"], expected, rtol=1e-7, atol=1e-9)
    best = np.argsort(np.where(np.isnan(expected), np.inf, -expected), kind="stable")[:15]
    assert set(np.flatnonzero(table["highly_variable"])) == set(best)
    assert list(table) == ["highly_variable", "means", "dispersions", "dispersions_norm"]


@FLAVORS
@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("n_top_genes", [25, None])
def test_equals_scanpy(counts: np.ndarray, flavor: str, batched: bool, n_top_genes: int | None) -> None:
    batch = np.where(np.arange(N) % 3 == 0, "x", "y")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc = pytest.importorskip("scanpy")
        adata = AnnData(counts.astype(np.float64), obs=pd.DataFrame({"b": batch}, index=np.arange(N).astype(str)))
        sc.pp.normalize_total(adata, target_sum=1e4)
        sc.pp.log1p(adata)
        expected = sc.pp.highly_variable_genes(
            adata,
            flavor={"seurat_v2": "seurat"}.get(flavor, flavor),
            n_top_genes=n_top_genes,
            batch_key="b" if batched else None,
            inplace=False,
        )
    expected.index = expected.index.astype(int)
    expected = expected.sort_index()
    table = dispersion_genes(counts, flavor, n_top_genes, batch if batched else None)  # type: ignore[arg-type]
    for name in table:
        np.testing.assert_allclose(table[name].astype(float), expected[name].astype(float), atol=1e-9, err_msg=name)


@FLAVORS
def test_across_batches(counts: np.ndarray, flavor: Any) -> None:
    batch = np.repeat(["x", "y", "z"], N // 3)
    table = dispersion_genes(counts, flavor, 20, batch)
    assert table["highly_variable"].sum() == 20
    votes = table["highly_variable_nbatches"]
    expected = np.zeros(G, dtype=int)
    for name in "xyz":  # genes without counts in a batch take no part there
        expressed = np.flatnonzero(counts[batch == name].any(axis=0))
        alone = dispersion_genes(counts[batch == name][:, expressed], flavor, 20)
        expected[expressed] += alone["highly_variable"]
    np.testing.assert_array_equal(votes, expected)
    np.testing.assert_array_equal(table["highly_variable_intersection"], votes == 3)
    assert votes[table["highly_variable"]].min() >= votes[~table["highly_variable"]].max()


@FLAVORS
def test_bounds(counts: np.ndarray, flavor: Any) -> None:
    table = dispersion_genes(counts, flavor, min_mean=0.5, max_mean=6, min_disp=0.2, max_disp=2)
    mean, dispersion = table["means"], table["dispersions_norm"]
    expected = (mean > 0.5) & (mean < 6) & (dispersion > 0.2) & (dispersion < 2)
    np.testing.assert_array_equal(table["highly_variable"], expected)
    assert expected.any()


@FLAVORS
@LAYOUTS
def test_odd_counts(flavor: Any, layout: Callable) -> None:
    rng = np.random.default_rng(0)
    for X in (
        np.zeros((4, 5), dtype=int),
        np.full((4, 5), 2),
        np.eye(4, dtype=int),
        rng.poisson(1.0, (2, 1)),
        np.vstack([np.zeros(5, dtype=int), rng.poisson(1.0, (5, 5))]),
    ):
        for batch in (None, np.arange(len(X)) % 2):
            if batch is not None and len(X) < 4:
                continue
            table = dispersion_genes(layout(X), flavor, 2, batch)
            assert table["highly_variable"].sum() == min(2, X.shape[1])
            assert not np.isinf(table.to_numpy(dtype=float)).any()


def test_wrong_arguments(counts: np.ndarray) -> None:
    for arguments, message in (
        ({"flavor": "seurat_v3"}, "flavor='seurat_v3' is not one of 'seurat_v2', 'cell_ranger'"),
        ({"flavor": "seurat_v2", "n_top_genes": 0}, "n_top_genes=0 is not a positive integer"),
        ({"flavor": "seurat_v2", "n_bins": 1}, "n_bins=1 is not an integer of at least 2"),
        ({"flavor": "seurat_v2", "batch": [1]}, "batch has 1 values for 90 cells"),
    ):
        with pytest.raises(ValueError, match=message):
            dispersion_genes(counts, **arguments)
    for value in (-1.0, np.nan, np.inf):
        wrong = counts.astype(float)
        wrong[3, 4] = value
        with pytest.raises(ValueError, match="negative or non-finite values; pass the raw counts"):
            dispersion_genes(sp.csr_matrix(wrong), "cell_ranger", 3)


@LAYOUTS
@pytest.mark.parametrize("mode", ["seurat_v2", "cell_ranger", "seurat_v3"])
def test_each_mode_of_a_data_set(counts: np.ndarray, layout: Callable, mode: str) -> None:
    dataset = GeneExpressionDataset()
    names = [f"g{i}" for i in range(G)]
    batch = np.arange(N) % 2
    dataset.populate_from_data(layout(counts), batch_indices=batch, gene_names=names)
    with_batches = dataset._highly_variable_genes(20, mode)
    without = dataset._highly_variable_genes(20, mode, batch_correction=False)
    further = {"highly_variable_nbatches", "highly_variable_intersection"}
    assert further <= set(with_batches)
    assert not further & set(without)
    assert with_batches.index.tolist() == [str(i) for i in range(G)]
    dataset.subsample_genes(20, mode=mode)
    expected = [name for name, chosen in zip(names, with_batches["highly_variable"], strict=True) if chosen]
    assert dataset.gene_names.tolist() == expected
    assert dataset.nb_genes == 20
    assert sp.issparse(dataset.X) == (layout is not np.asarray)


def test_further_arguments_of_modes(counts: np.ndarray) -> None:
    dataset = GeneExpressionDataset()
    dataset.populate_from_data(counts)
    coarse = dataset._highly_variable_genes(20, "seurat_v2", n_bins=3)
    np.testing.assert_allclose(coarse["dispersions_norm"], slow(counts, "seurat_v2", 3), rtol=1e-7)
    further = {"n_bins": 3, "min_mean": 1.0, "max_mean": 2.0, "min_disp": 0.1, "max_disp": 9.0}
    as_without = dataset._highly_variable_genes(20, "seurat_v3")
    pd.testing.assert_frame_equal(dataset._highly_variable_genes(20, "seurat_v3", **further), as_without)
    for mode in ("variance", "seurat_v3"):
        chosen = [deepcopy(dataset), deepcopy(dataset)]
        for one, arguments in zip(chosen, ({}, further), strict=True):
            one.subsample_genes(20, mode=mode, **arguments)
        assert np.array_equal(*(as_dense(one.X) for one in chosen))
    for mode in ("variance", "seurat_v3", "seurat_v2", "cell_ranger"):
        with pytest.raises(TypeError, match="subsample_genes takes no n_bin; further arguments are n_bins, min_mean"):
            dataset.subsample_genes(20, mode=mode, n_bin=3)
    assert dataset.nb_genes == G
    dataset.subsample_genes(mode="cell_ranger", min_disp=1.0, max_mean=9)
    assert 0 < dataset.nb_genes < G

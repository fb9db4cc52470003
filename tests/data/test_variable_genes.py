from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData

from scvi.cells import storage as counts_module
from scvi.data import variable_genes as module
from scvi.data.variable_genes import population_variance, seurat_v3, seurat_v3_highly_variable_genes

N, G = 120, 150


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    """NB counts in three batches of different depth; genes 0-9 are far more variable, gene 20 is constant."""
    rng = np.random.default_rng(0)
    mean = np.exp(rng.normal(0.5, 1.2, G)) * np.repeat([0.5, 1.0, 2.0], N // 3)[:, None]
    theta = np.full(G, 5.0)
    theta[:10] = 0.1
    counts = rng.poisson(rng.gamma(theta, mean / theta))
    counts[:, 20] = 3
    counts[:, 21] = 0
    return counts


@pytest.fixture(scope="module")
def batch() -> np.ndarray:
    return np.repeat(["x", "y", "z"], N // 3)


def slow(counts: np.ndarray) -> np.ndarray:
    """Normalised variances as the paper has them, gene by gene, from a dense matrix."""
    from skmisc.loess import loess

    n = len(counts)
    mean, variance = counts.mean(axis=0), counts.var(axis=0, ddof=1)
    varies = variance > 0
    fit = loess(np.log10(mean[varies]), np.log10(variance[varies]), span=0.3, degree=2)
    fit.fit()
    sigma = dict(zip(np.flatnonzero(varies), np.sqrt(10**fit.outputs.fitted_values), strict=True))
    result = np.zeros(counts.shape[1])
    for gene, deviation in sigma.items():
        z = (counts[:, gene] - mean[gene]) / deviation
        result[gene] = (np.minimum(z, np.sqrt(n)) ** 2).sum() / (n - 1)
    return result


@pytest.mark.parametrize(
    "layout",
    [np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array, lambda x: x.astype(np.float32)],
)
@pytest.mark.parametrize("block", [2**24, 1000])
def test_equals_the_paper(counts: np.ndarray, layout: Callable, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts_module, "_BLOCK_VALUES", block)
    table = seurat_v3(layout(counts), 30)
    expected = slow(counts)
    np.testing.assert_allclose(table["highly_variable_median_variance"], expected, rtol=1e-8)
    chosen = np.flatnonzero(table["highly_variable"])
    assert set(chosen) == set(np.argsort(-expected)[:30])
    assert set(range(10)) <= set(chosen)
    assert list(table.columns) == [
        "highly_variable",
        "highly_variable_median_rank",
        "highly_variable_median_variance",
    ]


@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix])
def test_across_batches(counts: np.ndarray, batch: np.ndarray, layout: Callable) -> None:
    top = 25
    table = seurat_v3(layout(counts), top, batch)
    variances = np.stack([slow(counts[batch == name]) for name in "xyz"])
    ranks = variances.argsort(axis=1, kind="stable").argsort(axis=1)
    np.testing.assert_allclose(table["highly_variable_median_variance"], np.median(variances, axis=0), rtol=1e-8)
    # Genes whose variances differ by rounding alone may stand in either order, and no others.
    below = (variances[:, None, :] < variances[:, :, None] * (1 - 1e-8)).sum(axis=2)
    upto = (variances[:, None, :] <= variances[:, :, None] * (1 + 1e-8)).sum(axis=2) - 1
    found = table["highly_variable_median_rank"].to_numpy()
    assert (np.median(below, axis=0) <= found).all()
    assert (found <= np.median(upto, axis=0)).all()
    assert (below != upto).mean() < 0.1
    high = ranks >= G - top
    np.testing.assert_array_equal(table["highly_variable_nbatches"], high.sum(axis=0))
    np.testing.assert_array_equal(table["highly_variable_intersection"], high.all(axis=0))
    assert table["highly_variable"].sum() == top
    kept, dropped = table[table["highly_variable"]], table[~table["highly_variable"]]
    worst = kept["highly_variable_nbatches"].min()
    assert worst >= dropped["highly_variable_nbatches"].max()
    tied = kept[kept["highly_variable_nbatches"] == worst]["highly_variable_median_rank"].min()
    assert tied >= dropped[dropped["highly_variable_nbatches"] == worst]["highly_variable_median_rank"].max()


def test_batches_may_be_codes_columns_or_in_any_order(counts: np.ndarray, batch: np.ndarray) -> None:
    expected = seurat_v3(counts, 20, batch)
    order = np.random.default_rng(0).permutation(N)
    codes = pd.factorize(batch)[0]
    for cells, given in (
        (np.arange(N), pd.Categorical(batch)),
        (np.arange(N), codes[:, None]),
        (order, pd.Series(batch[order])),
        (order, batch[order].tolist()),
    ):
        pd.testing.assert_frame_equal(seurat_v3(counts[cells], 20, given), expected)


def test_constant_genes_have_no_variance(counts: np.ndarray, batch: np.ndarray) -> None:
    for table in (seurat_v3(counts, 148), seurat_v3(sp.csr_matrix(counts), 148, batch)):
        assert (table.loc[[20, 21], "highly_variable_median_variance"] == 0).all()
        assert not table.loc[[20, 21], "highly_variable"].any()


def test_clipping_bounds_one_outlier(counts: np.ndarray) -> None:
    outlier = counts.copy()
    gene = int(np.argsort(counts.mean(axis=0))[G // 2])
    outlier[0, gene] = 10**6
    assert seurat_v3(outlier, 10).loc[gene, "highly_variable_median_variance"] < 2 * np.sqrt(N) * N


def test_batches_of_one_cell_are_left_out(counts: np.ndarray, batch: np.ndarray) -> None:
    lone = np.where(np.arange(N) == 3, "alone", batch)
    expected = seurat_v3(np.delete(counts, 3, axis=0), 20, np.delete(batch, 3))
    pd.testing.assert_frame_equal(seurat_v3(counts, 20, lone), expected)


@pytest.mark.parametrize("g", [1, 2, 3, 5, 10, 29, 31])
@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix])
def test_few_genes(counts: np.ndarray, g: int, layout: Callable) -> None:
    table = seurat_v3(layout(counts[:, :g]), max(1, g // 2))
    assert table["highly_variable"].sum() == max(1, g // 2)
    assert np.isfinite(table["highly_variable_median_variance"]).all()


def test_many_genes_of_one_mean() -> None:
    """Shallow counts of few cells: local regression is singular on more than span x genes tied means."""
    rng = np.random.default_rng(0)
    counts = np.zeros((50, 600), dtype=int)
    counts[rng.integers(0, 50, 500), np.arange(500)] = 1  # one count each
    counts[:, 500:590] = rng.poisson(rng.uniform(0.2, 20, 90), (50, 90))
    counts[:, 590:] = rng.negative_binomial(0.2, 0.02, (50, 10))
    table = seurat_v3(counts, 10)
    assert set(np.flatnonzero(table["highly_variable"])) >= set(range(592, 598))
    variance = table["highly_variable_median_variance"].to_numpy()
    assert np.isfinite(variance).all()
    np.testing.assert_allclose(variance[:500], variance[0])  # equal counts, equal variance


@pytest.mark.parametrize("values", [[0, 1], [0, 1, 2], [0, 0, 0, 5]])
def test_few_distinct_means(values: list[int]) -> None:
    counts = np.stack([np.roll(np.resize(values, 40), j) for j in range(100)], axis=1)
    table = seurat_v3(counts, 5)
    assert table["highly_variable"].sum() == 5
    assert np.isfinite(table["highly_variable_median_variance"]).all()


def test_nothing_varies() -> None:
    table = seurat_v3(np.full((5, 4), 2), 2)
    assert (table["highly_variable_median_variance"] == 0).all()
    assert table["highly_variable"].sum() == 2


def test_more_genes_wanted_than_there_are(counts: np.ndarray) -> None:
    assert seurat_v3(counts, 10**6)["highly_variable"].all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_top_genes": 0}, "n_top_genes=0 is not a positive integer"),
        ({"n_top_genes": "5"}, "n_top_genes='5' is not a positive integer"),
        ({"n_top_genes": 2.5}, r"n_top_genes=2\.5"),
        ({"n_top_genes": True}, "n_top_genes=True"),
        ({"n_top_genes": 3, "batch": [1, 2]}, "batch has 2 values for 120 cells"),
        ({"n_top_genes": 3, "batch": np.arange(120)}, "every batch has a single cell"),
    ],
)
def test_wrong_arguments(counts: np.ndarray, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        seurat_v3(counts, **arguments)


def test_wrong_counts(counts: np.ndarray) -> None:
    for layout in (np.asarray, sp.csr_matrix):
        for value, reason in ((np.nan, "non-finite"), (-1, "negative")):
            wrong = counts.astype(np.float32)
            wrong[7, 3] = value
            with pytest.raises(ValueError, match=rf"{reason} value: .* in cell '7', gene '3'.*: pass the raw counts$"):
                seurat_v3(layout(wrong), 3)
        with pytest.raises(ValueError, match=r"non-integer value: .*look normalised.*: pass the raw counts$"):
            seurat_v3(layout(counts / counts.sum(1, keepdims=True)), 3)
        with pytest.warns(UserWarning, match=r"the matrix holds .* no integers.*in cell '\d+', gene '\d+'"):
            estimated = seurat_v3(layout(counts * 0.98), 3)
        assert estimated["highly_variable"].sum() == 3
    with pytest.raises(ValueError, match="two cells or more; there are 1"):
        seurat_v3(counts[:1], 3)


def test_the_input_is_not_changed(counts: np.ndarray, batch: np.ndarray) -> None:
    X = sp.csr_matrix((np.ones(4, dtype=int), [3, 1, 1, 0], [0, 3, 4]), shape=(2, 5))
    seurat_v3(X, 2)
    assert X.indices.tolist() == [3, 1, 1, 0]


def test_the_2020_function_writes_var(counts: np.ndarray, batch: np.ndarray) -> None:
    adata = AnnData(counts, obs=pd.DataFrame({"batch": batch}, index=np.arange(N).astype(str)))
    seurat_v3_highly_variable_genes(adata, n_top_genes=15)
    expected = seurat_v3(counts, 15, batch)
    for name in expected:
        np.testing.assert_array_equal(adata.var[name], expected[name])
    adata = AnnData(counts)
    seurat_v3_highly_variable_genes(adata, 15, batch_key=None)
    assert "highly_variable_nbatches" not in adata.var
    with pytest.raises(ValueError, match=r"batch_key='batch' is not a column of adata\.obs; there are none"):
        seurat_v3_highly_variable_genes(adata)


@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_population_variance(counts: np.ndarray, layout: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts_module, "_BLOCK_VALUES", 1000)
    np.testing.assert_allclose(population_variance(layout(counts)), counts.var(axis=0), atol=1e-12)


def test_the_regression_falls_back_on_fewer_points() -> None:
    x = np.linspace(0, 1, 10)
    np.testing.assert_allclose(module._expected_log_variance(x, 1 + 2 * x - x**2), 1 + 2 * x - x**2)
    np.testing.assert_allclose(module._expected_log_variance(np.zeros(50), np.arange(50.0)), 24.5)
    assert len(module._expected_log_variance(np.empty(0), np.empty(0))) == 0

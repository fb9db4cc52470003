from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from scvi.cells import storage as counts_module
from scvi.data import poisson_gene_selection
from scvi.data import poisson_genes as module
from stores import STORES, stored

SAMPLE = Path(__file__).parents[1] / "sample_data" / "pbmc3k_small.h5ad"


def slow(counts: np.ndarray, batches: np.ndarray, n_top: int) -> pd.DataFrame:
    """The definition, cell by cell and gene by gene, from a dense matrix."""
    g, observed, expected, ranks = counts.shape[1], [], [], []
    for batch in sorted(set(batches)):
        rows = counts[batches == batch].astype(np.float64)
        share = rows.sum(axis=0) / max(rows.sum(), 1)
        observed.append([np.mean(rows[:, gene] == 0) for gene in range(g)])
        expected.append([np.mean([np.exp(-share[gene] * row.sum()) for row in rows]) for gene in range(g)])
        enrichment = np.array(observed[-1]) * (1 - np.array(expected[-1]))
        ranks.append(np.argsort(np.argsort(enrichment, kind="stable")))
    votes = sum((rank >= g - n_top).astype(int) for rank in ranks)
    enrichment = np.array(observed) * (1 - np.array(expected))
    rank = np.median(ranks, axis=0)
    first = sorted(range(g), key=lambda gene: (-votes[gene], -rank[gene], gene))[:n_top]
    return pd.DataFrame(
        {
            "highly_variable": np.isin(np.arange(g), first),
            "observed_fraction_zeros": np.median(observed, axis=0),
            "expected_fraction_zeros": np.median(expected, axis=0),
            "prob_zero_enriched_nbatches": votes,
            "prob_zero_enrichment": np.median(enrichment, axis=0),
            "prob_zero_enrichment_rank": rank,
        }
    )


def draw(seed: int, n: int = 60, g: int = 25) -> np.ndarray:
    """Counts of genes of any spread; gene 3 is never counted, and one cell is empty."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.5, rng.exponential(3.0, g), (n, g)))
    counts[:, 3], counts[1] = 0, 0
    return counts


def cells_of(counts: object, batches: np.ndarray | None = None) -> AnnData:
    adata = AnnData(counts)
    if batches is not None:
        adata.obs["batch"] = batches
    return adata


def assert_same(table: pd.DataFrame, wanted: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(table.reset_index(drop=True), wanted[list(table)], check_dtype=False, rtol=1e-9)


BATCHES = np.array(["b", "a", "c"])[np.arange(60) % 3]


def stored_zeros(counts: np.ndarray) -> sp.csr_matrix:
    """CSR with every zero of the first genes stored, which is no count all the same."""
    matrix = sp.csr_matrix(counts + 1)
    matrix.data -= 1
    return matrix


def repeated(counts: np.ndarray) -> sp.csr_matrix:
    """CSR whose counts are two entries each, to be added."""
    matrix = sp.csr_matrix(counts)
    twice = np.repeat(matrix.data, 2)
    twice[::2] -= 1
    twice[1::2] = 1
    return sp.csr_matrix((twice, np.repeat(matrix.indices, 2), 2 * matrix.indptr), shape=matrix.shape)


@pytest.mark.parametrize(
    "layout",
    [np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array, np.float32, stored_zeros, repeated],
)
@pytest.mark.parametrize("block", [2**24, 300])
def test_every_layout_gives_the_definition(layout: Callable, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts_module, "_BLOCK_VALUES", block)
    monkeypatch.setattr(module, "_VALUES_AT_ONCE", block)
    counts = draw(0)
    given = layout(counts)
    table = poisson_gene_selection(cells_of(given, BATCHES), n_top_genes=6, batch_key="batch", inplace=False)
    assert_same(table, slow(counts, BATCHES, 6))


@pytest.mark.parametrize("store", STORES)
def test_counts_in_files(store: str, tmp_path: Path) -> None:
    counts = draw(1)
    with stored(cells_of(sp.csr_matrix(counts), BATCHES), store, tmp_path) as opened:
        table = poisson_gene_selection(opened, n_top_genes=6, batch_key="batch", inplace=False)
    assert_same(table, slow(counts, BATCHES, 6))


@given(st.integers(0, 2**31), st.integers(1, 60), st.integers(1, 12), st.integers(1, 15), st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_any_counts_and_batches(seed: int, n: int, g: int, n_top: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    counts, batches = rng.poisson(rng.gamma(0.3, 2, (n, g))), rng.integers(0, k, n)
    adata = cells_of(sp.csr_matrix(counts), batches)
    table = poisson_gene_selection(adata, n_top_genes=n_top, batch_key="batch", inplace=False)
    wanted = slow(counts, batches, n_top)
    columns = ["observed_fraction_zeros", "expected_fraction_zeros", "prob_zero_enrichment"]
    np.testing.assert_allclose(table[columns], wanted[columns], rtol=1e-9, atol=1e-12)
    assert table["highly_variable"].sum() == min(n_top, g)


def test_the_probability_is_what_draws_of_zeros_give() -> None:
    table = poisson_gene_selection(cells_of(draw(2)), n_top_genes=6, inplace=False)
    rng, draws = np.random.default_rng(0), 40_000
    first = rng.random((draws, len(table))) < table["observed_fraction_zeros"].to_numpy()
    second = rng.random((draws, len(table))) < table["expected_fraction_zeros"].to_numpy()
    np.testing.assert_allclose((first & ~second).mean(axis=0), table["prob_zero_enrichment"], atol=0.012)


def test_real_counts_give_the_definition_and_markers_of_cell_types() -> None:
    adata = anndata.read_h5ad(SAMPLE)
    table = poisson_gene_selection(adata, n_top_genes=200, inplace=False)
    assert_same(table, slow(adata.X.toarray(), np.zeros(adata.n_obs), 200).drop(columns="prob_zero_enriched_nbatches"))
    first = table.index[table["highly_variable"]]
    assert {"LYZ", "S100A9", "GNLY", "NKG7"} <= set(first)


def test_genes_that_are_on_in_few_cells_come_first() -> None:
    rng = np.random.default_rng(3)
    counts = rng.poisson(5.0, (200, 40))
    counts[:, :5] = rng.poisson(50.0, (200, 5)) * (rng.random((200, 5)) < 0.1)
    table = poisson_gene_selection(cells_of(counts), n_top_genes=5, inplace=False)
    assert list(np.flatnonzero(table["highly_variable"])) == [0, 1, 2, 3, 4]


def test_columns_in_place_of_a_layer() -> None:
    counts = draw(4)
    adata = cells_of(np.log1p(counts))
    adata.layers["counts"] = counts
    assert poisson_gene_selection(adata, "counts", 6, "cpu", "auto") is None
    assert adata.uns["hvg"] == {"flavor": "poisson_zeros"}
    assert_same(adata.var, slow(counts, np.zeros(60), 6).drop(columns="prob_zero_enriched_nbatches"))


def test_subset_keeps_the_chosen_genes() -> None:
    counts = draw(5)
    adata = cells_of(sp.csr_matrix(counts), BATCHES)
    poisson_gene_selection(adata, n_top_genes=6, batch_key="batch", subset=True, silent=True, use_gpu=False, seed=1)
    wanted = slow(counts, BATCHES, 6)
    chosen = wanted["highly_variable"].to_numpy()
    assert adata.shape == (60, 6)
    np.testing.assert_array_equal(adata.X.toarray(), counts[:, chosen])
    assert_same(adata.var, wanted[chosen].reset_index(drop=True))


def test_refusals(tmp_path: Path) -> None:
    adata = cells_of(draw(6), BATCHES)
    with pytest.raises(ValueError, match=r"batch_key='batsch'.*'batch'"):
        poisson_gene_selection(adata, batch_key="batsch")
    with pytest.raises(ValueError, match="n_top_genes=0"):
        poisson_gene_selection(adata, n_top_genes=0)
    with pytest.raises(ValueError, match="negative value"):
        poisson_gene_selection(AnnData(-draw(6)))
    with pytest.raises(ValueError, match="no cells"):
        poisson_gene_selection(adata[:0].copy())
    adata.obs.loc[adata.obs_names[:2], "batch"] = None
    with pytest.raises(ValueError, match="2 cells have no batch"):
        poisson_gene_selection(adata, batch_key="batch")
    with (
        stored(cells_of(sp.csr_matrix(draw(6))), "h5ad", tmp_path) as opened,
        pytest.raises(ValueError, match=r"subset=True .*to_memory"),
    ):
        poisson_gene_selection(opened, subset=True)
    assert list(adata.var) == []
    assert "hvg" not in adata.uns

"""Tests of the counts at the AnnData door: which cells, batches and samples they are of."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData

import scvi
from asking import make
from scvi.cells.count_checks import EstimatedCounts
from scvi.queries.count_sums import CountSums, PoolSums
from scvi.queries.pseudobulk import pseudobulk_test
from scvi.queries.sample_test import sample_test
from scvi.queries.score_test import score_test
from small_cells import QUICK, G, N, make_adata

COLUMNS = ["lfc_data", "p_value", "p_adjusted", "lfc_residual", "p_residual", "p_residual_adjusted"]
GENES = [f"gene{j}" for j in range(G)]


def cells() -> AnnData:
    adata = make_adata()
    adata.obs["mouse"] = np.random.default_rng(3).integers(6, size=N).astype(str)
    adata.obs["half"] = np.where(adata.obs["mouse"].astype(int) < 3, "x", "y")
    return adata


@cache
def fitted(cls: Any = scvi.SCVI) -> Any:
    model = make(cls, cells())
    model.train(**QUICK)
    return model


def ask(adata: AnnData | None = None, cls: Any = scvi.SCVI, **arguments: Any) -> pd.DataFrame:
    arguments = {"groupby": "cell_type", "group1": "t0", "group2": "t1", "n_samples": 5, "seed": 0, **arguments}
    return fitted(cls).differential_expression(adata, **arguments)


def by_hand(units: str | None, groups: str = "cell_type", offsets: np.ndarray | None = None) -> CountSums:
    adata = fitted().adata
    x = adata.X.toarray()
    values = np.unique(adata.obs[groups])
    pools = np.select([adata.obs[groups] == values[0], adata.obs[groups] == values[1]], [0, 1], -1)
    codes = np.zeros(N, dtype=int) if units is None else pd.factorize(adata.obs[units])[0]
    sums = PoolSums(pools, codes)
    sums.add(np.arange(N), x, x.sum(axis=1, keepdims=True) if offsets is None else offsets)
    return sums.of((0,), (1,))[0]


def test_the_columns_are_those_of_the_test_within_batches() -> None:
    table = ask().loc[GENES]
    tested = score_test(by_hand("batch"))
    for name, values in zip(COLUMNS[:3], (tested.lfc, tested.p, tested.p_adjusted), strict=True):
        np.testing.assert_allclose(table[name], values, rtol=1e-3, atol=1e-6)
    assert table["p_adjusted"].min() < 1e-3
    pooled = ask(strata=[]).loc[GENES]
    np.testing.assert_allclose(pooled["p_value"], score_test(by_hand(None)).p, rtol=1e-3, atol=1e-6)
    by_two = ask(strata=["half", "mouse"]).loc[GENES]
    np.testing.assert_allclose(by_two["p_value"], score_test(by_hand("mouse")).p, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(by_two["p_value"], ask(strata="mouse").loc[GENES, "p_value"], rtol=1e-6)


def test_the_residual_is_over_the_expectation_of_each_cell() -> None:
    model = fitted()
    mb = model._minibatches(model._cells.own("answer"), np.arange(N), None)
    with torch.no_grad():
        model.module.eval()
        parts = []
        for part in mb:
            q = model.module.latent(part)
            genes = model.module.generative(q.z.loc, q.mean_size(part), part).genes
            parts.append((genes.rate * (1 - genes.dropout_logits.sigmoid())).numpy())
    tested = score_test(by_hand("batch", offsets=np.concatenate(parts)))
    table = ask().loc[GENES]
    np.testing.assert_allclose(table["lfc_residual"], tested.lfc, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(table["p_residual"], tested.p, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(table["p_residual_adjusted"], tested.p_adjusted, rtol=1e-3, atol=1e-6)


def test_samples_are_the_unit() -> None:
    table = ask(groupby="half", group1="x", group2="y", sample_key="mouse").loc[GENES]
    tested = sample_test(by_hand("mouse", "half"))
    np.testing.assert_allclose(table["p_value"], tested.p, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(table["lfc_data"], tested.lfc, rtol=1e-3, atol=1e-6)
    of_cells = ask(groupby="half", group1="x", group2="y").loc[GENES]
    assert not np.allclose(of_cells["p_value"], table["p_value"])
    with pytest.warns(UserWarning, match="0 vs 1: a group has cells of one sample only"):
        one = ask(groupby="mouse", group1="0", group2="1", sample_key="mouse")
    assert one["p_value"].isna().all()


def test_groups_that_are_batches_are_compared_and_this_is_said() -> None:
    batch = fitted().adata.obs["batch"].to_numpy()
    with pytest.warns(UserWarning, match="one vs two: no batch has cells of both groups"):
        table = ask(groupby=None, group1=None, group2=None, idx1=batch == "b0", idx2=batch == "b1")
    by_name = ask(groupby="batch", group1="b0", group2="b1")  # which says that it is meant
    np.testing.assert_allclose(table.loc[GENES, "p_value"], by_name.loc[GENES, "p_value"])
    assert by_name["p_adjusted"].min() < 0.01
    with pytest.warns(UserWarning, match="one vs Rest: no batch has cells of both groups, and one of them is a single"):
        table = ask(groupby=None, group1=None, group2=None, idx1=batch == "b0")
    by_name = ask(groupby="batch", group1="b0", group2=None)
    np.testing.assert_allclose(table.loc[GENES, "p_value"], by_name.loc[GENES, "p_value"])


def test_a_group_without_cells_of_its_own_is_not_tested_and_this_is_said() -> None:
    cells_of = {"groupby": None, "group1": None, "group2": None}
    for idx2 in (np.arange(N), np.arange(20)):
        with pytest.warns(UserWarning, match="one vs two: all cells of a group are in the other as well"):
            table = ask(**cells_of, idx1=np.arange(20), idx2=idx2)
        assert table["p_value"].isna().all()
        assert table["proba_de"].notna().all()


def test_backed_and_estimated_counts_are_tested(tmp_path: Path) -> None:
    adata = cells()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    pd.testing.assert_frame_equal(ask(backed)[COLUMNS], ask()[COLUMNS])
    backed.file.close()
    adata.X = adata.X * np.float32(0.9)
    with pytest.warns(EstimatedCounts):
        model = make(scvi.SCVI, adata)
    model.train(**QUICK)
    table = model.differential_expression(groupby="cell_type", group1="t0", group2="t1", n_samples=5, seed=0)
    np.testing.assert_allclose(table.loc[GENES, "lfc_data"], ask().loc[GENES, "lfc_data"], atol=0.3)


def test_proteins_are_tested_where_they_were_measured() -> None:
    adata = cells()
    adata.obsm["proteins"].loc[adata.obs["batch"] == "b0", "protein1"] = 0
    model = make(scvi.TOTALVI, adata)
    model.train(**QUICK)
    table = model.differential_expression(groupby="cell_type", group1="t0", group2="t1", n_samples=5, seed=0)
    strong = table.loc["protein0"]
    assert strong["lfc_data"] > 2
    assert strong["p_value"] < 1e-6
    only = model.differential_expression(groupby="batch", group1="b0", n_samples=5, seed=0)
    assert only.loc["protein1", COLUMNS].isna().all()
    assert only.loc["protein0", COLUMNS].notna().all()


def test_what_has_no_counts_or_no_sample_is_refused() -> None:
    model = make(scvi.SCVI, cells())
    model.train(**QUICK)
    model.minify_adata()
    assert not {*COLUMNS} & {*model.differential_expression(groupby="cell_type", n_samples=5, seed=0)}
    with pytest.raises(
        ValueError, match=r"sample_key='mouse' is about tests .* minified, so that their counts are gone"
    ):
        model.differential_expression(groupby="cell_type", sample_key="mouse")
    with pytest.raises(ValueError, match="all_stats=False leaves these out"):
        ask(all_stats=False, strata="half")
    with pytest.raises(ValueError, match="say which with sample_key"):
        ask(pseudobulk=True)
    with pytest.raises(KeyError, match=r"strata='mice' is not a column of adata\.obs; there are 'batch'"):
        ask(strata="mice")
    adata = cells()
    adata.obs["mouse"] = adata.obs["mouse"].where(np.arange(N) > 3)
    with pytest.raises(ValueError, match=r"sample_key='mouse' has no value for .* of the compared cells"):
        ask(adata, sample_key="mouse")


@pytest.mark.filterwarnings("ignore::UserWarning:pydeseq2")
def test_pseudobulk_agrees_with_the_test_of_samples_or_says_what_is_missing() -> None:
    wanted = {"groupby": "half", "group1": "x", "group2": "y", "sample_key": "mouse", "pseudobulk": True}
    if find_spec("pydeseq2") is None:
        with pytest.raises(ImportError, match=r"pip install 'scvi\[pseudobulk\]'"):
            ask(**wanted)
        return
    rng = np.random.default_rng(0)
    change = np.repeat([0.0, 1.5, -1.5], [180, 10, 10])
    mean = rng.uniform(20, 200, 200) * np.exp(rng.normal(0, 0.1, (8, 1, 200)))
    x = rng.poisson(mean * np.exp(np.array([[0.5], [-0.5]]) * change)).astype(float)
    x[:4, 1], x[4:, 0] = 0, 0
    n = (x > 0).any(axis=2, keepdims=True).astype(float)
    sums = CountSums(x, x**2, x, n, n, n)
    tested, table = pseudobulk_test(sums), ask(**wanted)
    assert np.corrcoef(tested.lfc, change / np.log(2))[0, 1] > 0.97
    assert (tested.p_adjusted[180:] < 0.05).all()
    assert (tested.p_adjusted[:180] < 0.05).mean() < 0.05
    assert table["p_pseudobulk"].between(0, 1).any()
    assert np.isnan(pseudobulk_test(CountSums(*(part[3:] for part in (x, x**2, x, n, n, n)))).p).all()

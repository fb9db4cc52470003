"""Differential expression at the AnnData door: who is compared, what the table holds, what is refused."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scvi
from asking import make
from small_cells import QUICK, G, N, make_adata

COLUMNS = [
    *("proba_de", "proba_not_de", "bayes_factor", "scale1", "scale2", "pseudocounts", "delta"),
    *("lfc_mean", "lfc_median", "lfc_std", "lfc_min", "lfc_max", "raw_mean1", "raw_mean2"),
    *("non_zeros_proportion1", "non_zeros_proportion2", "raw_normalized_mean1", "raw_normalized_mean2"),
    *("lfc_data", "p_value", "p_adjusted", "lfc_residual", "p_residual", "p_residual_adjusted"),
    *("is_de_fdr_0.05", "comparison", "group1", "group2"),
]
FIT: dict[str, Any] = {**QUICK, "max_epochs": 60, "plan_kwargs": {"lr": 1e-2}}
GENES = [f"gene{j}" for j in range(G)]


def cells() -> AnnData:
    """With a gene that nobody has and one that only cells of type t2 have."""
    adata = make_adata()
    x = adata.X.toarray()
    x[:, 7] = 0
    x[:, 8] = np.where(adata.obs["cell_type"] == "t2", 3, 0)
    adata.X = x
    return adata


@cache
def fitted(cls: Any = scvi.SCVI) -> Any:
    model = make(cls, cells(), n_hidden=32)
    model.train(**FIT)
    return model


def ask(**arguments: Any) -> pd.DataFrame:
    return fitted().differential_expression(**{"n_samples": 100, "seed": 0, **arguments})


def types() -> np.ndarray:
    return fitted().adata.obs["cell_type"].to_numpy()


def same(first: pd.DataFrame, second: pd.DataFrame) -> None:
    named = ["comparison", "group1", "group2"]
    pd.testing.assert_frame_equal(first.drop(columns=named), second.drop(columns=named))


def test_one_table_of_all_comparisons() -> None:
    table = ask(groupby="cell_type")
    assert table.columns.tolist() == COLUMNS
    assert table["comparison"].unique().tolist() == ["t0 vs Rest", "t1 vs Rest", "t2 vs Rest"]
    for name, part in table.groupby("comparison"):
        assert name == f"{part['group1'].unique().item()} vs {part['group2'].unique().item()}"
        assert sorted(part.index) == sorted(GENES)
        assert part["proba_de"].is_monotonic_decreasing
    np.testing.assert_allclose(table["proba_de"] + table["proba_not_de"], 1)
    x = fitted().adata.X
    first = table[table["group1"] == "t1"].loc[GENES]
    np.testing.assert_allclose(first["raw_mean1"], x[types() == "t1"].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(first["raw_mean2"], x[types() != "t1"].mean(axis=0), rtol=1e-6)
    assert 0 < table["is_de_fdr_0.05"].sum() < len(table)
    strong = table.sort_values("lfc_mean").groupby("comparison").tail(3)
    assert (strong["raw_normalized_mean1"] > strong["raw_normalized_mean2"]).all()  # what the model says is there


def test_genes_without_counts_in_either_group_are_never_called() -> None:
    table = ask(groupby="cell_type", group1="t0", group2="t1", delta=0.0, pseudocounts=0.0, fdr_target=[0.05, 0.9])
    assert table["is_de_fdr_0.9"].sum() == G - 2  # any change is one of at least 0
    assert not table.loc[["gene7", "gene8"], ["is_de_fdr_0.05", "is_de_fdr_0.9"]].any(axis=None)
    assert (table.loc[["gene7", "gene8"], "proba_de"] == 0).all()
    rest = ask(groupby="cell_type", group1="t0", delta=0.0, pseudocounts=0.0)
    assert not rest.loc["gene7", "is_de_fdr_0.05"]
    assert rest.loc["gene8", "is_de_fdr_0.05"]


def test_the_ways_to_name_groups() -> None:
    adata = fitted().adata
    one, two = types() == "t1", types() == "t2"
    table = ask(groupby="cell_type", group1="t1", group2="t2")
    for first, second in (
        (one, two),
        (np.flatnonzero(one), np.flatnonzero(two)),
        (adata.obs_names[one], adata.obs_names[two].tolist()),
        ("cell_type == 't1'", "cell_type == 't2'"),
        (pd.Series(one, adata.obs_names)[::-1], pd.Series(two, adata.obs_names)),
    ):
        found = ask(idx1=first, idx2=second)
        assert found["comparison"].unique().tolist() == ["one vs two"]
        same(found, table)
    rest = ask(idx1=one)
    assert rest["comparison"].unique().tolist() == ["one vs Rest"]
    same(rest, ask(idx1=one, idx2=~one))
    several = ask(groupby="cell_type", group1=["t2", "t0"], group2="t1")
    assert several["comparison"].unique().tolist() == ["t2 vs t1", "t0 vs t1"]
    assert ask(groupby="cell_type", group2="t1")["comparison"].unique().tolist() == ["t0 vs t1", "t2 vs t1"]


def test_cells_without_a_category_are_of_the_rest() -> None:
    adata = cells()
    adata.obs["some"] = pd.Categorical(np.where(types() == "t0", "x", None), categories=["x", "nobody"])
    table = fitted().differential_expression(adata, "some", n_samples=100, seed=0)
    assert table["comparison"].unique().tolist() == ["x vs Rest"]
    same(table, ask(idx1=types() == "t0"))
    with pytest.raises(ValueError, match="no two groups of cells to compare, only 'x'"):
        fitted().differential_expression(adata[types() == "t0"].copy(), "some")


def test_groups_may_be_numbers_and_overlap() -> None:
    adata = cells()
    adata.obs["cluster"] = pd.Categorical(np.arange(N) % 3)
    table = fitted().differential_expression(adata, "cluster", 1, 2, n_samples=20, strata=[], seed=0)
    assert table["comparison"].unique().tolist() == ["1 vs 2"]
    twice = fitted().differential_expression(adata, "cluster", [1, 1], n_samples=20, strata=[], seed=0)
    assert not twice.index.has_duplicates
    table = ask(idx1=np.arange(100), idx2=np.arange(50, 150))
    x = fitted().adata.X
    np.testing.assert_allclose(table.loc[GENES, "raw_mean2"], x[50:].mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize("cls", [scvi.SCVI, scvi.LinearSCVI, scvi.SCANVI, scvi.CondSCVI, scvi.TOTALVI, scvi.AUTOZI])
def test_the_same_seed_gives_the_same_table_whatever_the_minibatches(cls: Any) -> None:
    def found(**arguments: Any) -> pd.DataFrame:
        table = fitted(cls).differential_expression(groupby="cell_type", n_samples=60, **arguments)
        return table.sort_values(["group1", "lfc_mean"])

    first = found(seed=3)
    pd.testing.assert_frame_equal(first, found(seed=3))
    assert not first.equals(found(seed=4))
    if cls is not scvi.TOTALVI:  # the background of proteins is drawn minibatch by minibatch
        pd.testing.assert_frame_equal(
            first.sort_index(kind="stable"), found(seed=3, batch_size=7).sort_index(kind="stable"), rtol=1e-3, atol=0.02
        )


def test_vanilla() -> None:
    table = ask(groupby="cell_type", mode="vanilla", all_stats=False)
    assert table.columns.tolist() == [
        *("proba_m1", "proba_m2", "bayes_factor", "scale1", "scale2", "comparison", "group1", "group2")
    ]
    for _, part in table.groupby("comparison"):
        assert part["bayes_factor"].is_monotonic_decreasing
    assert (table.loc["gene7", "bayes_factor"] == 0).all()


def test_batches_are_taken_out_of_the_comparison() -> None:
    """Batches as groups differ in what the model gives them, and do not when both are decoded in the same batches."""
    batches: dict[str, Any] = {"groupby": "batch", "group1": "b0", "group2": "b1", "n_samples": 2000}
    own, corrected = ask(**batches), ask(**batches, batch_correction=True)
    swapped = ask(**batches, batch_correction=True, batchid1="b1", batchid2=["b0"])
    own_mean, corrected_mean, swapped_mean = (part.loc[GENES, "lfc_mean"] for part in (own, corrected, swapped))
    assert np.abs(corrected_mean).mean() < 0.5 * np.abs(own_mean).mean()
    assert np.corrcoef(own_mean, swapped_mean)[0, 1] < -0.8
    for wrong, message in (
        ({"batchid1": "b0"}, "needs batch_correction=True"),
        ({"batchid1": "b9", "batch_correction": True}, "batchid1='b9' is not a batch"),
        ({"batchid2": [], "batch_correction": True}, "batchid2 is an empty list"),
    ):
        with pytest.raises(ValueError, match=message):
            ask(**batches, **wrong)


def test_what_was_minified_is_asked_without_counts() -> None:
    model = make(scvi.SCVI, cells())
    model.train(**QUICK)
    whole = model.differential_expression(groupby="cell_type", n_samples=50, seed=0, pseudocounts=1e-4)
    model.minify_adata()
    table = model.differential_expression(groupby="cell_type", n_samples=50, seed=0, pseudocounts=1e-4)
    assert not [name for name in table if name.startswith(("raw", "non_zeros"))]
    np.testing.assert_allclose(
        table.sort_values(["group1", "lfc_mean"])["lfc_mean"],
        whole.sort_values(["group1", "lfc_mean"])["lfc_mean"],
        atol=1e-3,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "say which cells are compared: groupby"),
        ({"groupby": "cell_type", "group1": []}, r"group1=\[\] names no category of 'cell_type'"),
        ({"groupby": "kind"}, "groupby='kind' is not a column of adata.obs"),
        ({"groupby": "cell_type", "group1": "t9"}, "group1='t9' is not a category of 'cell_type'"),
        ({"groupby": "cell_type", "group1": "t1", "group2": "t1"}, "not compared with itself"),
        ({"groupby": "cell_type", "idx1": [1]}, "leave groupby"),
        ({"idx2": [1]}, "pass idx1"),
        ({"idx1": []}, "idx1 chooses no cell"),
        ({"idx1": [True] * N}, "idx1 chooses all cells"),
        ({"idx1": [1, N]}, "idx1 holds 150"),
        ({"idx1": ["cell1", "nobody"]}, "not there: 'nobody'"),
        ({"idx1": "cell_type == "}, "no query of adata.obs"),
        ({"idx1": "size + 1"}, "not true or false of each cell"),
        ({"groupby": "cell_type", "mode": "changes"}, "mode='changes' is not one of"),
        ({"groupby": "cell_type", "delta": -1}, "delta=-1 is not"),
        ({"groupby": "cell_type", "pseudocounts": -1}, "pseudocounts=-1 is not"),
        ({"groupby": "cell_type", "n_samples": 0}, "n_samples=0"),
        ({"groupby": "cell_type", "fdr_target": 5}, "fdr_target=5 is not between 0 and 1"),
        ({"groupby": "cell_type", "cred_interval_lvls": [2]}, "has 2, which is not between 0 and 1"),
        ({"groupby": "cell_type", "cred_interval_lvls": [0.9], "mode": "vanilla"}, "ask in mode='change'"),
        ({"groupby": "cell_type", "silent": "no"}, "silent='no'"),
        ({"groupby": "cell_type", "all_stats": 1}, "all_stats=1"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, IndexError), match=message):
        ask(**arguments)


# ---- proteins --------------------------------------------------------------------------------------------------------


@cache
def of_two_panels() -> Any:
    """A protein that the first batch did not measure."""
    adata = cells()
    adata.obsm["proteins"].loc[adata.obs["batch"] == "b0", "protein1"] = 0
    model = make(scvi.TOTALVI, adata, n_hidden=32)
    model.train(**FIT)
    return model


def test_genes_and_proteins_are_in_one_table() -> None:
    model = of_two_panels()
    table = model.differential_expression(groupby="cell_type", n_samples=200, seed=0)
    assert table.columns.tolist() == COLUMNS
    assert len(table) == 3 * (G + 5)
    marker = table[table["group1"] == "t0"].loc["protein0"]
    assert marker["is_de_fdr_0.05"]
    assert marker["lfc_median"] > 1
    measured = model.adata.obs["batch"] != "b0"
    counts = model.adata.obsm["proteins"]["protein1"]
    of_one = table[table["group1"] == "t1"].loc["protein1"]
    assert of_one["raw_mean1"] == pytest.approx(counts[measured & (model.adata.obs["cell_type"] == "t1")].mean())
    assert of_one["is_de_fdr_0.05"]
    only = model.differential_expression(groupby="cell_type", n_samples=20, seed=0, use_field="protein")
    assert sorted(only.index.unique()) == [f"protein{j}" for j in range(5)]
    with pytest.raises(ValueError, match="use_field='atac'"):
        model.differential_expression(groupby="cell_type", use_field="atac")
    with pytest.raises(ValueError, match="protein_prior_count=-1"):
        model.differential_expression(groupby="cell_type", protein_prior_count=-1)


def test_proteins_are_compared_where_they_were_measured() -> None:
    model = of_two_panels()
    table = model.differential_expression(groupby="batch", group1="b0", group2="b1", n_samples=50, seed=0)
    missing = table.loc["protein1"]
    assert missing[["proba_de", "lfc_mean", "scale1", "raw_mean1"]].isna().all()
    assert not missing["is_de_fdr_0.05"]
    assert table.index[-1] == "protein1"
    assert (
        table.drop(index=["protein1", "gene7"]).drop(columns=["comparison", "group1", "group2"]).notna().all(axis=None)
    )
    there = model.differential_expression(
        groupby="batch", group1="b0", group2="b1", n_samples=50, seed=0, batch_correction=True
    )
    assert np.isfinite(there.loc["protein1", "proba_de"])  # decoded in the batches that measured it


def test_options_of_proteins() -> None:
    def scales(**options: Any) -> np.ndarray:
        table = of_two_panels().differential_expression(
            groupby="cell_type", group1="t0", n_samples=400, seed=0, use_field="protein", **options
        )
        return table.loc[[f"protein{j}" for j in range(5)], "scale1"].to_numpy()

    plain = scales()
    np.testing.assert_allclose(scales(protein_prior_count=5.1) - plain, 5, atol=1e-3)
    assert (scales(include_protein_background=True) > plain).all()
    assert scales(scale_protein=True, protein_prior_count=0.0).sum() < 1.5
    np.testing.assert_allclose(scales(sample_protein_mixing=True), plain, rtol=0.5, atol=1.0)


# ---- importance weights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [scvi.SCVI, scvi.SCANVI])
def test_draws_may_be_weighed_by_importance(cls: Any) -> None:
    arguments: dict[str, Any] = {"groupby": "cell_type", "group1": "t0", "group2": "t1", "n_samples": 300, "seed": 0}
    plain = fitted(cls).differential_expression(**arguments).loc[GENES]
    weighed = fitted(cls).differential_expression(**arguments, weights="importance").loc[GENES]
    assert np.corrcoef(plain["lfc_median"], weighed["lfc_median"])[0, 1] > 0.9
    assert not np.allclose(plain["lfc_median"], weighed["lfc_median"])
    again = fitted(cls).differential_expression(**arguments, weights="importance").loc[GENES]
    pd.testing.assert_frame_equal(weighed, again)
    with pytest.raises(ValueError, match="weights='entropy' is not one of"):
        fitted(cls).differential_expression(**arguments, weights="entropy")


def test_cells_that_lie_apart_may_be_left_out() -> None:
    from scvi.estimators.outliers import without_outliers
    from scvi.queries.groups import Comparison, Groups

    model = fitted()
    codes = np.where(types() == "t0", 0, 1)
    codes[:8] = 2  # too few to say which of them lie apart
    groups = Groups(codes, (Comparison("a", "b", (0,), (1, 2)),))
    data, _ = model._choose(None, None)
    kept = without_outliers(model, data, groups, None)
    left_out = (kept.codes < 0) & (codes >= 0)
    assert left_out.sum() == pytest.approx(0.1 * (codes < 2).sum(), abs=2)
    assert not left_out[:8].any()
    z = model.get_latent_representation()
    for pool in (0, 1):
        away = np.linalg.norm((z - np.median(z[codes == pool], axis=0)) / z[codes == pool].std(axis=0), axis=1)
        assert away[left_out & (codes == pool)].mean() > 1.1 * away[codes == pool].mean()
    arguments: dict[str, Any] = {"groupby": "cell_type", "group1": "t0", "n_samples": 300, "seed": 0}
    table = model.differential_expression(**arguments, filter_outlier_cells=True).loc[GENES]
    of_types = Groups(np.array(["t0", "t1", "t2"]).searchsorted(types()), ())
    every = without_outliers(model, data, of_types, None).codes
    np.testing.assert_allclose(table["raw_mean1"], model.adata.X[every == 0].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(table["raw_mean2"], model.adata.X[every > 0].mean(axis=0), rtol=1e-6)
    with pytest.raises(ValueError, match="filter_outlier_cells=1"):
        model.differential_expression(**arguments, filter_outlier_cells=1)

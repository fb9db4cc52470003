"""Differential expression in scanpy's layout, read and plotted by scanpy itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scvi
from scvi.queries.evidence import expected_fdr
from small_cells import make_adata

GENES = [f"gene{j}" for j in range(6)]


def change() -> pd.DataFrame:
    """Two groups against the rest."""
    parts = []
    for group, proba, lfc in (
        ("t0", [1, 0.9, 1, 0.1, 0.5, 0], [2, 3, -4, 0.1, 1, 0]),
        ("t2", [0, 1, 1, 1, 0.2, np.nan], [0, 5, -1, 3, -0.1, np.nan]),
    ):
        columns: dict[str, Any] = {"proba_de": np.array(proba, float), "lfc_median": np.array(lfc, float)}
        parts.append(pd.DataFrame({**columns, "group1": group, "group2": "Rest"}, index=GENES))
    return pd.concat(parts)


def vanilla(group: str) -> pd.DataFrame:
    """A table of 2020."""
    proba = np.array([0.2, 0.99, 0.5, 0.7, 0.4, 0.9])
    columns = {"proba_m1": proba, "bayes_factor": np.log(proba / (1 - proba)), "scale1": proba, "scale2": 0.5}
    return pd.DataFrame({**columns, "clusters": group}, index=GENES)


def written(tables: Any, **options: Any) -> tuple[AnnData, dict[str, Any]]:
    adata = make_adata()
    before = set(adata.uns)
    scvi.rank_genes_groups(adata, tables, "cell_type", **options)
    (key,) = set(adata.uns) - before
    return adata, adata.uns[key]


def test_the_surest_increase_comes_first() -> None:
    _, entry = written(change())
    assert entry["names"].dtype.names == ("t0", "t2")
    assert entry["names"]["t0"].tolist() == ["gene0", "gene1", "gene4", "gene3", "gene5"]  # as many as of t2
    assert entry["names"]["t2"].tolist() == ["gene1", "gene3", "gene0", "gene4", "gene2"]
    np.testing.assert_allclose(entry["scores"]["t2"], [1, 1, 0, -0.2, -1])
    np.testing.assert_allclose(entry["logfoldchanges"]["t2"], [5, 3, 0, -0.1, -1])
    np.testing.assert_allclose(entry["pvals"]["t2"], [0, 0, 1, 0.8, 0])
    fdr = expected_fdr(np.array([1, 1, 0, 0.2, 1.0]))
    np.testing.assert_allclose(entry["pvals_adj"]["t2"], fdr)
    assert entry["params"] == {
        "groupby": "cell_type",
        "reference": "rest",
        "method": "scvi",
        "use_raw": False,
        "layer": None,
        "corr_method": "expected false discovery rate",
    }


def test_p_values_of_the_table_are_kept() -> None:
    table = change()[:6].assign(p_value=np.arange(6) / 10, p_adjusted=np.arange(6) / 6)
    _, entry = written(table, n_genes=2)
    assert entry["pvals"]["t0"].tolist() == [0, 0.1]
    np.testing.assert_allclose(entry["pvals_adj"]["t0"], [0, 1 / 6])


def test_tables_of_2020() -> None:
    _, entry = written([vanilla("t1"), vanilla("t0")], n_genes=3, key_added="mine")
    assert entry["names"].dtype.names == ("t1", "t0")
    assert entry["names"]["t0"].tolist() == ["gene1", "gene5", "gene3"]
    np.testing.assert_allclose(entry["logfoldchanges"]["t0"], np.log2([1.98, 1.8, 1.4]), rtol=1e-6)
    np.testing.assert_allclose(entry["pvals"]["t0"], [0.01, 0.1, 0.3])


def test_what_is_refused() -> None:
    adata = make_adata()
    for tables, groupby, message in (
        (change().assign(group1="t9"), "cell_type", r"groups that are not in adata.obs\['cell_type'\]: 't9'"),
        (change(), "kind", "groupby='kind' is not a column"),
        (change().drop(columns="group1"), "cell_type", "'clusters' is not a column of differential expression"),
        (pd.concat([change(), change()]), "cell_type", "a group with several others"),
    ):
        with pytest.raises(ValueError, match=message):
            scvi.rank_genes_groups(adata, tables, groupby)
    assert not adata.uns
    with pytest.raises(ValueError, match="n_genes=0"):
        scvi.rank_genes_groups(adata, change(), "cell_type", n_genes=0)


@contextmanager
def scanpy() -> Iterator[Any]:
    """scanpy, whose own warnings are no business of ours; no window opens."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import matplotlib

        matplotlib.use("Agg")
        yield pytest.importorskip("scanpy")


@pytest.mark.slow
def test_scanpy_plots_and_reads_it(tmp_path: Any) -> None:
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata)
    model = scvi.SCVI(adata, n_latent=3, seed=0)
    model.train(max_epochs=60, seed=0, enable_progress_bar=False, plan_kwargs={"lr": 1e-2})
    table = model.differential_expression(groupby="cell_type", n_samples=500, seed=0)
    scvi.rank_genes_groups(adata, table, "cell_type")
    with scanpy() as sc:
        frame = sc.get.rank_genes_groups_df(adata, group="t1", key="rank_genes_groups_scvi")
        assert len(frame) == adata.n_vars
        of_t1 = table[table["group1"] == "t1"]
        np.testing.assert_allclose(frame["logfoldchanges"], of_t1.loc[frame["names"], "lfc_median"], rtol=1e-5)
        sure = sc.get.rank_genes_groups_df(adata, "t1", key="rank_genes_groups_scvi", pval_cutoff=0.05)
        assert set(sure["names"]) >= set(of_t1.index[of_t1["is_de_fdr_0.05"]])
        adata.obs["cell_type"] = adata.obs["cell_type"].astype("category")
        sc.pp.log1p(adata)
        adata.X = adata.X.toarray()  # scanpy 1.11 makes no dot plot of sparse counts with the newest scipy
        axes = sc.pl.rank_genes_groups(adata, key="rank_genes_groups_scvi", n_genes=5, show=False)
        texts = [text.get_text() for axis in axes for text in axis.texts]
        expected = adata.uns["rank_genes_groups_scvi"]["names"]
        assert set(texts) >= {expected[group][0] for group in expected.dtype.names}
        dots = sc.pl.rank_genes_groups_dotplot(
            adata, key="rank_genes_groups_scvi", n_genes=3, values_to_plot="logfoldchanges", show=False
        )
        assert dots
        again = adata.copy()
        sc.tl.rank_genes_groups(again, "cell_type", method="wilcoxon")
        theirs, ours = again.uns["rank_genes_groups"], adata.uns["rank_genes_groups_scvi"]
        assert set(ours) == set(theirs)
        assert set(ours["params"]) == set(theirs["params"])
        for name in ("scores", "logfoldchanges", "pvals", "pvals_adj"):
            assert ours[name].dtype == theirs[name].dtype
        agreed = [len(set(ours["names"][g][:5]) & set(theirs["names"][g][:5])) for g in ours["names"].dtype.names]
        assert min(agreed) >= 2  # of five: both find the markers
    adata.write_h5ad(tmp_path / "x.h5ad")

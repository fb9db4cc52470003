from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

import scvi
from scvi.data import synthetic_iid


def test_sizes_names_and_types() -> None:
    adata = synthetic_iid(30, 20, 10, 15, n_batches=3, n_labels=4, generate_coordinates=True, seed=0)
    assert adata.shape == (90, 20)
    assert list(adata.obs["batch"].cat.categories) == ["batch_0", "batch_1", "batch_2"]
    assert set(adata.obs["labels"]) == {f"label_{i}" for i in range(4)}
    assert (adata.obs["batch"].value_counts() == 30).all()
    assert {name: table.shape for name, table in adata.obsm.items()} == {
        "protein_expression": (90, 10),
        "accessibility": (90, 15),
        "coordinates": (90, 2),
    }
    assert len(adata.uns["protein_names"]) == 10
    assert adata.X.dtype == np.float32


def test_counts_have_the_mean_and_the_zeros_that_are_asked_for() -> None:
    adata = synthetic_iid(500, dropout_ratio=0.7, seed=0)
    assert np.mean(adata.X == 0) == pytest.approx(0.7, abs=0.01)
    assert adata.X[adata.X > 0].mean() == pytest.approx(35 / 3, rel=0.02)
    assert adata.obsm["protein_expression"].mean() == pytest.approx(35 / 3, rel=0.02)


@pytest.mark.parametrize("layout", ["csr_matrix", "csc_matrix", "csr_array", "csc_array"])
def test_layouts_hold_the_same_counts(layout: str) -> None:
    adata, dense = (synthetic_iid(10, sparse_format=name, seed=3) for name in (layout, None))
    assert isinstance(adata.X, getattr(sp, layout))
    np.testing.assert_array_equal(adata.X.toarray(), dense.X)
    np.testing.assert_array_equal(adata.obsm["accessibility"].toarray(), dense.obsm["accessibility"])


def test_the_seed_is_that_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scvi.settings, "seed", 5)
    before = np.random.get_state()[1].copy()
    first, again, other = synthetic_iid(10), synthetic_iid(10, seed=5), synthetic_iid(10, seed=6)
    np.testing.assert_array_equal(first.X, again.X)
    assert not np.array_equal(first.X, other.X)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_without_proteins_and_regions() -> None:
    adata = synthetic_iid(10, n_proteins=0, n_regions=0)
    assert not adata.obsm
    assert not adata.uns


def test_a_mudata_holds_the_same() -> None:
    mdata = synthetic_iid(10, return_mudata=True, generate_coordinates=True, seed=1)
    adata = synthetic_iid(10, generate_coordinates=True, seed=1)
    np.testing.assert_array_equal(mdata["rna"].X, adata.X)
    np.testing.assert_array_equal(mdata["protein_expression"].X, adata.obsm["protein_expression"])
    np.testing.assert_array_equal(mdata["accessibility"].X, adata.obsm["accessibility"])
    np.testing.assert_array_equal(mdata.obsm["coordinates"], adata.obsm["coordinates"])
    assert list(mdata.obs["labels"]) == list(adata.obs["labels"])


def test_models_take_it() -> None:
    adata = synthetic_iid(20, sparse_format="csr_matrix", seed=0)
    scvi.TOTALVI.setup_anndata(adata, protein_expression_obsm_key="protein_expression", batch_key="batch")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"n_proteins": -1}, "n_proteins=-1"),
        ({"dropout_ratio": 1.5}, "dropout_ratio=1.5"),
        ({"sparse_format": "coo_matrix"}, "sparse_format='coo_matrix'"),
        ({"return_mudata": "yes"}, "return_mudata='yes'"),
    ],
)
def test_refusals(options: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        synthetic_iid(**options)

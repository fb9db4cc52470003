"""Cells in the codes of a schema, whatever their layout and the order of their genes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData

from grids import each_of
from scvi.dataset import Schema, declare, encode
from small_cells import same_set_up, whole

LAYOUTS = [np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array]


@each_of(layout=LAYOUTS, dtype=["u1", "u2", "i4", "i8", "f4", "f8"])
def test_every_layout_and_dtype_gives_the_same_minibatches(
    make: Callable[..., AnnData], counts: np.ndarray, keys: dict[str, Any], layout: Callable, dtype: str
) -> None:
    adata = make(layout, dtype)
    expected = declare(make(), **keys)
    assert same_set_up(declare(adata, **keys), expected)
    cells = encode(adata, expected.schema)
    indices = np.array([5, 0, 59, 5, 17])
    mb = cells.minibatch(indices)
    np.testing.assert_array_equal(mb.x.numpy(), counts[indices])
    check_columns(mb, adata.obs.iloc[indices], expected.schema)
    assert mb.indices is not None
    assert mb.indices.tolist() == indices.tolist()
    np.testing.assert_array_equal(whole(cells), counts)


def check_columns(mb: Any, obs: pd.DataFrame, schema: Schema) -> None:
    n = len(obs)
    assert mb.x.dtype == torch.float32
    for codes, key in ((mb.batch, "batch"), (mb.labels, "cell_type")):
        assert codes.dtype == torch.int64
        assert codes.shape == (n, 1)
        assert [schema.categories[key][code] for code in codes.ravel()] == [str(value) for value in obs[key]]
    for column, key in enumerate(schema.categorical_covariate_keys):
        names = [schema.categories[key][code] for code in mb.categorical[:, column]]
        assert names == [str(value) for value in obs[key]]
    assert mb.continuous.dtype == mb.l_mean.dtype == mb.l_var.dtype == mb.log_size.dtype == torch.float32
    ((mean, deviation),) = schema.continuous_moments
    np.testing.assert_allclose(mb.continuous.numpy(), (obs[["age"]] - mean) / deviation, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mb.log_size.numpy().ravel(), np.log(obs["size"] * schema.size_factor_scale), rtol=1e-5)
    prior = np.array(schema.library_prior)[mb.batch.ravel().numpy()]
    np.testing.assert_allclose(torch.cat([mb.l_mean, mb.l_var], dim=1).numpy(), prior, rtol=1e-6)


def test_without_keys_there_is_one_batch_and_one_label(adata: AnnData) -> None:
    schema, *_ = declare(adata)
    mb = encode(adata, schema).minibatch(np.arange(4))
    assert (schema.n_batch, schema.n_labels) == (1, 1)
    assert not mb.batch.any()
    assert not mb.labels.any()
    assert mb.log_size is mb.continuous is mb.categorical is None


def test_the_counts_are_shared(make: Callable[..., AnnData]) -> None:
    for layout in (np.asarray, sp.csr_matrix):
        adata = make(layout)
        cells = encode(adata, declare(adata)[0])
        stored, given = (x if isinstance(x, np.ndarray) else x.data for x in (cells.counts, adata.X))
        assert np.shares_memory(stored, given)
        assert cells.columns is None


def test_a_layer(adata: AnnData, counts: np.ndarray) -> None:
    adata.layers["counts"] = sp.csr_matrix(counts)
    adata.X = np.log1p(counts)
    schema, *_ = declare(adata, layer="counts")
    np.testing.assert_array_equal(whole(encode(adata, schema)), counts)
    adata.X = None
    np.testing.assert_array_equal(whole(encode(adata, schema)), counts)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_view(make: Callable[..., AnnData], counts: np.ndarray, layout: Callable) -> None:
    rows = np.array([7, 3, 40, 12, 3])
    view = make(layout)[rows[:4], 2:9]
    cells = encode(view, declare(view, batch_key="batch")[0])
    np.testing.assert_array_equal(whole(cells), counts[rows[:4], 2:9])
    assert view.is_view  # as it was


def test_unsorted_sparse_indices(adata: AnnData, counts: np.ndarray) -> None:
    X = sp.csr_matrix(counts)
    for i in range(X.shape[0]):
        part = slice(X.indptr[i], X.indptr[i + 1])
        X.indices[part], X.data[part] = X.indices[part][::-1].copy(), X.data[part][::-1].copy()
    X.has_sorted_indices = False
    before = X.indices.copy()
    expected = declare(adata)
    adata.X = X
    assert same_set_up(declare(adata), expected)
    np.testing.assert_array_equal(whole(encode(adata, expected[0])), counts)
    np.testing.assert_array_equal(adata.X.indices, before)


@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_backed(
    make: Callable[..., AnnData], counts: np.ndarray, keys: dict[str, Any], tmp_path: Path, layout: Callable
) -> None:
    path = tmp_path / "x.h5ad"
    make(layout).write_h5ad(path)
    adata = anndata.read_h5ad(path, backed="r")
    expected = declare(make(layout), **keys)
    assert same_set_up(declare(adata, **keys), expected)
    cells = encode(adata, expected.schema)
    assert (layout is sp.csc_matrix) == isinstance(cells.counts, sp.csr_matrix)  # else it stays on disk
    for indices in ([9, 2, 2, 58, 0], [3, 4, 5, 6], [41], []):
        mb = cells.minibatch(np.array(indices, dtype=np.int64))
        np.testing.assert_array_equal(mb.x.numpy(), counts[indices])
        check_columns(mb, adata.obs.iloc[indices], expected.schema)
    np.testing.assert_array_equal(whole(cells), counts)
    part = adata[5:20, 2:9]
    np.testing.assert_array_equal(whole(encode(part, declare(part)[0])), counts[5:20, 2:9])
    adata.file.close()


def test_genes_are_found_by_name_in_any_order(adata: AnnData, counts: np.ndarray) -> None:
    schema, *_ = declare(adata)
    order = np.random.default_rng(0).permutation(adata.n_vars)
    more = anndata.concat(
        [adata[:, order], AnnData(np.ones((adata.n_obs, 2)), var=pd.DataFrame(index=["x", "y"]), obs=adata.obs[[]])],
        axis=1,
    )
    for query in (adata[:, order], more, more[:, ::-1].copy()):
        for layout in (np.asarray, sp.csr_matrix):
            query = AnnData(layout(np.asarray(query.X)), obs=query.obs, var=query.var)
            cells = encode(query, schema)
            np.testing.assert_array_equal(whole(cells), counts)
            assert cells.gene_names.tolist() == adata.var_names.tolist()
            np.testing.assert_array_equal(cells.totals(), counts.sum(axis=1))
            np.testing.assert_allclose(cells.moments()[:2], (counts.mean(axis=0), counts.var(axis=0)))


def test_missing_genes_are_counted_and_named(adata: AnnData) -> None:
    schema, *_ = declare(adata)
    with pytest.raises(ValueError, match="adata lacks 2 of the 12 genes that the model reads: 'gene0', 'gene1'"):
        encode(adata[:, 2:], schema)


def test_repeated_gene_names_are_refused(adata: AnnData) -> None:
    schema, *_ = declare(adata)
    adata.var_names = ["a", "a", *adata.var_names[2:]]
    for call in (lambda: declare(adata), lambda: encode(adata, schema)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # anndata's own
            with pytest.raises(
                ValueError, match=r"1 names that occur more than once: 'a'\. Call adata\.var_names_make_un"
            ):
                call()


@pytest.mark.parametrize("change", ["unknown", "NaN", "no column"])
def test_labels_are_read_only_where_they_are_needed(adata: AnnData, change: str) -> None:
    schema, *_ = declare(adata, labels_key="cell_type")
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(object)
    if change == "no column":
        del adata.obs["cell_type"]
    else:
        adata.obs.loc["cell7", "cell_type"] = 9 if change == "unknown" else np.nan
    assert encode(adata, schema, labels=False).labels.tolist() == [0] * 60
    with pytest.raises(ValueError, match="labels_key"):
        encode(adata, schema)
    if change != "unknown":
        with pytest.raises(ValueError, match="labels_key"):
            declare(adata, labels_key="cell_type")


def test_covariates_are_standardised_by_the_cells_of_the_setup(adata: AnnData) -> None:
    adata.obs["depth"] = adata.obs["age"] * 1e6
    adata.obs["constant"] = np.float32(0.1)
    adata.obs["late"] = 1.7e9 + adata.obs["size"]
    adata.obs["flag"] = np.arange(60) % 2 == 0
    keys = ["depth", "constant", "late", "flag"]
    schema, *_ = declare(adata, continuous_covariate_keys=keys)
    continuous = encode(adata, schema).continuous
    assert continuous.dtype == np.float32
    np.testing.assert_allclose(continuous.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(continuous.std(0), [1, 0, 1, 1], atol=1e-4)
    assert schema.continuous_moments[1][1] == 1.0
    some = encode(adata[7:9].copy(), schema)
    np.testing.assert_array_equal(some.continuous, continuous[7:9])

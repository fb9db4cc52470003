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

from scvi.cells import cell_data as module
from scvi.dataset import CellData, Schema, declare, draw_minibatches, encode

LAYOUTS = [np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array]


def whole(cells: CellData) -> np.ndarray:
    return torch.cat([mb.x for mb in cells.minibatches(batch_size=7)]).numpy()


# declare and encode


def test_the_schema_says_what_is_read(adata: AnnData, counts: np.ndarray, keys: dict[str, Any]) -> None:
    schema, _ = declare(adata, **keys)
    assert schema.genes == tuple(adata.var_names)
    assert schema.categories == {
        "batch": ("a", "b", "c"),  # sorted
        "cell_type": ("1", "0"),  # in the order of the categories, those that occur
        "donor": ("0", "1", "2", "3"),
        "treated": ("False", "True"),
    }
    assert (schema.n_batch, schema.n_labels, schema.n_continuous, schema.n_cats_per_cov) == (3, 2, 1, (4, 2))
    logs = np.log(counts.sum(axis=1))
    for name, (mean, variance) in zip(schema.batch_names, schema.library_prior, strict=True):
        cells = adata.obs["batch"] == name
        np.testing.assert_allclose((mean, variance), (logs[cells].mean(), logs[cells].var()))
    age = adata.obs["age"]
    np.testing.assert_allclose(schema.continuous_moments, [(age.mean(), age.std(ddof=0))])
    assert Schema.from_json(schema.to_json()) == schema


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "i8", "f4", "f8"])
def test_every_layout_and_dtype_gives_the_same_minibatches(
    make: Callable[..., AnnData], counts: np.ndarray, keys: dict[str, Any], layout: Callable, dtype: str
) -> None:
    adata = make(layout, dtype)
    expected, mark = declare(make(), **keys)
    assert declare(adata, **keys) == (expected, mark)
    cells = encode(adata, expected)
    indices = np.array([5, 0, 59, 5, 17])
    mb = cells.minibatch(indices)
    np.testing.assert_array_equal(mb.x.numpy(), counts[indices])
    check_columns(mb, adata.obs.iloc[indices], expected)
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
    schema, _ = declare(adata)
    mb = encode(adata, schema).minibatch(np.arange(4))
    assert (schema.n_batch, schema.n_labels) == (1, 1)
    assert not mb.batch.any()
    assert not mb.labels.any()
    assert mb.log_size is mb.continuous is mb.categorical is None


def test_size_factors_are_scaled_to_the_mean_total(adata: AnnData, counts: np.ndarray) -> None:
    schema, _ = declare(adata, size_factor_key="size")
    log_size = encode(adata, schema).log_size
    assert log_size is not None
    np.testing.assert_allclose(np.exp(log_size).mean(), counts.sum(axis=1).mean(), rtol=1e-5)
    part = encode(adata[:3].copy(), schema).log_size  # the scale is that of the schema, not of the query
    np.testing.assert_array_equal(part, log_size[:3])


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
    schema, _ = declare(adata, layer="counts")
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
    assert declare(adata) == expected
    np.testing.assert_array_equal(whole(encode(adata, expected[0])), counts)
    np.testing.assert_array_equal(adata.X.indices, before)


@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_backed(
    make: Callable[..., AnnData], counts: np.ndarray, keys: dict[str, Any], tmp_path: Path, layout: Callable
) -> None:
    path = tmp_path / "x.h5ad"
    make(layout).write_h5ad(path)
    adata = anndata.read_h5ad(path, backed="r")
    expected, mark = declare(make(layout), **keys)
    assert declare(adata, **keys) == (expected, mark)
    cells = encode(adata, expected)
    assert (layout is sp.csc_matrix) == isinstance(cells.counts, sp.csr_matrix)  # else it stays on disk
    for indices in ([9, 2, 2, 58, 0], [3, 4, 5, 6], [41], []):
        mb = cells.minibatch(np.array(indices, dtype=np.int64))
        np.testing.assert_array_equal(mb.x.numpy(), counts[indices])
        check_columns(mb, adata.obs.iloc[indices], expected)
    np.testing.assert_array_equal(whole(cells), counts)
    part = adata[5:20, 2:9]
    np.testing.assert_array_equal(whole(encode(part, declare(part)[0])), counts[5:20, 2:9])
    adata.file.close()


# genes


def test_genes_are_found_by_name_in_any_order(adata: AnnData, counts: np.ndarray) -> None:
    schema, _ = declare(adata)
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
            np.testing.assert_allclose(cells.gene_moments(), (counts.mean(axis=0), counts.var(axis=0)))


@pytest.mark.parametrize("how", ["column", "names", "array", "list", "series", "shuffled series"])
def test_mask_var(adata: AnnData, counts: np.ndarray, how: str) -> None:
    chosen = adata.var["chosen"]
    mask: Any = {
        "column": "chosen",
        "names": adata.var_names[chosen][::-1].tolist(),
        "array": chosen.to_numpy(),
        "list": chosen.tolist(),
        "series": chosen,
        "shuffled series": chosen.sample(frac=1.0, random_state=0),
    }[how]
    schema, mark = declare(adata, mask_var=mask)
    assert schema.genes == tuple(adata.var_names[chosen])
    assert schema.mask_var == ("chosen" if how == "column" else None)
    assert mark == declare(adata)[1]
    cells = encode(adata, schema)
    np.testing.assert_array_equal(whole(cells), counts[:, chosen])
    np.testing.assert_array_equal(cells.totals([3, 1]), counts[[3, 1]][:, chosen].sum(axis=1))
    np.testing.assert_allclose(np.exp(schema.library_prior[0][0]), np.exp(np.log(counts[:, chosen].sum(1)).mean()))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("chosn", "mask_var='chosn' is not a column of adata.var; did you mean 'chosen'"),
        ("score", "must be True or False for each gene; it holds float64"),
        (["gene1", "gene1", "gene2"], "'gene1' more than once"),
        (["gene1", "Gene2"], "1 genes that adata lacks: 'Gene2'; did you mean 'gene2'"),
        (np.ones(3, dtype=bool), r"shape \(3,\); a mask has one value for each of 12 genes"),
        (["gene1"], "1 of the 12 genes of adata would be read; a model reads two or more"),
        ([], "0 of the 12 genes"),
        (np.zeros(12, dtype=bool), "0 of the 12 genes"),
    ],
)
def test_wrong_masks(adata: AnnData, mask: Any, message: str) -> None:
    adata.var["score"] = 0.5
    with pytest.raises(ValueError, match=message):
        declare(adata, mask_var=mask)


def test_missing_genes_are_counted_and_named(adata: AnnData) -> None:
    schema, _ = declare(adata)
    with pytest.raises(ValueError, match="adata lacks 2 of the 12 genes that the model reads: 'gene0', 'gene1'"):
        encode(adata[:, 2:], schema)


def test_repeated_gene_names_are_refused(adata: AnnData) -> None:
    schema, _ = declare(adata)
    adata.var_names = ["a", "a", *adata.var_names[2:]]
    for call in (lambda: declare(adata), lambda: encode(adata, schema)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # anndata's own
            with pytest.raises(
                ValueError, match=r"1 names that occur more than once: 'a'\. Call adata\.var_names_make_un"
            ):
                call()


# bad counts


@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize(
    ("value", "reason"), [(np.nan, "non-finite"), (np.inf, "non-finite"), (-2.0, "negative"), (0.5, "non-integer")]
)
@pytest.mark.parametrize("where", [(0, 0), (31, 7), (59, 11)])
def test_one_bad_value_is_found_and_named(
    make: Callable[..., AnnData], layout: Callable, value: float, reason: str, where: tuple[int, int]
) -> None:
    clean = make()
    schema, _ = declare(clean)
    X = np.asarray(clean.X).copy()
    X[where] = value
    adata = make()
    adata.X = layout(X)
    message = rf"adata\.X holds a {reason} value: {value} in cell 'cell{where[0]}', gene 'gene{where[1]}'.*raw counts"
    for call in (lambda: declare(adata), lambda: encode(adata, schema)):
        with pytest.raises(ValueError, match=message):
            call()
    encode(adata, schema, validate=False)


def test_the_message_names_the_layer_and_the_remedy(adata: AnnData) -> None:
    adata.layers["raw"] = adata.X.copy()
    adata.X = np.log1p(adata.X)
    with pytest.raises(ValueError, match=r"adata\.X holds.*pass layer='...' \(there are 'raw'\)"):
        declare(adata)
    declare(adata, layer="raw")
    adata.layers["raw"] = adata.X
    with pytest.raises(
        ValueError, match=r"adata\.layers\['raw'\] holds.*keep them in adata\.layers\['counts'\] before"
    ):
        declare(adata, layer="raw")


def test_a_bad_value_on_disk(make: Callable[..., AnnData], tmp_path: Path) -> None:
    adata = make(sp.csr_matrix)
    adata.X.data[-1] = 0.25
    adata.write_h5ad(tmp_path / "x.h5ad")
    backed = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    with pytest.raises(ValueError, match=r"0\.25 in cell 'cell59'"):
        declare(backed)
    backed.file.close()


def test_large_counts(adata: AnnData) -> None:
    adata.X[3, 4] = 1e6
    assert encode(adata, declare(adata)[0]).minibatch(np.array([3])).x[0, 4] == 1e6


def test_empty_cells_give_one_warning(adata: AnnData) -> None:
    adata.X[[4, 9]] = 0
    adata.X[:, 5] = 0  # an empty gene gives none
    with pytest.warns(UserWarning, match=r"2 of 60 cells have no count .*\('cell4', 'cell9'\)") as caught:
        schema, _ = declare(adata, batch_key="batch")
    assert len(caught) == 1
    assert np.isfinite(schema.library_prior).all()
    cells = encode(adata, schema, validate=False)
    totals = adata.X.sum(axis=1)
    batch_a = (adata.obs["batch"] == "a").to_numpy() & (totals > 0)
    np.testing.assert_allclose(schema.library_prior[0][0], np.log(totals[batch_a]).mean())
    assert whole(cells)[[4, 9]].sum() == 0


def test_a_batch_of_empty_cells_gets_the_prior_of_all(adata: AnnData, counts: np.ndarray) -> None:
    empty = (adata.obs["batch"] == "b").to_numpy()
    adata.X[empty] = 0
    with pytest.warns(UserWarning, match="20 of 60 cells .* and 15 more"):
        schema, _ = declare(adata, batch_key="batch")
    logs = np.log(counts[~empty].sum(axis=1))
    np.testing.assert_allclose(schema.library_prior[1], (logs.mean(), logs.var()))


def test_the_prior_variance_is_floored(adata: AnnData) -> None:
    adata.X[:] = 2
    schema, _ = declare(adata)
    assert schema.library_prior[0][1] == module.VARIANCE_FLOOR > 0
    assert encode(adata, schema).l_var.min() > 0


def test_nothing_but_zeros_is_refused(adata: AnnData) -> None:
    adata.X[:] = 0
    with pytest.raises(ValueError, match=r"every count of adata\.X is zero"):
        declare(adata)


# sizes and types


def test_too_few_cells_or_genes(adata: AnnData) -> None:
    schema, _ = declare(adata)
    with pytest.raises(ValueError, match="adata has 1 cells; a model is fitted to two or more"):
        declare(adata[:1])
    with pytest.raises(ValueError, match="1 of the 1 genes"):
        declare(adata[:, :1])
    with pytest.raises(ValueError, match="adata has no cells"):
        encode(adata[:0], schema)
    assert len(encode(adata[:1], schema)) == 1


@pytest.mark.parametrize("wrong", [None, "file.h5ad", np.ones((3, 3)), pd.DataFrame()])
def test_what_is_no_anndata(wrong: Any) -> None:
    for call in (lambda: declare(wrong), lambda: encode(wrong, Schema())):
        with pytest.raises(TypeError, match=f"adata is a {type(wrong).__name__}; pass an anndata.AnnData"):
            call()


def test_no_counts(adata: AnnData) -> None:
    adata.layers["c"] = adata.X
    adata.X = None
    with pytest.raises(ValueError, match=r"adata\.X is None; pass layer='...' \(there are 'c'\)"):
        declare(adata)


# keys and categories


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_key": "batsch"}, "batch_key='batsch' is not a column of adata.obs; did you mean 'batch'"),
        ({"labels_key": "CellType"}, "labels_key='CellType' .* did you mean 'cell_type'"),
        ({"labels_key": "zzz"}, "there are 'batch', 'donor', 'cell_type'"),
        ({"size_factor_key": "sizes"}, "size_factor_key='sizes' .* did you mean 'size'"),
        ({"batch_key": ["batch"]}, r"batch_key=\['batch'\] is not the name of a column of adata\.obs, a string"),
        ({"labels_key": 3}, "labels_key=3 is not the name"),
        ({"layer": ["counts"]}, r"layer=\['counts'\] is not the name of a layer, a string"),
        ({"categorical_covariate_keys": [["donor"]]}, r"categorical_covariate_keys=\['donor'\] is not the name"),
        ({"continuous_covariate_keys": 3}, "continuous_covariate_keys=3 is not a list of columns"),
        ({"layer": "count"}, "layer='count' is not in adata.layers; did you mean 'counts'"),
        ({"categorical_covariate_keys": ["donors"]}, "categorical_covariate_keys='donors' .* 'donor'"),
        ({"continuous_covariate_keys": ["agee"]}, "continuous_covariate_keys='agee' .* 'age'"),
        ({"categorical_covariate_keys": "donor"}, r"is a string; pass a list: \['donor'\]"),
        ({"continuous_covariate_keys": ["age", "age"]}, "names 'age' more than once"),
        ({"continuous_covariate_keys": ["batch"]}, r"values, not numbers; convert .*categorical_covariate_keys"),
        ({"continuous_covariate_keys": ["cell_type"]}, "category values, not numbers"),
        ({"size_factor_key": "batch"}, r"values, not numbers; convert it with pandas\.to_numeric$"),
    ],
)
def test_wrong_keys(adata: AnnData, arguments: dict[str, Any], message: str) -> None:
    adata.layers["counts"] = adata.X
    with pytest.raises(ValueError, match=message):
        declare(adata, **arguments)


@pytest.mark.parametrize("argument", ["batch_key", "labels_key", "categorical_covariate_keys"])
@pytest.mark.parametrize("categorical", [False, True])
def test_missing_categories_are_refused(adata: AnnData, argument: str, categorical: bool) -> None:
    schema, _ = declare(adata, **{argument: ["batch"] if argument.endswith("keys") else "batch"})
    adata.obs.loc[["cell3", "cell8"], "batch"] = None
    if categorical:
        adata.obs["batch"] = adata.obs["batch"].astype("category")
    message = rf"{argument}: adata.obs\['batch'\] is missing \(NaN\) in 2 cells: 'cell3', 'cell8'"
    for call in (
        lambda: declare(adata, **{argument: ["batch"] if argument.endswith("keys") else "batch"}),
        lambda: encode(adata, schema),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("key", ["batch", "donor", "cell_type", "treated"])
def test_unknown_categories_are_refused_by_name(adata: AnnData, key: str) -> None:
    schema, _ = declare(adata, batch_key=key)
    adata.obs[key] = adata.obs[key].astype(object)
    adata.obs.loc[["cell1", "cell2"], key] = "B"
    with pytest.raises(ValueError, match=rf"batch_key='{key}' holds categories .* never seen: 'B' \(2 cells\); "):
        encode(adata, schema)


def test_the_nearest_category_is_suggested(adata: AnnData) -> None:
    adata.obs["batch"] = "plate " + adata.obs["batch"].astype(str)
    schema, _ = declare(adata, batch_key="batch")
    adata.obs["batch"] = adata.obs["batch"].str.replace("plate a", "Plate_a")
    with pytest.raises(ValueError, match="did you mean 'plate a'"):
        encode(adata, schema)


def test_codes_do_not_depend_on_the_query(adata: AnnData) -> None:
    schema, _ = declare(adata, batch_key="batch")
    query = adata[adata.obs["batch"] == "c"].copy()
    query.obs["batch"] = pd.Categorical(query.obs["batch"], categories=["c", "zzz"])
    assert set(encode(query, schema).batch) == {2}


def test_categories_of_any_type(adata: AnnData) -> None:
    adata.obs["mixed"] = pd.Series(([1, "b", 2.5] * 20), index=adata.obs_names, dtype=object)
    adata.obs["nullable"] = pd.array([2, 1] * 30, dtype="Int64")
    schema, _ = declare(adata, batch_key="mixed", labels_key="nullable")
    assert schema.batch_names == ("1", "2.5", "b")
    assert schema.label_names == ("1", "2")
    assert encode(adata, schema).labels.tolist() == [1, 0] * 30


@pytest.mark.parametrize(("first", "second"), [(1, "1"), (True, "True"), (2.5, "2.5")])
@pytest.mark.parametrize("categorical", [False, True])
def test_categories_of_one_name_are_refused(adata: AnnData, first: Any, second: str, categorical: bool) -> None:
    adata.obs["mixed"] = pd.Series([first, second, "b"] * 20, index=adata.obs_names, dtype=object)
    if categorical:
        adata.obs["mixed"] = adata.obs["mixed"].astype("category")
    both = {f"{value!r} ({type(value).__name__})" for value in (first, second)}
    with pytest.raises(ValueError, match=r"batch_key: adata.obs\['mixed'\] holds .* which have one name") as caught:
        declare(adata, batch_key="mixed")
    assert all(value in str(caught.value) for value in both)


@pytest.mark.parametrize("change", ["unknown", "NaN", "no column"])
def test_labels_are_read_only_where_they_are_needed(adata: AnnData, change: str) -> None:
    schema, _ = declare(adata, labels_key="cell_type")
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
    schema, _ = declare(adata, continuous_covariate_keys=keys)
    continuous = encode(adata, schema).continuous
    assert continuous.dtype == np.float32
    np.testing.assert_allclose(continuous.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(continuous.std(0), [1, 0, 1, 1], atol=1e-4)
    assert schema.continuous_moments[1][1] == 1.0
    some = encode(adata[7:9].copy(), schema)
    np.testing.assert_array_equal(some.continuous, continuous[7:9])


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (1e39, "1e\\+39")])
def test_numbers_must_be_finite(adata: AnnData, value: float, shown: str) -> None:
    schema, _ = declare(adata, continuous_covariate_keys=["age"])
    adata.obs.loc["cell7", "age"] = value
    for call in (lambda: declare(adata, continuous_covariate_keys=["age"]), lambda: encode(adata, schema)):
        with pytest.raises(
            ValueError, match=rf"'age'\] must be finite; it is {shown} in cell 'cell7' \(1 such cells\)"
        ):
            call()


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_size_factors_must_be_positive(adata: AnnData, value: float) -> None:
    adata.obs.loc["cell7", "size"] = value
    with pytest.raises(ValueError, match=r"'size'\] must be positive and finite; it is .* in cell 'cell7'"):
        declare(adata, size_factor_key="size")


# minibatches


def test_positions(adata: AnnData) -> None:
    cells = encode(adata, declare(adata)[0])
    assert cells.positions().tolist() == list(range(60))
    assert cells.positions([4, 2, 2]).tolist() == [4, 2, 2]
    assert cells.positions(np.arange(60) > 57).tolist() == [58, 59]
    assert cells.positions([]).tolist() == []
    for wrong, error, message in (
        ([0, 60], IndexError, "holds 60; there are 60 cells, numbered from 0 to 59"),
        ([-1], IndexError, "holds -1"),
        ([0.5], ValueError, "list of cell positions or a mask"),
        (["cell1"], ValueError, "list of cell positions"),
        ([[1]], ValueError, "list of cell positions"),
        ([True], ValueError, "the mask in indices has 1 values for 60 cells"),
    ):
        with pytest.raises(error, match=message):
            cells.positions(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 7, 60, 100])
def test_minibatches_keep_the_order(adata: AnnData, counts: np.ndarray, size: int) -> None:
    cells = encode(adata, declare(adata)[0])
    order = np.random.default_rng(0).permutation(60)[:31]
    parts = list(cells.minibatches(order, batch_size=size))
    assert [len(part) for part in parts] == [min(size, 31 - start) for start in range(0, 31, size)]
    np.testing.assert_array_equal(torch.cat([part.x for part in parts]).numpy(), counts[order])


@pytest.mark.parametrize("size", [0, -3])
def test_minibatches_have_a_size(adata: AnnData, size: int) -> None:
    cells = encode(adata, declare(adata)[0])
    with pytest.raises(ValueError, match=f"batch_size={size} is below 1"):
        next(cells.minibatches(batch_size=size))


@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix])
def test_totals_and_moments_of_some_cells(
    make: Callable[..., AnnData], counts: np.ndarray, monkeypatch: pytest.MonkeyPatch, layout: Callable
) -> None:
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 8)
    adata = make(layout)
    cells = encode(adata, declare(adata)[0])
    some = np.random.default_rng(0).integers(0, 60, 33)
    np.testing.assert_array_equal(cells.totals(some), counts[some].sum(axis=1))
    np.testing.assert_allclose(cells.gene_moments(some), (counts[some].mean(axis=0), counts[some].var(axis=0)))
    assert cells.totals([]).shape == (0,)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 127, 128, 129, 191, 192, 193, 257, 300])
@pytest.mark.parametrize("size", [1, 2, 3, 128])
def test_an_epoch(n: int, size: int) -> None:
    indices = 1000 + np.arange(n)
    parts = draw_minibatches(indices, size, np.random.default_rng(0))
    assert sorted(np.concatenate([*parts, []]).astype(int)) == list(indices)
    size = max(size, 2)
    if n > 1:
        assert min(len(part) for part in parts) >= 2
    for part in parts[:-1]:
        assert len(part) == size
    if parts:
        assert len(parts[-1]) < max(1.5 * size, size + 2)
    if len(parts) > 1:
        assert 2 * len(parts[-1]) >= size


def test_an_epoch_is_shuffled_by_the_generator_that_is_given() -> None:
    first, again, other = (
        np.concatenate(draw_minibatches(np.arange(50), 8, np.random.default_rng(seed))) for seed in (0, 0, 1)
    )
    assert (first == again).all()
    assert (first != other).any()
    assert (first != np.arange(50)).any()

"""What is declared, and what is refused before it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scvi.dataset import Schema, declare, encode
from small_cells import whole


def test_the_schema_says_what_is_read(adata: AnnData, counts: np.ndarray, keys: dict[str, Any]) -> None:
    schema, *_ = declare(adata, **keys)
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


def test_size_factors_are_scaled_to_the_mean_total(adata: AnnData, counts: np.ndarray) -> None:
    schema, *_ = declare(adata, size_factor_key="size")
    log_size = encode(adata, schema).log_size
    assert log_size is not None
    np.testing.assert_allclose(np.exp(log_size).mean(), counts.sum(axis=1).mean(), rtol=1e-5)
    part = encode(adata[:3].copy(), schema).log_size  # the scale is that of the schema, not of the query
    np.testing.assert_array_equal(part, log_size[:3])


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
    schema, mark, digests = declare(adata, mask_var=mask)
    assert schema.genes == tuple(adata.var_names[chosen])
    assert schema.mask_var == ("chosen" if how == "column" else None)
    chosen_ones = AnnData(adata.X[:, chosen.to_numpy()], obs=adata.obs, var=adata.var[chosen])
    assert np.array_equal(digests, declare(chosen_ones).digests)  # other genes do not matter
    assert ("genes in mask_var" in mark) is (how == "column")
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


def test_nothing_but_zeros_is_refused(adata: AnnData) -> None:
    adata.X[:] = 0
    with pytest.raises(ValueError, match=r"every count of adata\.X is zero"):
        declare(adata)


def test_too_few_cells_or_genes(adata: AnnData) -> None:
    schema, *_ = declare(adata)
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


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_key": "batsch"},
        {"labels_key": "batsch"},
        {"size_factor_key": "batsch"},
        {"categorical_covariate_keys": ["batsch"]},
        {"continuous_covariate_keys": ["batsch"]},
        {"layer": "batsch"},
        {"mask_var": "batsch"},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_what_is_not_there_is_a_key_error_and_a_value_error(adata: AnnData, arguments: dict[str, Any]) -> None:
    for kind in (KeyError, ValueError):
        with pytest.raises(kind) as caught:
            declare(adata, **arguments)
    assert str(caught.value).startswith(f"{next(iter(arguments))}='batsch' is not ")  # of a KeyError, in quotes

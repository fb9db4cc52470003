"""Names, keys and categories that users give."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from scvi.dataset import declare, encode


@pytest.mark.parametrize("argument", ["batch_key", "labels_key", "categorical_covariate_keys"])
@pytest.mark.parametrize("categorical", [False, True])
def test_missing_categories_are_refused(adata: AnnData, argument: str, categorical: bool) -> None:
    schema, *_ = declare(adata, **{argument: ["batch"] if argument.endswith("keys") else "batch"})
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
    schema, *_ = declare(adata, batch_key=key)
    adata.obs[key] = adata.obs[key].astype(object)
    adata.obs.loc[["cell1", "cell2"], key] = "B"
    with pytest.raises(ValueError, match=rf"batch_key='{key}' holds categories .* never seen: 'B' \(2 cells\); "):
        encode(adata, schema)


def test_the_nearest_category_is_suggested(adata: AnnData) -> None:
    adata.obs["batch"] = "plate " + adata.obs["batch"].astype(str)
    schema, *_ = declare(adata, batch_key="batch")
    adata.obs["batch"] = adata.obs["batch"].str.replace("plate a", "Plate_a")
    with pytest.raises(ValueError, match="did you mean 'plate a'"):
        encode(adata, schema)


def test_codes_do_not_depend_on_the_query(adata: AnnData) -> None:
    schema, *_ = declare(adata, batch_key="batch")
    query = adata[adata.obs["batch"] == "c"].copy()
    query.obs["batch"] = pd.Categorical(query.obs["batch"], categories=["c", "zzz"])
    assert set(encode(query, schema).batch) == {2}


def test_categories_of_any_type(adata: AnnData) -> None:
    adata.obs["mixed"] = pd.Series(([1, "b", 2.5] * 20), index=adata.obs_names, dtype=object)
    adata.obs["nullable"] = pd.array([2, 1] * 30, dtype="Int64")
    schema, *_ = declare(adata, batch_key="mixed", labels_key="nullable")
    assert schema.batch_names == ("1", "2.5", "b")
    assert schema.label_names == ("1", "2")
    assert encode(adata, schema).labels.tolist() == [1, 0] * 30


@pytest.mark.parametrize(("value", "shown"), [(np.nan, "nan"), (np.inf, "inf"), (1e39, "1e\\+39")])
def test_numbers_must_be_finite(adata: AnnData, value: float, shown: str) -> None:
    schema, *_ = declare(adata, continuous_covariate_keys=["age"])
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

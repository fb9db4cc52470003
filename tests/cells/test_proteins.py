"""Counts of proteins: found, checked, aligned by name, taken as missing where a batch has none."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import scvi
from scvi.cells.schema import ProteinPlace
from scvi.dataset import CellMeasurement, GeneExpressionDataset, Schema, declare, encode, fingerprint
from small_cells import QUICK, TINY, N, make_adata

NAMES = tuple(f"protein{j}" for j in range(5))


def schema_of(adata: AnnData, names: str | None = None, **rules: Any) -> Schema:
    return declare(adata, batch_key="batch", proteins=ProteinPlace("proteins", names), **rules)[0]


def counts_of(adata: AnnData) -> np.ndarray:
    return adata.obsm["proteins"].to_numpy()


STORED: dict[str, Any] = {
    "table": lambda values: pd.DataFrame(values, columns=NAMES, index=[f"cell{i}" for i in range(N)]),
    "float64": lambda values: values.astype(np.float64),
    "uint16": lambda values: values.astype(np.uint16),
    "csr": lambda values: sparse.csr_matrix(values),
    "csc_array": lambda values: sparse.csc_array(values),
}


@pytest.mark.parametrize("stored", STORED)
def test_layouts_give_the_same_cells(stored: str) -> None:
    adata = make_adata()
    counts = counts_of(adata)
    adata.obsm["proteins"] = STORED[stored](counts)
    adata.uns["names"] = np.array(NAMES)
    schema = schema_of(adata, None if stored == "table" else "names")
    assert schema.proteins.names == NAMES
    assert Schema.from_json(schema.to_json()) == schema
    mb = encode(adata, schema).minibatch(np.array([5, 2, 2]))
    assert np.array_equal(mb.proteins.numpy(), counts[[5, 2, 2]])
    assert mb.proteins.numpy().dtype == np.float32
    assert mb.measured is None


def test_names_are_optional() -> None:
    adata = make_adata()
    adata.obsm["proteins"] = counts_of(adata)
    assert schema_of(adata).proteins.names == tuple(f"protein_{j}" for j in range(5))


@pytest.mark.parametrize("backed", [False, True])
def test_cells_of_a_file(backed: bool, tmp_path: Path) -> None:
    adata = make_adata()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    read = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r" if backed else None)
    cells = encode(read, schema_of(read))
    (mb,) = cells.minibatches(np.array([7, 3]), 5)
    assert np.array_equal(mb.proteins.numpy(), counts_of(adata)[[7, 3]])
    loaded = cells.loaded(np.array([7, 3]))
    assert np.array_equal(loaded.minibatch(np.array([1])).proteins.numpy(), counts_of(adata)[[3]])
    if backed:
        read.file.close()


def test_proteins_of_an_open_zarr_or_h5_array(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    adata = make_adata()
    counts = counts_of(adata)
    with h5py.File(tmp_path / "proteins.h5", "w") as file:
        file["proteins"] = counts
        adata.obsm["proteins"] = file["proteins"]
        assert np.array_equal(encode(adata, schema_of(adata)).minibatch(np.arange(N)).proteins.numpy(), counts)


def test_missing_proteins_are_logged_and_masked(caplog: pytest.LogCaptureFixture) -> None:
    adata = make_adata()
    table = adata.obsm["proteins"].copy()
    table.loc[(adata.obs["batch"] == "b1").to_numpy(), ["protein1", "protein4"]] = 0
    adata.obsm["proteins"] = table
    with caplog.at_level(logging.WARNING, logger="scvi"):
        schema = schema_of(adata)
    assert "'b1' has no count of the proteins 'protein1', 'protein4'" in caplog.text
    assert "override_missing_proteins=True" in caplog.text
    assert schema.proteins.measured == ((True,) * 5, (True, False, True, True, False), (True,) * 5)
    mb = encode(adata, schema).minibatch(np.arange(6))
    expected = np.array(schema.proteins.measured)[[0, 1, 2, 0, 1, 2]]
    assert np.array_equal(mb.measured.numpy(), expected)
    none_measured = adata.copy()
    none_measured.obsm["proteins"] = table * 0
    with pytest.raises(ValueError, match=r"every count of adata\.obsm\['proteins'\] is zero"):
        schema_of(none_measured)


def test_other_cells_are_aligned_by_name() -> None:
    adata = make_adata()
    schema = schema_of(adata)
    other = make_adata(n=20, seed=1)
    expected = counts_of(other)
    other.obsm["proteins"] = other.obsm["proteins"][list(NAMES[::-1])].assign(another=-1)
    assert np.array_equal(encode(other, schema).minibatch(np.arange(20)).proteins.numpy(), expected)
    other.obsm["proteins"] = other.obsm["proteins"].drop(columns="protein2")
    with pytest.raises(ValueError, match=r"lacks 1 of the 5 proteins that the model reads: 'protein2'"):
        encode(other, schema)
    other.obsm["proteins"] = expected[:, :4]
    with pytest.raises(ValueError, match=r"has 4 columns; the model reads 5 proteins"):
        encode(other, schema)


def test_nan_in_other_cells_was_not_measured() -> None:
    schema = schema_of(make_adata())
    other = make_adata(n=20, seed=1)
    other.obsm["proteins"] = other.obsm["proteins"].astype(float)
    other.obsm["proteins"].iloc[3, 2] = np.nan
    mb = encode(other, schema).minibatch(np.array([3, 0]))
    assert mb.measured.tolist() == [[True, True, False, True, True], [True] * 5]
    assert mb.proteins[0, 2] == 0
    before = fingerprint(other, schema)
    other.obsm["proteins"].iloc[3, 2] = 0
    assert fingerprint(other, schema) == {name: mark for name, mark in before.items() if name != "measured"}


@pytest.mark.parametrize(
    ("value", "message"),
    [(0.5, "non-integer"), (-1.0, "negative"), (np.inf, "non-finite")],
)
def test_what_is_no_count_is_refused(value: float, message: str) -> None:
    adata = make_adata()
    adata.obsm["proteins"] = adata.obsm["proteins"].astype(float)
    adata.obsm["proteins"].iloc[3, 2] = value
    with pytest.raises(ValueError, match=rf"{message} value.*in cell 'cell3', protein 'protein2'"):
        schema_of(adata, non_integer="refuse")


# ---- types of pandas, and gaps --------------------------------------------------------------------------------------

DTYPES = ["Int64", "UInt16", "Int8", "Float64", "Float32", "int16", "float32", "uint8", "Sparse[int]"]


@given(dtypes=st.lists(st.sampled_from(DTYPES), min_size=5, max_size=5))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_tables_of_any_numeric_types_are_the_same_counts(dtypes: list[str]) -> None:
    adata = make_adata()
    counts = np.minimum(counts_of(adata), 100)
    table = pd.DataFrame(counts, index=adata.obs_names, columns=NAMES)
    adata.obsm["proteins"] = table.astype(dict(zip(NAMES, dtypes, strict=True)))
    schema = schema_of(adata)
    mb = encode(adata, schema).minibatch(np.arange(N))
    assert np.array_equal(mb.proteins.numpy(), counts)
    assert mb.measured is None
    adata.obsm["proteins"] = table
    assert schema_of(adata) == schema


def test_flags_are_counts_of_zero_and_one() -> None:
    adata = make_adata()
    for dtype in (bool, "boolean"):
        adata.obsm["proteins"] = (make_adata().obsm["proteins"] > 4).astype({"protein1": dtype})
        flags = adata.obsm["proteins"].to_numpy(dtype=float)
        assert np.array_equal(encode(adata, schema_of(adata)).minibatch(np.arange(N)).proteins.numpy(), flags)


@pytest.mark.parametrize("dtype", [object, "string", "category", complex, "datetime64[ns]"])
def test_a_column_without_numbers_is_refused_by_name(dtype: Any) -> None:
    adata = make_adata()
    values = adata.obsm["proteins"]["protein3"]
    adata.obsm["proteins"]["protein3"] = values.astype(str if dtype == "string" else int).astype(dtype)
    with pytest.raises(TypeError, match=r"adata\.obsm\['proteins'\] holds .* values, in 'protein3'; pass counts as"):
        schema_of(adata)


@pytest.mark.parametrize("dtype", ["float64", "Float32", "Int64"])
@pytest.mark.parametrize("filled", [np.nan, 0])
def test_nan_in_a_whole_batch_is_as_zero_there(filled: float, dtype: str, caplog: pytest.LogCaptureFixture) -> None:
    adata = make_adata()
    counts, in_b1 = counts_of(adata).astype(float), (adata.obs["batch"] == "b1").to_numpy()
    counts[np.ix_(in_b1, [1, 4])] = filled
    counts[~in_b1, 2] = 0  # beside a protein that is zero elsewhere
    adata.obsm["proteins"] = pd.DataFrame(counts, index=adata.obs_names, columns=NAMES).astype(dtype)
    with caplog.at_level(logging.WARNING, logger="scvi"):
        schema = schema_of(adata)
    assert "'b1' has no count of the proteins 'protein1', 'protein4': they are taken as not measured" in caplog.text
    assert ("(they are NaN)" in caplog.text) == np.isnan(filled)
    assert schema.proteins.measured == (
        (True, True, False, True, True),
        (True, False, True, True, False),
        (True, True, False, True, True),
    )
    mb = encode(adata, schema).minibatch(np.arange(N))
    assert np.array_equal(mb.measured.numpy(), np.array(schema.proteins.measured)[np.arange(N) % 3])
    assert np.array_equal(mb.proteins.numpy(), np.nan_to_num(counts))


def test_a_protein_without_any_value() -> None:
    adata = make_adata()
    adata.obsm["proteins"] = adata.obsm["proteins"].astype({"protein2": "Int64"})
    adata.obsm["proteins"]["protein2"] = pd.NA
    adata.obsm["proteins"] = adata.obsm["proteins"].astype({"protein2": "Int64"})
    assert schema_of(adata).proteins.measured == ((True, True, False, True, True),) * 3
    adata.obsm["proteins"] = adata.obsm["proteins"].astype(float) * np.nan
    with pytest.raises(ValueError, match=r"every count of adata\.obsm\['proteins'\] is zero or missing"):
        schema_of(adata)


@pytest.mark.parametrize("stored", ["table", "Int64", "array"])
def test_nan_in_a_part_of_a_batch_is_refused_with_the_remedy(stored: str) -> None:
    adata = make_adata()
    counts = counts_of(adata).astype(float)
    counts[[4, 7], 2] = np.nan
    counts[[4, 5, 7], 3] = np.nan
    table = pd.DataFrame(counts, index=adata.obs_names, columns=NAMES)
    adata.obsm["proteins"] = {"table": table, "Int64": table.astype("Int64"), "array": counts}[stored]
    name = "protein_2" if stored == "array" else "protein2"
    says = (
        rf"adata\.obsm\['proteins'\]: protein '{name}' is missing \(NaN\) in 2 of the 50 cells of batch 'b1' "
        r"\(and so in 2 further pairs.*put NaN \(or 0\) in all of this batch"
    )
    with pytest.raises(ValueError, match=says):
        schema_of(adata)
    with pytest.raises(ValueError, match="in 2 of the 150 cells of batch '0'"):
        declare(adata, proteins=ProteinPlace("proteins", None))


def nan_in(batch: str) -> AnnData:
    adata = make_adata()
    adata.obsm["proteins"] = adata.obsm["proteins"].convert_dtypes()
    adata.obsm["proteins"].loc[(adata.obs["batch"] == batch).to_numpy(), "protein1"] = pd.NA
    return adata


def test_a_model_of_a_protein_that_is_nan_in_a_batch(tmp_path: Path) -> None:
    """The same model as with zeros; other cells, of a question or a saved model, may have NaN anywhere."""
    latent = []
    zeros = make_adata()
    zeros.obsm["proteins"].loc[(zeros.obs["batch"] == "b1").to_numpy(), "protein1"] = 0
    for adata in (nan_in("b1"), zeros):
        scvi.TOTALVI.setup_anndata(adata, "proteins", batch_key="batch")
        model = scvi.TOTALVI(adata, **TINY)
        model.train(**QUICK)
        latent.append(model.get_latent_representation())
        _, proteins = model.get_normalized_expression(seed=0)
        unmeasured = proteins.isna().to_numpy()
        assert np.array_equal(unmeasured.any(axis=1), (adata.obs["batch"] == "b1").to_numpy())
        assert unmeasured[:, 1].sum() == unmeasured.sum() == 50
    assert np.array_equal(*latent)
    model.save(tmp_path / "model")
    other = nan_in("b1")
    other.obsm["proteins"].iloc[3, 2] = pd.NA
    loaded = scvi.TOTALVI.load(tmp_path / "model", other)
    answer = loaded.get_latent_representation()
    assert np.array_equal(np.delete(answer, 3, axis=0), np.delete(latent[0], 3, axis=0))
    assert np.array_equal(model.get_latent_representation(other), answer)


def test_nan_is_no_measured_zero() -> None:
    adata = nan_in("b1")
    scvi.TOTALVI.setup_anndata(adata, "proteins", batch_key="batch")
    with pytest.raises(ValueError, match=r"override_missing_proteins=True .* NaN, .* \('protein1', in 50 cells\): "):
        scvi.TOTALVI(adata, **TINY, override_missing_proteins=True)
    adata.obsm["proteins"] = adata.obsm["proteins"].fillna(0)
    scvi.TOTALVI.setup_anndata(adata, "proteins", batch_key="batch")
    scvi.TOTALVI(adata, **TINY, override_missing_proteins=True)


@pytest.mark.filterwarnings("ignore::FutureWarning:mudata")
@pytest.mark.filterwarnings("ignore:From 0.4 .update:FutureWarning")
def test_nan_in_a_modality() -> None:
    mudata = pytest.importorskip("mudata")
    adata = nan_in("b1")
    table = adata.obsm.pop("proteins").to_numpy(dtype=np.float32, na_value=np.nan)
    proteins = AnnData(table, obs=adata.obs[[]], var=pd.DataFrame(index=NAMES))
    mdata = mudata.MuData({"rna": adata, "protein": proteins})
    scvi.TOTALVI.setup_mudata(mdata, batch_key="batch")
    model = scvi.TOTALVI(mdata, **TINY)
    assert model.schema.proteins.measured[1] == (True, False, True, True, True)
    proteins.X[0, 0] = np.nan
    with pytest.raises(ValueError, match=r"'protein0' is missing \(NaN\) in 1 of the 50 cells of batch 'b0'"):
        scvi.TOTALVI.setup_mudata(mdata, batch_key="batch")


@pytest.mark.parametrize(
    ("key", "names", "message"),
    [
        (
            "protein",
            None,
            r"protein_expression_obsm_key='protein' is not a key of adata\.obsm; did you mean 'proteins'",
        ),
        (None, None, r"protein_expression_obsm_key=None"),
        ("proteins", "names", r"protein_names_uns_key='names' is not a key of adata\.uns"),
        (
            "proteins",
            "short",
            r"5 proteins in adata\.obsm\['proteins'\] need as many different names; there are 2 in 2",
        ),
        ("proteins", "twice", r"there are 1 in 5"),
    ],
)
def test_wrong_keys_are_refused(key: Any, names: str | None, message: str) -> None:
    adata = make_adata()
    adata.uns |= {"short": np.array(["a", "b"]), "twice": np.array(["a"] * 5)}
    with pytest.raises(ValueError, match=message):
        declare(adata, proteins=ProteinPlace(key, names))


def test_the_fingerprint_changes_with_the_proteins() -> None:
    adata = make_adata()
    schema = schema_of(adata)
    before = fingerprint(adata, schema)
    assert fingerprint(adata, replace(schema, proteins=None)) != before
    other = adata.copy()
    other.obsm["proteins"].iloc[0, 0] += 1
    assert fingerprint(other, schema) != before
    other.obsm["proteins"].iloc[0, 0] -= 1
    assert fingerprint(other, schema) == before


@pytest.mark.parametrize(
    "damage",
    [
        {"names": "abc"},
        {"names": ["a", "a", "b", "c", "d"]},
        {"measured": [[True] * 5]},
        {"measured": [[1] * 5] * 3},
        {"measured": None},
        {"obsm_key": None},
        {"modalities": {"rna_layer": 3}},
        {"layer": 3},
        {"further": 1},
    ],
    ids=str,
)
def test_a_damaged_entry_is_refused(damage: dict[str, Any]) -> None:
    values = schema_of(make_adata()).to_json()
    values["proteins"] |= damage
    with pytest.raises(ValueError, match="not a schema"):
        Schema.from_json(values)


def test_a_data_set_of_2020_has_them_as_a_measurement() -> None:
    rng = np.random.default_rng(0)
    proteins = rng.poisson(5, (12, 3))
    proteins[6:, 1] = 0
    data_set = GeneExpressionDataset()
    data_set.populate_from_data(
        rng.poisson(5, (12, 4)) + 1,
        Ys=[CellMeasurement("protein_expression", proteins, "protein_names", ["a", "b", "c"])],
        batch_indices=np.repeat([0, 1], 6),
    )
    mb = data_set.cell_data().minibatch(np.array([3, 8]))
    assert np.array_equal(mb.proteins.numpy(), proteins[[3, 8]])
    mask = data_set.get_batch_mask_cell_measurement("protein_expression")
    assert [row.tolist() for row in mask] == [[True] * 3, [True, False, True]]
    data_set.protein_expression = data_set.protein_expression[:, :2]  # as the tutorial does
    assert data_set.cell_data().minibatch(np.array([3])).proteins.shape == (1, 2)
    with pytest.raises(ValueError, match=r"'spatial' is not a registered measurement"):
        data_set.get_batch_mask_cell_measurement("spatial")


def test_models_of_genes_read_no_proteins() -> None:
    adata = make_adata()
    scvi.SCVI.setup_anndata(adata)
    assert scvi.SCVI(adata, n_hidden=8, n_latent=2, seed=0)._cells.data.proteins is None

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
from scipy import sparse

import scvi
from scvi.cells.schema import ProteinPlace
from scvi.dataset import CellMeasurement, GeneExpressionDataset, Schema, declare, encode, fingerprint
from small_cells import N, make_adata

NAMES = tuple(f"protein{j}" for j in range(5))


def schema_of(adata: AnnData, names: str | None = None) -> Schema:
    return declare(adata, batch_key="batch", proteins=ProteinPlace("proteins", names))[0]


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
    prints = {fingerprint(other, schema)}
    other.obsm["proteins"].iloc[3, 2] = 0
    prints.add(fingerprint(other, schema))
    assert len(prints) == 2


@pytest.mark.parametrize(
    ("value", "message"),
    [(0.5, "non-integer"), (-1.0, "negative"), (np.nan, "non-finite"), (np.inf, "non-finite")],
)
def test_what_is_no_count_is_refused(value: float, message: str) -> None:
    adata = make_adata()
    adata.obsm["proteins"] = adata.obsm["proteins"].astype(float)
    adata.obsm["proteins"].iloc[3, 2] = value
    with pytest.raises(ValueError, match=rf"{message} value.*in cell 'cell3', protein 'protein2'"):
        schema_of(adata)


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

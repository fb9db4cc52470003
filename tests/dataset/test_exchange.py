from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

from scvi.dataset import AnnDatasetFromAnnData, CellMeasurement, GeneExpressionDataset


@pytest.fixture
def dataset() -> GeneExpressionDataset:
    """Everything that a data set can hold; names are not in the order of their appearance."""
    rng = np.random.default_rng(0)
    dataset = GeneExpressionDataset()
    dataset.populate_from_data(
        sp.csr_matrix(rng.poisson(2.0, (6, 7)) + 1),
        Ys=[
            CellMeasurement("protein", rng.poisson(3.0, (6, 2)), "proteins", ["CD3", "CD4"]),
            CellMeasurement("coords", sp.csr_matrix(np.eye(6, 2)), "axis", ["x", "y"]),
        ],
        batch_indices=[1, 1, 0, 0, 2, 2],
        labels=[2, 0, 1, 0, 2, 2],
        cell_types=["zero", "one", "two"],
        gene_names=list("abcdefg"),
        cell_attributes_dict={
            "depth": np.arange(6.0),
            "column": np.arange(6)[:, None],
            "wide": np.ones((6, 3)),
            "sparse": sp.csr_matrix(np.eye(6)),
            "barcode": list("uvwxyz"),
            "good": np.arange(6) > 2,
        },
        gene_attributes_dict={"length": np.arange(7), "pairs": np.ones((7, 2)), "of_genes": np.ones((7, 1))},
    )
    dataset.initialize_mapped_attribute("labels", "colour", ["red", "green", "blue"])
    dataset.initialize_mapped_attribute("batch_indices", "experiment", ["e0", "e1", "e2"])
    dataset.initialize_cell_attribute("plate", [1, 0, 1, 0, 1, 0], categorical=True)
    dataset.initialize_mapped_attribute("plate", "plates", np.array([7.5, 2.5]))
    dataset.remap_categorical_attributes()
    dataset.initialize_gene_attribute("chromosome", [1, 0] * 3 + [1])
    dataset.initialize_mapped_attribute("chromosome", "chromosomes", ["X", "Y"])
    return dataset


def assert_equal(one: GeneExpressionDataset, other: GeneExpressionDataset) -> None:
    assert repr(one) == repr(other)
    assert dict(one.attribute_mappings) == dict(other.attribute_mappings)
    mapped = {name for names in one.attribute_mappings.values() for name in names}
    columns = set(one.cell_measurements_col_mappings.values())
    for name in {"X", *one.cell_attribute_names, *one.gene_attribute_names, *mapped, *columns}:
        mine, theirs = getattr(one, name), getattr(other, name)
        if name != "X":  # an array when it is read, as small counts are
            assert type(mine) is type(theirs), name
            assert mine.dtype.kind == theirs.dtype.kind, name
        assert mine.shape == theirs.shape, name
        np.testing.assert_array_equal(*(v.toarray() if sp.issparse(v) else v for v in (mine, theirs)), err_msg=name)


def through(adata: AnnData, tmp_path: Path, file: str) -> AnnData:
    if file == "h5ad":
        adata.write_h5ad(tmp_path / "x.h5ad")
        return anndata.read_h5ad(tmp_path / "x.h5ad")
    return adata


@pytest.mark.parametrize("file", ["", "h5ad"])
def test_nothing_is_lost(dataset: GeneExpressionDataset, tmp_path: Path, file: str) -> None:
    adata = dataset.to_anndata()
    assert set(adata.obs) == {"batch_indices", "barcode", "cell_types", "column", "depth", "good", "plate"}
    assert set(adata.obsm) == {"coords", "protein", "sparse", "wide"}
    again = AnnDatasetFromAnnData(through(adata, tmp_path, file))
    assert_equal(dataset, again)
    assert_equal(dataset, AnnDatasetFromAnnData(again.to_anndata()))


@pytest.mark.parametrize("file", ["", "h5ad"])
def test_types_that_share_a_name_stay_apart(dataset: GeneExpressionDataset, tmp_path: Path, file: str) -> None:
    twice = GeneExpressionDataset()
    twice.populate_from_datasets([dataset, dataset], shared_labels=False)
    assert twice.cell_types.tolist() == ["zero", "one", "two"] * 2
    twice.remap_categorical_attributes()
    adata = twice.to_anndata()
    assert adata.obs["labels"].tolist() == twice.labels.ravel().tolist()
    assert_equal(twice, AnnDatasetFromAnnData(through(adata, tmp_path, file)))


def test_labels_without_names(dataset: GeneExpressionDataset) -> None:
    dataset.populate_from_data(dataset.X, labels=[1, 1, 0, 2, 0, 0], gene_names=dataset.gene_names)
    dataset.initialize_mapped_attribute("labels", "colour", ["red", "green", "blue"])
    assert_equal(dataset, AnnDatasetFromAnnData(dataset.to_anndata()))


def test_a_part_of_it_can_be_read(dataset: GeneExpressionDataset) -> None:
    part = AnnDatasetFromAnnData(dataset.to_anndata()[[4, 3, 5], ["g", "a"]].copy())
    dataset.update_cells([4, 3, 5])
    dataset.reorder_genes(["g", "a"], drop_omitted_genes=True)
    dataset.remap_categorical_attributes()
    assert_equal(dataset, part)


def test_names_that_have_changed_since_are_read_as_they_are(dataset: GeneExpressionDataset) -> None:
    adata = dataset.to_anndata()
    adata.obs["cell_types"] = list("ppqqrr")
    again = AnnDatasetFromAnnData(adata)
    assert again.cell_types.tolist() == ["p", "q", "r"]
    assert again.attribute_mappings["labels"] == ["cell_types"]  # no colours of other types
    assert again.experiment.tolist() == ["e0", "e1", "e2"]
    again = AnnDatasetFromAnnData(dataset.to_anndata(), batch_label="barcode", ctype_label="plate")
    assert again.batch_names.tolist() == list("uvwxyz")
    assert again.cell_types.tolist() == ["1", "0"]
    assert "experiment" not in again.attribute_mappings["batch_indices"]


def test_columns_that_have_gone_or_changed_refer_to_nothing(dataset: GeneExpressionDataset) -> None:
    adata = dataset.to_anndata()
    del adata.obs["batch_indices"], adata.obs["cell_types"], adata.obsm["wide"], adata.obsm["protein"]
    adata.obs["plate"] = list("aabbcc")
    adata.var["chromosome"] = 5
    again = AnnDatasetFromAnnData(adata)
    assert {source for source, names in again.attribute_mappings.items() if names} == {"labels"}
    assert again.attribute_mappings["labels"] == ["cell_types"]
    assert again.cell_types.tolist() == ["undefined"]
    assert again.plate.tolist() == list("aabbcc")
    assert again.cell_categorical_attribute_names == {"batch_indices", "labels"}
    assert list(again.cell_measurements_col_mappings) == ["coords"]


def test_the_copy_shares_no_memory(dataset: GeneExpressionDataset) -> None:
    adata = dataset.to_anndata()
    again = AnnDatasetFromAnnData(adata)
    adata.X.data[:] = 0
    adata.obsm["wide"][:] = 0
    adata.var["length"] = 0
    for one in (dataset, again):
        assert np.all(one.X.data if sp.issparse(one.X) else one.X)
        assert one.wide.all()
        assert one.length.tolist() == list(range(7))


def test_without_a_record_measurements_have_to_be_named(dataset: GeneExpressionDataset) -> None:
    adata = dataset.to_anndata()
    del adata.uns["cell_measurements_col_mappings"], adata.uns["scvi_dataset"]
    again: Any = AnnDatasetFromAnnData(adata)
    assert again.cell_measurements_col_mappings == {}
    assert again.cell_types.tolist() == ["two", "zero", "one"]
    again = AnnDatasetFromAnnData(adata, cell_measurements_col_mappings={"protein": "proteins"})
    assert again.proteins.tolist() == ["CD3", "CD4"]

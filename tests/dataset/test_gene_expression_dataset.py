from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from scvi.cells.library_prior import VARIANCE_FLOOR
from scvi.dataset import CellMeasurement, GeneExpressionDataset

BOTH = pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix])


def populated(X: Any, **arguments: Any) -> GeneExpressionDataset:
    dataset = GeneExpressionDataset()
    dataset.populate_from_data(X, **arguments)
    return dataset


def dense(X: Any) -> np.ndarray:
    return X.toarray() if sp.issparse(X) else X


@pytest.fixture
def X() -> np.ndarray:
    return np.random.default_rng(0).poisson(2.0, (25, 10)) + 1


# population


def test_populate_from_data(X: np.ndarray) -> None:
    dataset = populated(X)
    assert (dataset.nb_cells, dataset.nb_genes, len(dataset)) == (25, 10, 25)
    assert dataset.X.dtype == np.float32
    assert dataset.X.flags.c_contiguous
    assert dataset[7] == 7
    for codes in (dataset.batch_indices, dataset.labels):
        assert codes.dtype == np.uint16
        assert codes.shape == (25, 1)
        assert not codes.any()
    assert (dataset.n_batches, dataset.n_labels) == (1, 1)
    assert dataset.cell_types.tolist() == ["undefined"]
    assert dataset.gene_names is None
    assert dataset.norm_X is dataset.corrupted_X is None
    assert dataset.cell_attribute_names == {"batch_indices", "labels", "local_means", "local_vars"}
    assert dataset.protected_attributes == ["X"]
    assert dataset.attribute_mappings["labels"] == ["cell_types"]


@pytest.mark.parametrize("layout", [sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array])
def test_sparse_counts_are_rows_of_the_same_type(X: np.ndarray, layout: Callable) -> None:
    given = layout(X)
    dataset = populated(given)
    assert dataset.X.format == "csr"
    assert dataset.X.dtype == X.dtype
    np.testing.assert_array_equal(dataset.X.toarray(), X)
    assert given.format != "csr" or np.shares_memory(dataset.X.data, given.data)


def test_measurements(X: np.ndarray) -> None:
    paired = np.arange(100).reshape(25, 4)
    dataset = populated(X, Ys=[CellMeasurement("dev", paired, "dev_names", ["a", "b", "c", "d"])])
    np.testing.assert_array_equal(dataset.dev, paired)
    assert dataset.dev_names.tolist() == ["a", "b", "c", "d"]
    assert dataset.cell_measurements_col_mappings == {"dev": "dev_names"}
    adata = dataset.to_anndata()
    np.testing.assert_array_equal(adata.obsm["dev"], paired)
    assert adata.uns["dev_names"].tolist() == ["a", "b", "c", "d"]
    assert adata.uns["cell_measurements_col_mappings"] == {"dev": "dev_names"}
    dataset.update_cells([3, 1])
    np.testing.assert_array_equal(dataset.dev, paired[[3, 1]])
    with pytest.raises(ValueError, match=r"shape \(25, 4\) and 3 names"):
        populated(X, Ys=[CellMeasurement("dev", paired, "dev_names", ["a", "b", "c"])])


@pytest.mark.parametrize("labels", [[3] * 25, np.full(25, 3.0), np.full((25, 1), 3)])
def test_labels_of_any_shape(X: np.ndarray, labels: Any) -> None:
    dataset = populated(X, labels=labels)
    assert dataset.labels.shape == (25, 1)
    assert not dataset.labels.any()  # remapped
    assert (populated(X, labels=labels, remap_attributes=False).labels == 3).all()
    assert dataset.cell_types is None


def test_long_names_are_kept_whole(X: np.ndarray) -> None:
    dataset = populated(X, gene_names=["g" * 100, *"abcdefghi"], cell_types=["t" * 200])
    assert dataset.gene_names[0] == "g" * 100
    assert dataset.cell_types[0] == "t" * 200
    assert populated(X, gene_names=np.arange(10)).gene_names.dtype == "<U64"
    assert populated(X, cell_types=["a"]).cell_types.dtype == "<U128"


@pytest.mark.parametrize("value", [-1.0, 0.5, np.nan, np.inf])
@BOTH
def test_bad_counts_are_logged(X: np.ndarray, layout: Callable, value: float, caplog: Any) -> None:
    bad = X.astype(float)
    with caplog.at_level(logging.WARNING):
        populated(layout(bad))
        assert not caplog.records
        bad[3, 4] = value
        populated(layout(bad))
    assert "raw counts" in caplog.text


def test_repeated_gene_names_are_logged(X: np.ndarray, caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        populated(X, gene_names=["a"] * 10)
    assert "not unique" in caplog.text


def test_the_repr() -> None:
    assert repr(GeneExpressionDataset()) == "GeneExpressionDataset object (unpopulated)"
    dataset = populated(
        np.ones((3, 2)),
        Ys=[CellMeasurement("dev", np.ones((3, 1)), "dev_names", ["a"])],
        gene_names=["a", "b"],
    )
    dataset.normalize()
    assert repr(dataset).split("\n") == [
        "GeneExpressionDataset object with n_cells x nb_genes = 3 x 2",
        "    dataset_versions: 'norm_X'",
        "    gene_attribute_names: 'gene_names'",
        "    cell_attribute_names: 'batch_indices', 'dev', 'labels', 'local_means', 'local_vars'",
        "    cell_categorical_attribute_names: 'batch_indices', 'labels'",
        "    cell_measurements_col_mappings: 'dev': 'dev_names'",
    ]


def test_populating_again_starts_anew(X: np.ndarray) -> None:
    dataset = populated(
        X,
        Ys=[CellMeasurement("dev", np.ones((25, 1)), "dev_names", ["a"])],
        gene_names=np.arange(10),
        cell_attributes_dict={"more": np.arange(25)},
    )
    dataset.normalize()
    dataset.populate_from_data(X[:5, :3])
    assert dataset.cell_attribute_names == {"batch_indices", "labels", "local_means", "local_vars"}
    assert dataset.gene_names is dataset.norm_X is None
    assert not hasattr(dataset, "dev")
    assert not hasattr(dataset, "more")
    dataset.update_cells([0, 1])


# attributes


def test_setting_X(X: np.ndarray) -> None:
    dataset = populated(X, gene_names=np.arange(10))
    dataset.normalize()
    dataset.corrupt()
    before = dataset.local_means.copy()
    dataset.X = 2 * X
    np.testing.assert_allclose(dataset.local_means, before + np.log(2), rtol=1e-6)
    assert dataset.norm_X is dataset.corrupted_X is None  # they were of the other X
    assert dataset.dataset_versions == set()
    with pytest.raises(ValueError, match="it has 1 dimensions"):
        dataset.X = X[0]
    for wrong in (X[:3], X[:, :3]):
        with pytest.raises(ValueError, match="25 cells and 10 genes"):
            dataset.X = wrong
    with pytest.raises(ValueError, match="unpopulated"):
        GeneExpressionDataset().X = X


@pytest.mark.parametrize("name", ["batch_indices", "labels"])
@pytest.mark.parametrize("wrong", [-1, 0.5, 65536, np.nan, "a"])
def test_wrong_codes_are_refused(X: np.ndarray, name: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be integers from 0 to 65535"):
        populated(X, **{name: [wrong] * 25})
    with pytest.raises(ValueError, match=r"Number of cells \(25\) and length of \w+ \w+ \(3\) mismatch"):
        populated(X, **{name: [0, 1, 2]})


def test_codes_can_be_shifted_in_place(X: np.ndarray) -> None:
    dataset = populated(X, batch_indices=np.arange(25) % 2)
    dataset.batch_indices += 3
    assert set(dataset.batch_indices.ravel()) == {3, 4}
    assert dataset.n_batches == 2


def test_remap_categorical_attributes(X: np.ndarray) -> None:
    dataset = populated(X, labels=[1] * 10 + [2] * 15, remap_attributes=False)
    dataset.initialize_mapped_attribute("labels", "cell_types", ["a", "b", "c"])
    dataset.initialize_mapped_attribute("labels", "more", [0, 10, 20])
    dataset.remap_categorical_attributes()
    assert dataset.labels.ravel().tolist() == [0] * 10 + [1] * 15
    assert dataset.cell_types.tolist() == ["b", "c"]
    assert dataset.more.tolist() == [10, 20]
    dataset.initialize_cell_attribute("extra", np.full(25, 7), categorical=True)
    dataset.remap_categorical_attributes(["extra"])
    assert not dataset.extra.any()
    with pytest.raises(ValueError, match="'local_means' is not a registered categorical attribute"):
        dataset.remap_categorical_attributes(["local_means"])


def test_mapped_attributes_are_checked(X: np.ndarray) -> None:
    dataset = populated(X, labels=np.arange(25) % 3)
    with pytest.raises(ValueError, match="cell_types has 2 values, but labels holds the code 2"):
        dataset.initialize_mapped_attribute("labels", "cell_types", ["a", "b"])
    with pytest.raises(ValueError, match="Mapped attribute local_means should be categorical not float64"):
        dataset.initialize_mapped_attribute("local_means", "names", ["a"])
    for _ in range(2):
        dataset.initialize_mapped_attribute("labels", "cell_types", ["a", "b", "c"])
    assert dataset.attribute_mappings["labels"] == ["cell_types"]


def test_attributes_overwrite_nothing(X: np.ndarray, caplog: Any) -> None:
    taken = ["X", "nb_cells", "populate_from_data", "_X", "dataset_versions", "cell_types", "n_labels", "gene_names"]
    with caplog.at_level(logging.WARNING):
        dataset = populated(X, gene_names=np.arange(10), cell_attributes_dict={name: np.arange(25) for name in taken})
    assert caplog.text.count("already taken") == len(taken)
    for name in taken:
        assert getattr(dataset, f"{name}_cell").tolist() == list(range(25))
    assert dataset.nb_cells == 25
    assert dataset.gene_names.tolist() == [str(i) for i in range(10)]
    dataset.initialize_gene_attribute("labels", np.arange(10))
    assert dataset.labels_gene.tolist() == list(range(10))
    dataset.initialize_gene_attribute("update_genes", np.arange(10))
    dataset.update_genes([1, 2])
    assert dataset.update_genes_gene.tolist() == [1, 2]
    dataset.initialize_cell_measurement(CellMeasurement("X", np.ones((25, 2)), "labels", ["a", "b"]))
    assert dataset.cell_measurements_col_mappings == {"X_cell_cell": "labels_cell"}


def test_attributes_are_checked_and_may_be_set_again(X: np.ndarray) -> None:
    dataset = populated(X)
    for _ in range(2):
        dataset.initialize_cell_attribute("a", np.arange(25))
        dataset.initialize_gene_attribute("b", np.arange(10))
    assert "a_cell" not in dataset.cell_attribute_names
    for initialize, what, n in (
        (dataset.initialize_cell_attribute, "cell", 25),
        (dataset.initialize_gene_attribute, "gene", 10),
    ):
        for wrong in (np.arange(4), 3):
            with pytest.raises(ValueError, match=rf"Number of {what}s \({n}\) and length of {what} attribute"):
                initialize("c", wrong)


# library size


@BOTH
def test_compute_library_size_batch(layout: Callable) -> None:
    dataset = populated(layout(np.full((7, 10), np.exp(10) / 10)))
    assert dataset.local_means.tolist() == [[10.0]] * 7
    assert dataset.local_vars.tolist() == [[0.0]] * 7
    assert dataset.local_means.dtype == np.float64


def test_library_sizes_of_batches(X: np.ndarray) -> None:
    batch = np.arange(25) % 3 * 2  # codes 0, 2, 4
    dataset = populated(X, batch_indices=batch, remap_attributes=False)
    logs = np.log(X.sum(axis=1))
    for code in (0, 2, 4):
        cells = batch == code
        np.testing.assert_allclose(dataset.local_means[cells], logs[cells].mean(), rtol=1e-6)
        np.testing.assert_allclose(dataset.local_vars[cells], logs[cells].var(), rtol=1e-5)


def test_a_batch_of_one_cell_has_a_variance(X: np.ndarray) -> None:
    dataset = populated(X, batch_indices=[1] + [0] * 24)
    assert dataset.local_vars[0] == VARIANCE_FLOOR


def test_empty_cells_are_logged(X: np.ndarray, caplog: Any) -> None:
    X[3] = 0
    with caplog.at_level(logging.WARNING):
        dataset = populated(X)
    assert "data has empty cells, may fail inference, filter with filter_cells_by_count (1 cells" in caplog.text
    assert np.isfinite(dataset.local_means).all()


# minibatches


@BOTH
def test_collate(X: np.ndarray, layout: Callable) -> None:
    dataset = populated(layout(X), batch_indices=np.arange(25) % 2, labels=np.arange(25) % 3)
    x, mean, var, batch, labels = dataset.collate_fn_builder()([4, 1])
    np.testing.assert_array_equal(x, X[[4, 1]])
    np.testing.assert_array_equal(mean, dataset.local_means[[4, 1]].astype(np.float32))
    np.testing.assert_array_equal(var, dataset.local_vars[[4, 1]].astype(np.float32))
    assert batch.tolist() == [[0], [1]]
    assert labels.tolist() == [[1], [1]]
    assert [t.dtype for t in (x, mean, var, batch, labels)] == [torch.float32] * 3 + [torch.int64] * 2


def test_collate_further_attributes(X: np.ndarray) -> None:
    dataset = populated(X)
    dataset.initialize_cell_attribute("a", np.arange(50).reshape(25, 2))
    dataset.initialize_cell_attribute("s", sp.csr_matrix(X))
    tensors = dataset.collate_fn_builder({"a": np.float32, "s": np.int64})([1, 2])
    assert len(tensors) == 7
    np.testing.assert_array_equal(tensors[5], [[2.0, 3.0], [4.0, 5.0]])
    np.testing.assert_array_equal(tensors[6], X[[1, 2]])
    assert tensors[5].dtype == torch.float32
    assert tensors[6].dtype == torch.int64
    (only,) = dataset.collate_fn_builder({"a": np.int64}, override=True)([0])
    assert only.tolist() == [[0, 1]]


def test_collate_corrupted(X: np.ndarray) -> None:
    dataset = populated(X)
    dataset.corrupt(rate=1.0)
    np.testing.assert_array_equal(dataset.collate_fn_builder(corrupted=True)([3])[0], dataset.corrupted_X[[3]])
    collate = pickle.loads(pickle.dumps(dataset.collate_fn_builder()))
    np.testing.assert_array_equal(collate([3])[0], X[[3]])


@BOTH
def test_cell_data_shares_everything(X: np.ndarray, layout: Callable) -> None:
    dataset = populated(layout(X.astype(np.float32)), batch_indices=np.arange(25) % 2, labels=np.arange(25) % 3)
    cells = dataset.cell_data()
    assert cells.counts is dataset.X
    for view, owner in ((cells.batch, dataset.batch_indices), (cells.labels, dataset.labels)):
        assert np.shares_memory(view, owner)
    assert cells.n_genes == 10
    mb = cells.minibatch(np.array([4, 1]))
    for ours, theirs in zip(mb.tensors(), dataset.collate_fn_builder()([4, 1]), strict=True):
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours, theirs)


def test_cell_data_floors_the_variance(X: np.ndarray) -> None:
    dataset = populated(np.full((7, 10), 2))
    assert not dataset.local_vars.any()
    assert (dataset.cell_data().l_var == VARIANCE_FLOOR).all()


def test_cell_data_of_corrupted_counts(X: np.ndarray) -> None:
    dataset = populated(X)
    with pytest.raises(ValueError, match=r"there is no corrupted_X; call corrupt\(\) first"):
        dataset.cell_data(corrupted=True)
    dataset.corrupt()
    assert dataset.cell_data(corrupted=True).counts is dataset.corrupted_X


# genes


def test_subsample_genes() -> None:
    rng = np.random.default_rng(0)
    X = rng.poisson(np.linspace(1, 40, 100), (50, 100))
    names = [f"gene_{i}" for i in range(100)]
    dataset = populated(X, gene_names=names)
    dataset.initialize_gene_attribute("position", np.arange(100))
    dataset.subsample_genes(new_ratio_genes=0.4, mode="variance")
    assert dataset.nb_genes == 40
    np.testing.assert_array_equal(dataset.X, X[:, dataset.position])
    assert dataset.X.flags.c_contiguous
    variances = X.var(axis=0)[dataset.position]
    assert (np.diff(variances) <= 0).all()
    assert variances.min() >= np.delete(X.var(axis=0), dataset.position).max()
    dataset.subsample_genes(new_n_genes=25)
    assert dataset.nb_genes == len(dataset.gene_names) == 25
    kept = dataset.gene_names[[1, 6, 7]]
    dataset.subsample_genes(subset_genes=[1, 6, 7], new_n_genes=1)
    assert dataset.gene_names.tolist() == kept.tolist()


def test_variance_puts_the_most_variable_gene_first() -> None:
    X = np.ones((25, 100)) * 100
    X[20:] = np.arange(1, 101)[::-1] * 3 % 301  # gene 0 varies most
    dataset = populated(X[:, ::-1].copy(), gene_names=[f"gene_{i}" for i in range(100)])
    dataset.subsample_genes(mode="variance", new_n_genes=1)
    assert dataset.gene_names.tolist() == [f"gene_{np.argmax(X[:, ::-1].var(axis=0))}"]


@pytest.mark.parametrize(
    "arguments", [{"new_n_genes": 10}, {"new_n_genes": 0}, {"new_ratio_genes": 1.5}, {"mode": "variance"}]
)
def test_no_subsampling(X: np.ndarray, arguments: dict[str, Any], caplog: Any) -> None:
    dataset = populated(X)
    with caplog.at_level(logging.INFO):
        dataset.subsample_genes(**arguments)
    assert dataset.nb_genes == 10
    assert "Not subsampling" in caplog.text


def test_wrong_modes(X: np.ndarray) -> None:
    dataset = populated(X)
    with pytest.raises(ValueError, match="Mode 'seurat_v9' not implemented; it is not one of 'variance', 'seurat_v2'"):
        dataset.subsample_genes(3, mode="seurat_v9")
    with pytest.raises(ValueError, match="needs n_top_genes"):
        dataset.subsample_genes()
    with pytest.raises(ValueError, match="flavor='variance' is not one of 'seurat_v2'"):
        dataset._highly_variable_genes(3, flavor="variance")


@BOTH
def test_highly_variable_genes(layout: Callable) -> None:
    rng = np.random.default_rng(0)
    X = rng.negative_binomial(2, 0.2, (80, 50)) + 1
    X[:, 7] = 4
    dataset = populated(layout(X), batch_indices=np.arange(80) % 2)
    table = dataset._highly_variable_genes(n_top_genes=20)
    assert {"highly_variable_nbatches", "highly_variable_intersection"} <= set(table.columns)
    assert table.index.tolist() == [str(i) for i in range(50)]
    plain = dataset._highly_variable_genes(n_top_genes=20, batch_correction=False)
    assert not {"highly_variable_nbatches", "highly_variable_intersection"} & set(plain.columns)
    assert plain.loc["7", "highly_variable_median_variance"] == 0
    dataset.subsample_genes(20, mode="seurat_v3")
    np.testing.assert_array_equal(dense(dataset.X), X[:, table["highly_variable"].to_numpy()])  # in their order


@BOTH
def test_filter_genes(X: np.ndarray, layout: Callable) -> None:
    names = [f"g{i}" for i in range(10)]
    dataset = populated(layout(X), gene_names=names)
    mask = dataset._get_genes_filter_mask_by_attribute(["g7", "g2"], return_data=False)
    data, same = dataset._get_genes_filter_mask_by_attribute(["g7", "g2"])
    np.testing.assert_array_equal(mask, same)
    dataset.filter_genes_by_attribute(["g7", "g2", "no such gene"])
    assert dataset.gene_names.tolist() == ["g2", "g7"]
    np.testing.assert_array_equal(dense(dataset.X), X[:, [2, 7]])
    np.testing.assert_array_equal(dense(data), X[:, [2, 7]])
    with pytest.raises(ValueError, match="'labels' is not a registered gene attribute"):
        dataset.filter_genes_by_attribute([1], on="labels")
    with pytest.raises(ValueError, match="no gene would be left"):
        dataset.filter_genes_by_attribute(["other"])


@BOTH
def test_filter_genes_by_count(layout: Callable) -> None:
    X = np.array([[1, 0, 3, 1], [1, 2, 0, 1], [1, 0, 0, 1], [1, 0, 5, 1]])
    dataset = populated(layout(X), gene_names=list("abcd"), batch_indices=[0, 0, 1, 1])
    both = copy.deepcopy(dataset)
    both.filter_genes_by_count(per_batch=True)
    assert both.gene_names.tolist() == ["a", "c", "d"]
    dataset.filter_genes_by_count(4)
    assert dataset.gene_names.tolist() == ["a", "c", "d"]
    dataset.filter_genes_by_count(5)
    assert dataset.gene_names.tolist() == ["c"]
    assert dataset.nb_cells == 2  # two cells had nothing else


def test_update_genes_takes_masks_lists_and_positions(X: np.ndarray) -> None:
    mask = np.arange(10) % 2 == 0
    for chosen in (mask, mask.tolist(), np.flatnonzero(mask), np.flatnonzero(mask).tolist(), [-10, 2, 4, 6, -2]):
        dataset = populated(X)
        dataset.normalize()
        dataset.corrupt()
        norm, corrupted = dataset.norm_X, dataset.corrupted_X
        dataset.update_genes(chosen)
        for now, before in ((dataset.X, X), (dataset.norm_X, norm), (dataset.corrupted_X, corrupted)):
            np.testing.assert_array_equal(now, before[:, mask])
        np.testing.assert_allclose(dataset.local_means, np.log(X[:, mask].sum(axis=1)).mean(), rtol=1e-6)
    for wrong, error in (([10], IndexError), ([True], ValueError), (["a"], ValueError), ([[1]], ValueError)):
        with pytest.raises(error):
            dataset.update_genes(wrong)


def test_genes_to_index(X: np.ndarray) -> None:
    names = [f"gene_{i}" for i in range(10)]
    dataset = populated(X, gene_names=names)
    dataset.initialize_gene_attribute("symbol", [name.upper() for name in names])
    assert dataset.genes_to_index(names).tolist() == list(range(10))
    assert dataset.genes_to_index(["gene_3", "gene_0", "gene_3"]).tolist() == [3, 0, 3]
    for given in ([4, 2], np.array([4, 2], dtype=np.int32), (np.int64(4), np.int64(2))):
        assert dataset.genes_to_index(given).tolist() == [4, 2]
    assert dataset.genes_to_index(["GENE_2"], on="symbol").tolist() == [2]
    assert dataset.genes_to_index([]).tolist() == []
    with pytest.raises(IndexError, match=r"unknown genes: \['gene_11'\]"):
        dataset.genes_to_index(["gene_1", "gene_11"])
    with pytest.raises(ValueError, match="no gene_names"):
        populated(X).genes_to_index(["a"])
    with pytest.raises(ValueError, match="repeated values"):
        populated(X, gene_names=["a"] * 10).genes_to_index(["a"])


def test_reorder_genes(X: np.ndarray) -> None:
    names = [f"gene_{i}" for i in range(10)]
    dataset = populated(X, gene_names=names)
    dataset.reorder_genes(["gene_7", "gene_2"])
    assert dataset.gene_names.tolist() == ["gene_7", "gene_2"] + [n for n in names if n not in ("gene_7", "gene_2")]
    np.testing.assert_array_equal(dataset.X[:, :2], X[:, [7, 2]])
    dataset.reorder_genes(["gene_3", "gene_7"], drop_omitted_genes=True)
    np.testing.assert_array_equal(dataset.X, X[:, [3, 7]])
    with pytest.raises(KeyError, match="gene_99"):
        dataset.reorder_genes(["gene_99"])


def test_make_gene_names_lower(X: np.ndarray) -> None:
    dataset = populated(X, gene_names=[f"Gene_{i}" for i in range(10)])
    dataset.make_gene_names_lower()
    assert dataset.gene_names.tolist() == [f"gene_{i}" for i in range(10)]


# cells


@BOTH
def test_subsample_cells(layout: Callable) -> None:
    X = np.arange(1, 6)[[3, 0, 4, 1, 2], None] * np.ones((1, 4))
    for size, expected in ((1.0, [5, 4, 3, 2, 1]), (0.8, [5, 4, 3, 2]), (2, [5, 4]), (np.int64(1), [5])):
        dataset = populated(layout(X))
        dataset.subsample_cells(size)
        assert dense(dataset.X)[:, 0].tolist() == expected


@BOTH
def test_filter_cells(X: np.ndarray, layout: Callable) -> None:
    X[[3, 20]] = 0
    dataset = populated(layout(X), labels=np.arange(25))
    dataset.filter_cells_by_count()
    assert dataset.nb_cells == 23
    assert 3 not in dataset.labels
    assert dataset.n_labels == 23
    unchanged = dataset.X
    dataset.filter_cells_by_count()
    assert dataset.X is unchanged
    with pytest.raises(ValueError, match="no cell would be left"):
        dataset.filter_cells_by_count(10**6)
    assert dataset.nb_cells == 23


def test_update_cells_keeps_everything_aligned(X: np.ndarray) -> None:
    dataset = populated(X, batch_indices=np.arange(25) % 3, labels=np.arange(25))
    dataset.initialize_cell_attribute("a", np.arange(50).reshape(25, 2))
    dataset.normalize()
    norm = dataset.norm_X
    chosen = [7, 2, 2, 24]
    dataset.update_cells(chosen)
    np.testing.assert_array_equal(dataset.X, X[chosen])
    np.testing.assert_array_equal(dataset.norm_X, norm[chosen])
    assert dataset.labels.ravel().tolist() == chosen
    assert dataset.a.tolist() == [[14, 15], [4, 5], [4, 5], [48, 49]]
    assert (dataset.n_batches, dataset.n_labels) == (3, 3)
    assert len(dataset.local_means) == 4


# versions and summaries


@BOTH
def test_normalize(X: np.ndarray, layout: Callable) -> None:
    X[4] = 0
    dataset = populated(layout(X))
    dataset.normalize()
    assert sp.issparse(dataset.norm_X) == sp.issparse(dataset.X)
    expected = X / np.where(X.mean(axis=1, keepdims=True) > 0, X.mean(axis=1, keepdims=True), 1)
    np.testing.assert_allclose(dense(dataset.norm_X), expected, rtol=1e-6)
    assert dataset.dataset_versions == {"norm_X"}


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint8])
def test_corrupt_uniform(layout: Callable, dtype: Any) -> None:
    X = np.random.default_rng(0).poisson(1.0, (200, 50)).astype(dtype)
    X[:, 0] = 1
    dataset = populated(layout(X))
    dataset.corrupt(rate=0.5, corruption="uniform", rng=np.random.default_rng(0))
    np.testing.assert_array_equal(dense(dataset.X), X)
    noisy = dense(dataset.corrupted_X)
    changed = noisy != X
    assert (noisy[changed] == 0).all()
    np.testing.assert_allclose(changed.sum(), 0.05 * (X > 0).sum(), rtol=0.25)


@BOTH
def test_corrupt_binomial(layout: Callable) -> None:
    X = np.random.default_rng(0).poisson(5.0, (200, 50)) * (np.random.default_rng(1).random((200, 50)) < 0.5) * 20
    X[:, 0] = 100
    dataset = populated(layout(X))
    dataset.corrupt(rate=0.3, corruption="binomial", rng=np.random.default_rng(0))
    noisy = dense(dataset.corrupted_X)
    changed = noisy != X
    np.testing.assert_allclose(changed.sum(), 0.3 * (X > 0).sum(), rtol=0.1)
    np.testing.assert_allclose(noisy[changed].sum() / X[changed].sum(), 0.2, atol=0.02)
    assert dataset.dataset_versions == {"corrupted_X"}


def test_corrupt_follows_the_seed(X: np.ndarray) -> None:
    dataset = populated(X)
    draws = []
    for seed in (0, 0, 1):
        np.random.seed(seed)
        dataset.corrupt(rate=1.0, corruption="binomial")
        draws.append(dataset.corrupted_X)
    assert (draws[0] == draws[1]).all()
    assert (draws[0] != draws[2]).any()


def test_wrong_corruptions(X: np.ndarray) -> None:
    dataset = populated(X)
    with pytest.raises(NotImplementedError, match="Unknown corruption method"):
        dataset.corrupt(corruption="gaussian")
    with pytest.raises(ValueError, match="rate=2 is not between 0 and 1"):
        dataset.corrupt(rate=2)


@BOTH
def test_raw_counts_properties(X: np.ndarray, layout: Callable) -> None:
    X[:, 3] = X[:, 3] * (np.arange(25) % 2)
    dataset = populated(layout(X))
    first, second = np.arange(25) < 10, [20, 11, 12]
    got = dataset.raw_counts_properties(first, second)
    norm = X / X.mean(axis=1, keepdims=True)
    groups = (X[first], X[second], X[first] > 0, X[second] > 0, norm[first], norm[second])
    assert len(got) == 6
    for ours, group in zip(got, groups, strict=True):
        np.testing.assert_allclose(ours, group.mean(axis=0), rtol=1e-6)
    dataset.X = layout(3 * X[:, ::-1])
    np.testing.assert_allclose(
        dataset.raw_counts_properties(first, second)[4], norm[first][:, ::-1].mean(axis=0), rtol=1e-6
    )
    with pytest.raises(ValueError, match="a group of cells is empty"):
        dataset.raw_counts_properties([], second)


@BOTH
def test_to_anndata(X: np.ndarray, layout: Callable) -> None:
    dataset = populated(
        layout(X),
        labels=np.arange(25) % 2,
        cell_types=["a", "b"],
        gene_names=[f"g{i}" for i in range(10)],
        cell_attributes_dict={"depth": np.arange(25)[:, None], "wide": np.ones((25, 3))},
        gene_attributes_dict={"length": np.arange(10), "pairs": np.ones((10, 2))},
    )
    adata = dataset.to_anndata()
    np.testing.assert_array_equal(dense(adata.X), X)
    assert list(adata.obs) == ["batch_indices", "depth", "cell_types"]
    assert adata.obs["cell_types"].tolist() == ["a", "b"] * 12 + ["a"]
    assert list(adata.obsm) == ["wide"]
    assert list(adata.var) == ["length"]
    assert list(adata.varm) == ["pairs"]
    assert adata.var_names.tolist() == dataset.gene_names.tolist()
    adata.X[0, 0] = 99
    assert dense(dataset.X)[0, 0] == X[0, 0]
    unnamed = populated(X, labels=np.arange(25) % 2).to_anndata()
    assert unnamed.var_names.tolist() == [str(i) for i in range(10)]
    assert unnamed.obs["labels"].tolist() == [0, 1] * 12 + [0]


# what is refused changes nothing


def test_a_refused_population_changes_nothing(X: np.ndarray) -> None:
    dataset = populated(X, gene_names=list("abcdefghij"), cell_attributes_dict={"day": np.arange(25)})
    before = dict(vars(dataset))
    for wrong in ({"batch_indices": [0, 1]}, {"gene_names": ["a"]}, {"cell_attributes_dict": {"day": [1]}}):
        with pytest.raises(ValueError, match="mismatch"):
            dataset.populate_from_data(X[:6], **wrong)
        assert vars(dataset).keys() == before.keys()
        assert all(
            vars(dataset)[name] is before[name] for name in ("_X", "_labels", "gene_names", "local_means", "day")
        )
        assert dataset.cell_attribute_names == {"batch_indices", "labels", "local_means", "local_vars", "day"}


def test_refused_genes_change_nothing(X: np.ndarray) -> None:
    X[:, 0] = 0
    dataset = populated(X, gene_names=list("abcdefghij"))
    with pytest.raises(ValueError, match="no cell would be left"):
        dataset.update_genes([0])
    assert (dataset.nb_cells, dataset.nb_genes, len(dataset.gene_names)) == (25, 10, 10)


@pytest.mark.parametrize("size", [-1, 0, 26, -0.5, 1.5, "all", True])
def test_a_size_out_of_range_is_refused(X: np.ndarray, size: Any) -> None:
    with pytest.raises(ValueError, match=f"size={size!r} is neither"):
        populated(X).subsample_cells(size)


def test_repeated_genes_and_unknown_modes_are_refused(X: np.ndarray) -> None:
    dataset = populated(X, gene_names=list("abcdefghij"))
    with pytest.raises(ValueError, match="first_genes has repeated names"):
        dataset.reorder_genes(["b", "b"])
    with pytest.raises(ValueError, match="Mode 'varianec' not implemented"):
        dataset.subsample_genes(30, mode="varianec")


def test_names_of_measurements_and_mappings_overwrite_nothing(X: np.ndarray) -> None:
    dataset = populated(X, cell_attributes_dict={"protein": np.arange(25), "gene_names": np.arange(25)})
    assert dataset.gene_names is None
    assert "gene_names_cell" in dataset.cell_attribute_names
    for name in ("protein", "other"):
        dataset.initialize_cell_measurement(CellMeasurement(name, np.ones((25, 2)), "columns", ["a", "b"]))
    assert dataset.protein.shape == (25,)
    assert dataset.cell_measurements_col_mappings == {"protein_cell": "columns", "other": "columns_cell"}
    for _ in range(2):
        dataset.initialize_mapped_attribute("labels", "nb_cells", ["a"])
        dataset.initialize_mapped_attribute("labels", "cell_types", ["a"])
    assert dataset.nb_cells == 25
    assert dataset.attribute_mappings["labels"] == ["cell_types", "nb_cells_mapping"]
    dataset.initialize_mapped_attribute("batch_indices", "cell_types", ["b"])
    assert dataset.cell_types.tolist() == ["a"]


def test_collated_variances_can_be_divided_by(X: np.ndarray) -> None:
    dataset = populated(np.ones((8, 3)))
    assert dataset.collate_fn_builder()([0, 1])[2].tolist() == [[pytest.approx(VARIANCE_FLOOR)]] * 2
    assert not dataset.local_vars.any()


def test_cell_data_is_kept_until_something_changes(X: np.ndarray) -> None:
    dataset = populated(X)
    first = dataset.cell_data()
    assert dataset.cell_data() is first
    dataset.batch_indices = np.arange(25) % 2
    assert dataset.cell_data().batch.tolist() == dataset.batch_indices.ravel().tolist()
    dataset.X = X * 2
    assert np.array_equal(dataset.cell_data().counts, X * 2)

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

from scvi.dataset import CellMeasurement, GeneExpressionDataset

BOTH = pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix])


def populated(X: Any, **arguments: Any) -> GeneExpressionDataset:
    dataset = GeneExpressionDataset()
    dataset.populate_from_data(X, **arguments)
    return dataset


def merged(*datasets: GeneExpressionDataset, **arguments: Any) -> GeneExpressionDataset:
    dataset = GeneExpressionDataset()
    dataset.populate_from_datasets(list(datasets), **arguments)
    return dataset


def dense(X: Any) -> np.ndarray:
    return X.toarray() if sp.issparse(X) else X


def counts(n: int, g: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(3.0, (n, g)) + 1


@pytest.fixture
def first() -> GeneExpressionDataset:
    return populated(
        counts(7, 3), labels=[0, 0, 0, 1, 1, 1, 1], cell_types=["0", "1"], gene_names=["gene_0", "gene_1", "gene_2"]
    )


@pytest.fixture
def second() -> GeneExpressionDataset:
    return populated(counts(2, 3, 1), labels=[0, 1], cell_types=["0", "2"], gene_names=["gene_1", "gene_3", "gene_0"])


def snapshot(dataset: GeneExpressionDataset) -> dict[str, Any]:
    return copy.deepcopy({name: value for name, value in vars(dataset).items() if name != "_cell_data"})


def assert_unchanged(dataset: GeneExpressionDataset, before: dict[str, Any]) -> None:
    now = snapshot(dataset)
    assert now.keys() == before.keys()
    for name, value in before.items():
        np.testing.assert_equal(dense(now[name]), dense(value), err_msg=name)


# lists of matrices


@BOTH
def test_per_batch_list(layout: Callable) -> None:
    Xs = [counts(7, 4), counts(5, 4, 1), counts(3, 4, 2)]
    dataset = GeneExpressionDataset()
    labels = [np.zeros(7, int), [1] * 5, [[2]] * 3]
    dataset.populate_from_per_batch_list(
        [layout(X) for X in Xs], labels_per_batch=labels, gene_names=list("abcd"), cell_types=["x", "y", "z"]
    )
    np.testing.assert_array_equal(dense(dataset.X), np.concatenate(Xs))
    assert sp.issparse(dataset.X) == (layout is not np.asarray)
    codes = [0] * 7 + [1] * 5 + [2] * 3
    assert dataset.batch_indices.ravel().tolist() == dataset.labels.ravel().tolist() == codes
    assert dataset.cell_types.tolist() == ["x", "y", "z"]
    assert dataset.gene_names.tolist() == list("abcd")


def test_per_batch_list_of_one_array_or_of_both_layouts() -> None:
    X = counts(6, 4).reshape(2, 3, 4)
    dataset = GeneExpressionDataset()
    dataset.populate_from_per_batch_list(X)
    np.testing.assert_array_equal(dataset.X, X.reshape(6, 4))
    assert dataset.batch_indices.ravel().tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.cell_types.tolist() == ["undefined"]
    dataset.populate_from_per_batch_list([X[0], sp.csc_matrix(X[1])])
    assert dataset.X.format == "csr"
    np.testing.assert_array_equal(dense(dataset.X), X.reshape(6, 4))


@BOTH
def test_per_label_list(layout: Callable) -> None:
    Xs = [counts(7, 4), counts(5, 4, 1), counts(3, 4, 2)]
    dataset = GeneExpressionDataset()
    dataset.populate_from_per_label_list([layout(X) for X in Xs], [[1] * 7, [1] * 5, [0] * 3], gene_names=list("abcd"))
    assert dataset.labels.ravel().tolist() == [0] * 7 + [1] * 5 + [2] * 3
    assert dataset.batch_indices.ravel().tolist() == [1] * 12 + [0] * 3
    assert dataset.cell_types is None
    assert dataset.n_labels == 3


def test_an_empty_matrix_leaves_its_code_out() -> None:
    dataset = GeneExpressionDataset()
    Xs = [counts(2, 3), np.zeros((0, 3)), counts(1, 3)]
    dataset.populate_from_per_label_list(Xs, [[0, 0], [], [1]])
    assert dataset.labels.ravel().tolist() == [0, 0, 1]
    dataset.populate_from_per_label_list(Xs, remap_attributes=False)
    assert dataset.labels.ravel().tolist() == [0, 0, 2]


def test_wrong_lists() -> None:
    dataset = populated(counts(3, 2))
    before = dataset.X
    for populate, what in (
        (dataset.populate_from_per_batch_list, "batches"),
        (dataset.populate_from_per_label_list, "labels"),
    ):
        with pytest.raises(ValueError, match=rf"All {what} must have same nb_genes; there are \[4, 3\]"):
            populate([counts(2, 4), counts(2, 3)])
        with pytest.raises(ValueError, match="Xs is empty"):
            populate([])
        with pytest.raises(ValueError, match=r"2-dimensional matrices; they have \[1, 1\] dimensions"):
            populate(np.ones((2, 3)))
        with pytest.raises(ValueError, match=r"codes for \[3, 2\] cells; the matrices have \[2, 3\]"):
            populate([counts(2, 4), counts(3, 4)], [[0] * 3, [0] * 2])
    assert dataset.X is before


# data sets


def test_shared_and_separate_labels(first: GeneExpressionDataset, second: GeneExpressionDataset) -> None:
    expected = np.concatenate([first.X[:, [0, 1]], second.X[:, [2, 0]]])
    for shared, labels, types in (
        (True, [0, 0, 0, 1, 1, 1, 1, 0, 2], ["0", "1", "2"]),
        (False, [0, 0, 0, 1, 1, 1, 1, 2, 3], ["0", "1", "0", "2"]),
    ):
        dataset = merged(first, second, shared_labels=shared)
        assert dataset.labels.ravel().tolist() == labels
        assert dataset.cell_types.tolist() == types
        assert dataset.n_labels == len(types)
        assert dataset.batch_indices.ravel().tolist() == [0] * 7 + [1] * 2
        assert dataset.gene_names.tolist() == ["gene_0", "gene_1"]
        np.testing.assert_array_equal(dataset.X, expected)
        assert dataset.attribute_mappings["labels"] == ["cell_types"]
        assert len(dataset.local_means) == 9


@BOTH
def test_inputs_are_not_changed(layout: Callable) -> None:
    rng = np.random.default_rng(0)
    parts = []
    for seed, names in ((0, list("abcd")), (1, list("dcxba"))):
        part = populated(
            layout(counts(6, len(names), seed)),
            Ys=[CellMeasurement("dev", layout(rng.poisson(2.0, (6, 3))), "devs", ["q", f"p{seed}", "o"])],
            batch_indices=[3, 1, 1, 3, 1, 1],
            labels=[4, 4, 2, 2, 4, 2],
            gene_names=names,
            cell_types=list("uvwxyz"),
            remap_attributes=False,
        )
        part.normalize()
        parts.append(part)
    before = [snapshot(part) for part in parts]
    references = {"batch_indices": None}
    options = {"dev": False}
    dataset = merged(*parts, mapping_reference_for_sharing=references, cell_measurement_intersection=options)
    assert (references, options) == ({"batch_indices": None}, {"dev": False})
    for part, state in zip(parts, before, strict=True):
        assert_unchanged(part, state)
    assert dataset.batch_indices.ravel().tolist() == [1, 0, 0, 1, 0, 0, 3, 2, 2, 3, 2, 2]
    assert dataset.cell_types.tolist() == ["w", "y"]
    for values in (dataset.X, dataset.dev):  # and share no memory with what comes of them
        (values.data if sp.issparse(values) else values)[:] = 0
    dataset.labels[:] = 0
    for part, state in zip(parts, before, strict=True):
        assert_unchanged(part, state)


def test_a_data_set_can_be_merged_into_itself(first: GeneExpressionDataset, second: GeneExpressionDataset) -> None:
    expected = merged(first, second)
    first.populate_from_datasets([first, second])
    np.testing.assert_array_equal(first.X, expected.X)
    assert first.cell_types.tolist() == expected.cell_types.tolist()


def test_layouts_of_a_merge(first: GeneExpressionDataset, second: GeneExpressionDataset) -> None:
    assert isinstance(merged(first, second).X, np.ndarray)
    sparse = populated(sp.csr_matrix(second.X), gene_names=second.gene_names)
    for parts in ((first, sparse), (sparse, first), (sparse, sparse)):
        dataset = merged(*parts, shared_labels=False)
        assert dataset.X.format == "csr"
    assert merged(sparse).X.nnz == sparse.X.nnz


def test_mappings_are_concatenated_or_shared(first: GeneExpressionDataset, second: GeneExpressionDataset) -> None:
    for part, names in ((first, ["fish_1"]), (second, ["scrna_1"])):
        part.initialize_mapped_attribute("batch_indices", "experiment", names)
    first.initialize_mapped_attribute("batch_indices", "only_here", ["a"])
    dataset = merged(first, second)
    assert dataset.experiment.tolist() == ["fish_1", "scrna_1"]
    assert not hasattr(dataset, "only_here")
    dataset = merged(dataset, dataset, mapping_reference_for_sharing={"batch_indices": "experiment"})
    assert dataset.experiment.tolist() == ["fish_1", "scrna_1"]
    assert dataset.batch_indices.ravel().tolist() == ([0] * 7 + [1] * 2) * 2
    assert dataset.attribute_mappings["batch_indices"] == ["experiment"]


def test_further_lists_of_shared_labels(first: GeneExpressionDataset, second: GeneExpressionDataset) -> None:
    first.initialize_mapped_attribute("labels", "colour", ["red", "green"])
    second.initialize_mapped_attribute("labels", "colour", ["rouge", "blue"])
    assert merged(first, second).colour.tolist() == ["red", "green", "blue"]
    assert merged(first, second, shared_labels=False).colour.tolist() == ["red", "green", "rouge", "blue"]


def test_gene_attributes(first: GeneExpressionDataset, second: GeneExpressionDataset) -> None:
    first.initialize_gene_attribute("start", [10, 11, 12])
    second.initialize_gene_attribute("start", [0, 0, 0])
    second.initialize_gene_attribute("chromosome", [1, 0, 1])
    second.initialize_mapped_attribute("chromosome", "chromosomes", ["X", "Y"])
    dataset = merged(first, second)
    assert dataset.start.tolist() == [10, 11]
    assert dataset.chromosome.tolist() == [1, 1]
    assert dataset.chromosomes.tolist() == ["X", "Y"]
    assert dataset.gene_attribute_names == {"gene_names", "start", "chromosome"}
    assert dataset.attribute_mappings["chromosome"] == ["chromosomes"]


def test_cell_attributes(first: GeneExpressionDataset, second: GeneExpressionDataset, caplog: Any) -> None:
    for part, n in ((first, 7), (second, 2)):
        part.initialize_cell_attribute("column", np.full((n, 1), n))
        part.initialize_cell_attribute("either", np.full((n, 1) if n == 7 else n, n))
        part.initialize_cell_attribute("wide", np.ones((n, n)))
        part.initialize_cell_attribute("sparse", sp.csr_matrix(np.eye(n, 4)))
        part.initialize_cell_attribute("plate", np.arange(n) % 2 + 5, categorical=True)
        part.initialize_cell_attribute("chip", np.full(n, n), categorical=n == 7)
    first.initialize_cell_attribute("only_here", np.ones(7))
    with caplog.at_level(logging.WARNING):
        dataset = merged(first, second)
    assert dataset.column.tolist() == dataset.either.tolist() == [[7]] * 7 + [[2]] * 2
    assert not {"wide", "only_here"} & dataset.cell_attribute_names
    assert "wide is left out: it has shapes [(7, 7), (2, 2)]" in caplog.text
    assert "chip is categorical in some data sets only" in caplog.text
    np.testing.assert_array_equal(dataset.sparse.toarray(), np.concatenate([np.eye(7, 4), np.eye(2, 4)]))
    assert dataset.plate.ravel().tolist() == [0, 1, 0, 1, 0, 1, 0, 2, 3]
    assert dataset.chip.tolist() == [7] * 7 + [2] * 2
    assert dataset.cell_categorical_attribute_names == {"batch_indices", "labels", "plate"}


@BOTH
def test_measurements(layout: Callable) -> None:
    values = [np.arange(20).reshape(5, 4), 100 + np.arange(25).reshape(5, 5)]
    columns = [["gabou", "achille", "pedro", "oclivio"], ["gabou", "oclivio", "achille", "pedro", "extra"]]
    parts = [
        populated(
            counts(5, 3),
            Ys=[CellMeasurement("dev", layout(each), f"dev_names_{i}", names)],
            gene_names=list("abc"),
        )
        for i, (each, names) in enumerate(zip(values, columns, strict=True))
    ]
    dataset = merged(*parts)
    assert dataset.dev_names_0.tolist() == ["achille", "gabou", "oclivio", "pedro"]
    assert dataset.cell_measurements_col_mappings == {"dev": "dev_names_0"}
    assert sp.issparse(dataset.dev) == (layout is not np.asarray)
    together = np.concatenate([values[0][:, [1, 0, 3, 2]], values[1][:, [2, 0, 1, 3]]])
    np.testing.assert_array_equal(dense(dataset.dev), together)
    dataset = merged(*parts, cell_measurement_intersection={"dev": False})
    assert dataset.dev_names_0.tolist() == ["achille", "extra", "gabou", "oclivio", "pedro"]
    np.testing.assert_array_equal(dense(dataset.dev)[:5], np.insert(values[0][:, [1, 0, 3, 2]], 1, 0, axis=1))
    np.testing.assert_array_equal(dense(dataset.dev)[5:], values[1][:, [2, 4, 0, 1, 3]])
    masks = dataset.get_batch_mask_cell_measurement("dev")
    assert [mask.tolist() for mask in masks] == [[True, False, True, True, True], [True] * 5]
    with pytest.raises(ValueError, match="'devv' is not a registered measurement; did you mean 'dev'"):
        dataset.get_batch_mask_cell_measurement("devv")


def test_columns_may_be_numbers() -> None:
    def part(names: Any) -> GeneExpressionDataset:
        return populated(counts(2, 1), Ys=[CellMeasurement("p", np.array([[1, 2]] * 2), "ps", names)], gene_names=["a"])

    dataset = merged(part([10, 9]), part([9, 11]), cell_measurement_intersection={"p": False})
    assert dataset.ps.tolist() == [9, 10, 11]
    assert dataset.p.tolist() == [[2, 1, 0]] * 2 + [[1, 0, 2]] * 2
    assert merged(part([10, 9]), part(["9", "x"])).ps.tolist() == ["9"]
    with pytest.raises(ValueError, match="no column of p is in all data sets; cell_measurement_intersection="):
        merged(part(["a", "b"]), part(["c", "d"]))
    with pytest.raises(ValueError, match="ps of data set 1 of the list has repeated names"):
        merged(part(["a", "b"]), part(["a", "a"]))


def test_what_does_not_fit_together_is_refused(
    first: GeneExpressionDataset, second: GeneExpressionDataset, caplog: Any
) -> None:
    dataset = merged(first)
    before = snapshot(dataset)
    unnamed = populated(counts(2, 3), labels=[0, 1], gene_names=first.gene_names)
    repeated = populated(counts(2, 3), gene_names=["gene_0", "gene_0", "gene_1"])
    for parts, arguments, message in (
        ([], {}, "gene_datasets_list is empty"),
        ([first, populated(counts(2, 3))], {}, "data set 1 of the list has no gene_names"),
        ([first, GeneExpressionDataset()], {}, "data set 1 of the list has no gene_names"),
        ([first, populated(counts(2, 1), gene_names=["GENE_0"])], {}, "no gene in common"),
        ([first, repeated], {}, "data set 1 of the list has several genes called 'gene_0'"),
        ([first, unnamed], {}, "not all data sets have 'cell_types', .* shared_labels=False keeps them apart"),
        ([first, second], {"mapping_reference_for_sharing": {"batch_indices": "run"}}, "not all data sets have 'run'"),
        ([first, second], {"mapping_reference_for_sharing": {"day": "days"}}, "'day' is no such attribute"),
        ([first, second], {"cell_measurement_intersection": {"dev": True}}, "'dev' is no such attribute"),
    ):
        with pytest.raises(ValueError, match=message):
            dataset.populate_from_datasets(parts, **arguments)
        assert_unchanged(dataset, before)
    with pytest.raises(TypeError, match=r"holds a AnnData; pass data sets \(AnnDatasetFromAnnData makes one\)"):
        dataset.populate_from_datasets([first, AnnData(counts(2, 2))])
    assert merged(first, unnamed, shared_labels=False).cell_types is None


def test_genes_of_the_first_data_set_lead() -> None:
    names = [["c", "a", "b"], ["b", "c", "z", "a"]]
    dataset = merged(*(populated(counts(2, len(each)), gene_names=each) for each in names))
    assert dataset.gene_names.tolist() == ["c", "a", "b"]


def test_genes_and_types_of_a_merge_of_selections(first: GeneExpressionDataset, second: GeneExpressionDataset) -> None:
    first.update_genes([0, 1])
    first.filter_cell_types(["1"])
    second.filter_cell_types([0])
    dataset = merged(first, second)
    assert (dataset.nb_cells, dataset.nb_genes) == (5, 2)
    assert dataset.cell_types.tolist() == ["1", "0"]
    assert dataset.labels.ravel().tolist() == [0, 0, 0, 0, 1]

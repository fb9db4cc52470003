from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scvi.dataset import GeneExpressionDataset


@pytest.fixture
def dataset() -> GeneExpressionDataset:
    """Six types of two cells each."""
    dataset = GeneExpressionDataset()
    dataset.populate_from_data(
        np.random.default_rng(0).poisson(2.0, (12, 5)) + 1,
        labels=np.repeat(np.arange(6), 2),
        cell_types=[f"type_{i}" for i in range(6)],
    )
    dataset.initialize_mapped_attribute("labels", "rank", np.arange(6) * 10)
    return dataset


def of_cells(dataset: GeneExpressionDataset) -> list[str]:
    return dataset.cell_types[dataset.labels.ravel()].tolist()


def test_filter_cells_by_attribute(dataset: GeneExpressionDataset) -> None:
    dataset.initialize_cell_attribute("day", np.array(list("abcabcabcabc")))
    dataset.initialize_cell_attribute("wide", np.ones((12, 2)))
    dataset.filter_cells_by_attribute(["a", "c"], on="day")
    assert dataset.day.tolist() == list("acacacac")
    dataset.filter_cells_by_attribute([0, 5])
    assert dataset.labels.ravel().tolist() == [0, 5]
    with pytest.raises(ValueError, match="'night' is not a registered cell attribute"):
        dataset.filter_cells_by_attribute([1], on="night")
    with pytest.raises(ValueError, match="wide has shape"):
        dataset.filter_cells_by_attribute([1], on="wide")
    with pytest.raises(ValueError, match="no cell would be left"):
        dataset.filter_cells_by_attribute([77])


@pytest.mark.parametrize(
    "which", [["type_4", "type_1"], [4, 1], np.array([1, 4], dtype=np.uint8), ("type_1", "type_4")]
)
def test_filter_cell_types(dataset: GeneExpressionDataset, which: Any) -> None:
    dataset.filter_cell_types(which)
    assert dataset.labels.ravel().tolist() == [1, 1, 4, 4]
    assert of_cells(dataset) == ["type_1"] * 2 + ["type_4"] * 2
    assert dataset.n_labels == 2
    dataset.remap_categorical_attributes()
    assert dataset.labels.ravel().tolist() == [0, 0, 1, 1]
    assert dataset.cell_types.tolist() == ["type_1", "type_4"]
    assert dataset.rank.tolist() == [10, 40]


def test_cell_types_to_labels(dataset: GeneExpressionDataset) -> None:
    labels = dataset.cell_types_to_labels(["type_5", "type_0"])
    assert labels.tolist() == [5, 0]
    assert labels.dtype == np.int64
    assert dataset.cell_types_to_labels([]).tolist() == []
    dataset.cell_types = np.array(["a", "b", "a", "c", "d", "e"])
    assert dataset.cell_types_to_labels(["b", "a"]).tolist() == [1, 0, 2]


@pytest.mark.parametrize("which", [["type_0", "type_1"], [0, 1]])
def test_merge_cell_types(dataset: GeneExpressionDataset, which: list[Any]) -> None:
    dataset.merge_cell_types(which, "merged")
    assert dataset.labels.ravel().tolist() == [6] * 4 + [2, 2, 3, 3, 4, 4, 5, 5]
    assert dataset.cell_types.tolist() == [
        "type_0#merged",
        "type_1#merged",
        *(f"type_{i}" for i in range(2, 6)),
        "merged",
    ]
    assert dataset.n_labels == 5
    assert dataset.rank.tolist() == [0, 10, 20, 30, 40, 50, 0]
    dataset.remap_categorical_attributes()
    assert dataset.cell_types.tolist() == ["type_2", "type_3", "type_4", "type_5", "merged"]
    assert of_cells(dataset)[:4] == ["merged"] * 4
    assert dataset.rank.tolist() == [20, 30, 40, 50, 0]


def test_a_type_that_has_the_new_name_is_merged_too(dataset: GeneExpressionDataset) -> None:
    dataset.merge_cell_types(["type_3"], "type_2")
    dataset.remap_categorical_attributes()
    assert dataset.cell_types.tolist() == ["type_0", "type_1", "type_4", "type_5", "type_2"]
    assert of_cells(dataset).count("type_2") == 4


def test_map_cell_types(dataset: GeneExpressionDataset) -> None:
    dataset.map_cell_types({("type_0", "type_2"): "even", ("type_1", "type_3"): "odd", "type_5": "last"})
    dataset.remap_categorical_attributes()
    assert dataset.cell_types.tolist() == ["type_4", "even", "odd", "last"]
    assert of_cells(dataset) == ["even"] * 2 + ["odd"] * 2 + ["even"] * 2 + ["odd"] * 2 + ["type_4"] * 2 + ["last"] * 2
    with pytest.raises(ValueError, match="there is no cell type 'odd'"):
        dataset.map_cell_types({("even", "odd"): "both", ("odd",): "again"})
    assert dataset.cell_types.tolist() == ["type_4", "even", "odd", "last"]  # as before
    dataset.map_cell_types({(0, 1): "first"})
    assert dataset.cell_types[-1] == "first"


def test_reorder_cell_types(dataset: GeneExpressionDataset) -> None:
    before, order = of_cells(dataset), ["type_3", "type_1"]
    dataset.reorder_cell_types(order)
    assert order == ["type_3", "type_1"]
    assert dataset.cell_types.tolist() == ["type_3", "type_1", "type_0", "type_2", "type_4", "type_5"]
    assert dataset.rank.tolist() == [30, 10, 0, 20, 40, 50]
    assert of_cells(dataset) == before
    dataset.filter_cell_types(["type_4", "type_1"])
    dataset.reorder_cell_types(["type_4"])
    assert dataset.cell_types.tolist() == ["type_4", "type_3", "type_1", "type_0", "type_2", "type_5"]  # none is lost
    assert of_cells(dataset) == ["type_1"] * 2 + ["type_4"] * 2
    dataset.reorder_cell_types([2, 0])
    assert dataset.cell_types[:3].tolist() == ["type_1", "type_4", "type_3"]
    with pytest.raises(ValueError, match="new_order has repeated cell types"):
        dataset.reorder_cell_types(["type_4", "type_4"])


@pytest.mark.parametrize(
    ("which", "message"),
    [
        (["type_0", "tipe_1"], "there is no cell type 'tipe_1'; did you mean 'type_1'"),
        ([0, 6], "there is no cell type 6; there are 6, numbered from 0"),
        ([-1], "there is no cell type -1"),
        ([0.5], "by names or by integer codes; got float64"),
        ([], "no cell types to merge"),
    ],
)
def test_wrong_types(dataset: GeneExpressionDataset, which: list[Any], message: str) -> None:
    before = dataset.labels
    with pytest.raises(ValueError, match=message):
        dataset.merge_cell_types(which, "new")
    if which and which != [0, 6] and which != [-1]:
        with pytest.raises(ValueError, match=message):
            dataset.filter_cell_types(which)
    assert dataset.labels is before


def test_labels_without_names(dataset: GeneExpressionDataset) -> None:
    dataset.populate_from_data(dataset.X, labels=np.arange(12) % 3)
    for method in (
        lambda: dataset.merge_cell_types([0], "a"),
        lambda: dataset.reorder_cell_types([1]),
        lambda: dataset.cell_types_to_labels(["a"]),
        lambda: dataset.filter_cell_types(["a"]),
    ):
        with pytest.raises(ValueError, match="labels have no names here"):
            method()
    dataset.filter_cell_types([1])
    assert set(dataset.labels.ravel()) == {1}

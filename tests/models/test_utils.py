from __future__ import annotations

import pytest
import torch

from scvi._checks import check_choice
from scvi.models.utils import broadcast_labels, enumerate_discrete, iterate, one_hot


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.float32, torch.float64])
def test_one_hot(dtype: torch.dtype) -> None:
    out = one_hot(torch.tensor([[2], [0], [1]], dtype=dtype), 4)
    assert out.dtype == torch.float32
    assert out.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0]]


@pytest.mark.parametrize("index", [torch.tensor([1, 0]), torch.tensor([[4]]), torch.tensor([[-1]])], ids=str)
def test_one_hot_needs_a_column_of_known_codes(index: torch.Tensor) -> None:
    with pytest.raises((RuntimeError, IndexError)):
        one_hot(index, 4)


def test_enumerate_discrete_goes_label_by_label() -> None:
    out = enumerate_discrete(torch.zeros(2, 7), 3)
    assert out.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]]


def test_iterate_keeps_containers_and_none() -> None:
    assert iterate([1, (2, None), [3]], lambda v: v * 10) == [10, (20, None), [30]]
    assert iterate(None, lambda v: v) is None
    assert iterate(4, lambda v: v + 1) == 5
    assert iterate({"a": 1}, lambda v: v) == {"a": 1}


def test_broadcast_labels_needs_a_reference() -> None:
    with pytest.raises(ValueError, match="Broadcast must have at least one reference argument"):
        broadcast_labels(torch.zeros(2, 1), n_broadcast=3)


def test_broadcast_known_labels() -> None:
    x, z = torch.rand(2, 5), torch.rand(2, 3)
    ys, same_x, none, same_z = broadcast_labels(torch.tensor([[2], [0]]), x, None, z, n_broadcast=3)
    assert ys.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert same_x is x
    assert none is None
    assert same_z is z


def test_broadcast_unknown_labels() -> None:
    x, row = torch.rand(2, 5), torch.rand(2)
    ys, xs, none, rows = broadcast_labels(None, x, None, row, n_broadcast=3)
    assert torch.equal(ys, enumerate_discrete(x, 3))
    assert torch.equal(xs, torch.cat([x, x, x]))
    assert none is None
    assert torch.equal(rows, torch.cat([row, row, row]))
    # Back to cells: view(labels, cells) and transpose.
    assert torch.equal(rows.view(3, 2).t(), row[:, None].expand(2, 3))


def test_check_choice_names_everything() -> None:
    check_choice("dispersion", "gene", ["gene", "gene-batch"])
    with pytest.raises(ValueError, match=r"dispersion='gene-bach' is not one of 'gene', 'gene-batch'"):
        check_choice("dispersion", "gene-bach", ["gene", "gene-batch"])

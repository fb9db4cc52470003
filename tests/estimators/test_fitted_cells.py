"""Cells of a fit, by name: what is written of them, and where they are found."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scvi.estimators.fitted_cells import FittedCells

NAMES = st.lists(st.text(max_size=5), min_size=1, max_size=12)


@given(NAMES, st.randoms())
def test_what_is_written_is_read(names: list[str], random) -> None:
    all_names = np.array(names, dtype=object)
    side = np.array([i for i in range(len(names)) if random.random() < 0.5], dtype=np.int64)
    (cells,) = FittedCells.of(all_names, side)
    read = FittedCells.from_tensors(cells.tensors(), cells.among)
    assert read.names.tolist() == cells.names.tolist()
    order = list(range(len(names)))
    random.shuffle(order)
    for index in (pd.Index(all_names), pd.Index(all_names[order]), pd.Index([*names, "another"])):
        assert read.within(index).tolist() == cells.within(index).tolist()
        assert {index[i] for i in read.within(index)} <= {names[i] for i in side}
    assert read.within(pd.Index(all_names)).tolist() == side.tolist()
    once = [names[i] for i in side if names.count(names[i]) == 1]
    if order != sorted(order) and all_names[order].tolist() != names:
        assert sorted(all_names[order][read.within(pd.Index(all_names[order]))]) == sorted(once)


def test_where_there_are_no_cells_none_is_found() -> None:
    (cells,) = FittedCells.of(np.array(["a", "b"], dtype=object), np.array([1]))
    assert cells.within(None).tolist() == []


def test_many_long_names() -> None:
    names = np.array([f"{'experiment/' * 5}sample-{i % 97}/AAACCTGAGAAACCAT-{i}" for i in range(100_000)], dtype=object)
    side = np.arange(0, len(names), 3)
    (cells,) = FittedCells.of(names, side)
    read = FittedCells.from_tensors(cells.tensors(), cells.among)
    assert np.array_equal(read.within(pd.Index(names)), side)
    assert np.array_equal(read.within(pd.Index(names[::-1])), (len(names) - 1 - side)[::-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"": torch.tensor([0.5])}, "positions are not whole numbers"),
        ({"": torch.tensor([[1]])}, "positions are not whole numbers"),
        ({"": torch.tensor([-1])}, "positions are not whole numbers"),
        ({"ends": torch.tensor([2, 1])}, "names do not follow one another"),
        ({"ends": torch.tensor([1, 99])}, "names do not follow one another"),
        ({"ends": torch.tensor([-1, 2])}, "names do not follow one another"),
        ({"names": torch.tensor([1.0, 2.0])}, "names do not follow one another"),
        ({"names": torch.tensor([255, 255], dtype=torch.uint8)}, "codec can't decode"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, torch.Tensor], message: str) -> None:
    (cells,) = FittedCells.of(np.array(["a", "b"], dtype=object), np.array([0, 1]))
    with pytest.raises(ValueError, match=message):
        FittedCells.from_tensors({**cells.tensors(), **change}, cells.among)

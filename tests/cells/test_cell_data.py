"""Cells sliced into minibatches."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData

from scvi.cells import cell_data as module
from scvi.dataset import declare, encode


def test_positions(adata: AnnData) -> None:
    cells = encode(adata, declare(adata)[0])
    assert cells.positions().tolist() == list(range(60))
    assert cells.positions([4, 2, 2]).tolist() == [4, 2, 2]
    assert cells.positions(np.arange(60) > 57).tolist() == [58, 59]
    assert cells.positions([]).tolist() == []
    for wrong, error, message in (
        ([0, 60], IndexError, "holds 60; there are 60 cells, numbered from 0 to 59"),
        ([-1], IndexError, "holds -1"),
        ([0.5], ValueError, "list of cell positions or a mask"),
        (["cell1"], ValueError, "list of cell positions"),
        ([[1]], ValueError, "list of cell positions"),
        ([True], ValueError, "the mask in indices has 1 values for 60 cells"),
    ):
        with pytest.raises(error, match=message):
            cells.positions(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 7, 60, 100])
def test_minibatches_keep_the_order(adata: AnnData, counts: np.ndarray, size: int) -> None:
    cells = encode(adata, declare(adata)[0])
    order = np.random.default_rng(0).permutation(60)[:31]
    parts = list(cells.minibatches(order, batch_size=size))
    assert [len(part) for part in parts] == [min(size, 31 - start) for start in range(0, 31, size)]
    np.testing.assert_array_equal(torch.cat([part.x for part in parts]).numpy(), counts[order])


@pytest.mark.parametrize("size", [0, -3])
def test_minibatches_have_a_size(adata: AnnData, size: int) -> None:
    cells = encode(adata, declare(adata)[0])
    with pytest.raises(ValueError, match=f"batch_size={size} is below 1"):
        next(cells.minibatches(batch_size=size))


@pytest.mark.parametrize("layout", [np.asarray, sp.csr_matrix])
def test_totals_and_moments_of_some_cells(
    make: Callable[..., AnnData], counts: np.ndarray, monkeypatch: pytest.MonkeyPatch, layout: Callable
) -> None:
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 8)
    adata = make(layout)
    cells = encode(adata, declare(adata)[0])
    some = np.random.default_rng(0).integers(0, 60, 33)
    np.testing.assert_array_equal(cells.totals(some), counts[some].sum(axis=1))
    np.testing.assert_allclose(cells.moments(some)[:2], (counts[some].mean(axis=0), counts[some].var(axis=0)))
    assert cells.totals([]).shape == (0,)

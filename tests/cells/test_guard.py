"""Counts are looked at when they are read, each cell once, and nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData

from scvi.cells import cell_data, guard, storage
from scvi.cells.cell_data import CellData
from scvi.cells.count_checks import BadCounts
from scvi.cells.encode import encode
from scvi.cells.setup import declare

LAYOUTS = [np.asarray, sp.csr_matrix, sp.csc_matrix]
CHANGED = r"adata\.X has changed since the model was made.* the counts of 'cell7' are others \(1 of the cells"


def known(adata: AnnData) -> CellData:
    """Cells of which all counts were looked at before."""
    schema, _, digests = declare(adata)
    return encode(adata, schema, validate=False, digests=digests)


def foreign(adata: AnnData) -> CellData:
    """Cells of which nothing is known."""
    return encode(adata, declare(adata, non_integer="refuse").schema, validate=False)


READERS: dict[str, Callable[[CellData, np.ndarray], Any]] = {
    "minibatch": lambda cells, rows: cells.minibatch(rows),
    "minibatches": lambda cells, rows: list(cells.minibatches(rows, 4)),
    "epoch": lambda cells, rows: list(cells.epoch(rows, 4, np.random.default_rng(0))),
    "totals": lambda cells, rows: cells.totals(rows),
    "moments": lambda cells, rows: cells.moments(rows),
    "loaded": lambda cells, rows: cells.loaded(rows),
    "reordered": lambda cells, rows: list(cells.reordered(np.arange(len(cells))[::-1]).minibatches(59 - rows)),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("layout", LAYOUTS[:2])
def test_a_changed_count_is_found_where_it_is_read(make: Callable[..., AnnData], layout: Any, reader: str) -> None:
    adata = make(layout)
    cells, rows = known(adata), np.arange(5, 20)
    READERS[reader](cells, rows)
    adata.X[7, 0] += 1
    if reader != "reordered":  # which are new cells each time
        READERS[reader](cells, rows)  # each cell is looked at once
    fresh = encode(adata, declare(make(layout)).schema, validate=False, digests=cells.guard.digests)
    READERS[reader](fresh, np.arange(8, 20))
    with pytest.raises(BadCounts, match=CHANGED):
        READERS[reader](fresh, rows)
    with pytest.raises(BadCounts, match=CHANGED):  # it is not forgotten
        READERS[reader](fresh, rows)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 0.5])
def test_what_is_no_count_is_found_where_it_is_read(adata: AnnData, value: float, reader: str) -> None:
    cells = foreign(adata)
    adata.X[7, 2] = value
    READERS[reader](cells, np.arange(8, 20))
    with pytest.raises(BadCounts, match=r"adata\.X holds a .* in cell 'cell7', gene 'gene2'.*raw counts"):
        READERS[reader](cells, np.arange(5, 20))


def test_only_genes_that_are_read_are_looked_at(adata: AnnData) -> None:
    schema, _, digests = declare(adata, mask_var="chosen")
    adata.X[:, 1] = 0.5
    cells = encode(adata, schema, validate=False, digests=digests)
    assert len(list(cells.minibatches())) == 1


def test_genes_in_another_order_are_the_same_counts(adata: AnnData) -> None:
    schema, _, digests = declare(adata)
    other = adata[:, ::-1].copy()
    assert list(encode(other, schema, validate=False, digests=digests).minibatches())


def test_cells_without_counts_are_told_when_all_are_read(adata: AnnData) -> None:
    schema = declare(adata).schema
    adata.X[[4, 9, 30]] = 0
    cells = encode(adata, schema, validate=False)
    with pytest.warns(UserWarning, match=r"2 of 20 cells have no count .*\('cell4', 'cell9'\)") as caught:
        list(cells.minibatches(np.arange(20), 5))
    assert len(caught) == 1
    assert list(cells.minibatches(np.arange(20), 5))  # said once
    with pytest.warns(UserWarning, match=r"1 of 20 cells have no count .*\('cell30'\)"):
        list(cells.minibatches(np.arange(40), 5))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_that_changed(make: Callable[..., AnnData], tmp_path: Path, layout: Any) -> None:
    adata = make(layout)
    schema, _, digests = declare(adata)
    adata.X[7, 0] += 1
    adata.write_h5ad(tmp_path / "x.h5ad")
    backed = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    for reader in ("minibatches", "epoch", "moments", "loaded"):
        cells = encode(backed, schema, validate=False, digests=digests)
        with pytest.raises(BadCounts, match=CHANGED):
            READERS[reader](cells, np.arange(60))
    backed.file.close()


def test_counts_that_go_to_a_device(adata: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cell_data, "fits", lambda counts, device: True)
    cells = known(adata)
    adata.X[7, 0] += 1
    with pytest.raises(BadCounts, match=CHANGED):
        cells.on(torch.device("cpu"))


def test_no_row_is_looked_at_twice_or_in_vain(adata: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often cells are read, and however many there are."""
    looked: list[int] = []
    digests = guard.row_digests
    monkeypatch.setattr(guard, "row_digests", lambda rows: looked.append(len(rows)) or digests(rows))
    monkeypatch.setattr(storage, "_BLOCK_VALUES", 40)
    cells = known(adata)
    for _ in range(3):
        list(cells.epoch(np.arange(10), 5, np.random.default_rng(0)))
    assert sum(looked) == 10
    cells.totals(np.arange(12))
    assert sum(looked) == 10 + 12  # two of them are new


JUDGES = ["minibatches", "epoch", "totals", "moments", "reordered"]


@pytest.mark.parametrize("reader", JUDGES)
def test_counts_that_look_normalised_are_refused_when_all_are_read(adata: AnnData, reader: str) -> None:
    cells = encode(adata, declare(adata).schema, validate=False)  # estimates are taken
    adata.X[:] = np.log1p(1e4 * adata.X / adata.X.sum(axis=1, keepdims=True))
    with pytest.raises(BadCounts, match=r"holds a non-integer value.* Its values"):
        READERS[reader](cells, np.arange(60))


def test_counts_that_look_normalised_are_refused_on_their_way_to_a_device(
    adata: AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cell_data, "fits", lambda counts, device: True)
    cells = encode(adata, declare(adata).schema, validate=False)  # estimates are taken
    adata.X[:] = np.log1p(1e4 * adata.X / adata.X.sum(axis=1, keepdims=True))
    with pytest.raises(BadCounts, match=r"holds a non-integer value.* Its values"):
        cells.on(torch.device("cpu"))

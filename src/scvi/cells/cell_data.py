"""Cells as a model reads them: aligned arrays and counts, sliced into minibatches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from scvi.cells.chosen import plain
from scvi.cells.epoch_order import (
    ALL,
    Portion,
    ahead,
    count_minibatches,
    draw_buffers,
    draw_minibatches,
    minibatch_ends,
)
from scvi.cells.estimates import rounded
from scvi.cells.guard import Guard
from scvi.cells.minified import Kept
from scvi.cells.on_disk import OnDisk
from scvi.cells.storage import (
    Counts,
    Reordered,
    Rows,
    as_dense,
    buffer_cells,
    moments,
    read_weights,
    row_sums,
    take,
)
from scvi.kernels import SparseRows, rows_to_sparse
from scvi.minibatch import PER_CELL, Minibatch, PerCell

_ROWS_AT_ONCE = 4096
_SHARE = 0.5  # of the free memory of a device that counts may take
_ENTRY_BYTES = 8  # a gene and a value
_DTYPES = {name: np.dtype(dtype) for name, dtype in PER_CELL.items()}


@dataclass(frozen=True, eq=False)
class Resident:
    """Counts (n, g), of the genes that are read, in the memory of a GPU.

    Minibatches are gathered there, and the CPU sends positions only.
    """

    rows: SparseRows
    starts: np.ndarray  # (n + 1,) as `rows.starts`, in the memory of the host

    @property
    def shape(self) -> torch.Size:
        return self.rows.shape

    def take(self, cells: np.ndarray) -> SparseRows:
        """Cells in any order, on the device."""
        return self.rows.take(cells, self.starts)

    @classmethod
    def of(cls, cells: CellData, device: torch.device) -> Resident:
        """The counts of all cells, which are looked at on their way."""
        n, n_genes = len(cells), cells.n_genes
        parts = [
            cells.read(np.arange(start, min(start + _ROWS_AT_ONCE, n))).to(device)
            for start in range(0, n, _ROWS_AT_ONCE)
        ]
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), *(part.starts.diff().cpu() for part in parts)]).cumsum(0)
        joined = [torch.cat([getattr(part, name) for part in parts]) for name in ("genes", "values", "totals")]
        return cls(SparseRows(starts.to(device), joined[0], joined[1], n_genes, joined[2]), starts.numpy())


@dataclass(frozen=True, eq=False, kw_only=True)
class CellData(PerCell[Counts | Resident, np.ndarray]):
    """Cells as a model reads them: aligned arrays, integer codes, and counts in memory or on disk.

    Nothing here is ever densified whole. n cells, g genes that are read, of s stored ones. Counts on disk are read many
    cells at a time, ahead of where they are used: see :mod:`scvi.cells.epoch_order`.
    """

    columns: np.ndarray | None = None  # (s,) int32 place of each stored gene among those read, -1: not read; None: same
    cell_names: np.ndarray  # (n,)
    gene_names: np.ndarray  # (g,)
    kept: Kept | None = None  # what a model keeps of cells without counts
    guard: Guard | None = None  # looks at counts as they are read; None: they are taken as they are
    rounds: bool = False  # whether the nearest integers are read of counts that are estimates

    def __len__(self) -> int:
        return self.counts.shape[0]

    @property
    def n_genes(self) -> int:
        return len(self.gene_names)

    def positions(
        self, indices: Sequence[int] | np.ndarray | pd.Series | None = None, name: str = "indices"
    ) -> np.ndarray:
        """(k,) int64 positions of cells, in the order given; None is all cells, a mask is turned into positions.

        The index of a mask that is a Series says which cells it means; that of a Series of positions does not matter.

        Parameters
        ----------
        name
            What the user calls the indices, for messages.

        Raises
        ------
        ValueError
            If they are not integers or no mask of n values, or a mask has gaps or the index of other cells.
        IndexError
            If one is out of range; negative positions are.
        """
        if indices is None:
            return np.arange(len(self))
        given = plain(name, indices, self.cell_names, "cells")
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iub"):
            is_text = given.size and isinstance(given.flat[0], str)
            hint = "; adata.obs_names.get_indexer(names) gives the positions of names" if is_text else ""
            raise ValueError(
                f"{name} must be a list of cell positions or a mask; got {given.dtype} of shape {given.shape}{hint}"
            )
        if given.dtype.kind == "b":
            if len(given) != len(self):
                raise ValueError(f"the mask in {name} has {len(given)} values for {len(self)} cells")
            return np.flatnonzero(given)
        outside = (given < 0) | (given >= len(self))
        if outside.any():
            raise IndexError(
                f"{name} holds {given[outside][0]}; there are {len(self)} cells, numbered from 0 to {len(self) - 1}"
            )
        return given.astype(np.int64)

    def minibatch(self, indices: np.ndarray) -> Minibatch:
        """The cells at `indices`, in that order; positions may repeat."""
        rows = self.positions(indices)
        counts = self.counts.take(rows) if isinstance(self.counts, Resident) else self.read(rows)
        columns: dict[str, Any] = {name: _tensor(values[rows], _DTYPES[name]) for name, values in self.given().items()}
        kept = None if self.kept is None else {k: torch.from_numpy(v[rows]) for k, v in self.kept.values.items()}
        return Minibatch(counts=counts, indices=torch.from_numpy(rows), kept=kept, **columns)

    def read(self, rows: np.ndarray) -> SparseRows:
        """The counts of the cells at `rows`, which are looked at if that was not done yet."""
        if isinstance(self.counts, (np.ndarray, sp.csr_matrix, sp.csr_array)):
            counts = rows_to_sparse(self.counts, rows, self.columns, self.n_genes)
        else:
            counts = rows_to_sparse(take(self.counts, rows), np.arange(len(rows)), self.columns, self.n_genes)
        if self.guard is not None:
            self.guard.look(rows, counts)
        return counts.rounded() if self.rounds else counts

    def minibatches(
        self, indices: Sequence[int] | np.ndarray | None = None, batch_size: int = 128, portion: Portion = ALL
    ) -> Iterator[Minibatch]:
        """The cells at `indices` (None: all), in that order, `batch_size` at a time; of each a portion."""
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r} is below 1")
        rows = self.positions(indices)
        parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        together = max(1, self._buffer_cells // batch_size)
        buffers = (parts[start : start + together] for start in range(0, len(parts), together))
        yield from self._in_turn(buffers, portion)
        self._all_are_read()

    def epoch(
        self, indices: np.ndarray, batch_size: int, rng: np.random.Generator, portion: Portion = ALL
    ) -> Iterator[Minibatch]:
        """The cells at `indices`, each once, shuffled and cut into minibatches as by :func:`draw_minibatches`.

        Of each minibatch a portion is read, which may be empty.

        The order of counts in memory is any; cells on disk stay near their neighbours in the file, as
        :func:`scvi.cells.epoch_order.draw_buffers` says.
        """
        if isinstance(self.counts, OnDisk):
            ends = minibatch_ends(len(indices), batch_size)
            yield from self._in_turn(draw_buffers(indices, ends, self._buffer_cells, rng), portion)
        else:
            yield from self._in_turn([draw_minibatches(indices, batch_size, rng)], portion)
        self._all_are_read()

    def n_minibatches(self, indices: np.ndarray, batch_size: int) -> int:
        """How many minibatches :meth:`epoch` makes."""
        return count_minibatches(len(indices), batch_size)

    def loaded(self, rows: np.ndarray) -> CellData:
        """The cells at `rows` with their counts in memory; positions among them count from 0."""
        some: dict[str, Any] = {name: values[rows] for name, values in self.given().items()}
        counts, names = take(self.counts, rows), self.cell_names[rows]
        self._look(rows, counts)
        return replace(self, counts=counts, cell_names=names, guard=None, **some)

    def reordered(self, order: np.ndarray) -> CellData:
        """The same cells in another order; (n,) positions of the cells that come first, second and so on."""
        arrays: dict[str, Any] = {name: values[order] for name, values in self.given().items()}
        guard = None if self.guard is None else self.guard.take(order)
        counts, names = Reordered(self.counts, order), self.cell_names[order]
        kept = None if self.kept is None else self.kept.reordered(order)
        return replace(self, counts=counts, cell_names=names, guard=guard, kept=kept, **arrays)

    def reads_like(self, other: CellData) -> bool:
        """Whether all that is read of the cells, but for their counts, is the same."""
        mine, others = self.given(), other.given()
        return (
            np.array_equal(self.cell_names, other.cell_names)
            and mine.keys() == others.keys()
            and all(np.array_equal(mine[name], others[name]) for name in mine)
        )

    def on(self, device: torch.device) -> CellData:
        """The same cells with their counts on a device, if they fit there; for drawing minibatches only."""
        counts = self.counts
        if isinstance(counts, (Resident, Reordered, OnDisk)) or not fits(counts, device):
            return self
        resident = Resident.of(self, device)
        self._all_are_read()
        return replace(self, counts=resident, columns=None)

    def _in_turn(self, buffers: Iterable[list[np.ndarray]], portion: Portion) -> Iterator[Minibatch]:
        """Minibatches of the cells at these positions, one ahead; what is on disk is read a buffer at a time."""

        def made(wanted: np.ndarray) -> Minibatch:
            rows, part = portion.of(wanted)
            mb = self.minibatch(rows)
            return mb if part is None else replace(mb, part=part)

        if isinstance(self.counts, Resident):  # a device reads ahead by itself: it works off what it is told
            yield from map(made, chain.from_iterable(buffers))
            return
        if not isinstance(self.counts, OnDisk):
            yield from ahead(made, chain.from_iterable(buffers))
            return

        def read(minibatches: list[np.ndarray]) -> tuple[CellData, list[np.ndarray], list[np.ndarray], list[Any]]:
            # A cell that is wanted twice is read once; rows are in the order of the file, places in that of the parts.
            wanted, parts = zip(*(portion.of(rows, neighbours=True) for rows in minibatches), strict=True)
            rows, places = np.unique(np.concatenate(wanted), return_inverse=True)
            return self.loaded(rows), np.split(places, np.cumsum([len(some) for some in wanted[:-1]])), wanted, parts

        for cells, *minibatches in ahead(read, buffers):
            for place, rows, part in zip(*minibatches, strict=True):
                yield replace(cells.minibatch(place), indices=torch.from_numpy(rows), part=part)

    @property
    def _buffer_cells(self) -> int:
        return buffer_cells(self.counts.row_bytes) if isinstance(self.counts, OnDisk) else len(self)

    def totals(self, indices: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """(k,) float64 total counts of the cells over the genes that are read."""
        weights = read_weights(self.columns)
        return np.concatenate([np.empty(0), *(row_sums(rows, weights) for rows in self._row_blocks(indices))])

    def moments(self, indices: Sequence[int] | np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(g,) float64 means and population variances of the counts of each gene, and (k,) :meth:`totals` of the cells.

        They take one pass over the cells at `indices`.
        """
        weights, totals = read_weights(self.columns), [np.empty(0)]

        def noted() -> Iterator[Rows]:  # blocks on their way to `moments`: they are not read again for the totals
            for rows in self._row_blocks(indices):
                totals.append(row_sums(rows, weights))
                yield rows

        n = len(self) if indices is None else len(self.positions(indices))
        mean, variance = moments(noted(), n, self.counts.shape[1])
        if self.columns is not None:
            read = self.columns >= 0
            order = np.argsort(self.columns[read])
            mean, variance = mean[read][order], variance[read][order]
        return mean, variance, np.concatenate(totals)

    def _row_blocks(self, indices: Sequence[int] | np.ndarray | None) -> Iterator[Rows]:
        """Cells, all stored genes, which are looked at if that was not done yet."""
        wanted = self.positions(indices)
        parts = [wanted[start : start + _ROWS_AT_ONCE] for start in range(0, len(wanted), _ROWS_AT_ONCE)]
        read = partial(take, self.counts)
        found = ahead(read, parts) if isinstance(self.counts, OnDisk) else map(read, parts)
        for rows, counts in zip(parts, found, strict=True):
            self._look(rows, counts)
            yield rounded(counts) if self.rounds else counts
        self._all_are_read()

    def _all_are_read(self) -> None:
        """Judges counts of which nothing was known before by all that were read: see :meth:`Guard.finish`."""
        if self.guard is not None:
            self.guard.finish()

    def _look(self, rows: np.ndarray, counts: Rows) -> None:
        """Looks at the counts that were read of the cells at `rows`."""
        if self.guard is not None and self.guard.asks_for(rows):
            self.guard.look(rows, rows_to_sparse(counts, np.arange(len(rows)), self.columns, self.n_genes))


def _tensor(rows: np.ndarray | sp.csr_matrix, dtype: np.dtype) -> torch.Tensor:
    """Rows as models read them, (n, .); (n,) becomes a column."""
    tensor = torch.from_numpy(as_dense(rows).astype(dtype, copy=False))
    return tensor.unsqueeze(1) if tensor.dim() == 1 else tensor


def fits(counts: Rows, device: torch.device) -> bool:
    """Whether a device has room for counts beside a model; only CUDA devices are asked."""
    if device.type != "cuda":
        return False
    entries = np.count_nonzero(counts) if isinstance(counts, np.ndarray) else counts.nnz
    return bool(entries * _ENTRY_BYTES <= _SHARE * torch.cuda.mem_get_info(device)[0])

"""Counts in an open file, sparse or dense, HDF5 or zarr: the rows that are wanted, in a few large reads.

anndata reads a list of rows one by one. Here rows that lie near one another are read as one piece of the file, and
what lies between them is thrown away: a read costs as much as some ten thousand values.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import h5py
import numpy as np
import scipy.sparse as sp
from anndata.abc import CSCDataset, CSRDataset

_GAP_BYTES = 2**16  # what is read in vain rather than in a second read
_READ_BYTES = 2**22  # of one read, which is held beside the result
_CHUNK_BYTES = 2**26  # of the largest unit of a file that is read whole


def refuse_damaged(
    name: str, indptr: np.ndarray, n_stored: int, indices: np.ndarray, n: int, kind: str = "gene"
) -> None:
    """Refuses a sparse matrix that compiled code would follow out of its memory.

    Parameters
    ----------
    indptr
        Where rows begin and end among the `n_stored` values.
    indices
        Positions of values, or of some of them, among the `n` genes, or what `kind` says that they are.

    Raises
    ------
    ValueError
        If rows do not follow one another, or a value belongs to none that is there.
    """
    if len(indptr) == 0 or indptr[0] != 0 or (np.diff(indptr) < 0).any() or indptr[-1] > n_stored:
        raise ValueError(f"{name} is damaged: its rows do not follow one another. Read or build the matrix anew")
    if len(indices) == 0:
        return
    first, last = int(indices.min()), int(indices.max())
    if first < 0 or last >= n:
        raise ValueError(
            f"{name} is damaged: it has counts of {kind} number {first if first < 0 else last}, but {kind}s are "
            f"numbered from 0 to {n - 1}. Read or build the matrix anew"
        )


@dataclass(frozen=True, eq=False)
class SparseOnDisk:
    """Counts stored by cell (CSR): n cells, s genes. Only the ends of the rows are in memory."""

    data: Any  # one-dimensional array of an open file
    indices: Any  # as `data`
    indptr: np.ndarray  # (n + 1,) int64
    shape: tuple[int, int]
    name: str = "the matrix"  # for messages

    @property
    def dtype(self) -> np.dtype:
        """Number type of the counts in memory."""
        return _in_memory(self.data.dtype)

    @property
    def row_bytes(self) -> float:
        """Mean size of a row in memory."""
        value = self.dtype.itemsize + np.dtype(self.indices.dtype).itemsize
        return value * int(self.indptr[-1]) / max(self.shape[0], 1)

    def read(self, rows: np.ndarray) -> sp.csr_matrix:
        """Rows in ascending order, each once."""
        starts, stops = self.indptr[rows], self.indptr[rows + 1]
        indptr = np.concatenate([[0], np.cumsum(stops - starts)])
        data = np.empty(indptr[-1], self.dtype)
        indices = np.empty(indptr[-1], self.indices.dtype)
        for first, last in _pieces(starts, stops, max(data.itemsize, indices.itemsize), _chunk(self.data)):
            begin, end = int(starts[first]), int(stops[last - 1])
            target = slice(indptr[first], indptr[last])
            wanted: Any = slice(None)
            if end - begin > target.stop - target.start:
                lengths = np.diff(self.indptr[rows[first] : rows[last - 1] + 2])
                wanted = np.repeat(_mask(rows[first:last]), lengths)
            data[target] = self.data[begin:end][wanted]
            indices[target] = self.indices[begin:end][wanted]
        refuse_damaged(self.name, indptr, len(data), indices, self.shape[1])
        return sp.csr_matrix((data, indices, indptr), shape=(len(rows), self.shape[1]))


@dataclass(frozen=True, eq=False)
class DenseOnDisk:
    """Counts stored as a table of n cells and s genes."""

    values: Any  # two-dimensional array of an open file

    @property
    def shape(self) -> tuple[int, int]:
        """n, s."""
        return self.values.shape

    @property
    def dtype(self) -> np.dtype:
        """Number type of the counts in memory."""
        return _in_memory(self.values.dtype)

    @property
    def row_bytes(self) -> float:
        """Size of a row in memory."""
        return float(self.dtype.itemsize * self.shape[1])

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Rows in ascending order, each once."""
        result = np.empty((len(rows), self.shape[1]), self.dtype)
        for first, last in _pieces(rows, rows + 1, max(int(self.row_bytes), 1), _chunk(self.values)):
            begin, end = int(rows[first]), int(rows[last - 1]) + 1
            wanted: Any = slice(None) if end - begin == last - first else _mask(rows[first:last])
            result[first:last] = self.values[begin:end][wanted]
        return result


OnDisk: TypeAlias = SparseOnDisk | DenseOnDisk
"""All cells, in an open file."""


def opened(counts: Any) -> OnDisk | None:
    """The counts of an open file as they are read here; None for anything else, and for counts stored by gene."""
    if isinstance(counts, CSRDataset):
        group = counts.group
        indptr = np.asarray(group["indptr"][:], np.int64)
        n_stored = min(group["data"].shape[0], group["indices"].shape[0])
        refuse_damaged(group.name, indptr, n_stored, np.empty(0, np.int64), counts.shape[1])
        return SparseOnDisk(group["data"], group["indices"], indptr, counts.shape, group.name)
    return DenseOnDisk(counts) if _is_array(counts) else None


def is_on_disk(counts: Any) -> bool:
    """Whether anndata gives counts as an object that reads a file."""
    return isinstance(counts, (CSRDataset, CSCDataset)) or _is_array(counts)


def _is_array(value: Any) -> bool:
    """zarr comes with some versions of anndata only; whoever has one of its arrays has imported it."""
    zarr = sys.modules.get("zarr")
    return isinstance(value, h5py.Dataset) or (zarr is not None and isinstance(value, zarr.Array))


def _in_memory(dtype: np.dtype) -> np.dtype:
    """The nearest number type of this machine that sparse matrices can hold."""
    return np.dtype(np.float32) if dtype == np.float16 else np.dtype(dtype).newbyteorder("=")


def _chunk(stored: Any) -> int:
    """Length of the units along the first axis in which a file can be read; 0 for any length.

    Units too large to be held are not read whole, which costs time, not memory.
    """
    if not stored.chunks:
        return 0
    row_bytes = stored.dtype.itemsize * int(np.prod(stored.shape[1:]))
    return stored.chunks[0] if stored.chunks[0] * row_bytes <= _CHUNK_BYTES else 0


def _mask(rows: np.ndarray) -> np.ndarray:
    """Which rows from the first to the last are wanted."""
    mask = np.zeros(rows[-1] - rows[0] + 1, dtype=bool)
    mask[rows - rows[0]] = True
    return mask


def _pieces(starts: np.ndarray, stops: np.ndarray, itemsize: int, chunk: int) -> Iterator[tuple[int, int]]:
    """First row and end of each piece to be read at once, where row i lies from ``starts[i]`` to ``stops[i]``."""
    gap, longest = max(_GAP_BYTES // itemsize, chunk), max(_READ_BYTES // itemsize, chunk)
    far = np.flatnonzero(starts[1:] - stops[:-1] > gap) + 1
    for first, end in zip([0, *far], [*far, len(starts)], strict=True):
        while first < end:
            last = max(int(np.searchsorted(stops[:end], starts[first] + longest, side="right")), first + 1)
            yield int(first), last
            first = last

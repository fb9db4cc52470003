"""Rows of an open file: the right ones, in few reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

from scvi.cells import on_disk as module
from scvi.cells.on_disk import DenseOnDisk, SparseOnDisk, is_on_disk, opened
from scvi.cells.storage import as_rows, take
from small_cells import make_adata
from stores import STORES, dense, stored

ROWS = [
    [],
    [0],
    [149],
    list(range(150)),
    list(range(40, 90)),
    [3, 4, 5, 60, 61, 149],
    list(range(0, 150, 7)),
    [*range(10), *range(20, 30), *range(100, 150)],
]


@pytest.fixture(params=STORES)
def counts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    with stored(make_adata(), request.param, tmp_path) as adata:
        assert is_on_disk(adata.X)
        yield opened(adata.X)


class Counting:
    """An array that notes what is read from it."""

    def __init__(self, array: Any, chunks: tuple[int, ...] | None = None) -> None:
        self.array, self.dtype, self.shape, self.chunks = array, array.dtype, array.shape, chunks
        self.reads: list[tuple[int, int]] = []

    def __getitem__(self, key: slice) -> np.ndarray:
        self.reads.append((key.start, key.stop))
        return self.array[key]


def sparse_of(matrix: sp.csr_matrix, chunks: tuple[int, ...] | None = None) -> tuple[SparseOnDisk, Counting]:
    data = Counting(matrix.data, chunks)
    return SparseOnDisk(data, Counting(matrix.indices, chunks), matrix.indptr.astype(np.int64), matrix.shape), data


@pytest.mark.parametrize(("gap", "read"), [(2**16, 2**22), (1, 1), (64, 256), (1, 2**22)])
def test_the_rows_that_are_wanted(counts: Any, gap: int, read: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GAP_BYTES", gap)
    monkeypatch.setattr(module, "_READ_BYTES", read)
    values = make_adata().X.toarray()
    for rows in ROWS:
        wanted = np.array(rows, dtype=np.int64)
        got = counts.read(wanted)
        assert got.dtype == counts.dtype == np.float32
        np.testing.assert_array_equal(dense(got), values[wanted])


def test_sizes(counts: Any) -> None:
    assert counts.shape == (150, 40)
    X = make_adata().X
    assert counts.row_bytes == (160 if isinstance(counts, DenseOnDisk) else 8 * X.nnz / 150)


@pytest.mark.parametrize("dtype", ["?", "u1", "<i2", ">i4", "i8", "<f2", ">f4", "f8"])
@pytest.mark.parametrize("layout", ["dense", "sparse"])
def test_number_types(dtype: str, layout: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).poisson(0.5, (30, 5))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        if layout == "dense":
            X = file.create_dataset("X", data=values.astype(dtype))
        else:
            anndata.io.write_elem(file, "X", sp.csr_matrix(values))
            stored_as = file["X/data"][:].astype(dtype)
            del file["X/data"]
            file["X"].create_dataset("data", data=stored_as)
            X = anndata.io.sparse_dataset(file["X"])
        rows = take(as_rows(X, "X"), np.array([4, 2, 2, 9]))
    np.testing.assert_array_equal(dense(rows), values.astype(dtype)[[4, 2, 2, 9]])
    assert rows.dtype.isnative
    assert rows.dtype.kind != "b"


def test_rows_without_a_value() -> None:
    matrix = sp.csr_matrix(([1.0], [1], [0, 0, 0, 1, 1, 1]), shape=(5, 3))
    counts, _ = sparse_of(matrix)
    for rows in ([0, 1], [2], [0, 2, 4], [3, 4]):
        np.testing.assert_array_equal(counts.read(np.array(rows)).toarray(), matrix[rows].toarray())


def test_neighbours_are_read_together() -> None:
    matrix = make_adata().X
    counts, data = sparse_of(matrix)
    counts.read(np.array([3, 5, 6, 40, 100]))  # little lies between them
    assert data.reads == [(matrix.indptr[3], matrix.indptr[101])]


def test_distant_rows_are_read_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = make_adata().X
    monkeypatch.setattr(module, "_GAP_BYTES", 4 * matrix[:10].nnz)
    counts, data = sparse_of(matrix)
    counts.read(np.array([3, 5, 50, 51]))
    assert data.reads == [(matrix.indptr[a], matrix.indptr[b]) for a, b in ((3, 6), (50, 52))]


def test_no_read_is_longer_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_READ_BYTES", 4000)
    counts, data = sparse_of(make_adata().X)
    counts.read(np.arange(150))
    assert len(data.reads) > 4
    assert max(stop - start for start, stop in data.reads) <= 1000


def test_a_chunk_of_a_file_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_GAP_BYTES", 1)
    monkeypatch.setattr(module, "_READ_BYTES", 1)
    matrix = make_adata().X
    counts, data = sparse_of(matrix, chunks=(matrix.nnz,))  # a second read would cost as much as the first
    counts.read(np.array([0, 50, 149]))
    assert data.reads == [(0, matrix.nnz)]


def test_what_is_no_file() -> None:
    for value in (np.ones((2, 2)), sp.csr_matrix((2, 2)), None, AnnData(np.ones((2, 2)))):
        assert opened(value) is None
        assert not is_on_disk(value)

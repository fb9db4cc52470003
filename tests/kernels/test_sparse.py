"""Stored counts -> float32 minibatch, and the check of every stored value."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import coo_matrix, csr_array, csr_matrix

from scvi.kernels import SparseRows, find_bad_count, row_digests, rows_to_dense, rows_to_sparse

DTYPES = ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64")


def reference(dense: np.ndarray, rows: np.ndarray, columns: np.ndarray | None, n_genes: int) -> np.ndarray:
    out = np.zeros((len(rows), n_genes), np.float32)
    where = np.arange(dense.shape[1]) if columns is None else columns
    out[:, where[where >= 0]] = dense[rows][:, where >= 0]
    return out


def unsorted(matrix: csr_matrix) -> csr_matrix:
    """The same matrix with the entries of each row stored backwards."""
    order = np.concatenate(
        [np.arange(start, stop)[::-1] for start, stop in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True)]
    ).astype(int)
    return csr_matrix((matrix.data[order], matrix.indices[order], matrix.indptr), shape=matrix.shape)


LAYOUTS = {
    "dense": np.ascontiguousarray,
    "column-major": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=0)[::2],
    "csr_matrix": csr_matrix,
    "csr_array": csr_array,
    "unsorted": lambda a: unsorted(csr_matrix(a)),
    "64-bit indices": lambda a: _wide(csr_matrix(a)),
}


def _wide(matrix: csr_matrix) -> csr_matrix:
    matrix.indices = matrix.indices.astype(np.int64)
    matrix.indptr = matrix.indptr.astype(np.int64)
    return matrix


def check(counts, dense: np.ndarray, rows: np.ndarray, columns: np.ndarray | None, n_genes: int) -> None:
    out = rows_to_dense(counts, rows, columns, n_genes)
    assert out.dtype == torch.float32
    assert out.shape == (len(rows), n_genes)
    np.testing.assert_array_equal(out.numpy(), reference(dense, rows, columns, n_genes))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["dense", "csr_matrix"])
def test_every_type_of_number(layout: str, dtype: str) -> None:
    dense = np.random.default_rng(0).poisson(0.7, size=(5, 7)).astype(dtype)
    check(LAYOUTS[layout](dense), dense, np.array([4, 0, 0, 2]), None, 7)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(layout: str) -> None:
    dense = np.random.default_rng(1).poisson(0.5, size=(50, 9)).astype(np.int32)
    rows = np.random.default_rng(2).integers(50, size=200)  # long enough for several threads
    check(LAYOUTS[layout](dense), dense, rows, None, 9)
    check(LAYOUTS[layout](dense), dense, rows, np.array([3, -1, 0, 5, -1, 1, 4, 2, 6], np.int32), 7)


@settings(max_examples=60, deadline=None)
@given(
    dense=hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 10**6)),
    layout=st.sampled_from(sorted(LAYOUTS)),
    mapped=st.booleans(),
    extra=st.integers(0, 3),
    data=st.data(),
)
def test_any_matrix(dense: np.ndarray, layout: str, mapped: bool, extra: int, data: st.DataObject) -> None:
    n, g = dense.shape
    rows = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=20)), dtype=np.int64)
    columns = None
    if mapped:
        places = data.draw(st.permutations(range(g + extra)))[:g]
        read = data.draw(st.lists(st.booleans(), min_size=g, max_size=g))
        columns = np.where(read, places, -1).astype(np.int32)
    check(LAYOUTS[layout](dense), dense, rows, columns, g + extra)


def test_duplicate_entries_add_up() -> None:
    counts = csr_matrix((np.array([1, 2, 4, 8]), np.array([1, 1, 0, 1]), np.array([0, 3, 4])), shape=(2, 3))
    check(counts, coo_matrix(counts).toarray(), np.array([1, 0]), None, 3)
    check(counts, coo_matrix(counts).toarray(), np.array([0, 1]), np.array([-1, 0, 1], np.int32), 2)
    rows = rows_to_sparse(counts, np.array([1, 0]), None, 3)
    assert rows.genes[:1].tolist() == [1]
    assert rows.genes[rows.starts[1] : rows.starts[2]].tolist() == [0, 1]  # sums over them do not hang on the matrix


def test_explicit_zeros_and_empty_rows() -> None:
    counts = csr_matrix((np.zeros(2), np.array([0, 2]), np.array([0, 2, 2])), shape=(2, 3))
    check(counts, np.zeros((2, 3)), np.array([1, 0, 1]), None, 3)


def test_no_rows() -> None:
    assert rows_to_dense(csr_matrix((3, 4), dtype=np.int32), np.empty(0, np.int64), None, 4).shape == (0, 4)


def test_read_only_counts() -> None:
    dense = np.arange(6, dtype=np.float32).reshape(2, 3)
    sparse = csr_matrix(dense)
    for values in (dense, sparse.data, sparse.indices, sparse.indptr):
        values.flags.writeable = False
    check(dense, dense, np.array([1, 0]), None, 3)
    check(sparse, dense, np.array([1, 0]), None, 3)


def test_the_counts_stay_as_they_are() -> None:
    counts = LAYOUTS["unsorted"](np.random.default_rng(3).poisson(1.0, size=(4, 5)))
    data, indices = counts.data.copy(), counts.indices.copy()
    rows_to_dense(counts, np.arange(4), None, 5)
    np.testing.assert_array_equal(counts.data, data)
    np.testing.assert_array_equal(counts.indices, indices)


def test_large_counts_are_exact_up_to_2_to_the_24() -> None:
    dense = np.array([[2**24, 2**24 - 1, 10**6]])
    assert rows_to_dense(csr_matrix(dense), np.array([0]), None, 3).tolist() == dense.astype(float).tolist()


def test_many_python_threads_at_once() -> None:
    dense = np.random.default_rng(4).poisson(0.3, size=(200, 60)).astype(np.int32)
    counts = csr_matrix(dense)
    results: list[bool] = []

    def work(seed: int) -> None:
        rows = np.random.default_rng(seed).permutation(200)
        for _ in range(20):
            results.append(np.array_equal(rows_to_dense(counts, rows, None, 60).numpy(), dense[rows]))

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert results == [True] * 80


# --- find_bad_count ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_counts_of_every_type_are_good(dtype: str) -> None:
    assert find_bad_count(np.array([0, 1, 1, 0, 1], dtype=dtype)) is None
    assert find_bad_count(np.array([], dtype=dtype)) is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.nan, "non-finite"),
        (np.inf, "non-finite"),
        (-np.inf, "non-finite"),
        (-1.0, "negative"),
        (-0.5, "negative"),
        (0.5, "non-integer"),
        (1 + 1e-6, "non-integer"),
        (99999.5, "non-integer"),
    ],
)
def test_bad_value_is_found(value: float, reason: str, dtype: str) -> None:
    values = np.arange(1000, dtype=dtype)
    values[[617, 900]] = value
    assert find_bad_count(values) == (617, reason)


def test_the_first_of_several_is_named() -> None:
    assert find_bad_count(np.array([0.0, 2.0, 0.25, np.nan, -1.0])) == (2, "non-integer")
    assert find_bad_count(np.array([3, -2, -1])) == (1, "negative")


def test_fine_edge_values() -> None:
    assert find_bad_count(np.array([-0.0, 2.0**40, 1e6])) is None


@pytest.mark.parametrize("layout", ["dense", "column-major", "strided"])
def test_position_counts_in_row_order(layout: str) -> None:
    values = np.zeros((4, 6))
    values[2, 3] = -1
    assert find_bad_count(LAYOUTS[layout](values)) == (15, "negative")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64"])
def test_digests_are_of_the_counts_however_they_are_stored(layout: str, dtype: str) -> None:
    dense = np.random.default_rng(0).poisson(0.7, (600, 9)).astype(dtype)
    expected = row_digests(SparseRows.of(torch.from_numpy(dense.astype(np.float32))))
    rows = np.arange(len(dense))
    assert expected.dtype == np.uint64
    np.testing.assert_array_equal(row_digests(rows_to_sparse(LAYOUTS[layout](dense), rows, None, 9)), expected)
    genes = np.random.default_rng(1).permutation(9)
    shuffled = LAYOUTS[layout](np.ascontiguousarray(dense[:, genes]))
    np.testing.assert_array_equal(row_digests(rows_to_sparse(shuffled, rows, genes.astype(np.int32), 9)), expected)
    np.testing.assert_array_equal(
        row_digests(rows_to_sparse(LAYOUTS[layout](dense), rows[::-1], None, 9)), expected[::-1]
    )


def test_digests_of_repeated_entries_and_stored_zeros() -> None:
    """Places that are named twice, and zeros that are stored."""
    stored = csr_matrix(([1.0, 2.0, 5.0, 0.0], [1, 1, 0, 2], [0, 4]), shape=(1, 3))
    once = SparseRows.of(torch.tensor([[5.0, 3.0, 0.0]]))
    assert row_digests(rows_to_sparse(stored, np.zeros(1, np.int64), None, 3)) == row_digests(once)


@given(hnp.arrays(np.float32, (4, 5), elements=st.integers(0, 3)), st.integers(0, 3), st.integers(0, 4), st.data())
def test_digests_see_every_change(dense: np.ndarray, cell: int, gene: int, data: st.DataObject) -> None:
    changed = dense.copy()
    values = st.integers(0, 2**24) | st.floats(0, 2**30, width=32)
    changed[cell, gene] = data.draw(values.filter(lambda value: value != dense[cell, gene]))
    before, after = (row_digests(SparseRows.of(torch.from_numpy(values))) for values in (dense, changed))
    assert (before != after).tolist() == [row == cell for row in range(4)]
    for row in range(4):  # which gene it is matters, and not only how much
        moved = np.roll(dense[row], 1)
        if (moved != dense[row]).any():
            assert row_digests(SparseRows.of(torch.from_numpy(moved[None]))) != before[row]


def test_digests_of_no_rows_and_of_empty_ones() -> None:
    empty = SparseRows.of(torch.zeros(3, 4))
    assert row_digests(empty).tolist() == [0, 0, 0]
    assert row_digests(SparseRows.of(torch.zeros(0, 4))).shape == (0,)

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import scipy.sparse as sp
from anndata import AnnData

from grids import each_of
from scvi.cells import storage as module
from scvi.cells.storage import Reordered, as_rows, blocks, chosen_blocks, gene_sums, moments, row_sums, summed, take
from scvi.kernels import rows_to_sparse

LAYOUTS = [np.asarray, np.asfortranarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.csc_array, sp.coo_matrix]
DTYPES = ["u1", "u2", "i4", "i8", "f2", "f4", "f8", ">i4", ">f8"]


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).poisson(0.7, (23, 9))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_VALUES", 40)  # several blocks of a few cells


def dense(rows: Any) -> np.ndarray:
    return rows.toarray() if sp.issparse(rows) else rows


@pytest.fixture(params=["csr", "csc", "dense"])
def on_disk(request: pytest.FixtureRequest, values: np.ndarray, tmp_path: Path) -> Any:
    stored = values.astype(np.float32)
    if request.param != "dense":
        stored = sp.coo_matrix(stored).asformat(request.param)
    AnnData(stored).write_h5ad(tmp_path / "x.h5ad")
    adata = anndata.read_h5ad(tmp_path / "x.h5ad", backed="r")
    yield adata.X
    adata.file.close()


@each_of(layout=LAYOUTS, dtype=[d for d in DTYPES if d not in ("f2", ">i4", ">f8")])
def test_every_layout_and_dtype(values: np.ndarray, layout: Callable, dtype: str) -> None:
    check_all(as_rows(layout(values.astype(dtype)), "X"), values)


@pytest.mark.parametrize("dtype", ["f2", ">i4", ">f8", "f16"])
def test_number_types_that_compiled_code_does_not_read_are_converted(values: np.ndarray, dtype: str) -> None:
    rows = as_rows(values.astype(dtype), "X")
    assert rows.dtype.isnative
    assert rows.dtype.itemsize in (4, 8)
    check_all(rows, values)


def test_booleans_are_counts(values: np.ndarray) -> None:
    check_all(as_rows(values > 0, "X"), values > 0)
    check_all(as_rows(sp.csr_matrix(values > 0), "X"), values > 0)


def test_on_disk(on_disk: Any, values: np.ndarray) -> None:
    check_all(as_rows(on_disk, "X"), values)


def check_all(counts: Any, values: np.ndarray) -> None:
    values = values.astype(np.float64)
    read = [(start, dense(rows)) for start, rows in blocks(counts)]
    assert len(read) > 2
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in read]), values)
    assert [start for start, _ in read] == list(np.cumsum([0] + [len(rows) for _, rows in read[:-1]]))
    for wanted in ([3, 4, 5], [7, 2, 2, 22, 0], []):
        taken = dense(take(counts, np.array(wanted, dtype=np.int64)))
        np.testing.assert_array_equal(taken, values[wanted])
    some = take(counts, np.arange(len(values)))
    np.testing.assert_array_equal(row_sums(some), values.sum(axis=1))
    np.testing.assert_array_equal(row_sums(some, np.arange(9) % 2.0), values[:, 1::2].sum(axis=1))
    for got, wanted in zip(gene_sums(some), (values.sum(axis=0), (values**2).sum(axis=0)), strict=True):
        np.testing.assert_array_equal(got, wanted)
    mask = np.arange(len(values)) % 3 == 0
    chosen, g = values[mask], values.shape[1]
    np.testing.assert_array_equal(summed(chosen_blocks(counts, mask), g)[0], chosen.sum(axis=0))
    expected = chosen.mean(axis=0), chosen.var(axis=0)
    np.testing.assert_allclose(moments(chosen_blocks(counts, mask), len(chosen), g), expected, atol=1e-12)


def test_cells_in_another_order(on_disk: Any, values: np.ndarray) -> None:
    order = np.random.default_rng(1).permutation(len(values))
    for stored in (on_disk, sp.csr_matrix(values)):
        counts = Reordered(as_rows(stored, "X"), order)
        assert counts.shape == values.shape
        for wanted in ([3, 4, 5], [7, 2, 2, 22, 0], []):
            taken = dense(take(counts, np.array(wanted, dtype=np.int64)))
            np.testing.assert_array_equal(taken, values[order][wanted])


def test_a_damaged_matrix_that_is_not_read_whole() -> None:
    """Where rows are looked at as they are read, what is beyond the genes is left to the code that reads them."""
    X = sp.csr_matrix(np.eye(3))
    X.indices[2] = 7
    with pytest.raises(ValueError, match="X is damaged: it has counts of gene number 7"):
        as_rows(X, "X")
    rows = as_rows(X, "X", look_at_all=False)
    assert rows_to_sparse(rows, np.array([0, 1]), None, 3).dense[:, :2].tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match="row 2 of the counts names a gene that is not among the 3"):
        rows_to_sparse(rows, np.array([2]), None, 3)
    X.indptr[1] = 5
    with pytest.raises(ValueError, match="X is damaged: its rows do not follow one another"):
        as_rows(X, "X", look_at_all=False)


def test_nothing_is_copied_where_the_layout_allows() -> None:
    X = sp.random(30, 8, 0.3, format="csr", random_state=0)
    for stored in (X, sp.csr_array(X), X.astype(bool)):
        rows = as_rows(stored, "X")
        assert np.shares_memory(rows.data, stored.data)
    full = np.ones((4, 3))
    assert as_rows(full, "X") is full


def test_a_view_of_an_anndata_gives_plain_matrices(values: np.ndarray) -> None:
    for stored, kind in ((sp.csr_matrix(values), sp.csr_matrix), (values, np.ndarray)):
        assert type(as_rows(AnnData(stored)[::2, 1:].X, "X")) is kind


def test_repeated_entries_add_up() -> None:
    twice = sp.csr_matrix(([1.0, 2.0, 5.0], [1, 1, 0], [0, 3]), shape=(1, 3))
    np.testing.assert_array_equal(gene_sums(twice)[1], [25, 9, 0])
    assert twice.nnz == 3  # the caller's matrix is as it was


@pytest.mark.parametrize("wrong", [[[1, 2]], "text", None])
def test_other_types_are_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"adata\.X is a builtins\.\w+; pass a numpy array"):
        as_rows(wrong, "adata.X")


def test_values_that_are_not_numbers_are_refused() -> None:
    for wrong in (np.array([["a"]]), np.array([[1j]]), np.array([[None]])):
        with pytest.raises(TypeError, match=r"X holds .* values; pass counts"):
            as_rows(wrong, "X")
    with pytest.raises(ValueError, match="3 dimensions"):
        as_rows(np.ones((2, 2, 2)), "X")

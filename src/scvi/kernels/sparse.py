"""Counts as they are stored -> float32 minibatch, and one check of every stored value (numba, CPU)."""

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["csr_rows", "dense_rows", "first_bad_count"]

_options = {"nogil": True, "cache": True, "error_model": "numpy"}


@njit(**_options)
def csr_rows(data, indices, indptr, rows, block, columns, out):
    """Adds the stored values of ``rows[block[0]:block[1]]`` to the zeroed rows of `out`.

    `columns[j]` is the position of stored gene j in `out`, -1 leaves it out; an empty `columns` is the identity.
    """
    mapped = columns.shape[0] > 0
    for i in range(block[0], block[1]):
        for k in range(indptr[rows[i]], indptr[rows[i] + 1]):
            j = columns[indices[k]] if mapped else indices[k]
            if j >= 0:
                out[i, j] += np.float32(data[k])


@njit(**_options)
def dense_rows(values, rows, block, columns, out):
    """As :func:`csr_rows` for a dense matrix; several stored genes may not share a column here."""
    mapped = columns.shape[0] > 0
    for i in range(block[0], block[1]):
        for stored in range(values.shape[1]):
            j = columns[stored] if mapped else stored
            if j >= 0:
                out[i, j] = np.float32(values[rows[i], stored])


@njit(**_options)
def first_bad_count(values):
    """(position, reason) of the first value that is no count: 1 non-finite, 2 negative, 3 non-integer; or (-1, 0)."""
    for k in range(values.shape[0]):
        value = values[k]
        if not np.isfinite(value):
            return k, 1
        if value < 0:
            return k, 2
        if value != np.floor(value):
            return k, 3
    return -1, 0

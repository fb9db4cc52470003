"""How log2 ratios of pairs of rows are spread, column by column (numba, CPU, float32).

Columns are taken some at a time, so that the changes of all pairs stay in the cache of a core. Where there are many,
sorting them for a median would take longer than all the rest: it is no further from the mean than the standard
deviation is, and is bisected there.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from scvi.kernels.elementary import OPTIONS, F, log

_WIDTH = 64  # columns that are taken at a time
_ROWS = 128  # of which sums are in float32
_FEW = 500  # pairs, whose changes are sorted
_HALVINGS = 11  # of twice the standard deviation: to less than a thousandth of it
_REACH = 1.01  # standard deviations from the mean; the median is no further away, but for rounding
_LEAST = F(np.finfo(np.float32).tiny)
_LOG2E = F(1.44269504)


@njit(**OPTIONS)
def change_columns(values, first, second, pseudocounts, delta, block, out):
    """Of the columns ``block[0]:block[1]``, what log2 ratios are: a row of `out` (6, columns) for each number.

    Mean, median, standard deviation, least, greatest, and share of those of at least `delta` in absolute value.
    """
    n = first.shape[0]
    change = np.zeros((n, _WIDTH), np.float32)
    for start in range(block[0], block[1], _WIDTH):
        w = min(_WIDTH, block[1] - start)
        for i in range(n):
            a, b, row = values[first[i]], values[second[i]], change[i]
            for j in range(w):
                x, y = a[start + j] + pseudocounts, b[start + j] + pseudocounts
                x, y = (_LEAST if x < _LEAST else x), (_LEAST if y < _LEAST else y)
                row[j] = (log(x) - log(y)) * _LOG2E
        means, least, most, large = _ends(change, delta)
        stds = _deviations(change, means)
        medians = _sorted_medians(change) if n < _FEW else _medians(change, means, stds)
        for j in range(w):
            out[0, start + j], out[1, start + j], out[2, start + j] = means[j], medians[j], stds[j]
            out[3, start + j], out[4, start + j], out[5, start + j] = least[j], most[j], large[j] / n


@njit(**OPTIONS)
def _ends(change, delta):
    """Means, least and greatest, and how many are large."""
    sums, large = np.zeros(_WIDTH), np.zeros(_WIDTH, np.int32)
    least, most = change[0].copy(), change[0].copy()
    for top in range(0, change.shape[0], _ROWS):
        part = np.zeros(_WIDTH, np.float32)
        for i in range(top, min(top + _ROWS, change.shape[0])):
            row = change[i]
            for j in range(_WIDTH):
                r = row[j]
                part[j] += r
                large[j] += np.int32(1) if abs(r) >= delta else np.int32(0)
                least[j] = r if r < least[j] else least[j]
                most[j] = r if r > most[j] else most[j]
        sums += part
    return sums / change.shape[0], least, most, large


@njit(**OPTIONS)
def _deviations(change, means):
    sums, centre = np.zeros(_WIDTH), means.astype(np.float32)
    for top in range(0, change.shape[0], _ROWS):
        part = np.zeros(_WIDTH, np.float32)
        for i in range(top, min(top + _ROWS, change.shape[0])):
            row = change[i]
            for j in range(_WIDTH):
                d = row[j] - centre[j]
                part[j] += d * d
        sums += part
    return np.sqrt(sums / change.shape[0])


@njit(**OPTIONS)
def _medians(change, means, stds):
    """The least numbers, to a thousandth of the standard deviation, that half of the changes are not above."""
    n = change.shape[0]
    low, high = (means - _REACH * stds).astype(np.float32), (means + _REACH * stds).astype(np.float32)
    for _ in range(_HALVINGS):
        middle = (low + high) * F(0.5)
        count = np.zeros(_WIDTH, np.int32)
        for i in range(n):
            row = change[i]
            for j in range(_WIDTH):
                count[j] += np.int32(1) if row[j] <= middle[j] else np.int32(0)
        for j in range(_WIDTH):
            if 2 * count[j] >= n:
                high[j] = middle[j]
            else:
                low[j] = middle[j]
    return (low + high) * F(0.5)


@njit(**OPTIONS)
def _sorted_medians(change):
    n = change.shape[0]
    out = np.empty(_WIDTH, np.float32)
    for j in range(_WIDTH):
        column = np.sort(change[:, j])
        out[j] = (column[(n - 1) // 2] + column[n // 2]) * F(0.5)
    return out

"""How log2 ratios of draws of two groups are spread, every draw of one against every draw of the other (numba, CPU).

Draws come in strata, of which groups are mixtures. Of each column the logarithms of each stratum become a histogram,
once for all comparisons; the distribution of a difference follows from two histograms in one walk over both. One side
is taken at the middle of its bins, the other as uniform within them.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from scvi.kernels.compiler import OPTIONS, PART
from scvi.kernels.elementary import F, clamp, log

_LEAST_WIDTH, _MOST_WIDTH = 16, 64  # columns that are taken at a time
_CACHED = 2**18  # bins of them that stay in a cache
_SAMPLE = 4000  # draws that are looked at to see where bins should be
_STRIDE = 7919  # a prime: which of them are looked at has nothing to do with their order
_BINS = 512
_HALVINGS = 8  # of the interval that a median is in
_LEAST, _MOST = F(1e-16), F(1e38)  # where bins begin and end at most
_LOG2E = 1.4426950408889634


@njit(**OPTIONS)
def compare_columns(values, strata, weights1, weights2, pseudocounts, delta, block, out):
    """Writes what the columns ``block[0]:block[1]`` of `values` say of each comparison to `out`, (c, 7, columns).

    Mean, median, standard deviation, least and greatest of the log2 ratio; the probability that it is at least `delta`
    in absolute value, and that it is positive. NaN where nothing could be compared.

    Parameters
    ----------
    values, strata
        (m, f) and (m,) draws and the stratum of each, from 0 on. NaN is no draw.
    weights1, weights2
        (c, p, s) weights of the strata of both sides, for each comparison and pair of mixtures; pairs are averaged.
    pseudocounts, delta
        (c,) for each comparison.
    """
    n_strata = weights1.shape[2]
    width = max(_LEAST_WIDTH, min(_MOST_WIDTH, _CACHED // (n_strata * _BINS)))
    for start in range(block[0], block[1], width):
        columns = (start, min(start + width, block[1]))
        low, scale = _range(values, columns)
        bins, count, least, most = _counted(values, strata, n_strata, columns, low, scale)
        for j in range(columns[1] - start):
            _compare(
                bins[j],
                count[:, j],
                least[:, j],
                most[:, j],
                low[j],
                scale[j],
                weights1,
                weights2,
                pseudocounts,
                delta,
                out[:, :, start + j],
            )


@njit(**PART)
def _range(values, columns):
    """The logarithm at which the bins of each column begin, and how many there are in 1; of some of the draws."""
    w = columns[1] - columns[0]
    least, most = np.full(w, _MOST), np.full(w, _LEAST)
    m = values.shape[0]
    for i in range(min(m, _SAMPLE)):
        row = values[i if m <= _SAMPLE else (i * _STRIDE) % m, columns[0] : columns[1]]
        for j in range(w):
            x = row[j]
            least[j] = x if x < least[j] else least[j]
            most[j] = x if x > most[j] else most[j]
    low, scale = np.zeros(w, np.float32), np.zeros(w, np.float32)
    for j in range(w):
        first, last = log(clamp(least[j], _LEAST, _MOST)), log(most[j])
        margin = max(F(0.2) * (last - first), F(1e-4))
        low[j], scale[j] = first - margin, _BINS / max(last - first + 2 * margin, F(2e-4))
    return low, scale


@njit(**PART)
def _counted(values, strata, n_strata, columns, low, scale):
    """Draws of each stratum in each bin, (columns, s, bins), and their number, least and greatest, (s, columns)."""
    w = columns[1] - columns[0]
    bins = np.zeros((w, n_strata, _BINS), np.float32)
    count, place = np.zeros((n_strata, w), np.int32), np.zeros(w, np.int32)
    least, most = np.full((n_strata, w), _MOST), np.zeros((n_strata, w), np.float32)
    last = np.float32(_BINS - 1)
    for i in range(values.shape[0]):
        row, s = values[i, columns[0] : columns[1]], strata[i]
        low_s, high_s, n_s = least[s], most[s], count[s]
        for j in range(w):
            x = row[j]
            n_s[j] += np.int32(1) if x == x else np.int32(0)
            low_s[j] = x if x < low_s[j] else low_s[j]
            high_s[j] = x if x > high_s[j] else high_s[j]
            x = x if x > _LEAST else _LEAST  # also NaN
            place[j] = np.int32(clamp((log(x) - low[j]) * scale[j], F(0), last))
        for j in range(w):
            bins[j, s, place[j]] += F(1) if row[j] == row[j] else F(0)
    return bins, count, least, most


@njit(**PART)
def _compare(bins, count, least, most, low, scale, weights1, weights2, pseudocounts, delta, out):
    """Of one column, all comparisons."""
    n_pairs = weights1.shape[1]
    edges, middles = np.empty(_BINS + 1), np.empty(_BINS)
    for k in range(_BINS + 1):
        edges[k] = np.exp(low + k / scale)
    for k in range(_BINS):
        middles[k] = np.exp(low + (k + 0.5) / scale)
    first, second = np.empty((n_pairs, _BINS)), np.empty((n_pairs, _BINS + 1))
    at_edge, at_middle = np.empty(_BINS + 1), np.empty(_BINS)
    for c in range(weights1.shape[0]):
        extra = pseudocounts[c]
        if c == 0 or extra != pseudocounts[c - 1]:
            for k in range(_BINS + 1):
                at_edge[k] = np.log(edges[k] + extra) * _LOG2E
            for k in range(_BINS):
                at_middle[k] = np.log(middles[k] + extra) * _LOG2E
        n, mean, square, lowest, highest = 0, 0.0, 0.0, np.inf, -np.inf
        for p in range(n_pairs):
            has1 = _mixed(bins, count, weights1[c, p], first[n])
            has2 = _mixed(bins, count, weights2[c, p], second[n, 1:])
            if not (has1 and has2):
                continue
            mean1, square1 = _moments(first[n], at_middle)
            mean2, square2 = _moments(second[n, 1:], at_middle)
            mean += mean1 - mean2
            square += square1 - 2 * mean1 * mean2 + square2
            low1, high1 = _ends(count, least, most, weights1[c, p], extra)
            low2, high2 = _ends(count, least, most, weights2[c, p], extra)
            lowest, highest = min(lowest, low1 - high2), max(highest, high1 - low2)
            second[n, 0] = 0.0
            for k in range(_BINS):
                second[n, k + 1] += second[n, k]
            n += 1
        if n == 0:
            out[c] = np.nan
            continue
        mean, square = mean / n, square / n
        std = np.sqrt(max(square - mean * mean, 0.0))
        out[c, 0], out[c, 2], out[c, 3], out[c, 4] = mean, std, lowest, highest
        out[c, 1] = _median(first[:n], second[:n], at_edge, at_middle, mean, std)
        below = _below(first[:n], second[:n], at_edge, at_middle, -delta[c])
        out[c, 5] = below + 1 - _below(first[:n], second[:n], at_edge, at_middle, delta[c])
        out[c, 6] = 1 - _below(first[:n], second[:n], at_edge, at_middle, 0.0)


@njit(**PART)
def _mixed(bins, count, weights, out):
    """Writes the histogram of a mixture, which sums to 1, to `out`; False if none of its strata has a draw."""
    total = 0.0
    out[:] = 0.0
    for s in range(weights.shape[0]):
        if weights[s] > 0 and count[s] > 0:
            total += weights[s]
            share = weights[s] / count[s]
            for k in range(_BINS):
                out[k] += share * bins[s, k]
    if total > 0:
        for k in range(_BINS):
            out[k] /= total
    return total > 0


@njit(**PART)
def _moments(histogram, at):
    mean, square = 0.0, 0.0
    for k in range(_BINS):
        mean += histogram[k] * at[k]
        square += histogram[k] * at[k] * at[k]
    return mean, square


@njit(**PART)
def _ends(count, least, most, weights, extra):
    """The least and the greatest logarithm among the strata of a mixture."""
    low, high = np.inf, -np.inf
    for s in range(weights.shape[0]):
        if weights[s] > 0 and count[s] > 0:
            low, high = min(low, np.float64(least[s])), max(high, np.float64(most[s]))
    return np.log(max(low, np.float64(_LEAST)) + extra) * _LOG2E, np.log(max(high, np.float64(_LEAST)) + extra) * _LOG2E


@njit(**PART)
def _below(first, second, at_edge, at_middle, x):
    """Probability that the difference is below `x`, over all pairs of mixtures."""
    total = 0.0
    for p in range(first.shape[0]):
        k = 0
        for i in range(_BINS):
            if first[p, i] == 0.0:
                continue
            y = at_middle[i] - x  # the other side is above it
            while k < _BINS and at_edge[k + 1] <= y:
                k += 1
            under = second[p, k]
            if k < _BINS and y > at_edge[k]:
                under += (second[p, k + 1] - under) * (y - at_edge[k]) / (at_edge[k + 1] - at_edge[k])
            total += first[p, i] * (1 - under)
    return total / first.shape[0]


@njit(**PART)
def _median(first, second, at_edge, at_middle, mean, std):
    """Where half of the differences are below; it is no further from the mean than the standard deviation."""
    low, high = mean - 1.01 * std - 1e-6, mean + 1.01 * std + 1e-6
    below_low, below_high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = _below(first, second, at_edge, at_middle, middle)
        if below >= 0.5:
            high, below_high = middle, below
        else:
            low, below_low = middle, below
    if below_high <= below_low:
        return (low + high) / 2
    return low + (high - low) * min(max((0.5 - below_low) / (below_high - below_low), 0.0), 1.0)

"""How ratios of draws of two mixtures are spread (on the CPU)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from scvi.kernels.parallel import row_blocks, run_blocks


class LogRatios(NamedTuple):
    """Of log2 ratios of two mixtures of draws, for each comparison and column, (c, f) float64."""

    mean: np.ndarray
    median: np.ndarray
    std: np.ndarray
    min: np.ndarray
    max: np.ndarray
    large: np.ndarray  # probability that it is large in absolute value
    above: np.ndarray  # that it is positive


def log_ratios(
    values: np.ndarray,
    strata: np.ndarray,
    weights: tuple[np.ndarray, np.ndarray],
    pseudocounts: np.ndarray,
    delta: np.ndarray,
) -> LogRatios:
    """How log2 of (a + pseudocounts) / (b + pseudocounts) is spread over all pairs of draws of two mixtures.

    Logarithms are taken to a bin of 512 between the least and the greatest; below 1e-16 they are those of 1e-16.

    Parameters
    ----------
    values
        (m, f) float32 draws; NaN is no draw.
    strata
        (m,) int32 the stratum of each, from 0 on.
    weights
        (c, p, s) twice, for both sides: weights of the strata for each comparison, and for each of p pairs of mixtures
        that are compared with one another; the answer is their mean. A stratum without draws is left out.
    pseudocounts, delta
        (c,) for each comparison: what is added, and from where on a log2 ratio is large.

    Returns
    -------
    NaN where one of the sides has no draw
    """
    from scvi.kernels import histograms

    first, second = weights
    out = np.empty((len(first), 7, values.shape[1]))
    arguments = np.ascontiguousarray(values), strata, first, second, pseudocounts, delta
    blocks = row_blocks(values.shape[1], min_rows=64)
    run_blocks(lambda _, *block: histograms.compare_columns(*arguments, block, out), blocks)
    return LogRatios(*out.transpose(1, 0, 2))

"""How far the probabilities of a classifier can be trusted, and the temperature that makes them trustworthy."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_USUAL, _PRIOR_SD = 1.5, 0.25
"""Median of T, and standard deviation of its logarithm, before any cell is seen. A classifier that was fitted to a few
labels is too sure of itself: hidden cells of real data ask for a T from 1.5 to 1.7 (docs/models/scanvi.md)."""
_LARGEST = 5.0


def temperature(log_q: npt.NDArray, labels: npt.NDArray) -> float:
    """The T for which softmax(log q / T) explains held-out labels best (Guo et al. 2017).

    It is the maximum of their likelihood times a log-normal prior around 1.5, so that few cells move it little.

    Parameters
    ----------
    log_q
        (n, c) log-probabilities.
    labels
        (n,) codes.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    log_q, rows = np.asarray(log_q, dtype=np.float64), np.arange(len(labels))

    def loss(log_t: float) -> float:
        penalty = 0.5 * ((log_t - np.log(_USUAL)) / _PRIOR_SD) ** 2
        return penalty - float(log_softmax(log_q / np.exp(log_t), axis=1)[rows, labels].sum())

    bound = np.log(_LARGEST)
    return float(np.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded").x))


def calibration_error(probabilities: npt.ArrayLike, labels: npt.ArrayLike, n_bins: int = 10) -> float:
    """Expected calibration error: how far the share of right answers is from the probability that was given for them.

    Cells are put into bins of equal width by the probability of their most probable label; the distances of the two
    means are averaged with the sizes of the bins as weights (Naeini et al. 2015).

    Parameters
    ----------
    probabilities
        (n, c), rows sum to 1.
    labels
        (n,) codes of the true labels, the columns' positions.
    """
    top, right, bins = _binned(probabilities, labels, n_bins)
    gaps = np.bincount(bins, weights=top - right, minlength=n_bins)
    return float(np.abs(gaps).sum() / len(bins))


def calibration_bins(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, n_bins: int = 10
) -> tuple[npt.NDArray, npt.NDArray, npt.NDArray]:
    """Of bins of :func:`calibration_error` that are not empty: mean probability, share right, share of the cells."""
    top, right, bins = _binned(probabilities, labels, n_bins)
    sizes, given, answers = (np.bincount(bins, weights, minlength=n_bins) for weights in (None, top, right))
    filled = sizes > 0
    return given[filled] / sizes[filled], answers[filled] / sizes[filled], sizes[filled] / len(bins)


def _binned(
    probabilities: npt.ArrayLike, labels: npt.ArrayLike, n_bins: int
) -> tuple[npt.NDArray, npt.NDArray, npt.NDArray]:
    """(n,) largest probabilities, whether they are of the true label, and their bins."""
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise ValueError(
            f"probabilities must be (cells, labels) and labels (cells,), got shapes {probabilities.shape} and "
            f"{labels.shape}"
        )
    top = probabilities.max(axis=1)
    return top, probabilities.argmax(axis=1) == labels, np.minimum((top * n_bins).astype(int), n_bins - 1)

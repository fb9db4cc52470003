"""The prior of a cell's log library size: mean and variance of the log total counts in its batch."""

from __future__ import annotations

import numpy as np

VARIANCE_FLOOR = 1e-4
"""Smallest prior variance of a log library size: at 0 the KL divergence is infinite."""


def library_prior(totals: np.ndarray, batch: np.ndarray, n_batch: int) -> tuple[tuple[float, float], ...]:
    """Mean and variance of the log totals in each batch; a batch of empty cells gets those of all cells."""
    overall = _log_moments(totals)
    pairs = [_log_moments(totals[batch == code]) or overall for code in range(n_batch)]
    return tuple((mean, max(variance, VARIANCE_FLOOR)) for mean, variance in pairs)  # type: ignore[misc]


def _log_moments(totals: np.ndarray) -> tuple[float, float] | None:
    """Mean and population variance of the logs of the totals above zero; None if there are none."""
    logs = np.log(totals[totals > 0])
    return (float(logs.mean()), float(logs.var())) if len(logs) else None

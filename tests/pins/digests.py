"""A short form of what a fit found, and how close another machine should come to it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

# Where a rounding error may change a count or a rank; `compare.py` looks at these, too.
LEFT_OUT = (
    "accuracy",
    "f1_score",
    "calibration_error",
    "correlation",
    "posterior_predictive_sample",
    "generated",
    "denoised",
    "corrupted",
)
# A mean square of differences, a likelihood: sums over many genes, in which rounding errors average out.
LOSSES = ("elbo", "loss", "reconstruction", "marginal")
# Fits that make much of rounding errors: without weight decay biases before a batch norm drift with them, and AutoZI's
# logarithms of small probabilities do. Measured with vectors of 128 to 512 bits, and with one and two threads.
LOOSE = {"scvi_other_plan": 100.0, "unsupervised_autozi": 10.0}


def digest(found: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    """Of each array of numbers its size, its mean, its mean absolute value, and three of its values."""
    numbers = {name: values for name, values in found.items() if values.dtype.kind in "fiub" and values.size}
    return {name: _digest(values) for name, values in numbers.items() if not any(part in name for part in LEFT_OUT)}


def _digest(values: np.ndarray) -> list[float]:
    flat = values.astype(float).ravel()
    some = flat[np.linspace(0, len(flat) - 1, 3).astype(int)]
    known = flat[np.isfinite(flat)]
    return [len(known), *(float(f"{value:.7g}") for value in (known.mean(), np.abs(known).mean(), *some))]


def tolerance(fit: str, entry: str) -> float:
    """How far an entry may be apart on another machine, as a share of the values' size."""
    return LOOSE.get(fit, 1.0) * (1e-4 if any(part in entry for part in LOSSES) else 1e-3)


def distance(found: list[float], pinned: list[float]) -> float:
    """How far two digests are apart, as a share of the values' size."""
    if found[0] != pinned[0] or np.isnan(found).tolist() != np.isnan(pinned).tolist():
        return float("inf")
    size = pinned[2] or 1.0
    return max(abs(a - b) / max(abs(b), size) for a, b in zip(found[1:], pinned[1:], strict=True) if not np.isnan(b))

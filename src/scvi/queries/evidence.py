"""What draws of a quantity say of it: summaries, credible intervals, Bayes factors, and calls at an expected error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

EPS = 1e-8
"""Added to probabilities whose logarithm is taken, so that no log Bayes factor is beyond 18.4."""


def bayes_factor(proba: np.ndarray) -> np.ndarray:
    """Natural logarithm of the odds of a hypothesis against its opposite, of which neither was likelier before."""
    return np.log(proba + EPS) - np.log(1 - proba + EPS)


def expected_fdr(proba: np.ndarray) -> np.ndarray:
    """(f,) expected share of false calls among all features that are at least as probable; NaN stays NaN.

    The calls at a target are those with a value up to the target: the most that keep the posterior expectation of the
    false discovery rate below it.
    """
    order = np.argsort(-proba, kind="stable")  # NaN comes last
    ranked = proba[order]
    fdr = np.cumsum(1 - ranked) / np.arange(1, len(ranked) + 1)
    last_of_ties = np.searchsorted(-ranked, -ranked, side="right") - 1
    found = np.empty(len(proba))
    found[order] = np.where(np.isnan(ranked), np.nan, fdr[last_of_ties])
    return found


def described(samples: np.ndarray, levels: Sequence[float] = ()) -> dict[str, np.ndarray]:
    """Mean, median, standard deviation, least, greatest and credible intervals of draws (m, f), by name (f,)."""
    found = {
        "mean": samples.mean(axis=0),
        "median": np.median(samples, axis=0),
        "std": samples.std(axis=0),
        "min": samples.min(axis=0),
        "max": samples.max(axis=0),
    }
    for level in levels:
        text = str(level)[:5]
        ends = credible_intervals(samples, level)
        found[f"confidence_interval_{text}_min"], found[f"confidence_interval_{text}_max"] = ends[..., 0], ends[..., 1]
    return found


def credible_intervals(samples: npt.ArrayLike, level: float = 0.94) -> np.ndarray:
    """The narrowest interval that holds a share `level` of the draws, (2,) of (m,), (f, 2) of (m, f).

    Raises
    ------
    ValueError
        If there are too few draws, or `level` is no share.
    """
    values = np.asarray(samples)
    if values.ndim not in (1, 2):
        raise ValueError(f"draws of shape {values.shape}: one axis of draws, and perhaps one of features, are read")
    if not 0 < level < 1:
        raise ValueError(f"confidence_level={level!r} is not between 0 and 1")
    values = np.sort(values, axis=0)
    inside = int(np.floor(level * len(values)))
    if len(values) - inside < 1 or inside < 1:
        raise ValueError(f"{len(values)} draws are too few for an interval of {level}")
    widths = values[inside:] - values[: len(values) - inside]
    start = np.argmin(widths, axis=0)
    low = np.take_along_axis(values, start[None], axis=0)[0] if values.ndim == 2 else values[start]
    high = np.take_along_axis(values, start[None] + inside, axis=0)[0] if values.ndim == 2 else values[start + inside]
    return np.stack([low, high], axis=-1)

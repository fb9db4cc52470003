"""Calls and intervals against loops that say what they mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from scvi.queries.evidence import bayes_factor, credible_intervals, described, expected_fdr

PROBABILITIES = st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.9, 0.95, 0.99, 1.0]), min_size=1, max_size=12)


@settings(deadline=None)
@given(PROBABILITIES, st.sampled_from([0.0123, 0.0456, 0.1789, 0.5678]))
def test_the_calls_are_the_most_that_keep_the_expected_error_below_the_target(
    values: list[float], target: float
) -> None:
    proba = np.array(values)
    called = expected_fdr(proba) <= target
    thresholds = [t for t in np.unique(proba) if (1 - proba[proba >= t]).mean() <= target]
    expected = proba >= min(thresholds) if thresholds else np.zeros(len(proba), dtype=bool)
    np.testing.assert_array_equal(called, expected)


def test_what_is_not_known_is_not_called() -> None:
    fdr = expected_fdr(np.array([np.nan, 1.0, 0.9, np.nan]))
    np.testing.assert_allclose(fdr, [np.nan, 0.0, 0.05, np.nan])
    assert (fdr <= 0.99).tolist() == [False, True, True, False]


def test_bayes_factors_are_log_odds_with_an_end() -> None:
    assert bayes_factor(np.array(0.75)) == pytest.approx(np.log(3))
    assert bayes_factor(np.array(0.5)) == pytest.approx(0)
    assert bayes_factor(np.array(1.0)) == pytest.approx(-np.log(1e-8), abs=1e-6)


def test_credible_intervals_are_the_narrowest_ones() -> None:
    rng = np.random.default_rng(0)
    draws = np.stack([rng.normal(2, 3, 20_000), rng.exponential(size=20_000)], axis=1)
    found = credible_intervals(draws, 0.9)
    np.testing.assert_allclose(found[0], norm.interval(0.9, 2, 3), atol=0.25)
    np.testing.assert_allclose(found[1], [0, np.log(10)], atol=0.12)  # where the density is highest
    np.testing.assert_array_equal(credible_intervals(draws[:, 1], 0.9), found[1])
    few = rng.normal(size=(9, 1))
    widths = [(few_sorted := np.sort(few[:, 0]))[i + 4] - few_sorted[i] for i in range(5)]
    low, high = credible_intervals(few, 0.5)[0]
    assert high - low == min(widths)
    for level in (0.0, 1.0, 1.5):
        with pytest.raises(ValueError, match="not between 0 and 1"):
            credible_intervals(draws, level)
    with pytest.raises(ValueError, match="too few"):
        credible_intervals([1.0], 0.9)
    with pytest.raises(ValueError, match="one axis of draws"):
        credible_intervals(np.zeros((3, 3, 3)), 0.9)


def test_a_summary_of_draws() -> None:
    draws = np.random.default_rng(0).normal(size=(101, 3))
    found = described(draws, levels=[0.5])
    for name in ("mean", "median", "std", "min", "max"):
        np.testing.assert_array_equal(found[name], getattr(np, name)(draws, axis=0))
    ends = np.stack([found["confidence_interval_0.5_min"], found["confidence_interval_0.5_max"]], axis=1)
    np.testing.assert_array_equal(ends, credible_intervals(draws, 0.5))

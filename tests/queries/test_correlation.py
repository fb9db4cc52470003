"""Correlations against those of scipy and numpy over all rows at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from scvi.queries import correlation as module
from scvi.queries.correlation import correlation


def by_hand(rows: np.ndarray, kind: str) -> np.ndarray:
    """A loop over pairs of features, by scipy."""
    compare = stats.spearmanr if kind == "spearman" else stats.pearsonr
    f = rows.shape[1]
    found = np.eye(f)
    for i in range(f):
        for j in range(i):
            both_vary = np.ptp(rows[:, i]) > 0 and np.ptp(rows[:, j]) > 0
            found[i, j] = found[j, i] = compare(rows[:, i], rows[:, j])[0] if both_vary else 0.0
    return found


@pytest.mark.parametrize("kind", ["spearman", "pearson"])
@pytest.mark.parametrize("block", [1, 7, 100])
def test_against_scipy(kind: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows = rng.gamma(0.3, 10.0, (100, 3)) @ rng.uniform(0, 1, (3, 6)) + rng.normal(0, 1, (100, 6))
    rows = np.column_stack([rows, rng.poisson(0.5, 100), np.full(100, 0.1), 1e6 + rng.normal(0, 10, 100)])
    rows = rows.astype(np.float32)
    monkeypatch.setattr(module, "_BLOCK", 150)  # ranks of one feature at a time, products of some rows
    found = correlation((rows[i : i + block].copy() for i in range(0, 100, block)), kind)
    np.testing.assert_allclose(found, by_hand(rows.astype(np.float64), kind), atol=1e-6)
    assert np.array_equal(found, found.T)
    assert found[7].tolist() == [0.0] * 7 + [1.0, 0.0]


@given(
    rows=arrays(
        np.float32,
        st.tuples(st.integers(2, 30), st.integers(1, 5)),
        elements=st.sampled_from([0.0, 1.0, 2.0, 0.5, 1e-3, 1e4]),
    ),
    kind=st.sampled_from(["spearman", "pearson"]),
    first=st.integers(1, 29),
)
@settings(max_examples=40, deadline=None)
def test_against_scipy_with_ties(rows: np.ndarray, kind: str, first: int) -> None:
    parts = [part.copy() for part in (rows[:first], rows[first:]) if len(part)]
    np.testing.assert_allclose(correlation(parts, kind), by_hand(rows.astype(np.float64), kind), atol=1e-7)


def test_no_rows() -> None:
    with pytest.raises(ValueError, match="no rows to correlate"):
        correlation([], "pearson")

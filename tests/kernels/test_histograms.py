"""How log2 ratios of all pairs of draws are spread, against numpy on every pair."""

from __future__ import annotations

import numpy as np
import pytest

from scvi import kernels

N, F = 300, 70


@pytest.fixture(scope="module")
def values() -> np.ndarray:
    """Three strata, one after the other; columns of many spreads, one that is constant, and some with gaps."""
    rng = np.random.default_rng(0)
    places = rng.normal(0, 1, (3, F))[np.repeat(np.arange(3), N)]
    found = np.exp(rng.normal(-8 + places, rng.uniform(0.01, 2, F))).astype(np.float32)
    found[:, 4], found[5, 5] = 0.5, 0
    found[:N, 6], found[::2, 7], found[N:, 8] = np.nan, np.nan, np.nan
    return found


STRATA = np.repeat(np.arange(3, dtype=np.int32), N)
FIRST = np.array([[[1.0, 0, 0]], [[0, 1.0, 0]], [[0.5, 0.5, 0]]])
SECOND = np.array([[[0, 0.5, 0.5]], [[1.0, 0, 0]], [[0, 0, 2.0]]])
PSEUDOCOUNTS, DELTA = np.array([0.0, 1e-4, 1e-4]), np.array([0.25, 0.5, 0.0])


def check(found: kernels.LogRatios, c: int, f: int, change: np.ndarray, delta: float, atol: float = 0.008) -> None:
    expected = {"mean": change.mean(), "std": change.std()}
    expected |= {"min": change.min(), "max": change.max(), "large": (np.abs(change) >= delta).mean()}
    expected |= {"above": (change > 0).mean() + (change == 0).mean() / 2}
    half = found.median[c, f]  # between two modes it may be anywhere
    assert (change < half - 0.01).mean() <= 0.505
    assert (change > half + 0.01).mean() <= 0.505
    for name, value in expected.items():
        reach = atol * (1 if name in ("large", "above") else max(change.std(), 1e-2))
        np.testing.assert_allclose(getattr(found, name)[c, f], value, atol=reach, rtol=1e-3, err_msg=f"{name} {c} {f}")


def test_against_all_pairs(values: np.ndarray) -> None:
    found = kernels.log_ratios(values, STRATA, (FIRST, SECOND), PSEUDOCOUNTS, DELTA)
    for c, (of_first, of_second) in enumerate((((0,), (1, 2)), ((1,), (0,)), ((0, 1), (2,)))):
        for f in range(F):
            a, b = (
                column[~np.isnan(column)].astype(float)
                for column in (values[np.isin(STRATA, of_first), f], values[np.isin(STRATA, of_second), f])
            )
            if not len(a) or not len(b):
                assert all(np.isnan(part[c, f]) for part in found)
                continue
            a, b = (np.log2(np.maximum(side, 1e-16) + PSEUDOCOUNTS[c]) for side in (a, b))
            check(found, c, f, (a[:, None] - b).ravel(), DELTA[c], 0.02 if f == 5 else 0.008)


def test_mixtures_are_compared_pair_by_pair(values: np.ndarray) -> None:
    """Stratum 0 with 1, and 2 with 0: the mean over both; a pair that has no draws is left out."""
    weights = np.array([[[1.0, 0, 0], [0, 0, 1.0]]]), np.array([[[0, 1.0, 0], [1.0, 0, 0]]])
    found = kernels.log_ratios(values, STRATA, weights, np.zeros(1), np.array([0.25]))
    logs = np.log2(np.maximum(values, 1e-16)).astype(float)
    for f in (0, 1, 9):
        pairs = [logs[a == STRATA, f][:, None] - logs[b == STRATA, f] for a, b in ((0, 1), (2, 0))]
        check(found, 0, f, np.concatenate(pairs, axis=None), 0.25)
    assert np.isnan(found.mean[0, 6])  # stratum 0 has none
    assert np.isnan(found.mean[0, 8])


def test_many_draws(values: np.ndarray) -> None:
    """Bins are laid over some of them."""
    rng = np.random.default_rng(1)
    draws = np.exp(rng.normal(-8, 1, (20_000, 3))).astype(np.float32)
    strata = (np.arange(20_000) % 2).astype(np.int32)
    weights = np.array([[[1.0, 0]]]), np.array([[[0, 1.0]]])
    found = kernels.log_ratios(draws, strata, weights, np.zeros(1), np.ones(1))
    np.testing.assert_allclose(found.std, np.sqrt(2) / np.log(2), rtol=0.02)
    logs = np.log2(draws)
    np.testing.assert_allclose(found.max[0], logs[::2].max(axis=0) - logs[1::2].min(axis=0), rtol=1e-4)
    np.testing.assert_allclose(found.mean[0], logs[::2].mean(axis=0) - logs[1::2].mean(axis=0), atol=1e-3)

"""How log2 ratios are spread, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from scvi import kernels


@pytest.mark.parametrize(("n", "f"), [(1, 5), (2, 1), (7, 70), (499, 3), (500, 33), (5001, 65)])
def test_against_numpy(n: int, f: int) -> None:
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(-8, rng.uniform(0.01, 3, f), (2 * n, f))).astype(np.float32)
    values[0, 0], values[:, -1] = 0, 0.5
    first, second = rng.permutation(2 * n)[:n], rng.integers(0, 2 * n, n)
    for pseudocounts, delta in ((0.0, 0.25), (1e-5, 0.0)):
        found = kernels.pair_changes(values, first, second, pseudocounts, delta)
        a, b = (
            np.maximum(values[rows].astype(np.float64) + pseudocounts, np.finfo(np.float32).tiny)
            for rows in (first, second)
        )
        change = np.log2(a) - np.log2(b)
        np.testing.assert_allclose(found.mean, change.mean(axis=0), atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(found.std, change.std(axis=0), atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(found.min, change.min(axis=0), atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(found.max, change.max(axis=0), atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(found.large, (np.abs(change) >= delta).mean(axis=0), atol=1 / n if delta else 0)
        if n < 500:
            np.testing.assert_allclose(found.median, np.median(change, axis=0), atol=1e-5, rtol=1e-5)
        else:  # bisected: between the two in the middle, give or take a thousandth of the deviation
            reach = 1e-3 * change.std(axis=0) + 1e-5
            middle = np.sort(change, axis=0)[[(n - 1) // 2, n // 2]]
            assert (found.median >= middle[0] - reach).all()
            assert (found.median <= middle[1] + reach).all()


def test_rows_need_not_lie_side_by_side() -> None:
    values = np.random.default_rng(0).random((40, 20), dtype=np.float32)
    rows = np.arange(20), np.arange(20) + 20
    whole, part = kernels.pair_changes(values, *rows, 0.1, 0.2), kernels.pair_changes(values[:, ::2], *rows, 0.1, 0.2)
    for first, second in zip(whole, part, strict=True):
        np.testing.assert_array_equal(first[::2], second)

"""The lower of two Gaussians."""

from __future__ import annotations

import numpy as np
import pytest

from scvi.cells.protein_background import background_moments


def test_background_moments_find_the_lower_mode() -> None:
    rng = np.random.default_rng(0)
    n = 3000
    fore, batch = rng.random((n, 3)) < [0.3, 0.6, 0.0], np.arange(n) % 2
    log_mean = np.where(fore, [4.0, 6.0, 0.0], [1.5, 3.0, 2.0]) + batch[:, None] * 0.5 + rng.normal(0, 0.3, (n, 3))
    counts = rng.poisson(np.exp(log_mean))
    mean, log_sd, factor = background_moments(counts, batch, np.ones((2, 3), bool))
    np.testing.assert_allclose(mean[:2], [[1.5, 2.0], [3.0, 3.5]], atol=0.15)
    assert mean[2, 0] == pytest.approx(2.0, abs=0.4)
    assert ((np.exp(log_sd) > 0.1) & (np.exp(log_sd) < 0.8)).all()
    np.testing.assert_allclose(factor[:2], [2.5, 3.0], atol=0.2)
    measured = np.array([[True, True, True], [False, True, False]])
    known = background_moments(counts * measured[batch], batch, measured)[0]
    np.testing.assert_allclose(known[[0, 2], 1], known[[0, 2], 0])
    for part in background_moments(np.zeros((5, 2)), np.zeros(5, int), np.ones((1, 2), bool)):
        assert np.isfinite(part).all()

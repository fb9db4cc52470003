"""Calibration of label probabilities."""

import numpy as np
import pytest
from scipy.special import log_softmax

from scvi.queries.calibration import calibration_error, temperature


def drawn(n, true_temperature, seed=0):
    """Log-probabilities, and labels drawn with those of another temperature."""
    rng = np.random.default_rng(seed)
    log_q = log_softmax(3 * rng.normal(size=(n, 4)), axis=1)
    p = np.exp(log_softmax(log_q / true_temperature, axis=1))
    return log_q, (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)


@pytest.mark.parametrize("true", [0.8, 1.0, 1.5, 2.5])
def test_the_temperature_is_found(true):
    log_q, labels = drawn(20_000, true)
    found = temperature(log_q, labels)
    assert found == pytest.approx(true, rel=0.05)
    calibrated = np.exp(log_softmax(log_q / found, axis=1))
    assert calibration_error(calibrated, labels) < 0.01
    if true > 1:
        assert calibration_error(np.exp(log_q), labels) > 0.03


def test_few_cells_move_the_temperature_little():
    log_q = log_softmax(np.tile([3.0, 0.0, 0.0, 0.0], (5, 1)), axis=1)
    assert 1.2 < temperature(log_q, np.zeros(5, int)) < 1.5  # all right
    assert temperature(log_q, np.ones(5, int)) > 1.8  # all wrong


def test_calibration_error_by_hand():
    p = np.array([[0.95, 0.05], [0.95, 0.05], [0.85, 0.15], [0.4, 0.6], [1.0, 0.0]])
    labels = np.array([0, 1, 0, 0, 0])
    # bins: (0.95, 0.95, 1.0) 2 of 3 right; 0.85 right; 0.6 wrong
    expected = (abs(2.9 - 2) + abs(0.85 - 1) + abs(0.6 - 0)) / 5
    assert calibration_error(p, labels) == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"shapes \(5, 2\) and \(3,\)"):
        calibration_error(p, labels[:3])

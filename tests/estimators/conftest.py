"""What holds in every test of the AnnData door."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

# Fixtures of tests that move them themselves, by a seed of the session or by methods of 2020.
_MOVING = {"session_seed", "global_numbers"}


@pytest.fixture
def global_numbers() -> None:
    """For a test that draws from the global generators."""


@pytest.fixture(autouse=True)
def _global_numbers_are_left_alone(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever is made, fitted, mapped, saved or asked draws from generators of its own."""
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    yield
    if _MOVING.isdisjoint(request.fixturenames):
        assert torch.equal(torch.get_rng_state(), before[0]), "torch's global generator has moved"
        assert np.array_equal(np.random.get_state()[1], before[1]), "numpy's global generator has moved"

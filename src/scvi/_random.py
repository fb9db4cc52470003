"""Seeds: where they come from, and how a piece of code uses one without touching anybody else's random numbers."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral

import torch

from scvi._settings import settings

__all__ = ["generator_of", "resolve_seed", "seeded"]


def resolve_seed(seed: int | None) -> int:
    """The given seed, else `scvi.settings.seed`, else fresh entropy."""
    if seed is None:
        return settings.seed if settings.seed is not None else secrets.randbits(32)
    if not isinstance(seed, Integral) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed!r} is not an integer from 0 to 2**32 - 1")
    return int(seed)


def generator_of(seed: int | None, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for one query."""
    return torch.Generator(device).manual_seed(resolve_seed(seed))


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Torch's global CPU generator is seeded inside and put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(resolve_seed(seed))
        yield

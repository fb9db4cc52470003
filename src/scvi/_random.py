"""Seeds: where they come from, and how a piece of code uses one without touching anybody else's random numbers."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from scvi._checks import check_integer
from scvi._settings import settings


def resolve_seed(seed: int | None) -> int:
    """The given seed, else `scvi.settings.seed`, else fresh entropy."""
    if seed is None:
        return settings.seed if settings.seed is not None else secrets.randbits(32)
    return check_integer("seed", seed, 0, 2**32 - 1, "an integer from 0 to 2**32 - 1")


def generator_of(seed: int | None, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for one query."""
    return torch.Generator(device).manual_seed(resolve_seed(seed))


@contextmanager
def seeded(seed: int | None, device: torch.device | str = "cpu") -> Iterator[None]:
    """Torch's global generators, of the CPU and of `device`, are seeded inside and put back afterwards."""
    device, seed = torch.device(device), resolve_seed(seed)
    with torch.random.fork_rng(devices=[device.index or 0] if device.type == "cuda" else []):
        torch.random.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type == "mps":  # has no state of its own to put back
            torch.mps.manual_seed(seed)
        yield

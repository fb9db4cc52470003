"""Dropout that draws from a generator of one's own, for which torch's has no argument, nor the modules around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from scvi.kernels.part import drawn_rows, present_work

_generator: ContextVar[torch.Generator | None] = ContextVar("dropout_from", default=None)


@contextmanager
def dropout_from(generator: torch.Generator | None) -> Iterator[None]:
    """Inside, and in this thread, dropout draws from `generator`, on the device of the networks; None: torch's own."""
    token = _generator.set(generator)
    try:
        yield
    finally:
        _generator.reset(token)


def dropout(x: Tensor, rate: float) -> Tensor:
    """As :func:`torch.nn.functional.dropout` in training, with the same numbers on the CPU."""
    generator = _generator.get()
    if generator is None or rate == 0:
        return nn.functional.dropout(x, rate)
    if present_work() is None:
        return x * torch.empty_like(x).bernoulli_(1 - rate, generator=generator).div_(1 - rate)
    kept = drawn_rows(lambda shape: x.new_empty(shape).bernoulli_(1 - rate, generator=generator), x.shape)
    return x * kept.div_(1 - rate)


def dropout_seed() -> int:
    """A number below 2**31 that decides which entries compiled code drops."""
    return int(torch.randint(2**31, (), generator=_generator.get()))

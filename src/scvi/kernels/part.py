"""A part of the rows of a minibatch, where several processes share its work and each has some of its rows.

What a network makes of a row depends on other rows through batch norm alone, and on the place of the row through the
random numbers that it is given. Inside :func:`in_part` batch norm has the moments of all rows, and random numbers are
drawn for all of them, from generators that are alike in all processes, and those of the other rows are thrown away. So
the processes together compute what one would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Part:
    """Which rows these are."""

    places: Tensor  # (k,) int64 their positions among the rows of all processes, on the CPU
    n_rows: int  # of all processes

    @classmethod
    def side_by_side(cls, parts: Sequence[Part]) -> Part:
        """The rows of several minibatches, one below the other."""
        n_rows = [part.n_rows for part in parts]
        firsts = [sum(n_rows[:i]) for i in range(len(parts))]
        places = [part.places + first for part, first in zip(parts, firsts, strict=True)]
        return cls(torch.cat(places), sum(n_rows))


class Processes(Protocol):
    """Those that share the work."""

    def sum(self, tensor: Tensor, /) -> Tensor:
        """The sum of what each of them gives."""

    def any(self, flag: bool, /) -> bool:
        """Whether it is so in one of them."""

    def part_of(self, n_rows: int, /) -> Part:
        """Of the rows of all of them, one process after the other, the `n_rows` of this one."""


class Work(NamedTuple):
    """What this process does of the work of all."""

    part: Part
    processes: Processes


_work: ContextVar[Work | None] = ContextVar("work", default=None)


def present_work() -> Work | None:
    """That of the surrounding :func:`in_part`; None: this process has all rows. Backward passes have to be told."""
    return _work.get()


def in_part(part: Part | None, processes: Processes) -> AbstractContextManager[None]:
    """Inside, and in this thread, rows are a part of those of all processes; None: they are all."""
    return nullcontext() if part is None else _in_work(Work(part, processes))


def recounted(n_rows: int) -> AbstractContextManager[None]:
    """Inside, the rows of this process are `n_rows` that were made of those outside, such as pairs of cell and label.

    All processes have to come here, and say how many rows they have.
    """
    work = _work.get()
    return nullcontext() if work is None else _in_work(Work(work.processes.part_of(n_rows), work.processes))


@contextmanager
def _in_work(work: Work) -> Iterator[None]:
    token = _work.set(work)
    try:
        yield
    finally:
        _work.reset(token)


def all_agree(flag: bool) -> bool:
    """Whether `flag` is true in all processes that share the work; all have to ask."""
    work = _work.get()
    return flag if work is None else not work.processes.any(not flag)


def drawn_rows(draw: Callable[[Sequence[int]], Tensor], shape: Sequence[int]) -> Tensor:
    """``draw(shape)``, (..., n, d) random numbers, of which those of this process are given where it has some rows."""
    work = _work.get()
    if work is None:
        return draw(shape)
    whole = draw([*shape[:-2], work.part.n_rows, shape[-1]])
    return whole.index_select(-2, work.part.places.to(whole.device))


def drawn_from_rows(draw: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """``draw(rows)``, (n, k): a draw from each of the rows (n, d), as :func:`drawn_rows`."""
    work = _work.get()
    if work is None:
        return draw(rows)
    places = work.part.places.to(rows.device)
    return draw(rows.new_ones(work.part.n_rows, rows.shape[1]).index_copy_(0, places, rows))[places]

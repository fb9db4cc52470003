"""Cells of several data sets, drawn side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from scvi.cells.cell_data import CellData
from scvi.cells.epoch_order import ALL, Portion, count_minibatches
from scvi.kernels import Part
from scvi.minibatch import Minibatch


@dataclass(frozen=True, eq=False)
class JointMinibatch:
    """One minibatch of each data set."""

    parts: tuple[Minibatch, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def n_whole(self) -> int:
        """Number of cells of the step, see :attr:`Minibatch.n_whole`."""
        return sum(mb.n_whole for mb in self.parts)

    @property
    def part(self) -> Part | None:
        """Which of the cells of the step these are, one data set below the other; None: all."""
        parts = [mb.part for mb in self.parts if mb.part is not None]
        return Part.side_by_side(parts) if parts else None

    def to(self, device: torch.device | str) -> JointMinibatch:
        """The same cells on another device."""
        return JointMinibatch(tuple(mb.to(device) for mb in self.parts))


@dataclass(frozen=True, eq=False)
class JointCells:
    """Cells of several data sets, whose positions are counted through: those of the second follow those of the first.

    Minibatches know the number of their data set.
    """

    parts: tuple[CellData, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def starts(self) -> np.ndarray:
        """(k,) position of the first cell of each data set."""
        return np.cumsum([0, *(len(part) for part in self.parts[:-1])])

    def split(self, indices: np.ndarray) -> list[np.ndarray]:
        """The positions of the cells of each data set, counted within it, in the order given."""
        owner = np.searchsorted(self.starts, indices, side="right") - 1
        return [np.asarray(indices)[owner == i] - start for i, start in enumerate(self.starts)]

    def joined(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """The inverse of :meth:`split`."""
        return np.concatenate([part + start for part, start in zip(parts, self.starts, strict=True)])

    def n_minibatches(self, indices: np.ndarray, batch_size: int) -> int:
        """How many minibatches there are in an epoch: as many as the data set with most cells has."""
        return max(count_minibatches(len(part), batch_size) for part in self.split(indices))

    def on(self, device: torch.device) -> JointCells:
        """See :meth:`CellData.on`."""
        return JointCells(tuple(part.on(device) for part in self.parts))

    def epoch(
        self, indices: np.ndarray, batch_size: int, rng: np.random.Generator, portion: Portion = ALL
    ) -> Iterator[JointMinibatch]:
        """A pass over the cells of the largest data set, beside it pass after pass over those of the others."""
        chosen, sources = self.split(indices), rng.spawn(len(self.parts))
        passes = [self._passes(i, cells, batch_size, sources[i], portion) for i, cells in enumerate(chosen)]
        for _ in range(self.n_minibatches(indices, batch_size)):
            yield JointMinibatch(tuple(next(minibatches) for minibatches in passes))

    def _passes(
        self, i: int, cells: np.ndarray, batch_size: int, rng: np.random.Generator, portion: Portion
    ) -> Iterator[Minibatch]:
        while True:
            for mb in self.parts[i].epoch(cells, batch_size, rng, portion):
                yield replace(mb, dataset=i)

    def minibatches(self, indices: np.ndarray, batch_size: int, portion: Portion = ALL) -> Iterator[Minibatch]:
        """The cells one data set after the other, and within it in the order given."""
        for i, cells in enumerate(self.split(indices)):
            for mb in self.parts[i].minibatches(cells, batch_size, portion):
                yield replace(mb, dataset=i)


def side_by_side(data_sets: Sequence[CellData], *cells: Sequence[np.ndarray]) -> tuple[Any, ...]:
    """Several data sets as one, and positions in each of them as positions in it; a single one is what it is."""
    if len(data_sets) == 1:
        return (data_sets[0], *(part for (part,) in cells))
    data = JointCells(tuple(data_sets))
    return (data, *map(data.joined, cells))

"""The order in which cells are drawn for training, in memory and on disk, and reading ahead on another thread.

In memory an epoch is one shuffle, and the next minibatch is made while the model trains on this one. Reading cells one
by one from all over a file takes longer than training on them: an epoch of a file shuffles twice. Blocks of cells that
lie side by side in the file are shuffled, and so many blocks as fit a buffer are read together and their cells
shuffled. The next buffer is read while the model trains on this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from scvi.kernels import Part
from scvi.kernels.parallel import work_alone

BLOCKS_IN_BUFFER = 64
"""So many places of the file meet in a buffer; a block has 256 cells where a buffer has 16,384."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Portion(NamedTuple):
    """What one of several processes reads of each minibatch: a share of its cells, as even as can be."""

    rank: int = 0
    size: int = 1

    def of(self, rows: np.ndarray, neighbours: bool = False) -> tuple[np.ndarray, Part | None]:
        """Its cells of those at `rows`, and which they are; None: all.

        With `neighbours` each process gets cells that are near one another in the data, not in the minibatch: so it
        reads a part of the blocks of a buffer, and not a part of every block.
        """
        if self.size == 1:
            return rows, None
        order = np.argsort(rows, kind="stable") if neighbours else np.arange(len(rows))
        places = order[len(rows) * self.rank // self.size : len(rows) * (self.rank + 1) // self.size]
        return rows[places], Part(torch.from_numpy(places), len(rows))


ALL = Portion()


def draw_minibatches(indices: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """One epoch: `indices` shuffled and cut into minibatches of `batch_size` cells.

    What is left over is folded into the last minibatch if it is less than half of one, and always if it is a single
    cell, which has no variance for batch normalisation. For the same reason `batch_size` is read as at least 2.
    """
    ends = minibatch_ends(len(indices), batch_size)
    return np.split(rng.permutation(indices), ends[:-1]) if len(ends) else []


def minibatch_ends(n_cells: int, batch_size: int) -> np.ndarray:
    """(number of minibatches,) where the minibatches of an epoch end."""
    ends = max(batch_size, 2) * np.arange(1, count_minibatches(n_cells, batch_size) + 1)
    ends[-1:] = n_cells
    return ends


def count_minibatches(n_cells: int, batch_size: int) -> int:
    """How many minibatches :func:`draw_minibatches` makes of so many cells."""
    full, left = divmod(n_cells, max(batch_size, 2))
    return full + (left > 1 and 2 * left >= batch_size) if full else min(left, 1)


def draw_buffers(
    indices: np.ndarray, ends: np.ndarray, n_cells: int, rng: np.random.Generator
) -> Iterator[list[np.ndarray]]:
    """One epoch: for each buffer its minibatches.

    Parameters
    ----------
    indices
        The cells, each once, in any order.
    ends
        (number of minibatches,) where each minibatch ends among the cells in their new order.
    n_cells
        Most cells of a buffer, give or take a minibatch, of which each buffer has a whole number and all about as many.
    """
    if len(ends) == 0:
        return
    block = max(1, n_cells // BLOCKS_IN_BUFFER)
    cells = np.sort(indices)
    blocks = np.split(cells, np.arange(block, len(cells), block))
    order = np.concatenate([blocks[i] for i in rng.permutation(len(blocks))])
    begin = 0
    for part in np.array_split(ends, min(math.ceil(len(cells) / n_cells), len(ends))):
        shuffled = rng.permutation(order[begin : part[-1]])
        yield np.split(shuffled, part[:-1] - begin)
        begin = part[-1]


def ahead(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """``function(item)`` of each item in turn, the next one on its way on another thread.

    An error in the thread is raised where its result is asked for. The thread ends with the iterator, whether it is
    exhausted, closed or dropped.
    """
    with ThreadPoolExecutor(1, "scvi-reading", work_alone) as thread:  # waits for the thread on the way out
        submitted = (thread.submit(function, item) for item in items)
        pending = next(submitted, None)
        while pending is not None:
            result = pending.result()
            pending = next(submitted, None)
            yield result

"""The order in which cells of a file are read for training, and reading ahead on another thread.

Reading cells one by one from all over a file takes longer than training on them. An epoch therefore shuffles twice:
blocks of cells that lie side by side in the file are shuffled, and so many blocks as fit a buffer are read together and
their cells shuffled. The next buffer is read while the model trains on this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

__all__ = ["BLOCKS_IN_BUFFER", "BUFFER_BYTES", "BUFFER_CELLS", "ahead", "buffer_cells", "draw_buffers"]

BUFFER_CELLS = 16_384
"""Cells that are in memory and shuffled together; two such buffers are held, one of them being read."""
BUFFER_BYTES = 2**27
"""Limit of a buffer: where `BUFFER_CELLS` cells take more memory, it has fewer."""
BLOCKS_IN_BUFFER = 64
"""So many places of the file meet in a buffer; a block has 256 cells where a buffer has 16,384."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def buffer_cells(row_bytes: float) -> int:
    """Cells of a buffer, from the mean size of a cell's counts."""
    return int(min(max(BUFFER_BYTES / max(row_bytes, 1.0), 1), BUFFER_CELLS))


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
    with ThreadPoolExecutor(1, thread_name_prefix="scvi-reading") as thread:  # waits for the thread on the way out
        pending = None
        for item in items:
            result = None if pending is None else (pending.result(),)
            pending = thread.submit(function, item)
            if result is not None:
                yield result[0]
        if pending is not None:
            yield pending.result()

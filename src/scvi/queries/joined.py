"""Results of many cells, put together as they come."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

__all__ = ["Joined", "joined"]


class Joined:
    """One array of parts that follow one another along the first axis.

    `numpy.concatenate` holds all parts beside the result, twice the memory; and thousands of small parts that are kept
    between the large arrays of their minibatches keep the memory of these from being used again. Here the result grows
    by an eighth when it is full, which the allocator does in place where it can (on Linux it moves pages, not bytes).
    """

    def __init__(self) -> None:
        self._rows: np.ndarray | None = None
        self._filled = 0

    def add(self, part: np.ndarray) -> None:
        """The next rows; they are copied."""
        if self._rows is None:
            self._rows = np.empty(part.shape, part.dtype)
        end = self._filled + len(part)
        if end > len(self._rows):
            self._resize(max(end, len(self._rows) * 9 // 8))
        self._rows[self._filled : end] = part
        self._filled = end

    def array(self) -> np.ndarray:
        """All rows. Nothing can be added afterwards."""
        if self._rows is None:
            raise ValueError("no part was added")
        self._resize(self._filled)
        return self._rows

    def _resize(self, length: int) -> None:
        assert self._rows is not None
        self._rows.resize((length, *self._rows.shape[1:]), refcheck=False)  # nobody else has seen the array


def joined(parts: Iterable[np.ndarray]) -> np.ndarray:
    """All parts in one array."""
    result = Joined()
    for part in parts:
        result.add(part)
    return result.array()

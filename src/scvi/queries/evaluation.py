"""How a question is put to a model: in evaluation mode, without gradients, leaving no trace, minibatch by minibatch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from scvi.minibatch import Minibatch


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients inside; every module's own mode is restored after."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def asked(model: nn.Module, minibatches: Iterable[Minibatch], question: Callable[[Minibatch], Tensor]) -> np.ndarray:
    """The answers to one question about each minibatch, cells along the first axis, in one array."""
    with evaluating(model):
        return joined(question(mb).cpu().numpy() for mb in minibatches)


def asked_parts(
    model: nn.Module, minibatches: Iterable[Minibatch], question: Callable[[Minibatch], Mapping[str, Tensor]]
) -> dict[str, np.ndarray]:
    """As :func:`asked`, for a question with several answers."""
    results: dict[str, Joined] = {}
    with evaluating(model):
        for mb in minibatches:
            for name, values in question(mb).items():
                results.setdefault(name, Joined()).add(values.cpu().numpy())
    return {name: result.array() for name, result in results.items()}


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

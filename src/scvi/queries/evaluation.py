"""How a question is put to a model: in evaluation mode, without gradients, leaving no trace, minibatch by minibatch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from scvi.minibatch import Minibatch
from scvi.queries.joined import Joined, joined

__all__ = ["asked", "asked_parts", "evaluating"]


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

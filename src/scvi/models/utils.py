"""2020's helpers: labels as one-hot rows, label by label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scvi.models.one_hot import one_hot

__all__ = ["broadcast_labels", "enumerate_discrete", "iterate", "one_hot"]


def enumerate_discrete(x: Tensor, y_dim: int) -> Tensor:
    """One-hot rows of every label for every row of `x`, label by label: (y_dim * n, y_dim)."""
    labels = torch.arange(y_dim, device=x.device).repeat_interleave(x.shape[0])
    return one_hot(labels[:, None], y_dim)


def iterate(obj: Any, func: Callable[[Any], Any]) -> Any:
    """Apply `func` to the leaves of nested lists and tuples; None stays None."""
    if type(obj) in (list, tuple):
        return type(obj)(iterate(item, func) for item in obj)
    return func(obj) if obj is not None else None


def broadcast_labels(y: Tensor | None, *o: Tensor | None, n_broadcast: int = -1) -> tuple[Any, ...]:
    """Pair cells with labels.

    Known labels (n, 1) become one-hot rows and the tensors `o` stay as they are. Without labels each tensor is repeated
    once for every label, label by label, so that row ``k * n + i`` is cell i with label k.

    Returns
    -------
    (ys, *o)
    """
    if not o:
        raise ValueError("Broadcast must have at least one reference argument")
    if y is not None:
        return (one_hot(y, n_broadcast), *o)
    ys = enumerate_discrete(o[0], n_broadcast)  # type: ignore[arg-type]
    repeated = iterate(list(o), lambda t: t.repeat(n_broadcast, 1) if t.dim() == 2 else t.repeat(n_broadcast))
    return (ys, *repeated)

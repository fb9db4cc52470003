"""Small helpers of the 2020 models: labels as one-hot rows."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scvi._checks import check_integer, is_number
from scvi.models.one_hot import one_hot

__all__ = [
    "batch_code",
    "broadcast_labels",
    "check_choice",
    "check_draws",
    "check_rate",
    "check_sizes",
    "enumerate_discrete",
    "iterate",
    "one_hot",
]


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


def check_choice(name: str, value: Any, choices: tuple[str, ...] | list[str]) -> None:
    """Refuse an option that is not one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(map(repr, choices))}")


def check_draws(name: str, value: Any) -> None:
    """Refuse a number of posterior draws that is none."""
    check_integer(name, value, 1, wanted="a number of draws, an integer from 1 on")


def check_rate(name: str, value: Any) -> None:
    """Refuse a dropout rate that is none."""
    if not (is_number(value) and 0 <= value < 1):
        raise ValueError(f"{name}={value!r} is not a number in [0, 1)")


def check_sizes(least: int, **sizes: Any) -> None:
    """Refuse sizes of networks that are no integers from `least` on."""
    for name, value in sizes.items():
        check_integer(name, value, least)


def batch_code(name: str, code: Any, n_batch: int) -> int | None:
    """The code of one of `n_batch` batches as an int; None stays None. 0 and 1 batches both have the code 0."""
    if code is None:
        return None
    try:
        position = operator.index(code)
    except TypeError:
        raise ValueError(f"{name}={code!r} is not the code of a batch, an integer") from None
    if not 0 <= position < max(n_batch, 1):
        raise ValueError(f"{name}={code!r} is not a batch of this model, which has 0 to {max(n_batch, 1) - 1}")
    return position

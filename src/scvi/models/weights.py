"""Weights as they come from a file or a fit: numbers, all of them finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def not_finite(weights: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or an infinite value."""
    return [name for name, tensor in weights.items() if not bool(torch.isfinite(tensor).all())]


def refuse_not_finite(weights: Mapping[str, Tensor], what: str) -> None:
    """Refuses weights of which no answer is a number.

    Parameters
    ----------
    what
        Whose weights they are, for the message, and what to do about it.

    Raises
    ------
    ValueError
        Names the tensors.
    """
    wrong = not_finite(weights)
    if wrong:
        of_first = weights[wrong[0]]
        n = int((~torch.isfinite(of_first)).sum())
        others = f", and {len(wrong) - 1} further tensors are damaged, too" if len(wrong) > 1 else ""
        raise ValueError(f"{what}: {n} of {of_first.numel()} values of {wrong[0]!r} are NaN or infinite{others}")

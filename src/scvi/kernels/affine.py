"""A linear map that waits to be computed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from scvi.kernels.precision import linear


class Affine(NamedTuple):
    """``h @ weight.T + bias``, not computed yet.

    A likelihood that is given its logits like this computes them in memory of its own, writes their gradient over them
    and never shows them: an array of cells and genes less to allocate, to write and to read, twice.
    """

    h: Tensor  # (..., n, hidden)
    weight: Tensor  # (g, hidden)
    bias: Tensor  # (g,)

    @property
    def shape(self) -> torch.Size:
        """Of what it computes."""
        return torch.Size((*self.h.shape[:-1], len(self.bias)))

    def compute(self) -> Tensor:
        """(..., n, g)"""
        return linear(self.h, self.weight, self.bias)


def as_tensor(values: Tensor | Affine) -> Tensor:
    """The numbers themselves."""
    return values.compute() if isinstance(values, Affine) else values

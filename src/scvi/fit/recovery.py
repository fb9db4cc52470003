"""The way back from a loss that is not finite, and which cells are to blame for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from scvi.fit import checkpoint
from scvi.minibatch import Minibatch
from scvi.models.base import Model
from scvi.queries import evaluating

__all__ = ["Snapshot", "copied", "describe_fault"]


class Snapshot(NamedTuple):
    """A model and its optimiser as they were.

    Attributes
    ----------
    weights, moments
        Copies of the state dict and of the optimiser's tensors.
    steps
        Steps behind them, without those that were taken back.
    """

    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    steps: int

    @classmethod
    def of(cls, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Snapshot:
        return cls(copied(model.state_dict()), copied(checkpoint.optimizer_tensors(optimizer)), steps)

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Puts the two back; the snapshot stays good for further times."""
        model.load_state_dict(self.weights)
        checkpoint.load_optimizer(optimizer, self.moments)


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of their own with the same values."""
    return {name: t.detach().clone() for name, t in tensors.items()}


def describe_fault(model: Model, mb: Minibatch, cells: np.ndarray, genes: np.ndarray) -> str:
    """Which cells of a minibatch have a non-finite loss (or the largest), and the genes with their largest counts."""
    with evaluating(model):
        per_cell = model.loss(mb).per_cell()
    bad = (~torch.isfinite(per_cell)).nonzero()[:, 0]
    kind = f"{len(bad)} of {len(mb)} cells have a non-finite likelihood"
    if len(bad) == 0:
        bad, kind = per_cell.topk(min(3, len(mb))).indices, "the largest losses are of cells"
    elif len(bad) == len(mb):
        kind = f"it is so for all {len(mb)} cells; those with the most counts are"
        bad = mb.x.sum(1).topk(min(3, len(mb))).indices
    named = [str(cells[mb.indices[i]]) if mb.indices is not None else str(int(i)) for i in bad[:3]]
    counts = mb.x[bad].amax(0)
    top = counts.topk(min(3, counts.shape[0])).indices
    largest = ", ".join(f"{genes[j]} ({counts[j]:g})" for j in top.tolist())
    return f"{kind}: {', '.join(named)}; largest counts in genes {largest}"

"""When to stop, and what to say when a loss is not finite."""

from __future__ import annotations

import math

import numpy as np
import torch

from scvi.minibatch import Minibatch
from scvi.models.base import Model
from scvi.queries import evaluating

__all__ = ["Patience", "describe_fault"]


class Patience:
    """Counts epochs without improvement of a value that should fall."""

    def __init__(self, patience: int, min_delta: float):
        self.patience, self.min_delta = patience, min_delta
        self.best, self.wait = math.inf, 0

    def update(self, value: float) -> bool:
        """False when patience has run out."""
        if value < self.best - self.min_delta:
            self.best, self.wait = value, 0
        else:
            self.wait += 1
        return self.wait < self.patience


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

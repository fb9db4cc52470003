"""How well a model explains cells: one number a cell, in nats, higher is better."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from scvi.minibatch import Minibatch
from scvi.models.base import Model
from scvi.models.log_likelihood import importance_log_likelihood
from scvi.queries.evaluation import evaluating
from scvi.queries.joined import Joined, joined

__all__ = ["elbo", "marginal", "reconstruction"]


def elbo(model: Model, minibatches: Iterable[Minibatch], generator: torch.Generator | None = None) -> np.ndarray:
    """(n,) evidence lower bound with full KL weights, one posterior draw a cell."""
    with evaluating(model):
        return joined(-model.loss(mb, generator).per_cell().cpu().numpy() for mb in minibatches)


def reconstruction(
    model: Model, minibatches: Iterable[Minibatch], generator: torch.Generator | None = None
) -> dict[str, np.ndarray]:
    """(n,) log-likelihood at one posterior draw, by modality."""
    results: dict[str, Joined] = {}
    with evaluating(model):
        for mb in minibatches:
            for name, loss in model.loss(mb, generator).reconstruction.items():
                results.setdefault(name, Joined()).add(-loss.cpu().numpy())
    return {name: result.array() for name, result in results.items()}


def marginal(
    model: Model,
    minibatches: Iterable[Minibatch],
    n_mc_samples: int = 1000,
    generator: torch.Generator | None = None,
) -> np.ndarray:
    """(n,) importance-weighted log p(x), a lower bound that tightens with the number of draws (Burda et al. 2016)."""
    with evaluating(model):
        return joined(importance_log_likelihood(model, mb, n_mc_samples, generator).cpu().numpy() for mb in minibatches)

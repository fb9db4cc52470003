"""How well a model explains cells: one number a cell, in nats, higher is better."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from scvi.minibatch import Minibatch
from scvi.models.base import Model
from scvi.queries.evaluation import asked, asked_parts


def elbo(model: Model, minibatches: Iterable[Minibatch], generator: torch.Generator | None = None) -> np.ndarray:
    """(n,) evidence lower bound with full KL weights, one posterior draw a cell."""
    return asked(model, minibatches, lambda mb: -model.loss(mb, generator).per_cell())


def reconstruction(
    model: Model, minibatches: Iterable[Minibatch], generator: torch.Generator | None = None
) -> dict[str, np.ndarray]:
    """(n,) log-likelihood at one posterior draw, by modality."""
    losses = asked_parts(model, minibatches, lambda mb: model.loss(mb, generator).reconstruction)
    return {name: -loss for name, loss in losses.items()}


def marginal(
    model: Model,
    minibatches: Iterable[Minibatch],
    n_mc_samples: int = 1000,
    generator: torch.Generator | None = None,
    at_once: int | None = None,
) -> np.ndarray:
    """(n,) importance-weighted log p(x), a lower bound that tightens with the number of draws (Burda et al. 2016)."""
    return asked(model, minibatches, lambda mb: model.marginal_log_likelihood(mb, n_mc_samples, generator, at_once))

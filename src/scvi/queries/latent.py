"""The latent variables of cells."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from scvi.minibatch import Minibatch
from scvi.models.base import Model
from scvi.models.gaussian import draw
from scvi.models.vae import observed_log_library
from scvi.queries.evaluation import evaluating
from scvi.queries.joined import Joined

__all__ = ["latent", "latent_distribution", "library", "summary"]


def latent(
    model: Model,
    minibatches: Iterable[Minibatch],
    give_mean: bool = True,
    generator: torch.Generator | None = None,
    n_draws: int = 5000,
) -> np.ndarray:
    """(n, d) posterior means of z, or one draw of each.

    Where the latent distribution is 'ln' these are points of the simplex, the means taken over `n_draws` draws.
    """
    result = Joined()
    with evaluating(model):
        for mb in minibatches:
            qz = model.variational(mb).z
            if give_mean:
                z = model.latent_mean(qz, n_draws, generator)
            else:
                z = model.transformed(draw(qz, generator=generator))
            result.add(z.cpu().numpy())
    return result.array()


def latent_distribution(model: Model, minibatches: Iterable[Minibatch]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the (untransformed) Gaussian q(z | x), each (n, d)."""
    means, variances = Joined(), Joined()
    with evaluating(model):
        for mb in minibatches:
            qz = model.variational(mb).z
            means.add(qz.loc.cpu().numpy())
            variances.add(qz.scale.square().cpu().numpy())
    return means.array(), variances.array()


def library(
    model: Model, minibatches: Iterable[Minibatch], give_mean: bool = True, generator: torch.Generator | None = None
) -> np.ndarray:
    """(n, 1) log library sizes: observed where the model observes them, else posterior means or draws."""
    result = Joined()
    with evaluating(model):
        for mb in minibatches:
            ql = model.variational(mb).l
            if ql is None:
                log_library = observed_log_library(mb)
            else:
                log_library = ql.loc if give_mean else draw(ql, generator=generator)
            result.add(log_library.cpu().numpy())
    return result.array()


def summary(model: Model, minibatches: Iterable[Minibatch]) -> dict[str, np.ndarray]:
    """(n, .) by name: what a model keeps of cells whose counts are dropped."""
    results: dict[str, Joined] = {}
    with evaluating(model):
        for mb in minibatches:
            for name, values in model.variational(mb).summary(mb).items():
                results.setdefault(name, Joined()).add(values.cpu().numpy())
    return {name: result.array() for name, result in results.items()}

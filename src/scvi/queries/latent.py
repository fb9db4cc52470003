"""The latent variables of cells."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from scvi.minibatch import Minibatch
from scvi.models.base import Model
from scvi.models.gaussian import draw
from scvi.models.one_hot import one_hot
from scvi.queries.evaluation import asked, asked_parts


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

    def z(mb: Minibatch) -> Tensor:
        qz = model.latent(mb).z
        if give_mean:
            return model.latent_mean(qz, n_draws, generator)
        return model.transformed(draw(qz, generator=generator))

    return asked(model, minibatches, z)


def latent_distribution(model: Model, minibatches: Iterable[Minibatch]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the (untransformed) Gaussian q(z | x), each (n, d)."""

    def moments(mb: Minibatch) -> dict[str, Tensor]:
        qz = model.latent(mb).z
        return {"mean": qz.loc, "variance": qz.scale.square()}

    found = asked_parts(model, minibatches, moments)
    return found["mean"], found["variance"]


def batches(model: Model, minibatches: Iterable[Minibatch]) -> np.ndarray:
    """(n, .) what the networks see of the batch of each cell: its embedding, or a one-hot row."""

    def seen(mb: Minibatch) -> Tensor:
        if model.architecture.batch_representation == "one-hot":
            return one_hot(mb.batch, max(model.n_batch, 1))
        return model.embedded(mb.batch).expand(len(mb), -1)

    return asked(model, minibatches, seen)


def library(
    model: Model, minibatches: Iterable[Minibatch], give_mean: bool = True, generator: torch.Generator | None = None
) -> np.ndarray:
    """(n, 1) log library sizes: observed where the model observes them, else posterior means or draws."""

    def log_size(mb: Minibatch) -> Tensor:
        q = model.latent(mb)
        return q.mean_size(mb) if give_mean else q.draw_size(mb, generator=generator)

    return asked(model, minibatches, log_size)


def summary(model: Model, minibatches: Iterable[Minibatch]) -> dict[str, np.ndarray]:
    """(n, .) by name: what a model keeps of cells whose counts are dropped."""
    return asked_parts(model, minibatches, model.summary)

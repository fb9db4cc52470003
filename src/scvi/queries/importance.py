r"""Importance weights: how much better the model likes one draw of a cell's latent variables than another.

The variational posterior q(z | x) of a cell is an approximation. A draw z_s from it, out of S, has the weight

    w_s = r_s / (r_1 + ... + r_S),   r_s = p(x, z_s) / q(z_s | x)

(Burda et al., ICLR 2016, whose bound on log p(x) is the log of the mean of r), so that the mean of a function under the
true posterior p(z | x) is about the sum of w_s f(z_s), the better the larger S is. Where the library size is latent, or
the background of proteins, z stands for all of them. The weights are as good as 1 / (w_1^2 + ... + w_S^2) draws from
the true posterior (Kish's effective sample size).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scvi.minibatch import Minibatch
from scvi.models.base import Model, blocks_of_draws
from scvi.queries.evaluation import asked_parts


class Weighed(NamedTuple):
    """Draws of z (s, n, d) and the log library size (s, n, 1), and weights (s, n), which sum to 1 over s."""

    z: Tensor
    log_size: Tensor
    weights: Tensor


def weights(
    model: Model,
    minibatches: Iterable[Minibatch],
    n_draws: int,
    truncate: bool = False,
    generator: torch.Generator | None = None,
    at_once: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (s, n) float64, which sum to 1 over the draws of a cell, and the draws of z (s, n, d), transformed.

    Parameters
    ----------
    truncate
        Less variance for some bias (Ionides 2008), see :func:`truncated`.
    at_once
        Draws that are decoded at once, at most.
    """

    def of(mb: Minibatch) -> dict[str, Tensor]:
        drawn = weighed(model, mb, n_draws, generator, at_once)
        found = truncated(drawn.weights) if truncate else drawn.weights
        return {"weights": found.T, "z": model.transformed(drawn.z).transpose(0, 1)}  # cells first, to be joined

    found = asked_parts(model, minibatches, of)
    return found["weights"].T, found["z"].swapaxes(0, 1)


def weighed(
    model: Model,
    mb: Minibatch,
    n_draws: int,
    generator: torch.Generator | None = None,
    at_once: int | None = None,
) -> Weighed:
    """Draws of the cells of a minibatch and their weights; they are decoded in blocks."""
    q = model.variational(mb)
    blocks = [model.importance_draws(mb, q, s, generator) for s in blocks_of_draws(mb, n_draws, at_once)]
    z, log_weights = (torch.cat([getattr(block, name) for block in blocks]) for name in ("z", "log_weights"))
    log_size = torch.cat([block.log_size.expand(len(block.z), -1, -1) for block in blocks])
    return Weighed(z, log_size, torch.softmax(log_weights.double(), dim=0))


def truncated(weights: Tensor) -> Tensor:
    """The same with none above s^-1/2, which is their mean times the root of their number, before they sum to 1."""
    cut = weights.clamp(max=len(weights) ** -0.5)
    return cut / cut.sum(0)


def draws(
    model: Model, mb: Minibatch, n_draws: int, n_kept: int | None, generator: torch.Generator | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Blocks of (z, log library size, weights) that stand for the true posterior, small enough to be decoded at once.

    Parameters
    ----------
    n_draws
        Draws from q of each cell, which are weighed.
    n_kept
        Draw so many of them by weight, with replacement; their weights are None, as they are alike. None: all with
        their weights, which sum to 1 over all blocks.
    """
    z, log_size, weights = weighed(model, mb, n_draws, generator)
    if n_kept is not None:
        kept = torch.multinomial(weights.T, n_kept, replacement=True, generator=generator).T.unsqueeze(-1)
        z, log_size = (values.gather(0, kept.expand(-1, -1, values.shape[-1])) for values in (z, log_size))
    start = 0
    for s in blocks_of_draws(mb, len(z)):
        block = slice(start, start + s)
        yield z[block], log_size[block], weights[block].to(z.dtype) if n_kept is None else None
        start += s

"""What a model expects of every gene in every cell, and how any function of what it decodes is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scvi.minibatch import Minibatch
from scvi.models.base import Model, blocks_of_draws
from scvi.models.decoded import Decoded
from scvi.models.gaussian import draw
from scvi.queries import importance
from scvi.queries.evaluation import asked_parts


@dataclass(frozen=True)
class Wanted:
    """Which part of what a model decodes is wanted.

    Attributes
    ----------
    genes, proteins
        Positions of those wanted; None: all.
    transform_batch
        Codes of batches to decode in, over which the result is averaged; None: each cell's own.
    n_samples
        Posterior draws a cell.
    return_mean
        Average over the draws.
    n_weighed
        Draws a cell that are weighed by importance, see :mod:`scvi.queries.importance`: averages are over all of them,
        and `n_samples` that are kept are drawn from them. None: draws from the variational posterior as they come.
    """

    genes: np.ndarray | None = None
    proteins: np.ndarray | None = None
    transform_batch: Sequence[int] | None = None
    n_samples: int = 1
    return_mean: bool = True
    n_weighed: int | None = None


def normalized(
    model: Model,
    minibatches: Iterable[Minibatch],
    wanted: Wanted,
    library_size: float | str = 1,
    generator: torch.Generator | None = None,
) -> np.ndarray:
    """Expected frequencies times a library size: a number, which makes cells comparable, or 'latent', the cell's own.

    Returns
    -------
    (n, g), or (n_samples, n, g) where the draws are kept. Those of 'latent' are expected counts before dropout.
    """
    return expected(
        model,
        minibatches,
        lambda decoded: {"genes": columns(decoded.genes.expected(library_size), wanted.genes)},
        wanted,
        generator,
    )["genes"]


def likelihood_parameters(
    model: Model, minibatches: Iterable[Minibatch], wanted: Wanted, generator: torch.Generator | None = None
) -> dict[str, np.ndarray]:
    """Parameters of p(x | z, l) at posterior draws, of every modality.

    Returns
    -------
    dict
        By name what the modalities of :mod:`scvi.models.decoded` return as their parameters: (n, .), or
        (n_samples, n, .) where the draws are kept.
    """
    return expected(model, minibatches, lambda decoded: decoded.parameters(generator), wanted, generator)


def expected(
    model: Model,
    minibatches: Iterable[Minibatch],
    values: Callable[[Decoded], Mapping[str, Tensor]],
    wanted: Wanted,
    generator: torch.Generator | None = None,
    generative: Callable[..., Decoded] | None = None,
) -> dict[str, np.ndarray]:
    """Any functions of what is decoded, averaged over batches and, if wanted, over draws.

    What is NaN in a batch does not enter the average.

    Parameters
    ----------
    values
        The functions, by name: (s, n, .) each.
    generative
        Is asked in place of the model's own.

    Returns
    -------
    (n, .) by name, or (n_samples, n, .) where the draws are kept
    """
    decode = model.generative if generative is None else generative
    batches: Sequence[int | None] = [None] if wanted.transform_batch is None else wanted.transform_batch

    def over_batches(z: Tensor, log_size: Tensor, mb: Minibatch) -> Mapping[str, Tensor]:
        found = [values(decode(z, log_size, mb, batch)) for batch in batches]
        if len(found) == 1:
            return found[0]
        return {name: torch.stack([one[name] for one in found]).nanmean(0) for name in found[0]}

    def question(mb: Minibatch) -> dict[str, Tensor]:
        """(n, .), or (n, s, .) where draws are kept: what is joined has its cells first."""
        kept: dict[str, list[Tensor]] = {}
        for z, log_size, weights in _weighted_draws(model, mb, wanted, generator):
            for name, block in over_batches(z, log_size, mb).items():
                if not wanted.return_mean:
                    kept.setdefault(name, []).append(block.cpu())
                    continue
                total = block.sum(0) if weights is None else (block * weights.unsqueeze(-1)).sum(0)
                if name in kept:
                    kept[name][0] += total
                else:
                    kept[name] = [total]
        if wanted.return_mean:
            n_draws = wanted.n_samples if wanted.n_weighed is None else 1  # weights sum to 1
            return {name: total / n_draws for name, (total,) in kept.items()}
        return {name: torch.cat(blocks).transpose(0, 1) for name, blocks in kept.items()}

    arrays = asked_parts(model, minibatches, question)
    if wanted.return_mean:
        return arrays
    return {name: array[:, 0] if wanted.n_samples == 1 else array.swapaxes(0, 1) for name, array in arrays.items()}


def _weighted_draws(
    model: Model, mb: Minibatch, wanted: Wanted, generator: torch.Generator | None
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """As :func:`posterior_draws`, with weights (s, n); None where all draws are alike."""
    if wanted.n_weighed is not None:
        kept = None if wanted.return_mean else wanted.n_samples
        yield from importance.draws(model, mb, wanted.n_weighed, kept, generator)
        return
    for z, log_size in posterior_draws(model, mb, wanted.n_samples, generator):
        yield z, log_size, None


def posterior_draws(
    model: Model, mb: Minibatch, n_samples: int, generator: torch.Generator | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of (z, log library size), each (s, n, .), small enough to be decoded at once."""
    q = model.latent(mb)
    for s in blocks_of_draws(mb, n_samples):
        z = draw(q.z, s, generator)
        yield z, q.draw_size(mb, s, generator).expand(s, -1, -1)


def columns(values: Tensor, positions: np.ndarray | None) -> Tensor:
    """(..., g) -> (..., k), those at some positions; None: all."""
    return values if positions is None else values[..., positions]

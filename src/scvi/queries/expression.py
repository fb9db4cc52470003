"""What a model expects of every gene in every cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scvi.minibatch import Minibatch
from scvi.models.base import Model
from scvi.models.gaussian import draw
from scvi.models.likelihood import Decoded
from scvi.models.vae import VAE, observed_log_library
from scvi.queries.evaluation import evaluating
from scvi.queries.joined import Joined

__all__ = [
    "expected",
    "expected_parts",
    "gene_parameters",
    "likelihood_parameters",
    "normalized",
    "posterior_draws",
    "rate",
]

_MAX_ELEMENTS = 2**21  # of one decoded block of draws, (s, n, g)


def normalized(
    model: VAE,
    minibatches: Iterable[Minibatch],
    *,
    transform_batch: int | Sequence[int] | None = None,
    genes: np.ndarray | None = None,
    library_size: float | str = 1,
    n_samples: int = 1,
    return_mean: bool = True,
    generator: torch.Generator | None = None,
) -> np.ndarray:
    """Expected frequencies times a library size.

    Parameters
    ----------
    transform_batch
        Code of the batch to decode in, or several, over which the result is averaged; None: each cell's own.
    genes
        Positions of the genes wanted.
    library_size
        A number, which makes cells comparable, or 'latent' for each cell's own library size.
    n_samples
        Posterior draws a cell.
    return_mean
        Average over the draws.

    Returns
    -------
    (n, g), or (n_samples, n, g) where the draws are kept.
    """

    def value(decoded: Decoded) -> Tensor:
        scale = decoded.rate if library_size == "latent" else decoded.scale * float(library_size)
        return scale if genes is None else scale[..., genes]

    return expected(
        model,
        minibatches,
        value,
        transform_batch=transform_batch,
        n_samples=n_samples,
        return_mean=return_mean,
        generator=generator,
    )


def rate(
    model: VAE,
    minibatches: Iterable[Minibatch],
    *,
    transform_batch: int | Sequence[int] | None = None,
    n_samples: int = 1,
    generator: torch.Generator | None = None,
) -> np.ndarray:
    """Expected counts before dropout, (n, g) or with more than one draw (n_samples, n, g)."""
    return expected(
        model,
        minibatches,
        lambda decoded: decoded.rate,
        transform_batch=transform_batch,
        n_samples=n_samples,
        return_mean=False,
        generator=generator,
    )


def expected(
    model: VAE,
    minibatches: Iterable[Minibatch],
    value: Callable[[Decoded], Tensor],
    *,
    transform_batch: int | Sequence[int] | None = None,
    n_samples: int = 1,
    return_mean: bool = True,
    generator: torch.Generator | None = None,
) -> np.ndarray:
    """Any function of the decoder's output, averaged over batches and, if wanted, over draws."""
    return expected_parts(
        model,
        minibatches,
        lambda decoded: {"value": value(decoded)},
        transform_batch=transform_batch,
        n_samples=n_samples,
        return_mean=return_mean,
        generator=generator,
    )["value"]


def expected_parts(
    model: Model,
    minibatches: Iterable[Minibatch],
    parts: Callable[[Any], dict[str, Tensor]],
    *,
    transform_batch: int | Sequence[int] | None = None,
    n_samples: int = 1,
    return_mean: bool = True,
    generator: torch.Generator | None = None,
) -> dict[str, np.ndarray]:
    """As :func:`expected` for several functions at once. What is NaN in a batch does not enter the average."""
    batches: list[int | None] = [*transform_batch] if isinstance(transform_batch, Sequence) else [transform_batch]
    results: dict[str, Joined] = {}
    one = return_mean or n_samples == 1
    with evaluating(model):
        for mb in minibatches:
            for name, draws in _draws(model, mb, parts, batches, n_samples, return_mean, generator).items():
                results.setdefault(name, Joined()).add(draws[0] if one else draws.swapaxes(0, 1))
    arrays = {name: result.array() for name, result in results.items()}
    return arrays if one else {name: array.swapaxes(0, 1) for name, array in arrays.items()}


def _draws(
    model: Any,
    mb: Minibatch,
    parts: Callable[[Any], dict[str, Tensor]],
    batches: list[int | None],
    n_samples: int,
    return_mean: bool,
    generator: torch.Generator | None,
) -> dict[str, np.ndarray]:
    """(s, n, .) of one minibatch, s = 1 for the mean."""
    kept: dict[str, list[Tensor]] = {}
    for z, log_library in posterior_draws(model, mb, n_samples, generator):
        values = [parts(model.generative(z, log_library, mb, b)) for b in batches]
        for name, first in values[0].items():
            block = torch.stack([value[name] for value in values]).nanmean(0) if len(values) > 1 else first
            if not return_mean:
                kept.setdefault(name, []).append(block.cpu())
            elif name in kept:
                kept[name][0] += block.sum(0, keepdim=True)
            else:
                kept[name] = [block.sum(0, keepdim=True)]
    if return_mean:
        return {name: (total / n_samples).cpu().numpy() for name, (total,) in kept.items()}
    return {name: torch.cat(blocks).numpy() for name, blocks in kept.items()}


def posterior_draws(
    model: Any, mb: Minibatch, n_samples: int, generator: torch.Generator | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of (z, log library), each (s, n, .), small enough to be decoded at once."""
    q = model.variational(mb)
    block = max(1, _MAX_ELEMENTS // mb.counts.shape.numel())
    for start in range(0, n_samples, block):
        s = min(block, n_samples - start)
        z = draw(q.z, s, generator)
        log_library = observed_log_library(mb).expand(s, -1, -1) if q.l is None else draw(q.l, s, generator)
        yield z, log_library


def likelihood_parameters(
    model: VAE,
    minibatches: Iterable[Minibatch],
    *,
    n_samples: int = 1,
    give_mean: bool = False,
    generator: torch.Generator | None = None,
) -> dict[str, np.ndarray]:
    """Parameters of p(x | z, l) at posterior draws.

    Returns
    -------
    dict
        'mean' (expected counts before dropout), 'dispersions' (inverse, not for Poisson) and 'dropout' (logits, only
        for zero-inflated likelihoods): (n, g), or (n_samples, n, g) for more than one draw that is not averaged.
    """

    def parts(decoded: Decoded) -> dict[str, Tensor]:
        return gene_parameters(decoded, with_dispersion=model.reconstruction_loss != "poisson")

    return expected_parts(model, minibatches, parts, n_samples=n_samples, return_mean=give_mean, generator=generator)


def gene_parameters(decoded: Decoded, with_dispersion: bool = True) -> dict[str, Tensor]:
    """What :func:`likelihood_parameters` returns, of one decoded block."""
    rate = decoded.rate
    found: dict[str, Tensor | None] = {
        "mean": rate,
        "dispersions": decoded.theta.expand_as(rate) if with_dispersion else None,
        "dropout": decoded.dropout_logits,
    }
    return {name: value for name, value in found.items() if value is not None}

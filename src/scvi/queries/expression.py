"""What a model expects of every gene in every cell, and how any part of what it decodes is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from scvi.minibatch import Minibatch
from scvi.models.base import Model, blocks_of_draws
from scvi.models.decoded import Decoded
from scvi.models.gaussian import draw
from scvi.queries.evaluation import asked_parts

__all__ = ["columns", "expected", "expected_parts", "likelihood_parameters", "normalized", "posterior_draws", "rate"]


def normalized(
    model: Model,
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
    return expected(
        model,
        minibatches,
        lambda decoded: columns(decoded.genes.expected(library_size), genes),
        transform_batch=transform_batch,
        n_samples=n_samples,
        return_mean=return_mean,
        generator=generator,
    )


def rate(
    model: Model,
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
        lambda decoded: decoded.genes.rate,
        transform_batch=transform_batch,
        n_samples=n_samples,
        return_mean=False,
        generator=generator,
    )


def likelihood_parameters(
    model: Model,
    minibatches: Iterable[Minibatch],
    *,
    n_samples: int = 1,
    give_mean: bool = False,
    generator: torch.Generator | None = None,
) -> dict[str, np.ndarray]:
    """Parameters of p(x | z, l) at posterior draws, of every modality.

    Returns
    -------
    dict
        By name what the modalities of :mod:`scvi.models.decoded` return as their parameters: (n, .), or
        (n_samples, n, .) for more than one draw that is not averaged.
    """

    def parameters(decoded: Decoded) -> dict[str, Tensor]:
        return {name: value for part in decoded.values() for name, value in part.parameters(generator).items()}

    how = {"n_samples": n_samples, "return_mean": give_mean}
    return expected_parts(model, minibatches, parameters, generator=generator, **how)  # type: ignore[arg-type]


def expected(
    model: Model,
    minibatches: Iterable[Minibatch],
    value: Callable[[Decoded], Tensor],
    *,
    transform_batch: int | Sequence[int] | None = None,
    n_samples: int = 1,
    return_mean: bool = True,
    generator: torch.Generator | None = None,
) -> np.ndarray:
    """Any function of what is decoded, averaged over batches and, if wanted, over draws."""
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
    parts: Callable[[Decoded], Mapping[str, Tensor]],
    *,
    transform_batch: int | Sequence[int] | None = None,
    n_samples: int = 1,
    return_mean: bool = True,
    generator: torch.Generator | None = None,
    generative: Callable[..., Decoded] | None = None,
) -> dict[str, np.ndarray]:
    """As :func:`expected` for several functions at once. What is NaN in a batch does not enter the average.

    `generative` is asked in place of the model's own.
    """
    decode = model.generative if generative is None else generative
    batches: list[int | None] = [*transform_batch] if isinstance(transform_batch, Sequence) else [transform_batch]

    def block(z: Tensor, log_size: Tensor, mb: Minibatch) -> Mapping[str, Tensor]:
        """(s, n, .) of some draws, averaged over batches."""
        values = [parts(decode(z, log_size, mb, batch)) for batch in batches]
        if len(values) == 1:
            return values[0]
        return {name: torch.stack([value[name] for value in values]).nanmean(0) for name in values[0]}

    def question(mb: Minibatch) -> dict[str, Tensor]:
        """(n, .), or (n, s, .) where draws are kept: what is joined has its cells first."""
        kept: dict[str, list[Tensor]] = {}
        for z, log_size in posterior_draws(model, mb, n_samples, generator):
            for name, values in block(z, log_size, mb).items():
                if not return_mean:
                    kept.setdefault(name, []).append(values.cpu())
                elif name in kept:
                    kept[name][0] += values.sum(0)
                else:
                    kept[name] = [values.sum(0)]
        if return_mean:
            return {name: total / n_samples for name, (total,) in kept.items()}
        draws = {name: torch.cat(blocks) for name, blocks in kept.items()}
        return {name: values[0] if n_samples == 1 else values.transpose(0, 1) for name, values in draws.items()}

    arrays = asked_parts(model, minibatches, question)
    cells_first = return_mean or n_samples == 1
    return arrays if cells_first else {name: array.swapaxes(0, 1) for name, array in arrays.items()}


def posterior_draws(
    model: Model, mb: Minibatch, n_samples: int, generator: torch.Generator | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of (z, log library size), each (s, n, .), small enough to be decoded at once."""
    q = model.variational(mb)
    for s in blocks_of_draws(mb, n_samples):
        z = draw(q.z, s, generator)
        yield z, q.draw_size(mb, s, generator).expand(s, -1, -1)


def columns(values: Tensor, wanted: np.ndarray | None) -> Tensor:
    """(..., g) -> (..., k), those at some positions; None: all."""
    return values if wanted is None else values[..., wanted]

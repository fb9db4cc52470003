"""What a model of genes and proteins expects, and what it would measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from scvi.minibatch import Minibatch
from scvi.models.decoded import Decoded, ProteinCounts, ProteinValue
from scvi.models.totalvae import TOTALVAE
from scvi.queries.evaluation import evaluating, joined
from scvi.queries.expression import Wanted, columns, expected, posterior_draws

_MAX_RATE = 1e8  # numpy's Poisson draws know no larger means
Draws = tuple[np.ndarray, np.ndarray]
"""Genes (s, n, g) and proteins (s, n, p) of one minibatch."""


def normalized(
    model: TOTALVAE,
    minibatches: Iterable[Minibatch],
    wanted: Wanted,
    value: ProteinValue,
    library_size: float | str = 1,
    generator: torch.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Of genes what :func:`scvi.queries.expression.normalized` returns, and expected counts of proteins."""

    def values(decoded: Decoded) -> dict[str, Tensor]:
        return {
            "genes": columns(decoded.genes.expected(library_size), wanted.genes),
            "proteins": columns(decoded.proteins.expected(value, generator), wanted.proteins),
        }

    found = expected(model, minibatches, values, wanted, generator)
    return found["genes"], found["proteins"]


def foreground_probability(
    model: TOTALVAE,
    minibatches: Iterable[Minibatch],
    wanted: Wanted,
    hide_missing: bool = False,
    generator: torch.Generator | None = None,
) -> np.ndarray:
    """Probability that the count of a protein is no background, (n, p), or (s, n, p) where draws are kept."""

    def values(decoded: Decoded) -> dict[str, Tensor]:
        fore = decoded.proteins.foreground_probability
        return {"fore": columns(decoded.proteins.hide_missing(fore) if hide_missing else fore, wanted.proteins)}

    return expected(model, minibatches, values, wanted, generator)["fore"]


def background(
    model: TOTALVAE, minibatches: Iterable[Minibatch], generator: torch.Generator | None = None
) -> np.ndarray:
    """(n, p) one draw of the mean count of the background."""
    return expected(
        model,
        minibatches,
        lambda decoded: {"rate": decoded.proteins.draw_background(generator).exp()},
        Wanted(),
        generator,
    )["rate"]


def background_mean(
    model: TOTALVAE, minibatches: Iterable[Minibatch], generator: torch.Generator | None = None
) -> np.ndarray:
    """(n, p) mean of the mean count of the background, NaN where it was not measured."""

    def values(decoded: Decoded) -> dict[str, Tensor]:
        log_rate = decoded.proteins.log_background
        return {"rate": decoded.proteins.hide_missing((log_rate.loc + log_rate.variance / 2).exp())}

    return expected(model, minibatches, values, Wanted(), generator)["rate"]


def dropout_probability(
    model: TOTALVAE, minibatches: Iterable[Minibatch], wanted: Wanted, generator: torch.Generator | None = None
) -> np.ndarray:
    """Probability that a count of a gene was lost, also where the likelihood does not use it: (n, g) or (s, n, g)."""
    return expected(
        model,
        minibatches,
        lambda decoded: {"lost": torch.sigmoid(decoded.genes.dropout_logits)},  # type: ignore[arg-type]  # it is raw
        wanted,
        generator,
        partial(model.generative, raw=True),
    )["lost"]


def predictive_draws(
    model: TOTALVAE,
    minibatches: Iterable[Minibatch],
    n_samples: int,
    transform_batch: int | None = None,
    generator: torch.Generator | None = None,
    with_dropout: bool = True,
) -> Iterator[Draws]:
    """Counts of genes and proteins as the fitted model would measure them in the same cells, minibatch by minibatch."""

    def sample(decoded: Decoded, rng: np.random.Generator) -> Draws:
        genes, proteins = decoded.genes, decoded.proteins
        x = _poisson(_gamma(genes.rate, genes.theta, rng), rng)
        if with_dropout and genes.dropout_logits is not None:
            x[rng.random(x.shape) < torch.sigmoid(genes.dropout_logits).cpu().numpy()] = 0
        log_background = proteins.draw_background(generator)
        mean = (log_background + _bernoulli(proteins, rng) * proteins.log_factor).exp()
        return x, _poisson(_gamma(mean, proteins.theta, rng), rng)

    return _sampled(model, minibatches, n_samples, transform_batch, generator, sample)


def denoised_draws(
    model: TOTALVAE,
    minibatches: Iterable[Minibatch],
    n_samples: int,
    rna_size_factor: float,
    transform_batch: int | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Draws]:
    """Gamma draws around the mean: biological variation without counting noise; proteins without their background."""

    def sample(decoded: Decoded, rng: np.random.Generator) -> Draws:
        genes, proteins = decoded.genes, decoded.proteins
        rna = _gamma(genes.scale * rna_size_factor, genes.theta, rng)
        log_foreground = proteins.draw_background(generator) + proteins.log_factor
        foreground = _gamma(log_foreground.exp(), proteins.theta, rng)
        return rna, foreground * _bernoulli(proteins, rng).cpu().numpy()

    return _sampled(model, minibatches, n_samples, transform_batch, generator, sample)


def correlation(samples: Iterable[Draws], kind: Literal["spearman", "pearson"] = "spearman") -> np.ndarray:
    """(g + p, g + p) correlation of features over cells and draws; 0 for a feature that does not vary."""
    from scipy.stats import rankdata

    rows = joined(np.concatenate(pair, axis=-1).reshape(-1, sum(part.shape[-1] for part in pair)) for pair in samples)
    values = rankdata(rows, axis=0) if kind == "spearman" else rows.astype(np.float64)
    values -= values.mean(axis=0)
    norms = np.linalg.norm(values, axis=0)
    values /= np.where(norms > 0, norms, 1.0)
    matrix = values.T @ values
    np.fill_diagonal(matrix, 1.0)
    return matrix


def _sampled(
    model: TOTALVAE,
    minibatches: Iterable[Minibatch],
    n_samples: int,
    transform_batch: int | None,
    generator: torch.Generator | None,
    sample: Callable[[Decoded, np.random.Generator], Draws],
) -> Iterator[Draws]:
    """What is drawn of all draws of a minibatch, (s, n, .), minibatch by minibatch.

    Torch's public distributions take no generator: numpy's draws follow one number of it.
    """
    device = "cpu" if generator is None else generator.device
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator, device=device)))
    for mb in minibatches:
        with evaluating(model):
            blocks = posterior_draws(model, mb, n_samples, generator)
            z, log_size = (torch.cat(draws) for draws in zip(*blocks, strict=True))
            drawn = sample(model.generative(z, log_size, mb, transform_batch), rng)
        yield drawn  # outside: what is done with them finds the model in its own mode


def _gamma(mean: Tensor, theta: Tensor, rng: np.random.Generator) -> np.ndarray:
    """Draws with the mean, and the variance mean^2 / theta."""
    shape = theta.expand_as(mean).cpu().numpy()
    return (rng.standard_gamma(shape, dtype=np.float32) * (mean.cpu().numpy() / shape)).astype(np.float32)


def _poisson(rate: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.poisson(np.minimum(rate, _MAX_RATE)).astype(np.float32)


def _bernoulli(proteins: ProteinCounts, rng: np.random.Generator) -> Tensor:
    """1 where a draw of a count is foreground."""
    fore = proteins.foreground_probability
    return torch.from_numpy((rng.random(fore.shape) < fore.cpu().numpy()).astype(np.float32)).to(fore.device)

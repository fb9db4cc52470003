"""Posterior predictive checks: counts beside those that a fitted model draws for the same cells.

Let z be drawn from the posterior of a cell, and y from the model at z. If the model is true, the cell's own counts x
and the drawn ones y have the same distribution, given z: whatever is computed of x is compared with the same of y.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from scvi.minibatch import Minibatch
from scvi.models.base import Model
from scvi.models.decoded import Decoded, GeneCounts, ProteinValue, protein_counts
from scvi.queries.evaluation import evaluating, joined
from scvi.queries.expression import posterior_draws
from scvi.queries.predictive import counts_of_genes, counts_of_proteins

LEVELS = (0.5, 0.8, 0.95)
"""Probabilities of the central intervals that are checked."""
_RANK_DRAWS = 39  # so that the limits of these intervals are ranks
_RANKED = 200  # features whose ranks are looked at
_PARTS_OF_CELLS = 10


@dataclass(frozen=True)
class Beside:
    """Counts of n cells beside what a model says of them at one posterior draw of their latent states.

    Attributes
    ----------
    cells
        Which of all cells.
    counts, mean, drawn
        (n, f) as measured, as expected, and a draw. 0 where a feature was not measured.
    measured
        (n, f) whether it was; None: all were.
    ranks
        (n, k) of k features, numbers from 0 to 1: where the count lies among the model's draws. They are uniform if the
        model is true; ties are broken at random.
    """

    cells: slice
    counts: np.ndarray
    mean: np.ndarray
    drawn: np.ndarray
    measured: np.ndarray | None
    ranks: np.ndarray


@dataclass(frozen=True)
class Predictive:
    """Counts and drawn counts, side by side.

    Attributes
    ----------
    features
        A row for each gene or protein: 'mean', 'variance', 'cv' (coefficient of variation) and 'zeros' (share of zeros)
        over cells, each with a '*_drawn' beside it; 'spread' is the sum of squared distances from what is expected of
        each cell, divided by that of the draws: 1 where the noise is as large as the model says; 'n_cells' is in how
        many it was measured.
    spreads
        (k, features) 'spread' of each tenth of the cells: where they differ, a few cells or draws made it.
    cells
        A row for each cell: 'total', 'cv' over features, 'zeros' and 'smallest' (positive count), with '*_drawn'.
    intervals
        A row for each probability of a central interval: 'covered' is the share of counts inside.
    """

    features: pd.DataFrame
    spreads: np.ndarray
    cells: pd.DataFrame
    intervals: pd.DataFrame


def ranked_features(means: np.ndarray) -> np.ndarray:
    """Positions of the features with the largest mean counts, of which ranks say most."""
    return np.sort(np.argsort(-means, kind="stable")[:_RANKED])


def beside_draws(
    model: Model, minibatches: Iterable[Minibatch], modality: str, ranked: np.ndarray, generator: torch.Generator
) -> Iterator[Beside]:
    """Counts of one modality, 'genes' or 'proteins', beside draws of them, minibatch by minibatch.

    Parameters
    ----------
    ranked
        Positions of the genes whose ranks are wanted; of proteins it is all of them.
    """
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
    part, start = _PARTS[modality], 0
    for mb in minibatches:
        with evaluating(model):
            ((z, log_size),) = posterior_draws(model, mb, 1, generator)
            decoded = model.generative(z, log_size, mb)
            mean = part.mean(decoded, generator)
            drawn = part.draw(decoded, rng, generator)[0]
            some = part.some(decoded, ranked)
            again = [part.draw(some, rng, generator)[0] for _ in range(_RANK_DRAWS)]
        counts, measured = part.counts(mb), part.measured(mb)
        ranks = _ranks(counts[:, ranked], again, rng)
        if measured is not None:
            counts, mean, drawn = (np.where(measured, values, 0.0) for values in (counts, mean, drawn))
            ranks = np.where(measured[:, ranked], ranks, np.nan)
        yield Beside(slice(start, start + len(mb)), counts, mean, drawn, measured, ranks)
        start += len(mb)


class PredictiveSums:
    """Takes block after block, of which it keeps sums, and gives a :class:`Predictive`."""

    def __init__(self) -> None:
        self._features: np.ndarray | float = 0.0  # (sums, f)
        self._squares: np.ndarray | float = 0.0  # (2, tenths, f): of counts, and of draws
        self._cells: list[np.ndarray] = []  # (n, 8) each
        self._within = np.zeros((2, len(LEVELS)))  # inside, and all

    def add(self, block: Beside) -> None:
        """The next cells."""
        x, mean, y = (values.astype(np.float64) for values in (block.counts, block.mean, block.drawn))
        measured = np.ones(x.shape, dtype=bool) if block.measured is None else block.measured
        tenths = np.arange(len(x)) % _PARTS_OF_CELLS == np.arange(_PARTS_OF_CELLS)[:, None]  # (k, n)
        self._squares = self._squares + np.stack([tenths @ (values - mean) ** 2 for values in (x, y)])
        sums = [measured.sum(0)]
        for values in (x, y):
            sums += [values.sum(0), (values**2).sum(0), ((values == 0) & measured).sum(0)]
        self._features = self._features + np.stack(sums)
        self._cells.append(np.column_stack([_of_cells(values, measured) for values in (x, y)]))
        known = block.ranks[np.isfinite(block.ranks)]
        inside = [(np.abs(known - 0.5) < level / 2).sum() for level in LEVELS]
        self._within += np.stack([inside, np.full(len(LEVELS), known.size)])

    def result(self) -> Predictive:
        """What all blocks say."""
        n, *of_counts = np.asarray(self._features)
        squares, drawn_squares = np.asarray(self._squares)
        columns: dict[str, np.ndarray] = {}
        for suffix, (total, of_squares, zeros) in {"": of_counts[:3], "_drawn": of_counts[3:]}.items():
            mean = total / np.maximum(n, 1)
            variance = np.maximum(of_squares / np.maximum(n, 1) - mean**2, 0)
            of_feature = {"mean": mean, "variance": variance, "cv": _ratio(np.sqrt(variance), mean)}
            of_feature["zeros"] = zeros / np.maximum(n, 1)
            columns |= {f"{name}{suffix}": values for name, values in of_feature.items()}
        columns |= {"spread": _ratio(squares.sum(0), drawn_squares.sum(0)), "n_cells": n}
        names = ["total", "cv", "zeros", "smallest"]
        cells = pd.DataFrame(joined(self._cells), columns=[*names, *(f"{name}_drawn" for name in names)])
        intervals = pd.DataFrame(
            {"covered": self._within[0] / np.maximum(self._within[1], 1)}, index=pd.Index(LEVELS, name="probability")
        )
        return Predictive(pd.DataFrame(columns), _ratio(squares, drawn_squares), cells, intervals)


def _of_cells(values: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """(n, 4) totals, coefficients of variation, shares of zeros, and smallest positive counts (0: there is none)."""
    n = np.maximum(measured.sum(1), 1)
    total = values.sum(1)
    mean = total / n
    variance = np.maximum((values**2).sum(1) / n - mean**2, 0)
    smallest = np.where(values > 0, values, np.inf).min(1)
    zeros = ((values == 0) & measured).sum(1) / n
    return np.column_stack([total, _ratio(np.sqrt(variance), mean), zeros, np.where(total > 0, smallest, 0.0)])


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """NaN where it would be divided by 0."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def _ranks(counts: np.ndarray, draws: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    below, same = np.zeros(counts.shape), np.ones(counts.shape)  # the count itself is the same
    for draw in draws:
        below += draw < counts
        same += draw == counts
    return (below + rng.random(counts.shape) * same) / (len(draws) + 1)


# ---- modalities ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Part:
    """How counts of one modality are read, expected and drawn, and how some features are taken of what is decoded."""

    counts: Callable[[Minibatch], np.ndarray]  # estimates are rounded, for draws are whole numbers
    measured: Callable[[Minibatch], np.ndarray | None]
    mean: Callable[[Decoded, torch.Generator], np.ndarray]
    draw: Callable[[Decoded, np.random.Generator, torch.Generator], np.ndarray]
    some: Callable[[Decoded, np.ndarray], Decoded]


def mean_counts(genes: GeneCounts) -> torch.Tensor:
    """(..., n, g) counts of genes that are expected, those lost at random taken off."""
    logits = genes.dropout_logits
    return genes.rate if logits is None else genes.rate * torch.sigmoid(-logits)


def _some_genes(decoded: Decoded, positions: np.ndarray) -> Decoded:
    """The same counts of some genes, as shares of what these have together."""
    genes = decoded.genes
    rate = genes.rate[..., positions].clamp(min=1e-30)
    logits = genes.dropout_logits
    return Decoded(
        genes=replace(
            genes,
            logits=rate.log(),
            log_size=rate.sum(-1, keepdim=True).log(),
            log_theta=genes.log_theta[..., positions],
            dropout=None if logits is None else logits[..., positions],
        )
    )


def _mean_of_proteins(decoded: Decoded, generator: torch.Generator) -> np.ndarray:
    value = ProteinValue(include_background=True)
    return decoded.proteins.expected(value, generator)[0].cpu().numpy()


_PARTS: Mapping[str, _Part] = {
    "genes": _Part(
        lambda mb: np.rint(mb.x.cpu().numpy()),
        lambda mb: None,
        lambda decoded, generator: mean_counts(decoded.genes)[0].cpu().numpy(),
        lambda decoded, rng, generator: counts_of_genes(decoded.genes, None, rng, True),
        _some_genes,
    ),
    "proteins": _Part(
        lambda mb: np.rint(protein_counts(mb).cpu().numpy()),
        lambda mb: None if mb.measured is None else mb.measured.cpu().numpy(),
        _mean_of_proteins,
        lambda decoded, rng, generator: counts_of_proteins(decoded.proteins, None, rng, generator),
        lambda decoded, positions: decoded,  # they are few
    ),
}

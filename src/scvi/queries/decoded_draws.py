"""What a model decodes at posterior draws of cells that were drawn first: no cell is decoded that is not compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from scvi.minibatch import Minibatch
from scvi.models.base import Model, blocks_of_draws
from scvi.models.decoded import Decoded
from scvi.queries import importance
from scvi.queries.evaluation import evaluating

Read = Callable[[np.ndarray], Iterable[Minibatch]]
"""Gives the cells at these positions as minibatches, in that order."""
Values = Callable[[Decoded], Tensor]
"""What is wanted of what is decoded: (n, f)."""


@dataclass(frozen=True, eq=False)
class Draws:
    """Cells of which to draw the latent state, and the batches to decode each draw in.

    Attributes
    ----------
    cells
        (m,) positions; a cell may come more than once.
    batches
        (m,) codes of batches; None: each cell's own.
    """

    cells: np.ndarray
    batches: np.ndarray | None = None

    @classmethod
    def joined(cls, parts: Sequence[Draws]) -> Draws:
        """One after the other; all of them, or none, have batches."""
        batches = [part.batches for part in parts if part.batches is not None]
        return cls(np.concatenate([part.cells for part in parts]), np.concatenate(batches) if batches else None)


def drawn_cells(cells: np.ndarray, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """(n_draws,) cells in random order, each as often as any other, give or take one.

    Each draw is as likely to be of one cell as of another, as if drawn with replacement, but means over the draws vary
    less.
    """
    often, left = divmod(n_draws, len(cells))
    return rng.permutation(np.concatenate([np.tile(cells, often), rng.choice(cells, left, replace=False)]))


def decoded(
    model: Model,
    read: Read,
    draws: Draws,
    values: Values,
    rng: np.random.Generator,
    n_weighed: int | None = None,
) -> np.ndarray:
    """(m, f) float32 values at a posterior draw of each drawn cell, in the order of the draws.

    Every cell is read and encoded once, however often it was drawn, and draws are decoded some at a time.

    Parameters
    ----------
    n_weighed
        Draws of a cell from the variational posterior that are weighed by importance, and from which its draws are
        drawn by weight: they are (nearly) of the true posterior. None: the variational one is taken as it is.

    Raises
    ------
    ValueError
        If draws of cells without counts are to be weighed.
    """
    wanted, of_draw = np.unique(draws.cells, return_inverse=True)
    order = np.argsort(of_draw, kind="stable")  # the draws in the order in which their cells are read
    starts = np.searchsorted(of_draw[order], np.arange(len(wanted) + 1))
    number = np.empty(len(order), np.int64)  # of each draw among those of its cell
    number[order] = np.arange(len(order)) - starts[of_draw[order]]
    latents = _Latents(model, rng, len(order), n_weighed)
    found = np.empty((0, 0), np.float32)
    first = 0
    for mb in read(wanted):
        with evaluating(model):
            rows = order[starts[first] : starts[first + len(mb)]]
            z_of = latents.of(mb, int(number[rows].max(initial=0)) + 1)
            for some in _blocks(mb, rows):
                place = torch.from_numpy(of_draw[some] - first).to(mb.device)
                batches = None if draws.batches is None else torch.from_numpy(draws.batches[some, None]).to(mb.device)
                part = values(_decoded_at(model, mb, z_of(place, some, number[some]), place, batches))
                if found.size == 0:
                    found = np.empty((len(order), part.shape[1]), np.float32)
                found[some] = part.cpu().numpy()
        first += len(mb)
    return found


class _Latents:
    """Draws of the latent state of cells.

    Parameters
    ----------
    n
        How many there are to be. Their noise is drawn at once, so that it does not depend on the minibatches.
    n_weighed
        As of :func:`decoded`.
    """

    def __init__(self, model: Model, rng: np.random.Generator, n: int, n_weighed: int | None) -> None:
        self.model, self.rng, self.n, self.n_weighed = model, rng, n, n_weighed
        self.noise: np.ndarray | None = None
        self.seed = int(rng.integers(2**62)) if n_weighed else 0
        self.generator: torch.Generator | None = None

    def of(self, mb: Minibatch, most: int) -> Callable[[Tensor, np.ndarray, np.ndarray], Tensor]:
        """Gives (k, d) draws of k cells of a minibatch: at these places, the rows and the numbers of the draws.

        A cell has at most `most` draws.
        """
        if self.n_weighed is not None:
            return self._weighed(mb, most)
        q = self.model.latent(mb).z
        if self.noise is None:
            self.noise = self.rng.standard_normal((self.n, q.loc.shape[1]), dtype=np.float32)
        noise = self.noise
        return lambda place, rows, _: q.loc[place] + q.scale[place] * torch.from_numpy(noise[rows]).to(mb.device)

    def _weighed(self, mb: Minibatch, most: int) -> Callable[[Tensor, np.ndarray, np.ndarray], Tensor]:
        if mb.kept is not None:
            raise ValueError(
                "weights='importance' needs the counts of the cells, and these are minified: pass the AnnData with "
                "counts, or weights='uniform'"
            )
        if self.generator is None:
            self.generator = torch.Generator(mb.device).manual_seed(self.seed)
        blocks = importance.draws(self.model, mb, self.n_weighed, most, self.generator)  # type: ignore[arg-type]
        z = torch.cat([z for z, *_ in blocks])
        return lambda place, _, number: z[torch.from_numpy(number).to(mb.device), place]


def _blocks(mb: Minibatch, rows: np.ndarray) -> list[np.ndarray]:
    """Draws of the cells of a minibatch, as many at a time as fit into some memory."""
    at_once = len(mb) * max(blocks_of_draws(mb, len(rows)), default=1)
    return [rows[start : start + at_once] for start in range(0, len(rows), at_once)]


def _decoded_at(model: Model, mb: Minibatch, z: Tensor, place: Tensor, batches: Tensor | None) -> Decoded:
    """p(x | z) at m draws of z (m, d).

    Parameters
    ----------
    place, batches
        The cell of each draw among those of the minibatch (m,), and the codes of the batches to decode in (m, 1); None:
        the cell's own.
    """
    cells = replace(mb, counts=mb.batch.new_empty((len(mb), 0)), kept=None).take(place)  # of which nothing is needed
    if batches is not None:
        cells = replace(cells, batch=batches, measured=None)  # what another batch measured, the model knows
    return model.generative(z, z.new_zeros((len(z), 1)), cells)  # frequencies depend on no library size

"""What a model decodes at posterior draws of cells that were drawn first: no cell is decoded that is not compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from scvi.minibatch import Minibatch
from scvi.models.base import Latent, Model, blocks_of_draws
from scvi.models.decoded import Decoded
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


def decoded(model: Model, read: Read, draws: Draws, values: Values, rng: np.random.Generator) -> np.ndarray:
    """(m, f) float32 values at a posterior draw of each drawn cell, in the order of the draws.

    Every cell is read and encoded once, however often it was drawn, and draws are decoded some at a time.
    """
    wanted, of_draw = np.unique(draws.cells, return_inverse=True)
    order = np.argsort(of_draw, kind="stable")  # the draws in the order in which their cells are read
    starts = np.searchsorted(of_draw[order], np.arange(len(wanted) + 1))
    noise = found = np.empty((0, 0), np.float32)
    first = 0
    for mb in read(wanted):
        with evaluating(model):
            q = model.latent(mb)
            if first == 0:  # all of it at once, so that the answer does not depend on the minibatches
                noise = rng.standard_normal((len(order), q.z.loc.shape[1]), dtype=np.float32)
            for rows in _blocks(mb, order[starts[first] : starts[first + len(mb)]]):
                place = torch.from_numpy(of_draw[rows] - first).to(mb.device)
                batches = None if draws.batches is None else torch.from_numpy(draws.batches[rows, None]).to(mb.device)
                part = values(_decoded_at(model, mb, q, place, torch.from_numpy(noise[rows]).to(mb.device), batches))
                if found.size == 0:
                    found = np.empty((len(order), part.shape[1]), np.float32)
                found[rows] = part.cpu().numpy()
        first += len(mb)
    return found


def _blocks(mb: Minibatch, rows: np.ndarray) -> list[np.ndarray]:
    """Draws of the cells of a minibatch, as many at a time as fit into some memory."""
    at_once = len(mb) * max(blocks_of_draws(mb, len(rows)), default=1)
    return [rows[start : start + at_once] for start in range(0, len(rows), at_once)]


def _decoded_at(
    model: Model, mb: Minibatch, q: Latent, place: Tensor, noise: Tensor, batches: Tensor | None
) -> Decoded:
    """p(x | z) at draws of z.

    Parameters
    ----------
    place, noise, batches
        Of m draws the cell among those of the minibatch (m,), the standard normal numbers (m, d), and codes of the
        batches to decode in (m, 1); None: the cell's own.
    """
    z = q.z.loc[place] + q.z.scale[place] * noise
    cells = replace(mb, counts=mb.batch.new_empty((len(mb), 0))).take(place)  # nothing that is decoded needs them
    if batches is not None:
        cells = replace(cells, batch=batches, measured=None)  # what another batch measured, the model knows
    return model.generative(z, q.mean_size(mb)[place], cells)

"""Which cells are fitted and which are only looked at: their choice, and their minibatches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from scvi._checks import is_number
from scvi.fit.ranks import ALONE, Ranks
from scvi.minibatch import Minibatch


@dataclass(frozen=True, eq=False)
class Split:
    """The cells of a fit, which it draws as minibatches on its device.

    Attributes
    ----------
    data
        All cells, :class:`scvi.cells.cell_data.CellData` or :class:`scvi.cells.joint.JointCells`.
    train, validation
        Positions of the cells to fit, and of those only looked at.
    batch_size
        Cells in a minibatch.
    ranks
        The processes that share each minibatch.
    """

    data: Any
    train: np.ndarray
    validation: np.ndarray
    batch_size: int
    device: torch.device
    ranks: Ranks = ALONE

    @property
    def steps_per_epoch(self) -> int:
        """How many minibatches the training cells are."""
        return self.data.n_minibatches(self.train, self.batch_size)

    def shuffled(self, cells: np.ndarray, seed: Sequence[int]) -> Iterator[Any]:
        """Cells in an order that the seed decides, each once; of each minibatch the share of this process."""
        rng = np.random.default_rng(seed)
        return map(self._placed, self._here.epoch(cells, self.batch_size, rng, self.ranks.portion))

    def in_order(self, cells: np.ndarray) -> Iterator[Minibatch]:
        """Cells as they are given, shared in the same way."""
        return map(self._placed, self._here.minibatches(cells, self.batch_size, self.ranks.portion))

    def _placed(self, mb: Any) -> Any:
        return mb if self.device.type == "cpu" else mb.to(self.device)

    @cached_property
    def _here(self) -> Any:
        """The data, with their counts on the device if they fit there."""
        return self.data.on(self.device)


def split_cells(
    n_cells: int,
    train_size: float,
    validation_size: float | None,
    validation_indices: np.ndarray | None,
    seed: int,
    strata: np.ndarray | None = None,
    shuffle: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the training and the validation cells.

    Parameters
    ----------
    train_size, validation_size
        Shares of the cells; None is what the other leaves.
    validation_indices
        Positions of the validation cells, in place of the two; all others are trained on.
    strata
        (n,) codes of groups of cells that are split in the same proportions.
    shuffle
        False: the first cells, of each group, are the validation cells, and the next ones are trained on.
    """
    if validation_indices is not None:
        train = np.setdiff1d(np.arange(n_cells), validation_indices)
        validation = np.asarray(validation_indices)
    else:
        n_train, n_validation = _split_sizes(n_cells, train_size, validation_size)
        order = np.random.default_rng([seed, 1]).permutation(n_cells) if shuffle else np.arange(n_cells)
        if strata is not None:
            order = order[np.argsort(_ranks(strata[order]), kind="stable")]
        train, validation = np.sort(order[n_validation : n_validation + n_train]), np.sort(order[:n_validation])
    if len(train) < 2:
        cause = f"train_size={train_size!r}" if validation_indices is None else "the others are in validation_indices"
        raise ValueError(
            f"{len(train)} of {n_cells} cells are left for training ({cause}), at least 2 are needed: "
            "validate on fewer; train_size=1.0 alone takes all cells"
        )
    return train, validation


def split_as_given(parts: Sequence[np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the training and the validation cells, where a user names them; other cells are left out.

    Parameters
    ----------
    parts
        Positions of cells to train on, to validate on (none if absent) and to leave out.
    name
        What the user calls them.
    """
    if not 1 <= len(parts) <= 3:
        raise ValueError(f"{name} has {len(parts)} entries: give cells to train on, to validate on and to leave out")
    positions, counts = np.unique(np.concatenate(parts), return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"{name} has cells more than once, such as {positions[counts > 1][0]}: each is in one part")
    if len(parts[0]) < 2:
        raise ValueError(f"{name} has {len(parts[0])} cells to train on, at least 2 are needed")
    return parts[0], parts[1] if len(parts) > 1 else np.empty(0, np.int64)


def _ranks(strata: np.ndarray) -> np.ndarray:
    """(n,) where each cell stands among those of its group, from 0 to 1: sorted by it, any stretch is stratified."""
    ranks = np.empty(len(strata))
    for code in np.unique(strata):
        members = np.flatnonzero(strata == code)
        ranks[members] = (np.arange(len(members)) + 0.5) / len(members)
    return ranks


def _split_sizes(n_cells: int, train_size: float, validation_size: float | None) -> tuple[int, int]:
    if not _is_share(train_size) or train_size == 0:
        raise ValueError(f"train_size={train_size!r} is not a share of the cells, a number above 0 and at most 1")
    if validation_size is not None and not _is_share(validation_size):
        raise ValueError(f"validation_size={validation_size!r} is not a share of the cells, a number from 0 to 1")
    if validation_size is not None and train_size + validation_size > 1 + 1e-9:
        raise ValueError(f"train_size={train_size!r} and validation_size={validation_size!r} add up to more than 1")
    n_train = math.ceil(train_size * n_cells - 1e-9)
    n_validation = n_cells - n_train if validation_size is None else math.floor(validation_size * n_cells)
    return n_train, min(n_validation, n_cells - n_train)


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1

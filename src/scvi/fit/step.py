"""One training step, and what the steps of an epoch come to."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scvi.fit.objectives import NegativeElbo
from scvi.fit.optimizer import ClippedAdam

_NEVER = 2**62
_STEPS_BETWEEN_QUESTIONS = 16  # of a device that is not to wait
_N = "cells"  # name of their number among sums


class Steps:
    """Takes the steps of an epoch and sums up their terms.

    A step is good if its loss and gradient are finite; one that is not changes no weight and counts for nothing. The
    CPU is asked after each step. Any other device works its queue of operations off while the next minibatch is made,
    and would stand idle if each step were asked. So there nothing is asked until the epoch ends: whether a step was
    good stays a tensor, its terms are masked by it, and the number of the first bad step is carried along.

    Parameters
    ----------
    objective
        What a step minimises.

    Attributes
    ----------
    waits
        Whether each step is asked if it was good.
    stops
        Whether one of several processes was asked to end the fit; all know after the same step.
    """

    def __init__(self, objective: NegativeElbo) -> None:
        self.objective, self.device, self.ranks = objective, objective.split.device, objective.split.ranks
        self.waits = self.device.type == "cpu"
        self.stops = False
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """Forgets the steps of the epoch before."""
        self.n_steps = 0
        self._sums: dict[str, Tensor] = {}
        self._n_cells: int | Tensor = 0
        self._first_bad = torch.tensor(_NEVER, device=self.device)
        self._last_loss: Tensor | float = 0.0
        self._asked: Tensor | float = 0.0

    def take(self, mb: Any, kl_weight: float, optimizer: ClippedAdam, asked: bool = False) -> bool:
        """One step; False if it is known not to have been good. `asked`: this process was asked to end the fit."""
        optimizer.forget_gradients()
        loss, terms = self.objective.loss(mb, kl_weight)
        loss.backward()
        loss = loss.detach()
        if self.ranks.are_several:
            loss = self._of_all(loss, optimizer, asked)
        good = optimizer.clipped_step(loss)
        self.n_steps += 1
        if self.waits and not good:
            return False
        n_cells: int | Tensor = len(mb)
        if not self.waits:
            self._first_bad = torch.where(good, self._first_bad, self._first_bad.clamp(max=self.n_steps))
            terms, n_cells = {name: torch.where(good, value, 0.0) for name, value in terms.items()}, good * n_cells
        self._n_cells = self._n_cells + n_cells
        for name, value in terms.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._last_loss = loss if self.waits else torch.where(good, loss, self._last_loss)
        return True

    def _of_all(self, loss: Tensor, optimizer: ClippedAdam, asked: bool) -> Tensor:
        """The loss of all processes, and their gradient in the place of this one's."""
        said = torch.stack([loss, torch.full_like(loss, float(asked))])
        self.ranks.sum_each([*optimizer.gradients(), said])
        loss, n_asked = said
        self._asked = self._asked + n_asked
        if self.waits or self.n_steps % _STEPS_BETWEEN_QUESTIONS == 0:
            self.stops = float(self._asked) > 0
        return loss

    def first_bad(self) -> int | None:
        """Number, from 0, of the first step that was not good, of those that were not asked; once only."""
        first = int(self._first_bad)
        self._first_bad.fill_(_NEVER)
        return first - 1 if first <= self.n_steps else None

    def means(self) -> dict[str, float]:
        """Terms of the good steps, per cell of all processes; and the loss of the last of them."""
        sums = self.ranks.sums({**{name: float(total) for name, total in self._sums.items()}, _N: float(self._n_cells)})
        n_cells = max(sums.pop(_N), 1.0)
        means = {name: total / n_cells for name, total in sums.items()}
        return {**means, "train_loss_step": float(self._last_loss)} if means else {}

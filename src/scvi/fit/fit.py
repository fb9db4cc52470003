"""A fit: a plan, cells and an objective in a loop, with history, patience, recovery, checkpoints and exact resume."""

from __future__ import annotations

import logging
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from scvi._warnings import warn
from scvi.cells.cell_data import CellData
from scvi.cells.count_checks import BadCounts
from scvi.cells.joint import JointCells
from scvi.fit import checkpoint
from scvi.fit.callbacks import Callbacks, Training
from scvi.fit.devices import with_precision
from scvi.fit.early_stopping import Patience
from scvi.fit.history import named_values, tables
from scvi.fit.loop import Loop, progress
from scvi.fit.objectives import OBJECTIVES
from scvi.fit.optimizer import ClippedAdam
from scvi.fit.plan import Plan
from scvi.fit.ranks import ALONE, Ranks
from scvi.fit.scope import Columns, frozen, left_out, parts
from scvi.fit.split import Split
from scvi.fit.step import Steps
from scvi.kernels import dropout_from
from scvi.models.adversary import Adversaries
from scvi.models.base import Model
from scvi.models.freezing import Scope
from scvi.models.weights import not_finite

logger = logging.getLogger(__name__)

_MAX_RECOVERIES = 5
_STEPS_BETWEEN_SNAPSHOTS = 50
_IN_CHECKPOINT = ("epochs_before", "steps_kept", "kl_weight", "lr_scale", "recoveries", "best_epoch")  # as they are


class Fit:
    """Fits a model to cells by a plan.

    Parameters
    ----------
    model
        The network.
    data
        All cells.
    train_indices, validation_indices
        Positions of the cells to fit, and of those only looked at.
    plan
        What to do; its class says what is minimised.
    seed
        Seed of order, dropout and draws. The same seed gives the same weights, bit for bit, on the same machine with
        the same number of threads.
    device
        Where to train.
    show_progbar
        Show a progress bar.
    checkpoint_dir
        Directory of checkpoints; None for none. One is written after an epoch, at most every 50 steps.
    scope
        The part of the model that is fitted; None: all of it.
    callbacks
        Called between epochs.
    decided
        What the cells decided about the plan, and by which figures: constant entries of the history.
    ranks
        The processes that fit the model together.

    Attributes
    ----------
    split, objective, loop
        The cells, what a step minimises, and where training is.
    history
        Lists of (epoch, value); losses in nats per cell.
    steps_kept
        Steps behind the model's weights, without those that a recovery took back.
    """

    def __init__(
        self,
        model: Model | Adversaries,
        data: CellData | JointCells,
        train_indices: np.ndarray,
        validation_indices: np.ndarray,
        plan: Plan,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        show_progbar: bool = True,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        scope: Scope | None = None,
        callbacks: Callbacks | None = None,
        decided: Mapping[str, float] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        plan = with_precision(plan, torch.device(device), checkpoint_dir, ranks)
        self.model, self.ranks = model.to(device), ranks
        self.split = Split(data, train_indices, validation_indices, plan.batch_size, torch.device(device), ranks)
        self.plan, self.seed, self.scope, self.decided = plan, seed, scope, dict(decided or {})
        self.show_progbar, self.checkpoint_dir = show_progbar and ranks.is_first, checkpoint_dir
        self.callbacks, self.training = callbacks or Callbacks(), Training(self.model, plan.max_epochs)
        objective = next(OBJECTIVES[kind] for kind in type(plan).__mro__ if kind in OBJECTIVES)
        self.objective = objective(self.model, self.split, plan, seed)
        self.steps, self.loop = Steps(self.objective), Loop(ranks.are_several)
        self.steps_per_epoch = self.split.steps_per_epoch
        self.n_steps = plan.planned_steps(self.steps_per_epoch)
        self.snapshot_every = math.ceil(_STEPS_BETWEEN_SNAPSHOTS / self.steps_per_epoch)  # epochs
        self.kl_weight = plan.min_kl_weight
        self.lr_scale = 1.0  # lowered by recoveries and plateaus
        self.recoveries = self.steps_kept = 0
        self.stopping = Patience(plan.patience, plan.early_stopping_min_delta)
        self.plateau = Patience(plan.lr_patience, plan.of_plateau[1])
        self.history: defaultdict[str, list[Any]] = defaultdict(list)
        self.best_state_dict: dict[str, Tensor] | None = None
        self.best_epoch: int | None = None
        self.epochs_before = 0
        self._trained_before = False
        self._identity: dict[str, Any] = {}
        self._resume_from: tuple[dict[str, Tensor], dict[str, Any]] | None = None
        self.optimizer: ClippedAdam  # made when training begins, as is the first snapshot
        self._good: checkpoint.Snapshot

    # ---- one fit -----------------------------------------------------------------------------------------------------

    def prepare(
        self,
        resume: bool = False,
        epochs_before: int = 0,
        options: Mapping[str, Any] | None = None,
        trained_before: bool = False,
    ) -> None:
        """Looks at the checkpoint and its directory, and leaves the model as it is.

        Parameters
        ----------
        resume
            Go on from the checkpoint, if there is one.
        epochs_before
            Epochs of earlier fits of the same model.
        options
            Options of the model, in plain JSON types: a fit is resumed with the same ones only.
        trained_before
            Whether the model has been fitted already.

        Raises
        ------
        FileExistsError, ValueError
            For a checkpoint that is not to be resumed, cannot be read or belongs to another fit, and for a directory
            that cannot be made.
        """
        self.epochs_before, self._trained_before = epochs_before, trained_before
        self._refuse_different_work(options)
        if self.checkpoint_dir is None:
            return
        self._identity = {**(options or {}), **checkpoint.describe(self.plan, self.split, self.seed, self.scope)}
        self._resume_from = self.ranks.of_first(partial(_found, self.checkpoint_dir, self._identity, resume))
        if self._resume_from is not None:
            state = self._resume_from[1]
            self.loop.first_epoch, self.epochs_before = state["first_epoch"], state["epochs_before"]

    def _refuse_different_work(self, options: Mapping[str, Any] | None) -> None:
        """Refuses to fit with processes that were given other work."""
        if not self.ranks.are_several:
            return
        scope = self.scope and self.scope.describe()
        sizes = [tuple(p.shape) for p in self.model.parameters()]
        self.ranks.refuse_unlike(
            {
                "cells": checkpoint.digest_of_names(self.split.data),
                "training and validation cells": checkpoint.digest(self.split.train, self.split.validation),
                "model": f"{options} {scope} {sizes}",
                "earlier training": str(self._trained_before),
                "arguments of train": str(self.plan),
                "seed": str(self.seed),
                "checkpoint_dir": "None" if self.checkpoint_dir is None else "given",
            }
        )

    def fit(self, resume: bool = False) -> None:
        """Runs the plan, or the rest of it from the checkpoint."""
        self.prepare(resume)
        self.run()

    def run(self) -> None:
        """Fits, once it is prepared.

        Raises
        ------
        RuntimeError
            If training is given up, after five recoveries from losses that are not finite.
        """
        self._log_plan()
        untrained = [] if self.scope is None else left_out(self.model, self.scope)
        with frozen(untrained), dropout_from(self.objective.generator):
            with self.loop.training(self.model, self.plan.max_epochs) as epochs:
                self.optimizer = self.make_optimizer()
                self._begin()
                self._call("on_fit_start", "on_train_start")
                try:
                    self.loop.run(self, progress(epochs, self.progress_values, self.show_progbar))
                except BadCounts:
                    self._go_back()
                    raise
            self._end()
            self.callbacks.end(self.training)

    def _call(self, *methods: str) -> None:
        """Calls methods of the callbacks, told where training is."""
        self.training.current_epoch, self.training.global_step = max(self.loop.epoch, 0), self.loop.n_iter
        for method in methods:
            self.callbacks.call(method, self.training)

    def _log_plan(self) -> None:
        logger.info(
            "Training on %d cells, validating on %d: %d epochs of %d steps of %d cells; "
            "the KL weight reaches %g after %d steps.",
            len(self.split.train),
            len(self.split.validation),
            self.plan.max_epochs,
            self.steps_per_epoch,
            self.plan.batch_size,
            self.plan.max_kl_weight,
            math.ceil(self.plan.kl_warmup * self.n_steps),
        )

    def make_optimizer(self) -> ClippedAdam:
        """Adam that clips by the plan, of the part of the model that is fitted."""
        plan = self.plan
        params, columns = [p for p in self.model.parameters() if p.requires_grad], list[Columns]()
        if self.scope is not None:
            params, columns = parts(self.model, self.scope)
        undecayed = self.model.shared_posterior()
        return ClippedAdam(
            params,
            plan.lr,
            plan.eps,
            plan.weight_decay,
            plan.gradient_clip,
            undecayed,
            columns,
            decoupled=plan.optimizer == "AdamW",
            low=self.objective.low,
        )

    def _begin(self) -> None:
        """Lets modules rest, and goes back to the checkpoint that `prepare` found."""
        for name in () if self.scope is None else self.scope.resting:
            self.model.get_submodule(name).eval()
        if self._resume_from is not None:
            self._load_state(*self._resume_from)
        self._take_weights_from_first()
        self._good = self._snapshot()

    def _take_weights_from_first(self) -> None:
        """Where machines differ, sums are rounded in other ways: what drifts apart is brought together again."""
        self.ranks.take_from_first(list(self.model.state_dict().values()))

    def _end(self) -> None:
        """Takes the best weights, and warns where the KL weight did not get to its maximum."""
        if self.loop.interrupted and not self.steps.waits:
            self._settle()  # what was stopped within an epoch has not been looked at
        if self.best_state_dict is not None:
            self.model.load_state_dict(self.best_state_dict)
            if self.best_epoch is not None and self.best_epoch != self.loop.epoch:
                monitor = self.plan.early_stopping_monitor
                logger.info("Back to the weights after epoch %d, the best by %s.", self.best_epoch + 1, monitor)
        if self.steps_kept and not self._weight_reached():
            warn(
                f"Training stopped at KL weight {self.kl_weight:.3g} of {self.plan.max_kl_weight:g}: the latent space "
                f"is under-regularised. Train on, or shorten the warm-up (kl_warmup={self.plan.kl_warmup:g} of the "
                "planned steps)."
            )

    # ---- hooks of the loop -------------------------------------------------------------------------------------------

    def on_epoch_begin(self) -> None:
        """Forgets the steps of the epoch before."""
        self.steps.begin_epoch()
        if self.ranks.are_several:
            self._take_weights_from_first()
        if self.objective.low is not None:
            self.objective.low.forget()  # callbacks and other processes may have changed weights unseen
        self.objective.begin_epoch(self.loop.epoch)
        self._call("on_train_epoch_start")

    def data_loaders_loop(self) -> Iterator[Any]:
        """The minibatches of an epoch, in an order that depends on the seed and the epoch's number only."""
        minibatches = self.split.shuffled(self.split.train, [self.seed, self.loop.epoch])
        left = self.n_steps - self.loop.epoch * self.steps_per_epoch
        return minibatches if left >= self.steps_per_epoch else islice(minibatches, left)

    def on_iteration_begin(self) -> None:
        """Sets the step's learning rate and KL weight."""
        self.kl_weight = self.plan.kl_weight_at(self.loop.n_iter, self.n_steps)
        self.optimizer.lr = self.lr_scale * self.plan.lr_at(self.loop.n_iter, self.n_steps)

    def on_training_loop(self, mb: Any) -> None:
        """One step; a non-finite loss or gradient is not followed but recovered from."""
        if self.steps.take(mb, self.kl_weight, self.optimizer, self.loop.asked):
            self.steps_kept += 1
        else:
            self._recover_from(mb)
        if self.ranks.are_several:
            self.loop.interrupted = self.steps.stops

    def on_iteration_end(self) -> None:
        """Counts the step."""
        self.loop.n_iter += 1

    def on_epoch_end(self) -> bool:
        """Writes the history, then decides: stop, lower the learning rate, keep these weights."""
        if not self.steps.waits:
            self._settle()
        record = self._record()
        go_on = self._follow() if self.steps_kept and self._weight_reached() else True
        self._call()
        self.callbacks.end_epoch(self.training, record, "elbo_validation" in record)
        go_on = go_on and not self.ranks.any(self.training.should_stop)
        last = self.loop.epoch + 1 == self.plan.max_epochs or not go_on
        if last or (self.loop.epoch + 1) % self.snapshot_every == 0:
            if not_finite(self.model.state_dict()):
                self._recover(f"non-finite weights after epoch {self.loop.epoch + 1}")
            self._good = self._snapshot()
            self._write_checkpoint(finished=last)
        return go_on

    # ---- history -----------------------------------------------------------------------------------------------------

    def _record(self) -> dict[str, float]:
        epoch = self.loop.epoch
        due = (epoch + 1) % self.plan.check_val_every_n_epoch == 0 or epoch + 1 == self.plan.max_epochs
        looked_at = self.objective.validate(self.kl_weight) if due and len(self.split.validation) else None
        record = named_values(self.steps.means(), looked_at)
        record |= {"kl_weight": self.kl_weight, "lr": self.optimizer.lr}
        record |= self.decided
        for name, value in record.items():
            self.history[name].append((epoch, value))
        return record

    def frames(self) -> dict[str, pd.DataFrame]:
        """The history as one-column tables indexed by epoch, counted on from earlier fits."""
        return tables(self.history, self.epochs_before)

    def progress_values(self) -> dict[str, str]:
        """The latest losses."""
        shown = {"train": self.history.get("elbo_train"), "validation": self.history.get("elbo_validation")}
        return {name: f"{rows[-1][1]:.1f}" for name, rows in shown.items() if rows}

    # ---- decisions ---------------------------------------------------------------------------------------------------

    def _weight_reached(self) -> bool:
        return self.kl_weight >= self.plan.max_kl_weight

    def _latest(self, name: str) -> float | None:
        """A value of the history, if this epoch has it."""
        rows = self.history.get(name)
        return rows[-1][1] if rows and rows[-1][0] == self.loop.epoch else None

    def _follow(self) -> bool:
        """Patience of early stopping and of the plateau schedule; False to stop."""
        plan = self.plan
        value = self._latest(plan.of_plateau[0])
        if plan.lr_schedule == "plateau" and value is not None and not self.plateau.update(value):
            least = min(self.lr_scale, plan.lr_min / plan.lr)
            self.lr_scale = max(self.lr_scale * plan.lr_factor, least)
            self.plateau.wait = 0
            logger.info("No improvement in %d epochs: learning rate times %g.", plan.lr_patience, plan.lr_factor)
        value = self._latest(plan.early_stopping_monitor)
        follows = plan.early_stopping or plan.keep_best
        if not follows or value is None or self.loop.epoch < plan.early_stopping_warmup_epochs:
            return True
        go_on = self.stopping.update(-value if plan.early_stopping_mode == "max" else value)
        if self.stopping.wait == 0:
            self.best_state_dict, self.best_epoch = checkpoint.copied(self.model.state_dict()), self.loop.epoch
        if not plan.early_stopping:
            return True
        if not go_on:
            logger.info("Stopping early: no improvement in %d epochs.", plan.patience)
        return go_on

    def _settle(self) -> None:
        """Asks a device that was not asked in between whether the steps since the epoch's begin were good.

        After a bad one the batch norm statistics may be wrong, so the minibatch is looked up and asked with the last
        good weights.
        """
        first = self.steps.first_bad()
        if first is not None:
            self.model.load_state_dict(self._good.weights)
            self._recover_from(next(islice(self.data_loaders_loop(), first, None)))

    def _recover_from(self, mb: Any) -> None:
        self._recover(f"a non-finite loss in epoch {self.loop.epoch + 1} ({self.objective.fault(mb)})")

    def _recover(self, fault: str) -> None:
        """Back to the last good weights with half the learning rate; says what was at fault."""
        self.recoveries += 1
        self._go_back()
        if self.recoveries > _MAX_RECOVERIES:
            raise RuntimeError(
                f"Training was given up after {_MAX_RECOVERIES} recoveries: {fault}. The model {self._what_is_left()}. "
                f"Look at these cells, or train with a lower learning rate than lr={self.plan.lr:g}."
            )
        self.lr_scale *= 0.5
        warn(f"Recovered from {fault}: back to the last good weights, learning rate halved.")

    def _go_back(self) -> None:
        self._good.restore(self.model, self.optimizer)
        self.steps_kept = self._good.steps

    def _what_is_left(self) -> str:
        if self.steps_kept:
            return "has its last good weights"
        return "is as it was before, no step was good" if self._trained_before else "is untrained, no step was good"

    # ---- state -------------------------------------------------------------------------------------------------------

    def _snapshot(self) -> checkpoint.Snapshot:
        return checkpoint.Snapshot.of(self.model, self.optimizer, self.steps_kept)

    def _write_checkpoint(self, finished: bool) -> None:
        if self.checkpoint_dir is None or not self.ranks.is_first:
            return
        tensors = {
            **checkpoint.flatten("model", self._good.weights),
            **checkpoint.flatten("optimizer", self._good.moments),
            **checkpoint.flatten("best", self.best_state_dict or {}),
            **checkpoint.random_state(self.objective.generator),
        }
        state = {
            **{name: getattr(self, name) for name in _IN_CHECKPOINT},
            "identity": self._identity,
            "first_epoch": self.plan.max_epochs if finished else self.loop.epoch + 1,
            "n_iter": self.loop.n_iter,
            "stopping": [self.stopping.best, self.stopping.wait],
            "plateau": [self.plateau.best, self.plateau.wait],
            "history": dict(self.history),
        }
        checkpoint.write(self.checkpoint_dir, tensors, state)

    def _load_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.model.load_state_dict(checkpoint.unflatten("model", tensors))
        self.optimizer.load(checkpoint.unflatten("optimizer", tensors))
        self.best_state_dict = checkpoint.unflatten("best", tensors) or None
        for name in _IN_CHECKPOINT:
            setattr(self, name, state[name])
        self.loop.n_iter = state["n_iter"]
        self.stopping.best, self.stopping.wait = state["stopping"]
        self.plateau.best, self.plateau.wait = state["plateau"]
        self.history.update({name: [tuple(row) for row in rows] for name, rows in state["history"].items()})
        checkpoint.set_random_state(tensors, self.objective.generator)


def _found(
    directory: str | os.PathLike[str], identity: Mapping[str, Any], resume: bool
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The checkpoint to go on from, if there is one, in a directory that is made if there is none."""
    found = checkpoint.find(directory, identity, resume)
    checkpoint.make_directory(directory)
    return found

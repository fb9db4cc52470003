"""The trainer behind the AnnData door: schedules in steps, a validation curve, recovery, checkpoints, exact resume."""

from __future__ import annotations

import logging
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from scvi._random import seeded
from scvi._warnings import warn
from scvi.cells.cell_data import CellData
from scvi.fit import checkpoint
from scvi.fit.loop import Loop, progress
from scvi.fit.optimizer import ClippedAdam
from scvi.fit.partial import Columns, parts, within
from scvi.fit.plan import Plan
from scvi.fit.recovery import Patience, describe_fault
from scvi.kernels import bf16_products
from scvi.minibatch import Minibatch
from scvi.models.base import Elbo, Model
from scvi.models.freezing import Scope
from scvi.queries import evaluating

__all__ = ["Fit", "terms_of"]

logger = logging.getLogger(__name__)

_MAX_RECOVERIES = 5
_STEPS_BETWEEN_SNAPSHOTS = 50
_NEVER = 2**62
_VALIDATION_DRAWS_SEED = 0x5C51  # the same noise every epoch, so that the validation curve moves with the weights only


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
        What to do.
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

    Attributes
    ----------
    loop
        Where training is: epochs, steps, whether it was interrupted.
    history
        Lists of (epoch, value); losses in nats per cell.
    steps_kept
        Steps behind the model's weights, without those that a recovery took back.
    """

    def __init__(
        self,
        model: Model,
        data: CellData,
        train_indices: np.ndarray,
        validation_indices: np.ndarray,
        plan: Plan,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        show_progbar: bool = True,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        scope: Scope | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.model: Any = model.to(self.device)
        self.show_progbar = show_progbar
        self.loop = Loop()
        self.optimizer: ClippedAdam
        self.history: defaultdict[str, list[Any]] = defaultdict(list)
        self.best_state_dict: dict[str, Tensor] | None = None
        self.best_epoch: int | None = None
        self.data, self.plan, self.seed = data, plan, seed
        self.train_indices, self.validation_indices = train_indices, validation_indices
        self.checkpoint_dir, self.scope = checkpoint_dir, scope
        self.steps_per_epoch = data.n_minibatches(train_indices, plan.batch_size)
        self.n_steps = plan.max_epochs * self.steps_per_epoch
        self.snapshot_every = math.ceil(_STEPS_BETWEEN_SNAPSHOTS / self.steps_per_epoch)  # epochs
        self.kl_weight = plan.min_kl_weight
        self.lr_scale = 1.0  # lowered by recoveries and plateaus
        self.recoveries = self.steps_kept = 0
        self.stopping = Patience(plan.patience, plan.early_stopping_min_delta)
        self.plateau = Patience(plan.lr_patience, plan.early_stopping_min_delta)
        self._terms: dict[str, Tensor] = {}  # of a step, summed over its cells
        self._sums: dict[str, Tensor] = {}  # of an epoch
        self._cells_seen: int | Tensor = 0
        self._minibatches_seen = 0
        self._first_fault = torch.tensor(_NEVER)  # number of the first step of an epoch that was not good
        self.waits = self.device.type == "cpu"  # for each step, to be told whether it was good
        self.epochs_before = 0
        self._trained_before = False
        self._identity: dict[str, Any] = {}
        self._good: tuple[dict[str, Tensor], dict[str, Tensor], int] | None = None
        self._resume_from: tuple[dict[str, Tensor], dict[str, Any]] | None = None

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
        if self.checkpoint_dir is None:
            return
        self._identity = self._describe(options or {})
        self._resume_from = checkpoint.find(self.checkpoint_dir, self._identity, resume)
        checkpoint.make_directory(self.checkpoint_dir)
        if self._resume_from is not None:
            state = self._resume_from[1]
            self.loop.first_epoch, self.epochs_before = state["first_epoch"], state["epochs_before"]

    def fit(self, resume: bool = False) -> None:
        """Runs the plan, or the rest of it from the checkpoint. Global random state is put back afterwards."""
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
        with within(self.model, self.scope), seeded(self.seed, self.device):
            with self.loop.training(self.model, self.plan.max_epochs):
                self.optimizer = self.make_optimizer()
                self._begin()
                self.loop.run(self, progress(self.loop.epochs, self.progress_values, self.show_progbar))
            self._end()

    def _log_plan(self) -> None:
        plan = self.plan
        logger.info(
            "Training on %d cells, validating on %d: %d epochs of %d steps of %d cells; "
            "the KL weight reaches %g after %d steps.",
            len(self.train_indices),
            len(self.validation_indices),
            plan.max_epochs,
            self.steps_per_epoch,
            plan.batch_size,
            plan.max_kl_weight,
            math.ceil(plan.kl_warmup * self.n_steps),
        )

    def _begin(self) -> None:
        """Lets modules rest, and goes back to the checkpoint that `prepare` found."""
        for name in () if self.scope is None else self.scope.resting:
            self.model.get_submodule(name).eval()
        if self._resume_from is not None:
            self._load_state(*self._resume_from)
        self._good = self._snapshot()

    def data_loaders_loop(self) -> Iterator[Minibatch]:
        """One epoch, in an order that depends on the seed and the epoch's number only."""
        rng = np.random.default_rng([self.seed, self.loop.epoch])
        return map(self._placed, self._here.epoch(self.train_indices, self.plan.batch_size, rng))

    def _placed(self, mb: Minibatch) -> Minibatch:
        return mb if self.device.type == "cpu" else mb.to(self.device)

    @cached_property
    def _here(self) -> CellData:
        """The cells, with their counts on the device of the fit if they fit there."""
        return self.data.on(self.device)

    def on_epoch_begin(self) -> None:
        """Forgets the sums of the epoch before."""
        self._sums, self._cells_seen, self._minibatches_seen = {}, 0, 0
        self._first_fault = torch.tensor(_NEVER, device=self.device)

    def on_iteration_begin(self) -> None:
        """Sets the step's learning rate and KL weight."""
        self.kl_weight = self.plan.kl_weight_at(self.loop.n_iter, self.n_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr_scale * self.plan.lr_at(self.loop.n_iter, self.n_steps)

    def loss(self, mb: Minibatch) -> Tensor:
        """What a step minimises: the negative ELBO per cell with the step's KL weight."""
        with bf16_products(self.plan.precision == "bf16"):
            elbo = self.model.loss(mb)
        loss = elbo.objective(self.kl_weight) + elbo.global_kl / len(self.train_indices)
        self._terms = {**terms_of(elbo), "train_loss_epoch": loss.detach() * len(mb)}
        return loss

    def on_training_loop(self, mb: Minibatch) -> None:
        """One step; a non-finite loss or gradient is not followed but recovered from."""
        self.optimizer.forget_gradients()
        loss = self.loss(mb)
        loss.backward()
        good = self.optimizer.clipped_step(loss.detach())
        self._minibatches_seen += 1
        if self.waits and not good:
            self._recover_from(mb)
            return
        self.steps_kept += 1
        n_cells: int | Tensor = len(mb)
        if not self.waits:
            self._first_fault = torch.where(
                good, self._first_fault, self._first_fault.clamp(max=self._minibatches_seen)
            )
            self._terms = {name: torch.where(good, value, 0.0) for name, value in self._terms.items()}
            n_cells = good * n_cells
        self._add_to_sums(n_cells)

    def on_iteration_end(self) -> None:
        """Counts the step."""
        self.loop.n_iter += 1

    def _recover_from(self, mb: Minibatch) -> None:
        fault = describe_fault(self.model, mb, self.data.cell_names, self.data.gene_names)
        self._recover(f"a non-finite loss in epoch {self.loop.epoch + 1} ({fault})")

    def _settle(self) -> None:
        """Asks the device, once an epoch, whether all of its steps were good; looks up the minibatch that was not."""
        first = int(self._first_fault)
        if first <= self._minibatches_seen:
            self._first_fault.fill_(_NEVER)
            self.model.load_state_dict(self._good[0])  # type: ignore[index]
            self._recover_from(next(islice(self.data_loaders_loop(), first - 1, None)))

    def make_optimizer(self) -> ClippedAdam:
        """Adam that clips by the plan, of the part of the model that is fitted."""
        plan = self.plan
        params, columns = [p for p in self.model.parameters() if p.requires_grad], list[Columns]()
        if self.scope is not None:
            params, columns = parts(self.model, self.scope)
        undecayed = self.model.shared_posterior()
        return ClippedAdam(params, plan.lr, plan.eps, plan.weight_decay, plan.gradient_clip, undecayed, columns)

    # ---- history -----------------------------------------------------------------------------------------------------

    def _add_to_sums(self, n_cells: int | Tensor) -> None:
        """Counts the step's terms to the epoch's; sums stay on the device until the epoch ends."""
        self._cells_seen = self._cells_seen + n_cells
        for name, value in self._terms.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def on_epoch_end(self) -> bool:
        """Writes the history, then decides: stop, lower the learning rate, keep these weights."""
        if not self.waits:
            self._settle()
        self._record()
        monitored = self.history.get(self.plan.early_stopping_monitor)
        go_on = True
        if monitored and monitored[-1][0] == self.loop.epoch and self.steps_kept and self._weight_reached():
            go_on = self._follow(monitored[-1][1])
        last = self.loop.epoch + 1 == self.plan.max_epochs or not go_on
        if last or (self.loop.epoch + 1) % self.snapshot_every == 0:
            if not self._is_finite():
                self._recover(f"non-finite weights after epoch {self.loop.epoch + 1}")
            self._good = self._snapshot()
            self._write_checkpoint(finished=last)
        return go_on

    def _record(self) -> None:
        record = {
            name if name == "train_loss_epoch" else f"{name}_train": float(total) / max(float(self._cells_seen), 1.0)
            for name, total in self._sums.items()
        }
        if len(self.validation_indices) and self._validation_due():
            record |= {f"{name}_validation": value for name, value in self._validate().items()}
        record |= {"kl_weight": self.kl_weight, "lr": self.optimizer.param_groups[0]["lr"]}
        for name, value in record.items():
            self.history[name].append((self.loop.epoch, value))

    def _validation_due(self) -> bool:
        epoch = self.loop.epoch + 1
        return epoch % self.plan.check_val_every_n_epoch == 0 or epoch == self.plan.max_epochs

    def _validate(self) -> dict[str, float]:
        """Mean terms over the validation cells, full KL weight."""
        generator = torch.Generator(self.device).manual_seed(_VALIDATION_DRAWS_SEED)
        sums: dict[str, float] = {}
        with evaluating(self.model):
            for mb in self._here.minibatches(self.validation_indices, self.plan.batch_size):
                for name, value in terms_of(self.model.loss(self._placed(mb), generator)).items():
                    sums[name] = sums.get(name, 0.0) + float(value)
        return {name: total / len(self.validation_indices) for name, total in sums.items()}

    def frames(self) -> dict[str, pd.DataFrame]:
        """The history as one-column tables indexed by epoch, counted on from earlier fits."""
        tables = {}
        for name, rows in self.history.items():
            epochs, values = zip(*rows, strict=True)
            index = pd.Index([self.epochs_before + epoch for epoch in epochs], name="epoch")
            tables[name] = pd.DataFrame({name: list(values)}, index=index)
        return tables

    def progress_values(self) -> dict[str, str]:
        """The latest losses."""
        shown = {"train": self.history.get("elbo_train"), "validation": self.history.get("elbo_validation")}
        return {name: f"{rows[-1][1]:.1f}" for name, rows in shown.items() if rows}

    # ---- decisions ---------------------------------------------------------------------------------------------------

    def _weight_reached(self) -> bool:
        return self.kl_weight >= self.plan.max_kl_weight

    def _follow(self, value: float) -> bool:
        """Patience of early stopping and of the plateau schedule; False to stop."""
        plan = self.plan
        if plan.lr_schedule == "plateau" and not self.plateau.update(value):
            self.lr_scale *= plan.lr_factor
            self.plateau.wait = 0
            logger.info("No improvement in %d epochs: learning rate times %g.", plan.lr_patience, plan.lr_factor)
        if not plan.early_stopping:
            return True
        go_on = self.stopping.update(value)
        if self.stopping.wait == 0:
            self.best_state_dict = {name: t.detach().clone() for name, t in self.model.state_dict().items()}
            self.best_epoch = self.loop.epoch
        if not go_on:
            logger.info("Stopping early: no improvement in %d epochs.", plan.patience)
        return go_on

    def _end(self) -> None:
        """Takes the best weights, and warns where the KL weight did not get to its maximum."""
        if self.loop.interrupted and not self.waits:
            self._settle()  # what was stopped within an epoch has not been looked at
        if self.best_state_dict is not None:
            self.model.load_state_dict(self.best_state_dict)
        if self.steps_kept and not self._weight_reached():
            warn(
                f"Training stopped at KL weight {self.kl_weight:.3g} of {self.plan.max_kl_weight:g}: the latent space "
                f"is under-regularised. Train on, or shorten the warm-up (kl_warmup={self.plan.kl_warmup:g} of the "
                "planned steps)."
            )

    def _is_finite(self) -> bool:
        return all(bool(torch.isfinite(t).all()) for t in self.model.state_dict().values())

    def _recover(self, fault: str) -> None:
        """Back to the last good weights with half the learning rate; says what was at fault."""
        self.recoveries += 1
        if self.recoveries > _MAX_RECOVERIES:
            self._go_back()
            raise RuntimeError(
                f"Training was given up after {_MAX_RECOVERIES} recoveries: {fault}. The model {self._what_is_left()}. "
                f"Look at these cells, or train with a lower learning rate than lr={self.plan.lr:g}."
            )
        self.lr_scale *= 0.5
        self._go_back()
        warn(f"Recovered from {fault}: back to the last good weights, learning rate halved.")

    def _what_is_left(self) -> str:
        if self.steps_kept:
            return "has its last good weights"
        return "is as it was before, no step was good" if self._trained_before else "is untrained, no step was good"

    # ---- state -------------------------------------------------------------------------------------------------------

    def _snapshot(self) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
        weights = {name: t.detach().clone() for name, t in self.model.state_dict().items()}
        moments = checkpoint.optimizer_tensors(self.optimizer)
        return weights, {name: t.detach().clone() for name, t in moments.items()}, self.steps_kept

    def _go_back(self) -> None:
        weights, moments, self.steps_kept = self._good  # type: ignore[misc]
        self.model.load_state_dict(weights)
        checkpoint.load_optimizer(self.optimizer, moments)

    def _write_checkpoint(self, finished: bool) -> None:
        if self.checkpoint_dir is None:
            return
        weights, moments, _ = self._good  # type: ignore[misc]
        tensors = {
            **checkpoint.flatten("model", weights),
            **checkpoint.flatten("optimizer", moments),
            **checkpoint.flatten("best", self.best_state_dict or {}),
            "random/cpu": torch.get_rng_state(),
        }
        if self.device.type == "cuda":
            tensors["random/cuda"] = torch.cuda.get_rng_state(self.device)
        checkpoint.write(self.checkpoint_dir, tensors, {"identity": self._identity, **self._progress_state(finished)})

    def _describe(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What must be the same for a fit to be the continuation of another."""
        return {
            **options,
            **self.plan.to_json(),
            **({} if self.scope is None else self.scope.describe()),
            "seed": self.seed,
            "data": self._data_digest(),
            "training cells": f"{len(self.train_indices)} ({checkpoint.digest(self.train_indices)})",
            "validation cells": f"{len(self.validation_indices)} ({checkpoint.digest(self.validation_indices)})",
        }

    def _data_digest(self) -> str:
        """Tells the cells of this fit from others."""
        return checkpoint.digest_of_data(self.data)

    def _progress_state(self, finished: bool) -> dict[str, Any]:
        return {
            "first_epoch": self.plan.max_epochs if finished else self.loop.epoch + 1,
            "epochs_before": self.epochs_before,
            "n_iter": self.loop.n_iter,
            "steps_kept": self.steps_kept,
            "kl_weight": self.kl_weight,
            "lr_scale": self.lr_scale,
            "recoveries": self.recoveries,
            "best_epoch": self.best_epoch,
            "stopping": [self.stopping.best, self.stopping.wait],
            "plateau": [self.plateau.best, self.plateau.wait],
            "history": dict(self.history),
        }

    def _load_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        self.model.load_state_dict(checkpoint.unflatten("model", tensors))
        checkpoint.load_optimizer(self.optimizer, checkpoint.unflatten("optimizer", tensors))
        self.best_state_dict = checkpoint.unflatten("best", tensors) or None
        self.best_epoch = state["best_epoch"]
        self.loop.n_iter, self.steps_kept, self.kl_weight = state["n_iter"], state["steps_kept"], state["kl_weight"]
        self.lr_scale, self.recoveries = state["lr_scale"], state["recoveries"]
        self.stopping.best, self.stopping.wait = state["stopping"]
        self.plateau.best, self.plateau.wait = state["plateau"]
        self.history.update({name: [tuple(row) for row in rows] for name, rows in state["history"].items()})
        torch.set_rng_state(tensors["random/cpu"])
        if "random/cuda" in tensors and self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random/cuda"], self.device)


@torch.no_grad()
def terms_of(elbo: Elbo) -> dict[str, Tensor]:
    """Sums over cells of what the history shows."""
    reconstruction = torch.stack([value.sum() for value in elbo.reconstruction.values()]).sum()
    kl = torch.stack([value.sum() for value in elbo.kl.values()]).sum()
    terms = {"elbo": reconstruction + kl, "reconstruction_loss": reconstruction, "kl_local": kl}
    if len(elbo.reconstruction) > 1:
        terms |= {f"reconstruction_loss_{name}": value.sum() for name, value in elbo.reconstruction.items()}
    return terms

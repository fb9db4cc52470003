"""One `train` for every estimator: a class names its plan, whose further options become arguments of its `train`."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial, wraps
from inspect import Parameter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from scvi._checks import check_choice
from scvi.cells.cell_data import CellData
from scvi.cells.joint import side_by_side
from scvi.estimators.calls import told
from scvi.estimators.cells import Indices
from scvi.estimators.fitted_cells import FittedCells
from scvi.estimators.trainer_names import understood
from scvi.fit.callbacks import Callbacks
from scvi.fit.checkpoint import seed_of_fit
from scvi.fit.devices import resolve_device
from scvi.fit.fit import Fit
from scvi.fit.history import continued, past_epochs
from scvi.fit.plan import Course, Plan, Precision, Schedule, StoppingMode, make_plan, quick_course, usual_course
from scvi.fit.ranks import Ranks, joined
from scvi.fit.split import split_as_given, split_cells

if TYPE_CHECKING:
    from scvi.estimators.base import Estimator

_logger = logging.getLogger(__name__)
_PRESETS = {"quick": quick_course}
_IN_WORDS = {"max_epochs": "%d epochs", "weight_decay": "a weight decay of %.3g"}


def train(
    self: Estimator,
    max_epochs: int | None = None,
    accelerator: str = "auto",
    devices: str | int | Sequence[int] = "auto",
    train_size: float = 0.9,
    validation_size: float | None = None,
    batch_size: int | None = None,
    early_stopping: bool | None = None,
    lr: float | None = None,
    *,
    lr_schedule: Schedule = Plan.lr_schedule,
    weight_decay: float | None = None,
    gradient_clip: float | None = Plan.gradient_clip,
    kl_warmup: float = Plan.kl_warmup,
    validation_indices: Indices = None,
    check_val_every_n_epoch: int = Plan.check_val_every_n_epoch,
    early_stopping_monitor: str = Plan.early_stopping_monitor,
    early_stopping_patience: int | None = Plan.early_stopping_patience,
    early_stopping_min_delta: float = Plan.early_stopping_min_delta,
    early_stopping_mode: StoppingMode = Plan.early_stopping_mode,
    early_stopping_warmup_epochs: int = Plan.early_stopping_warmup_epochs,
    max_steps: int | None = Plan.max_steps,
    shuffle_set_split: bool = True,
    datasplitter_kwargs: Mapping[str, Any] | None = None,
    callbacks: Sequence[Any] | None = None,
    logger: Any = None,
    precision: Precision = Plan.precision,
    enable_progress_bar: bool = True,
    plan_kwargs: Mapping[str, Any] | None = None,
    seed: int | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    resume: bool = False,
    preset: Literal["quick"] | None = None,
    **trainer_kwargs: Any,
) -> None:
    """Fits the model.

    A further call goes on from the current weights, with a plan of its own: the learning rate and the KL weight
    rise anew, and the cells are split anew (as before if the seed is the same). `history` goes on. Its entries are
    losses in nats per cell, which fall: ``elbo_*``, ``reconstruction_loss_*``, ``kl_local_*`` and ``kl_global_*``
    (of what all cells share) of 'train' and 'validation' cells; ``train_loss_epoch``, ``train_loss_step`` (of the
    epoch's last step) and ``validation_loss``, which have the KL weight of the moment; ``kl_weight`` and ``lr``; and
    where the counts decided them, ``max_epochs`` and ``weight_decay`` with the ``mean_count`` by which they did.

    Parameters
    ----------
    max_epochs
        Passes over the training cells; None: 50, fewer for more than 50,000 cells, and of SCVI fewer, from 10, where
        they would be more than 2.4 steps for each count of a gene, on average, and more than 500 steps; of LinearSCVI
        more, up to 100, where 50 would not be 500 steps.
    accelerator, devices
        'auto' (a CUDA GPU if there is one), 'cpu', 'gpu' or 'mps'; one device.
    train_size, validation_size
        Shares of the cells to fit (None: 0.9, or what the other leaves) and to look at only (None: the rest).
    batch_size
        Cells in a step; None: ``scvi.settings.batch_size`` if it was set, else 128, and 64 for fewer than 5,000
        training cells.
    early_stopping
        Stop when `early_stopping_monitor` (a loss in the history, such as 'elbo_validation', 'validation_loss' or
        'elbo_train') has not fallen by `early_stopping_min_delta` in `early_stopping_patience` epochs (None: a fifth
        of `max_epochs`, at least 5), and go back to the best weights. The patience starts when the KL weight is full.
        None, where `max_epochs` is None, too: SCVI, LinearSCVI, CondSCVI and TOTALVI go back to the weights that are
        best for the validation cells and do not stop. If it is given, `max_epochs` does not follow the counts.
    lr, lr_schedule
        Peak learning rate (None: 0.0055, and 0.012 in one cycle that `preset` makes shorter), and 'one-cycle' (up, then
        down to 0 over the planned steps), 'constant' or 'plateau'.
    weight_decay, gradient_clip
        L2 penalty (None: 0.003, and of SCVI, SCANVI, CondSCVI and AUTOZI more where cells are few and genes are many:
        40 over the number of training cells, or 15 over their number and mean count if that is less, from 0.003 to 0.1;
        of TOTALVI less, 6 over the number of training cells, down to 0.0003), and the largest norm of a gradient (None:
        no limit).
    kl_warmup
        Share of the planned steps over which the KL weight rises from 0 to 1.
    validation_indices
        Positions of the validation cells, in place of the two sizes.
    check_val_every_n_epoch
        Epochs between two validations.
    early_stopping_mode, early_stopping_warmup_epochs
        'max' for a monitor that is to rise, an accuracy; and epochs before which the patience does not start either.
    max_steps
        End after so many steps, if `max_epochs` has more; the schedules are over the steps that there will be.
    shuffle_set_split
        False: the first cells are validated on and the next ones trained on, without a draw.
    datasplitter_kwargs
        ``{"external_indexing": [train, validation, test]}``, positions of cells (the last two may be missing): those
        of `test`, and those in none, are left out of the fit.
    callbacks
        Objects with a method ``on_epoch_end(training, training)`` or ``on_train_end``, or Lightning's callbacks. They
        get a :class:`scvi.fit.callbacks.Training`; ``training.should_stop = True`` ends the fit after the epoch.
    logger
        An object, or several, with a method ``log_metrics(values, step)``, called after each epoch.
    precision
        'bf16' computes large matrix products in bfloat16, on a CPU or GPU that has instructions for it; the
        likelihood, its sums and the weights stay in float32. 'auto' does so where the device has units for it, which
        make it faster, and is 'float32' elsewhere; a fit that goes on from a checkpoint keeps what it began with.
    enable_progress_bar
        Show a progress bar.
    plan_kwargs
        Options under the names of scripts that exist: lr, weight_decay, eps, optimizer ('Adam' or 'AdamW'),
        n_epochs_kl_warmup, n_steps_kl_warmup, max_kl_weight, min_kl_weight, reduce_lr_on_plateau, lr_patience,
        lr_factor, lr_min, lr_threshold, lr_scheduler_metric. They win over the arguments above;
        ``n_epochs_kl_warmup=None`` means no warm-up.
    seed
        Seed of split, order, dropout and draws.
    checkpoint_dir
        Write checkpoints there.
    resume
        Go on from the checkpoint in `checkpoint_dir`, exactly as if training had not been interrupted.
    preset
        'quick' fits SCVI for a first look: 500 steps, at least 15 epochs and at most the default's, with larger steps
        where it is shorter. That is a third of the time or less for 2,200 to 55,000 cells whose counts are not few; the
        default is as short from 170,000 on.
    **trainer_kwargs
        Further names of scripts that exist: `gradient_clip_val` (0 and None do not clip), `external_indexing`,
        `n_epochs_kl_warmup`, `n_steps_kl_warmup` and `reduce_lr_on_plateau` in place of the two bags, `plan_config`
        and `trainer_config`. What has no meaning here (`simple_progress_bar`, `strategy`, ...) is named in the log.

    Raises
    ------
    TypeError
        If an argument is not known; the nearest one is named.
    ValueError
        If an argument is out of range, before anything is trained.
    RuntimeError
        If losses are not finite again and again; `is_trained` says whether the weights are those of a fit.

    Warns
    -----
    UserWarning
        If a loss was not finite, with the cells and genes at fault; if training ended below the full KL weight.
    """
    self._fit(understood(type(self).__name__, locals()))


def train_by(
    plan: type[Plan], doc: str | None = None, second: str | None = None, **defaults: Any
) -> Callable[..., None]:
    """:func:`train` with the options that a plan has beside those of :class:`Plan`, as its signature shows.

    Parameters
    ----------
    plan
        Class of the plan, the source of the further arguments and their defaults. They are given by keyword.
    doc
        Docstring, which explains them; None: that of :func:`train`.
    second
        Name of the one that may be given by position, after `max_epochs`.
    **defaults
        Other defaults of arguments.
    """
    known, signature = {option.name for option in fields(Plan)}, inspect.signature(train)
    further = [
        Parameter(
            option.name,
            Parameter.POSITIONAL_OR_KEYWORD if option.name == second else Parameter.KEYWORD_ONLY,
            default=option.default,
            annotation=option.type,
        )
        for option in fields(plan)
        if option.name not in known
    ]
    given = [p.replace(default=defaults.get(p.name, p.default)) for p in signature.parameters.values()]
    in_order = sorted([*given[:2], *further, *given[2:]], key=lambda parameter: parameter.kind)
    shown = signature.replace(parameters=in_order)

    @wraps(train)
    def changed(self: Estimator, *args: Any, **kwargs: Any) -> None:
        try:
            arguments = shown.bind(self, *args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}.train() {error}") from None
        arguments.apply_defaults()
        self._fit(understood(type(self).__name__, arguments.arguments))

    changed.__signature__ = shown  # type: ignore[attr-defined]
    changed.__doc__ = doc or train.__doc__
    return changed


def fit_as_told(self: Estimator, given: Mapping[str, Any]) -> None:
    """Fits by the arguments of `train`."""
    data_sets = [cells.own("train") for cells in self._data_sets]
    if self._scope is not None and not self._scope.trained:
        raise ValueError(
            "there is nothing to train: the query brought no batch and no category that the reference did not "
            "know; ask the model as it is, or pass unfrozen=True to load_query_data"
        )
    device = resolve_device(given["accelerator"], given["devices"])
    callbacks = Callbacks(given["callbacks"], given["logger"])
    ranks, device = joined(device)
    callbacks.loggers = callbacks.loggers if ranks.is_first else []
    with ranks.only_first_speaks():
        _fit_on(self, data_sets, given, device, callbacks, ranks)


def _fit_on(
    self: Estimator,
    data_sets: Sequence[CellData],
    given: Mapping[str, Any],
    device: torch.device,
    callbacks: Callbacks,
    ranks: Ranks,
) -> None:
    """Fits on a device, alone or with the other processes of a job."""
    seed = ranks.of_first(partial(seed_of_fit, given["seed"], given["checkpoint_dir"], given["resume"]))
    train_cells, validation_cells = self._split(data_sets, given, seed)
    plan, decided = _plan_of(self, data_sets, train_cells, validation_cells, given)
    data, fitted, looked_at = side_by_side(data_sets, train_cells, validation_cells)
    fit = Fit(
        self._networks,
        data,
        fitted,
        looked_at,
        plan,
        seed=seed,
        device=device,
        show_progbar=given["enable_progress_bar"],
        checkpoint_dir=given["checkpoint_dir"],
        scope=self._scope,
        callbacks=callbacks,
        decided=decided,
        ranks=ranks,
    )
    fit.prepare(given["resume"], past_epochs(self.history), self.options, self.is_trained)
    if not (self.is_trained or self._is_initialised):
        self._start(data_sets, train_cells, ranks)
    try:
        fit.run()
    finally:
        if _keep(self, fit, [data.cell_names for data in data_sets], train_cells, validation_cells):
            self._fits = [*self._fits, told(type(self).train, {**given, "precision": fit.plan.precision}, seed)]


def _plan_of(
    self: Estimator,
    data_sets: Sequence[CellData],
    train_cells: Sequence[np.ndarray],
    validation_cells: Sequence[np.ndarray],
    given: Mapping[str, Any],
) -> tuple[Plan, dict[str, float]]:
    """The plan of a fit, as told, and as the cells say where nothing was; and what these decided, by which figure."""
    options = {option.name: given[option.name] for option in fields(self._plan) if option.name in given}
    n_train, n_validation = max(map(len, train_cells)), min(map(len, validation_cells))
    make = partial(
        make_plan, options, given["plan_kwargs"], n_train, n_validation, self._plan, course=course_of(self, given)
    )
    adapts = () if self._scope is not None else self._adapts
    told = given["plan_kwargs"]
    in_kwargs = isinstance(told, Mapping) and told.get("weight_decay") is not None
    says_length = given["max_epochs"] is not None or given["early_stopping"] is not None
    says = {"max_epochs": says_length, "weight_decay": in_kwargs or given["weight_decay"] is not None}
    options["keep_best"] = "keep_best" in adapts and n_validation > 0 and not says_length
    chosen = [name for name in adapts if not says.get(name, True)]
    if not chosen:
        return make(), {}
    mean = _mean_count(data_sets[0], train_cells[0])
    plan = make(mean_count=mean)
    decided = {name: getattr(plan, name) for name in chosen}
    said = " and ".join(_IN_WORDS[name] % value for name, value in decided.items())
    _logger.info("Chosen for %d cells with a mean count of %.3g: %s.", n_train, mean, said)
    return plan, {**decided, "mean_count": mean}


def _mean_count(data: CellData, cells: np.ndarray) -> float:
    """Of the genes of cells, by what is known of the library sizes of their batches: counts are not read for it."""
    totals = np.exp(data.l_mean[cells] + data.l_var[cells] / 2)  # type: ignore[index]  # always there
    return float(totals.mean()) / data.n_genes


def course_of(self: Estimator, given: Mapping[str, Any]) -> Callable[[int, int, float | None], Course]:
    """How long and how fast a fit is where `max_epochs` and `lr` do not say so."""
    by_counts = given["early_stopping"] is None
    if given["preset"] is None:
        if by_counts and "max_epochs" in self._adapts:
            return usual_course
        return lambda n_cells, batch_size, _: Course(self._plan.length_for(n_cells, batch_size), self._plan.lr)
    check_choice("preset", given["preset"], list(_PRESETS))
    if "max_epochs" not in self._adapts:
        raise ValueError(f"preset={given['preset']!r} is for SCVI; give {type(self).__name__}.train max_epochs")
    if given["max_epochs"] is not None:
        raise ValueError(f"preset={given['preset']!r} and max_epochs both say how long to train: pass one")
    course = _PRESETS[given["preset"]]
    return course if by_counts else lambda n_cells, batch_size, _: course(n_cells, batch_size)


def split(
    self: Estimator,
    data_sets: Sequence[CellData],
    given: Mapping[str, Any],
    seed: int,
) -> tuple[Sequence[np.ndarray], Sequence[np.ndarray]]:
    """Positions of the training and of the validation cells in each data set."""
    pairs = []
    held_out = self._of_each("validation_indices", given["validation_indices"])
    external = self._of_each("external_indexing", given["external_indexing"])
    for data, (name, indices), (bag, parts) in zip(data_sets, held_out.items(), external.items(), strict=True):
        if parts is not None:
            pairs.append(_given_split(data, bag, parts, indices))
            continue
        chosen = None if indices is None else data.positions(indices, name)
        sizes = given["train_size"], given["validation_size"]
        pairs.append(split_cells(len(data), *sizes, chosen, seed, self._strata(data), given["shuffle_set_split"]))
    train_cells, validation_cells = zip(*pairs, strict=True)
    return train_cells, validation_cells


def _given_split(data: CellData, name: str, parts: Any, validation_indices: Any) -> tuple[np.ndarray, np.ndarray]:
    """The split that `external_indexing` says."""
    if validation_indices is not None:
        raise ValueError(f"{name} and validation_indices both say which cells to validate on: pass one")
    if not isinstance(parts, (list, tuple)):
        raise ValueError(f"{name} is a {type(parts).__name__}; it must be a list: [train, validation, test]")
    none: list[int] = []
    return split_as_given(
        [data.positions(none if part is None else part, f"{name}[{i}]") for i, part in enumerate(parts)], name
    )


def _keep(
    self: Estimator,
    fit: Fit,
    cell_names: Sequence[np.ndarray],
    train_cells: Sequence[np.ndarray],
    validation_cells: Sequence[np.ndarray],
) -> bool:
    """Takes over what a fit has reached, also an interrupted one, if there is anything; cells in each data set."""
    self.was_interrupted = fit.loop.interrupted
    if fit.steps_kept == 0:
        return False
    self.history = continued(self.history, fit.frames(), fit.epochs_before)
    sides = [FittedCells.of(*part) for part in zip(cell_names, train_cells, validation_cells, strict=True)]
    self._train_cells, self._validation_cells = map(list, zip(*sides, strict=True))
    self.is_trained = True
    return True

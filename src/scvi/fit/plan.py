"""What one fit will do, decided and checked before it starts; schedules are functions of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from scvi._checks import check_choice, check_flag, check_integer, check_number
from scvi._settings import settings
from scvi.cells.epoch_order import count_minibatches

Schedule = Literal["one-cycle", "constant", "plateau"]
Precision = Literal["float32", "bf16"]

_MAX_EPOCHS, _MIN_EPOCHS = 50, 10
_STEPS_WANTED = 20_000  # beyond these a large data set needs no further passes
_SMALL_DATA, _SMALL_BATCH = 5_000, 64
_LEAST_PATIENCE = 5  # epochs
_FROM_CELLS = ("max_epochs", "batch_size")  # None: by the number of cells
_KEY_OF_CLASSIFIERS = "classification_ratio"
_SAME_NAME = ("lr", "weight_decay", "eps", "max_kl_weight", "min_kl_weight", "lr_patience", "lr_factor")
_AFTERWARDS = {"afterwards": True}  # marks an option of what is done when a fit is over


def default_batch_size(n_cells: int, usual: int) -> int:
    """Cells in a step: `usual`, and at most 64 for fewer than 5,000 cells, which gives them enough steps."""
    return min(usual, _SMALL_BATCH) if n_cells < _SMALL_DATA else usual


def default_max_epochs(n_cells: int, batch_size: int) -> int:
    """Passes over the data: 50, and fewer, down to 10, where they would be more than 20,000 steps."""
    steps = max(1, n_cells // batch_size)
    return int(min(_MAX_EPOCHS, max(_MIN_EPOCHS, _STEPS_WANTED // steps)))


def one_cycle(progress: float) -> float:
    """Share of the peak learning rate at `progress` in [0, 1]: up along a cosine for 30 %, then down to 0.

    Smith and Topin 2019; the shape is that of common practice, from 1/25 of the peak.
    """
    rise = 0.3
    if progress < rise:
        return 1 / 25 + (1 - 1 / 25) * 0.5 * (1 - math.cos(math.pi * progress / rise))
    return 0.5 * (1 + math.cos(math.pi * (progress - rise) / (1 - rise)))


@dataclass(frozen=True)
class Plan:
    """Options of a fit.

    Attributes
    ----------
    max_epochs, batch_size
        Passes over the training cells, and cells in a step.
    lr, lr_schedule
        Peak learning rate, and what becomes of it: 'one-cycle', 'constant' or 'plateau' (times `lr_factor` after
        `lr_patience` epochs without improvement of the monitored value).
    weight_decay, eps, gradient_clip
        L2 penalty and epsilon of Adam, and the largest norm of a gradient; None does not clip.
    kl_warmup
        Share of the planned steps over which the KL weight rises from `min_kl_weight` to `max_kl_weight`.
    check_val_every_n_epoch
        Epochs between two evaluations of the validation cells.
    early_stopping, early_stopping_monitor, early_stopping_patience, early_stopping_min_delta
        Stop when the monitored value of the history has not fallen by `min_delta` nats in `patience` epochs (None: a
        fifth of `max_epochs`, at least 5), and go back to the weights at its minimum. The patience starts when the KL
        weight has reached its maximum.
    precision
        'bf16' computes large matrix products in training in bfloat16; likelihood, sums over cells and genes, weights
        and their moments stay in float32.
    """

    max_epochs: int
    batch_size: int = 128
    lr: float = 5.5e-3
    lr_schedule: Schedule = "one-cycle"
    weight_decay: float = 3e-3
    eps: float = 1e-8
    gradient_clip: float | None = 100.0
    kl_warmup: float = 0.2
    min_kl_weight: float = 0.0
    max_kl_weight: float = 1.0
    check_val_every_n_epoch: int = 1
    early_stopping: bool = False
    early_stopping_monitor: str = "elbo_validation"
    early_stopping_patience: int | None = None
    early_stopping_min_delta: float = 0.0
    lr_patience: int = 10
    lr_factor: float = 0.6
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        for name in ("max_epochs", "check_val_every_n_epoch", "lr_patience"):
            check_integer(name, getattr(self, name), 1)
        if self.early_stopping_patience is not None:
            check_integer("early_stopping_patience", self.early_stopping_patience, 1)
        check_integer("batch_size", self.batch_size, 2)
        for name in ("lr", "eps", "lr_factor"):
            check_number(name, getattr(self, name), "a positive number", above=0)
        for name in ("weight_decay", "min_kl_weight", "max_kl_weight", "early_stopping_min_delta", "kl_warmup"):
            check_number(name, getattr(self, name), "a number of at least 0", least=0)
        check_flag("early_stopping", self.early_stopping)
        if self.gradient_clip is not None:
            check_number("gradient_clip", self.gradient_clip, "a positive number or None", above=0)
        if self.kl_warmup > 1:
            raise ValueError(f"kl_warmup={self.kl_warmup!r} is not a share of the planned steps, a number from 0 to 1")
        if self.min_kl_weight > self.max_kl_weight:
            raise ValueError(f"min_kl_weight={self.min_kl_weight!r} is above max_kl_weight={self.max_kl_weight!r}")
        check_choice("lr_schedule", self.lr_schedule, get_args(Schedule))
        check_choice("precision", self.precision, get_args(Precision))

    @property
    def patience(self) -> int:
        """Epochs without improvement after which early stopping stops."""
        return self.early_stopping_patience or max(_LEAST_PATIENCE, self.max_epochs // 5)

    def lr_at(self, step: int, n_steps: int) -> float:
        """Learning rate of a step, before any reduction on a plateau."""
        return self.lr * (one_cycle(step / n_steps) if self.lr_schedule == "one-cycle" else 1.0)

    def kl_weight_at(self, step: int, n_steps: int) -> float:
        """KL weight of a step, counted from 0; the last step of the warm-up has the full weight."""
        warmup = round(self.kl_warmup * n_steps, 6)  # 0.2 * 15 is a little more than 3
        if step + 1 >= warmup:
            return self.max_kl_weight
        return self.min_kl_weight + (step + 1) / warmup * (self.max_kl_weight - self.min_kl_weight)

    def to_json(self) -> dict[str, Any]:
        """The options that decide how the fit goes, in plain JSON types."""
        given = {option.name: getattr(self, option.name) for option in fields(self) if not option.metadata}
        return {name: value.item() if hasattr(value, "item") else value for name, value in given.items()}


@dataclass(frozen=True)
class SemiSupervisedPlan(Plan):
    """Options of the fit of a model with a classifier, beside those of any.

    Attributes
    ----------
    classification_ratio
        Weight of the cross-entropy, in nats per nat.
    n_samples_per_label
        Labelled cells drawn for each label in an epoch, all where a label has fewer; None: all of every label. At
        least two are drawn, from which batch norm can learn.
    calibrate
        Choose the temperature of the probabilities afterwards.
    """

    classification_ratio: float = 10.0
    n_samples_per_label: int | None = None
    calibrate: bool = field(default=True, metadata=_AFTERWARDS)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("classification_ratio", self.classification_ratio, "a number of at least 0", least=0)
        if self.n_samples_per_label is not None:
            check_integer("n_samples_per_label", self.n_samples_per_label, 1)
        check_flag("calibrate", self.calibrate)


@dataclass(frozen=True)
class AdversarialPlan(Plan):
    """Options of a fit against a discriminator, beside those of any.

    Attributes
    ----------
    kappa
        Weight of deceiving the discriminator, in nats per cell.
    """

    kappa: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("kappa", self.kappa, "a number of at least 0", least=0)


def make_plan(
    options: Mapping[str, Any],
    plan_kwargs: Mapping[str, Any] | None,
    n_train: int,
    n_validation: int,
    kind: type[Plan] = Plan,
) -> Plan:
    """A checked plan.

    Parameters
    ----------
    options
        Options of the plan by name; `max_epochs` and `batch_size` may be None: by the number of cells.
    plan_kwargs
        Options under the names of scripts that exist, which win over `options`.
    n_train, n_validation
        Numbers of cells.
    kind
        Class of the plan.
    """
    given = {name: value for name, value in options.items() if value is not None or name not in _FROM_CELLS}
    given.setdefault("batch_size", settings.chosen_batch_size or default_batch_size(n_train, settings.batch_size))
    plan = kind(**{"max_epochs": 1, **given})
    if "max_epochs" not in given:
        plan = replace(plan, max_epochs=default_max_epochs(n_train, plan.batch_size))
    plan = replace(plan, **_translated({} if plan_kwargs is None else plan_kwargs, plan, n_train))
    _check_monitor(plan, n_validation)
    return plan


def _translated(plan_kwargs: Mapping[str, Any], plan: Plan, n_train: int) -> dict[str, Any]:
    """`plan_kwargs` as options of a plan; a warm-up in epochs or steps becomes a share of the planned steps."""
    if not isinstance(plan_kwargs, Mapping):
        raise ValueError(f"plan_kwargs={plan_kwargs!r} is not a dictionary")
    same_name = [option.name for option in fields(plan) if option.name in (*_SAME_NAME, _KEY_OF_CLASSIFIERS)]
    known = [*same_name, "n_epochs_kl_warmup", "n_steps_kl_warmup", "reduce_lr_on_plateau"]
    if _KEY_OF_CLASSIFIERS in plan_kwargs and _KEY_OF_CLASSIFIERS not in known:
        raise ValueError(
            f"plan_kwargs has {_KEY_OF_CLASSIFIERS!r}, which belongs to models with a classifier; known here are "
            f"{', '.join(known)}"
        )
    unknown = [key for key in plan_kwargs if key not in known]
    if unknown:
        raise ValueError(f"plan_kwargs has unknown keys {unknown}; known are {', '.join(known)}")
    options = {name: plan_kwargs[name] for name in same_name if plan_kwargs.get(name) is not None}
    if plan_kwargs.get("reduce_lr_on_plateau"):
        options["lr_schedule"] = "plateau"
    if "n_epochs_kl_warmup" in plan_kwargs:  # None, and no number of steps: the weight is full from the start
        options["kl_warmup"] = 0.0
    n_steps = plan.max_epochs * count_minibatches(n_train, plan.batch_size)
    for name, planned in (("n_steps_kl_warmup", n_steps), ("n_epochs_kl_warmup", plan.max_epochs)):
        length = plan_kwargs.get(name)
        if length is not None:
            check_number(f"plan_kwargs[{name!r}]", length, "a number of at least 0", least=0)
            options["kl_warmup"] = min(1.0, length / planned)
    return options


def _check_monitor(plan: Plan, n_validation: int) -> None:
    """Refuses to follow a value that will not be in the history."""
    followed = [f"{name}_validation" for name in ("elbo", "reconstruction_loss", "kl_local")]
    check_choice("early_stopping_monitor", plan.early_stopping_monitor, followed)
    if (plan.early_stopping or plan.lr_schedule == "plateau") and n_validation == 0:
        raise ValueError(
            "early_stopping and lr_schedule='plateau' look at validation cells, of which there are none: "
            "lower train_size"
        )

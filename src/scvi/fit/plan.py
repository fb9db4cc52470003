"""What one fit will do, decided and checked before it starts; schedules are functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, NamedTuple, get_args

from scvi._checks import check_choice, check_flag, check_integer, check_number
from scvi._settings import settings
from scvi._warnings import warn
from scvi.cells.epoch_order import count_minibatches
from scvi.fit.plan_kwargs import translated

Schedule = Literal["one-cycle", "constant", "plateau"]
Precision = Literal["float32", "bf16", "auto"]
StoppingMode = Literal["min", "max"]
Optimizer = Literal["Adam", "AdamW"]

_MAX_EPOCHS, _MIN_EPOCHS = 50, 10
_QUICK_EPOCHS, _LEAST_STEPS, _MOST_LINEAR_EPOCHS = 15, 500, 100
_QUICK_LR = 1.2e-2
_STEPS_WANTED = 20_000  # beyond these a large data set needs no further passes
_STEPS_PER_COUNT = 2.4
_SMALL_DATA, _SMALL_BATCH = 5_000, 64
_LEAST_PATIENCE = 5  # epochs
_SPARSE_PRECISION, _PRECISION_OF_COUNTS = 40.0, 15.0
_LEAST_DECAY, _MOST_DECAY = 3e-3, 0.1
_PROTEIN_PRECISION, _LEAST_PROTEIN_DECAY = 6.0, 3e-4
_DECIDED = ("max_epochs", "batch_size", "weight_decay", "early_stopping", "lr")  # None: decided here
_AFTERWARDS = {"afterwards": True}  # marks an option of what is done when a fit is over
_LATER = {"later": True}  # marks an option that plans of earlier checkpoints lack, and whose default is what they did


def default_batch_size(n_cells: int, usual: int) -> int:
    """Cells in a step: `usual`, and at most 64 for fewer than 5,000 cells, which gives them enough steps."""
    return min(usual, _SMALL_BATCH) if n_cells < _SMALL_DATA else usual


def chosen_batch_size(n_cells: int) -> int:
    """Cells in a step where `train` is not told: what the settings were, or by the number of cells."""
    return settings.chosen_batch_size or default_batch_size(n_cells, settings.batch_size)


def default_max_epochs(n_cells: int, batch_size: int, mean_count: float | None = None) -> int:
    """Passes over the data: 50, and fewer, down to 10, where they would be more than 20,000 steps.

    And fewer, down to 10 again, where they would be more than 2.4 steps for each count of a gene, on average, by
    `mean_count`, that of an entry: what is known of a gene is fitted by then, and what is learned later is noise. But
    no fewer than 500 steps, which any data need.
    """
    steps = max(1, n_cells // batch_size)
    epochs = min(_MAX_EPOCHS, max(_MIN_EPOCHS, _STEPS_WANTED // steps))
    if mean_count is None:
        return epochs
    wanted = max(_LEAST_STEPS, _STEPS_PER_COUNT * n_cells * mean_count)
    return min(epochs, max(_MIN_EPOCHS, round(wanted / steps)))


class Course(NamedTuple):
    """What a fit is where nothing is told: passes over the data, and the peak learning rate."""

    max_epochs: int
    lr: float


def usual_course(n_cells: int, batch_size: int, mean_count: float | None = None) -> Course:
    """As long as the data bear."""
    return Course(default_max_epochs(n_cells, batch_size, mean_count), Plan.lr)


def quick_course(n_cells: int, batch_size: int, mean_count: float | None = None) -> Course:
    """A first look: 500 steps, at least 15 passes and no more than there are by default.

    Where they are fewer, the peak of the learning rate is more than twice as high: few steps have to be large.
    """
    usual = usual_course(n_cells, batch_size, mean_count)
    steps = max(1, n_cells // batch_size)
    n_epochs = max(_QUICK_EPOCHS, math.ceil(_LEAST_STEPS / steps))
    return Course(n_epochs, _QUICK_LR) if n_epochs < usual.max_epochs else usual


def linear_max_epochs(n_cells: int, batch_size: int) -> int:
    """Passes over the data for a linear decoder, which fits no noise: 50, and up to 100 where 50 are not 500 steps."""
    steps = max(1, n_cells // batch_size)
    return max(default_max_epochs(n_cells, batch_size), min(_MOST_LINEAR_EPOCHS, math.ceil(_LEAST_STEPS / steps)))


def default_weight_decay(n_cells: int, mean_count: float) -> float:
    """L2 penalty of a loss per cell: a precision of weights over the cells, between 0.003 and 0.1.

    The precision is what a Gaussian prior of the weights has, whose part in the loss of one cell gets less with more of
    them: 40, and 15 over the mean count of an entry where that is less, for there the data say more of each weight.
    """
    precision = min(_SPARSE_PRECISION, _PRECISION_OF_COUNTS / max(mean_count, 1e-6))
    return min(_MOST_DECAY, max(_LEAST_DECAY, precision / n_cells))


def protein_weight_decay(n_cells: int) -> float:
    """The same of a model of genes and proteins: a precision of 6, whatever the counts, and from 0.0003 to 0.003.

    With more, the likelihood of genes gets better where cells are few, and what is imputed of proteins worse.
    """
    return min(_LEAST_DECAY, max(_LEAST_PROTEIN_DECAY, _PROTEIN_PRECISION / n_cells))


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
        Peak learning rate, and what becomes of it: 'one-cycle', 'constant' or 'plateau' (times `lr_factor`, down to
        `lr_min`, after `lr_patience` epochs in which `lr_scheduler_metric` has not fallen by `lr_threshold`; None: the
        value and the distance of early stopping).
    max_steps
        Steps after which the fit ends, within an epoch or not; None: all of `max_epochs`. The schedules are over the
        steps that there will be.
    weight_decay, eps, optimizer, gradient_clip
        L2 penalty and epsilon of 'Adam', or of 'AdamW', which takes the penalty off the weights and not through the
        gradient; and the largest norm of a gradient; None does not clip.
    kl_warmup
        Share of the planned steps over which the KL weight rises from `min_kl_weight` to `max_kl_weight`.
    check_val_every_n_epoch
        Epochs between two evaluations of the validation cells.
    early_stopping, early_stopping_monitor, early_stopping_patience, early_stopping_min_delta
        Stop when the monitored value of the history has not fallen by `min_delta` nats in `patience` epochs (None: a
        fifth of `max_epochs`, at least 5), and go back to the weights at its minimum. The patience starts when the KL
        weight has reached its maximum.
    early_stopping_mode, early_stopping_warmup_epochs
        'max' for a value that is to rise; and epochs before which the patience does not start either.
    keep_best
        Go back to the weights at the minimum of the monitored value also where nothing stops early.
    precision
        'bf16' computes large matrix products in training in bfloat16; likelihood, sums over cells and genes, weights
        and their moments stay in float32. 'auto' is 'bf16' where the device has units for it, else 'float32'; a fit
        knows which it was.
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
    precision: Precision = "auto"
    early_stopping_mode: StoppingMode = field(default="min", metadata=_LATER)
    early_stopping_warmup_epochs: int = field(default=0, metadata=_LATER)
    lr_min: float = field(default=0.0, metadata=_LATER)
    lr_threshold: float | None = field(default=None, metadata=_LATER)
    lr_scheduler_metric: str | None = field(default=None, metadata=_LATER)
    max_steps: int | None = field(default=None, metadata=_LATER)
    optimizer: Optimizer = field(default="Adam", metadata=_LATER)
    keep_best: bool = field(default=False, metadata=_LATER)

    falling: ClassVar[tuple[str, ...]] = (
        *(f"{name}_validation" for name in ("elbo", "reconstruction_loss", "kl_local")),
        "validation_loss",
        *(f"{name}_train" for name in ("elbo", "reconstruction_loss", "kl_local")),
        "train_loss_epoch",
    )
    """Values of the history that can be followed, and fall as a fit gets better."""
    rising: ClassVar[tuple[str, ...]] = ()
    """Those that rise."""

    def __post_init__(self) -> None:
        for name in ("max_epochs", "check_val_every_n_epoch", "lr_patience"):
            check_integer(name, getattr(self, name), 1)
        for name in ("early_stopping_patience", "max_steps"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 1)
        check_integer("early_stopping_warmup_epochs", self.early_stopping_warmup_epochs, 0)
        check_integer("batch_size", self.batch_size, 2)
        for name in ("lr", "eps", "lr_factor"):
            check_number(name, getattr(self, name), "a positive number", above=0)
        weights = ("weight_decay", "kl_warmup", "min_kl_weight", "max_kl_weight", "lr_min")
        distances = ("early_stopping_min_delta", *(() if self.lr_threshold is None else ("lr_threshold",)))
        for name in (*weights, *distances):
            check_number(name, getattr(self, name), "a number of at least 0", least=0)
        check_flag("early_stopping", self.early_stopping)
        check_flag("keep_best", self.keep_best)
        if self.gradient_clip is not None:
            check_number("gradient_clip", self.gradient_clip, "a positive number or None", above=0)
        if self.kl_warmup > 1:
            raise ValueError(f"kl_warmup={self.kl_warmup!r} is not a share of the planned steps, a number from 0 to 1")
        if self.min_kl_weight > self.max_kl_weight:
            raise ValueError(f"min_kl_weight={self.min_kl_weight!r} is above max_kl_weight={self.max_kl_weight!r}")
        if self.lr_min > self.lr:
            raise ValueError(f"lr_min={self.lr_min!r} is above lr={self.lr!r}")
        choices = {"lr_schedule": Schedule, "precision": Precision}
        for name, kind in {**choices, "early_stopping_mode": StoppingMode, "optimizer": Optimizer}.items():
            check_choice(name, getattr(self, name), get_args(kind))

    @staticmethod
    def decay_for(n_cells: int, mean_count: float) -> float:
        """The weight decay where the cells decide it."""
        return default_weight_decay(n_cells, mean_count)

    @staticmethod
    def length_for(n_cells: int, batch_size: int, mean_count: float | None = None) -> int:
        """Passes over the data where their number decides it, and not the counts."""
        return default_max_epochs(n_cells, batch_size)

    @property
    def patience(self) -> int:
        """Epochs without improvement after which early stopping stops."""
        return self.early_stopping_patience or max(_LEAST_PATIENCE, self.max_epochs // 5)

    @property
    def of_plateau(self) -> tuple[str, float]:
        """The value that the 'plateau' schedule follows, and by how much it has to fall."""
        least = self.early_stopping_min_delta if self.lr_threshold is None else self.lr_threshold
        return self.lr_scheduler_metric or self.early_stopping_monitor, least

    @property
    def followed(self) -> tuple[str, ...]:
        """The values of the history that decide something."""
        plateau = (self.of_plateau[0],) if self.lr_schedule == "plateau" else ()
        return (*plateau, *((self.early_stopping_monitor,) if self.early_stopping or self.keep_best else ()))

    def planned_steps(self, steps_per_epoch: int) -> int:
        """Steps that there will be."""
        most = self.max_epochs * steps_per_epoch
        return most if self.max_steps is None else min(most, self.max_steps)

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
        given = {
            option.name: getattr(self, option.name)
            for option in fields(self)
            if "afterwards" not in option.metadata
            and ("later" not in option.metadata or getattr(self, option.name) != option.default)
        }
        return {name: value.item() if hasattr(value, "item") else value for name, value in given.items()}


@dataclass(frozen=True)
class LinearPlan(Plan):
    """Options of the fit of a linear decoder, which takes more epochs of few steps."""

    @staticmethod
    def length_for(n_cells: int, batch_size: int, mean_count: float | None = None) -> int:
        return linear_max_epochs(n_cells, batch_size)


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

    falling: ClassVar[tuple[str, ...]] = (
        *Plan.falling,
        "classification_loss_validation",
        "classification_loss_train",
        "train_classification_loss",
        "validation_classification_loss",
        "validation_calibration_error",
    )
    rising: ClassVar[tuple[str, ...]] = ("accuracy_validation", "validation_accuracy", "validation_f1_score")

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


@dataclass(frozen=True)
class ProteinPlan(Plan):
    """Options of the fit of a model of genes and proteins, beside those of any.

    Attributes
    ----------
    hide_proteins
        Share of the cells of a step of which the encoder sees no more proteins than of another batch.
    """

    hide_proteins: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("hide_proteins", self.hide_proteins, "a share, a number from 0 to 1", least=0)
        if self.hide_proteins > 1:
            raise ValueError(f"hide_proteins={self.hide_proteins!r} is not a share, a number from 0 to 1")

    @staticmethod
    def decay_for(n_cells: int, mean_count: float) -> float:
        return protein_weight_decay(n_cells)


def make_plan(
    options: Mapping[str, Any],
    plan_kwargs: Mapping[str, Any] | None,
    n_train: int,
    n_validation: int,
    kind: type[Plan] = Plan,
    mean_count: float | None = None,
    course: Callable[[int, int, float | None], Course] = usual_course,
) -> Plan:
    """A checked plan.

    Parameters
    ----------
    options
        Options of the plan by name; `max_epochs`, `lr`, `batch_size` and `weight_decay` may be None: by the cells, and
        `early_stopping`, too: no.
    plan_kwargs
        Options under the names of scripts that exist, which win over `options`.
    n_train, n_validation
        Numbers of cells.
    kind
        Class of the plan.
    mean_count
        Of an entry of the training cells, by which weight decay and epochs are chosen where they are None; None: the
        weight decay is that of the class, and the epochs are by the number of cells.
    course
        Says how long and how fast, by the numbers of training cells and of those in a step, and the mean count.
    """
    given = {name: value for name, value in options.items() if value is not None or name not in _DECIDED}
    given.setdefault("batch_size", chosen_batch_size(n_train))
    if mean_count is not None:
        given.setdefault("weight_decay", kind.decay_for(n_train, mean_count))
    plan = kind(**{"max_epochs": 1, **given})
    told = translated({} if plan_kwargs is None else plan_kwargs, [option.name for option in fields(plan)])
    decided = course(n_train, plan.batch_size, mean_count)
    if told.options.get("lr_schedule", plan.lr_schedule) != "one-cycle":
        decided = decided._replace(lr=plan.lr)  # what a peak may be, a rate that stays may not
    plan = replace(plan, **{name: value for name, value in decided._asdict().items() if name not in given})
    plan = _with_warmup(replace(plan, **told.options), told.warmup, count_minibatches(n_train, plan.batch_size))
    _check_monitors(plan, n_validation)
    return plan


def _with_warmup(plan: Plan, lengths: Mapping[str, float | None], steps_per_epoch: int) -> Plan:
    """With as many epochs as `max_steps` leaves, and a warm-up in epochs or steps as a share of the planned steps."""
    n_steps = plan.planned_steps(steps_per_epoch)
    plan = replace(plan, max_epochs=min(plan.max_epochs, math.ceil(n_steps / steps_per_epoch)))
    planned = {"n_steps_kl_warmup": n_steps, "n_epochs_kl_warmup": n_steps / steps_per_epoch}
    if "n_epochs_kl_warmup" in lengths:  # None, and no number of steps: the weight is full from the start
        plan = replace(plan, kl_warmup=0.0)
    for name in planned:
        length = lengths.get(name)
        if length is not None:
            check_number(f"plan_kwargs[{name!r}]", length, "a number of at least 0", least=0)
            plan = replace(plan, kl_warmup=min(1.0, length / planned[name]))
    return plan


def _check_monitors(plan: Plan, n_validation: int) -> None:
    """Refuses to follow a value that will not be in the history, and warns of one that is followed the wrong way."""
    monitor, mode = plan.early_stopping_monitor, plan.early_stopping_mode
    check_choice("early_stopping_monitor", monitor, [*plan.falling, *plan.rising])
    if plan.lr_scheduler_metric is not None:
        check_choice("lr_scheduler_metric", plan.lr_scheduler_metric, plan.falling)
    elif plan.lr_schedule == "plateau":
        check_choice("early_stopping_monitor (and so lr_scheduler_metric)", monitor, plan.falling)
    if n_validation == 0 and any("validation" in name for name in plan.followed):
        raise ValueError(
            "early_stopping and lr_schedule='plateau' look at validation cells, of which there are none: "
            "lower train_size, or follow early_stopping_monitor='elbo_train'"
        )
    if (plan.early_stopping or plan.keep_best) and (mode == "max") != (monitor in plan.rising):
        way, other = ("rises", "max") if monitor in plan.rising else ("falls", "min")
        ends = "may stop early, with bad weights" if plan.early_stopping else "ends with the worst weights"
        warn(
            f"early_stopping_mode={mode!r}, but {monitor} {way} as the fit gets better: training {ends}; pass "
            f"early_stopping_mode={other!r}"
        )

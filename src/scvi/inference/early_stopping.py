"""When to stop training, when to lower the learning rate and which weights to keep."""

from __future__ import annotations

import logging
import math
from typing import Literal

from scvi.inference.posterior import Posterior

__all__ = ["EarlyStopping"]

logger = logging.getLogger(__name__)

Mode = Literal["min", "max"]


class EarlyStopping:
    """Decides after each epoch whether to go on, to lower the learning rate and to keep the current weights.

    Parameters
    ----------
    early_stopping_metric
        Name of the metric of `posterior_class` that decides when to stop; None never stops.
    save_best_state_metric
        Name of the metric of `posterior_class` by which the best weights are kept and restored; None keeps none.
    on
        Name of the posterior on which both metrics are computed.
    patience
        Epochs without improvement after which training stops.
    threshold
        Gain over the best value so far, in the units of the metric, from which an epoch counts as an improvement.
    benchmark
        Never stop.
    reduce_lr_on_plateau, lr_patience, lr_factor
        Multiply the learning rate by `lr_factor` after `lr_patience` epochs without improvement.
    posterior_class
        Class whose metric says by its `mode` whether low or high values are good.
    """

    def __init__(
        self,
        early_stopping_metric: str | None = None,
        save_best_state_metric: str | None = None,
        on: str = "test_set",
        patience: int = 15,
        threshold: float = 3,
        benchmark: bool = False,
        reduce_lr_on_plateau: bool = False,
        lr_patience: int = 10,
        lr_factor: float = 0.5,
        posterior_class: type[Posterior] = Posterior,
    ) -> None:
        self.early_stopping_metric = early_stopping_metric
        self.save_best_state_metric = save_best_state_metric
        self.on = on
        self.patience = patience
        self.threshold = threshold
        self.benchmark = benchmark
        self.reduce_lr_on_plateau = reduce_lr_on_plateau
        self.lr_patience = lr_patience
        self.lr_factor = lr_factor
        self.epoch = 0
        self.wait = 0
        self.wait_lr = 0
        self.mode = _mode_of(early_stopping_metric, posterior_class)
        self.mode_save_state = _mode_of(save_best_state_metric, posterior_class)
        self.best_performance = _worst(self.mode)
        self.best_performance_state = _worst(self.mode_save_state)

    def update(self, scalar: float) -> tuple[bool, bool]:
        """Whether to go on, and whether to lower the learning rate, after an epoch with this value of the metric.

        Gains are counted epoch by epoch: a slow and steady gain below the threshold counts as none.
        """
        self.epoch += 1
        if self.benchmark:
            return True, False
        if self.wait >= self.patience:
            logger.info(
                "Stopping early: no improvement of more than %s nats in %s epochs. If the early stopping criterion is "
                "too strong, raise `patience` or lower `threshold` in early_stopping_kwargs.",
                self.threshold,
                self.patience,
            )
            return False, False
        reduce_lr = self.reduce_lr_on_plateau and self.wait_lr >= self.lr_patience
        if reduce_lr:
            self.wait_lr = 0
        improvement = _gain(scalar, self.best_performance, self.mode)
        if improvement > 0:
            self.best_performance = scalar
        if improvement >= self.threshold:  # false for NaN, which is no improvement
            self.wait = self.wait_lr = 0
        else:
            self.wait += 1
            self.wait_lr += 1
        return True, reduce_lr

    def update_state(self, scalar: float) -> bool:
        """Whether this is the best value of `save_best_state_metric` so far."""
        improved = _gain(scalar, self.best_performance_state, self.mode_save_state) > 0
        if improved:
            self.best_performance_state = scalar
        return improved


def _mode_of(metric: str | None, posterior_class: type[Posterior]) -> Mode | None:
    """Whether low or high values of this metric are good."""
    if metric is None:
        return None
    mode = getattr(getattr(posterior_class, metric, None), "mode", None)
    if mode in ("min", "max"):
        return mode
    known = sorted(name for name in dir(posterior_class) if hasattr(getattr(posterior_class, name), "mode"))
    raise NotImplementedError(
        f"{metric!r} is not a metric of {posterior_class.__name__} with a mode 'min' or 'max'; "
        f"it has {', '.join(known)}"
    )


def _worst(mode: Mode | None) -> float:
    return -math.inf if mode == "max" else math.inf


def _gain(scalar: float, best: float, mode: Mode | None) -> float:
    """How much better a value is than the best so far."""
    return scalar - best if mode == "max" else best - scalar

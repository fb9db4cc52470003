"""What others do between two epochs: callbacks and loggers, which users pass to `train`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import nn

from scvi._warnings import warn

_CALLED = (
    *("on_fit_start", "on_train_start", "on_train_epoch_start", "on_validation_epoch_end", "on_validation_end"),
    *("on_train_epoch_end", "on_epoch_end", "on_train_end", "on_fit_end"),
)
_FRAMEWORKS = ("lightning", "pytorch_lightning")  # whose own methods may go uncalled: they do nothing


class Training:
    """Where a fit is, for callbacks.

    Attributes
    ----------
    module
        The network that is fitted.
    max_epochs, current_epoch, global_step
        Epochs of the plan, the number of the current one from 0, and steps so far.
    callback_metrics
        The latest value of each entry of the history, by name.
    should_stop
        Set it to True to end the fit after this epoch.
    """

    def __init__(self, module: nn.Module, max_epochs: int) -> None:
        self.module, self.max_epochs = module, max_epochs
        self.current_epoch = self.global_step = 0
        self.callback_metrics: dict[str, float] = {}
        self.should_stop = False


class Callback(Protocol):
    """A callback of `train`; it may have either method or both, and others under the names of Lightning's callbacks.

    A method gets the :class:`Training` twice: once where Lightning has its trainer, and once where it has the module.
    """

    def on_epoch_end(self, training: Training, same: Training, /) -> None:
        """After an epoch, when its values are in the history."""

    def on_train_end(self, training: Training, same: Training, /) -> None:
        """After the last one, also where it was the last because of Ctrl-C or a callback."""


class Callbacks:
    """Callbacks and loggers of a fit.

    Parameters
    ----------
    callbacks
        See :class:`Callback`.
    loggers
        Objects with Lightning's ``log_metrics(values, step)``, called after each epoch.

    Raises
    ------
    ValueError
        For an object that has none of the methods.
    """

    def __init__(self, callbacks: Any = None, loggers: Any = None) -> None:
        self.callbacks, self.loggers = _as_list(callbacks), [each for each in _as_list(loggers) if each is not True]
        for callback in self.callbacks:
            _check(callback)
        for each in self.loggers:
            if not callable(getattr(each, "log_metrics", None)):
                raise ValueError(
                    f"logger={each!r} has no method log_metrics(values, step); the losses are in `history` as well"
                )

    def call(self, method: str, training: Training) -> None:
        """Calls a method of the callbacks that have it."""
        for callback in self.callbacks:
            function = getattr(callback, method, None)
            if callable(function):
                function(training, training)

    def end_epoch(self, training: Training, values: Mapping[str, float], was_validated: bool) -> None:
        """Tells the values of an epoch."""
        training.callback_metrics.update(values)
        for each in self.loggers:
            each.log_metrics({**values, "epoch": training.current_epoch}, training.global_step)
        validation = ("on_validation_epoch_end", "on_validation_end") if was_validated else ()
        for method in (*validation, "on_train_epoch_end", "on_epoch_end"):
            self.call(method, training)

    def end(self, training: Training) -> None:
        """Tells that the fit is over."""
        self.call("on_train_end", training)
        self.call("on_fit_end", training)
        for each in self.loggers:
            if callable(getattr(each, "finalize", None)):
                each.finalize("success")


def _as_list(given: Any) -> list[Any]:
    if given is None or given is False:
        return []
    return list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]


def _check(callback: Any) -> None:
    """Refuses what is no callback, and says which of its methods will not be called."""
    hooks = [name for name in dir(callback) if name.startswith("on_") and callable(getattr(callback, name))]
    if not set(hooks) & set(_CALLED):
        raise ValueError(
            f"callbacks: {callback!r} has none of the methods that are called: {', '.join(reversed(_CALLED))}"
        )
    owners = {name: getattr(getattr(callback, name), "__module__", None) or "" for name in hooks}
    uncalled = [n for n in hooks if n not in _CALLED and owners[n].partition(".")[0] not in _FRAMEWORKS]
    if uncalled:
        warn(
            f"{type(callback).__name__} has {', '.join(uncalled)}, which is not called here; called are "
            f"{', '.join(_CALLED)}"
        )

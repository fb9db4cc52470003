"""Callbacks and loggers: when they are called, what they are told, and how they end a fit."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import scvi
from scvi.estimators.base import Estimator
from scvi.fit.callbacks import Training
from small_cells import QUICK, TINY, make_adata


def make(cls: type[Estimator] = scvi.SCVI) -> Any:
    adata = make_adata()
    cls.setup_anndata(adata, batch_key="batch")
    return cls(adata, **TINY)


class Ours:
    """Has both methods, and writes down what it is told."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after, self.epochs, self.ends = stop_after, list[tuple[int, int, dict[str, float]]](), 0

    def on_epoch_end(self, training: Training, same: Training) -> None:
        assert training is same
        self.epochs.append((training.current_epoch, training.global_step, dict(training.callback_metrics)))
        training.should_stop = training.current_epoch == self.stop_after

    def on_train_end(self, training: Training, same: Training) -> None:
        self.ends += 1


class Theirs:
    """As Lightning names its methods."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.calls.append("fit")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.calls.append("train")

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        assert "elbo_validation" in trainer.callback_metrics or trainer.current_epoch < 2
        self.calls.append(f"epoch {trainer.current_epoch}")

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        assert np.isfinite(trainer.callback_metrics["elbo_validation"])
        self.calls.append("validation")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        assert pl_module.module.training
        self.calls.append(f"end {trainer.current_epoch}")

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        assert not pl_module.module.training
        self.calls.append("train end")


def test_a_callback_is_told_what_the_history_has() -> None:
    model, callback = make(), Ours()
    model.train(**QUICK, callbacks=[callback])
    assert [epoch for epoch, _, _ in callback.epochs] == [0, 1, 2]
    steps = [step for _, step, _ in callback.epochs]
    assert steps == [steps[0], 2 * steps[0], 3 * steps[0]]
    for epoch, _, values in callback.epochs:
        assert values == {name: table[name][epoch] for name, table in model.history.items()}
    assert callback.ends == 1


def test_a_callback_changes_nothing_but_the_end() -> None:
    whole, watched = make(), make()
    whole.train(**QUICK)
    watched.train(**QUICK, callbacks=[Ours(), Ours()])
    assert all(watched.history[name].equals(table) for name, table in whole.history.items())
    stopped, callback = make(), Ours(stop_after=1)
    stopped.train(**QUICK, callbacks=callback)  # one alone
    assert stopped.history["elbo_train"].index.tolist() == [0, 1]
    assert stopped.is_trained
    assert callback.ends == 1


def test_methods_of_lightning_are_called_in_their_order() -> None:
    callback = Theirs()
    make().train(**QUICK, check_val_every_n_epoch=2, callbacks=[callback])
    epochs = ["epoch 0", "end 0", "epoch 1", "validation", "end 1", "epoch 2", "validation", "end 2"]
    assert callback.calls == ["fit", "train", *epochs, "train end"]


def test_what_a_callback_raises_comes_out_and_the_model_is_kept() -> None:
    class Fails:
        def on_epoch_end(self, training: Training, same: Training) -> None:
            raise KeyError("mine")

    model = make()
    with pytest.raises(KeyError, match="mine"):
        model.train(**QUICK, callbacks=[Fails()])
    assert model.is_trained
    assert model.history["elbo_train"].index.tolist() == [0]


def test_what_is_no_callback_is_refused_before_training() -> None:
    model = make()
    for wrong in (print, [3], "callback", [Ours(), object()]):
        with pytest.raises(
            ValueError, match=r"callbacks: .* has none of the methods that are called: on_fit_end, on_t"
        ):
            model.train(**QUICK, callbacks=wrong)
    assert not model.is_trained


def test_methods_that_are_not_called_are_named() -> None:
    class OfSteps(Ours):
        def on_train_batch_end(self, *arguments: Any) -> None: ...

    with pytest.warns(UserWarning, match="OfSteps has on_train_batch_end, which is not called here"):
        make().train(**QUICK, callbacks=[OfSteps()])


def test_functions_may_be_gathered_to_a_callback() -> None:
    losses: list[float] = []
    gathered = SimpleNamespace(on_epoch_end=lambda training, _: losses.append(training.callback_metrics["elbo_train"]))
    model = make()
    model.train(**QUICK, callbacks=[gathered])
    assert losses == model.history["elbo_train"]["elbo_train"].tolist()


def test_a_logger_is_given_each_epoch(caplog: pytest.LogCaptureFixture) -> None:
    class Logger:
        def __init__(self) -> None:
            self.given: list[tuple[dict[str, float], int]] = []

        def log_metrics(self, values: dict[str, float], step: int) -> None:
            self.given.append((values, step))

    class Finalised(Logger):
        def finalize(self, status: str) -> None:
            self.status = status

    first, second = Logger(), Finalised()
    model = make()
    with caplog.at_level(logging.WARNING, logger="scvi"):
        model.train(**QUICK, logger=[first, second, True])
    assert first.given == second.given
    assert [values["epoch"] for values, _ in first.given] == [0, 1, 2]
    assert [v["elbo_validation"] for v, _ in first.given] == model.history["elbo_validation"].iloc[:, 0].tolist()
    assert second.status == "success"
    for nothing in (None, True, False):
        model.train(**QUICK, logger=nothing)
    with pytest.raises(ValueError, match=r"logger='tensorboard' has no method log_metrics"):
        model.train(**QUICK, logger="tensorboard")


def test_a_fit_that_a_callback_ended_is_finished(tmp_path: Path) -> None:
    model = make()
    model.train(**QUICK, callbacks=[Ours(stop_after=1)], checkpoint_dir=tmp_path)
    again, callback = make(), Ours()
    again.train(**QUICK, callbacks=[callback], checkpoint_dir=tmp_path, resume=True)
    assert callback.epochs == []
    assert all(again.history[name].equals(table) for name, table in model.history.items())

"""What each trial of a search under its name of 2020 does: it makes a model and a trainer, and asks a posterior."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import torch

from scvi.dataset.dataset import GeneExpressionDataset
from scvi.tune.record import plain
from scvi.tune.worker import Running

MODEL, TRAINER, TRAIN = "model_tunable_kwargs", "trainer_tunable_kwargs", "train_func_tunable_kwargs"
_EARLY_STOPPING: dict[str, Any] = {
    "early_stopping_metric": "elbo",
    "save_best_state_metric": "elbo",
    "patience": 50,
    "threshold": 0,
    "reduce_lr_on_plateau": True,
    "lr_patience": 25,
    "lr_factor": 0.2,
}
_N_EPOCHS = 1000
_POPULATED: WeakSet[GeneExpressionDataset] = WeakSet()  # by this process, where that was left to it


@dataclass(frozen=True)
class Objective:
    """What each trial does: it makes a model and a trainer, trains, and asks a posterior for the metric."""

    gene_dataset: Any = field(repr=False)
    delayed: bool
    custom: Callable[..., Any] | None
    custom_kwargs: dict[str, Any]
    model_class: Any
    trainer_class: Any
    metric: str
    metric_kwargs: dict[str, Any]
    posterior: str
    specific: dict[str, dict[str, Any]]
    fixed: dict[str, Any]
    use_batches: bool

    def __call__(self, trial: Running) -> float:
        began, space = time.perf_counter(), nested({**self.fixed, **trial.params})
        if self.custom is not None:
            answer = self.custom(space, is_best_training=False, **self.custom_kwargs)
            result = dict(answer) if isinstance(answer, Mapping) else {"loss": float(answer)}
        else:
            result = self._fitted(space)
        result = {
            "space": space,
            "status": "ok",
            "elapsed_time": time.perf_counter() - began,
            "worker_name": multiprocessing.current_process().name,
            **result,
        }
        trial.notes["result"] = json.loads(json.dumps(result, default=plain))
        return float(result["loss"])

    def terms(self, searched: Mapping[str, Any]) -> dict[str, Any]:
        """What all who work on a search must agree on."""
        custom = None if self.custom is None else getattr(self.custom, "__qualname__", type(self.custom).__name__)
        spoken = {name: repr(values) for name, values in {**searched, **self.fixed}.items()}
        held = {"specific": self.specific, "metric": self.metric_kwargs, "batches": self.use_batches}
        return {
            "model": self.model_class.__name__,
            "trainer": self.trainer_class.__name__,
            "metric": custom or self.metric,
            "posterior": self.posterior,
            "space": spoken,
            "arguments": json.dumps(held, sort_keys=True, default=lambda value: type(value).__name__),
            "cells": self._cells(),
        }

    def _cells(self) -> str | None:
        """What tells the cells from others, where they are here: where each worker reads its own they are not."""
        if self.delayed or not isinstance(self.gene_dataset, GeneExpressionDataset):
            return None
        return f"{len(self.gene_dataset)} x {self.gene_dataset.nb_genes}"

    def train_best(self, space: dict[str, Any]) -> Any:
        """The trainer of a model that was trained on all cells with these values; or what a custom objective gives."""
        if self.custom is not None:
            return self.custom(space, is_best_training=True, **self.custom_kwargs)
        arguments = self._arguments(space)
        arguments[TRAIN]["n_epochs"] = space.get(TRAIN, {}).get("n_epochs", arguments[TRAIN]["n_epochs"])
        for name in ("early_stopping_kwargs", "frequency"):
            arguments[TRAINER].pop(name, None)
        trainer = self._trainer(arguments, {"train_size": 1.0})
        trainer.train(**arguments[TRAIN])
        return trainer

    def _fitted(self, space: dict[str, Any]) -> dict[str, Any]:
        """The result of a trial."""
        arguments = self._arguments(space)
        trainer_kwargs = arguments[TRAINER]
        trainer_kwargs.setdefault("early_stopping_kwargs", _EARLY_STOPPING)
        monitored = list(trainer_kwargs.get("metrics_to_monitor") or [])
        trainer_kwargs["metrics_to_monitor"] = [*monitored, *(["elbo"] if "elbo" not in monitored else [])]
        trainer = self._trainer(arguments, {"frequency": 1})
        posterior = getattr(trainer, self.posterior)
        ask = getattr(posterior, self.metric, None)
        if not callable(ask):
            raise ValueError(f"metric_name={self.metric!r} is no method of {type(posterior).__name__}")
        trainer.train(**arguments[TRAIN])
        if trainer.interrupted:
            raise KeyboardInterrupt
        keeps_best = trainer.early_stopping.save_best_state_metric is not None and trainer.best_epoch is not None
        if keeps_best:  # its weights are those that the trainer has gone back to
            arguments[TRAIN]["n_epochs"] = trainer.best_epoch + 1
        value = float(getattr(getattr(trainer, self.posterior), self.metric)(**self.metric_kwargs))
        loss = -value if getattr(ask, "mode", "min") == "max" else value
        tried = {**space, TRAIN: {**space.get(TRAIN, {}), "n_epochs": arguments[TRAIN]["n_epochs"]}}
        return {
            "loss": loss,
            "early_stopping_loss": trainer.early_stopping.best_performance,
            "early_stopping_loss_is_best": keeps_best,
            "best_epoch": trainer.best_epoch,
            "history": {name: [float(v) for v in values] for name, values in trainer.history.items()},
            "space": tried,
        }

    def _arguments(self, space: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Arguments of model, trainer and `train`; what is held fixed wins."""
        groups = (MODEL, TRAINER, TRAIN)
        arguments = {group: {**space.get(group, {}), **self.specific[group]} for group in groups}
        arguments[TRAIN].setdefault("n_epochs", _N_EPOCHS)
        return deepcopy(arguments)

    def _trainer(self, arguments: Mapping[str, dict[str, Any]], usual: Mapping[str, Any]) -> Any:
        data = self.gene_dataset
        if self.delayed and data not in _POPULATED:
            data.populate()
            _POPULATED.add(data)
        model = self.model_class(data.nb_genes, n_batch=data.n_batches * self.use_batches, **arguments[MODEL])
        quiet = {"use_cuda": torch.cuda.is_available(), "show_progbar": False}
        return self.trainer_class(model, data, **{**quiet, **usual, **arguments[TRAINER]})


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The same as the dictionaries that it was given as."""
    space: dict[str, Any] = {}
    for name, value in flat.items():
        *outer, last = name.split(".")
        inner = space
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return space

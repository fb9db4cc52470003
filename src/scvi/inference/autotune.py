"""The search for hyper-parameters under its name of 2020, on optuna in place of hyperopt and MongoDB."""

from __future__ import annotations

import inspect
import json
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from logging.handlers import QueueHandler, RotatingFileHandler
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pandas as pd
import torch
from torch import nn

from scvi._checks import check_integer, check_number
from scvi._files import replacing
from scvi._random import resolve_seed
from scvi._warnings import warn
from scvi.dataset.dataset import DownloadableDataset, GeneExpressionDataset
from scvi.inference.inference import UnsupervisedTrainer
from scvi.inference.trainer import Trainer
from scvi.models import VAE
from scvi.tune.processes import Staff, import_by_workers, run, send_messages
from scvi.tune.record import table
from scvi.tune.spaces import distributions
from scvi.tune.storage import url_of
from scvi.tune.studies import agreed, best_of
from scvi.tune.worker import Job, Running, open_study

__all__ = ["Trials", "auto_tune_scvi_model", "configure_asynchronous_logging"]

logger = logging.getLogger(__name__)

_MODEL, _TRAINER, _TRAIN = "model_tunable_kwargs", "trainer_tunable_kwargs", "train_func_tunable_kwargs"
_SPACE: dict[str, Any] = {
    _MODEL: {
        "n_latent": (5, 15),
        "n_hidden": [64, 128, 256],
        "n_layers": (1, 5),
        "dropout_rate": [0.1, 0.3, 0.5, 0.7],
        "reconstruction_loss": ["zinb", "nb"],
    },
    _TRAIN: {"lr": [0.01, 0.005, 0.001, 0.0005, 0.0001]},
}
_EARLY_STOPPING: dict[str, Any] = {
    "early_stopping_metric": "elbo",
    "save_best_state_metric": "elbo",
    "patience": 50,
    "threshold": 0,
    "reduce_lr_on_plateau": True,
    "lr_patience": 25,
    "lr_factor": 0.2,
}
_POPULATED: WeakSet[GeneExpressionDataset] = WeakSet()  # by this process, where that was left to it
_OF_MONGO = {"mongo_port": "1234", "mongo_host": "localhost", "db_name": "scvi_db"}
_N_EPOCHS = 1000
_LOG_FILE, _LOG_SIZE = "scvi_autotune_logfile.txt", 10_000_000


def configure_asynchronous_logging(logging_queue: Any) -> None:
    """Sends the messages of the package in this process through a queue to another, which shows them.

    Parameters
    ----------
    logging_queue
        Of `multiprocessing`; at its other end is a ``logging.handlers.QueueListener``.
    """
    send_messages(QueueHandler(logging_queue))


class Trials:
    """The trials of a search.

    Attributes
    ----------
    results
        A dictionary a complete trial: loss, space (what was tried, with the number of epochs of the best), best_epoch,
        early_stopping_loss, history, elapsed_time, status, worker_name.
    trials
        Dictionaries with a number ("tid") and a "result", as hyperopt has them.
    best_trial
        The one with the lowest loss; None if none is complete.
    table
        All trials, also those that failed, a row each.
    study
        The study of optuna.
    """

    def __init__(self, study: Any, names: list[str]) -> None:
        self.study = study
        trials = study.get_trials(deepcopy=False)
        complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
        self.trials = [{"tid": trial.number, "result": dict(trial.user_attrs["result"])} for trial in complete]
        self.results = [trial["result"] for trial in self.trials]
        best = best_of(study, trials)
        self.best_trial = None if best is None else next(t for t in self.trials if t["tid"] == best.number)
        self.table: pd.DataFrame = table(trials, names)

    def losses(self) -> list[float]:
        """The loss of each complete trial."""
        return [result["loss"] for result in self.results]

    def __len__(self) -> int:
        return len(self.trials)


def auto_tune_scvi_model(
    exp_key: str,
    gene_dataset: GeneExpressionDataset | None = None,
    delayed_populating: bool = False,
    custom_objective_hyperopt: Callable[..., Any] | None = None,
    objective_kwargs: Mapping[str, Any] | None = None,
    model_class: type[nn.Module] = VAE,
    trainer_class: type[Trainer] = UnsupervisedTrainer,
    metric_name: str | None = None,
    metric_kwargs: Mapping[str, Any] | None = None,
    posterior_name: str = "test_set",
    model_specific_kwargs: Mapping[str, Any] | None = None,
    trainer_specific_kwargs: Mapping[str, Any] | None = None,
    train_func_specific_kwargs: Mapping[str, Any] | None = None,
    space: Mapping[str, Any] | None = None,
    max_evals: int = 100,
    train_best: bool = True,
    pickle_result: bool = True,
    save_path: str | os.PathLike[str] = ".",
    use_batches: bool = False,
    parallel: bool = True,
    n_cpu_workers: int | None = None,
    gpu_ids: list[int] | None = None,
    n_workers_per_gpu: int = 1,
    reserve_timeout: float = 180.0,
    fmin_timeout: float = 300.0,
    fmin_timer: float | None = None,
    mongo_port: str = "1234",
    mongo_host: str = "localhost",
    db_name: str = "scvi_db",
    multiple_hosts: bool = False,
    *,
    storage: str | os.PathLike[str] | None = None,
    seed: int | None = None,
) -> Any:
    """Searches for the hyper-parameters of a model of 2020, and trains it with the best.

    Parameters
    ----------
    exp_key
        Name of the search. The same name goes on with the trials that are there.
    gene_dataset
        The data.
    delayed_populating
        `gene_dataset` is populated by each worker.
    custom_objective_hyperopt, objective_kwargs
        A function of the space (values to try) and, by name, of `is_best_training` and these arguments. It returns the
        loss, or a dictionary with it as "loss"; with ``is_best_training=True`` what `train_best` is to give.
    model_class, trainer_class
        Of the model and its trainer.
    metric_name, metric_kwargs, posterior_name
        A metric of the posterior, by default "marginal_ll" with 100 draws, on the posterior that the trainer has under
        this name. A metric of which high values are good, such as "entropy_batch_mixing", counts negative as loss.
    model_specific_kwargs, trainer_specific_kwargs, train_func_specific_kwargs
        Arguments that are held fixed, and win over the space.
    space
        Dictionary with "model_tunable_kwargs", "trainer_tunable_kwargs" and "train_func_tunable_kwargs", each of
        arguments with optuna distributions, lists of choices, ranges (low, high) or (low, high, "log"), or single
        values; None: latent dimensions, layers, units, dropout, likelihood and learning rate.
    max_evals
        Trials of the search, those that are there included.
    train_best
        Train a model with the best values on all cells.
    pickle_result
        Write ``trials_<exp_key>.json``, ``best_model_<exp_key>.safetensors`` (the state dict of the best model) and
        ``best_trainer_<exp_key>.json`` (its arguments and history) into `save_path`. Nothing is pickled.
    save_path
        Folder of these files, of the log and of the study.
    use_batches
        Give the model the number of batches.
    parallel
        Work with several processes.
    n_cpu_workers, gpu_ids, n_workers_per_gpu
        Processes without a GPU (None: one less than there are cores if there is no GPU, else none), the GPUs (None:
        all) and processes for each.
    reserve_timeout, fmin_timeout
        Of MongoDB's workers; without a meaning here.
    fmin_timer
        Seconds after which the search ends with the trials that there are.
    mongo_port, mongo_host, db_name
        Refused: a search is kept in `storage`.
    multiple_hosts
        Other machines work on the search, too, by the same call: needs a `storage` that they reach.
    storage
        File of SQLite or URL of a database; None: ``autotune.db`` in `save_path`.
    seed
        Of what is suggested; the fits draw as `scvi.set_seed` says.

    Returns
    -------
    (trainer, trials), or trials
        The trainer of the best model where `train_best`, and :class:`Trials`.

    Raises
    ------
    ValueError
        If an argument cannot be, before anything is trained.
    ImportError
        Without the extra `[tune]`.
    """
    given = {"mongo_port": mongo_port, "mongo_host": mongo_host, "db_name": db_name}
    _refuse_mongo(given, multiple_hosts, storage)
    _check(gene_dataset, delayed_populating, custom_objective_hyperopt, objective_kwargs)
    check_integer("max_evals", max_evals, 1)
    if fmin_timer is not None:
        check_number("fmin_timer", fmin_timer, "a positive number of seconds", above=0)
        if train_best:
            warn("fmin_timer ends the search early: with train_best=True the best model so far is trained")
    searched, fixed = distributions(_flat(_SPACE if space is None else space))
    objective = _Objective(
        gene_dataset,
        delayed_populating,
        custom_objective_hyperopt,
        dict(objective_kwargs or {}),
        model_class,
        trainer_class,
        metric_name or "marginal_ll",
        dict(({"n_mc_samples": 100} if metric_name is None else {}) if metric_kwargs is None else metric_kwargs),
        posterior_name,
        {
            _MODEL: dict(model_specific_kwargs or {}),
            _TRAINER: dict(trainer_specific_kwargs or {}),
            _TRAIN: dict(train_func_specific_kwargs or {}),
        },
        fixed,
        use_batches,
    )
    staff = _staff(parallel, n_cpu_workers, gpu_ids, n_workers_per_gpu, multiple_hosts, fmin_timer)
    if staff.workers > 1:
        import_by_workers("custom_objective_hyperopt", custom_objective_hyperopt)
    folder = Path(save_path)
    folder.mkdir(parents=True, exist_ok=True)
    url = url_of(folder / "autotune.db" if storage is None else storage)
    with _log_file(folder / _LOG_FILE):
        job = Job(url, exp_key, max_evals, "minimize", searched, "none")
        job = agreed(job, objective.terms(searched), None if seed is None else resolve_seed(seed), {})
        finished = run(job, objective, staff)
        trials = Trials(open_study(job)[0], list(searched))
        trainer = None
        if train_best and trials.best_trial is not None and (finished or fmin_timer is not None):
            trainer = objective.train_best(trials.best_trial["result"]["space"])
        if pickle_result:
            _write(folder, exp_key, trials, trainer)
    return (trainer, trials) if train_best else trials


def _refuse_mongo(given: Mapping[str, Any], multiple_hosts: bool, storage: Any) -> None:
    for name, value in given.items():
        if value != _OF_MONGO[name]:
            raise ValueError(
                f"{name}={value!r}: a search is not kept in MongoDB any more; pass storage, a file of SQLite or the "
                "URL of a database, such as postgresql://user:password@host/database"
            )
    if multiple_hosts and storage is None:
        raise ValueError(
            "multiple_hosts=True needs a storage that all hosts reach, such as postgresql://user@host/database"
        )


def _check(gene_dataset: Any, delayed: bool, custom: Any, objective_kwargs: Any) -> None:
    if delayed and not isinstance(gene_dataset, DownloadableDataset):
        raise ValueError(
            f"delayed_populating needs a data set that populates itself from files, a DownloadableDataset, not a "
            f"{type(gene_dataset).__name__}"
        )
    if custom is None:
        if not isinstance(gene_dataset, GeneExpressionDataset):
            raise ValueError(f"gene_dataset is a {type(gene_dataset).__name__}; it must be a GeneExpressionDataset")
        return
    if objective_kwargs is None:
        raise ValueError("a custom objective needs objective_kwargs, a dictionary, if need be an empty one")
    parameters = list(inspect.signature(custom).parameters.values())
    by_name = {p.name for p in parameters[1:]}
    if not parameters or not ("is_best_training" in by_name or any(p.kind is p.VAR_KEYWORD for p in parameters)):
        raise ValueError("a custom objective takes the space first, and is_best_training by name")


def _flat(space: Mapping[str, Any]) -> dict[str, Any]:
    """The space by names such as "model_tunable_kwargs.n_latent"."""
    flat: dict[str, Any] = {}
    for name, values in space.items():
        if isinstance(values, Mapping):
            flat |= {f"{name}.{inner}": value for inner, value in _flat(values).items()}
        elif type(values).__module__.partition(".")[0] == "hyperopt":
            raise ValueError(
                f"space[{name!r}] is an expression of hyperopt: give a list of choices, a range (low, high) or "
                "(low, high, 'log'), or a distribution of optuna"
            )
        else:
            flat[name] = values
    return flat


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The same as the dictionaries that it was given as."""
    space: dict[str, Any] = {}
    for name, value in flat.items():
        *outer, last = name.split(".")
        inner = space
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return space


def _staff(
    parallel: bool,
    n_cpu_workers: int | None,
    gpu_ids: list[int] | None,
    n_workers_per_gpu: int,
    multiple_hosts: bool,
    seconds: float | None,
) -> Staff:
    """Who works: processes with a GPU, then those without."""
    if not parallel:
        return Staff(1, None, seconds)
    gpus = list(range(torch.cuda.device_count())) if gpu_ids is None else list(gpu_ids)
    if n_cpu_workers is None:
        n_cpu_workers = 0 if gpus or gpu_ids is not None else max(1, (multiprocessing.cpu_count() or 1) - 1)
    check_integer("n_cpu_workers", n_cpu_workers, 0)
    check_integer("n_workers_per_gpu", n_workers_per_gpu, 1)
    seen = [str(gpu) for gpu in gpus for _ in range(n_workers_per_gpu)] + [""] * n_cpu_workers
    if not seen and not multiple_hosts:
        raise ValueError("there is nobody to work: n_cpu_workers=0 and no gpu_ids")
    return Staff(max(1, len(seen)), seen if gpus else None, seconds)


@dataclass(frozen=True)
class _Objective:
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
        began, space = time.perf_counter(), _nested({**self.fixed, **trial.params})
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
        trial.notes["result"] = json.loads(json.dumps(result, default=_plain))
        return float(result["loss"])

    def terms(self, searched: Mapping[str, Any]) -> dict[str, Any]:
        """What all who work on a search must agree on."""
        custom = None if self.custom is None else getattr(self.custom, "__qualname__", type(self.custom).__name__)
        spoken = {name: repr(values) for name, values in {**searched, **self.fixed}.items()}
        return {"model": self.model_class.__name__, "metric": custom or self.metric, "space": spoken}

    def train_best(self, space: dict[str, Any]) -> Any:
        """The trainer of a model that was trained on all cells with these values; or what a custom objective gives."""
        if self.custom is not None:
            return self.custom(space, is_best_training=True, **self.custom_kwargs)
        arguments = self._arguments(space)
        arguments[_TRAIN]["n_epochs"] = space.get(_TRAIN, {}).get("n_epochs", arguments[_TRAIN]["n_epochs"])
        for name in ("early_stopping_kwargs", "frequency"):
            arguments[_TRAINER].pop(name, None)
        trainer = self._trainer(arguments, {"train_size": 1.0})
        trainer.train(**arguments[_TRAIN])
        return trainer

    def _fitted(self, space: dict[str, Any]) -> dict[str, Any]:
        """The result of a trial."""
        arguments = self._arguments(space)
        trainer_kwargs = arguments[_TRAINER]
        trainer_kwargs.setdefault("early_stopping_kwargs", _EARLY_STOPPING)
        monitored = list(trainer_kwargs.get("metrics_to_monitor") or [])
        trainer_kwargs["metrics_to_monitor"] = [*monitored, *(["elbo"] if "elbo" not in monitored else [])]
        trainer = self._trainer(arguments, {"frequency": 1})
        posterior = getattr(trainer, self.posterior)
        ask = getattr(posterior, self.metric, None)
        if not callable(ask):
            raise ValueError(f"metric_name={self.metric!r} is no method of {type(posterior).__name__}")
        trainer.train(**arguments[_TRAIN])
        if trainer.interrupted:
            raise KeyboardInterrupt
        keeps_best = trainer.early_stopping.save_best_state_metric is not None and trainer.best_epoch is not None
        if keeps_best:  # its weights are those that the trainer has gone back to
            arguments[_TRAIN]["n_epochs"] = trainer.best_epoch + 1
        value = float(getattr(getattr(trainer, self.posterior), self.metric)(**self.metric_kwargs))
        loss = -value if getattr(ask, "mode", "min") == "max" else value
        tried = {**space, _TRAIN: {**space.get(_TRAIN, {}), "n_epochs": arguments[_TRAIN]["n_epochs"]}}
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
        groups = (_MODEL, _TRAINER, _TRAIN)
        arguments = {group: {**space.get(group, {}), **self.specific[group]} for group in groups}
        arguments[_TRAIN].setdefault("n_epochs", _N_EPOCHS)
        return deepcopy(arguments)

    def _trainer(self, arguments: Mapping[str, dict[str, Any]], usual: Mapping[str, Any]) -> Any:
        data = self.gene_dataset
        if self.delayed and data not in _POPULATED:
            data.populate()
            _POPULATED.add(data)
        model = self.model_class(data.nb_genes, n_batch=data.n_batches * self.use_batches, **arguments[_MODEL])
        quiet = {"use_cuda": torch.cuda.is_available(), "show_progbar": False}
        return self.trainer_class(model, data, **{**quiet, **usual, **arguments[_TRAINER]})


def _plain(value: Any) -> Any:
    """A value of numpy or torch in a type of JSON."""
    return value.tolist() if hasattr(value, "tolist") else repr(value)


def _write(folder: Path, key: str, trials: Trials, trainer: Any) -> None:
    """Writes what `pickle_result` says, without pickles."""
    from safetensors.torch import save_file

    with replacing(folder / f"trials_{key}.json") as temporary:
        temporary.write_text(json.dumps(trials.trials, indent=1) + "\n", encoding="utf-8")
    model = getattr(trainer, "model", None)
    if not isinstance(model, nn.Module):
        return
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    with replacing(folder / f"best_model_{key}.safetensors") as temporary:
        save_file(weights, temporary)
    history = {name: [_plain(v) for v in values] for name, values in getattr(trainer, "history", {}).items()}
    said = {"space": trials.best_trial and trials.best_trial["result"]["space"], "history": history}
    with replacing(folder / f"best_trainer_{key}.json") as temporary:
        temporary.write_text(json.dumps(said, indent=1, default=_plain) + "\n", encoding="utf-8")


@contextmanager
def _log_file(file: Path) -> Iterator[None]:
    """Within, messages of the search go into a file, from the level of debugging on."""
    handler = RotatingFileHandler(file, maxBytes=_LOG_SIZE, backupCount=3, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(processName)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger(name) for name in ("scvi.tune", __name__)]
    levels = [log.level for log in loggers]
    for log in loggers:
        log.addHandler(handler)
        log.setLevel(logging.DEBUG)  # handlers of others have levels of their own
    try:
        yield
    finally:
        for log, level in zip(loggers, levels, strict=True):
            log.removeHandler(handler)
            log.setLevel(level)
        handler.close()

"""The search for the best arguments of an estimator and of its `train`."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

import scvi
from scvi._checks import check_choice, check_flag, check_integer, check_number
from scvi._job import n_processes
from scvi._random import resolve_seed
from scvi.cells.on_disk import is_on_disk
from scvi.cells.uns import registered
from scvi.estimators import GIMVI
from scvi.estimators.base import Estimator
from scvi.tune import record
from scvi.tune.arguments import Arguments, checked_arguments
from scvi.tune.metrics import Metric, Mode, check_answers, metric_of
from scvi.tune.packages import optuna
from scvi.tune.processes import Staff, import_by_workers, run
from scvi.tune.record import Search
from scvi.tune.spaces import default_space
from scvi.tune.storage import shown, url_of
from scvi.tune.studies import agreed, best_of
from scvi.tune.worker import PRUNERS, Job, Pruned, Running, open_study

_VALIDATION_SHARE = 0.1  # of the cells that are not scored


def search(
    model_class: type[Estimator],
    adata: AnnData,
    *,
    space: Mapping[str, Any] | None = None,
    metric: str | Mapping[str, float] | Callable[[Any, np.ndarray], float] = "elbo",
    mode: Mode | None = None,
    n_trials: int = 30,
    pruner: str = "median",
    test_size: float = 0.1,
    workers: int = 1,
    storage: str | os.PathLike[str] | None = None,
    study_name: str | None = None,
    output: str | os.PathLike[str] = "scvi-tune",
    refit: bool = True,
    seed: int | None = None,
) -> Search:
    """Searches for the arguments with which a model fits these cells best, and fits it with them.

    >>> scvi.SCVI.setup_anndata(adata, batch_key="batch")
    >>> found = scvi.tune.search(scvi.SCVI, adata, metric="marginal_ll", n_trials=30)
    >>> found.best_model_args, found.best_train_args, found.trials
    >>> found.model.get_latent_representation()

    Each trial fits a model to most of the cells, follows its validation curve, which ends a hopeless trial early, and
    scores it on a share of the cells that no trial fits or validates on. The first trial has the defaults of the
    model, where the space has them. The study is kept in `storage`: the same call goes on with it after Ctrl-C or a
    crash, and others may work on it at the same time, on any machine, with the same call.

    Parameters
    ----------
    model_class
        An estimator of one AnnData, such as ``scvi.SCVI``.
    adata
        Raw counts, declared with its `setup_anndata`.
    space
        What to search: arguments of the constructor and of `train`, by name. A list has choices; ``(low, high)`` is a
        range of integers or of numbers, ``(low, high, "log")`` one of their logarithm; an optuna distribution is one;
        any other value is held fixed. None: that of :func:`default_space`.
    metric
        'elbo', 'marginal_ll' (nats a cell), 'imputation' (error of hidden counts), 'batch_mixing', 'accuracy' or
        'calibration' (of annotation); a dict of weights of these, summed with what is good if low counted negative;
        or a function of a model and positions of cells.
    mode
        Whether low ('min') or high values ('max') of a function are good.
    n_trials
        Trials of the study, whoever runs them. A trial whose worker dies is run again.
    pruner
        'median' or 'hyperband', by which trials are ended early, or 'none'.
    test_size
        Share of the cells on which trials are scored.
    workers
        Processes on this machine, which share its cores.
    storage
        None: a file of SQLite in `output`; or a path of one, or the URL of a database, such as
        ``postgresql://user:password@host/database`` where several machines work.
    study_name
        None: a name made of model, metric and cells.
    output
        Folder for ``trials.csv``, ``best.json``, ``model`` and a study without `storage`.
    refit
        Fit a model with the best arguments to all cells and save it; False where a worker only helps.
    seed
        Of the cells that are scored, of each fit and of what is suggested.

    Returns
    -------
    Search
        Best arguments, table of trials, model.

    Raises
    ------
    ValueError
        If an argument cannot be, before anything is fitted, or if the study has others.
    ImportError
        Without the extra `[tune]`.
    ConnectionError
        If the database cannot be used.
    RuntimeError
        If the first trials all fail.
    """
    optuna()
    judged = metric_of(metric, mode)
    _check(model_class, adata, judged, pruner)
    check_integer("n_trials", n_trials, 1)
    check_integer("workers", workers, 1)
    check_flag("refit", refit)
    if workers > 1:
        _check_sending(model_class, adata, metric)
    test_size = check_number("test_size", test_size, "a share of the cells, a number between 0 and 1")
    if not 0 < test_size < 1:
        raise ValueError(f"test_size={test_size!r} is not a share of the cells, a number between 0 and 1")
    arguments = checked_arguments(model_class, adata, default_space(model_class) if space is None else space)
    cells = _digest(model_class, adata)
    terms = {
        "model": model_class.__name__,
        "metric": judged.name,
        "space": arguments.to_json(),
        "test_size": test_size,
        "pruner": pruner,
        "cells": cells,
    }
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(
        url_of(folder / "study.db" if storage is None else storage),
        study_name or f"{model_class.__name__} {judged.name} {cells[:8]}",
        n_trials,
        "minimize" if judged.mode == "min" else "maximize",
        arguments.searched,
        pruner,
    )
    job = agreed(job, terms, None if seed is None else resolve_seed(seed), arguments.first_trial())
    task = Task(model_class, adata, judged, arguments, test_size, job.seed)
    finished = run(job, task, Staff(workers))
    return _found(job, task, folder, refit, finished)


@dataclass(frozen=True)
class Task:
    """What each trial does: it fits a model to some cells and scores it on others."""

    model_class: type[Estimator]
    adata: AnnData = field(repr=False)
    metric: Metric
    arguments: Arguments
    test_size: float
    seed: int

    def __call__(self, trial: Running) -> float:
        train, validation, scored = self.split()
        model = self.fit(
            trial.params,
            datasplitter_kwargs={"external_indexing": [train, validation, scored]},
            callbacks=[Curve(trial)],
        )
        if trial.was_pruned:
            raise Pruned
        return self.metric.score(model, scored, self.seed)

    def split(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions of the cells that are fitted, those of the curve, and those that are scored."""
        order = np.random.default_rng(self.seed).permutation(self.adata.n_obs)
        n_scored = max(1, round(self.test_size * len(order)))
        n_validation = max(1, round(_VALIDATION_SHARE * (len(order) - n_scored)))
        scored, validation, train = np.split(order, [n_scored, n_scored + n_validation])
        return np.sort(train), np.sort(validation), np.sort(scored)

    def fit(self, params: Mapping[str, Any], **others: Any) -> Estimator:
        """A model fitted with these values; KeyboardInterrupt if the fit was ended with Ctrl-C."""
        for_model, for_train = self.arguments.parted(params)
        model: Any = self.model_class(self.adata, **for_model, seed=self.seed)  # type: ignore[call-arg]
        model.train(**for_train, **others, seed=self.seed, enable_progress_bar=False)
        if model.was_interrupted:
            raise KeyboardInterrupt
        return model


class Curve:
    """A callback of `train` that shows the pruner the losses of the validation cells."""

    def __init__(self, trial: Running) -> None:
        self.trial = trial

    def on_epoch_end(self, training: Any, same: Any) -> None:
        loss = training.callback_metrics.get("elbo_validation")
        share = (training.current_epoch + 1) / training.max_epochs
        if loss is not None and not self.trial.goes_on(share, loss):
            training.should_stop = True


def _check(model_class: Any, adata: Any, metric: Metric, pruner: str) -> None:
    if not (inspect.isclass(model_class) and issubclass(model_class, Estimator)) or issubclass(model_class, GIMVI):
        raise ValueError(f"model_class={model_class!r} is not an estimator of one AnnData, such as scvi.SCVI")
    check_choice("pruner", pruner, PRUNERS)
    check_answers(metric, model_class, registered(adata, model_class.__name__).schema)
    if n_processes() > 1:
        raise ValueError(
            "a search is not for the processes of torchrun, which fit one model together: start it without, with "
            "workers=..., or several times with one storage"
        )


def _check_sending(model_class: type[Estimator], adata: Any, metric: Any) -> None:
    """Refuses what cannot be sent to other processes."""
    if callable(metric):
        import_by_workers("metric", metric)
    schema = registered(adata, model_class.__name__).schema
    if isinstance(adata, AnnData) and is_on_disk(adata.layers[schema.layer] if schema.layer else adata.X):
        raise ValueError(
            "workers get the cells from this process, but the counts are in a file that is open: pass workers=1, and "
            "start each worker by a call of its own"
        )


def _digest(model_class: type[Estimator], adata: AnnData) -> str:
    """Tells these cells, as they were set up, from others."""
    setup = registered(adata, model_class.__name__)
    text = hashlib.sha256(repr(sorted(setup.fingerprint.items())).encode())
    text.update(np.ascontiguousarray(setup.digests).tobytes())
    return text.hexdigest()[:16]


def _found(job: Job, task: Task, folder: Path, refit: bool, finished: bool) -> Search:
    """The record of a study, written down."""
    study, _ = open_study(job)
    trials = study.get_trials(deepcopy=False)
    best = best_of(study, trials)
    frame = record.table(trials, list(job.space))
    record.write_table(folder, frame)
    for_model, for_train = ({}, {}) if best is None else task.arguments.parted(best.params)
    model = None
    if best is not None and finished and refit:
        model, finished = _refitted(job, task, folder, best)
    return Search(
        job.name,
        shown(job.url),
        task.metric.name,
        job.direction,
        None if best is None else best.number,
        None if best is None else best.value,
        for_model,
        for_train,
        frame,
        folder,
        model,
        not finished,
        study,
    )


def _refitted(job: Job, task: Task, folder: Path, best: Any) -> tuple[Any, bool]:
    """The model with the best values, that of the folder if it is this one; and whether Ctrl-C was not pressed."""
    known = {
        "study": job.name,
        "trial": best.number,
        "metric": task.metric.name,
        "value": best.value,
        "model": task.model_class.__name__,
        "seed": job.seed,
        "cells": _digest(task.model_class, task.adata),
        "scvi": scvi.__version__,
    }
    for_model, for_train = task.arguments.parted(best.params)
    known |= {"model_args": for_model, "train_args": for_train}
    known = json.loads(json.dumps(known, default=record.plain))
    if record.read_best(folder) == known and (folder / "model").exists():
        return task.model_class.load(folder / "model", task.adata), True
    try:
        model = task.fit(best.params)
    except KeyboardInterrupt:
        return None, False
    (folder / "best.json").unlink(missing_ok=True)  # it is of the model that was there
    model.save(folder / "model", overwrite=True)
    record.write_best(folder, known)
    return model, True

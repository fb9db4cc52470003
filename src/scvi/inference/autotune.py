"""The search for hyper-parameters under its name of 2020, on optuna in place of hyperopt and MongoDB."""

from __future__ import annotations

import inspect
import json
import logging
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from logging.handlers import QueueHandler, RotatingFileHandler
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from scvi._checks import check_integer, check_number
from scvi._files import replacing
from scvi._random import resolve_seed
from scvi._warnings import warn
from scvi.dataset.dataset import DownloadableDataset, GeneExpressionDataset
from scvi.inference.autotune_trials import MODEL, TRAIN, TRAINER, Objective
from scvi.inference.inference import UnsupervisedTrainer
from scvi.inference.trainer import Trainer
from scvi.models import VAE
from scvi.tune.processes import Staff, import_by_workers, run, send_messages, visible_gpus
from scvi.tune.record import plain, table
from scvi.tune.spaces import distributions
from scvi.tune.storage import url_of
from scvi.tune.studies import agreed, best_of
from scvi.tune.worker import Job, open_study

__all__ = ["Trials", "auto_tune_scvi_model", "configure_asynchronous_logging"]

logger = logging.getLogger(__name__)

_SPACE: dict[str, Any] = {
    MODEL: {
        "n_latent": (5, 15),
        "n_hidden": [64, 128, 256],
        "n_layers": (1, 5),
        "dropout_rate": [0.1, 0.3, 0.5, 0.7],
        "reconstruction_loss": ["zinb", "nb"],
    },
    TRAIN: {"lr": [0.01, 0.005, 0.001, 0.0005, 0.0001]},
}
_OF_MONGO = {"mongo_port": "1234", "mongo_host": "localhost", "db_name": "scvi_db"}
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
        Name of the search. The same name goes on with the trials that are there; it is refused for another one.
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
        Processes without a GPU (None: one less than there are cores if there is no GPU, else none), the GPUs, numbers
        among those that this process sees (None: all), and processes for each.
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
    objective = Objective(
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
            MODEL: dict(model_specific_kwargs or {}),
            TRAINER: dict(trainer_specific_kwargs or {}),
            TRAIN: dict(train_func_specific_kwargs or {}),
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
    there = visible_gpus()
    gpus = list(range(len(there))) if gpu_ids is None else list(gpu_ids)
    for gpu in gpus:
        check_integer("gpu_ids", gpu, 0, len(there) - 1, f"the number of one of the {len(there)} GPUs that are seen")
    if n_cpu_workers is None:
        n_cpu_workers = 0 if gpus or gpu_ids is not None else max(1, (multiprocessing.cpu_count() or 1) - 1)
    check_integer("n_cpu_workers", n_cpu_workers, 0)
    check_integer("n_workers_per_gpu", n_workers_per_gpu, 1)
    seen = [there[gpu] for gpu in gpus for _ in range(n_workers_per_gpu)] + [""] * n_cpu_workers
    if not seen and not multiple_hosts:
        raise ValueError("there is nobody to work: n_cpu_workers=0 and no gpu_ids")
    return Staff(max(1, len(seen)), seen if there else None, seconds)


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
    history = {name: [plain(v) for v in values] for name, values in getattr(trainer, "history", {}).items()}
    said = {"space": trials.best_trial and trials.best_trial["result"]["space"], "history": history}
    with replacing(folder / f"best_trainer_{key}.json") as temporary:
        temporary.write_text(json.dumps(said, indent=1, default=plain) + "\n", encoding="utf-8")


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

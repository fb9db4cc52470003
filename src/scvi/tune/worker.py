"""One worker of a study: it takes trials, runs them and writes down what came of them, until there are no more."""

from __future__ import annotations

import logging
import math
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from scvi._settings import settings
from scvi.tune.claims import ERROR, INTERRUPTED, Queue
from scvi.tune.packages import optuna, quiet
from scvi.tune.spaces import suggest
from scvi.tune.storage import Pace, open_storage

logger = logging.getLogger(__name__)

Direction = Literal["minimize", "maximize"]
PRUNERS = ("median", "hyperband", "none")

_WHOLE = 100  # steps of a fit, as pruners count them
_QUIET_SHARE = 30  # of them, in which no trial is judged: the learning rate has hardly risen
_FIRST_FAILURES = 5  # trials that fail before one has not: the search is given up


@dataclass(frozen=True)
class Job:
    """A study, as each worker has to know it.

    Attributes
    ----------
    url, name
        Where it is kept, and its name there.
    n_trials
        How many trials it is to have.
    direction
        Whether low or high values are good.
    space
        Distributions of what is searched.
    pruner
        'median', 'hyperband' or 'none'.
    seed
        Of what is suggested; each trial has its own, made of this one and its number, so that it does not matter who
        runs it.
    """

    url: str = field(repr=False)  # it may have a password
    name: str
    n_trials: int
    direction: Direction
    space: Mapping[str, Any]
    pruner: str = "median"
    seed: int = 0
    pace: Pace = field(default_factory=Pace)


class Running:
    """A trial while it runs.

    Attributes
    ----------
    number, params
        Its number, and the values to try.
    notes
        What the objective wants to be kept with the result, in types of JSON.
    was_pruned, was_stopped
        Whether the pruner has seen enough of it, and whether it was ended because its worker is to stop.
    """

    def __init__(self, trial: Any, params: dict[str, Any], direction: Direction, stop: Callable[[], bool]) -> None:
        self._trial, self._direction, self._stop = trial, direction, stop
        self.number, self.params = trial.number, params
        self.notes: dict[str, Any] = {}
        self.was_pruned = self.was_stopped = False
        self._reported = -1

    def goes_on(self, share: float, loss: float) -> bool:
        """Tells the loss on validation cells after a share of the fit, from 0 to 1; False to end the fit here."""
        step = min(_WHOLE, math.floor(share * _WHOLE))
        if step > self._reported and math.isfinite(loss):
            self._reported = step
            self._trial.report(loss if self._direction == "minimize" else -loss, step)
            self.was_pruned = step < _WHOLE and self._trial.should_prune()
        self.was_stopped = self._stop()
        return not (self.was_pruned or self.was_stopped)


class Pruned(Exception):
    """Raised by an objective whose trial was pruned."""


Objective = Callable[[Running], float]


def open_study(job: Job) -> tuple[Any, Any]:
    """The study, which is there, and its storage."""
    storage = open_storage(job.url, job.pace)
    with quiet():
        study = optuna().load_study(study_name=job.name, storage=storage, pruner=_pruner(job.pruner))
    return study, storage


def _pruner(name: str) -> Any:
    pruners = optuna().pruners
    if name == "median":
        return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=_QUIET_SHARE)
    if name == "hyperband":
        return pruners.HyperbandPruner(min_resource=_QUIET_SHARE, max_resource=_WHOLE, reduction_factor=2)
    return pruners.NopPruner()


def work(
    job: Job,
    objective: Objective,
    stop: Callable[[], bool] = lambda: False,
    workers: int = 1,
    cores: int | None = None,
    after: Callable[[], None] = lambda: None,
) -> bool:
    """Runs trials until the study is complete, or until `stop` says so: then the answer is False.

    Parameters
    ----------
    workers
        How many there are on this machine at least; more are counted when they run trials.
    cores
        How many cores they share; None: as many as torch uses now.
    after
        Called after each trial.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C; the trial will be run again.
    RuntimeError
        If the first trials all failed.
    """
    study, storage = open_study(job)
    queue, before = Queue(study, storage, job.pace, job.n_trials), settings.num_threads
    try:
        while not stop():
            taken = queue.take()
            if taken is not None:
                _run(job, queue, taken, objective, stop, (workers, cores or before))
                _refuse_if_all_fail(queue)
                after()
            elif queue.is_complete():
                return True
            else:
                time.sleep(job.pace.poll)
        return False
    finally:
        settings.num_threads = before


def _run(
    job: Job, queue: Queue, taken: Any, objective: Objective, stop: Callable[[], bool], shared: tuple[int, int]
) -> None:
    """Runs a trial that was taken, and tells how it went."""
    began, states = time.perf_counter(), optuna().trial.TrialState
    with _signs_of_life(queue.storage, taken._trial_id, job.pace), _unless_lost(taken.number):
        number = queue.origin(taken, queue.trials())
        queue.study.sampler = optuna().samplers.TPESampler(seed=(job.seed + 7919 * number) % 2**32)
        trial = optuna().trial.Trial(queue.study, taken._trial_id)
        trial.set_user_attr("host", platform.node())
        trial.set_user_attr("process", os.getpid())
        settings.num_threads = _share(queue, *shared)
        running = Running(trial, suggest(trial, job.space), job.direction, stop)
        try:
            value = objective(running)
            if running.was_stopped:
                raise KeyboardInterrupt
            if not math.isfinite(value):
                raise ValueError(f"the metric is {value}")
        except Pruned:
            _finish(queue, running, states.PRUNED, began)
        except KeyboardInterrupt:
            trial.set_user_attr(INTERRUPTED, True)
            queue.storage.set_trial_state_values(taken._trial_id, states.FAIL)
            if not running.was_stopped:
                raise
        except optuna().exceptions.UpdateFinishedTrialError:
            raise
        except Exception as error:
            trial.set_user_attr(ERROR, f"{type(error).__name__}: {error}")
            _finish(queue, running, states.FAIL, began)
            logger.warning("Trial %d failed: %s: %s", taken.number, type(error).__name__, error)
        else:
            _finish(queue, running, states.COMPLETE, began, float(value))


def _finish(queue: Queue, running: Running, state: Any, began: float, value: float | None = None) -> None:
    trial, storage = running._trial, queue.storage
    for name, note in running.notes.items():
        trial.set_user_attr(name, note)
    trial.set_user_attr("seconds", round(time.perf_counter() - began, 3))
    if running.was_pruned:
        value = storage.get_trial(trial._trial_id).intermediate_values[running._reported]
    values = None if value is None else [value]
    try:
        storage.set_trial_state_values(trial._trial_id, state, values)
    except optuna().exceptions.UpdateFinishedTrialError:
        now = storage.get_trial(trial._trial_id)
        if (now.state, now.values) != (state, values):  # else the answer to the first attempt was lost
            raise
    logger.info("Trial %d: %s%s", running.number, state.name.lower(), "" if value is None else f", {value:.6g}")


@contextmanager
def _signs_of_life(storage: Any, trial_id: int, pace: Pace) -> Iterator[None]:
    """Within, a thread says every few seconds that the worker of a trial is alive."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(pace.beat):
            try:
                storage.record_heartbeat(trial_id)
            except Exception as error:  # the trial goes on; if it is taken for dead, its result is not
                logger.warning("No sign of life of trial %d could be written: %s", trial_id, type(error).__name__)

    thread = threading.Thread(target=beat, name="scvi signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=pace.beat)


@contextmanager
def _unless_lost(number: int) -> Iterator[None]:
    """Leaves a trial that others took for dead while this worker did not get to say that it is alive."""
    try:
        yield
    except optuna().exceptions.UpdateFinishedTrialError:
        logger.warning("Trial %d was taken for dead and is run again elsewhere: what came of it here is left.", number)


def _share(queue: Queue, workers: int, cores: int) -> int:
    """Cores for each worker of this machine."""
    running = optuna().trial.TrialState.RUNNING
    here = sum(t.state == running and t.user_attrs.get("host") == platform.node() for t in queue.trials())
    return max(1, cores // max(workers, here))


def _refuse_if_all_fail(queue: Queue) -> None:
    states = optuna().trial.TrialState
    trials = queue.trials()
    if any(trial.state in (states.COMPLETE, states.PRUNED) for trial in trials):
        return
    errors = [trial.user_attrs[ERROR] for trial in trials if ERROR in trial.user_attrs]
    if len(errors) >= min(_FIRST_FAILURES, queue.n_trials):
        raise RuntimeError(
            f"the first {len(errors)} trials of {queue.study.study_name!r} failed, the last one by {errors[-1]}"
        )

"""Several workers on one machine, each a process of its own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from logging.handlers import QueueHandler, QueueListener
from typing import Any

from scvi._settings import settings
from scvi.tune.claims import Queue
from scvi.tune.progress import Progress
from scvi.tune.worker import Job, Objective, open_study, work

logger = logging.getLogger(__name__)

_LOOK = 0.5  # seconds between two looks at the processes


@dataclass(frozen=True)
class Staff:
    """Who works.

    Attributes
    ----------
    workers
        How many; one works in this process.
    gpus
        Of each worker, the GPUs that it sees, as ``CUDA_VISIBLE_DEVICES`` has them; None: where there are several,
        each worker sees one of them in turn.
    seconds
        After which all stop; None: when the study is complete.
    """

    workers: int = 1
    gpus: Sequence[str] | None = None
    seconds: float | None = None


def run(job: Job, objective: Objective, staff: Staff) -> bool:
    """Works on a study; False if it was stopped before it was complete, by Ctrl-C or because time was up.

    Raises
    ------
    RuntimeError
        If a worker ended by an error and left trials that no other has run.
    """
    with Progress(job) as progress:
        if staff.workers > 1 or staff.gpus is not None:
            return _side_by_side(job, objective, staff, progress)
        deadline = _deadline(staff)
        try:
            return work(job, objective, lambda: time.monotonic() > deadline, after=progress.update)
        except KeyboardInterrupt:
            return False


def _deadline(staff: Staff) -> float:
    return float("inf") if staff.seconds is None else time.monotonic() + staff.seconds


def _side_by_side(job: Job, objective: Objective, staff: Staff, progress: Progress) -> bool:
    context = multiprocessing.get_context("spawn")  # torch and numba have threads, which a fork would break
    stop, errors, messages = context.Event(), context.SimpleQueue(), context.Queue()
    arguments = (job, objective, staff, settings.num_threads, settings.seed, stop, errors, messages)
    processes = [
        context.Process(target=_worker, args=(i, *arguments), name=f"worker {i}") for i in range(staff.workers)
    ]
    listener, deadline = QueueListener(messages, _Here(logging.getLogger("scvi").getEffectiveLevel())), _deadline(staff)
    listener.start()
    try:
        for process in processes:
            process.start()
        while _alive(processes):
            progress.update()
            if time.monotonic() > deadline:
                stop.set()
    except KeyboardInterrupt:
        stop.set()
    except BaseException:
        stop.set()
        raise
    finally:
        for process in processes:
            if process.pid is not None:
                process.join()
        listener.stop()
    return _outcome(job, stop.is_set(), [] if errors.empty() else [errors.get()])


def _outcome(job: Job, stopped: bool, errors: list[str]) -> bool:
    """Whether the study is complete; refuses one that is not, though nobody stopped it."""
    study, storage = open_study(job)
    if Queue(study, storage, job.pace, job.n_trials).is_complete():
        return True
    if not stopped:
        why = f"the last one by an error: {errors[-1]}" if errors else "though it is not complete"
        raise RuntimeError(f"all workers of the study {job.name!r} have ended, {why}; the same call goes on with it")
    return False


def _alive(processes: list[Any]) -> bool:
    """Whether any process lives, after some time; says which died, and forgets those that ended."""
    processes[0].join(_LOOK)
    for process in [p for p in processes if not p.is_alive()]:
        processes.remove(process)
        if process.exitcode:
            rest = f"{len(processes)} go on" if processes else "no other is left"
            logger.warning("The process of %s ended with exit code %s: %s.", process.name, process.exitcode, rest)
    return bool(processes)


def _worker(
    number: int,
    job: Job,
    objective: Objective,
    staff: Staff,
    cores: int,
    seed: int | None,
    stop: Any,
    errors: Any,
    messages: Any,
) -> None:
    """What a process does."""
    _show_gpu(number, staff.gpus)
    send_messages(messages)
    settings.num_threads = max(1, cores // staff.workers)
    settings.seed = seed
    try:
        work(job, objective, stop.is_set, staff.workers, cores)
    except KeyboardInterrupt:
        return
    except Exception as error:
        errors.put(f"{type(error).__name__}: {error}")
        sys.exit(1)


def send_messages(logging_queue: Any) -> None:
    """Sends all messages of the package in this process through a queue to another, which shows them.

    Parameters
    ----------
    logging_queue
        Of `multiprocessing`; its other end is a ``logging.handlers.QueueListener``.
    """
    log = logging.getLogger("scvi")
    log.addHandler(QueueHandler(logging_queue))
    log.setLevel(logging.DEBUG)
    log.propagate = False


class _Here(logging.Handler):
    """Gives messages of other processes to the loggers of this one, from a level on."""

    def emit(self, record: logging.LogRecord) -> None:
        log = logging.getLogger(record.name)
        if log.isEnabledFor(record.levelno):
            log.handle(record)


def _show_gpu(number: int, gpus: Sequence[str] | None) -> None:
    """Lets this process see the GPU that is meant for it."""
    if gpus is None:
        import torch

        count = torch.cuda.device_count()
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = (seen.split(",") if seen else list(map(str, range(count)))) if count > 1 else ()
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]


def import_by_workers(name: str, value: Callable[..., Any] | None) -> None:
    """Refuses a function that other processes could not import.

    Raises
    ------
    ValueError
        For a lambda, and what is defined within a function or in a notebook.
    """
    if value is None:
        return
    place = getattr(value, "__qualname__", type(value).__qualname__)
    main = sys.modules["__main__"]
    at_prompt = getattr(value, "__module__", None) == "__main__" and not hasattr(main, "__file__")
    if "<" in place or at_prompt:
        raise ValueError(
            f"{name}={value!r} cannot be sent to other processes: define it in a module, or work with one process"
        )

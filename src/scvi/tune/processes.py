"""Several workers on one machine, each a process of its own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from logging.handlers import QueueHandler
from multiprocessing.connection import wait
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
        If all workers have ended, and the study is not complete.
    """
    deadline = float("inf") if staff.seconds is None else time.monotonic() + staff.seconds
    with Progress(job) as progress:
        if staff.workers > 1 or staff.gpus is not None:
            return _Crew(job, objective, replace(staff, gpus=staff.gpus or _several_gpus())).run(progress, deadline)
        try:
            return work(job, objective, lambda: time.monotonic() > deadline, after=progress.update)
        except KeyboardInterrupt:
            return False


def visible_gpus() -> list[str]:
    """The GPUs that this process sees, as ``CUDA_VISIBLE_DEVICES`` has them."""
    import torch

    count = torch.cuda.device_count()
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (seen.split(",") if seen else list(map(str, range(count))))[:count]


def _several_gpus() -> list[str]:
    there = visible_gpus()
    return there if len(there) > 1 else []


class _Crew:
    """Processes that work on a study.

    What they share can be neither locked nor broken by one that is killed: a flag, and a pipe of messages for each.
    """

    def __init__(self, job: Job, objective: Objective, staff: Staff) -> None:
        self.job, self.objective, self.staff, self.errors = job, objective, staff, list[str]()
        self._context = multiprocessing.get_context("spawn")  # torch and numba have threads, which a fork would break
        self._stop = self._context.RawValue("b", 0)
        self._processes: dict[Any, Any] = {}  # by the end of the pipe at which they are heard

    def run(self, progress: Progress, deadline: float) -> bool:
        """Waits for all; see :func:`run`."""
        try:
            self._start()
            while self._processes:
                try:
                    self._listen()
                    progress.update()
                except KeyboardInterrupt:
                    if self._stop.value:
                        raise
                    self._stop.value = 1
                if time.monotonic() > deadline:
                    self._stop.value = 1
        finally:
            for process in self._processes.values():  # of those there are some after a second Ctrl-C only, or an error
                process.terminate()
        return self._is_complete()

    def _start(self) -> None:
        """Starts the processes; each gets the cells, which takes a while where there are many. Ctrl-C is noted."""
        try:
            for i in range(self.staff.workers):
                self._start_one(i)
        except KeyboardInterrupt:
            self._stop.value = 1

    def _start_one(self, number: int) -> None:
        here, there = self._context.Pipe(duplex=False)
        arguments = (number, self.job, self.objective, self.staff, settings.num_threads, settings.seed)
        process = self._context.Process(target=_worker, args=(*arguments, self._stop, there), name=f"worker {number}")
        try:
            process.start()
        finally:
            there.close()  # the last one is that of the process: its end is heard
        self._processes[here] = process

    def _listen(self) -> None:
        """Shows what the processes say, and notices their ends."""
        ends: list[Any] = wait(list(self._processes), _LOOK)
        for end in ends:
            try:
                record = end.recv()
            except (EOFError, OSError):
                self._bury(self._processes.pop(end))
                continue
            if record.levelno >= logging.ERROR:
                self.errors.append(record.getMessage())
            log = logging.getLogger(record.name)
            if log.isEnabledFor(record.levelno):
                log.handle(record)

    def _bury(self, process: Any) -> None:
        process.join()
        if process.exitcode:
            rest = f"{len(self._processes)} go on" if self._processes else "no other is left"
            logger.warning("The process of %s ended with exit code %s: %s.", process.name, process.exitcode, rest)

    def _is_complete(self) -> bool:
        study, storage = open_study(self.job)
        if Queue(study, storage, self.job.pace, self.job.n_trials).is_complete():
            return True
        if not self._stop.value:
            why = f"one of them because of {self.errors[-1]}" if self.errors else "though it is not complete"
            raise RuntimeError(
                f"all workers of the study {self.job.name!r} have ended, {why}; the same call goes on with it"
            )
        return False


class _Sender(QueueHandler):
    """Sends messages through a pipe."""

    def enqueue(self, record: logging.LogRecord) -> None:
        self.queue.send(record)  # type: ignore[attr-defined]


def _worker(
    number: int, job: Job, objective: Objective, staff: Staff, cores: int, seed: int | None, stop: Any, there: Any
) -> None:
    """What a process does."""
    if staff.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = staff.gpus[number % len(staff.gpus)]
    send_messages(_Sender(there))
    settings.num_threads = max(1, cores // staff.workers)
    settings.seed = seed
    parent = multiprocessing.parent_process()
    assert parent is not None
    try:
        work(job, objective, lambda: bool(stop.value) or not parent.is_alive(), staff.workers, cores)
    except KeyboardInterrupt:
        return
    except Exception as error:
        logger.error("%s: %s", type(error).__name__, error)
        sys.exit(1)


def send_messages(handler: logging.Handler) -> None:
    """Leaves all messages of the package in this process to a handler."""
    log = logging.getLogger("scvi")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.propagate = False


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

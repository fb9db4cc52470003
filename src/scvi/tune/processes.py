"""Several workers on one machine, each a process of its own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from collections.abc import Callable
from typing import Any

from scvi._settings import set_verbosity, settings
from scvi.tune.worker import Job, Objective, work

logger = logging.getLogger(__name__)

_LOOK = 0.5  # seconds between two looks at the processes


def run(job: Job, objective: Objective, workers: int = 1, watch: Callable[[], None] = lambda: None) -> bool:
    """Works on a study with so many processes, one of which is this one if there are no more; False after Ctrl-C.

    Parameters
    ----------
    watch
        Called now and then.

    Raises
    ------
    RuntimeError
        If all workers have ended by errors.
    """
    if workers > 1:
        return _side_by_side(job, objective, workers, watch)
    try:
        work(job, objective)
    except KeyboardInterrupt:
        return False
    return True


def _side_by_side(job: Job, objective: Objective, workers: int, watch: Callable[[], None]) -> bool:
    context = multiprocessing.get_context("spawn")  # torch and numba have threads, which a fork would break
    stop, errors = context.Event(), context.SimpleQueue()
    arguments = (job, objective, workers, settings.num_threads, _level(), stop, errors)
    processes = [context.Process(target=_worker, args=(i, *arguments), name=f"scvi-{i}") for i in range(workers)]
    try:
        for process in processes:
            process.start()
        _wait(processes, watch)
    except KeyboardInterrupt:
        stop.set()
        for process in processes:
            process.join()
        return False
    except Exception:
        stop.set()
        raise
    said = []
    while not errors.empty():
        said.append(errors.get())
    if said:
        raise RuntimeError(f"{len(said)} of {workers} workers ended by an error: {said[0]}")
    return True


def _wait(processes: list[Any], watch: Callable[[], None]) -> None:
    """Until all have ended; says which died."""
    alive = list(processes)
    while alive:
        alive[0].join(_LOOK)
        watch()
        for process in [p for p in alive if not p.is_alive()]:
            alive.remove(process)
            if process.exitcode:
                others = f"{len(alive)} go on" if alive else "no other is left"
                logger.warning("Worker %s ended with exit code %s: %s.", process.name, process.exitcode, others)


def _worker(
    number: int, job: Job, objective: Objective, workers: int, cores: int, level: int, stop: Any, errors: Any
) -> None:
    """What a process does."""
    _take_one_gpu(number)
    if level:
        set_verbosity(level)
    settings.num_threads = max(1, cores // workers)
    try:
        work(job, objective, stop.is_set, workers, cores)
    except KeyboardInterrupt:
        return
    except Exception as error:
        errors.put(f"{type(error).__name__}: {error}")
        sys.exit(1)


def _take_one_gpu(number: int) -> None:
    """Lets a process see one of the GPUs, where there are several, each in turn."""
    import torch

    count = torch.cuda.device_count()
    if count > 1:
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = seen.split(",") if seen else list(map(str, range(count)))
        os.environ["CUDA_VISIBLE_DEVICES"] = names[number % len(names)]


def _level() -> int:
    """From which level on this process shows messages; 0 if it shows none."""
    log = logging.getLogger("scvi")
    return log.level if any(type(handler) is logging.StreamHandler for handler in log.handlers) else 0

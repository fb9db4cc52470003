"""Studies that workers make, find and agree on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from scvi._random import resolve_seed
from scvi.tune.packages import optuna, quiet
from scvi.tune.storage import open_storage
from scvi.tune.worker import Job

TERMS, SEED = "scvi", "scvi_seed"
_LONGEST_WAIT = 60.0  # seconds, for the worker that has made a study to say what it is about


def agreed(job: Job, terms: Mapping[str, Any], seed: int | None, first: Mapping[str, Any]) -> Job:
    """Makes the study, or finds the one that is there, with its seed.

    Parameters
    ----------
    terms
        What all workers must agree on, in types of JSON.
    seed
        None: that of the study, or a new one.
    first
        Values of the first trial, as far as they are given.

    Raises
    ------
    ValueError
        If the study that is there has other terms.
    """
    storage = open_storage(job.url, job.pace)
    with quiet():
        try:
            study = optuna().create_study(study_name=job.name, storage=storage, direction=job.direction)
        except optuna().exceptions.DuplicatedStudyError:
            study = optuna().load_study(study_name=job.name, storage=storage)
            stored = _terms_of(study, job)
        else:
            if first:
                study.enqueue_trial(dict(first))
            study.set_user_attr(SEED, resolve_seed(seed))
            study.set_user_attr(TERMS, dict(terms))
            stored = study.user_attrs
    if seed is not None and stored[SEED] != seed:
        raise ValueError(
            f"the study {job.name!r} has seed={stored[SEED]}, not {seed}: name another study by study_name"
        )
    for name, value in terms.items():
        begun = stored[TERMS].get(name)
        if begun != value:
            raise ValueError(
                f"the study {job.name!r} was begun with {name}={begun!r}, and this is {value!r}: name another study by "
                "study_name"
            )
    return replace(job, seed=stored[SEED])


def _terms_of(study: Any, job: Job) -> dict[str, Any]:
    """What the maker of a study said of it."""
    deadline = time.monotonic() + _LONGEST_WAIT
    while TERMS not in study.user_attrs:
        if time.monotonic() > deadline:
            raise ValueError(
                f"the study {job.name!r} is not one of scvi, or its maker died at once: name another by study_name"
            )
        time.sleep(job.pace.poll)
    return study.user_attrs


def best_of(study: Any, trials: Sequence[Any]) -> Any | None:
    """The best complete trial; None if there is none."""
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    if not complete:
        return None
    return (min if study.direction.name == "MINIMIZE" else max)(complete, key=lambda trial: trial.value)

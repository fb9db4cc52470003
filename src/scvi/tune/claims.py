"""Who runs which trial: a queue in the storage, from which each trial is taken once and none is lost.

A trial is put into the queue (state WAITING) before it is taken, and its worker gives a sign of life before it takes
it, so that there is no moment at which a trial is a worker's and nobody could find that this one has died. Trials have
numbers in the order in which they were queued: where several workers queue what one would have been enough for, the
lowest numbers count, and all workers come to the same answer. So every question to the storage may be asked twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any

from scvi.tune.packages import optuna
from scvi.tune.storage import Pace

logger = logging.getLogger(__name__)

RETRY_OF, ERROR, INTERRUPTED = "retry_of", "error", "interrupted"  # what is noted of a trial
_MOST_RETRIES = 3  # of a trial whose workers die


class Queue:
    """The trials of a study, as one worker sees them.

    Parameters
    ----------
    study, storage
        Of optuna; the storage as `open_storage` gives it.
    pace
        When a worker is taken for dead.
    n_trials
        How many trials the study is to have; those that are run again do not count.
    """

    def __init__(self, study: Any, storage: Any, pace: Pace, n_trials: int) -> None:
        self.study, self.storage, self.pace, self.n_trials = study, storage, pace, n_trials
        self._study_id = storage.get_study_id_from_name(study.study_name)
        self._states = optuna().trial.TrialState

    def trials(self) -> list[Any]:
        """All trials, in the order of their numbers."""
        return self.study.get_trials(deepcopy=False)

    def take(self) -> Any | None:
        """A trial that is now this worker's; None if there is none to be had at this moment."""
        self._fail_the_dead()
        while True:
            trials = self.trials()
            for trial in self.wanted(trials):
                if trial.state == self._states.WAITING and self._claim(trial):
                    return trial
            owed = self._owed(trials)
            if owed is None:
                return None
            params, notes = owed
            self.study.enqueue_trial(params, user_attrs=notes)

    def is_complete(self) -> bool:
        """Whether all trials were run."""
        trials = self.trials()
        open_states = (self._states.WAITING, self._states.RUNNING)
        return self._owed(trials) is None and not any(t.state in open_states for t in self.wanted(trials))

    def wanted(self, trials: Sequence[Any]) -> list[Any]:
        """The first trials, as many as there are to be, and of each retry the one that was queued first."""
        first = [trial.number for trial in trials if RETRY_OF not in trial.user_attrs][: self.n_trials]
        chosen = set(first)
        retried: set[int] = set()
        for trial in trials:
            origin = trial.user_attrs.get(RETRY_OF)
            if origin in chosen and origin not in retried:
                retried.add(origin)
                chosen.add(trial.number)
        return [trial for trial in trials if trial.number in chosen]

    def origin(self, trial: Any, trials: Sequence[Any]) -> int:
        """The number under which a trial was run first."""
        while RETRY_OF in trial.user_attrs:
            trial = trials[trial.user_attrs[RETRY_OF]]
        return trial.number

    def _owed(self, trials: Sequence[Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Parameters, as far as they are known, and notes of a trial that has to be queued; None if there is none."""
        retried = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        for trial in self.wanted(trials):
            if trial.state == self._states.FAIL and trial.number not in retried and self._again(trial, trials):
                queued = trial.system_attrs.get("fixed_params", {})  # of which it may not have got to all
                return {**queued, **trial.params}, {RETRY_OF: trial.number}
        n_first = sum(RETRY_OF not in trial.user_attrs for trial in trials)
        return ({}, {}) if n_first < self.n_trials else None

    def _again(self, trial: Any, trials: Sequence[Any]) -> bool:
        """Whether a trial that failed is run again: its worker was stopped, or died and not all too often."""
        if ERROR in trial.user_attrs:
            return False
        if INTERRUPTED in trial.user_attrs:
            return True
        deaths = 1
        while RETRY_OF in trial.user_attrs:
            trial = trials[trial.user_attrs[RETRY_OF]]
            deaths += INTERRUPTED not in trial.user_attrs
        return deaths <= _MOST_RETRIES

    def _claim(self, trial: Any) -> bool:
        self.storage.record_heartbeat(trial._trial_id)
        try:
            return self.storage.set_trial_state_values(trial._trial_id, self._states.RUNNING)
        except optuna().exceptions.UpdateFinishedTrialError:
            return False

    def _fail_the_dead(self) -> None:
        """Fails trials whose workers gave no sign of life; not after an outage, when none of them could."""
        if time.monotonic() - self.storage.outages.over_since < self.pace.grace:
            return
        for trial_id in self.storage._get_stale_trial_ids(self._study_id):
            try:
                if self.storage.set_trial_state_values(trial_id, self._states.FAIL):
                    number = self.storage.get_trial(trial_id).number
                    logger.warning("The worker of trial %d has died: the trial is run again.", number)
            except optuna().exceptions.UpdateFinishedTrialError:
                continue  # another worker was first

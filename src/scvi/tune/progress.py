"""A progress bar of trials, for a terminal or a notebook."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from scvi._settings import settings
from scvi.fit.loop import is_live
from scvi.tune.claims import RETRY_OF
from scvi.tune.studies import best_of
from scvi.tune.worker import Job, open_study

_PAUSE = 2.0  # seconds between two looks at the study


class Progress:
    """Shows how many trials of a study have ended, and the best value."""

    def __init__(self, job: Job) -> None:
        hidden = settings.progress_bar_style == "none" or not is_live(sys.stdout)
        self._bar: Any = tqdm(total=job.n_trials, desc="trials", file=sys.stdout, disable=hidden)
        self._study = None if hidden else open_study(job)[0]
        self._looked = float("-inf")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._looked = float("-inf")
        if error is None:
            self.update()
        self._bar.close()

    def update(self) -> None:
        """Looks at the study, if it is not long ago."""
        if self._study is None or time.monotonic() - self._looked < _PAUSE:
            return
        self._looked = time.monotonic()
        trials = self._study.get_trials(deepcopy=False)
        ended = [trial for trial in trials if trial.state.is_finished() and RETRY_OF not in trial.user_attrs]
        best = best_of(self._study, trials)
        self._bar.n = min(len(ended), self._bar.total)
        self._bar.set_postfix({} if best is None else {"best": f"{best.value:.6g}"})

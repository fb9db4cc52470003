"""What a search found: the best values, a table of all trials, pictures, the model that was fitted with the best."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from scvi._files import replacing
from scvi.plots.study import PICTURES, Picture
from scvi.tune.claims import ERROR, INTERRUPTED, RETRY_OF


@dataclass(frozen=True)
class Search:
    """A study and what it found.

    Attributes
    ----------
    study_name, storage
        Name of the study, and where it is kept; without a password.
    metric, direction
        What was measured, and whether it was to 'minimize' or to 'maximize'.
    best_trial, best_value
        Number of the best trial and its metric; None if no trial is complete.
    best_model_args, best_train_args
        Arguments of the constructor and of `train` in the best trial, those that were fixed among them.
    trials
        A table, a row a trial: number, state, value, what was tried, seconds, host, and why a trial failed.
    folder
        Where table, best values and model were written.
    model
        The model that was fitted anew with the best values; None if there is none, or `refit` was False.
    was_interrupted
        Whether Ctrl-C ended the search: the same call goes on.
    study
        The study of optuna.
    """

    study_name: str
    storage: str
    metric: str
    direction: str
    best_trial: int | None
    best_value: float | None
    best_model_args: dict[str, Any]
    best_train_args: dict[str, Any]
    trials: pd.DataFrame = field(repr=False, compare=False)
    folder: Path
    model: Any = field(default=None, repr=False, compare=False)
    was_interrupted: bool = False
    study: Any = field(default=None, repr=False, compare=False)

    @property
    def model_dir(self) -> Path:
        """Where the best model is, once it was fitted."""
        return self.folder / "model"

    def plot(self, folder: str | os.PathLike[str] | None = None, only: Sequence[Picture] = PICTURES) -> list[Path]:
        """Draws optuna's pictures of the study; needs the extra `[plot]`.

        Parameters
        ----------
        folder
            Where to write them; None: beside the table.
        only
            Of 'history' (the metric trial by trial), 'importance' (how much each argument matters) and 'parallel' (a
            line a trial, through its values). There is no importance of fewer than two complete trials.

        Returns
        -------
        list
            The files.
        """
        from scvi import plots
        from scvi.plots.study import study

        plots.check_matplotlib()
        return study(self.study, self.folder if folder is None else Path(folder), only)


def table(trials: Sequence[Any], names: Sequence[str]) -> pd.DataFrame:
    """Trials, those that nobody has begun left out, with a column for each of what was searched."""
    rows = [_row(trial, names) for trial in trials if trial.state.name != "WAITING"]
    columns = ["trial", "state", "value", *names, "seconds", "host", "retry_of", "why"]
    frame = pd.DataFrame(rows, columns=columns)
    frame["retry_of"] = frame["retry_of"].astype("Int64")
    return frame.set_index("trial")


def _row(trial: Any, names: Sequence[str]) -> dict[str, Any]:
    notes = trial.user_attrs
    why = notes.get(ERROR)
    if trial.state.name == "FAIL" and why is None:
        why = "interrupted" if INTERRUPTED in notes else "its worker died"
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "value": trial.value if trial.state.name == "COMPLETE" else None,
        **{name: trial.params.get(name) for name in names},
        "seconds": notes.get("seconds"),
        "host": notes.get("host"),
        "retry_of": notes.get(RETRY_OF),
        "why": why,
    }


def write_table(folder: Path, trials: pd.DataFrame) -> None:
    """Writes ``trials.csv``."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "trials.csv") as temporary:
        trials.to_csv(temporary)


def plain(value: Any) -> Any:
    """A value of numpy or torch in a type of JSON; of anything else, how Python shows it."""
    return value.tolist() if hasattr(value, "tolist") else repr(value)


def write_best(folder: Path, best: dict[str, Any]) -> None:
    """Writes ``best.json``, of types of JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "best.json") as temporary:
        temporary.write_text(json.dumps(best, indent=1) + "\n", encoding="utf-8")


def read_best(folder: Path) -> dict[str, Any] | None:
    """What was written by :func:`write_best`; None if there is nothing that can be read."""
    try:
        return json.loads((folder / "best.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None

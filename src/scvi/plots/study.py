"""Pictures of a study of optuna, by optuna itself."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from scvi._checks import check_choice
from scvi._files import replacing

Picture = Literal["history", "importance", "parallel"]
PICTURES: tuple[Picture, ...] = get_args(Picture)


def study(study: Any, folder: Path, only: Sequence[Picture] = PICTURES) -> list[Path]:
    """Writes optuna's pictures of a study into a folder, and gives their names.

    There are none without complete trials, and no importance where fewer than two differ in their value.
    """
    for name in only:
        check_choice("only", name, list(PICTURES))
    values = {trial.value for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"}
    names = [name for name in only if values and (name != "importance" or len(values) > 1)]
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        with replacing(folder / f"{name}.png") as temporary:
            _write(study, name, temporary)
    return [folder / f"{name}.png" for name in names]


def _write(study: Any, name: Picture, file: Path) -> None:
    """One picture. Optuna draws with pyplot in a style of its own: both are as before afterwards."""
    import matplotlib.pyplot as plt
    from optuna.importance import FanovaImportanceEvaluator
    from optuna.visualization import matplotlib as optuna_plots

    drawing: dict[Picture, Any] = {
        "history": optuna_plots.plot_optimization_history,
        "importance": partial(optuna_plots.plot_param_importances, evaluator=FanovaImportanceEvaluator(seed=0)),
        "parallel": optuna_plots.plot_parallel_coordinate,
    }
    with warnings.catch_warnings(), plt.rc_context(), plt.ioff():
        warnings.simplefilter("ignore")  # optuna says of each that it may change
        figure = drawing[name](study).figure
        try:
            figure.savefig(file, dpi=150, bbox_inches="tight")
        finally:
            plt.close(figure)

"""Methods of a posterior: how well a model guesses counts that were replaced by noise, under their names of 2020."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from scvi import plots
from scvi._checks import check_draws
from scvi.queries.imputation import of_replaced

if TYPE_CHECKING:
    from scvi.inference.posterior import Posterior

logger = logging.getLogger(__name__)

Values = list[npt.NDArray[np.float32]]


def imputation_list(self: Posterior, n_samples: int = 1) -> tuple[Values, Values]:
    """Counts that `GeneExpressionDataset.corrupt` changed, and what the model expects there, given the corrupted ones.

    An entry that was chosen and came out unchanged is none of them.

    Parameters
    ----------
    n_samples
        Draws from the variational posterior of each cell.

    Returns
    -------
    original_list, imputed_list
        An array for each cell, in the order of `indices`: its t changed entries, and again for every draw, (s * t,).
    """
    check_draws("n_samples", n_samples)
    cells = self._asked().sequential()
    pairs = zip(cells.uncorrupted().minibatches(), cells.corrupted().minibatches(), strict=True)
    true, expected = of_replaced(self.model, pairs, n_samples)
    return [np.tile(counts, n_samples) for counts in true], [draws.ravel() for draws in expected]


def imputation_score(
    self: Posterior,
    original_list: Sequence[npt.NDArray] | None = None,
    imputed_list: Sequence[npt.NDArray] | None = None,
    n_samples: int = 1,
) -> float:
    """Median over all changed entries of the distance of the expected from the true count; 0.0 where none changed.

    Parameters
    ----------
    original_list, imputed_list
        What :meth:`imputation_list` returned; None to ask it now.
    n_samples
        For :meth:`imputation_list`.
    """
    if (original_list is None) != (imputed_list is None):
        raise ValueError("pass both original_list and imputed_list, or neither")
    if original_list is None or imputed_list is None:
        original_list, imputed_list = self.imputation_list(n_samples=n_samples)
    errors = _errors(original_list, imputed_list)
    if not sum(map(len, errors)):
        logger.info("No count of these cells was changed by the corruption: the imputation score is 0.")
        return 0.0
    return float(np.median(np.concatenate(errors)))


def imputation_benchmark(
    self: Posterior,
    n_samples: int = 8,
    show_plot: bool = True,
    title_plot: str = "imputation",
    save_path: str | Path = "",
) -> tuple[Values, Values]:
    """:meth:`imputation_list`, with its scores in the log (at level debug) and, where wanted, its picture.

    Parameters
    ----------
    n_samples
        Draws from the variational posterior of each cell.
    show_plot
        Show the picture in a notebook; elsewhere nothing is shown.
    title_plot
        Title of the picture, and name of its file.
    save_path
        Folder in which "<title_plot>.png" is written; nothing is written by default.
    """
    draws = bool(save_path) or (show_plot and plots.in_notebook())
    if draws:
        plots.check_matplotlib()
    original, imputed = self.imputation_list(n_samples=n_samples)
    of_cells = [np.median(errors) if len(errors) else 0.0 for errors in _errors(original, imputed)]
    logger.debug(
        "Imputation scores [median, mean of the medians of cells]: %.4f, %.4f",
        self.imputation_score(original, imputed),
        np.mean(of_cells),
    )
    if draws:
        file = _file(save_path, title_plot)
        axes = plots.imputation(np.concatenate(original), np.concatenate(imputed), title_plot, file=file)
        if show_plot:
            plots.show(axes.figure)
    return original, imputed


def _file(save_path: str | Path, title_plot: str) -> Path | None:
    if not save_path:
        return None
    folder = Path(save_path)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{title_plot}.png"


def _errors(original_list: Sequence[npt.NDArray], imputed_list: Sequence[npt.NDArray]) -> list[npt.NDArray]:
    """Distances, cell by cell."""
    sizes = [[len(values) for values in lists] for lists in (original_list, imputed_list)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            "original_list and imputed_list are not of the same entries: pass what imputation_list returns"
        )
    return [np.abs(np.subtract(*pair)) for pair in zip(original_list, imputed_list, strict=True)]

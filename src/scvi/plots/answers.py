"""Pictures of what questions return: each is drawn on an axis, nothing is shown or written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from scvi._checks import NotThereError, check_choice, check_integer
from scvi.queries.calibration import calibration_bins, calibration_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scvi.queries.predictive_checks import Predictive

__all__ = ["calibration", "dot_plot", "history", "predictive", "predictive_panels", "volcano"]

GREY = "#BBBBBB"
Answer = Literal["model", "data", "residual"]
_ANSWERS: dict[str, tuple[str, str, str]] = {  # by answer: fold change, how sure, and what that is called
    "model": ("lfc_mean", "proba_de", "probability"),
    "data": ("lfc_data", "p_adjusted", "adjusted p-value"),
    "residual": ("lfc_residual", "p_residual_adjusted", "adjusted p-value"),
}
_SUREST = 1e-4  # a probability of 1, and a p-value of 0, have no logarithm
_LEAST_P = 1e-300
Panel = Literal["mean and variance", "cv of features", "cv of cells", "zeros", "intervals"]
PANELS: tuple[Panel, ...] = ("mean and variance", "cv of features", "cv of cells", "zeros", "intervals")


def volcano(
    table: pd.DataFrame,
    ax: Axes | None = None,
    *,
    comparison: str | None = None,
    answer: Answer | None = None,
    n_names: int = 10,
    fdr: float = 0.05,
) -> Axes:
    """Fold changes of genes against how sure they are, with the names of the surest.

    Parameters
    ----------
    table
        What ``differential_expression`` returns.
    ax
        Where to draw; None: in a new figure.
    comparison
        Which one, where the table has several, by its name in the column 'comparison'.
    answer
        'model': `lfc_mean` and `proba_de`, and the calls of ``is_de_fdr_...``; 'data': `lfc_data` and `p_adjusted`;
        'residual': `lfc_residual` and `p_residual_adjusted`. None: the first of these that the table has.
    n_names
        Names to write, of the genes that are called surest.
    fdr
        Share of false calls at which genes are called.
    """
    rows, comparison = _of_one(table, comparison)
    answer = _answer_of(rows, answer)
    fold_name, sure_name, what = _ANSWERS[answer]
    fold, height = _column(rows, fold_name), _height(_column(rows, sure_name), answer)
    called = _called(rows, answer, fdr)
    ax = _axis(ax)
    for is_called, colour in ((False, GREY), (True, _palette()[5])):
        at = (called == is_called) & np.isfinite(height) & np.isfinite(fold)
        ax.scatter(fold[at], height[at], s=9, color=colour, linewidths=0, rasterized=True)
    first = np.argsort(-np.where(called, height + 1e-6 * np.abs(fold), -np.inf), kind="stable")[:n_names]
    for place in first[called[first]]:
        ax.annotate(
            str(rows.index[place]), (fold[place], height[place]), xytext=(3, 3), textcoords="offset points", fontsize=7
        )
    y = "-log10(1 - probability)" if answer == "model" else f"-log10({what})"
    ax.set(xlabel=f"log2 fold change ({fold_name})", ylabel=y, title=comparison or "")
    ax.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    return ax


def dot_plot(table: pd.DataFrame, ax: Axes | None = None, *, n_genes: int = 5, answer: Answer | None = None) -> Axes:
    """The top genes of each comparison in all of them: size is the share of cells with counts, colour the fold change.

    Parameters
    ----------
    table
        What ``differential_expression`` returns of several comparisons, with what was counted (``all_stats=True``).
    ax
        Where to draw; None: in a new figure.
    n_genes
        Genes of each comparison: of those with more in its first group the surest.
    answer
        As of :func:`volcano`.
    """
    check_integer("n_genes", n_genes, 1)
    answer = _answer_of(table, answer)
    fold_name, sure_name, _ = _ANSWERS[answer]
    names = list(dict.fromkeys(_column(table, "comparison")))
    _column(table, fold_name), _column(table, sure_name), _column(table, "non_zeros_proportion1")
    parts = {name: table[table["comparison"] == name] for name in names}
    for name, part in parts.items():
        _check_named_once(part.index, name)
    genes: list[Any] = []
    for part in parts.values():
        more = part[part[fold_name] > 0]
        surest = more.iloc[np.argsort(-_height(more[sure_name].to_numpy(float), answer), kind="stable")]
        genes += [gene for gene in surest.index[:n_genes] if gene not in genes]
    folds, shares = (
        np.array([part[column].reindex(genes).to_numpy(float) for part in parts.values()])
        for column in (fold_name, "non_zeros_proportion1")
    )
    ax = _axis(ax, width=2.5 + 0.28 * len(genes), height=1.8 + 0.35 * len(names))
    y, x = np.mgrid[: len(names), : len(genes)]
    most = float(np.nanmax(np.abs(folds), initial=1e-6))
    points = ax.scatter(
        x.ravel(),
        y.ravel(),
        s=4 + 116 * np.nan_to_num(shares).ravel(),
        c=folds.ravel(),
        cmap="RdBu_r",
        vmin=-most,
        vmax=most,
    )
    ax.set(yticks=range(len(names)), yticklabels=names, xlim=(-0.7, len(genes) - 0.3), ylim=(len(names) - 0.4, -0.6))
    ax.set_xticks(range(len(genes)), labels=[str(gene) for gene in genes], rotation=90, fontsize=8)
    for share in (0.25, 0.5, 1.0):
        ax.scatter([], [], s=4 + 116 * share, color=GREY, label=f"{100 * share:.0f} %")
    ax.legend(title="cells with counts", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)
    ax.figure.colorbar(points, ax=ax, label=f"log2 fold change ({fold_name})", location="top", shrink=0.5)
    return ax


def calibration(
    probabilities: pd.DataFrame | npt.ArrayLike, labels: npt.ArrayLike, ax: Axes | None = None, *, n_bins: int = 10
) -> Axes:
    """How often a classifier is right, by the probability that it gives: on the line it can be taken at its word.

    Parameters
    ----------
    probabilities
        What ``predict(soft=True)`` returns, of cells whose label is known; or an array (n, c).
    labels
        (n,) their true labels: columns of the table, or positions of columns of an array.
    ax
        Where to draw; None: in a new figure.
    n_bins
        Bins of equal width, from 0 to 1.
    """
    codes = np.asarray(labels)
    if isinstance(probabilities, pd.DataFrame):
        codes = probabilities.columns.get_indexer([str(label) for label in codes])
        if (codes < 0).any():
            unknown = str(np.asarray(labels)[codes < 0][0])
            raise NotThereError(
                f"labels has {unknown!r}, which is no column of probabilities: {list(probabilities.columns)}"
            )
    values = np.asarray(probabilities)
    error = calibration_error(values, codes, n_bins)
    given, right, share = calibration_bins(values, codes, n_bins)
    ax = _axis(ax, width=4.5)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    ax.plot(given, right, color=_palette()[0], linewidth=1)
    ax.scatter(given, right, s=12 + 250 * share, color=_palette()[0], alpha=0.8, linewidths=0)
    ax.set(
        xlim=(0, 1),
        ylim=(0, 1),
        box_aspect=1,
        xlabel="probability of the most probable label",
        ylabel="share of right answers",
        title=f"calibration error {error:.3f}",
    )
    return ax


def history(
    losses: Mapping[str, pd.DataFrame],
    ax: Axes | None = None,
    *,
    names: str | Sequence[str] = ("elbo_train", "elbo_validation"),
) -> Axes:
    """Losses by epoch.

    Parameters
    ----------
    losses
        ``model.history``.
    ax
        Where to draw; None: in a new figure.
    names
        Entries to draw, or one; by default those of these two that there are.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    there = [name for name in names if name in losses]
    missing = [name for name in names if name not in losses]
    if not there or (missing and names != ("elbo_train", "elbo_validation")):
        raise NotThereError(f"the history has no {missing[0]!r}; it has {sorted(losses)}")
    ax = _axis(ax)
    ends = []
    for name, colour in zip(there, cycle(_palette())):
        curve = losses[name].iloc[:, 0]
        ax.plot(curve.index + 1, curve, color=colour, label=name, linewidth=1.5)
        ends.append(curve.to_numpy(dtype=float))
    values = np.concatenate(ends)
    low, high = values.min(), np.quantile(values, 0.95)  # losses of the first epochs may be far off
    if high > low:
        ax.set_ylim(low - 0.05 * (high - low), high + 0.1 * (high - low))
    ax.set(xlabel="epoch", ylabel="nats per cell")
    ax.legend(frameon=False)
    return ax


def predictive(found: Predictive, ax: Axes | None = None, *, panel: Panel = "mean and variance") -> Axes:
    """Counts beside draws of the model: on the line they agree.

    Parameters
    ----------
    found
        An entry of ``model.check().predictive``.
    ax
        Where to draw; None: in a new figure.
    panel
        'mean and variance' of each feature, counts and draws; 'cv of features', 'cv of cells' (coefficients of
        variation) and 'zeros' (share of zeros of each feature), drawn against counted; 'intervals': shares of counts
        inside of intervals against what they promise.
    """
    check_choice("panel", panel, PANELS)
    ax = _axis(ax, width=4.5)
    if panel == "mean and variance":
        for suffix, colour, label in (("", _palette()[0], "counts"), ("_drawn", _palette()[1], "draws")):
            mean, variance = found.features[f"mean{suffix}"], found.features[f"variance{suffix}"]
            seen = (mean > 0) & (variance > 0)
            ax.scatter(
                mean[seen], variance[seen], s=5, color=colour, alpha=0.6, linewidths=0, label=label, rasterized=True
            )
        ax.set(xscale="log", yscale="log", xlabel="mean", ylabel="variance", title=panel)
        ax.legend(frameon=False)
        return ax
    if panel == "intervals":
        x, y = found.intervals.index.to_numpy(float), found.intervals["covered"].to_numpy()
        ax.plot(x, y, "o-", color=_palette()[0])
        labels = "probability of the interval", "share of counts inside"
    else:
        of, name = {
            "cv of features": (found.features, "cv"),
            "cv of cells": (found.cells, "cv"),
            "zeros": (found.features, "zeros"),
        }[panel]
        x, y = of[name].to_numpy(), of[f"{name}_drawn"].to_numpy()
        ax.scatter(x, y, s=5, color=_palette()[0], alpha=0.5, linewidths=0, rasterized=True)
        labels = "counts", "draws"
    known = np.isfinite(x) & np.isfinite(y)
    ends = [0.0, 1.0] if panel in ("zeros", "intervals") else [0.0, float(np.max(np.r_[x[known], y[known], 1e-6]))]
    ax.plot(ends, ends, color=GREY, linewidth=1, zorder=0)
    ax.set(xlabel=labels[0], ylabel=labels[1], title=panel)
    return ax


def predictive_panels(found: Predictive) -> Figure:
    """One figure of all panels of :func:`predictive`."""
    from scvi import plots

    figure, grid = plots._panels(1, len(PANELS), width=4.0 * len(PANELS), height=4.0)
    for ax, panel in zip(grid[0], PANELS, strict=True):
        predictive(found, ax, panel=panel)
    return figure


# ---- parts -----------------------------------------------------------------------------------------------------------


def _axis(ax: Axes | None, width: float = 6.0, height: float = 4.5) -> Axes:
    if ax is not None:
        return ax
    from scvi import plots

    return plots._panels(1, 1, width=width, height=height)[1][0, 0]


def _palette() -> Sequence[str]:
    from scvi import plots

    return plots.PALETTE


def _of_one(table: pd.DataFrame, comparison: str | None) -> tuple[pd.DataFrame, str | None]:
    """The rows of one comparison, and its name."""
    if "comparison" not in table:
        return table, comparison
    known = list(dict.fromkeys(table["comparison"]))
    if comparison is None and len(known) > 1:
        raise ValueError(f"the table has {len(known)} comparisons: say comparison= which one, of {known}")
    comparison = known[0] if comparison is None and known else comparison
    check_choice("comparison", comparison, known)
    return table[table["comparison"] == comparison], comparison


def _answer_of(table: pd.DataFrame, answer: Answer | None) -> Answer:
    there = [name for name, (fold, sure, _) in _ANSWERS.items() if fold in table and sure in table]
    if answer is not None:
        check_choice("answer", answer, list(_ANSWERS))
    if not there or (answer is not None and answer not in there):
        wanted = " or ".join(f"{fold!r} and {sure!r}" for fold, sure, _ in _ANSWERS.values())
        raise NotThereError(f"the table has no columns {wanted}; it has {list(table.columns)}")
    return there[0] if answer is None else answer  # type: ignore[return-value]


def _column(table: pd.DataFrame, name: str) -> np.ndarray:
    if name not in table:
        raise NotThereError(f"the table has no column {name!r}; it has {list(table.columns)}")
    return table[name].to_numpy()


def _check_named_once(genes: pd.Index, comparison: str) -> None:
    if not genes.is_unique:
        raise ValueError(
            f"{genes[genes.duplicated()][0]!r} is the name of several rows of {comparison!r}, which cannot be told "
            "apart: ask for genes or proteins alone, differential_expression(use_field='rna'), or rename one"
        )


def _height(sure: np.ndarray, answer: Answer) -> np.ndarray:
    """How sure a fold change is, the larger the surer; NaN stays."""
    sure = np.asarray(sure, dtype=np.float64)
    return -np.log10(np.maximum(1 - sure, _SUREST) if answer == "model" else np.maximum(sure, _LEAST_P))


def _called(rows: pd.DataFrame, answer: Answer, fdr: float) -> np.ndarray:
    if answer == "model":
        name = f"is_de_fdr_{fdr}"
        return _column(rows, name).astype(bool)
    return rows[_ANSWERS[answer][1]].to_numpy(dtype=np.float64) < fdr

"""Pictures of a latent space and of what is read off it: each is drawn on an axis, nothing is shown or written."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from scvi._checks import NotThereError
from scvi.plots.answers import GREY, _axis, _palette

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["beside_pca", "confusion", "embedding", "foreground"]

_MOST_NUMBERS = 12  # labels of a confusion table up to which its cells have room for numbers
_LONGEST = 28  # letters of a name that leave room for what is drawn


def short(names: Iterable[object]) -> list[str]:
    """Names as there is room for them beside a picture."""
    texts = [str(name) for name in names]
    return [text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…" for text in texts]


def embedding(places: npt.ArrayLike, values: npt.ArrayLike, ax: Axes | None = None, *, title: str = "") -> Axes:
    """Cells on a plane, coloured by group.

    Parameters
    ----------
    places
        (n, 2), such as :func:`scvi.plots.umap` returns.
    values
        (n,) the group of each cell. Cells without one are grey.
    ax
        Where to draw; None: in a new figure.
    title
        Of the picture.
    """
    from scvi import plots

    points = np.asarray(places)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) != len(np.asarray(values)):
        raise ValueError(
            f"places must be (cells, 2) and values (cells,), got shapes {points.shape} and {np.shape(values)}"
        )
    ax = _axis(ax)
    plots._scatter(ax, points, values)
    plots._legend(ax, values)
    ax.set_title(title)
    return ax


def beside_pca(shares: pd.DataFrame, ax: Axes | None = None, *, xlabel: str = "share") -> Axes:
    """Scores of groups in the latent space beside those among principal components, a row each.

    Parameters
    ----------
    shares
        A row for each group, by name, with the columns 'latent' and 'pca'; 1 is best.
    ax
        Where to draw; None: in a new figure.
    xlabel
        What the numbers are.
    """
    missing = [name for name in ("latent", "pca") if name not in shares]
    if missing:
        raise NotThereError(f"the table has no column {missing[0]!r}; it has {list(shares.columns)}")
    ax = _axis(ax, height=1.4 + 0.32 * len(shares))
    rows = np.arange(len(shares))[::-1]  # the first on top
    ax.hlines(rows, shares["pca"], shares["latent"], color=GREY, linewidth=2, zorder=1)
    ax.scatter(shares["pca"], rows, s=46, color="white", edgecolors=_palette()[7], label="PCA", zorder=2)
    ax.scatter(shares["latent"], rows, s=46, color=_palette()[0], label="latent space", zorder=3)
    ax.set_yticks(rows, labels=short(shares.index))
    most = float(np.nanmax(shares[["latent", "pca"]].to_numpy(), initial=1.0))
    ax.set(xlim=(-0.03, 1.03 * most), ylim=(-0.6, len(shares) - 0.4), xlabel=xlabel)
    ax.grid(axis="x", color="#E5E5E5", linewidth=0.8, zorder=0)
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return ax


def confusion(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Which labels a classifier takes for which: each row is shaded by its shares, and has numbers of cells.

    Parameters
    ----------
    table
        (c, k) numbers of cells: rows are the known labels, columns the predicted ones.
    ax
        Where to draw; None: in a new figure.
    """
    counts = table.to_numpy(dtype=np.float64)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax = _axis(ax, width=2.5 + 0.45 * table.shape[1], height=2.0 + 0.4 * table.shape[0])
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    small = max(table.shape) > _MOST_NUMBERS
    size = 7 if small else 9
    ax.set_xticks(range(table.shape[1]), labels=short(table.columns), rotation=90, fontsize=size)
    ax.set_yticks(range(table.shape[0]), labels=short(table.index), fontsize=size)
    ax.set(xlabel="predicted", ylabel="known label")
    if not small:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "#222222"
                ax.text(column, row, f"{count:.0f}", ha="center", va="center", fontsize=8, color=colour)
    return ax


def foreground(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Mean counts of the background of each protein, and of its foreground: what is far apart can be told apart.

    Parameters
    ----------
    table
        A row for each protein, by name, with the columns 'background' and 'foreground', mean counts.
    ax
        Where to draw; None: in a new figure.
    """
    missing = [name for name in ("background", "foreground") if name not in table]
    if missing:
        raise NotThereError(f"the table has no column {missing[0]!r}; it has {list(table.columns)}")
    ax = _axis(ax, height=1.4 + 0.26 * len(table))
    rows = np.arange(len(table))[::-1]
    low, high = (table[name].clip(lower=0.01) for name in ("background", "foreground"))  # on a scale of logarithms
    ax.hlines(rows, low, high, color=GREY, linewidth=2, zorder=1)
    ax.scatter(low, rows, s=40, color="white", edgecolors=_palette()[7], label="background", zorder=2)
    ax.scatter(high, rows, s=40, color=_palette()[5], label="foreground", zorder=3)
    ax.set_yticks(rows, labels=short(table.index), fontsize=9 if len(table) <= 30 else 7)
    ax.set(xscale="log", ylim=(-0.6, len(table) - 0.4), xlabel="mean count")
    ax.grid(axis="x", color="#E5E5E5", linewidth=0.8, zorder=0)
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return ax

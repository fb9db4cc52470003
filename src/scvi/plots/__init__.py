"""Pictures, drawn without touching matplotlib's global state. They need the extra `[plot]`.

Functions that return axes show nothing, and write only where they are given a file.
"""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from scvi._files import replacing
from scvi.plots.answers import calibration, dot_plot, history, predictive, predictive_panels, volcano
from scvi.plots.scores import beside_pca, confusion, embedding, foreground

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure

__all__ = [
    "available",
    "before_after",
    "beside_pca",
    "calibration",
    "check_matplotlib",
    "confusion",
    "dot_plot",
    "embedding",
    "foreground",
    "history",
    "imputation",
    "in_notebook",
    "latent_umap",
    "plane",
    "predictive",
    "predictive_panels",
    "show",
    "t_sne",
    "umap",
    "volcano",
]

# Okabe and Ito's colours, which colour-blind readers can tell apart.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
FEWEST_CELLS = 5  # for a UMAP
_MOST_COMPARED = 50_000  # cells of a UMAP of which all pairs are compared: seconds, as the square of their number
MAX_LEGEND = 48  # entries; more would outgrow the panel
INK = "#222222"
UNLABELLED = "#BBBBBB"  # cells whose value is missing


def available() -> bool:
    """Whether the packages of the extra `[plot]` are installed."""
    return all(find_spec(name) for name in ("matplotlib", "umap"))


def check_matplotlib() -> None:
    """ImportError where matplotlib is missing, before anything is computed for a picture."""
    if not find_spec("matplotlib"):
        raise ImportError('pictures need matplotlib: pip install "scvi[plot]"')


def umap(latent: npt.ArrayLike, seed: int = 0) -> npt.NDArray[np.float32]:
    """Places cells on a plane so that neighbours stay neighbours.

    Parameters
    ----------
    latent
        (n, d).
    seed
        Same seed, same picture.

    Returns
    -------
    numpy.ndarray
        (n, 2).
    """
    if not available():
        raise ImportError('pictures need matplotlib and umap-learn: pip install "scvi[plot]"')
    latent = np.asarray(latent)
    if len(latent) < FEWEST_CELLS:
        raise ValueError(f"a UMAP needs at least {FEWEST_CELLS} cells, got {len(latent)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # umap's own, on its parallelism and its dependencies
        from umap import UMAP

        k = min(15, len(latent) - 1)
        init = "spectral" if len(latent) > 50 else "random"
        known = _nearest(latent, k) if len(latent) <= _MOST_COMPARED else (None, None, None)
        return UMAP(
            n_neighbors=k, min_dist=0.3, init=init, random_state=seed, n_jobs=1, precomputed_knn=known
        ).fit_transform(latent)


def _nearest(latent: npt.NDArray[Any], k: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """(n, k) the k nearest of all cells to each, which is one of them, and their distances.

    umap itself asks a Python function for each pair where cells are few, and else compiles a search in every process.
    """
    from sklearn.neighbors import NearestNeighbors

    distances, cells = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(latent).kneighbors(latent)
    return cells, distances


def t_sne(latent: npt.ArrayLike, seed: int = 0) -> npt.NDArray[np.float32]:
    """As :func:`umap`, by t-SNE at a perplexity of 30, or a third of the other cells where that is less."""
    from sklearn.manifold import TSNE

    latent = np.asarray(latent)
    if len(latent) < FEWEST_CELLS:
        raise ValueError(f"a t-SNE needs at least {FEWEST_CELLS} cells, got {len(latent)}")
    start = "pca" if latent.shape[1] > 1 else "random"
    return TSNE(2, perplexity=min(30.0, (len(latent) - 1) / 3), init=start, random_state=seed).fit_transform(latent)


def latent_umap(
    latent: npt.ArrayLike, colour_by: Mapping[str, npt.ArrayLike], file: str | os.PathLike[str], seed: int = 0
) -> None:
    """Writes the UMAP of a latent space, one panel for each way to colour it.

    Parameters
    ----------
    latent
        (n, d).
    colour_by
        Values of the cells, (n,), by the title of their panel; none for one plain panel. Cells whose value is missing
        are grey, "unlabelled" in the legend.
    file
        Where to write, as PNG, PDF or SVG.
    seed
        Of the UMAP.
    """
    places = umap(latent, seed)
    plane(places, dict(colour_by) or {"cells": np.full(len(places), "")}, file=file)


def plane(
    places: npt.ArrayLike,
    colour_by: Mapping[str, npt.ArrayLike],
    *,
    continuous: bool = False,
    panel_size: tuple[float, float] = (5.6, 4.6),
    file: str | os.PathLike[str] | None = None,
) -> npt.NDArray[np.object_]:
    """Cells on a plane, one panel for each way to colour them.

    Parameters
    ----------
    places
        (n, 2).
    colour_by
        Values of the cells, (n,), by the title of their panel, at least one; see :func:`latent_umap`.
    continuous
        The values are numbers on a scale, not groups.
    panel_size
        Width and height in inches.
    file
        Where to write, as PNG, PDF or SVG; None: nowhere.

    Returns
    -------
    numpy.ndarray
        matplotlib's axes, one a panel.
    """
    width, height = panel_size
    figure, grid = _panels(1, len(colour_by), width=width * len(colour_by), height=height)
    for axes, (title, values) in zip(grid[0], colour_by.items(), strict=True):
        if continuous:
            figure.colorbar(_points(axes, np.asarray(places), np.asarray(values)), ax=axes, shrink=0.6)
        else:
            _scatter(axes, np.asarray(places), values)
            _legend(axes, values)
        axes.set_title(title)
    if file is not None:
        _save(figure, file)
    return grid[0]


def imputation(
    original: npt.ArrayLike,
    imputed: npt.ArrayLike,
    title: str = "Imputation",
    *,
    axes: Axes | None = None,
    file: str | os.PathLike[str] | None = None,
) -> Axes:
    """What a model expects against the counts that were hidden from it, where both are below 10.

    Shades are the density of the pairs; the black line is where both are equal, the other the line through the origin
    that fits best.

    Parameters
    ----------
    original, imputed
        (t,).
    axes
        Where to draw; None: in a new figure.
    file
        Where to write, as PNG, PDF or SVG; None: nowhere.
    """
    x, y = np.ravel(original).astype(np.float64), np.ravel(imputed).astype(np.float64)
    if len(x) != len(y):
        raise ValueError(f"{len(y)} imputed values do not belong to {len(x)} original ones: give one for each")
    most = 10.0
    near = (x < most) & (y < most)
    x, y = x[near], y[near]
    axes = _panels(1, 1, width=5.0, height=5.0)[1][0, 0] if axes is None else axes
    _density(axes, x, y, most)
    ends = np.array([0.0, most])
    axes.plot(ends, ends, color=INK)
    if np.any(x):
        axes.plot(ends, ends * (x @ y) / (x @ x), color=PALETTE[5], linestyle="--")
    axes.set(xlim=(0, most), ylim=(0, most), box_aspect=1, title=title, xlabel="original", ylabel="imputed")
    if file is not None:
        _save(axes.figure, file)
    return axes


def in_notebook() -> bool:
    """Whether there is a notebook or another IPython session to show pictures in."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


def show(figure: Any) -> None:
    """Shows a figure in a notebook; elsewhere there is nowhere to, and nothing happens."""
    if in_notebook():
        png = io.BytesIO()
        figure.savefig(png, dpi=100)
        display = sys.modules["IPython"].display
        display.display(display.Image(png.getvalue()))


def before_after(
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    batches: npt.ArrayLike,
    cell_types: npt.ArrayLike,
    file: str | os.PathLike[str],
    *,
    names: tuple[str, str] = ("before: PCA", "after: scVI"),
    seed: int = 0,
) -> None:
    """Writes the UMAPs of two latent spaces, side by side: coloured by batch above, by cell type below.

    Parameters
    ----------
    before, after
        (n, d), dimensions may differ.
    batches, cell_types
        (n,).
    file
        Where to write, as PNG, PDF or SVG.
    names
        Titles of the columns.
    seed
        Of the UMAPs.
    """
    figure, grid = _panels(2, 2, width=10.4, height=8.2)
    for column, (latent, name) in enumerate(zip((before, after), names, strict=True)):
        places = umap(latent, seed)
        for row, groups in enumerate((batches, cell_types)):
            _scatter(grid[row][column], places, groups)
        grid[0][column].set_title(name, pad=12)
    for row, (title, groups) in enumerate({"batch": batches, "cell type": cell_types}.items()):
        _legend(grid[row][1], groups, title=title)
    _save(figure, file)


def _panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, npt.NDArray[np.object_]]:
    """A figure, and its axes (rows, columns)."""
    check_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _groups(values: npt.ArrayLike) -> tuple[list[str], npt.NDArray[np.integer], list[str]]:
    """Names, code of each cell, colours; cells without a value are the last group."""
    groups = pd.Categorical(values).remove_unused_categories()
    names, codes = [str(name) for name in groups.categories], groups.codes.astype(np.int64)
    colours = _colours(len(names))
    if (codes < 0).any():
        codes[codes < 0] = len(names)
        names, colours = [*names, "unlabelled"], [*colours, UNLABELLED]
    return names, codes, colours


def _colours(n: int) -> list[str]:
    if n <= len(PALETTE):
        return list(PALETTE[:n])
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colour) for colour in colormaps["turbo"](np.linspace(0.03, 0.97, n))]


def _scatter(axes: Axes, places: npt.NDArray, values: npt.ArrayLike) -> None:
    _, codes, colours = _groups(values)
    _points(axes, places, np.array(colours)[codes])


def _points(axes: Axes, places: npt.NDArray, colours: npt.NDArray) -> PathCollection:
    """Cells in colours, or in those of a scale for numbers."""
    order = np.random.default_rng(0).permutation(len(places))  # no group hides another
    size = float(np.clip(12_000 / len(places), 1.0, 24.0))
    x, y = places[order].T
    axes.set(xticks=[], yticks=[], box_aspect=1, facecolor="#F7F7F5")
    axes.margins(0.04)
    axes.title.set(fontsize=15, color=INK)
    axes.spines[:].set_visible(False)
    return axes.scatter(x, y, s=size, c=colours[order], alpha=0.85, linewidths=0, rasterized=True)


def _density(axes: Axes, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], most: float) -> None:
    """Shades of the density of pairs from 0 to `most`, on a grid of 50 x 50; points where they are on one line."""
    from scipy.stats import gaussian_kde

    step = -(-len(x) // 20_000) or 1  # more pairs would take long and show no more
    pairs = np.stack([x, y])[:, ::step]
    if pairs.shape[1] < 3 or np.linalg.matrix_rank(np.cov(pairs)) < 2:
        axes.scatter(pairs[0], pairs[1], s=12, color=PALETTE[0])
        return
    side = np.linspace(0, most, 50)
    grid = np.stack(np.meshgrid(side, side))  # (2, 50, 50), y along the rows
    density = gaussian_kde(pairs)(grid.reshape(2, -1)).reshape(50, 50)
    axes.pcolormesh(side, side, density, shading="gouraud", cmap="Blues", rasterized=True)


def _legend(axes: Axes, values: npt.ArrayLike, title: str | None = None) -> None:
    from matplotlib.lines import Line2D

    names, _, colours = _groups(values)
    if names == [""]:
        return
    handles = [
        Line2D([], [], marker="o", linestyle="", markersize=7, color=colour, label=name)
        for name, colour in zip(names[:MAX_LEGEND], colours, strict=False)
    ]
    if len(names) > MAX_LEGEND:
        handles.append(Line2D([], [], linestyle="", label=f"and {len(names) - MAX_LEGEND} more"))
    legend = axes.legend(
        handles=handles,
        title=title,
        loc="center left",
        bbox_to_anchor=(1.02, 0.5),
        ncols=-(-len(handles) // 16),
        frameon=False,
        fontsize=11 if len(handles) <= 16 else 8,
        handletextpad=0.3,
        alignment="left",
        labelcolor=INK,
    )
    legend.get_title().set(fontsize=12, fontweight="bold", color=INK)


def _save(figure: Any, file: str | os.PathLike[str]) -> None:
    with replacing(file) as temporary:
        figure.savefig(temporary, dpi=150, bbox_inches="tight", pad_inches=0.15)

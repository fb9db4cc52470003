"""Pictures of latent spaces, drawn without touching matplotlib's global state. They need the extra `[plot]`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from scvi._files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
FEWEST_CELLS = 5  # for a UMAP
MAX_LEGEND = 48  # entries; more would outgrow the panel
INK = "#222222"
UNLABELLED = "#BBBBBB"  # cells whose value is missing


def available() -> bool:
    """Whether the packages of the extra `[plot]` are installed."""
    return all(find_spec(name) for name in ("matplotlib", "umap"))


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

        neighbours = min(15, len(latent) - 1)
        init = "spectral" if len(latent) > 50 else "random"
        return UMAP(n_neighbors=neighbours, min_dist=0.3, init=init, random_state=seed, n_jobs=1).fit_transform(latent)


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
    panels = dict(colour_by) or {"cells": np.full(len(places), "")}
    figure, grid = _panels(1, len(panels), width=5.6 * len(panels), height=4.6)
    for axes, (title, groups) in zip(grid[0], panels.items(), strict=True):
        _scatter(axes, places, groups)
        axes.set_title(title)
        _legend(axes, groups)
    _save(figure, file)


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


def _scatter(axes: Axes, places: npt.NDArray[np.float32], values: npt.ArrayLike) -> None:
    _, codes, colours = _groups(values)
    order = np.random.default_rng(0).permutation(len(places))  # no group hides another
    size = float(np.clip(12_000 / len(places), 1.0, 24.0))
    x, y = places[order].T
    axes.scatter(x, y, s=size, c=np.array(colours)[codes[order]], alpha=0.85, linewidths=0, rasterized=True)
    axes.set(xticks=[], yticks=[], box_aspect=1, facecolor="#F7F7F5")
    axes.margins(0.04)
    axes.title.set(fontsize=15, color=INK)
    axes.spines[:].set_visible(False)


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


def _save(figure: Figure, file: str | os.PathLike[str]) -> None:
    with replacing(file) as temporary:
        figure.savefig(temporary, dpi=150, bbox_inches="tight", pad_inches=0.15)

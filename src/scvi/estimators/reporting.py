"""One page on a fitted model, which opens offline, for who does not program."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from anndata import AnnData

from scvi.estimators.base import Estimator


def report(
    self: Estimator,
    path: str | os.PathLike[str],
    adata: AnnData | None = None,
    columns: str | Sequence[str] | None = None,
    labels_key: str | None = None,
    *,
    differential_expression: pd.DataFrame | None = None,
    title: str | None = None,
    n_cells: int = 2000,
    seed: int | None = None,
) -> Path:
    """Writes one HTML file that says what was fitted to what, how well, and what to doubt.

    It opens offline and asks nothing of a network. It needs the extra `[report]`, and for its pictures `[plot]`. Of the
    columns of ``adata.obs`` it shows those that the model reads and those that are named here, and no others.

    >>> model.report("report.html", labels_key="cell_type")

    Parameters
    ----------
    path
        The file to write. What is there is replaced.
    adata
        Cells in place of those that the model was made with.
    columns
        Columns of ``adata.obs`` to show on the map of the cells, beside batch, labels and covariates of the model.
    labels_key
        Column with the cell types: are they apart in the latent space, and which genes differ between them? None: that
        of the set-up, if there is one.
    differential_expression
        A table of ``differential_expression`` to show in place of that of each cell type against all other cells.
    title
        Of the page.
    n_cells
        Cells that are held against draws of the model, at most; see :meth:`check`.

    Returns
    -------
    pathlib.Path
        The file.
    """
    from scvi.report import write_report

    return write_report(
        self,
        path,
        adata,
        columns,
        labels_key,
        differential_expression=differential_expression,
        title=title,
        n_cells=n_cells,
        seed=seed,
    )


def report_of_two(
    self: Estimator,
    path: str | os.PathLike[str],
    columns: str | Sequence[str] | None = None,
    labels_key: str | None = None,
    *,
    title: str | None = None,
    n_cells: int = 2000,
    seed: int | None = None,
) -> Path:
    """Writes one HTML file that says what was fitted to what, and how well; see :meth:`scvi.SCVI.report`.

    Parameters
    ----------
    columns, labels_key
        Columns of ``obs`` that either data set has.
    """
    from scvi.report import write_report

    return write_report(self, path, None, columns, labels_key, title=title, n_cells=n_cells, seed=seed)

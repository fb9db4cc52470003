"""A page on a fitted model, for who does not program: what was fitted, how well, and what to doubt."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi import plots
from scvi._files import replacing
from scvi._random import resolve_seed
from scvi.cells.checks import checked_keys, found
from scvi.models.autozivae import AutoZIVAE
from scvi.models.ldvae import LDVAE
from scvi.models.scanvae import SCANVAE
from scvi.models.vaec import VAEC
from scvi.report import about_fit, annotation, by_type, course, differential, of_genes, proteins, space
from scvi.report.blocks import Section
from scvi.report.cells import DATA_SET, N_CHECKED, Shown, Wish, has_counts, shown
from scvi.report.page import Page, html

_FEWEST_CHECKED = 30  # cells
_NO_COUNTS = "these cells are minified, and it needs their counts"


def write_report(
    model: Any,
    path: str | os.PathLike[str],
    adata: AnnData | None = None,
    columns: str | Sequence[str] | None = None,
    labels_key: str | None = None,
    *,
    differential_expression: pd.DataFrame | None = None,
    title: str | None = None,
    n_cells: int = N_CHECKED,
    seed: int | None = None,
) -> Path:
    """Writes one HTML file on a fitted model; see :meth:`scvi.SCVI.report`.

    Returns
    -------
    pathlib.Path
        The file.
    """
    check_packages()
    path = _place(path)
    model._require_trained()
    if differential_expression is not None:
        differential.check_table(differential_expression)
    wish = _wish(model, adata, columns, labels_key, n_cells, resolve_seed(seed))
    left_out: dict[str, str] = {}
    looked_at = shown(model, wish)
    sections = list(_sections(model, wish, looked_at, differential_expression, left_out))
    order = {"fit": 0, "verdicts": 1}
    page = Page(
        title or f"A fit of {type(model).__name__}",
        _subtitle(model, looked_at),
        sorted(sections, key=lambda part: order.get(part.name, 2)),
        left_out,
        f"Written by scvi {about_fit._own_version()} on {datetime.now(UTC):%d %B %Y}.",
    )
    with replacing(path) as temporary:
        temporary.write_text(html(page), encoding="utf-8")
    return path


def available() -> bool:
    """Whether what makes the page is installed."""
    return not _missing()


def _missing() -> list[str]:
    return [name for name in ("jinja2", "bokeh") if not find_spec(name)]


def check_packages() -> None:
    """ImportError where what makes the page is missing."""
    missing = _missing()
    if missing:
        raise ImportError(f'a report needs {" and ".join(missing)}: pip install "scvi[report]"')


def _place(path: str | os.PathLike[str]) -> Path:
    """Where to write, refused before anything is computed if nothing can be written there."""
    place = Path(path)
    if place.is_dir():
        raise IsADirectoryError(f"path={str(place)!r} is a folder: name a file, such as {str(place / 'report.html')!r}")
    if not place.parent.is_dir():
        raise FileNotFoundError(f"path={str(place)!r} is in no folder that is there: make {str(place.parent)!r} first")
    return place


def _wish(model: Any, adata: AnnData | None, columns: Any, labels_key: str | None, n_cells: int, seed: int) -> Wish:
    """What is asked for, with what the set-up says where nothing is."""
    if adata is not None and any(adata is cells.given for cells in model._data_sets):
        adata = None  # the model's own: some of them were held out of the fit
    chosen = checked_keys("columns", [columns] if isinstance(columns, str) else columns)
    obs = [cells.given.obs for cells in model._data_sets if cells.given is not None] if adata is None else [adata.obs]
    all_columns = list(dict.fromkeys(name for table in obs for name in table))
    for key in chosen:
        found(dict.fromkeys(all_columns), "columns", key, "a column of adata.obs")
    if labels_key is not None:
        found(dict.fromkeys(all_columns), "labels_key", labels_key, "a column of adata.obs")
    else:
        known = [cells.schema.labels_key for cells in model._data_sets]
        labels_key = next((key for key in known if key is not None and key in all_columns), None)
    return Wish(adata, chosen, labels_key, n_cells, seed)


def _subtitle(model: Any, looked_at: Shown) -> str:
    classes = {
        "SCVI": "a latent space of cells without batch effects, and denoised expression, from raw counts",
        "LinearSCVI": "scVI with a linear decoder: dimensions that are read gene by gene",
        "SCANVI": "annotation of cells from those that have a label",
        "CondSCVI": "scVI that is told the label of each cell",
        "AUTOZI": "scVI that learns which genes have more zeros than counts explain",
        "TOTALVI": "genes and surface proteins of the same cells",
        "GIMVI": "spatial measurements and dissociated cells in one latent space",
    }
    about = classes.get(type(model).__name__, "a model of single-cell counts")
    begin = about[0] if about.startswith("scVI") else about[0].upper()
    return f"{begin}{about[1:]}. {looked_at.of_all:,} cells."


def _sections(
    model: Any, wish: Wish, looked_at: Shown, table: pd.DataFrame | None, left_out: dict[str, str]
) -> Iterator[Section]:
    with_pictures, counts = plots.available(), has_counts(model, wish.adata)
    if not with_pictures:
        left_out["Pictures and the map of the cells"] = (
            'they need matplotlib and umap-learn, which are not installed: pip install "scvi[plot]"'
        )
    yield about_fit.what_was_fitted(model, wish, looked_at)
    found_of_check = _checked(model, wish, looked_at, counts, left_out)
    if found_of_check is not None:
        yield course.verdicts(found_of_check)
    if model.history:
        yield course.losses(model, with_pictures)
    else:
        left_out["Losses"] = "the model came without a history"
    if with_pictures:
        if len(looked_at.latent) >= plots.FEWEST_CELLS:
            yield space.umap(looked_at, wish.seed)
        else:
            left_out["The map of the cells"] = f"it needs {plots.FEWEST_CELLS} cells"
    judged = annotation.judged(model, wish, looked_at) if isinstance(model.module, SCANVAE) else None
    yield from _of_latent_space(model, wish, looked_at, judged, with_pictures, left_out)
    if judged is not None:
        yield annotation.annotation(judged, with_pictures)
    if found_of_check is not None:
        yield from course.beside_draws(found_of_check, with_pictures)
    yield from _of_genes(model, left_out)
    if len(model._data_sets) == 1 and model.schema.proteins is not None:
        if counts:
            of_proteins = proteins.by_protein(model, wish, looked_at)
            yield proteins.proteins(of_proteins, len(looked_at.scored), with_pictures)
        else:
            left_out["Foreground and background of proteins"] = _NO_COUNTS
    yield from _differential(model, wish, looked_at, table, counts, with_pictures, left_out)


def _of_genes(model: Any, left_out: dict[str, str]) -> Iterator[Section]:
    if isinstance(model.module, AutoZIVAE):
        section = of_genes.zero_inflated(model)
        if section is None:
            left_out["Zero-inflated genes"] = "this model has an answer for each gene in each cell"
        else:
            yield section
    if isinstance(model.module, LDVAE):
        yield of_genes.dimensions(model)


def _checked(model: Any, wish: Wish, looked_at: Shown, counts: bool, left_out: dict[str, str]) -> Any:
    """What ``check`` finds, or None."""
    what = "Verdicts, and counts beside draws"
    if not counts:
        left_out[what] = _NO_COUNTS
        return None
    if looked_at.of_all < _FEWEST_CHECKED:
        left_out[what] = f"a check needs {_FEWEST_CHECKED} cells"
        return None
    known = {"n_cells": wish.n_cells, "seed": wish.seed}
    if len(model._data_sets) > 1:
        return model.check(**known)
    groups = _groupby(model, wish, looked_at)
    return model.check(wish.adata, groupby=groups, **known)


def _groupby(model: Any, wish: Wish, looked_at: Shown) -> str | None:
    """The column with the cell types, where it has groups whose residuals can be compared."""
    if wish.labels_key is None or looked_at.labels is None or wish.labels_key == model.schema.batch_key:
        return None
    return wish.labels_key if 2 <= looked_at.labels.nunique() <= 50 else None


def _of_latent_space(
    model: Any,
    wish: Wish,
    looked_at: Shown,
    judged: annotation.Judged | None,
    with_pictures: bool,
    left_out: dict[str, str],
) -> Iterator[Section]:
    if len(looked_at.latent) < 2:
        left_out["Mixing and purity"] = "they need two cells"
        return
    if looked_at.batch is None or looked_at.batch.iloc[looked_at.scored].nunique() < 2:
        left_out["Mixing of batches"] = "the cells that were looked at are of one batch"
    else:
        what = "batch" if len(model._data_sets) == 1 else DATA_SET
        yield space.mixing(looked_at, wish.seed, with_pictures, what)
        types, note = _types(model, wish, looked_at, judged)
        section = None
        if types is not None:
            section = by_type.mixing_by_type(looked_at, types, note, wish.seed, with_pictures, what)
        if section is not None:
            yield section
        elif types is not None:
            left_out["Mixing in each cell type"] = f"only cells of one {what} have a type that is known"
    if looked_at.labels is None:
        left_out["Purity of cell types, and genes that differ between them"] = (
            "no column with cell types was named: report(labels_key=...)"
        )
    elif isinstance(model.module, VAEC):
        left_out["Purity of cell types"] = "this model is told the types, and its latent space holds what varies within"
    else:
        section = space.purity(looked_at, str(wish.labels_key), with_pictures, isinstance(model.module, SCANVAE))
        if section is None:
            left_out["Purity of cell types"] = "there are no two types with enough cells"
        else:
            yield section


def _types(model: Any, wish: Wish, looked_at: Shown, judged: annotation.Judged | None) -> tuple[pd.Series | None, str]:
    """The type of each cell that is shown, a classifier's where none is known, and what is to be said of that."""
    types = looked_at.labels
    if judged is None or types is None or wish.labels_key != model.schema.labels_key:
        return types, ""
    called = np.array(judged.names, dtype=object)[judged.answers]
    return types.where(types.notna(), called), "Cells without a label count as what the classifier calls them."


def _differential(
    model: Any,
    wish: Wish,
    looked_at: Shown,
    table: pd.DataFrame | None,
    counts: bool,
    with_pictures: bool,
    left_out: dict[str, str],
) -> Iterator[Section]:
    if table is None:
        if looked_at.labels is None:
            return  # said with the purity
        if len(model._data_sets) > 1:
            left_out["Genes that differ"] = "a model of two data sets does not compare groups of cells"
            return
        table = differential.compared(model, wish, looked_at, counts)
    if table is None:
        left_out["Genes that differ"] = "there are no two cell types with enough cells"
    else:
        yield differential.differential(table, with_pictures)

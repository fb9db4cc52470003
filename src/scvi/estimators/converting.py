"""Models of scvi-tools as models of this package, on disk."""

from __future__ import annotations

import os
from pathlib import Path

from scvi.estimators import foreign_models
from scvi.estimators.autozi import AUTOZI
from scvi.estimators.linear_scvi import LinearSCVI
from scvi.estimators.scanvi import SCANVI
from scvi.estimators.scvi import SCVI
from scvi.estimators.totalvi import TOTALVI

_CLASSES = {kind.__name__: kind for kind in (SCVI, LinearSCVI, SCANVI, TOTALVI, AUTOZI)}


def convert(
    dir_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    prefix: str | None = None,
    overwrite: bool = False,
) -> None:
    """Reads a model that scvi-tools 1.0 to 1.4 saved, and writes it as this package does. Nothing in its files is run.

    It need not be converted to be used: ``scvi.SCVI.load(dir_path, adata)`` reads it as it is.

    Parameters
    ----------
    dir_path
        Directory with its ``model.pt``, and perhaps its ``adata.h5ad``, which then comes along.
    out
        Directory of the new model.
    prefix
        What the names of its files begin with.
    overwrite
        Replace a model that is in `out`.

    Raises
    ------
    FileNotFoundError
        If there is no model.
    ValueError
        If it is damaged, of a class or with an option that this package does not have, or names anything but data.
    """
    path = Path(dir_path) / f"{prefix or ''}{foreign_models.FILE}"
    if not path.is_file():
        raise FileNotFoundError(f"{dir_path} holds no model of scvi-tools: {path.name} is not there")
    model = _CLASSES[foreign_models.kind_of(path)].load(dir_path, prefix=prefix)
    model.save(out, overwrite=overwrite, save_anndata=model.adata is not None)

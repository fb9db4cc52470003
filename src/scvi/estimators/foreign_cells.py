"""Cells beside a model of scvi-tools: minified ones as this package keeps them, and names of those that were fitted."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scvi.cells.minified import Kept, is_minified, minified, minified_mudata
from scvi.cells.mudata import is_multimodal
from scvi.estimators.cell_files import read_cells
from scvi.estimators.files import StoredModel
from scvi.estimators.fitted_cells import FittedCells
from scvi.estimators.folder import ADATA, MDATA

_MINIFIED, _WITH_COUNTS = "_scvi_adata_minify_type", "_with_counts"  # in `uns`, and how a kind ends that kept them
# Where it keeps mean and variance of the latent variable: what the model reads, or what it was told to read.
_MEANS, _VARIANCES = (("scvi_latent_qzm", "X_latent_qzm"), ("scvi_latent_qzv", "X_latent_qzv"))
_TOTAL = "observed_lib_size"


def beside(directory: str | os.PathLike[str], prefix: str) -> Any:
    """The AnnData, or MuData, that lies beside a model of scvi-tools; None where there is none."""
    paths = (Path(directory) / f"{prefix}{name}" for name in (ADATA, MDATA))
    return next((read_cells(path) for path in paths if path.exists()), None)


def as_kept_here(adata: Any, model: str) -> Any:
    """Cells that scvi-tools minified, with what it kept of them where this package has it; others as they are.

    Parameters
    ----------
    model
        Digest of the weights of the model, of which alone the values are true.

    Raises
    ------
    ValueError
        If something of what was kept is missing.
    """
    kind = adata.uns.get(_MINIFIED)
    if kind is None or str(kind).endswith(_WITH_COUNTS) or is_minified(adata):
        return adata
    if _TOTAL not in adata.obs:
        raise ValueError(f"adata is minified ({kind}), and adata.obs has no {_TOTAL!r}: take it as it was saved")
    log_total = np.log(np.maximum(adata.obs[_TOTAL].to_numpy(dtype=np.float64), 1))
    values = {"qz_mean": _found(adata, _MEANS), "qz_var": _found(adata, _VARIANCES), "log_library": log_total[:, None]}
    kept = Kept({name: np.asarray(value, dtype=np.float32) for name, value in values.items()}, model)
    if is_multimodal(adata):
        return minified_mudata(adata, kept, adata.obs[_TOTAL].to_numpy())
    return minified(adata, kept)


def _found(adata: Any, names: Sequence[str]) -> np.ndarray:
    for name in names:
        if name in adata.obsm:
            return np.asarray(adata.obsm[name])
    raise ValueError(f"adata is minified, and adata.obsm has none of {', '.join(names)}: take it as it was saved")


def named(adata: Any, stored: StoredModel) -> tuple[list[FittedCells] | None, list[FittedCells] | None]:
    """Both sides of the split with the names of their cells, if those of a fit can be the cells of `adata`."""
    sides = [side[0].positions for side in (stored.train_cells, stored.validation_cells) if side is not None]
    if len(sides) < 2 or sum(map(len, sides)) > adata.n_obs or max(map(_highest, sides)) >= adata.n_obs:
        return None, None
    train_cells, validation_cells = FittedCells.of(adata.obs_names.to_numpy(), *sides)
    return [train_cells], [validation_cells]


def _highest(positions: np.ndarray) -> int:
    return int(positions.max(initial=-1))

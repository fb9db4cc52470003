"""Cells beside a model: an AnnData, or a MuData, in a file of its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from anndata import read_h5ad

from scvi._links import check_links
from scvi._writing import writable, write_h5ad
from scvi.cells.mudata import is_multimodal
from scvi.cells.mudata_parts import read_h5mu, writable_mudata, write_h5mu
from scvi.estimators.folder import MDATA


def name_of(cells: Any, name: str) -> str:
    """The name of the file of cells: that which an AnnData has, or that of a MuData."""
    return MDATA if is_multimodal(cells) else name


def writable_cells(cells: Any, name: str) -> Any:
    """What :func:`write_cells` writes; ValueError, before there is a file, for what cannot be written."""
    prepare = writable_mudata if is_multimodal(cells) else writable
    return prepare(cells, f"model.{Path(name_of(cells, name)).stem}")


def write_cells(path: Path, parts: Any) -> None:
    """Writes what :func:`writable_cells` gave."""
    write = write_h5mu if path.name.endswith(MDATA) else write_h5ad
    write(path, parts)


def read_cells(path: Path) -> Any:
    """The AnnData or MuData of a file, None where there is none; ValueError if it cannot be read."""
    if not path.exists():
        return None
    try:
        check_links(path)
        return read_h5mu(path) if MDATA in path.name else read_h5ad(path)
    except ImportError:
        raise
    except Exception as error:  # a damaged file fails in as many ways as HDF5 and anndata have
        raise ValueError(
            f"{path} is truncated or no .h5ad or .h5mu file of its own ({error}); pass adata to load without it"
        ) from error

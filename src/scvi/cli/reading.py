"""Reads the files that are named on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData


def read_h5ad(file: Path) -> AnnData:
    """The cells of a file, in memory."""
    import anndata

    from scvi._links import check_links

    try:
        check_links(file)
        return anndata.read_h5ad(file)
    except Exception as error:  # a broken file fails in as many ways as HDF5 and anndata have
        raise ValueError(f"{str(file)!r} is no readable .h5ad file: {error}") from error

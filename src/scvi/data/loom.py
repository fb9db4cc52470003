"""Loom files."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvi._checks import check_flag
from scvi._warnings import warn
from scvi.data.files import Unreadable, as_counts, check_stored, names_of, numbered, open_hdf5, readable_as, stacked

logger = logging.getLogger(__name__)

_KIND = "a loom file"
_BLOCK_BYTES = 2**25

_CELL_NAMES = ("CellID", "obs_names", "cell_names", "barcode", "barcodes", "index")
_GENE_NAMES = (
    *("Gene", "var_names", "gene_names", "gene_symbols", "genes", "gene_name", "gene_symbol"),
    *("Accession", "gene_ids", "gene_id", "ensembl_id", "index"),
)
"""What names of cells and genes are called: by loom, by AnnData and scanpy, by others; symbols before identifiers."""


@dataclass(frozen=True, eq=False)
class Loom:
    """An open file, genes x cells, as n cells of G genes.

    Attributes
    ----------
    path
        Its name.
    matrix
        (G, n) counts.
    cells, genes
        Attributes by name, (n, ...) and (G, ...).
    others
        Attributes of the file.
    """

    path: str
    matrix: Any
    cells: dict[str, np.ndarray]
    genes: dict[str, np.ndarray]
    others: dict[str, Any]

    @property
    def shape(self) -> tuple[int, int]:
        """n, G."""
        return self.matrix.shape[1], self.matrix.shape[0]

    @property
    def step(self) -> int:
        """Cells that are read at once: whole chunks of the file."""
        chunk = self.matrix.chunks[1] if self.matrix.chunks else 1
        wanted = max(1, _BLOCK_BYTES // max(1, 8 * self.shape[1]))
        return max(1, wanted // chunk) * chunk if chunk <= wanted else wanted

    def rows(self, start: int, stop: int) -> sp.csr_matrix:
        """Counts of the cells from `start` up to `stop`."""
        firsts = range(start, stop, self.step)
        with readable_as(self.path, _KIND):
            parts = (self.matrix[:, first : min(first + self.step, stop)].T for first in firsts)
            return stacked([sp.csr_matrix(as_counts(part)) for part in parts], self.shape[1])

    def tables(
        self, obs_names: str = "CellID", var_names: str = "Gene"
    ) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, np.ndarray], dict[str, np.ndarray]]:
        """`obs`, `var`, `obsm` and `varm`, see :func:`read_loom`."""
        by = _naming(self.path, "column", "cell", self.cells, obs_names, self.shape[0])
        cells = _index(self.cells, by, self.shape[0])
        if not cells.is_unique:
            raise Unreadable(f"{self.path}: the column attribute {by!r} has repeated values, so it names no cells")
        genes = numbered(_index(self.genes, self.naming_genes(var_names), self.shape[1]))
        obs, obsm = _tables(self.cells, cells)
        var, varm = _tables(self.genes, genes)
        return obs, var, obsm, varm

    def naming_genes(self, wanted: str = "Gene") -> str | None:
        """The attribute with the names of the genes: `wanted`, or one that is called as such are; None, and a warning,
        where there is none."""
        return _naming(self.path, "row", "gene", self.genes, wanted, self.shape[1])


def open_loom(path: str | os.PathLike[str], allow_links: bool = False) -> AbstractContextManager[Loom]:
    """Opens a loom file of any version.

    Raises
    ------
    ValueError
        If it is damaged, or no loom file, or has links to other files that are not allowed.
    """
    return open_hdf5(path, _KIND, _opened, check_flag("allow_links", allow_links))


def read_loom(
    path: str | os.PathLike[str], *, obs_names: str = "CellID", var_names: str = "Gene", allow_links: bool = False
) -> AnnData:
    """Reads a loom file.

    Parameters
    ----------
    obs_names, var_names
        Attributes of columns and rows to name cells and genes by. Where a file has none of this name, one that is
        called as others call it is taken, such as "obs_names" and "var_names", which AnnData and scanpy write; where
        there is none of those either, numbers are the names, and a warning says so. Names of genes that occur twice get
        a number.
    allow_links
        Follow links to other files, which are refused otherwise: the maker of a file could name any that you may read.

    Returns
    -------
    Counts as CSR, cells x genes. Attributes of columns are in `obs`, or `obsm` where they have several columns, those
    of rows in `var` and `varm`, those of the file in `uns`.

    Raises
    ------
    ValueError
        If the file is damaged or no loom file, or names of cells repeat.
    """
    with open_loom(path, allow_links) as loom:
        obs, var, obsm, varm = loom.tables(obs_names, var_names)
        return AnnData(loom.rows(0, len(obs)), obs=obs, var=var, obsm=obsm, varm=varm, uns=dict(loom.others))


def _index(attributes: dict[str, np.ndarray], by: str | None, length: int) -> pd.Index:
    return pd.RangeIndex(length).astype(str) if by is None else pd.Index(names_of(attributes[by]).ravel())


def _naming(
    path: str, axis: str, what: Literal["cell", "gene"], attributes: dict[str, np.ndarray], wanted: str, length: int
) -> str | None:
    """The attribute that names cells or genes; what is not the one that was wanted is said."""
    names = [name for name, values in attributes.items() if values.size == length and values.dtype.kind not in "cV"]
    if wanted in names:
        return wanted
    usual = _CELL_NAMES if what == "cell" else _GENE_NAMES
    texts = {_plain(name): name for name in names if attributes[name].dtype.kind == "O"}  # numbers may be anything
    found = next((texts[_plain(name)] for name in usual if _plain(name) in texts), None)
    if found is None:
        warn(
            f"{path} has no names of {what}s: of the {axis} attributes "
            f"{', '.join(map(repr, dict.fromkeys((wanted, *usual))))} it has none (there are {sorted(attributes)}). "
            f"Numbers stand for the names, and {what}s of other files would be matched by number; if another attribute "
            "holds the names, say which"
        )
    elif wanted not in usual:
        warn(f"{path} has no {axis} attribute {wanted!r}; the names of the {what}s are those in {found!r}")
    else:
        logger.info("%s has no %s attribute %r; the names of the %ss are those in %r", path, axis, wanted, what, found)
    return found


def _plain(name: str) -> str:
    return name.replace("_", "").casefold()


def _tables(attributes: dict[str, np.ndarray], index: pd.Index) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Attributes of one column each, and those of several."""
    single = {name: values.ravel() for name, values in attributes.items() if values.size == len(index)}
    several = {name: values for name, values in attributes.items() if name not in single and values.ndim == 2}
    return pd.DataFrame(single, index=index), several


def _opened(path: Path, file: h5py.File) -> Loom:
    if "matrix" not in file or not isinstance(file["matrix"], h5py.Dataset) or file["matrix"].ndim != 2:
        raise ValueError("it has no two-dimensional /matrix")
    matrix = file["matrix"]
    check_stored(matrix)
    n_genes, n = matrix.shape
    others = {name: _scalar(value) for name, value in file.attrs.items()}  # until version 2
    if isinstance(file.get("attrs"), h5py.Group):  # from version 3 on
        others |= {name: _scalar(value[()]) for name, value in file["attrs"].items()}
    return Loom(
        path=str(path),
        matrix=matrix,
        cells=_attributes(file, "col_attrs", n, n_genes),
        genes=_attributes(file, "row_attrs", n_genes, n),
        others=others,
    )


def _attributes(file: h5py.File, group: str, length: int, other: int) -> dict[str, np.ndarray]:
    found = {}
    for name, stored in file.get(group, {}).items():
        if not isinstance(stored, h5py.Dataset):
            raise ValueError(f"/{group}/{name} is no list of values")
        check_stored(stored)
        values = stored[()]
        if np.ndim(values) == 0 or len(values) != length:
            hint = "; the matrix is stored the other way round" if np.ndim(values) and len(values) == other else ""
            raise ValueError(f"/{group}/{name} has shape {np.shape(values)} for {length} of them{hint}")
        found[name] = names_of(values) if values.dtype.kind in "SO" else values
    return found


def _scalar(value: Any) -> Any:
    """Text for bytes; arrays of one value, as some versions write them, stay arrays."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    return names_of(value) if isinstance(value, np.ndarray) and value.dtype.kind in "SO" else value

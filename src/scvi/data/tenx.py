"""Counts of 10x Genomics: folders of Cell Ranger 2 and 3, archives of such folders, and HDF5 files of both.

All hold genes x cells by cell, that is, cells x genes by row, and are read a range of cells at a time.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvi._checks import check_choice, check_flag
from scvi._warnings import warn
from scvi.data.archives import extract, is_archive
from scvi.data.files import (
    Unreadable,
    check_stored,
    csr_of,
    existing,
    names_of,
    numbered,
    open_hdf5,
    read_lines,
    readable_as,
    unique_names,
)
from scvi.data.matrix_market import read_header, read_matrix_market

GENES, ANTIBODIES = "Gene Expression", "Antibody Capture"
VarNames = Literal["gene_ids", "gene_symbols"]
_MATRICES = ("matrix.mtx", "matrix.mtx.gz")
_FEATURES = ("features.tsv.gz", "features.tsv", "genes.tsv", "genes.tsv.gz")
_BARCODES = ("barcodes.tsv", "barcodes.tsv.gz")
_KIND = "an HDF5 file of Cell Ranger"
_LARGEST = np.iinfo(np.int32).max


def read_10x(
    path: str | os.PathLike[str],
    *,
    var_names: VarNames = "gene_ids",
    genome: str | None = None,
    allow_links: bool = False,
) -> AnnData:
    """Reads the counts that Cell Ranger wrote.

    Parameters
    ----------
    path
        A folder with ``matrix.mtx``, ``genes.tsv`` and ``barcodes.tsv`` (version 2) or ``matrix.mtx.gz``,
        ``features.tsv.gz`` and ``barcodes.tsv.gz`` (version 3), or with one such folder somewhere below; a tar or zip
        archive of it; or an HDF5 file (``.h5``) of either version.
    var_names
        Which of the two names of a gene to index by. Symbols that occur twice get a number.
    genome
        Genes of this genome only; needed for HDF5 files of version 2 with several.
    allow_links
        Follow the links of an HDF5 file to others, which are refused otherwise: its maker could name any that you may
        read.

    Returns
    -------
    Cells by barcode, genes with the columns gene_ids, gene_symbols and feature_types, counts as CSR. Antibodies are in
    ``obsm["protein_expression"]`` (an array) with their names in ``uns["protein_names"]``; other features of type "Some
    Type" in ``obsm["some_type"]`` (CSR) with ``uns["some_type_names"]``.

    Raises
    ------
    FileNotFoundError
        If there is no such file or folder, or no matrix in it.
    ValueError
        If a file is damaged or not of this format, if files do not go together, or barcodes repeat.
    """
    check_choice("var_names", var_names, ("gene_ids", "gene_symbols"))
    with open_10x(path, genome, allow_links) as file:
        features, barcodes = file.features, file.barcodes
        counts = file.rows(0, file.shape[0])
    genes, others = genes_and_others(features, genome, path)
    obsm, uns = {}, {}
    for kind in others:
        chosen = np.flatnonzero((features["feature_types"] == kind).to_numpy())
        protein = kind == ANTIBODIES
        key = "protein_expression" if protein else kind.lower().replace(" ", "_")
        if not key or key in obsm:
            raise Unreadable(f"{path} has features of type {kind!r}, which is no name, or that of another type as well")
        obsm[key] = counts[:, chosen].toarray() if protein else counts[:, chosen]
        uns["protein_names" if protein else f"{key}_names"] = features[var_names].to_numpy()[chosen].astype(str)
    counts = columns_of(counts, genes)  # all features together are gone before the AnnData is made
    names = pd.RangeIndex(counts.shape[0]).astype(str) if barcodes is None else barcodes
    return AnnData(
        counts, obs=pd.DataFrame(index=names), var=var_table(features, genes, var_names, path), obsm=obsm, uns=uns
    )


@contextmanager
def open_10x(
    path: str | os.PathLike[str], genome: str | None = None, allow_links: bool = False
) -> Iterator[TenxFolder | TenxH5]:
    """Opens what :func:`read_10x` reads; an archive is unpacked for as long as it is open."""
    path = existing(path)
    if path.is_dir():
        yield TenxFolder(matrix_folder(path))
    elif is_archive(path):
        with tempfile.TemporaryDirectory(prefix="scvi-") as folder:
            extract(path, folder)
            yield TenxFolder(matrix_folder(Path(folder), named=path))
    elif h5py.is_hdf5(path):
        with open_tenx_h5(path, genome, allow_links) as file:
            yield file
    else:
        raise Unreadable(f"{path} is no HDF5 file, no tar or zip archive and no folder; nothing else is read here")


def genes_and_others(features: pd.DataFrame, genome: str | None, path: Any) -> tuple[np.ndarray, list[str]]:
    """Positions of the genes, and the other types of features that there are.

    Raises
    ------
    ValueError
        If there are no genes.
    """
    genes = (features["feature_types"] == GENES).to_numpy()
    if genome is not None and "genome" in features:
        genes &= (features["genome"] == genome).to_numpy()
    if not genes.any():
        types = sorted(set(features["feature_types"]))
        of = f" of genome {genome!r}" if genome is not None else ""
        raise Unreadable(f"{path} has no features of type {GENES!r}{of}; it has {types}")
    return np.flatnonzero(genes), sorted(set(features["feature_types"]) - {GENES})


def var_table(features: pd.DataFrame, genes: np.ndarray, var_names: VarNames, path: Any) -> pd.DataFrame:
    """`var` of these genes, with names that are unique; their positions, and a warning, where the file has no names."""
    chosen = features.iloc[genes]
    if var_names not in chosen:
        warn_of_numbers(path)
        return chosen.set_index(chosen.index.astype(str))
    return chosen.set_index(numbered(chosen[var_names].to_numpy()))


def warn_of_numbers(path: Any) -> None:
    """Says that genes have no names."""
    warn(
        f"{path} has no names of genes. Numbers stand for the names, and genes of other files would be matched by "
        "number: name them in adata.var_names"
    )


def columns_of(rows: sp.csr_matrix, features: np.ndarray) -> sp.csr_matrix:
    """Counts of these features; the matrix itself if they are all."""
    return rows if len(features) == rows.shape[1] else rows[:, features]


class TenxFolder:
    """A folder with a matrix: n cells, G features of any type.

    Attributes
    ----------
    shape
        n, G.
    barcodes
        (n,) names of the cells; None if there is no list of these.
    features
        Columns gene_ids, gene_symbols and feature_types; a row for each feature.
    row_bytes
        0: text is read from its beginning only, so it is read whole when its first cell is asked for.

    Raises
    ------
    FileNotFoundError
        If there is no list of features.
    ValueError
        If a list is damaged, or barcodes repeat.
    """

    row_bytes = 0.0

    def __init__(self, folder: Path) -> None:
        self.features, self.barcodes = _listed_features(folder), _listed_barcodes(folder)
        self._matrix = next(folder / name for name in _MATRICES if (folder / name).exists())
        self._counts: sp.csr_matrix | None = None
        n = _claimed_cells(self._matrix) if self.barcodes is None else len(self.barcodes)
        self.shape = n, len(self.features)

    def rows(self, start: int, stop: int) -> sp.csr_matrix:
        """Counts of the cells from `start` up to `stop`; they are forgotten with the last."""
        n, n_features = self.shape
        counts = read_matrix_market(self._matrix, n_features, n) if self._counts is None else self._counts
        self._counts = None if stop == n else counts
        return counts if stop - start == n else counts[start:stop]


def find_matrices(folder: Path) -> list[Path]:
    """All folders below with a matrix, the folder itself included, sorted."""
    found = {matrix.parent for name in _MATRICES for matrix in folder.rglob(name)}
    return sorted(place for place in found if not any(part.startswith(".") for part in place.relative_to(folder).parts))


def matrix_folder(folder: Path, named: Path | None = None) -> Path:
    """The one folder with a matrix, in `folder` or below.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is none, or if there are several.
    """
    found = find_matrices(folder)
    if not found:
        raise FileNotFoundError(f"No matrix.mtx(.gz) found in path ({named or folder})")
    if len(found) > 1 and folder not in found:
        inner = [str(place.relative_to(folder)) for place in found]
        raise Unreadable(f"{named or folder} holds several matrices, in {inner}; name one of these folders")
    return folder if folder in found else found[0]


def _listed_features(folder: Path) -> pd.DataFrame:
    file = next((folder / name for name in _FEATURES if (folder / name).exists()), None)
    if file is None:
        raise FileNotFoundError(f"there is no genes.tsv and no features.tsv(.gz) beside the matrix in {folder}")
    lines = read_lines(existing(file), "a list of genes")
    short = [i for i, fields in enumerate(lines) if len(fields) < len(lines[0]) or len(fields) < 2]
    if not lines or short:
        where = f"line {short[0] + 1} has {len(lines[short[0]])} fields" if short else "it has no lines"
        raise Unreadable(f"{file} is no list of genes with id and name, separated by tabs: {where}")
    columns = ["gene_ids", "gene_symbols", "feature_types"][: len(lines[0])]
    features = pd.DataFrame([fields[: len(columns)] for fields in lines], columns=columns, dtype=object)
    return features if "feature_types" in features else features.assign(feature_types=GENES)


def _listed_barcodes(folder: Path) -> pd.Index | None:
    file = next((folder / name for name in _BARCODES if (folder / name).exists()), None)
    if file is None:
        return None
    return unique_names([fields[0] for fields in read_lines(file, "a list of barcodes")], "barcodes", file)


def _claimed_cells(matrix: Path) -> int:
    """The number of cells where only the matrix tells it."""
    header = read_header(matrix)
    if header.n_cells > max(header.n_entries, 2**20):
        raise Unreadable(
            f"{matrix} claims {header.n_cells} cells for {header.n_entries} entries, and no barcodes are there"
        )
    return header.n_cells


@dataclass(frozen=True, eq=False)
class TenxH5:
    """An open file: n cells, G features of any type.

    Attributes
    ----------
    path
        Its name.
    indptr
        (n + 1,) where the entries of each cell end.
    shape
        n, G.
    """

    path: str
    group: Any
    indptr: np.ndarray
    shape: tuple[int, int]

    @property
    def row_bytes(self) -> float:
        """Mean size of a cell's counts while they are read."""
        return 8.0 * float(self.indptr[-1]) / max(self.shape[0], 1)

    @property
    def barcodes(self) -> pd.Index | None:
        """(n,) names of the cells; None if a file of version 2 has none."""
        if "barcodes" not in self.group and "features" not in self.group:
            return None
        return unique_names(self._names("barcodes", self.shape[0]), "barcodes", self.path)

    @property
    def features(self) -> pd.DataFrame:
        """Columns gene_ids, gene_symbols (where the file names its genes), feature_types and, in version 3, genome; a
        row for each feature."""
        n = self.shape[1]
        if "features" not in self.group:
            keys = {"gene_ids": "genes", "gene_symbols": "gene_names"}
            if not any(key in self.group for key in keys.values()):
                return pd.DataFrame({"feature_types": [GENES] * n})
            columns = {name: self._names(key, n) for name, key in keys.items()}
            return pd.DataFrame({**columns, "feature_types": GENES})
        keys = {"gene_ids": "id", "gene_symbols": "name", "feature_types": "feature_type"}
        if "features/genome" in self.group:
            keys["genome"] = "genome"
        return pd.DataFrame({name: self._names(f"features/{key}", n) for name, key in keys.items()})

    def rows(self, start: int, stop: int) -> sp.csr_matrix:
        """Counts of the cells from `start` up to `stop`, int32 or, where there are fractions, float32."""
        begin, end = self.indptr[start], self.indptr[stop]
        indptr = self.indptr[start : stop + 1] - begin
        stored = self.group["data"]
        with readable_as(self.path, _KIND):  # HDF5 makes what is beyond 32 bits the largest or smallest within
            data = stored.astype(np.int32 if stored.dtype.kind in "iu" else np.float32)[begin:end]
            indices = self.group["indices"].astype(np.int32)[begin:end]
            if data.dtype == np.int32 and data.max(initial=0) == _LARGEST:
                raise ValueError("it has a value beyond 32 bits, which is no count")
            if len(indices) and not 0 <= indices.min() <= indices.max() < self.shape[1]:
                raise ValueError(f"it has an entry of gene {indices.max()}, but {self.shape[1]} genes")
        rows = csr_of(data, indices, indptr, self.shape[1])
        rows.sort_indices()
        rows.sum_duplicates()
        return rows

    def _names(self, key: str, length: int) -> np.ndarray:
        with readable_as(self.path, _KIND):
            if key not in self.group:
                raise ValueError(f"it has no {self.group.name}/{key}")
            if self.group[key].shape != (length,):
                raise ValueError(f"{self.group.name}/{key} has shape {self.group[key].shape}, not ({length},)")
            return names_of(self.group[key][:])


def open_tenx_h5(
    path: str | os.PathLike[str], genome: str | None = None, allow_links: bool = False
) -> AbstractContextManager[TenxH5]:
    """Opens a file of either version.

    Parameters
    ----------
    genome
        The group to read where a version 2 file has several.
    allow_links
        Follow links to other files.

    Raises
    ------
    ValueError
        If it is damaged, or no such file, or has links that are not allowed.
    """
    return open_hdf5(path, _KIND, partial(_opened, genome=genome), check_flag("allow_links", allow_links))


def _opened(path: Path, file: h5py.File, genome: str | None) -> TenxH5:
    group = file[_group_name(path, file, genome)]
    for key in ("data", "indices", "indptr", "shape"):
        if key not in group or not isinstance(group[key], h5py.Dataset) or group[key].ndim != 1:
            raise ValueError(f"{group.name} has no list {key!r}")
        if group[key].dtype.kind not in "iuf":
            raise ValueError(f"{group.name}/{key} holds {group[key].dtype}, not numbers")
        check_stored(group[key])
    indptr = group["indptr"][:].astype(np.int64)
    shape = group["shape"][:].tolist()
    if len(shape) != 2 or len(indptr) != shape[1] + 1 or not 0 <= shape[0] <= _LARGEST:
        hint = "; it is stored by gene, and should be by cell" if len(indptr) == shape[0] + 1 else ""
        raise ValueError(f"its shape {shape} does not go with {len(indptr) - 1} cells{hint}")
    if indptr[0] != 0 or (np.diff(indptr) < 0).any():
        raise ValueError("its indptr does not rise from 0; it is damaged")
    if not len(group["data"]) == len(group["indices"]) == indptr[-1]:
        raise ValueError(f"it announces {indptr[-1]} entries and has {len(group['data'])}; it is damaged")
    return TenxH5(str(path), group, indptr, (shape[1], shape[0]))


def _group_name(path: Path, file: h5py.File, genome: str | None) -> str:
    groups = [name for name in file if isinstance(file[name], h5py.Group) and "indptr" in file[name]]
    if "matrix" in groups:
        return "matrix"
    if genome is not None:
        if genome not in groups:
            raise Unreadable(f"{path} has no genome {genome!r}; it has {groups}")
        return genome
    if len(groups) != 1:
        what = f"several genomes, {groups}; name one as `genome`" if groups else "no group with a matrix of counts"
        raise Unreadable(f"{path} has {what}")
    return groups[0]

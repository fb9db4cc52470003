"""Counts of 10x Genomics: folders of Cell Ranger 2 and 3, archives of such folders, and HDF5 files of both."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvi.data.archives import extract, is_archive
from scvi.data.files import Unreadable, existing, numbered, read_lines, unique_names
from scvi.data.matrix_market import read_header, read_matrix_market
from scvi.data.tenx_h5 import open_tenx_h5

__all__ = [
    "find_matrices",
    "genes_and_others",
    "listed_in_folder",
    "matrix_file",
    "matrix_folder",
    "read_10x",
    "var_table",
]

GENES = "Gene Expression"
_MATRICES = ("matrix.mtx", "matrix.mtx.gz")
VarNames = Literal["gene_ids", "gene_symbols"]


def read_10x(path: str | os.PathLike[str], *, var_names: VarNames = "gene_ids", genome: str | None = None) -> AnnData:
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
    if var_names not in ("gene_ids", "gene_symbols"):
        raise ValueError(f"var_names={var_names!r} is not one of 'gene_ids', 'gene_symbols'")
    path = existing(path)
    if path.is_file() and not is_archive(path):
        if not h5py.is_hdf5(path):
            raise Unreadable(f"{path} is no HDF5 file, no tar or zip archive and no folder; read_10x reads these")
        with open_tenx_h5(path, genome) as file:
            barcodes = unique_names(file.barcodes(), "barcodes", path)
            counts, features = file.rows(0, file.shape[0]), file.features()
    else:
        with _folder_of(path) as folder:
            features, listed = listed_in_folder(folder)
            matrix = matrix_file(folder)
            n_cells = _claimed_cells(matrix) if listed is None else len(listed)
            counts = read_matrix_market(matrix, len(features), n_cells)
            barcodes = pd.RangeIndex(n_cells).astype(str) if listed is None else listed
    return _assembled([counts], features, barcodes, var_names, genome, path)


@contextmanager
def _folder_of(path: Path) -> Iterator[Path]:
    """The folder with the matrix; that of an archive is unpacked for as long as it takes."""
    if path.is_dir():
        yield matrix_folder(path)
        return
    with tempfile.TemporaryDirectory(prefix="scvi-") as folder:
        extract(path, folder)
        yield matrix_folder(Path(folder), named=path)


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


def matrix_file(folder: Path) -> Path:
    """The matrix in a folder that has one."""
    return next(folder / name for name in _MATRICES if (folder / name).exists())


def listed_in_folder(folder: Path) -> tuple[pd.DataFrame, pd.Index | None]:
    """Features (gene_ids, gene_symbols, feature_types) and barcodes, None if there is no list of these."""
    files = [folder / name for name in ("features.tsv.gz", "features.tsv", "genes.tsv", "genes.tsv.gz")]
    file = next((file for file in files if file.exists()), None)
    if file is None:
        raise FileNotFoundError(f"there is no genes.tsv and no features.tsv(.gz) beside the matrix in {folder}")
    lines = read_lines(existing(file), "a list of genes")
    short = [i for i, fields in enumerate(lines) if len(fields) < len(lines[0]) or len(fields) < 2]
    if not lines or short:
        where = f"line {short[0] + 1} has {len(lines[short[0]])} fields" if short else "it has no lines"
        raise Unreadable(f"{file} is no list of genes with id and name, separated by tabs: {where}")
    columns = {"gene_ids": [fields[0] for fields in lines], "gene_symbols": [fields[1] for fields in lines]}
    types = [fields[2] for fields in lines] if len(lines[0]) > 2 else GENES
    features = pd.DataFrame({**columns, "feature_types": types}, dtype=object)
    names = [folder / name for name in ("barcodes.tsv", "barcodes.tsv.gz")]
    barcodes = next((name for name in names if name.exists()), None)
    if barcodes is None:
        return features, None
    return features, unique_names(
        [fields[0] for fields in read_lines(barcodes, "a list of barcodes")], "barcodes", barcodes
    )


def _claimed_cells(matrix: Path) -> int:
    """The number of cells where only the matrix tells it."""
    header = read_header(matrix)
    if header.n_cells > max(header.n_entries, 2**20):
        raise Unreadable(
            f"{matrix} claims {header.n_cells} cells for {header.n_entries} entries, and no barcodes are there"
        )
    return header.n_cells


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


def var_table(features: pd.DataFrame, genes: np.ndarray, var_names: VarNames) -> pd.DataFrame:
    """`var` of these genes, with names that are unique."""
    chosen = features.iloc[genes]
    return chosen.set_index(numbered(chosen[var_names].to_numpy()))


def _assembled(
    given: list[sp.csr_matrix],
    features: pd.DataFrame,
    barcodes: pd.Index,
    var_names: VarNames,
    genome: str | None,
    path: Path,
) -> AnnData:
    """`given` is emptied, so that all features together are gone before the AnnData is made."""
    genes, others = genes_and_others(features, genome, path)
    counts = given.pop()
    obsm, uns = {}, {}
    for kind in others:
        chosen = np.flatnonzero((features["feature_types"] == kind).to_numpy())
        protein = kind == "Antibody Capture"
        key = "protein_expression" if protein else kind.lower().replace(" ", "_")
        if not key or key in obsm:
            raise Unreadable(f"{path} has features of type {kind!r}, which is no name, or that of another type as well")
        obsm[key] = counts[:, chosen].toarray() if protein else counts[:, chosen]
        uns["protein_names" if protein else f"{key}_names"] = features[var_names].to_numpy()[chosen].astype(str)
    if len(genes) < len(features):
        counts = counts[:, genes]
    return AnnData(
        counts, obs=pd.DataFrame(index=barcodes), var=var_table(features, genes, var_names), obsm=obsm, uns=uns
    )

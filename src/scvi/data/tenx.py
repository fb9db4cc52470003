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

from scvi._checks import check_choice
from scvi.data.archives import extract, is_archive
from scvi.data.files import Unreadable, existing, numbered
from scvi.data.tenx_files import TenxFolder, TenxH5, matrix_folder, open_tenx_h5

__all__ = ["ANTIBODIES", "VarNames", "columns_of", "genes_and_others", "open_10x", "read_10x", "var_table"]

GENES, ANTIBODIES = "Gene Expression", "Antibody Capture"
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
    check_choice("var_names", var_names, ("gene_ids", "gene_symbols"))
    with open_10x(path, genome) as file:
        features, barcodes = file.features(), file.barcodes()
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
    return AnnData(counts, obs=pd.DataFrame(index=names), var=var_table(features, genes, var_names), obsm=obsm, uns=uns)


@contextmanager
def open_10x(path: str | os.PathLike[str], genome: str | None = None) -> Iterator[TenxFolder | TenxH5]:
    """Opens what :func:`read_10x` reads; an archive is unpacked for as long as it is open."""
    path = existing(path)
    if path.is_dir():
        yield TenxFolder(matrix_folder(path))
    elif is_archive(path):
        with tempfile.TemporaryDirectory(prefix="scvi-") as folder:
            extract(path, folder)
            yield TenxFolder(matrix_folder(Path(folder), named=path))
    elif h5py.is_hdf5(path):
        with open_tenx_h5(path, genome) as file:
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


def var_table(features: pd.DataFrame, genes: np.ndarray, var_names: VarNames) -> pd.DataFrame:
    """`var` of these genes, with names that are unique."""
    chosen = features.iloc[genes]
    return chosen.set_index(numbered(chosen[var_names].to_numpy()))


def columns_of(rows: sp.csr_matrix, features: np.ndarray) -> sp.csr_matrix:
    """Counts of these features; the matrix itself if they are all."""
    return rows if len(features) == rows.shape[1] else rows[:, features]

"""Folders of Cell Ranger: ``matrix.mtx``, ``genes.tsv``, ``barcodes.tsv`` of version 2, their like of version 3."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import scipy.sparse as sp

from scvi.data.files import Unreadable, existing, read_lines, unique_names
from scvi.data.matrix_market import read_header, read_matrix_market

__all__ = ["TenxFolder", "find_matrices", "matrix_folder"]

_MATRICES = ("matrix.mtx", "matrix.mtx.gz")
_FEATURES = ("features.tsv.gz", "features.tsv", "genes.tsv", "genes.tsv.gz")
_BARCODES = ("barcodes.tsv", "barcodes.tsv.gz")


class TenxFolder:
    """A folder with a matrix: n cells, G features of any type.

    Attributes
    ----------
    shape
        n, G.
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
        self._features, self._barcodes = _listed_features(folder), _listed_barcodes(folder)
        self._matrix = next(folder / name for name in _MATRICES if (folder / name).exists())
        self._counts: sp.csr_matrix | None = None
        n = _claimed_cells(self._matrix) if self._barcodes is None else len(self._barcodes)
        self.shape = n, len(self._features)

    def barcodes(self) -> pd.Index | None:
        """(n,) names of the cells; None if there is no list of these."""
        return self._barcodes

    def features(self) -> pd.DataFrame:
        """Columns gene_ids, gene_symbols and feature_types; a row for each feature."""
        return self._features

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
    return features if "feature_types" in features else features.assign(feature_types="Gene Expression")


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

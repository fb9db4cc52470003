"""seqFISH of the mouse hippocampus (Shah et al. 2016)."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvi.data.files import as_counts, existing, numbered, readable_as
from scvi.data.published import published
from scvi.dataset.dataset import DownloadableDataset

__all__ = ["SeqfishDataset", "read_seqfish"]

_SHEET = "Hippocampus Counts"


def read_seqfish(path: str | os.PathLike[str], sheet: str = _SHEET) -> AnnData:
    """Reads a sheet of an Excel workbook: a line of names, then a line for each cell, its name first.

    Returns
    -------
    Counts as CSR.

    Raises
    ------
    ImportError
        If openpyxl is not installed.
    ValueError
        If it is no workbook, has no such sheet, or holds something that is no number.
    """
    path = existing(path)
    try:
        import openpyxl  # noqa: F401  # pandas reads workbooks through it
    except ImportError as error:
        raise ImportError("reading .xlsx needs openpyxl: pip install 'scvi[xlsx]'") from error
    with readable_as(path, "an Excel workbook"):
        table = pd.read_excel(path, sheet_name=sheet, engine="openpyxl", index_col=0)
        if table.empty:
            raise ValueError(f"the sheet {sheet!r} has no counts")
        counts = sp.csr_matrix(as_counts(table.to_numpy()))
        names = pd.RangeIndex(counts.shape[0]).astype(str) if not table.index.is_unique else table.index.astype(str)
        return AnnData(
            counts, obs=pd.DataFrame(index=names), var=pd.DataFrame(index=numbered(table.columns.astype(str)))
        )


class SeqfishDataset(DownloadableDataset):
    """Counts of the mouse hippocampus by seqFISH, lines of the workbook as cells, without names of genes."""

    def __init__(self, save_path: str = "data/", delayed_populating: bool = False) -> None:
        file = published("seqfish")
        super().__init__(file.url, file.filename, save_path, delayed_populating)

    def populate(self) -> None:
        """Reads the workbook."""
        self.populate_from_data(read_seqfish(Path(self.save_path) / self.filenames[0]).X)

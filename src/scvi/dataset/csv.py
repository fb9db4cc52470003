"""The data sets of 2020 that were published as text tables of counts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData

from scvi.data import csv
from scvi.data.files import Compression, existing, read_table, readable_as
from scvi.data.published import FILES
from scvi.dataset.arrays import array_if_small
from scvi.dataset.dataset import DownloadableDataset

__all__ = ["BreastCancerDataset", "CsvDataset", "MouseOBDataset", "read_csv"]


def read_csv(
    path: str | os.PathLike[str],
    *,
    sep: str = ",",
    genes_in_rows: bool = True,
    compression: Compression = "infer",
    encoding: str = "utf-8-sig",
) -> AnnData:
    """As :func:`scvi.data.read_csv`, but a line is a gene, if nothing else is said."""
    return csv.read_csv(path, sep=sep, genes_in_rows=genes_in_rows, compression=compression, encoding=encoding)


class CsvDataset(DownloadableDataset):
    """Counts from a text table; cells without counts are left out.

    Parameters
    ----------
    filename
        Name of the file in `save_path`.
    save_path
        Folder of the file.
    url
        Where to download it from, if it is not there.
    new_n_genes
        How many genes to keep, see :meth:`GeneExpressionDataset.subsample_genes`.
    subset_genes
        Positions of genes to keep.
    compression
        How the file is compressed; None goes by its name.
    sep
        What separates the columns.
    gene_by_cell
        Whether a line is a gene (and a column a cell), or the other way round.
    labels_file, batch_ids_file
        Tables in `save_path` with a line of names above, names of the cells in the first column and labels or batches
        in the second.
    delayed_populating
        Only download.
    """

    def __init__(
        self,
        filename: str,
        save_path: str = "data/",
        url: str | None = None,
        new_n_genes: int | None = None,
        subset_genes: npt.ArrayLike | None = None,
        compression: Compression | None = None,
        sep: str = ",",
        gene_by_cell: bool = True,
        labels_file: str | None = None,
        batch_ids_file: str | None = None,
        delayed_populating: bool = False,
    ) -> None:
        self.new_n_genes = new_n_genes
        self.subset_genes = subset_genes
        self.compression = compression
        self.sep = sep
        self.gene_by_cell = gene_by_cell
        self.labels_file = labels_file
        self.batch_ids_file = batch_ids_file
        super().__init__(url, filename, save_path, delayed_populating)

    def populate(self) -> None:
        """Reads the table, and chooses genes where that was asked for."""
        adata = read_csv(
            self._paths[0],
            sep=self.sep,
            genes_in_rows=self.gene_by_cell,
            compression=self.compression or "infer",
        )
        labels, cell_types = self._column(self.labels_file, adata.obs_names)
        batches, _ = self._column(self.batch_ids_file, adata.obs_names)
        with self._all_or_nothing():
            self.populate_from_data(
                array_if_small(adata.X),
                batch_indices=batches,
                labels=labels,
                gene_names=adata.var_names.to_numpy(),
                cell_types=cell_types,
            )
            self.filter_cells_by_count()
            if self.new_n_genes is not None or self.subset_genes is not None:
                self.subsample_genes(self.new_n_genes, subset_genes=self.subset_genes)

    def _column(self, file: str | None, cells: pd.Index) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Codes of the cells and the values that they stand for; matched by name where names are those of the cells."""
        if file is None:
            return None, None
        path = existing(Path(self.save_path) / file)
        with readable_as(path, "a table with names of cells and one value for each"):
            column: Any = read_table(path, index_col=0, dtype={0: str}).iloc[:, 0]
            if len(column) != len(cells):
                raise ValueError(f"it has {len(column)} lines for {len(cells)} cells")
            if column.isna().any():
                raise ValueError(f"the value of {column.index[column.isna()][0]!r} is missing")
        if column.index.is_unique and set(column.index.astype(str)) == set(cells):
            column = column.set_axis(column.index.astype(str)).reindex(cells)
        values, codes = np.unique(column.to_numpy(), return_inverse=True)
        return codes, values.astype(str)


class BreastCancerDataset(CsvDataset):
    """Spatial transcriptomics of human breast cancer, layer 2 (Stahl et al. 2016): a cell is a spot called "XxY"."""

    def __init__(self, save_path: str = "data/", delayed_populating: bool = False) -> None:
        file = FILES["breast_cancer"]
        super().__init__(
            file.filename, save_path, file.url, sep="\t", gene_by_cell=False, delayed_populating=delayed_populating
        )


class MouseOBDataset(CsvDataset):
    """Spatial transcriptomics of the mouse olfactory bulb, replicate 11 (Stahl et al. 2016)."""

    def __init__(self, save_path: str = "data/", delayed_populating: bool = False) -> None:
        file = FILES["mouse_ob"]
        super().__init__(
            file.filename, save_path, file.url, sep="\t", gene_by_cell=False, delayed_populating=delayed_populating
        )

"""The data sets of 2020 that were published as loom files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from scvi.data.files import Unreadable, names_of
from scvi.data.loom import open_loom, read_loom
from scvi.data.published import FILES
from scvi.dataset.dataset import DownloadableDataset

__all__ = ["FrontalCortexDropseqDataset", "LoomDataset", "PreFrontalCortexStarmapDataset", "RetinaDataset", "read_loom"]

logger = logging.getLogger(__name__)


class LoomDataset(DownloadableDataset):
    """Counts from a loom file; cells without counts are left out.

    Attributes of rows and columns become attributes of genes and cells. Batches and labels may be codes or names.

    Parameters
    ----------
    filename
        Name of the file in `save_path`.
    save_path
        Folder of the file.
    url
        Where to download it from, if it is not there.
    batch_indices_attribute_name, labels_attribute_name
        Attributes of columns with the experimental batch and the label, if there are such.
    encode_labels_name_into_int
        Labels are names from the list of cell types, and are numbered by their place in it.
    gene_names_attribute_name
        Attribute of rows with the names of the genes.
    cell_types_attribute_name
        Attribute of the file with the names of the labels, in the order of their codes. Other attributes of the file
        are in `global_attributes_dict`.
    delayed_populating
        Only download.
    """

    def __init__(
        self,
        filename: str,
        save_path: str = "data/",
        url: str | None = None,
        batch_indices_attribute_name: str = "BatchID",
        labels_attribute_name: str = "ClusterID",
        encode_labels_name_into_int: bool = False,
        gene_names_attribute_name: str = "Gene",
        cell_types_attribute_name: str = "CellTypes",
        delayed_populating: bool = False,
    ) -> None:
        self.batch_indices_attribute_name = batch_indices_attribute_name
        self.labels_attribute_name = labels_attribute_name
        self.encode_labels_name_into_int = encode_labels_name_into_int
        self.gene_names_attribute_name = gene_names_attribute_name
        self.cell_types_attribute_name = cell_types_attribute_name
        self.global_attributes_dict: dict[str, Any] = {}
        super().__init__(url, filename, save_path, delayed_populating)

    @property
    def path(self) -> Path:
        """The file."""
        return self._paths[0]

    def populate(self) -> None:
        """Reads the file."""
        with open_loom(self.path) as loom:
            counts = loom.rows(0, loom.shape[0])
        cells, genes, others = dict(loom.cells), dict(loom.genes), dict(loom.others)
        labels, types = self._named_labels(
            cells.pop(self.labels_attribute_name, None), others.pop(self.cell_types_attribute_name, None)
        )
        batches = cells.pop(self.batch_indices_attribute_name, None)
        if batches is not None and batches.dtype.kind not in "iub":
            batches = pd.factorize(batches.ravel(), sort=True)[0]
        names = genes.pop(self.gene_names_attribute_name, None)
        self.global_attributes_dict = others
        nonempty = np.asarray(counts.sum(axis=1)).ravel() > 0
        if not nonempty.all():
            logger.warning("%d cells have no counts and are left out", int((~nonempty).sum()))
        self.populate_from_data(
            counts[nonempty],
            batch_indices=None if batches is None else batches.ravel()[nonempty],
            labels=None if labels is None else labels[nonempty],
            gene_names=None if names is None else names.ravel(),
            cell_types=types,
            cell_attributes_dict={name: values[nonempty] for name, values in cells.items()},
            gene_attributes_dict=genes,
        )

    def _named_labels(self, labels: np.ndarray | None, types: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Codes, and what they are called, if that is known."""
        types = None if types is None else names_of(np.atleast_1d(types)).ravel()
        if labels is None:
            return None, None
        labels = labels.ravel()
        if labels.dtype.kind in "iub" and not self.encode_labels_name_into_int:
            return labels, types
        if types is None:
            codes, types = pd.factorize(names_of(labels), sort=True)
            return codes, types
        codes = pd.Index(types).get_indexer(names_of(labels))
        if (codes < 0).any():
            raise Unreadable(
                f"{self.path} has the label {str(labels[codes < 0][0])!r}, which is not among its {len(types)} "
                f"{self.cell_types_attribute_name}"
            )
        return codes, types


_BIPOLAR = [
    "RBC",
    "MG",
    "BC5A",
    "BC7",
    "BC6",
    "BC5C",
    "BC1A",
    "BC3B",
    "BC1B",
    "BC2",
    "BC5D",
    "BC3A",
    "BC5B",
    "BC4",
    "BC8_9",
]
"""Types of the cells of RetinaDataset, by their code."""


class RetinaDataset(LoomDataset):
    """Bipolar cells of the mouse retina in two batches, 19,829 cells of 15 types (Shekhar et al. 2016)."""

    def __init__(self, save_path: str = "data/", delayed_populating: bool = False) -> None:
        file = FILES["retina"]
        super().__init__(file.filename, save_path, file.url, delayed_populating=delayed_populating)

    def _named_labels(self, labels: np.ndarray | None, types: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
        return super()._named_labels(labels, _BIPOLAR)


class PreFrontalCortexStarmapDataset(LoomDataset):
    """Mouse prefrontal cortex by STARmap, 3,704 cells and 166 genes in three batches (Wang et al. 2018).

    The places of the cells are their attributes x_coord and y_coord.
    """

    def __init__(self, save_path: str = "data/", delayed_populating: bool = False) -> None:
        file = FILES["starmap"]
        super().__init__(
            file.filename,
            save_path,
            file.url,
            labels_attribute_name="Clusters",
            encode_labels_name_into_int=True,
            delayed_populating=delayed_populating,
        )

    def populate(self) -> None:
        """Reads the file."""
        with self._all_or_nothing():
            super().populate()
            coordinates = np.asarray(getattr(self, "Spatial_coordinates", None))
            if coordinates.ndim != 2 or coordinates.shape[1] < 2:
                raise Unreadable(
                    f"{self.path} has no column attribute 'Spatial_coordinates' with two values for each cell"
                )
            self.initialize_cell_attribute("x_coord", coordinates[:, 0])
            self.initialize_cell_attribute("y_coord", coordinates[:, 1])


_LAYERS_FIRST = [5, 6, 3, 2, 4, 0, 1, 8, 7, 9, 10, 11, 12, 13]
"""Positions of the cell types of FrontalCortexDropseqDataset, the layers of the cortex first."""


class FrontalCortexDropseqDataset(LoomDataset):
    """Mouse frontal cortex by Drop-seq, 71,639 cells of 14 types and 7,611 genes (Saunders et al. 2018).

    Parameters
    ----------
    genes_to_keep
        Names of genes, to be kept in this order; all by default.
    """

    def __init__(
        self, save_path: str = "data/", genes_to_keep: Sequence[str] | None = None, delayed_populating: bool = False
    ) -> None:
        file = FILES["dropseq"]
        self.genes_to_keep = genes_to_keep
        super().__init__(
            file.filename,
            save_path,
            file.url,
            labels_attribute_name="Clusters",
            delayed_populating=delayed_populating,
        )

    def populate(self) -> None:
        """Reads the file, chooses genes, and puts the cell types into order."""
        with self._all_or_nothing():
            super().populate()
            if self.genes_to_keep is not None:
                self.reorder_genes(self.genes_to_keep, drop_omitted_genes=True)
            if self.cell_types is not None:
                self.reorder_cell_types([code for code in _LAYERS_FIRST if code < len(self.cell_types)])

"""The data sets of 2020 that were published as loom files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scvi.cells.categories import key_of, places_among
from scvi.data.files import Unreadable, is_finite, names_of, readable_as
from scvi.data.loom import open_loom, read_loom
from scvi.data.published import FILES
from scvi.dataset.anndataset import UNKNOWN
from scvi.dataset.arrays import LARGEST_CODE, array_if_small
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
            naming = loom.naming_genes(self.gene_names_attribute_name)
        cells, genes, others = dict(loom.cells), dict(loom.genes), dict(loom.others)
        with readable_as(self.path, "a loom file with batches and labels"):
            labels, types = self._named_labels(
                self._taken_from(cells, self.labels_attribute_name, "ClusterID"),
                others.pop(self.cell_types_attribute_name, None),
            )
            batches = self._taken_from(cells, self.batch_indices_attribute_name, "BatchID")
            batches, batch_names = (None, None) if batches is None else _numbered(batches)
        names = None if naming is None else genes.pop(naming).ravel()
        self.global_attributes_dict = others
        nonempty = np.asarray(counts.sum(axis=1)).ravel() > 0
        if not nonempty.all():
            logger.warning("%d cells have no counts and are left out", int((~nonempty).sum()))
        with self._all_or_nothing():
            self.populate_from_data(
                array_if_small(counts[nonempty]),
                batch_indices=None if batches is None else batches[nonempty],
                labels=None if labels is None else labels[nonempty],
                gene_names=names,
                cell_types=types,
                cell_attributes_dict={name: values[nonempty] for name, values in cells.items()},
                gene_attributes_dict=genes,
                remap_attributes=False,
            )
            if batch_names is not None:
                self.initialize_mapped_attribute("batch_indices", "batch_names", batch_names)
            self.remap_categorical_attributes()

    def _taken_from(self, cells: dict[str, np.ndarray], name: str, usual: str) -> np.ndarray | None:
        """An attribute of the cells, which is not among the others from then on; None, where there is none."""
        if name not in cells:
            if name != usual:
                logger.warning("%s has no column attribute %r; there are %s", self.path, name, sorted(cells))
            return None
        if cells[name].size != len(cells[name]):
            raise Unreadable(f"{self.path} has several values for each cell in {name!r}")
        return cells.pop(name).ravel()

    def _named_labels(self, labels: np.ndarray | None, types: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Codes, and what they are called, if that is known. Codes may be stored as integers, floats or text."""
        if labels is None:
            return None, None
        if types is None:
            return _numbered(labels)
        types = names_of(np.atleast_1d(types)).ravel()
        codes = places_among(types, labels)
        numbers = None if self.encode_labels_name_into_int else _numbers(labels)
        if numbers is not None and (labels.dtype.kind != "O" or (codes < 0).any()):
            missing = np.isnan(numbers)
            numbers = np.where(_is_code(numbers) & (numbers < len(types)), numbers, -1)
            codes = np.where(missing, len(types), numbers).astype(np.int64)
            if missing.any():
                logger.warning("%d cells have no label: they are called %r", int(missing.sum()), UNKNOWN)
                types = np.append(types, UNKNOWN)
        if (codes < 0).any():
            raise Unreadable(
                f"{self.path} has the label {str(_spelled(labels[codes < 0])[0])!r}, which is not among its "
                f"{len(types)} {self.cell_types_attribute_name}"
            )
        return codes, types


def _numbered(values: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Codes, as they are where the values are codes; otherwise the distinct values are numbered in their order, which
    is that of numbers where they are numbers, and are the names."""
    numbers = _numbers(values)
    if numbers is not None and values.dtype.kind != "O" and _is_code(numbers).all():
        return numbers.astype(np.int64), None
    _, first, codes = np.unique([key_of(value) for value in values], return_index=True, return_inverse=True)
    names = _spelled(values[first]).astype(str)
    order = np.argsort(names if numbers is None else numbers[first], kind="stable")
    return np.argsort(order)[codes], names[order]


def _numbers(values: np.ndarray) -> np.ndarray | None:
    """The numbers that these are, or that these texts spell; None if they are none."""
    if values.dtype.kind not in "biufO":
        return None
    try:
        return values.astype(np.float64)
    except ValueError:
        return None


def _is_code(numbers: np.ndarray) -> np.ndarray:
    return (numbers >= 0) & (numbers <= LARGEST_CODE) & (numbers == np.floor(numbers))


def _spelled(values: np.ndarray) -> np.ndarray:
    """Names of categories: texts as they are, whole numbers without a point, UNKNOWN where a number is missing."""
    if values.dtype.kind != "f":
        return names_of(values)
    return np.array([UNKNOWN if np.isnan(value) else key_of(value) for value in values], dtype=object)


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
            if coordinates.ndim != 2 or coordinates.shape[1] < 2 or not is_finite(coordinates):
                raise Unreadable(
                    f"{self.path} has no column attribute 'Spatial_coordinates' with two numbers for each cell"
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

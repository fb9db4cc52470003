"""GeneExpressionDataset: counts in memory, chosen, filtered and annotated under the 2020 names."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
from anndata import AnnData

from scvi.cells.checks import nearest
from scvi.cells.storage import Rows, gene_sums
from scvi.data.download import download_file
from scvi.data.variable_genes import seurat_v3_highly_variable_genes
from scvi.dataset.arrays import (
    as_text,
    check_nonnegative_integers,
    checked_matrix,
    compute_library_size,
    concatenate_arrays,
    corrupted_counts,
    nonzero_per_gene,
    per_cell_mean_one,
    positions_of,
    remap_categories,
)
from scvi.dataset.attributes import CellMeasurement
from scvi.dataset.exchange import as_anndata
from scvi.dataset.merging import codes_named, codes_per_matrix, merged, stacked, with_merged, with_order
from scvi.dataset.selection import SelectableCells

__all__ = [
    "CellMeasurement",
    "DownloadableDataset",
    "GeneExpressionDataset",
    "check_nonnegative_integers",
    "compute_library_size",
    "concatenate_arrays",
    "remap_categories",
    "seurat_v3_highly_variable_genes",
]

logger = logging.getLogger(__name__)


class GeneExpressionDataset(SelectableCells):
    """Gene expression of n cells and G genes, with batches, labels and any further annotation.

    The constructor makes an unpopulated object, a method ``populate_from_...`` fills it. Methods that choose or name
    cells or genes work in place.
    """

    def populate_from_data(
        self,
        X: npt.NDArray | sp.csr_matrix | sp.csr_array,
        Ys: Sequence[CellMeasurement] | None = None,
        batch_indices: npt.ArrayLike | None = None,
        labels: npt.ArrayLike | None = None,
        gene_names: Sequence[str] | npt.NDArray | None = None,
        cell_types: Sequence[str] | npt.NDArray | None = None,
        cell_attributes_dict: Mapping[str, Any] | None = None,
        gene_attributes_dict: Mapping[str, Any] | None = None,
        remap_attributes: bool = True,
    ) -> None:
        """Fills the data set.

        Parameters
        ----------
        X
            (n, G) counts. Arrays become float32, sparse matrices CSR of the type they have; values that are no counts
            are logged.
        Ys
            Further measurements of the cells.
        batch_indices, labels
            n codes; zeros by default.
        gene_names
            G names; repeated names are logged.
        cell_types
            Names of the labels, in the order of their codes.
        cell_attributes_dict, gene_attributes_dict
            Further attributes by name.
        remap_attributes
            Renumber batches and labels as 0, 1, 2...

        Raises
        ------
        ValueError
            If something does not fit; the data set stays as it was then.
        """
        X = checked_matrix(X)
        with self._all_or_nothing():
            self._populate(X, batch_indices, labels, gene_names, cell_types)
            for name, values in (cell_attributes_dict or {}).items():
                self.initialize_cell_attribute(name, values)
            for measurement in Ys or ():
                self.initialize_cell_measurement(measurement)
            for name, values in (gene_attributes_dict or {}).items():
                self.initialize_gene_attribute(name, values)
            if remap_attributes:
                self.remap_categorical_attributes()

    def populate_from_per_batch_list(
        self,
        Xs: Sequence[Rows] | npt.NDArray,
        labels_per_batch: Sequence[npt.ArrayLike] | None = None,
        gene_names: Sequence[str] | npt.NDArray | None = None,
        cell_types: Sequence[str] | npt.NDArray | None = None,
        remap_attributes: bool = True,
    ) -> None:
        """Fills the data set with one matrix for each batch; the cells of matrix i are batch i.

        Parameters
        ----------
        Xs
            Counts, (n_i, G) each: dense if all are, CSR otherwise. An array of three dimensions will do.
        labels_per_batch
            For each matrix, n_i codes.
        gene_names, cell_types, remap_attributes
            As in :meth:`populate_from_data`.

        Raises
        ------
        ValueError
            If sizes do not fit; the data set stays as it was then.
        """
        X, batch_indices = stacked(Xs, "batches")
        self.populate_from_data(
            X,
            batch_indices=batch_indices,
            labels=codes_per_matrix("labels_per_batch", labels_per_batch, batch_indices),
            gene_names=gene_names,
            cell_types=cell_types,
            remap_attributes=remap_attributes,
        )

    def populate_from_per_label_list(
        self,
        Xs: Sequence[Rows] | npt.NDArray,
        batch_indices_per_label: Sequence[npt.ArrayLike] | None = None,
        gene_names: Sequence[str] | npt.NDArray | None = None,
        remap_attributes: bool = True,
    ) -> None:
        """As :meth:`populate_from_per_batch_list`, but the cells of matrix i have label i. Labels have no names."""
        X, labels = stacked(Xs, "labels")
        self.populate_from_data(
            X,
            batch_indices=codes_per_matrix("batch_indices_per_label", batch_indices_per_label, labels),
            labels=labels,
            gene_names=gene_names,
            remap_attributes=remap_attributes,
        )

    def populate_from_datasets(
        self,
        gene_datasets_list: Sequence[GeneExpressionDataset],
        shared_labels: bool = True,
        mapping_reference_for_sharing: Mapping[str, str | None] | None = None,
        cell_measurement_intersection: Mapping[str, bool] | None = None,
    ) -> None:
        """Fills the data set with the cells of several, one after the other; these are not changed.

        Genes are those that all have, in the order of the first. Attributes of genes are kept (those of the first where
        several have one), attributes of cells if all have them. Codes of batches and of other categorical attributes
        stay apart: those of the next data set follow on those of the one before.

        Parameters
        ----------
        gene_datasets_list
            Data sets with gene names.
        shared_labels
            Whether labels of one name in `cell_types` are the same label. Otherwise they stay apart too, and names may
            repeat.
        mapping_reference_for_sharing
            For further categorical attributes, the list of names by which their codes are to be shared.
        cell_measurement_intersection
            For each measurement, whether to keep the columns that all have (the default), or all columns, filled with
            0 where they are missing; see :meth:`get_batch_mask_cell_measurement`. Columns are sorted by name.

        Raises
        ------
        ValueError
            If the data sets do not fit together; this one stays as it was then.
        """
        references = {"labels": "cell_types" if shared_labels else None, **(mapping_reference_for_sharing or {})}
        parts = merged(list(gene_datasets_list), references, cell_measurement_intersection or {})
        with self._all_or_nothing():
            self.populate_from_data(
                parts.X,
                Ys=parts.measurements,
                batch_indices=parts.codes.pop("batch_indices"),
                labels=parts.codes.pop("labels"),
                gene_names=parts.genes,
                cell_attributes_dict=parts.plain,
                gene_attributes_dict=parts.gene_attributes,
                remap_attributes=False,
            )
            for name, codes in parts.codes.items():
                self.initialize_cell_attribute(name, codes, categorical=True)
            for source, mappings in sorted(parts.mappings.items()):
                for name, values in mappings.items():
                    self.initialize_mapped_attribute(source, name, values)

    def _populate(
        self,
        X: Rows,
        batch_indices: npt.ArrayLike | None,
        labels: npt.ArrayLike | None,
        gene_names: Sequence[str] | npt.NDArray | None,
        cell_types: Sequence[str] | npt.NDArray | None,
    ) -> None:
        """Counts, codes, library sizes and names, in place of all that was there."""
        self._forget()
        self._X = np.ascontiguousarray(X, dtype=np.float32) if isinstance(X, np.ndarray) else X
        zeros = np.zeros((self.nb_cells, 1), dtype=np.uint16)
        self.initialize_cell_attribute("batch_indices", zeros if batch_indices is None else batch_indices, True)
        self.initialize_cell_attribute("labels", zeros if labels is None else labels, categorical=True)
        self.compute_library_size_batch()
        if gene_names is not None:
            names = as_text(gene_names, 64)
            if len(np.unique(names)) != len(names):
                logger.warning("Gene names are not unique.")
            self.initialize_gene_attribute("gene_names", names)
        if cell_types is not None:
            self.initialize_mapped_attribute("labels", "cell_types", as_text(cell_types, 128))
        elif labels is None:
            self.initialize_mapped_attribute("labels", "cell_types", as_text(["undefined"], 128))

    # cell types

    def cell_types_to_labels(self, cell_types: Sequence[Any] | npt.NDArray) -> npt.NDArray[np.int64]:
        """Codes of cell types given by name; if several have the name, all their codes."""
        return codes_named(cell_types, self._type_names())

    def filter_cell_types(self, cell_types: Sequence[Any] | npt.NDArray) -> None:
        """Keeps the cells of these types, given by name or by code. Codes stay as they are.

        Raises
        ------
        ValueError
            If they are neither, a name is unknown, or no cell would be left.
        """
        given = np.asarray(cell_types)
        codes = given if given.dtype.kind in "iu" else self.cell_types_to_labels(cell_types)
        self.filter_cells_by_attribute(codes, on="labels")

    def merge_cell_types(self, cell_types: Sequence[Any] | npt.NDArray, new_cell_type_name: str) -> None:
        """Makes one type of several, given by name or by code.

        Its code is the next free one. The names of the merged types get the suffix "#merged" and have no cells; they
        go with :meth:`remap_categorical_attributes`. A type that has the new name already is merged too.

        Raises
        ------
        ValueError
            If no type is given, or one is unknown.
        """
        names = self._type_names()
        merge = codes_named(cell_types, names)
        if not len(merge):
            raise ValueError("there are no cell types to merge; name one or more")
        merge = np.union1d(merge, np.flatnonzero(names == new_cell_type_name))
        self._set_types(*with_merged(self.labels, self._label_lists(), "cell_types", merge, new_cell_type_name))

    def map_cell_types(self, cell_types_dict: Mapping[Any, str]) -> None:
        """Merges types again and again.

        Parameters
        ----------
        cell_types_dict
            By tuples of types (or by a single type), given by name or by code: the name of what they become.
        """
        with self._all_or_nothing():
            for cell_types, new_name in cell_types_dict.items():
                self.merge_cell_types(cell_types if isinstance(cell_types, tuple) else (cell_types,), new_name)

    def reorder_cell_types(self, new_order: Sequence[Any] | npt.NDArray) -> None:
        """Renumbers the labels: these types, given by name or by code, come first, the others follow as they are.

        Types without cells are kept.

        Raises
        ------
        ValueError
            If a type is unknown or repeated.
        """
        names = self._type_names()
        self._set_types(*with_order(self.labels, self._label_lists(), len(names), codes_named(new_order, names)))

    def _type_names(self) -> npt.NDArray:
        if self.cell_types is None:
            raise ValueError(
                "labels have no names here; initialize_mapped_attribute('labels', 'cell_types', names) gives them some"
            )
        return np.asarray(self.cell_types).astype(str)

    def _label_lists(self) -> dict[str, npt.NDArray]:
        lists = {name: np.asarray(getattr(self, name)) for name in self.attribute_mappings["labels"]}
        return lists | {"cell_types": self._type_names()}

    def _set_types(self, labels: npt.NDArray, lists: Mapping[str, npt.NDArray]) -> None:
        self.labels = labels
        for name, values in lists.items():
            setattr(self, name, values)

    # derived versions and summaries

    def normalize(self) -> None:
        """Sets `norm_X`: counts over the mean count of their cell. Sparse stays sparse."""
        self.norm_X = per_cell_mean_one(self._counts)

    def corrupt(
        self, rate: float = 0.1, corruption: str = "uniform", *, rng: np.random.Generator | None = None
    ) -> None:
        """Sets `corrupted_X`, a copy of X with noise.

        Parameters
        ----------
        rate
            Share of the entries that are chosen, without replacement.
        corruption
            "uniform": non-zero entries are chosen, and each becomes 0 with probability 0.1.
            "binomial": any entries are chosen, and each is replaced by a Binomial(count, 0.2) draw.
        rng
            Source of the noise; by default one that is seeded by numpy's global state.

        Raises
        ------
        NotImplementedError
            For another corruption.
        """
        rng = np.random.default_rng(np.random.randint(2**31)) if rng is None else rng
        self.corrupted_X = corrupted_counts(self._counts, rate, corruption, rng)

    def raw_counts_properties(self, idx1: npt.ArrayLike, idx2: npt.ArrayLike) -> tuple[npt.NDArray, ...]:
        """Six summaries of two groups of cells, (G,) each.

        Returns
        -------
        Mean counts of group 1 and of group 2, shares of non-zero counts of both, mean normalised counts of both.
        """
        if self._norm_X is None:
            self.normalize()
        groups = [positions_of(idx, self.nb_cells, "cells") for idx in (idx1, idx2)]
        if not all(len(cells) for cells in groups):
            raise ValueError("a group of cells is empty")

        def means(matrix: Any) -> list[npt.NDArray]:
            return [gene_sums(matrix[cells])[0] / len(cells) for cells in groups]

        shares = [nonzero_per_gene(self._counts[cells]) / len(cells) for cells in groups]
        return (*means(self._counts), *shares, *means(self._norm_X))

    def get_batch_mask_cell_measurement(self, attribute_name: str) -> list[npt.NDArray[np.bool_]]:
        """Which columns of a measurement were measured in each batch: those with a value other than 0.

        Returns
        -------
        For each batch, in the order of the codes that occur, a mask of the columns.
        """
        if attribute_name not in self.cell_measurements_col_mappings:
            raise ValueError(
                f"{attribute_name!r} is not a registered measurement"
                f"{nearest(attribute_name, self.cell_measurements_col_mappings)}"
            )
        values, batches = getattr(self, attribute_name), self.batch_indices.ravel()
        return [nonzero_per_gene(values[batches == code]) > 0 for code in np.unique(batches)]

    def to_anndata(self) -> AnnData:
        """A copy as an AnnData, see :func:`scvi.dataset.exchange.as_anndata`."""
        return as_anndata(self)


class DownloadableDataset(GeneExpressionDataset, ABC):
    """A data set that is read from files, which are downloaded where they are not there yet.

    A subclass sets what its `populate` reads before it calls this constructor, which downloads and populates.

    Parameters
    ----------
    urls
        One or several; None if the files are there.
    filenames
        Names of the files, those with a URL first; dataset_0, dataset_1... by default.
    save_path
        Folder of the files.
    delayed_populating
        Leave `populate` to the user.

    Raises
    ------
    ValueError
        If there are more URLs than names.
    """

    def __init__(
        self,
        urls: str | Iterable[str] | None = None,
        filenames: str | Iterable[str] | None = None,
        save_path: str | os.PathLike[str] = "data/",
        delayed_populating: bool = False,
    ) -> None:
        super().__init__()
        self.urls = [urls] if isinstance(urls, str) else list(urls or ())
        names = [f"dataset_{i}" for i in range(len(self.urls))] if filenames is None else filenames
        self.filenames = [names] if isinstance(names, str) else list(names)
        if len(self.filenames) < len(self.urls):
            raise ValueError(f"there are {len(self.urls)} urls and {len(self.filenames)} filenames; name each file")
        self.save_path = os.path.abspath(save_path)
        self.download()
        if not delayed_populating:
            self.populate()

    @property
    def _paths(self) -> list[Path]:
        """Where the files are, once they are downloaded."""
        return [Path(self.save_path) / filename for filename in self.filenames]

    def download(self) -> None:
        """Downloads the files that have a URL and are not in `save_path` yet."""
        for url, filename in zip(self.urls, self.filenames, strict=False):
            download_file(url, filename, self.save_path)

    @abstractmethod
    def populate(self) -> None:
        """Fills the data set from its files."""

"""GeneExpressionDataset: counts in memory, chosen, filtered and annotated under the 2020 names."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvi.dataset.arrays import (
    check_nonnegative_integers,
    checked_matrix,
    compute_library_size,
    concatenate_arrays,
    corrupted_counts,
    per_cell_mean_one,
    positions_of,
    remap_categories,
)
from scvi.dataset.attributes import AnnotatedCells, CellMeasurement
from scvi.dataset.counts import Rows, chosen_blocks, gene_sums, row_sums, summed
from scvi.dataset.genes import population_variance, seurat_v3, seurat_v3_highly_variable_genes

__all__ = [
    "CellMeasurement",
    "GeneExpressionDataset",
    "check_nonnegative_integers",
    "compute_library_size",
    "concatenate_arrays",
    "remap_categories",
    "seurat_v3_highly_variable_genes",
]

logger = logging.getLogger(__name__)


class GeneExpressionDataset(AnnotatedCells):
    """Gene expression of n cells and G genes, with batches, labels and any further annotation.

    The constructor makes an unpopulated object, ``populate_from_data`` fills it. Methods that choose cells or genes
    work in place.
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
            names = _text(gene_names, 64)
            if len(np.unique(names)) != len(names):
                logger.warning("Gene names are not unique.")
            self.initialize_gene_attribute("gene_names", names)
        if cell_types is not None:
            self.initialize_mapped_attribute("labels", "cell_types", _text(cell_types, 128))
        elif labels is None:
            self.initialize_mapped_attribute("labels", "cell_types", _text(["undefined"], 128))

    # genes

    def update_genes(self, subset_genes: npt.ArrayLike) -> None:
        """Keeps the genes at these positions, in this order, or under this mask; then drops the cells left empty.

        Raises
        ------
        ValueError
            If no gene or no cell would be left; the data set stays as it was then.
        """
        genes = positions_of(subset_genes, self.nb_genes, "genes")
        logger.info("Downsampling from %d to %d genes", self.nb_genes, len(genes))
        with self._all_or_nothing():
            self._select_genes(genes)
            logger.info("Filtering non-expressing cells.")
            self.filter_cells_by_count()

    def subsample_genes(
        self,
        new_n_genes: int | None = None,
        new_ratio_genes: float | None = None,
        subset_genes: npt.ArrayLike | None = None,
        mode: str = "seurat_v3",
        batch_correction: bool = True,
    ) -> None:
        """Keeps some genes.

        Parameters
        ----------
        new_n_genes
            How many. Nothing is done if there are no more than that, or if it is below 1.
        new_ratio_genes
            Which share of them, between 0 and 1.
        subset_genes
            Positions or a mask of the genes to keep, whatever the other arguments say.
        mode
            "variance": the genes of highest variance, sorted by it. "seurat_v3": the choice of
            :func:`scvi.dataset.genes.seurat_v3`, in the order they have. There are no other modes.
        batch_correction
            Choose across batches ("seurat_v3").

        Raises
        ------
        ValueError
            For another mode.
        """
        if subset_genes is not None:
            self.update_genes(subset_genes)
            return
        if mode not in ("variance", "seurat_v3"):
            raise ValueError(f"Mode {mode!r} not implemented; it is not one of 'variance', 'seurat_v3'")
        if new_ratio_genes is not None:
            if not 0 < new_ratio_genes < 1:
                logger.info("Not subsampling. Expecting 0 < (new_ratio_genes=%s) < 1", new_ratio_genes)
                return
            new_n_genes = int(new_ratio_genes * self.nb_genes)
        if new_n_genes is not None and not 1 <= new_n_genes < self.nb_genes:
            logger.info("Not subsampling. Expecting 1 <= (new_n_genes=%s) < %d", new_n_genes, self.nb_genes)
            return
        if mode == "variance":
            if new_n_genes is None:
                logger.info("Not subsampling. Mode 'variance' needs new_n_genes or new_ratio_genes")
                return
            self.update_genes(np.argsort(-population_variance(self._counts), kind="stable")[:new_n_genes])
            return
        table = self._highly_variable_genes(new_n_genes, mode, batch_correction)
        self.update_genes(table["highly_variable"].to_numpy())

    def _highly_variable_genes(
        self, n_top_genes: int | None = None, flavor: str = "seurat_v3", batch_correction: bool = True
    ) -> pd.DataFrame:
        """The table of :func:`scvi.dataset.genes.seurat_v3`, indexed by the position of the gene as a string."""
        if flavor != "seurat_v3":
            raise ValueError(f"flavor={flavor!r} is not 'seurat_v3'")
        if n_top_genes is None:
            raise ValueError("flavor 'seurat_v3' needs n_top_genes, the number of genes to keep")
        logger.info("extracting highly variable genes using %s flavor", flavor)
        batched = batch_correction and len(np.unique(self.batch_indices)) >= 2
        table = seurat_v3(self._counts, n_top_genes, self.batch_indices if batched else None)
        return table.set_index(table.index.astype(str))

    def filter_genes_by_attribute(self, values_to_keep: npt.ArrayLike, on: str = "gene_names") -> None:
        """Keeps the genes whose attribute is one of these values, in the order they have."""
        self.update_genes(self._get_genes_filter_mask_by_attribute(values_to_keep, on, return_data=False))

    def _get_genes_filter_mask_by_attribute(
        self, values_to_keep: npt.ArrayLike, attribute_name: str = "gene_names", return_data: bool = True
    ) -> Any:
        """The mask of those genes; with `return_data` also their counts."""
        if attribute_name not in self.gene_attribute_names:
            raise ValueError(
                f"{attribute_name!r} is not a registered gene attribute; there are {sorted(self.gene_attribute_names)}"
            )
        mask = np.isin(getattr(self, attribute_name), np.asarray(values_to_keep))
        return (_columns(self._counts, np.flatnonzero(mask)), mask) if return_data else mask

    def filter_genes_by_count(self, min_count: int = 1, per_batch: bool = False) -> None:
        """Keeps the genes with a total of `min_count` or more; with `per_batch`, in every batch."""
        batches = self.batch_indices.ravel()
        groups = [batches == code for code in np.unique(batches)] if per_batch else [None]
        totals = [summed(chosen_blocks(self._counts, cells), self.nb_genes)[0] for cells in groups]
        self.update_genes(np.min(totals, axis=0) >= min_count)

    def make_gene_names_lower(self) -> None:
        """Writes all gene names in lower case."""
        self.gene_names = np.char.lower(self._names())

    def genes_to_index(self, genes: Sequence[Any] | npt.NDArray, on: str | None = None) -> npt.NDArray[np.int64]:
        """Positions of genes given by name, or by position already.

        Parameters
        ----------
        genes
            Values of the attribute `on`, or integers.
        on
            A gene attribute; gene_names by default.

        Raises
        ------
        IndexError
            If a name is not there.
        """
        given = np.asarray(genes)
        if given.size == 0 or given.dtype.kind in "iu":
            return given.astype(np.int64)
        names = self._names() if on is None else np.asarray(getattr(self, on))
        found = pd.Index(names.astype(object)).get_indexer_for(given.astype(object))
        if len(found) != len(given):
            raise ValueError(f"{on or 'gene_names'} has repeated values among {list(genes)[:5]}; give positions")
        if (found < 0).any():
            raise IndexError(f"unknown genes: {[str(name) for name in given[found < 0][:5]]}")
        return found.astype(np.int64)

    def reorder_genes(self, first_genes: Sequence[str] | npt.NDArray, drop_omitted_genes: bool = False) -> None:
        """Moves these genes to the front, in this order; the others follow in the order they have, or are dropped.

        Raises
        ------
        KeyError
            If a name is unknown.
        ValueError
            If a name is repeated.
        """
        try:
            first = self.genes_to_index(np.asarray(first_genes, dtype=str))
        except IndexError as error:
            raise KeyError(str(error)) from None
        if len(np.unique(first)) != len(first):
            raise ValueError(f"first_genes has repeated names among {list(first_genes)[:5]}; name each gene once")
        others = np.setdiff1d(np.arange(0 if drop_omitted_genes else self.nb_genes), first)
        self._select_genes(np.concatenate([first, others]).astype(np.int64))

    def _names(self) -> npt.NDArray[np.str_]:
        if self.gene_names is None:
            raise ValueError("this data set has no gene_names")
        return self.gene_names

    def _select_genes(self, genes: npt.NDArray[np.int64]) -> None:
        if len(genes) == 0:
            raise ValueError("no gene would be left")
        self._X = _columns(self._counts, genes)
        self._norm_X = None if self._norm_X is None else _columns(self._norm_X, genes)
        self._corrupted_X = None if self._corrupted_X is None else _columns(self._corrupted_X, genes)
        for name in self.gene_attribute_names:
            setattr(self, name, getattr(self, name)[genes])
        self.compute_library_size_batch()

    # cells

    def update_cells(self, subset_cells: npt.ArrayLike) -> None:
        """Keeps the cells at these positions, in this order (they may repeat), or under this mask."""
        cells = positions_of(subset_cells, self.nb_cells, "cells")
        if len(cells) == 0:
            raise ValueError("no cell would be left")
        logger.info("Downsampled from %d to %d cells", self.nb_cells, len(cells))
        kept = {name: getattr(self, name)[cells] for name in self.cell_attribute_names}
        self._X = self._counts[cells]
        self._norm_X = None if self._norm_X is None else self._norm_X[cells]
        self._corrupted_X = None if self._corrupted_X is None else self._corrupted_X[cells]
        for name, values in kept.items():
            setattr(self, name, values)
        self.compute_library_size_batch()

    def subsample_cells(self, size: float | int = 1.0) -> None:
        """Keeps the cells of the largest totals, largest first.

        Parameters
        ----------
        size
            How many (an integer), or which share (a float).

        Raises
        ------
        ValueError
            If it is no number of the cells there are, from 1 on, and no share between 0 and 1.
        """
        whole = isinstance(size, (int, np.integer)) and not isinstance(size, bool)
        if not (1 <= size <= self.nb_cells if whole else isinstance(size, (float, np.floating)) and 0 < size <= 1):
            raise ValueError(
                f"size={size!r} is neither a number of cells, an integer from 1 to {self.nb_cells}, nor a share of "
                "them, a float above 0 and up to 1"
            )
        n = int(size) if whole else int(size * self.nb_cells)
        self.update_cells(np.argsort(-row_sums(self._counts), kind="stable")[:n])

    def filter_cells_by_count(self, min_count: int = 1) -> None:
        """Keeps the cells with a total of `min_count` or more."""
        enough = row_sums(self._counts) >= min_count
        if not enough.all():
            self.update_cells(enough)

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
        raw = [self._counts[cells] for cells in groups]
        norm = [self._norm_X[cells] for cells in groups]  # type: ignore[index]
        means = [gene_sums(rows)[0] / rows.shape[0] for rows in raw]
        shares = [_nonzero_per_gene(rows) / rows.shape[0] for rows in raw]
        norm_means = [gene_sums(rows)[0] / rows.shape[0] for rows in norm]
        return (*means, *shares, *norm_means)

    def to_anndata(self) -> AnnData:
        """A copy as an AnnData.

        Attributes of cells are columns of `obs` (the names of labels as "cell_types", where known), or entries of
        `obsm` if they have several columns, as measurements have; attributes of genes are columns of `var`. The names
        of a measurement's columns are in `uns`, under the name that ``uns["cell_measurements_col_mappings"]`` gives.
        """
        obs, obsm = {}, {}
        for name in sorted(self.cell_attribute_names - {"local_means", "local_vars"}):
            values = getattr(self, name)
            if name == "labels" and self.cell_types is not None:
                obs["cell_types"] = np.asarray(self.cell_types)[values.ravel()]
            elif name in self.cell_measurements_col_mappings or (np.ndim(values) > 1 and values.shape[1] != 1):
                obsm[name] = values.copy()
            else:
                obs[name] = np.ravel(values)
        genes = {name: getattr(self, name) for name in sorted(self.gene_attribute_names - {"gene_names"})}
        names = np.arange(self.nb_genes).astype(str) if self.gene_names is None else self.gene_names
        columns = self.cell_measurements_col_mappings
        return AnnData(
            X=self._counts.copy(),
            obs=pd.DataFrame(obs, index=np.arange(self.nb_cells).astype(str)),
            var=pd.DataFrame({n: np.ravel(v) for n, v in genes.items() if np.size(v) == self.nb_genes}, index=names),
            varm={n: np.array(v) for n, v in genes.items() if np.size(v) != self.nb_genes},
            obsm=obsm,
            uns={"cell_measurements_col_mappings": dict(columns)}
            | {name: np.array(getattr(self, name)) for name in columns.values()},
        )


def _text(names: Sequence[str] | npt.NDArray, width: int) -> npt.NDArray[np.str_]:
    """Names as an array of at least this width; longer ones are not cut."""
    text = np.asarray(names).astype(str).ravel()
    return text.astype(f"<U{max(width, text.dtype.itemsize // 4)}")


def _columns(matrix: Rows, genes: npt.NDArray[np.int64]) -> Rows:
    return np.take(matrix, genes, axis=1) if isinstance(matrix, np.ndarray) else matrix[:, genes]


def _nonzero_per_gene(rows: Rows) -> npt.NDArray:
    return np.asarray((rows != 0).sum(axis=0)).ravel()

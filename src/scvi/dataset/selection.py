"""Choosing cells and genes of a data set, in place."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from operator import getitem
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from scvi._checks import check_choice
from scvi.cells.storage import chosen_blocks, row_sums, summed
from scvi.data.variable_genes import dispersion_genes, population_variance, seurat_v3
from scvi.dataset.arrays import columns_of, positions_of
from scvi.dataset.attributes import AnnotatedCells

__all__ = ["SelectableCells"]

logger = logging.getLogger(__name__)

_MODES = ("variance", "seurat_v2", "cell_ranger", "seurat_v3")


class SelectableCells(AnnotatedCells):
    """Annotated cells, of which some cells and genes can be kept. All methods work in place.

    What is refused changes nothing.
    """

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
        **highly_var_genes_kwargs: float,
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
            "variance": the genes of highest variance, sorted by it. Otherwise the genes stay in the order they have:
            "seurat_v3" chooses by :func:`scvi.data.variable_genes.seurat_v3`, "seurat_v2" and "cell_ranger" by
            :func:`scvi.data.variable_genes.dispersion_genes`, which need no number of genes.
        batch_correction
            Choose across batches (not in mode "variance").
        **highly_var_genes_kwargs
            Further arguments of :func:`scvi.data.variable_genes.dispersion_genes`, such as `n_bins`. Modes other than
            its two take them, too, and have no use for them.

        Raises
        ------
        ValueError
            For another mode.
        TypeError
            For a further argument that no mode takes.
        """
        if subset_genes is not None:
            self.update_genes(subset_genes)
            return
        if mode not in _MODES:
            raise ValueError(f"Mode {mode!r} not implemented; it is not one of {', '.join(map(repr, _MODES))}")
        if new_ratio_genes is not None:
            new_n_genes = int(new_ratio_genes * self.nb_genes) if 0 < new_ratio_genes < 1 else 0
        _check_further(highly_var_genes_kwargs)
        keep_all = mode == "variance" if new_n_genes is None else not 1 <= new_n_genes < self.nb_genes
        if keep_all:
            logger.info(
                "Not subsampling. Expecting 0 < (new_ratio_genes=%s) < 1, or 1 <= (new_n_genes=%s) < %d",
                *(new_ratio_genes, new_n_genes, self.nb_genes),
            )
            return
        if mode == "variance":
            self.update_genes(np.argsort(-population_variance(self._counts), kind="stable")[:new_n_genes])
            return
        table = self._highly_variable_genes(new_n_genes, mode, batch_correction, **highly_var_genes_kwargs)
        self.update_genes(table["highly_variable"].to_numpy())

    def _highly_variable_genes(
        self,
        n_top_genes: int | None = None,
        flavor: str = "seurat_v3",
        batch_correction: bool = True,
        **highly_var_genes_kwargs: float,
    ) -> pd.DataFrame:
        """The table of the function that chooses genes, indexed by the position of the gene as a string."""
        check_choice("flavor", flavor, _MODES[1:])
        _check_further(highly_var_genes_kwargs)
        if flavor == "seurat_v3" and n_top_genes is None:
            raise ValueError("flavor 'seurat_v3' needs n_top_genes, the number of genes to keep")
        logger.info("extracting highly variable genes using %s flavor", flavor)
        batch = self.batch_indices if batch_correction and len(np.unique(self.batch_indices)) >= 2 else None
        if flavor == "seurat_v3":
            table = seurat_v3(self._counts, n_top_genes, batch)  # type: ignore[arg-type]
        else:
            table = dispersion_genes(self._counts, flavor, n_top_genes, batch, **highly_var_genes_kwargs)  # type: ignore[arg-type]
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
        return (columns_of(self._counts, np.flatnonzero(mask)), mask) if return_data else mask

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
        self._select(self.gene_attribute_names, genes, columns_of)

    def _select(self, names: set[str], chosen: npt.NDArray[np.int64], of_matrix: Callable[[Any, Any], Any]) -> None:
        """Keeps these entries of the attributes, and the rows or columns of the counts and what was made of them."""
        kept = {name: getattr(self, name)[chosen] for name in names}
        for version in ("_X", "_norm_X", "_corrupted_X"):
            matrix = getattr(self, version)
            setattr(self, version, None if matrix is None else of_matrix(matrix, chosen))
        for name, values in kept.items():
            setattr(self, name, values)
        self.compute_library_size_batch()

    # cells

    def update_cells(self, subset_cells: npt.ArrayLike) -> None:
        """Keeps the cells at these positions, in this order (they may repeat), or under this mask."""
        cells = positions_of(subset_cells, self.nb_cells, "cells")
        if len(cells) == 0:
            raise ValueError("no cell would be left")
        logger.info("Downsampled from %d to %d cells", self.nb_cells, len(cells))
        self._select(self.cell_attribute_names, cells, getitem)

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

    def filter_cells_by_attribute(self, values_to_keep: npt.ArrayLike, on: str = "labels") -> None:
        """Keeps the cells whose attribute, of one column, is one of these values.

        Raises
        ------
        ValueError
            If there is no such attribute, or no cell would be left.
        """
        if on not in self.cell_attribute_names:
            raise ValueError(
                f"{on!r} is not a registered cell attribute; there are {sorted(self.cell_attribute_names)}"
            )
        values = getattr(self, on)
        if values.shape not in {(self.nb_cells,), (self.nb_cells, 1)}:
            raise ValueError(f"{on} has shape {values.shape}; cells are chosen by an attribute of one column")
        self.update_cells(np.isin(np.ravel(values), np.asarray(values_to_keep)))

    def filter_cells_by_count(self, min_count: int = 1) -> None:
        """Keeps the cells with a total of `min_count` or more."""
        enough = row_sums(self._counts) >= min_count
        if not enough.all():
            self.update_cells(enough)


def _check_further(arguments: Mapping[str, Any]) -> None:
    """Refuses what no way of choosing genes takes; scripts of 2020 give one list of arguments to all of them."""
    known = [p.name for p in signature(dispersion_genes).parameters.values() if p.kind is p.KEYWORD_ONLY]
    unknown = [name for name in arguments if name not in known]
    if unknown:
        raise TypeError(f"subsample_genes takes no {', '.join(unknown)}; further arguments are {', '.join(known)}")

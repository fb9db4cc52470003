"""What several data sets, matrices, or categories of cells are together. Nothing here changes its input."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp

from scvi.cells.checks import named, nearest
from scvi.cells.storage import Rows
from scvi.data.files import shared_names
from scvi.dataset.arrays import as_text, columns_of, concatenate_arrays, remap_categories
from scvi.dataset.attributes import COMPUTED, AnnotatedCells, CellMeasurement

__all__ = ["Merged", "codes_named", "codes_per_matrix", "merged", "stacked", "with_merged", "with_order"]

logger = logging.getLogger(__name__)

MERGED = "#merged"
"""Suffix of the name of a category that has been merged into another."""

Mappings = dict[str, npt.NDArray]
"""Lists indexed by the codes of an attribute, by their names."""


@dataclass
class Merged:
    """The parts of a data set, as they are registered."""

    X: Rows
    genes: npt.NDArray[np.str_]
    gene_attributes: dict[str, Any]
    codes: dict[str, npt.NDArray]  # categorical attributes of cells
    plain: dict[str, Any]  # other attributes of cells
    measurements: list[CellMeasurement]
    mappings: dict[str, Mappings]  # lists that codes of cells or genes refer to, by their attribute


def merged(
    datasets: Sequence[AnnotatedCells], references: Mapping[str, str | None], intersection: Mapping[str, bool]
) -> Merged:
    """The cells of all data sets, one after the other, with the genes and the attributes of cells that all have.

    Parameters
    ----------
    datasets
        Populated, with gene names.
    references
        For a categorical attribute, the list of names by which its codes are the same category in all data sets. The
        codes of the others stay apart.
    intersection
        For a measurement, whether to keep the columns that all have (the default) or all columns.

    Raises
    ------
    TypeError
        If something else than a data set is among them.
    ValueError
        If there is no gene in common, or an argument names what the data sets lack.
    """
    _check(datasets)
    genes = _shared_genes(datasets)
    measured = set.intersection(*(set(dataset.cell_measurements_col_mappings) for dataset in datasets))
    coded = set.intersection(*(dataset.cell_categorical_attribute_names for dataset in datasets))
    _check_known("mapping_reference_for_sharing", references, coded)
    _check_known("cell_measurement_intersection", intersection, measured)
    names = set.intersection(*(dataset.cell_attribute_names for dataset in datasets)) - COMPUTED - coded - measured
    plain = {name: _concatenated(name, datasets) for name in sorted(names)}
    positions = [pd.Index(dataset.gene_names).get_indexer(genes) for dataset in datasets]
    attributes, mappings = _gene_attributes(datasets, positions)
    categorical = {name: _merged_codes(name, datasets, references.get(name)) for name in sorted(coded)}
    measurements = [_merged_measurement(name, datasets, intersection.get(name, True)) for name in sorted(measured)]
    logger.info("Keeping %d genes", len(genes))
    return Merged(
        X=concatenate_arrays(list(map(_chosen_genes, datasets, positions))),  # last: what does not fit is known by now
        genes=genes,
        gene_attributes=attributes,
        codes={name: codes for name, (codes, _) in categorical.items()},
        plain={name: values for name, values in plain.items() if values is not None},
        measurements=measurements,
        mappings=mappings | {name: lists for name, (_, lists) in categorical.items()},
    )


def _check(datasets: Sequence[AnnotatedCells]) -> None:
    if not datasets:
        raise ValueError("gene_datasets_list is empty; pass the data sets to merge")
    for place, dataset in enumerate(datasets):
        if not isinstance(dataset, AnnotatedCells):
            raise TypeError(
                f"gene_datasets_list holds a {type(dataset).__name__}; pass data sets (AnnDatasetFromAnnData makes one)"
            )
        if dataset.X is None or dataset.gene_names is None:
            raise ValueError(f"data set {place} of the list has no gene_names; genes are matched by name")


def _check_known(argument: str, given: Mapping[str, Any], known: set[str]) -> None:
    for name in given:
        if name not in known:
            raise ValueError(
                f"{argument}: {name!r} is no such attribute of all data sets{nearest(name, sorted(known))}"
            )


# genes


def _shared_genes(datasets: Sequence[AnnotatedCells]) -> npt.NDArray[np.str_]:
    """Names that all data sets have, in the order of the first."""
    each = [pd.Index(dataset.gene_names) for dataset in datasets]
    shared = shared_names(each)
    for place, names in enumerate(each):
        repeated = names[names.duplicated() & names.isin(shared)].unique()
        if len(repeated):
            raise ValueError(
                f"data set {place} of the list has several genes called {named(repeated)}; name them apart"
            )
    if not len(shared):
        raise ValueError("the data sets have no gene in common; are the names of one kind, and in one case?")
    return np.asarray(shared).astype(str)


def _chosen_genes(dataset: AnnotatedCells, positions: npt.NDArray[np.int64]) -> Rows:
    """Counts of these genes; the matrix itself if it has just these."""
    same = np.array_equal(positions, np.arange(dataset.nb_genes))
    return dataset._counts if same else columns_of(dataset._counts, positions)


def _gene_attributes(
    datasets: Sequence[AnnotatedCells], positions: Sequence[npt.NDArray[np.int64]]
) -> tuple[dict[str, Any], dict[str, Mappings]]:
    """Attributes of the genes at these positions, and the lists that they refer to, from the first that has them."""
    attributes: dict[str, Any] = {}
    mappings: dict[str, Mappings] = {}
    for dataset, chosen in zip(datasets, positions, strict=True):
        for name in sorted(dataset.gene_attribute_names - {"gene_names"} - attributes.keys()):
            attributes[name] = getattr(dataset, name)[chosen]
            mappings[name] = _mappings(dataset, name)
    return attributes, mappings


# attributes of cells


def _mappings(dataset: AnnotatedCells, name: str) -> Mappings:
    return {mapping: np.array(getattr(dataset, mapping)) for mapping in dataset.attribute_mappings.get(name, ())}


def _concatenated(name: str, datasets: Sequence[AnnotatedCells]) -> Any:
    """The values of all cells; None, and a line in the log, if they do not fit together."""
    if any(name in dataset.cell_categorical_attribute_names for dataset in datasets):
        logger.warning("%s is categorical in some data sets only; its values stay as they are", name)
    parts = [getattr(dataset, name) for dataset in datasets]
    if {part.ndim for part in parts} == {1, 2}:
        parts = [part.reshape(-1, 1) if part.ndim == 1 else part for part in parts]
    if len({part.shape[1:] for part in parts}) > 1:
        logger.warning("%s is left out: it has shapes %s", name, [part.shape for part in parts])
        return None
    return concatenate_arrays(parts)


def _merged_codes(name: str, datasets: Sequence[AnnotatedCells], reference: str | None) -> tuple[npt.NDArray, Mappings]:
    """Codes of all cells, and the lists indexed by them that all data sets have."""
    remapped = [remap_categories(getattr(each, name), mappings_dict=_mappings(each, name)) for each in datasets]
    codes, sizes, mappings = zip(*remapped, strict=True)
    shared = [mapping for mapping in mappings[0] if all(mapping in each for each in mappings)]
    lists = {mapping: np.concatenate([each[mapping] for each in mappings]) for mapping in shared}
    starts = np.cumsum([0, *sizes[:-1]])
    apart = concatenate_arrays([each.astype(np.int64) + start for each, start in zip(codes, starts, strict=True)])
    if reference is None:
        return apart, lists
    if reference not in shared:
        hint = "; shared_labels=False keeps them apart" if name == "labels" else ""
        raise ValueError(f"not all data sets have {reference!r}, by which {name} are to be shared{hint}")
    code_of_name, _ = pd.factorize(lists[reference].astype(object), use_na_sentinel=False)  # in first-seen order
    _, first = np.unique(code_of_name, return_index=True)
    return code_of_name[apart], {mapping: values[first] for mapping, values in lists.items()}


# measurements


def _merged_measurement(name: str, datasets: Sequence[AnnotatedCells], intersection: bool) -> CellMeasurement:
    """Columns that all have, or all columns, sorted by name; 0 where a column is missing."""
    columns_name = datasets[0].cell_measurements_col_mappings[name]
    columns = [np.asarray(getattr(dataset, dataset.cell_measurements_col_mappings[name])) for dataset in datasets]
    if len({each.dtype.kind in "iuf" for each in columns}) > 1:  # numbers in one, names in another
        columns = [each.astype(str) for each in columns]
    for place, each in enumerate(columns):
        if len(np.unique(each)) != len(each):
            raise ValueError(f"{columns_name} of data set {place} of the list has repeated names; name columns apart")
    wanted = np.unique(reduce(np.intersect1d if intersection else np.union1d, columns))
    if intersection and not len(wanted):
        raise ValueError(
            f"no column of {name} is in all data sets; cell_measurement_intersection={{{name!r}: False}} keeps all"
        )
    parts = [_aligned(getattr(d, name), each, wanted) for d, each in zip(datasets, columns, strict=True)]
    return CellMeasurement(name, concatenate_arrays(parts), columns_name, wanted)


def _aligned(data: Any, columns: npt.NDArray, wanted: npt.NDArray) -> Any:
    """(n, k) data of the columns that are wanted, 0 where there is none."""
    positions = pd.Index(columns).get_indexer(pd.Index(wanted))
    have = np.flatnonzero(positions >= 0)
    if sp.issparse(data):
        entries = (np.ones(len(have), dtype=data.dtype), (positions[have], have))
        return sp.csr_matrix(data @ sp.csr_matrix(entries, shape=(len(columns), len(wanted))))
    aligned = np.zeros((data.shape[0], len(wanted)), dtype=data.dtype)
    aligned[:, have] = data[:, positions[have]]
    return aligned


# matrices


def stacked(Xs: Sequence[Rows] | npt.NDArray, what: str) -> tuple[Rows, npt.NDArray[np.int64]]:
    """Matrices one below the other, and for each cell the position of its matrix."""
    matrices = [X if sp.issparse(X) else np.asarray(X) for X in Xs]
    if not matrices:
        raise ValueError("Xs is empty; pass one matrix or more")
    if any(X.ndim != 2 for X in matrices):
        raise ValueError(f"Xs should hold 2-dimensional matrices; they have {[X.ndim for X in matrices]} dimensions")
    if len({X.shape[1] for X in matrices}) > 1:
        raise ValueError(f"All {what} must have same nb_genes; there are {[X.shape[1] for X in matrices]}")
    return concatenate_arrays(matrices), np.repeat(np.arange(len(matrices)), [X.shape[0] for X in matrices])


def codes_per_matrix(
    argument: str, codes: Sequence[npt.ArrayLike] | None, places: npt.NDArray[np.int64]
) -> npt.NDArray | None:
    """Codes of all cells, from codes for each matrix."""
    if codes is None:
        return None
    each = [np.ravel(np.asarray(part)) for part in codes]
    sizes, expected = [len(part) for part in each], np.bincount(places, minlength=len(each)).tolist()
    if sizes != expected:
        raise ValueError(f"{argument} has codes for {sizes} cells; the matrices have {expected}")
    return np.concatenate(each)


# categories of cells: codes, and the lists that are indexed by them


def codes_named(which: Sequence[Any] | npt.NDArray, names: npt.NDArray) -> npt.NDArray[np.int64]:
    """Codes of categories given by name, or by code already; all codes of a name that several have.

    Raises
    ------
    ValueError
        If they are neither, or unknown.
    """
    given = np.asarray(which).ravel()
    if given.dtype.kind in "iu":
        unknown = given[(given < 0) | (given >= len(names))]
        if len(unknown):
            raise ValueError(f"there is no cell type {unknown[0]}; there are {len(names)}, numbered from 0")
        return given.astype(np.int64)
    if given.size == 0:
        return np.zeros(0, dtype=np.int64)
    if not all(isinstance(name, str) for name in given.tolist()):
        raise ValueError(f"cell types are chosen by names or by integer codes; got {given.dtype} values")
    for name in given:
        if name not in names:
            raise ValueError(f"there is no cell type {str(name)!r}{nearest(name, names)}")
    return np.concatenate([np.flatnonzero(names == name) for name in given])


def with_merged(
    codes: npt.NDArray, mappings: Mapping[str, npt.NDArray], names_in: str, merge: npt.NDArray[np.int64], name: str
) -> tuple[npt.NDArray, dict[str, npt.NDArray]]:
    """Codes and lists after some categories have become one, which gets the next free code.

    The merged categories stay in the lists, without cells and with the suffix "#merged". Lists other than
    `names_in` repeat the value of the first merged category.
    """
    names = mappings[names_in]
    new = len(names)
    lists = {mapping: np.concatenate([values, values[merge[:1]]]) for mapping, values in mappings.items()}
    gone = np.isin(np.arange(new), merge)
    lists[names_in] = as_text([*np.where(gone, np.char.add(names, MERGED), names), name], 128)
    return np.where(np.isin(codes, merge), new, codes), lists


def with_order(
    codes: npt.NDArray, mappings: Mapping[str, npt.NDArray], size: int, first: npt.NDArray[np.int64]
) -> tuple[npt.NDArray, dict[str, npt.NDArray]]:
    """Codes and lists with these categories first, the others after them in the order they have."""
    if len(np.unique(first)) != len(first):
        raise ValueError(f"new_order has repeated cell types: {named(first)}")
    order = np.concatenate([first, np.setdiff1d(np.arange(size), first)])
    codes, _, lists = remap_categories(codes, order, np.arange(size), mappings)  # type: ignore[misc]
    return codes, lists

"""Merging and reordering categories of cells: codes, and the lists that are indexed by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from scvi.cells.checks import named, nearest
from scvi.dataset.arrays import as_text, remap_categories

__all__ = ["codes_named", "with_merged", "with_order"]

MERGED = "#merged"
"""Suffix of the name of a category that has been merged into another."""


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

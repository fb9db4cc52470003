"""Cells and genes that users choose: by position, by name, or by a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi.cells.checks import Names, found, in_order, named, nearest, refuse_repeated_genes
from scvi.cells.other_names import likely_cause

_WHERE = {"cells": "adata.obs_names", "genes": "adata.var_names"}


def plain(argument: str, given: Any, names: Names, kind: Literal["cells", "genes"]) -> np.ndarray:
    """What a user says of cells or genes, as an array; a mask is of bools, in the order of the `names` of all of them.

    Raises
    ------
    ValueError
        If a mask has gaps, or an index that is not theirs.
    """
    if isinstance(given, np.ma.MaskedArray) and np.ma.is_masked(given):
        raise ValueError(f"{argument} has masked entries: fill them, with {argument}.filled(False) if it is a mask")
    if isinstance(given, (pd.Series, pd.Index, pd.api.extensions.ExtensionArray)):
        column = pd.Series(given).infer_objects()
    else:
        array = np.asarray(given)
        if array.dtype != object or array.ndim != 1:
            return array
        column = pd.Series(array).infer_objects()
    known = column.dropna()
    if len(known) and all(isinstance(value, (bool, np.bool_)) for value in known):
        if len(known) < len(column):
            raise ValueError(
                f"{argument} is a mask that is neither True nor False (NA) in {len(column) - len(known)} entries: "
                f"say which, as with {argument}.fillna(False)"
            )
        return _mask_in_order(argument, column, names, kind) if isinstance(given, pd.Series) else column.to_numpy(bool)
    if not pd.api.types.is_integer_dtype(column.dtype) or len(known) < len(column):
        return np.asarray(column)
    is_by_name = isinstance(given, pd.Series) and in_order(column.index, names) is not None
    if is_by_name and len(column) > 2 and column.isin([0, 1]).all():
        positions = f"; {argument}.to_numpy() if it is positions" if kind == "cells" else ""
        raise ValueError(
            f"{argument} is 0 or 1 for each of the {kind}: pass {argument}.astype(bool) if it is a mask{positions}"
        )
    return column.to_numpy(dtype=np.int64)


def _mask_in_order(argument: str, mask: pd.Series, names: Names, kind: Literal["cells", "genes"]) -> np.ndarray:
    """(n,) a mask in the order of the cells or genes, which its index names."""
    order = in_order(mask.index, names)
    if order is None:
        repeated = "" if pd.Index(names).is_unique else f", which repeat and so do not tell {kind} apart"
        raise ValueError(
            f"{argument} is a Series of True and False whose index is not that of the {kind}, {_WHERE[kind]}{repeated}"
            f": give it that index, or pass {argument}.to_numpy() if it is in their order"
        )
    return mask.to_numpy(bool)[order]


def chosen_genes(adata: AnnData, mask_var: str | Sequence[str] | np.ndarray | pd.Series | None) -> list[str]:
    """Names of the genes that `mask_var` chooses, in the order of ``adata.var_names``.

    Parameters
    ----------
    mask_var
        A boolean column of ``adata.var``, a list of gene names, or a boolean mask of all genes; None chooses all.
    """
    names = adata.var_names
    refuse_repeated_genes(names)
    if mask_var is None:
        return names.tolist()
    if isinstance(mask_var, str):
        column = found(adata.var, "mask_var", mask_var, "a column of adata.var")
        if not pd.api.types.is_bool_dtype(column.dtype) or column.isna().any():
            raise ValueError(
                f"mask_var={mask_var!r}: the column must be True or False for each gene; it holds {column.dtype}"
            )
        mask_var = column.to_numpy(dtype=bool)
    chosen = plain("mask_var", mask_var, names, "genes")
    if chosen.dtype.kind == "b":
        if chosen.shape != (adata.n_vars,):
            raise ValueError(
                f"mask_var has shape {chosen.shape}; a mask has one value for each of {adata.n_vars} genes"
            )
        return names[chosen].tolist()
    wanted = pd.Index([str(name) for name in chosen.tolist()])
    if not wanted.is_unique:
        raise ValueError(f"mask_var names {named(wanted[wanted.duplicated()].unique())} more than once")
    unknown = wanted.difference(names, sort=False)
    if len(unknown):
        raise ValueError(
            f"mask_var names {len(unknown)} genes that adata lacks: {named(unknown)}"
            f"{likely_cause(unknown.tolist(), names, adata.var) or nearest(unknown[0], names)}"
        )
    return names[names.isin(wanted)].tolist()

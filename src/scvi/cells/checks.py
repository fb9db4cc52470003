"""Names, keys and categories that users give: found in an AnnData, or refused with the nearest there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi._checks import NotThereError
from scvi.cells.categories import key_of, places_among
from scvi.cells.minified import is_minified
from scvi.cells.other_names import likely_cause

Names: TypeAlias = Sequence[str] | np.ndarray | pd.Index


def named(names: Iterable[Any], limit: int = 5) -> str:
    """The first names, quoted; how many more there are."""
    names = list(names)
    shown = ", ".join(repr(str(name)) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def as_text(argument: str, value: Any, names: Iterable[Any]) -> list[str]:
    """Categories of a column as text; refused where two are the same then."""
    texts = [str(name) for name in names]
    if len(set(texts)) < len(texts):
        raise ValueError(f"{argument}={value!r}: two categories are both {named(texts)} as text; rename one")
    return texts


def nearest(name: Any, known: Iterable[Any]) -> str:
    """'; did you mean ...?', or '; there are ...' where nothing is near."""
    known = [str(entry) for entry in known]
    lowered = {entry.lower(): entry for entry in reversed(known)}
    close = get_close_matches(str(name).lower(), lowered, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {lowered[close[0]]!r}?"
    return f"; there are {named(known, 10)}" if known else "; there are none"


def found(there: Any, argument: str, key: Any, what: str, hint: str = "") -> Any:
    """What a user names by a key: ``there[key]``, or an error that suggests the nearest one.

    Parameters
    ----------
    what
        What it is, for the message.
    hint
        What else there is to say.

    Raises
    ------
    NotThereError
        If it is not there.
    """
    if not isinstance(key, str):
        raise ValueError(f"{argument}={key!r} is not the name of {what}, a string")
    if key not in there:
        raise NotThereError(f"{argument}={key!r} is not {what}{nearest(key, there)}{hint}")
    return there[key]


def checked_keys(argument: str, keys: Sequence[str] | None) -> tuple[str, ...]:
    """A list of columns as a tuple; a single string, which would be read letter by letter, is refused."""
    if keys is None:
        return ()
    if isinstance(keys, str):
        raise ValueError(f"{argument}={keys!r} is a string; pass a list: [{keys!r}]")
    if not isinstance(keys, Iterable):
        raise ValueError(f"{argument}={keys!r} is not a list of columns of adata.obs")
    keys = tuple(keys)
    repeated = sorted({str(key) for key in keys if keys.count(key) > 1})
    if repeated:
        raise ValueError(f"{argument} names {named(repeated)} more than once")
    return keys


def obs_column(adata: AnnData, argument: str, key: str) -> pd.Series:
    """A column of ``adata.obs``, or an error that suggests the nearest one."""
    column = found(adata.obs, argument, key, "a column of adata.obs")
    if isinstance(column, pd.DataFrame):
        raise ValueError(f"{argument}={key!r}: adata.obs has {column.shape[1]} columns of that name; rename them")
    return column


def counts_name(layer: str | None) -> str:
    """The counts as a user writes them."""
    return "adata.X" if layer is None else f"adata.layers[{layer!r}]"


def stored_counts(adata: AnnData, layer: str | None) -> Any:
    """The counts as anndata gives them."""
    if is_minified(adata):
        raise ValueError("adata is minified, its counts were dropped: pass the AnnData that it was made of")
    if layer is None:
        if adata.X is None:
            raise ValueError(f"adata.X is None; pass layer='...' (there are {named(adata.layers) or 'no layers'})")
        return adata.X
    if not isinstance(layer, str):
        raise ValueError(f"layer={layer!r} is not the name of a layer, a string")
    return found(adata.layers, "layer", layer, "in adata.layers")


def category_names(adata: AnnData, argument: str, key: str) -> tuple[str, ...]:
    """The categories that occur in a column, as strings: in their own order, or sorted where the column has none.

    Two spellings of one category, see :mod:`scvi.cells.categories`, are refused by name.
    """
    column = _without_gaps(adata, argument, key)
    if isinstance(column.dtype, pd.CategoricalDtype):
        values = column.cat.remove_unused_categories().cat.categories.tolist()
    else:
        values = _spellings(column, column.unique().tolist())
        try:
            values = sorted(values)
        except TypeError:  # numbers among strings
            values = sorted(values, key=str)
    _refuse_two_spellings(argument, key, values, map(key_of, values))
    return tuple(str(value) for value in values)


def codes_of(adata: AnnData, argument: str, key: str | None, categories: Mapping[str, Sequence[str]]) -> np.ndarray:
    """(n,) int64 positions of the values of a column among its categories; zeros without a column.

    A value that is none of them is refused by name, and so are two spellings of one.
    """
    if key is None:
        return np.zeros(adata.n_obs, dtype=np.int64)
    column, names = _without_gaps(adata, argument, key), categories[key]
    codes, values = pd.factorize(column)  # one look-up per category, not per cell
    code_of_value = places_among(names, values)
    if (code_of_value < 0).any():
        unknown = [str(value) for value, code in zip(values, code_of_value, strict=True) if code < 0]
        cells = int((code_of_value[codes] < 0).sum())
        raise ValueError(
            f"{argument}={key!r} holds categories that the model has never seen: {named(unknown)} "
            f"({cells} cells){nearest(unknown[0], names)}"
        )
    spellings = _spellings(column, list(values))
    _refuse_two_spellings(argument, key, spellings, places_among(names, spellings))
    return code_of_value[codes]


def numbers(adata: AnnData, argument: str, key: str, positive: bool = False) -> np.ndarray:
    """(n,) float64 a column of finite numbers that float32 can hold, above zero if `positive`."""
    column = obs_column(adata, argument, key)
    if not (pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_bool_dtype(column.dtype)):
        raise ValueError(
            f"{argument}: adata.obs[{column.name!r}] holds {column.dtype} values, not numbers; convert it with "
            f"pandas.to_numeric{'' if positive else ', or name it in categorical_covariate_keys'}"
        )
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    bad = ~np.isfinite(single) | (single <= 0 if positive else False)
    if bad.any():
        first = int(np.argmax(bad))
        raise ValueError(
            f"{argument}: adata.obs[{column.name!r}] must be {'positive and ' if positive else ''}finite; it is "
            f"{column.iloc[first]} in cell {str(column.index[first])!r} ({int(bad.sum())} such cells): "
            "correct or drop them"
        )
    return values


def in_order(index: pd.Index, names: Names) -> np.ndarray | None:
    """(n,) positions of the rows of a table, whose `index` has these `names`, in their order; None if it has others."""
    names = pd.Index(names)
    if index.equals(names):
        return np.arange(len(names))
    index = pd.Index([str(name) for name in index])  # names in an AnnData are text
    if index.equals(names):
        return np.arange(len(names))
    if len(index) != len(names) or not (index.is_unique and names.is_unique):
        return None
    places = index.get_indexer(names)
    return None if (places < 0).any() else places


def rows_in_order(table: pd.DataFrame, names: pd.Index, where: str) -> pd.DataFrame:
    """A table with a row for each cell, in the order of the cells.

    Raises
    ------
    ValueError
        If its index is not that of the cells.
    """
    order = in_order(table.index, names)
    if order is None:
        raise ValueError(
            f"the index of {where} is not that of the cells, adata.obs_names ({named(table.index, 2)} where these are "
            f"{named(names, 2)}): if the rows are in the order of the cells, set {where}.index = adata.obs_names"
        )
    return table if table.index.equals(names) else table.iloc[order]


def values_of_table(table: pd.DataFrame, what: str) -> np.ndarray:
    """(n, p) numbers of a table whose columns may have any numeric types of pandas; a gap is NaN.

    Raises
    ------
    TypeError
        If a column holds none; `what` is what the user calls the table.
    """
    dtypes = table.dtypes.tolist()
    for name, dtype in zip(table.columns, dtypes, strict=True):
        is_flag = pd.api.types.is_bool_dtype(dtype) and not isinstance(dtype, pd.CategoricalDtype)
        if not (pd.api.types.is_numeric_dtype(dtype) or is_flag) or dtype.kind == "c":
            raise TypeError(
                f"{what} holds {dtype} values, in {str(name)!r}; pass counts as integers or floats, of numpy or pandas"
            )
    if len(set(dtypes)) == 1 and isinstance(dtypes[0], np.dtype):
        return table.to_numpy()
    return table.to_numpy(dtype=np.float64, na_value=np.nan)


def moments_of(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation, which is given as 1 where all values are the same but for rounding."""
    mean, deviation = float(values.mean()), float(values.std())
    return mean, deviation if deviation > 1e-12 * abs(mean) else 1.0


def refuse_other_types(adata: Any) -> None:
    """Only an AnnData is an AnnData."""
    if not isinstance(adata, AnnData):
        raise TypeError(f"adata is a {type(adata).__name__}; pass an anndata.AnnData")


def places_of(
    wanted: Sequence[str], there: Iterable[str], where: str, kind: str, table: pd.DataFrame | None = None
) -> np.ndarray:
    """(k,) positions of the `wanted` genes, or what `kind` says that they are, among those that are `there`.

    Parameters
    ----------
    table
        As in :func:`scvi.cells.other_names.likely_cause`.

    Raises
    ------
    ValueError
        If some are missing: how many, which, and the likely cause.
    """
    places = pd.Index(there).get_indexer(pd.Index(wanted))
    missing = [name for name, place in zip(wanted, places, strict=True) if place < 0]
    if missing:
        raise ValueError(
            f"{where} lacks {len(missing)} of the {len(wanted)} {kind}s that the model reads: {named(missing)}"
            f"{likely_cause(missing, there, table) or nearest(missing[0], there)}"
        )
    return places


def refuse_repeated_genes(names: pd.Index) -> None:
    """Genes are told apart by name, so that no name may occur twice."""
    if not names.is_unique:
        repeated = names[names.duplicated()].unique()
        raise ValueError(
            f"adata.var_names has {len(repeated)} names that occur more than once: {named(repeated)}. "
            "Call adata.var_names_make_unique() first"
        )


def _without_gaps(adata: AnnData, argument: str, key: str) -> pd.Series:
    """A column of ``adata.obs`` that has a value for every cell."""
    column = obs_column(adata, argument, key)
    missing = column.isna().to_numpy()
    if missing.any():
        raise ValueError(
            f"{argument}: adata.obs[{column.name!r}] is missing (NaN) in {int(missing.sum())} cells: "
            f"{named(column.index[missing])}. Drop these cells or give them a category of their own"
        )
    return column


def _spellings(column: pd.Series, values: list[Any]) -> list[Any]:
    """The `values` of a column; of one of mixed types also those that pandas takes for one, as 1, 1.0 and True."""
    if column.dtype != object or not pd.api.types.infer_dtype(column, skipna=False).startswith("mixed"):
        return values
    return list({(isinstance(value, str), str(value)): value for value in column}.values())


def _refuse_two_spellings(argument: str, key: str, values: Sequence[Any], categories: Iterable[Any]) -> None:
    """Refuses a column of which two `values` are one category; `categories` says of each which one it is."""
    first: dict[Any, Any] = {}
    for value, category in zip(values, categories, strict=True):
        other = first.setdefault(category, value)
        if other is not value:
            a, b = str(other), str(value)
            text = f"adata.obs[{key!r}].astype(str)" + ("" if a == b else f".replace({b!r}, {a!r})")
            raise ValueError(
                f"{argument}: adata.obs[{key!r}] holds {other!r} ({type(other).__name__}) and {value!r} "
                f"({type(value).__name__}), two spellings of one category: spell it in one way, with "
                f"adata.obs[{key!r}] = {text}, or rename one of them if two are meant"
            )

"""Tables of the cells of several files as one, in columns that can be written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype, is_object_dtype, union_categoricals

from scvi._writing import is_exact, with_gaps

Kind = Literal["flag", "number", "text"]


def joined_obs(tables: Mapping[str, pd.DataFrame], batch_key: str | None) -> pd.DataFrame:
    """The rows of all tables, by name of the input, with the columns that all have.

    Text becomes categories, and so does what is text in one table and something else in another. Names of cells that
    occur twice get the name of their input behind them.

    Parameters
    ----------
    batch_key
        Column for the name of the input; None for no column.

    Raises
    ------
    ValueError
        If there is a column of this name already, or one of records, which no table in a file has.
    """
    each = list(tables.values())
    if batch_key is not None and any(batch_key in table for table in each):
        raise ValueError(f"obs has a column {batch_key!r} already; pass another batch_key, or None")
    shared = [name for name in each[0] if all(name in table for table in each)]
    for name in shared:
        if any(table[name].dtype.kind == "V" for table in each):
            raise ValueError(f"obs[{name!r}] holds records, which no column of a store does: leave it out of the file")
    names = pd.concat([table[[]] for table in each]).index
    joined = pd.DataFrame({name: joined_column([table[name] for table in each]) for name in shared}, index=names)
    inputs = np.repeat(list(tables), list(map(len, each)))
    if batch_key is not None:
        joined[batch_key] = pd.Categorical(inputs, categories=list(tables))
    if joined.index.name in joined.columns:  # a column of this name would have to be the same
        joined.index.name = None
    if not names.is_unique:
        joined.index = pd.Index([f"{cell}-{name}" for cell, name in zip(names, inputs, strict=True)])
    return joined


def joined_column(columns: Sequence[pd.Series]) -> Any:
    """The values of a column of several tables, one table after the other, in a type that files have.

    Categories, numbers and flags stay what they are, with gaps where a table has nothing but these. Text becomes
    categories, and so do columns of different kinds, and numbers of which some would be rounded in a common type.
    """
    filled = [column for column in columns if not column.isna().all()]
    kinds = {_kind(column) for column in filled}
    if len({column.dtype for column in columns}) == 1 and not _is_text(columns[0].dtype):
        return pd.concat(columns).array
    if not kinds:
        return np.full(sum(map(len, columns)), np.nan)
    if len(kinds) > 1 or kinds == {"text"} or not _are_exact(filled):
        return _united([_categories(column, as_text=True) for column in columns])
    if all(isinstance(column.dtype, pd.CategoricalDtype) for column in filled):
        return _united([_categories(column) for column in columns])
    common = _common(filled)
    if common.kind not in "biu":
        return np.concatenate([column.to_numpy(dtype=common, na_value=np.nan) for column in columns])
    joined = pd.concat([_in_type(column, with_gaps(common)) for column in columns])
    return joined.array if joined.isna().any() else joined.to_numpy(dtype=common)


def _is_text(dtype: Any) -> bool:
    return is_object_dtype(dtype) or isinstance(dtype, pd.StringDtype)


def _values(column: pd.Series) -> Any:
    """The values that occur, whatever how often."""
    return column.cat.categories if isinstance(column.dtype, pd.CategoricalDtype) else column


def _kind(column: pd.Series) -> Kind:
    dtype = _values(column).dtype
    return "flag" if is_bool_dtype(dtype) else "number" if is_numeric_dtype(dtype) else "text"


def _common(columns: Sequence[pd.Series]) -> Any:
    """The type of numpy for all of these numbers, or flags, without regard to gaps."""
    return np.result_type(*(getattr(dtype, "numpy_dtype", dtype) for dtype in (_values(c).dtype for c in columns)))


def _are_exact(columns: Sequence[pd.Series]) -> bool:
    """Whether their common type holds all of these numbers as they are."""
    return all(is_exact(_values(column), _common(columns)) for column in columns)


def _categories(column: pd.Series, as_text: bool = False) -> pd.Categorical:
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes, values = column.cat.codes.to_numpy(), column.cat.categories
    else:
        codes, values = pd.factorize(column)
    places, values = pd.factorize(pd.Index(values).astype("string").astype(object) if as_text else values)
    return pd.Categorical.from_codes(np.where(codes < 0, -1, np.append(places, -1)[codes]), values)


def _united(parts: Sequence[pd.Categorical]) -> pd.Categorical:
    common = np.result_type(*(part.categories.dtype for part in parts if len(part.categories)))
    return union_categoricals(
        [part.rename_categories(part.categories.astype(common)) for part in parts], sort_categories=True
    )


def _in_type(column: pd.Series, dtype: Any) -> pd.Series:
    """A column in a type of pandas that knows gaps."""
    if column.isna().all():
        return pd.Series(pd.array([pd.NA] * len(column), dtype=dtype))
    if isinstance(column.dtype, pd.CategoricalDtype):
        values = pd.array(column.cat.categories, dtype=dtype)
        return pd.Series(values.take(column.cat.codes.to_numpy(), allow_fill=True))
    return column.astype(dtype)

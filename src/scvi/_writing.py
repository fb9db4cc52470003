"""What goes into files of cells: tables as anndata writes them, and tried before the long work."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData, Raw
from anndata.io import write_elem
from pandas.api.types import infer_dtype, is_numeric_dtype, is_object_dtype

_BELIEVED = 2**20
"""Arrays of more numbers than these are not tried: any array of numbers can be written."""
_LARGEST = 2**53
"""Up to here a float of 64 bits holds every integer."""
_ALIGNED = ("uns", "obsm", "varm", "layers", "obsp", "varp")


def writable(adata: AnnData, name: str) -> dict[str, Any]:
    """The parts of an AnnData for :func:`write_h5ad`; `adata`, and a file that it has open, stay as they are.

    Parameters
    ----------
    name
        What the user calls it, for messages.

    Raises
    ------
    ValueError
        If something cannot be written: names it, with the remedy.
    """
    small = {part: as_written(getattr(adata, part)) for part in ("obs", "var")}
    small |= {part: dict(getattr(adata, part)) for part in _ALIGNED}
    check_writable({f"{name}.{part}": value for part, value in small.items()})
    counts = {} if adata.X is None else {"X": adata.X}
    if adata.raw is not None:
        var, varm = as_written(adata.raw.var), dict(adata.raw.varm)
        check_writable({f"{name}.raw.var": var, f"{name}.raw.varm": varm})
        counts["raw"] = Raw(AnnData(shape=(adata.n_obs, 0)), adata.raw.X, var, varm)
    return small | counts


def write_h5ad(path: Path, parts: Mapping[str, Any], compression: str | None = None) -> None:
    """Writes what ``AnnData.write_h5ad`` writes, which would change the object and close a file that it has open."""
    with h5py.File(path, "w") as file:
        write_without_counts(file, AnnData())
        for name, value in parts.items():
            write_elem(file, name, value, dataset_kwargs={} if compression is None else {"compression": compression})


def write_without_counts(store: Any, adata: AnnData) -> None:
    """Writes all but `X`, of which some versions write empty entries, into a group of HDF5 or zarr."""
    write_elem(store, "/", adata)
    for name in ("X", "raw"):
        if name in store:
            del store[name]


def as_written(table: pd.DataFrame) -> pd.DataFrame:
    """A table of cells or genes as files have it, in an object of its own.

    Text that repeats or has gaps becomes categories, as ``write_h5ad`` makes them, in place. Other text of the pandas
    type "string", and names of this type, which anndata refuses unless it is told otherwise, become plain text.
    """
    written = pd.DataFrame(table, copy=False)
    if not written.columns.is_unique:  # refused later
        return written
    AnnData().strings_to_categoricals(written)
    if not anndata.settings.allow_write_nullable_strings:
        for name in written.columns[[isinstance(dtype, pd.StringDtype) for dtype in written.dtypes]]:
            written[name] = written[name].astype(object)
    if isinstance(written.index.dtype, pd.StringDtype):
        written.index = written.index.astype(object)
    return written


def padded(table: pd.DataFrame, names: pd.Index) -> pd.DataFrame:
    """The rows of these names, with gaps in those that `table` lacks; it can be written if the table can.

    Flags, and integers that floats would round, get the types of pandas that know gaps.
    """
    rows = table.reindex(names)
    for i, dtype in enumerate(rows.dtypes):
        if is_object_dtype(dtype) or isinstance(dtype, pd.StringDtype):
            rows.isetitem(i, _text_with_gaps(rows.iloc[:, i]))
        elif dtype.kind == "f" and not is_exact(table.iloc[:, i], np.float64):
            rows.isetitem(i, table.iloc[:, i].astype(with_gaps(table.dtypes.iloc[i])).reindex(names))
    if rows.index.name in rows.columns:  # a column of the same name has to be the same, which gaps are not
        rows.index.name = None
    return rows


def with_gaps(dtype: Any) -> Any:
    """The type of pandas for integers or flags that numpy has as `dtype`."""
    return pd.array(np.empty(0, dtype)).dtype


def is_exact(values: Any, dtype: Any) -> bool:
    """Whether numbers are the same in another type: floats round large integers."""
    if values.dtype.kind not in "iu" or np.dtype(dtype).kind not in "fc" or not len(values):
        return True
    return all(abs(int(value)) <= _LARGEST for value in (values.min(), values.max()))


def _text_with_gaps(column: pd.Series) -> Any:
    """A column of objects, or text, as anndata writes it where some are missing."""
    kind = infer_dtype(column, skipna=True)
    if kind == "boolean":
        return column.astype("boolean")
    if kind == "empty":
        return pd.Categorical(column, categories=[])
    if any(isinstance(value, bytes) for value in column):
        return [value.decode("utf-8") if isinstance(value, bytes) else value for value in column]
    return column.astype(object)


# ---- what can be written ---------------------------------------------------------------------------------------------


def check_writable(parts: Mapping[str, Any], new: Callable[[], Any] = io.BytesIO) -> None:
    """Tries in memory what is no large array, so that what cannot be written is found before there is a file.

    Parameters
    ----------
    parts
        Tables, mappings and arrays by what the user calls them.
    new
        Gives an empty file for h5py, or an empty group of zarr.

    Raises
    ------
    ValueError
        Names the first thing that cannot be written and says what to do, and names the others.
    """
    faults = [fault for name, value in parts.items() for fault in _faults(name, value, new)]
    if faults:
        first, others = faults[0], [fault.place for fault in faults[1:]]
        more = f" So it is with {', '.join(others[:5])}{' and others' if len(others) > 5 else ''}." if others else ""
        raise ValueError(f"{first.place} cannot be written to a file: {first.reason}. {first.remedy}.{more}")


class _Fault(NamedTuple):
    place: str
    reason: str
    remedy: str


def _faults(place: str, value: Any, new: Callable[[], Any]) -> Iterator[_Fault]:
    if isinstance(value, pd.DataFrame):
        yield from _faults_of_table(place, value, new)
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            reason = _why_not(key, 0, new)
            if reason is None:
                yield from _faults(f"{place}[{key!r}]", entry, new)
            else:
                yield _Fault(f"{place}[{key!r}]", reason, "Give it another name, or delete it first")
    elif not _is_large(value):
        reason = _why_not("value", value, new)
        if reason is not None:
            remedy = "Turn it into text, numbers, or arrays and dictionaries of these, or delete it first"
            yield _Fault(place, f"{reason} ({type(value).__name__})", remedy)


def _faults_of_table(place: str, table: pd.DataFrame, new: Callable[[], Any]) -> Iterator[_Fault]:
    good = []
    for i in range(table.shape[1]):
        column = table.iloc[:, i]
        values = _what_is_written(column)
        reason = None if _is_number(values.dtype) else _why_not("column", values, new)
        if reason is None:
            good.append(i)
        else:
            yield _Fault(f"{place}[{column.name!r}]", f"{_content(column)} ({reason})", _remedy(place, column))
    table = table.iloc[:, good]
    twins = table.columns == table.index.name  # the names of the rows have to be the same as a column of their name
    for part in (table.iloc[:0], table.loc[:, twins]):
        reason = _why_not("table", part, new)
        if reason is not None:
            yield _Fault(place, reason, "Rename or delete columns, or rename the index, first")
            return


def _what_is_written(column: pd.Series) -> Any:
    """The values of a column, of categories each once, as they are handed on to be written."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.categories.to_numpy()
    return column.to_numpy() if isinstance(column.dtype, np.dtype) else column.array


def _why_not(key: Any, value: Any, new: Callable[[], Any]) -> str | None:
    """What anndata says of something that it does not write."""
    store = new()
    try:
        if isinstance(store, io.BytesIO):
            with h5py.File(store, "w") as file:
                write_elem(file, key, value)
        else:
            write_elem(store, key, value)
    except Exception as error:  # of anndata, h5py, zarr, numpy and pandas
        return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return None


def _is_number(dtype: Any) -> bool:
    return isinstance(dtype, np.dtype) and dtype.kind in "biuf" and dtype.itemsize <= 8


def _is_large(value: Any) -> bool:
    return _is_number(getattr(value, "dtype", None)) and math.prod(getattr(value, "shape", ())) > _BELIEVED


def _content(column: pd.Series) -> str:
    if not is_object_dtype(column.dtype):
        return f"it holds {column.dtype} values"
    if column.isna().all():
        return "it is missing in all rows"
    kinds = sorted({type(value).__name__ for value in column.dropna()})
    return f"it holds {' and '.join(kinds[:3])} objects{', and gaps' if column.isna().any() else ''}"


def _remedy(place: str, column: pd.Series) -> str:
    is_category = isinstance(column.dtype, pd.CategoricalDtype)
    kind = infer_dtype(column.cat.categories if is_category else column, skipna=True)
    if kind == "string" and (is_category or not column.isna().any()):
        return "Replace the characters that are not for files, or delete it first"
    if kind in ("boolean", "integer"):
        how = {"boolean": '"boolean"', "integer": '"Int64"'}[kind]
    elif is_numeric_dtype(column.dtype) or kind in ("floating", "mixed-integer-float", "empty"):
        how = "float"
    else:
        how = '"string").astype("category"'
    there = f"{place}[{column.name!r}]"
    return f"Convert it, {there} = {there}.astype({how}), or delete it first"

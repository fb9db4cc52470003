"""Columns of tables in every type that files of cells meet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd


def _alternating(*values: Any, dtype: Any = None) -> Callable[[int], Any]:
    def make(n: int) -> Any:
        column = pd.Series([values[i % len(values)] for i in range(n)], dtype=object)
        return column.array if dtype is None else column.astype(dtype).array

    return make


def _objects(*values: Any) -> Callable[[int], Any]:
    return lambda n: pd.Series([values[i % len(values)] for i in range(n)], dtype=object).array


WRITTEN: dict[str, Callable[[int], Any]] = {
    "text": _alternating("a", "b"),
    "text, each once": lambda n: pd.Series([f"row {i}" for i in range(n)], dtype=object).array,
    "text with NaN": _alternating("a", np.nan, "b"),
    "text with None": _alternating("a", None),
    "text with NA": _alternating("a", pd.NA),
    "text, each once, with NaN": lambda n: pd.Series([np.nan, *(f"row {i}" for i in range(1, n))], dtype=object).array,
    "numbers as text": _alternating("10", "9", "1.0"),
    "no text": _alternating(""),
    "string": _alternating("a", "b", dtype="string"),
    "string with NA": _alternating("a", None, dtype="string"),
    "bytes": _alternating(b"a", b"b"),
    "text and bytes": _alternating("a", b"b"),
    "bool": _alternating(True, False, dtype=bool),
    "boolean": _alternating(True, False, dtype="boolean"),
    "boolean with NA": _alternating(True, None, False, dtype="boolean"),
    "boolean, NA alone": _alternating(None, dtype="boolean"),
    "Int64": _alternating(2**60 + 1, 2, dtype="Int64"),
    "Int64 with NA": _alternating(2**60 + 1, None, dtype="Int64"),
    "UInt8 with NA": _alternating(1, None, dtype="UInt8"),
    "int64": _alternating(2**60 + 1, -3, dtype="int64"),
    "int8": _alternating(1, 2, dtype="int8"),
    "uint64": _alternating(2**63, 2, dtype="uint64"),
    "float64 with NaN": _alternating(1.5, np.nan, 3.0, dtype="float64"),
    "float64, NaN alone": _alternating(np.nan, dtype="float64"),
    "float32": _alternating(0.1, 2.0, dtype="float32"),
    "float16": _alternating(0.5, dtype="float16"),
    "complex": _alternating(1j, dtype=complex),
    "categories": _alternating("b", "a", dtype="category"),
    "categories with NaN": _alternating("b", np.nan, dtype="category"),
    "categories, NaN alone": _alternating(np.nan, dtype="category"),
    "categories, one not there": _alternating("x", dtype=pd.CategoricalDtype(["z", "x", "y"])),
    "ordered categories": _alternating("low", "high", dtype=pd.CategoricalDtype(["low", "mid", "high"], ordered=True)),
    "categories of int": _alternating(3, 1, dtype="category"),
    "categories of float": _alternating(1.5, np.nan, 1.0, dtype="category"),
    "categories of bool": _alternating(True, False, dtype="category"),
    "categories of string": lambda n: pd.Series(["a", "b"] * n, dtype="string")[:n].astype("category").array,
}
"""What ``AnnData.write_h5ad`` writes."""

REFUSED: dict[str, Callable[[int], Any]] = {
    "dictionaries": _objects({"a": 1}, [2]),
    "a class": _objects(int, str),
    "text and numbers": _objects("a", 1),
    "text and numbers and gaps": _objects("a", 1, None),
    "flags as objects": _objects(True, False),
    "flags with gaps": _objects(True, np.nan),
    "integers as objects": _objects(1, None),
    "numbers as objects": _objects(1, 2.5),
    "nothing": _objects(None),
    "NaN as objects": _objects(np.nan),
    "Float64": _alternating(1.5, None, dtype="Float64"),
    "dates": lambda n: pd.Series(pd.date_range("2020-01-01", periods=n)).array,
    "times": lambda n: pd.Series(pd.to_timedelta(np.arange(n), unit="s")).array,
    "sparse": lambda n: pd.arrays.SparseArray(np.arange(n) % 2),
    "intervals": lambda n: pd.cut(np.arange(n), 3),
    "categories of text and numbers": _alternating("a", 1, dtype="category"),
    "text with NUL": _alternating("a\0b", "c"),
    "text of half a character": _alternating("\ud800", "c"),
}
"""What it does not write."""

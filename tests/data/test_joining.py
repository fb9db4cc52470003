"""Columns of several tables as one: what the values are, and that any can be written."""

from __future__ import annotations

import io
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from anndata.io import read_elem, write_elem
from hypothesis import given, settings
from hypothesis import strategies as st

import formats
from columns import WRITTEN
from scvi._writing import as_written, check_writable
from scvi.data import store, to_store
from scvi.data.joining import joined_column, joined_obs

N, G = 6, 5


def in_a_file(column: Any) -> pd.Series:
    """A column as a file gives it."""
    with h5py.File(io.BytesIO(), "w") as file:
        write_elem(file, "table", as_written(pd.DataFrame({"x": column})))
        return read_elem(file["table"])["x"]


READ = {name: in_a_file(make(N)) for name, make in WRITTEN.items()}


def text(value: Any) -> str | None:
    return None if pd.isna(value) else str(value)


def kinds(column: pd.Series) -> set[str]:
    """What values there are."""
    is_flag, is_number = (bool, np.bool_), (int, float, complex, np.number)
    return {
        "flag" if isinstance(value, is_flag) else "number" if isinstance(value, is_number) else "text"
        for value in column.dropna()
    }


@given(names=st.lists(st.sampled_from(sorted(READ)), min_size=1, max_size=4))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_columns_are_one_that_can_be_written(names: list[str]) -> None:
    columns = [READ[name] for name in names]
    joined = joined_column(columns)
    whole = pd.Series(joined)
    check_writable({"obs": as_written(pd.DataFrame({"x": joined}))})
    values = [value for column in columns for value in column]
    assert [pd.isna(value) for value in whole] == [pd.isna(value) for value in values]
    if kinds(whole) <= {"text"}:
        assert list(map(text, whole)) == list(map(text, values))
        assert isinstance(whole.dtype, pd.CategoricalDtype) or whole.isna().all()
    else:  # numbers or flags remain what they are
        assert all(a == b for a, b in zip(whole, values, strict=True) if not pd.isna(b))
        assert kinds(whole) == set.union(*map(kinds, columns))
    if len(set(names)) == 1 and kinds(whole) != {"text"}:
        assert whole.dtype == columns[0].dtype


CASES: dict[str, tuple[list[Any], list[Any], Any]] = {
    "integers and text": ([[1, 2], ["a", "1"]], ["1", "2", "a", "1"], "category"),
    "floats and text": ([[1.5, np.nan], ["a"]], ["1.5", None, "a"], "category"),
    "flags and integers": ([[True], [1]], ["True", "1"], "category"),
    "flags and nothing": ([[True, False], [np.nan]], [True, False, None], "boolean"),
    "integers and nothing": ([[2**60 + 1], [np.nan]], [2**60 + 1, None], "Int64"),
    "integers and floats": ([[1], [2.5]], [1.0, 2.5], "float64"),
    "large integers and floats": ([[2**60 + 1], [2.5]], [str(2**60 + 1), "2.5"], "category"),
    "integers of several sizes": ([np.array([1], np.int8), np.array([300], np.int32)], [1, 300], "int32"),
    "nullable integers and integers": ([pd.array([1, None], "Int64"), [3]], [1, None, 3], "Int64"),
    "nullable integers and floats": ([pd.array([1, None], "Int64"), [0.5]], [1.0, None, 0.5], "float64"),
    "nullable and other flags": ([pd.array([True], "boolean"), [False]], [True, False], "bool"),
    "nothing at all": ([[np.nan], pd.array([None], "Int64")], [None, None], "float64"),
    "categories and text": ([pd.Categorical(["b"]), ["a"]], ["b", "a"], "category"),
    "categories of integers": ([pd.Categorical([3, 1]), pd.Categorical([2])], [3, 1, 2], "category"),
    "categories of integers and nothing": ([pd.Categorical([3, 1]), [np.nan]], [3, 1, None], "category"),
    "categories of integers and of floats": ([pd.Categorical([3]), pd.Categorical([0.5])], [3.0, 0.5], "category"),
    "categories of integers, and integers": ([pd.Categorical([3, None]), [1]], [3, None, 1], "Int64"),
    "categories of integers and of text": ([pd.Categorical([3]), pd.Categorical(["a"])], ["3", "a"], "category"),
    "categories of flags, and flags": ([pd.Categorical([True]), [False]], [True, False], "bool"),
    "text of pandas": ([pd.array(["a", None], "string"), ["b"]], ["a", None, "b"], "category"),
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_types(case: str) -> None:
    columns, values, dtype = CASES[case]
    for order in (1, -1):
        joined = pd.Series(joined_column([pd.Series(column) for column in columns[::order]]))
        assert joined.dtype == dtype
        lengths = np.cumsum([0, *(len(column) for column in columns)])
        expected = [v for i in range(len(columns))[::order] for v in values[lengths[i] : lengths[i + 1]]]
        assert [None if pd.isna(value) else value for value in joined] == expected
    if dtype == "category":
        assert joined.cat.categories.is_monotonic_increasing


def test_ordered_categories_stay_so_where_all_have_the_same() -> None:
    ordered = pd.CategoricalDtype(["low", "mid", "high"], ordered=True)
    columns = [pd.Series(["low"], dtype=ordered), pd.Series(["high"], dtype=ordered)]
    assert pd.Series(joined_column(columns)).dtype == ordered
    columns.append(pd.Series(["other"], dtype="category"))
    assert not pd.Series(joined_column(columns)).cat.ordered


def test_names_of_the_index() -> None:
    """A column with the name of the index has to be the same as it, so the name goes."""
    tables = {
        "a": pd.DataFrame({"x": [1]}, index=pd.Index(["c1"], name="sample")),
        "b": pd.DataFrame({"x": [2]}, index=pd.Index(["c2"], name="sample")),
    }
    assert joined_obs(tables, None).index.name == "sample"
    joined = joined_obs(tables, "sample")
    assert joined.index.name is None
    check_writable({"obs": as_written(joined)})


# ---- in a store ------------------------------------------------------------------------------------------------------


def write(path: Any, seed: int, **columns: Any) -> Any:
    obs = pd.DataFrame(columns, index=formats.barcodes(N, seed=seed))
    AnnData(formats.counts(N, G), obs=obs, var=pd.DataFrame(index=formats.names(G)[0])).write_h5ad(path)
    return path


@pytest.mark.parametrize(
    ("suffix", "other"), [(".h5ad", "text with NaN"), (".h5ad", "Int64 with NA"), (".zarr", "text with NaN")]
)
def test_columns_of_every_type_in_one_store(suffix: str, other: str, tmp_path: Any) -> None:
    """Each type beside itself and beside another one."""
    each = {name: make(N) for name, make in WRITTEN.items()}
    files = [
        write(tmp_path / "a.h5ad", 0, **each),
        write(tmp_path / "b.h5ad", 1, **each),
        write(tmp_path / "c.h5ad", 2, **dict.fromkeys(each, WRITTEN[other](N))),
    ]
    for inputs in (files[:2], files) if suffix == ".h5ad" else (files,):
        path = to_store(inputs, tmp_path / f"s{suffix}", overwrite=True, progress=False)
        written = anndata.read_h5ad(path) if suffix == ".h5ad" else anndata.read_zarr(path)
        sources = [anndata.read_h5ad(file).obs for file in inputs]
        for name in each:
            values = [value for table in sources for value in table[name]]
            assert list(map(text, written.obs[name])) == list(map(text, values)) or kinds(written.obs[name]) == {
                "number"
            }
        assert written.n_obs == N * len(inputs)


@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_what_cannot_be_written_is_named_before_anything_is_read(
    suffix: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_write_parts", lambda *_: pytest.fail("the long work has begun"))
    barcodes, X = formats.barcodes(N), formats.counts(N, G)
    pairs = np.array([(1, 2.0)] * N, dtype=[("a", int), ("b", float)])
    for name, values, says in (
        ("_index", barcodes, r"^obs cannot be written to a file: '_index' is a reserved name"),
        ("pairs", pairs, r"^obs\['pairs'\] holds records, which no column"),
    ):
        path = formats.write_loom(
            tmp_path / "f.loom", X, {"CellID": barcodes, name: values}, {"Gene": formats.names(G)[0]}
        )
        with pytest.raises(ValueError, match=says):
            to_store(path, tmp_path / f"s{suffix}")
    assert [file.name for file in tmp_path.iterdir()] == ["f.loom"]


def test_a_store_of_zarr_without_zarr_is_refused_at_once(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    monkeypatch.setattr(store, "_write_parts", lambda *_: pytest.fail("the long work has begun"))
    with pytest.raises(ImportError, match="pip install zarr"):
        to_store(write(tmp_path / "a.h5ad", 0), tmp_path / "s.zarr")

"""Pickles of data are read, whatever wrote them; pickles of anything else are refused before anything has run."""

from __future__ import annotations

import gzip
import os
import pickle

import numpy as np
import pandas as pd
import pytest

from scvi.data.pickles import read_pickle

DATA = {
    "clusters": pd.Series([1, 2, 3], index=list("abc")),
    "raw_qc": pd.DataFrame({"num_umi": [1.0, 2.0, 3.0], "n": [1, 2, 3], "name": ["a", "b", None]}, index=list("abc")),
    "kind": pd.Series(list("aab"), dtype="category"),
    "list": np.array(["a", "b"]),
    "objects": np.array(["a", None], dtype=object),
    "number": np.float64(3),
    "pair": (slice(1, 2), {1, 2}, b"bytes", 1j),
    "range": pd.RangeIndex(4),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_data_of_every_protocol(protocol, pack, tmp_path):
    path = tmp_path / "metadata.pickle"
    path.write_bytes(pack(pickle.dumps(DATA, protocol)))
    read = read_pickle(path)
    assert set(read) == set(DATA)
    pd.testing.assert_series_equal(read["clusters"], DATA["clusters"])
    pd.testing.assert_frame_equal(read["raw_qc"], DATA["raw_qc"])
    pd.testing.assert_series_equal(read["kind"], DATA["kind"])
    assert read["range"].equals(DATA["range"])
    for key in ("list", "objects", "number"):
        np.testing.assert_array_equal(read[key], DATA[key])
    assert read["pair"] == DATA["pair"]


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def inner(value: object) -> bytes:
    """A value without the frame of a pickle."""
    return pickle.dumps(value, 2)[2:-1]


def old_index(kind: str, values: np.ndarray) -> bytes:
    new = named("pandas.core.indexes.base", "_new_Index")
    module = "pandas.core.indexes.base" if kind == "Index" else "pandas.core.indexes.numeric"
    return new + named(module, kind) + b"}(X\x04\x00\x00\x00data" + inner(values) + b"X\x04\x00\x00\x00nameNu\x86R"


def text(value: str) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def test_a_frame_as_pandas_of_2019_wrote_it(tmp_path):
    """Int64Index, a BlockManager of version 0.14.1, numpy.core: modules and classes that are gone since."""
    values = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])  # columns x rows
    axes = b"](" + old_index("Index", np.array(["x", "y"], object)) + old_index("Int64Index", np.arange(5, 8)) + b"e"
    array = inner(values).replace(b"numpy._core", b"numpy.core")
    blocks = b"](}(" + text("values") + array + text("mgr_locs") + inner(slice(0, 2, 1)) + b"ue"
    state = b"(" + axes + b"](" + array + b"e](" + old_index("Index", np.array(["x", "y"], object)) + b"e}("
    state += text("0.14.1") + b"}(" + text("axes") + axes + text("blocks") + blocks + b"uut"
    manager = named("pandas.core.internals", "BlockManager") + b")\x81" + state + b"b"
    frame = named("pandas.core.frame", "DataFrame") + b")\x81}(" + text("_data") + manager
    frame += text("_typ") + text("dataframe") + text("_metadata") + b"]ub"
    (tmp_path / "old.pickle").write_bytes(b"\x80\x02" + frame + b".")
    read = read_pickle(tmp_path / "old.pickle")
    expected = pd.DataFrame(values.T, index=[5, 6, 7], columns=np.array(["x", "y"], object))
    pd.testing.assert_frame_equal(read, expected)


class Malicious:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_malicious_pickle_runs_nothing(tmp_path):
    path, trace = tmp_path / "evil.pickle", tmp_path / "trace"
    for evil in (
        Malicious(os.system, f"touch {trace}"),
        Malicious(eval, f"open({str(trace)!r}, 'w')"),
        Malicious(open, str(trace), "w"),
        Malicious(getattr, DATA["raw_qc"], "to_csv"),
        Malicious(pd.read_pickle, str(path)),
        Malicious(np.save, str(trace), 1),
        Malicious(type, "T", (), {}),
    ):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            path.write_bytes(pickle.dumps({"clusters": DATA["clusters"], "x": [evil]}, protocol))
            with pytest.raises(ValueError, match="no part of pandas or numpy data") as error:
                read_pickle(path)
            assert "\n" not in str(error.value)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (named("pandas", "DataFrame.eval") + b".", "DataFrame.eval"),
        (named("numpy", "load") + b"(S'x'\ntR.", "numpy.load"),
        (named("os", "DataFrame") + b".", "os.DataFrame"),
        (named("pandas", "DataFrame") + b"N}" + text("head") + b"I1\ns\x86b.", "it changes"),
        (named("numpy.core.multiarray", "_reconstruct") + b"}" + text("a") + b"I1\nsb.", "it changes"),
        (named("_codecs", "encode") + b"(S'x'\nS'zip'\ntR.", "'zip'"),
        (b"S'elsewhere'\nQ.", "stored elsewhere"),
        (b"\x82\x01.", "extension code 1"),
        (b"\x80\x04garbage", "cannot be read as a pickle"),
        (b"<html>404</html>", "cannot be read as a pickle"),
        (b"\x80\x04}.", None),
    ],
)
def test_programs_that_no_data_needs(program, says, tmp_path):
    path = tmp_path / "p.pickle"
    path.write_bytes(program)
    if says is None:
        assert read_pickle(path) == {}
        return
    with pytest.raises(ValueError, match=says) as error:
        read_pickle(path)
    assert "\n" not in str(error.value)
    assert not hasattr(pd.DataFrame, "I1")
    assert callable(pd.DataFrame.head)


@pytest.mark.parametrize("flags", [1, 27, 63])
def test_integers_that_are_said_to_be_pointers(flags, tmp_path):
    """numpy believes such a state, and crashes."""
    honest = pickle.dumps(np.arange(3), 2)
    assert honest.count(b"K\x00tq") == 1  # flags are the last number of the state of the type
    path = tmp_path / "p.pickle"
    path.write_bytes(honest.replace(b"K\x00tq", b"K" + bytes([flags]) + b"tq"))
    with pytest.raises(ValueError, match="a state of int64 that does not hold together") as error:
        read_pickle(path)
    assert "\n" not in str(error.value)


def test_more_values_than_there_are(tmp_path):
    """numpy reads beyond the list."""
    honest = pickle.dumps(np.array(["a", None], dtype=object), 2)
    assert honest.count(b"K\x02\x85") == 1  # the shape
    path = tmp_path / "p.pickle"
    path.write_bytes(honest.replace(b"K\x02\x85", b"K\x70\x85"))
    with pytest.raises(ValueError, match="an array that does not hold together"):
        read_pickle(path)


@pytest.mark.parametrize("place", [5, 255])
def test_a_column_that_has_no_place(place, tmp_path):
    honest = pickle.dumps(pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), 2)
    at = honest.index(b"slice\n") + len(b"slice\n")
    at = honest.index(b"K\x00K\x01K\x01", at)  # the place of a column, as a slice
    path = tmp_path / "p.pickle"
    path.write_bytes(honest[:at] + b"K" + bytes([place]) + b"M" + (place + 1).to_bytes(2, "little") + honest[at + 4 :])
    with pytest.raises(ValueError, match="a table that does not hold together"):
        read_pickle(path)


@pytest.mark.parametrize("dtype", [">i8", ">f4", "<U5", ">U5", "S3", "?", "O", "c16", "u1", "f2"])
def test_types_of_arrays(dtype, tmp_path):
    values = np.arange(4).astype(dtype)
    path = tmp_path / "p.pickle"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps([values, values.dtype, values[1]], protocol))
        array, its_dtype, scalar = read_pickle(path)
        np.testing.assert_array_equal(array, values)
        assert array.dtype == values.dtype.newbyteorder("=") or array.dtype == values.dtype
        assert its_dtype == values.dtype
        assert scalar == values[1]


def test_cut_and_empty(tmp_path):
    path = tmp_path / "p.pickle"
    path.write_bytes(pickle.dumps(DATA)[:-40])
    with pytest.raises(ValueError, match="cannot be read as a pickle"):
        read_pickle(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is empty"):
        read_pickle(path)

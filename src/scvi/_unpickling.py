"""Pickles of data, read by an unpickler that can build pandas and numpy objects and nothing else.

The metadata of some data sets of 2020 were published as pickles, and models of other packages are saved as such. A
pickle is a program that calls whatever it can name. Here nothing is looked up by name: the few classes and functions
that rebuild arrays, frames, series and indexes stand in a table, whatever the version of the library that wrote them
called their modules, and none of them can be changed.
"""

from __future__ import annotations

import copyreg
import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from pandas.compat import pickle_compat

Stored: TypeAlias = Callable[[Any], Any]


def unpickled(contents: bytes, also: Mapping[tuple[str, str], Any] | None = None, stored: Stored | None = None) -> Any:
    """What a pickle holds, if that is containers, numbers, texts, numpy arrays and pandas objects only.

    Parameters
    ----------
    also
        Further names that the pickle may use, by top-level package and name, and what stands for them.
    stored
        What an identifier of something that is kept beside the pickle stands for; None: nothing is.

    Raises
    ------
    ValueError
        If it is damaged, or names anything else, which is not even looked up.
    """
    try:
        return _Restricted(io.BytesIO(contents), also or {}, stored).load()
    except Exception as error:  # damaged programs fail in any way that there is
        raise ValueError(str(error) or type(error).__name__) from error


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How bytes are written by protocol 2."""
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it encodes bytes as {encoding!r}, which no pickle of data does")
    return text.encode("latin1")


def _new_bytes(*contents: bytes) -> bytes:
    """Bytes from none, or from what is there already; never zeros of any number."""
    _require(all(isinstance(part, bytes) for part in contents), "bytes")
    return b"".join(contents)


def _new_bytearray(contents: Any = b"", encoding: str = "latin1") -> bytearray:
    """As :func:`_new_bytes`; protocols below 3 have them as text."""
    _require(isinstance(contents, bytes | str), "bytes")
    return bytearray(_encode(contents, encoding) if isinstance(contents, str) else contents)


def _new_dict(*_: Any) -> dict[Any, Any]:
    """A dictionary in the place of one that would call its factory for what is missing."""
    return {}


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise pickle.UnpicklingError(f"it sets a state of {what} that does not hold together")


# numpy and pandas believe the states that they are given, and read beyond their memory where these are wrong


def _check_dtype(dtype: np.dtype, state: Any) -> None:
    """A state may say of integers that they are pointers, for instance."""
    own = dtype.__reduce__()[2]  # version, byte order, three of structured types, size, alignment, flags
    _require(isinstance(state, tuple) and len(state) == len(own) and state[1] in ("<", ">", "|", "="), str(dtype))
    _require((state[0], *state[2:]) == (own[0], *own[2:]), str(dtype))


def _check_array(state: Any) -> None:
    """As many values as its shape says."""
    _require(isinstance(state, tuple) and len(state) == 5 and isinstance(state[2], np.dtype), "an array")
    _, shape, dtype, _, values = state
    _require(isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape), "an array")
    size = math.prod(shape)
    if dtype.hasobject:
        _require(isinstance(values, list) and len(values) == size, "an array")
    else:
        _require(isinstance(values, bytes | str) and len(values) == size * dtype.itemsize, "an array")


def _check_frame(frame: pd.DataFrame | pd.Series) -> None:
    """Every column in one place of one block, every block as long as the index."""
    manager: Any = frame._mgr
    n = len(manager.axes[-1])
    if isinstance(frame, pd.Series):
        _require(len(manager.blocks) == 1 and manager.blocks[0].values.shape == (n,), "a table")
        return
    places = [np.asarray(block.mgr_locs.as_array) for block in manager.blocks]
    for block, of_block in zip(manager.blocks, places, strict=True):
        values = block.values
        _require(values.shape == ((len(of_block), n) if values.ndim == 2 else (n,)), "a table")
    together = np.sort(np.concatenate([np.zeros(0, np.int64), *places]))
    _require(np.array_equal(together, np.arange(len(manager.axes[0]))), "a table")


def _new_categorical(kind: type, checksum: int, state: Any) -> Any:
    """A Categorical without a state, which is set, and checked, later."""
    _require(kind is pd.Categorical and state is None, "categories")
    return _REBUILD_CATEGORICAL(kind, checksum, None)


_REBUILD_CATEGORICAL = pd.Categorical(["a"]).__reduce__()[0]


def _table() -> dict[tuple[str, str], Any]:
    """By top-level package and name. What is private is asked of the objects, which say what rebuilds them."""
    frame, series = pd.DataFrame({"a": [1]}), pd.Series([1])
    of_pandas = {
        **{kind.__name__: kind for kind in (pd.DataFrame, pd.Series, pd.Index, pd.RangeIndex)},
        **{kind.__name__: kind for kind in (pd.Categorical, pd.CategoricalDtype)},
        **dict.fromkeys(("Int64Index", "UInt64Index", "Float64Index", "NumericIndex"), pd.Index),  # until 2.0
        "_new_Index": pd.Index(["a"]).__reduce__()[0],
        "BlockManager": type(frame._mgr),
        "SingleBlockManager": type(series._mgr),
        "_unpickle_block": series._mgr.blocks[0].__reduce__()[0],
        "new_block": series._mgr.blocks[0].__reduce__()[0],  # its name until 1.3
        "__pyx_unpickle_NDArrayBacked": _new_categorical,
    }
    of_numpy = {
        "ndarray": np.ndarray,
        "dtype": np.dtype,
        "_reconstruct": np.zeros(1).__reduce__()[0],
        "_frombuffer": np.zeros(1).__reduce_ex__(5)[0],
        "scalar": np.float64(1).__reduce__()[0],
    }
    builtins: dict[str, Any] = {kind.__name__: kind for kind in (slice, set, frozenset, complex, object, dict, list)}
    builtins |= {"bytes": _new_bytes, "bytearray": _new_bytearray}
    return {
        **{("pandas", name): found for name, found in of_pandas.items()},
        **{("numpy", name): found for name, found in of_numpy.items()},
        **{(package, name): found for name, found in builtins.items() for package in ("builtins", "__builtin__")},
        ("copyreg", "_reconstructor"): copyreg._reconstructor,  # type: ignore[attr-defined]
        ("copy_reg", "_reconstructor"): copyreg._reconstructor,  # type: ignore[attr-defined]
        ("_codecs", "encode"): _encode,
        ("collections", "OrderedDict"): OrderedDict,
        ("collections", "defaultdict"): _new_dict,
    }


class _Restricted(pickle_compat.Unpickler):
    """The unpickler of pandas, which knows how older versions wrote, without its view of the world."""

    def __init__(self, file: io.BytesIO, also: Mapping[tuple[str, str], Any], stored: Stored | None) -> None:
        super().__init__(file, encoding="latin1")
        self._known = {**_table(), **also}
        self._stored = stored

    def find_class(self, module: str, name: str) -> Any:
        """The object of the table."""
        found = self._known.get((module.partition(".")[0], name))
        if found is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of pandas or numpy data")
        return found

    def persistent_load(self, pid: Any) -> Any:
        """What lies outside of the pickle, if anything may."""
        if self._stored is not None:
            return self._stored(pid)
        raise pickle.UnpicklingError("it refers to objects that are stored elsewhere")

    def get_extension(self, code: int) -> None:
        """Codes stand for names that other packages have registered."""
        raise pickle.UnpicklingError(f"it uses the extension code {code}")

    def load_build(self) -> None:
        """Sets the state of a new object, never of a class or function, if it is a state that such an object has."""
        target, state = self.stack[-2:]
        if isinstance(target, type) or any(target is known for known in self._known.values()):
            raise pickle.UnpicklingError(f"it changes {target!r}")
        if isinstance(target, np.dtype):
            _check_dtype(target, state)
        elif isinstance(target, np.ndarray):
            _check_array(state)
        super().load_build()
        if isinstance(target, (pd.DataFrame, pd.Series)):
            _check_frame(target)
        elif isinstance(target, pd.Categorical):
            codes = np.asarray(target.codes)
            _require(codes.min(initial=-1) >= -1 and codes.max(initial=-1) < len(target.categories), "categories")

    dispatch = {**pickle_compat.Unpickler.dispatch, pickle.BUILD[0]: load_build}

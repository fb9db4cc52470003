"""Reading files that may be anything: what fails is a ValueError of one line that names the file."""

from __future__ import annotations

import bz2
import gzip
import logging
import lzma
import os
import zipfile
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.utils import make_index_unique

from scvi._checks import check_choice
from scvi._links import held_bytes, refuse_links
from scvi.data.heaps import refuse_endless_heaps

Compression = Literal["infer", "gzip", "bz2", "xz", "zip"]
T = TypeVar("T")
logger = logging.getLogger(__name__)

_COMPRESSION = 2**14
"""No more than so many bytes of counts are believed to be in one byte of a file; deflate reaches 1032."""
_UNCHECKED_BYTES = 2**28


class Unreadable(ValueError):
    """A file is not what it should be; the message is one line, and names it."""


@contextmanager
def readable_as(path: str | os.PathLike[str], kind: str) -> Iterator[None]:
    """Turns what goes wrong while a file is read into one line: which file, what it was read as, and why it is none.

    Files that are missing or may not be read keep their own errors, which name them already.
    """
    try:
        yield
    except (Unreadable, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except Exception as error:  # of decompression, of parsers, of memory that a damaged header asks for
        raise Unreadable(f"{os.fspath(path)} cannot be read as {kind}: {_in_short(error)}") from error


def _in_short(error: Exception) -> str:
    if isinstance(error, UnicodeError):
        return "it is not UTF-8 text; convert it, or name its encoding where the reader has an argument for it"
    if isinstance(error, EOFError):
        return "it ends too early; it was cut short"
    return " ".join(str(error).split()) or type(error).__name__


def existing(path: str | os.PathLike[str]) -> Path:
    """The path, if there is something.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is nothing, or a file of no bytes.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(path)!r}")
    if path.is_file() and path.stat().st_size == 0:
        raise Unreadable(f"{path} is empty")
    return path


def require(path: Any, found: Container[str], wanted: Iterable[str], what: str = "") -> None:
    """Refuses a file that lacks some of the columns, attributes... that it should have."""
    missing = [name for name in wanted if name not in found]
    if missing:
        raise Unreadable(f"{path} has no {what}{' ' if what else ''}{missing}")


def check_stored(dataset: Any) -> None:
    """Refuses a list or table of an HDF5 file that claims far more than its file holds, before memory is asked for."""
    held = held_bytes(dataset)
    if dataset.nbytes > max(_UNCHECKED_BYTES, held * _COMPRESSION):
        raise ValueError(
            f"{dataset.name} claims {' x '.join(map(str, dataset.shape))} values, and {held} bytes are there"
        )


@contextmanager
def open_hdf5(
    path: str | os.PathLike[str], kind: str, look: Callable[[Path, h5py.File], T], allow_links: bool = False
) -> Iterator[T]:
    """What `look` makes of an HDF5 file, which stays open as long as the block lasts.

    Raises
    ------
    ValueError
        If it is damaged, if values are in other files unless `allow_links`, or what `look` finds is not of this kind.
    """
    path = existing(path)
    with readable_as(path, kind):
        refuse_endless_heaps(path)
        file = h5py.File(path, "r")
    with file:
        with readable_as(path, kind):
            refuse_links(file, allow_links)
            seen = look(path, file)
        yield seen


@contextmanager
def open_bytes(path: Path, compression: Compression = "infer") -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed where its first bytes are those of a compressed file, whatever its name.

    Raises
    ------
    ValueError
        If it is named after a compression, or said to have one, and is not compressed so.
    """
    check_choice("compression", compression, ("infer", *_OPEN))
    with existing(path).open("rb") as file:
        first = file.read(10)
        file.seek(0)
        found = next((name for name, begins in _FIRST_BYTES.items() if first.startswith(begins)), None)
        claimed = _SUFFIXES.get(path.suffix) if compression == "infer" else compression
        if claimed not in (None, found):
            raise ValueError(
                f"it is no {claimed} file, whatever its name or compression= says; decompress or rename it, or "
                "download it again"
            )
        with _OPEN[found](file) if found else nullcontext(file) as unpacked:
            yield unpacked


@contextmanager
def _open_zip(file: IO[bytes]) -> Iterator[IO[bytes]]:
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        if len(names) != 1:
            raise ValueError(f"it holds {len(names)} files; a zip archive is read if it holds one")
        with archive.open(names[0]) as member:
            yield member


_SUFFIXES = {".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zip": "zip"}
_FIRST_BYTES: dict[str, bytes | tuple[bytes, ...]] = {
    "gzip": b"\x1f\x8b",
    "bz2": tuple(b"BZh%d1AY&SY" % level for level in range(1, 10)),
    "xz": b"\xfd7zXZ\0",
    "zip": b"PK\x03\x04",
}
_OPEN: dict[str, Callable[[Any], AbstractContextManager[Any]]] = {
    "gzip": gzip.open,
    "bz2": bz2.open,
    "xz": lzma.open,
    "zip": _open_zip,
}


def read_table(source: Any, **options: Any) -> Any:
    """:func:`pandas.read_csv` with the parser of numbers of Python: its own reads beyond its memory, and ends the
    program, where an exponent has ten digits or more."""
    return pd.read_csv(source, float_precision="round_trip", **options)


def read_lines(path: Path, kind: str) -> list[list[str]]:
    """Fields of the lines of a tab-separated text; empty lines are left out."""
    with readable_as(path, kind), open_bytes(path) as file:
        lines = file.read().decode("utf-8-sig").splitlines()
    return [line.split("\t") for line in lines if line]


def names_of(values: Any) -> np.ndarray:
    """Texts as an object array of str; bytes, as HDF5 has them, are UTF-8."""
    array = np.asarray(values)
    if array.dtype.kind == "S" or (array.dtype.kind == "O" and any(isinstance(value, bytes) for value in array.flat)):
        decoded = [value.decode("utf-8") if isinstance(value, bytes) else str(value) for value in array.flat]
        return np.array(decoded, dtype=object).reshape(array.shape)
    return array.astype(str).astype(object)


def unique_names(names: Sequence[str] | np.ndarray, what: str, path: Any) -> pd.Index:
    """The names as an index.

    Raises
    ------
    ValueError
        If one occurs twice.
    """
    index = pd.Index(np.asarray(names, dtype=object))
    if not index.is_unique:
        repeated = index[index.duplicated()]
        raise Unreadable(f"{path} has {len(repeated)} repeated {what}, {str(repeated[0])!r} among them")
    return index


def numbered(names: Sequence[str] | np.ndarray) -> pd.Index:
    """The names of genes as an index; those that occur twice get a number, and a line in the log."""
    index = pd.Index(np.asarray(names, dtype=object))
    if index.is_unique:
        return index
    logger.warning("%d gene names occur twice; they get a number", int(index.duplicated().sum()))
    return make_index_unique(index)


def shared_names(each: Sequence[pd.Index]) -> pd.Index:
    """Names that all have, in the order of the first."""
    shared = each[0]
    for names in each[1:]:
        shared = shared[shared.isin(names)]
    return shared


def is_finite(values: np.ndarray) -> bool:
    """Whether these are numbers, and none is missing or infinite."""
    return values.dtype.kind in "biuf" and bool(np.isfinite(values).all())


def as_counts(values: np.ndarray) -> np.ndarray:
    """Numbers in 4 bytes where that loses nothing: whole ones int32 (int64 if large), others float32.

    Raises
    ------
    ValueError
        If they are no numbers, or one is missing.
    """
    if values.dtype.kind in "bui":
        small = values.size == 0 or (values.max() <= np.iinfo(np.int32).max and values.min() >= np.iinfo(np.int32).min)
        return values.astype(np.int32 if small else np.int64, copy=False)
    if values.dtype.kind != "f":
        raise ValueError(f"there are values that are no numbers ({values.dtype})")
    if np.isnan(values).any():
        raise ValueError("a value is missing (NaN)")
    whole = np.isfinite(values).all() and np.array_equal(values, np.trunc(values))
    if whole and (values.size == 0 or np.abs(values).max() <= np.iinfo(np.int32).max):
        return values.astype(np.int32)
    return values.astype(np.float32, copy=False)


def csr_of(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray, n_columns: int) -> sp.csr_matrix:
    """The matrix of these parts. scipy wants positions of one type, which have 32 bits where these are enough."""
    index = _index_type(n_columns, indptr)
    parts = data, indices.astype(index, copy=False), indptr.astype(index, copy=False)
    return sp.csr_matrix(parts, shape=(len(indptr) - 1, n_columns))


def _index_type(n_columns: int, indptr: np.ndarray) -> Any:
    return np.int32 if max(n_columns, indptr[-1]) <= np.iinfo(np.int32).max else np.int64


def stacked(blocks: list[sp.csr_matrix], n_columns: int) -> sp.csr_matrix:
    """Rows of several matrices in one. The list is emptied, so that no part is held for longer than needed."""
    indptr = np.cumsum(np.concatenate([[0], *(np.diff(block.indptr) for block in blocks)]), dtype=np.int64)
    indices, data = [block.indices for block in blocks], [block.data for block in blocks]
    blocks.clear()
    whole = all(part.dtype.kind in "iu" for part in data)
    values = _emptied(data, np.result_type(np.int32, *{part.dtype for part in data}) if whole else np.float32)
    columns = _emptied(indices, _index_type(n_columns, indptr))
    return csr_of(values, columns, indptr, n_columns)


def _emptied(parts: list[np.ndarray], dtype: Any) -> np.ndarray:
    """The parts one after the other in one array; each is freed as soon as it is copied."""
    joined = np.empty(sum(map(len, parts)), dtype)
    end = len(joined)
    while parts:
        part = parts.pop()
        joined[end - len(part) : end] = part
        end -= len(part)
    return joined

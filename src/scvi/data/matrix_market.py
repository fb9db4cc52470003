"""Matrix Market files of counts, genes x cells as 10x Genomics writes them, read in blocks into cells x genes.

The result and one block of text are all that is in memory. Cell Ranger writes cell after cell; files in another order
are read twice, the first time to learn how many entries each cell has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
import scipy.sparse as sp

from scvi.data.files import Unreadable, csr_of, open_bytes, readable_as

_BLOCK_BYTES = 2**21
_KIND = "a Matrix Market file"
_LARGEST = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Header:
    """What a file says of itself: genes (rows), cells (columns), entries, and whether they are integers."""

    n_genes: int
    n_cells: int
    n_entries: int
    whole: bool


def read_header(path: Path) -> Header:
    """The first lines of the file."""
    with readable_as(path, _KIND), open_bytes(path) as file:
        return _header(file)


def read_matrix_market(path: Path, n_genes: int, n_cells: int) -> sp.csr_matrix:
    """Counts, cells x genes, int32 (float32 where the file has fractions); entries of one place are added up.

    Parameters
    ----------
    n_genes, n_cells
        What the lists of genes and cells say, by which a file that claims anything else is refused before memory is
        asked for.

    Raises
    ------
    ValueError
        If the file is damaged, of another shape, or no matrix of numbers.
    """
    header = read_header(path)
    _check_shape(path, header, n_genes, n_cells)
    if header.n_entries > _most_entries(path):
        raise Unreadable(
            f"{path} announces {header.n_entries} entries, more than a file of its size holds; it was cut short"
        )
    with readable_as(path, _KIND):
        counts = _counts(path, header)
        counts.sort_indices()
        counts.sum_duplicates()
    return counts


def _header(file: IO[bytes]) -> Header:
    banner = file.readline(1024).decode("ascii", "replace").lower().split()
    if len(banner) != 5 or banner[:3] != ["%%matrixmarket", "matrix", "coordinate"] or banner[4] != "general":
        raise ValueError(
            "its first line is not '%%MatrixMarket matrix coordinate integer general', or real for integer"
        )
    if banner[3] not in ("integer", "real"):
        raise ValueError(f"it holds {banner[3]!r} values; counts are 'integer' or 'real'")
    line = file.readline(2**16)
    while line.startswith(b"%") or line.isspace():
        line = file.readline(2**16)
    sizes = line.split()
    if len(sizes) != 3 or not all(size.isdigit() for size in sizes):
        raise ValueError("it has no line with its numbers of rows, columns and entries")
    n_genes, n_cells, n_entries = map(int, sizes)
    if n_entries > n_genes * n_cells:
        raise ValueError(f"it claims {n_entries} entries in {n_genes} x {n_cells} places")
    return Header(n_genes, n_cells, n_entries, banner[3] == "integer")


def _check_shape(path: Path, header: Header, n_genes: int, n_cells: int) -> None:
    found = (header.n_genes, header.n_cells)
    if found == (n_genes, n_cells):
        return
    hint = "; it holds cells x genes, and should be the other way round" if found == (n_cells, n_genes) else ""
    raise Unreadable(
        f"{path} has {found[0]} rows and {found[1]} columns, but there are {n_genes} genes and {n_cells} cells listed "
        f"beside it{hint}"
    )


def _most_entries(path: Path) -> int:
    """How many entries a file of this size can hold: the shortest, "1 1 1" on a line, takes six bytes."""
    with path.open("rb") as file:
        ratio = 1032 if file.read(2) == b"\x1f\x8b" else 1  # the most that deflate compresses
    return path.stat().st_size * ratio // 6 + 1


def _entries(path: Path, header: Header) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Cells, genes (from 0) and values of one block of lines after the other; all of the file, or a ValueError."""
    left, rest = header.n_entries, b""
    with open_bytes(path) as file:
        _header(file)
        blocks = iter(partial(file.read, _BLOCK_BYTES), b"")
        for block in chain(blocks, [b"\n"]):  # the last line may lack its end
            lines, _, rest = (rest + block).rpartition(b"\n")
            entries = _parsed(lines.strip(), header)
            left -= len(entries[0])
            if left < 0:
                break
            if len(entries[0]):
                yield entries
    if left:
        more = "fewer" if left > 0 else "more"
        raise ValueError(f"it has {more} than the {header.n_entries} entries that it announces; it is damaged")


def _parsed(text: bytes, header: Header) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    try:
        numbers = _numbers(text, int if header.whole else float)
    except (ValueError, DeprecationWarning) as error:
        raise ValueError("there is something between its entries that is no number of its kind") from error
    if len(numbers) % 3:
        raise ValueError("it has a line that is not row, column, value; it is damaged")
    genes, cells, values = numbers.reshape(-1, 3).T
    for what, positions, most in (("row", genes, header.n_genes), ("column", cells, header.n_cells)):
        if len(positions) and not (positions.min() >= 1 and positions.max() <= most):
            raise ValueError(f"it has an entry in {what} {positions.min()} or {positions.max()} of {most}")
    if header.whole and len(values) and (values.max() > _LARGEST or values.min() < -_LARGEST):
        raise ValueError("it has a value beyond 32 bits, which is no count")
    return cells.astype(np.int64) - 1, genes.astype(np.int64) - 1, values


def _numbers(text: bytes, kind: type[int] | type[float]) -> np.ndarray:
    """All that a text holds, int64 or float64; ValueError if some of it is no number of its kind.

    Some versions of numpy stop there and but warn. To make an error of a warning would change the filters of all
    threads, so what was read is counted, and its end is compared.
    """
    numbers = np.fromstring(text, kind, sep=" ")
    last = text.rsplit(None, 1)[-1:]
    if len(numbers) != 3 * (text.count(b"\n") + 1) and len(numbers) != len(text.split()):
        raise ValueError(f"{len(numbers)} numbers in {len(text.split())} words")
    if last and str(kind(last[0])) != str(numbers[-1].item()):
        raise ValueError(f"{last[0]!r} was read as {numbers[-1]}")
    return numbers


def _counts(path: Path, header: Header) -> sp.csr_matrix:
    """The matrix in one reading, or two if the file does not go cell by cell."""
    data = np.empty(header.n_entries, np.int32 if header.whole else np.float32)
    indices = np.empty(header.n_entries, np.int32)
    lengths = np.zeros(header.n_cells + 1, np.int64)
    begin, last, in_order = 0, 0, True
    for cells, genes, values in _entries(path, header):
        end = begin + len(cells)
        data[begin:end], indices[begin:end] = values, genes
        in_order = in_order and cells[0] >= last and not (np.diff(cells) < 0).any()
        begin, last = end, cells[-1]
        np.add.at(lengths, cells + 1, 1)
    indptr = np.cumsum(lengths)
    if not in_order:
        _read_again(path, header, indptr, data, indices)
    return csr_of(data, indices, indptr, header.n_genes)


def _read_again(path: Path, header: Header, indptr: np.ndarray, data: np.ndarray, indices: np.ndarray) -> None:
    """Puts each entry behind those of its cell, now that the number of these is known."""
    free = indptr[:-1].copy()  # the next place of each cell
    for cells, genes, values in _entries(path, header):
        order = np.argsort(cells, kind="stable")
        cells = cells[order]
        distinct, first, number = np.unique(cells, return_index=True, return_counts=True)
        places = free[cells] + np.arange(len(cells)) - np.repeat(first, number)
        data[places], indices[places] = values[order], genes[order]
        free[distinct] += number

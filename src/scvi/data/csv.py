"""Text tables of counts."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvi.data.files import (
    Compression,
    Unreadable,
    as_counts,
    existing,
    numbered,
    open_bytes,
    read_table,
    readable_as,
    stacked,
    unique_names,
)

_BLOCK_VALUES = 2**22
_BARCODE = re.compile(r"^[ACGTN]{10,}([-_.].*)?$|^.*[-_.:][ACGTN]{10,}$")
_KIND = "a table of counts"
_SPACES = r"\s+"  # as pandas says it


def read_csv(
    path: str | os.PathLike[str],
    delimiter: str | None = None,
    first_column_names: bool | None = None,
    *,
    sep: str = ",",
    genes_in_rows: bool = False,
    compression: Compression = "infer",
    encoding: str = "utf-8-sig",
) -> AnnData:
    """Reads a table of counts with a line of names above and a column of names to the left.

    The line of names may lack the corner, as R writes it. Compressed files are recognised by their first bytes.

    Parameters
    ----------
    delimiter, sep
        What separates the columns; pass one of the two.
    first_column_names
        None or True: the first column holds names, as it must.
    genes_in_rows
        Whether a line is a gene (and a column a cell), as archives have it, or the other way round.
    compression
        How the file is compressed, to have it checked; "infer" says nothing.
    encoding
        Of the text.

    Returns
    -------
    Counts as CSR, cells x genes. Names of genes that occur twice get a number.

    Raises
    ------
    ValueError
        If names are said to be missing; if there is something that is no number, names of cells repeat, lines differ in
        length, or the table seems to be the other way round.
    """
    _check_names(first_column_names)
    if delimiter is not None:
        if sep not in (",", delimiter):
            raise ValueError(f"delimiter={delimiter!r} and sep={sep!r} both say what separates columns: pass one")
        sep = delimiter
    if not isinstance(sep, str) or not sep:
        raise ValueError(f"delimiter={sep!r} is not a text that separates columns, such as ','")
    path = existing(path)
    with readable_as(path, _KIND):
        columns, blocks, lines = _header(path, sep, compression, encoding), [], []
        for names, values in _blocks(path, columns, sep, compression, encoding):
            lines.append(names)
            blocks.append(sp.csr_matrix(as_counts(values)))
        if not blocks:
            raise ValueError("it has no lines below its names")
        table = stacked(blocks, len(columns))
        genes, cells = np.concatenate(lines), np.array(columns, dtype=object)
        if not genes_in_rows:
            genes, cells = cells, genes
        _check_orientation(path, genes, genes_in_rows)
        obs = pd.DataFrame(index=unique_names(cells, "names of cells", path))
        counts = table.T.tocsr() if genes_in_rows else table
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=numbered(genes)))


def read_text(
    path: str | os.PathLike[str],
    delimiter: str | None = None,
    first_column_names: bool | None = None,
    *,
    genes_in_rows: bool = False,
) -> AnnData:
    """Reads a table of counts as :func:`read_csv` does, whatever separates its columns.

    Parameters
    ----------
    delimiter
        What separates the columns; None takes the tab, comma or semicolon that its first line has, or any spaces.
    first_column_names
        None or True: the first column holds names, as it must.
    genes_in_rows
        Whether a line is a gene, or a cell.

    Raises
    ------
    ValueError
        As :func:`read_csv`, or if names are said to be missing, or nothing is found that separates columns.
    """
    _check_names(first_column_names)
    if delimiter is None:
        path = existing(path)
        with readable_as(path, _KIND), open_bytes(path) as file:
            first = file.readline().decode("utf-8-sig").rstrip("\r\n")
            delimiter = next((separator for separator in "\t,;" if separator in first), None)
            if delimiter is None and len(first.split()) < 2:
                raise ValueError("its first line has no tab, comma, semicolon or space; pass delimiter='...'")
    return read_csv(path, delimiter or _SPACES, genes_in_rows=genes_in_rows)


def _check_names(first_column_names: bool | None) -> None:
    """Refuses a table whose lines are said to have no names."""
    if first_column_names not in (None, True):
        raise ValueError("first_column_names=False: name the lines in the first column of the table; cells need names")


def _check_orientation(path: Path, genes: np.ndarray, genes_in_rows: bool) -> None:
    barcodes = sum(_BARCODE.match(str(name)) is not None for name in genes[:1000])
    if 2 * barcodes > min(len(genes), 1000):
        raise Unreadable(
            f"{path} has barcodes such as {str(genes[0])!r} where genes should be; it is the other way round: pass "
            f"genes_in_rows={not genes_in_rows} (gene_by_cell={not genes_in_rows} of a data set)"
        )


def _fields(line: bytes, sep: str, encoding: str) -> list[str]:
    text = line.decode(encoding).rstrip("\r\n")
    return text.split() if sep == _SPACES else next(csv.reader([text], delimiter=sep), [])


def _header(path: Path, sep: str, compression: Compression, encoding: str) -> list[str]:
    """Names of the columns with numbers."""
    with open_bytes(path, compression) as file:
        first, second = (_fields(file.readline(), sep, encoding) for _ in range(2))
    columns = first if len(second) == len(first) + 1 else first[1:]
    if len(second) < 2 or len(second) != len(columns) + 1:
        raise ValueError(
            f"its first line has {len(first)} fields and its second {len(second)}; is it separated by sep={sep!r}?"
        )
    return columns


def _blocks(
    path: Path, columns: list[str], sep: str, compression: Compression, encoding: str
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Names and values of some lines at a time."""
    with open_bytes(path, compression) as file:
        file.readline()
        table = read_table(
            file,
            sep=sep,
            header=None,
            names=range(len(columns) + 1),
            index_col=0,
            dtype={0: str},
            na_filter=False,
            encoding=encoding.removesuffix("-sig"),
            chunksize=max(1, _BLOCK_VALUES // len(columns)),
        )
        with table:
            for part in table:
                yield part.index.to_numpy(dtype=object), _numbers(part, columns)


def _numbers(part: pd.DataFrame, columns: list[str]) -> np.ndarray:
    for place, dtype in enumerate(part.dtypes):
        if dtype.kind not in "iuf":
            wrong = np.array([not _is_number(str(value)) for value in part.iloc[:, place]])
            value = part.iloc[:, place].to_numpy()[wrong][:1]
            raise ValueError(
                f"column {columns[place]!r} holds {value[0] if len(value) else 'values'!r} beside numbers (line "
                f"{str(part.index[wrong][0] if wrong.any() else part.index[0])!r})"
            )
    return part.to_numpy()


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False

"""What is in files of counts, found without the readers of the package, to compare what these make of them."""

from __future__ import annotations

import csv
import gzip
import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np


def lines_of(path: Path, sep: str) -> list[list[str]]:
    """Fields of the lines of a text, compressed or not."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
    return [line for line in csv.reader(io.StringIO(text, newline=""), delimiter=sep) if line]


def numbers(rows: Sequence[Sequence[str]]) -> np.ndarray:
    return np.array([[float(field) for field in row] for row in rows])


def table_of(path: Path, sep: str = ",") -> tuple[list[str], list[str], np.ndarray]:
    """Names of lines, names of columns, and the numbers of a table with a column of names."""
    head, *body = lines_of(path, sep)
    columns = head if len(head) < len(body[0]) else head[1:]  # R leaves the corner out
    return [row[0] for row in body], columns, numbers([row[1:] for row in body])


def matrix_of(text: str) -> np.ndarray:
    """(cells, genes) of a Matrix Market file of genes x cells."""
    rows = [line.split() for line in text.splitlines() if line and not line.startswith("%")]
    counts = np.zeros((int(rows[0][1]), int(rows[0][0])))
    for gene, cell, value in rows[1:]:
        counts[int(cell) - 1, int(gene) - 1] += float(value)
    return counts


def archive_of(path: Path) -> tuple[np.ndarray, list[list[str]], list[str]]:
    """Counts (cells, features), fields of the features, and barcodes of an archive or folder of Cell Ranger."""
    if path.is_dir():
        parts = {file.name: file.read_bytes() for file in path.iterdir()}
    else:
        with tarfile.open(path) as archive:
            members = [member for member in archive if member.isfile() and "/." not in member.name]
            parts = {Path(member.name).name: archive.extractfile(member).read() for member in members}
    parts = {name: gzip.decompress(part) if name.endswith(".gz") else part for name, part in parts.items()}
    texts = {name.removesuffix(".gz"): part.decode() for name, part in parts.items()}
    features = [line.split("\t") for line in (texts.get("genes.tsv") or texts["features.tsv"]).splitlines()]
    return matrix_of(texts["matrix.mtx"]), features, texts.get("barcodes.tsv", "").split()


@dataclass
class Loom:
    """(cells, genes) counts of a loom file, and its attributes, text decoded."""

    X: np.ndarray
    cells: dict[str, np.ndarray]
    genes: list[str]
    types: list[str]

    @classmethod
    def of(cls, path: Path) -> Loom:
        with h5py.File(path) as file:
            cells = {name: decoded(stored[()]) for name, stored in file["col_attrs"].items()}
            types = [name.decode() for name in file.attrs.get("CellTypes", [])]
            return cls(file["matrix"][()].T, cells, decoded(file["row_attrs/Gene"][()]).tolist(), types)

    def without_empty_cells(self) -> Loom:
        kept = self.X.any(axis=1)
        return replace(self, X=self.X[kept], cells={name: values[kept] for name, values in self.cells.items()})

    def words(self, name: str, types: Sequence[str]) -> list[str]:
        """What the codes of a column are called."""
        return [types[int(code)] for code in self.cells[name].ravel()]


def decoded(values: np.ndarray) -> np.ndarray:
    return np.char.decode(values) if values.dtype.kind == "S" else values

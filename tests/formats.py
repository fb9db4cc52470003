"""Files in the formats that readers read, byte layout included."""

from __future__ import annotations

import gzip
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.sparse as sp

BASES = np.array(list("ACGT"))


def barcodes(n: int, run: int = 1, seed: int = 0) -> list[str]:
    """Distinct barcodes as Cell Ranger has them."""
    letters = BASES[np.random.default_rng(seed).integers(0, 4, (n, 16))]
    return [f"{''.join(row)}-{run}" for row in letters]


def counts(n: int = 30, g: int = 12, seed: int = 0, share: float = 0.4) -> sp.csr_matrix:
    """(n, g) counts; no cell and no gene is empty."""
    rng = np.random.default_rng(seed)
    dense = rng.poisson(3.0, (n, g)) * (rng.random((n, g)) < share)
    dense[np.arange(n), np.arange(n) % g] += 1
    dense[np.arange(g) % n, np.arange(g)] += 1
    return sp.csr_matrix(dense.astype(np.int32))


def matrix_market(X: sp.csr_matrix, order: str = "cells", field: str = "integer") -> bytes:
    """Genes x cells, as Cell Ranger writes them: cell after cell, genes descending in version 2 and in any order."""
    coo = X.tocoo()
    cells, genes, values = coo.row, coo.col, coo.data
    sort = np.lexsort((-genes, cells)) if order == "cells" else np.random.default_rng(1).permutation(len(values))
    entries = zip((genes[sort] + 1).tolist(), (cells[sort] + 1).tolist(), values[sort].tolist(), strict=True)
    lines = map("%s %s %s".__mod__, entries)
    head = [f"%%MatrixMarket matrix coordinate {field} general", "%", f"{X.shape[1]} {X.shape[0]} {X.nnz}"]
    return ("\n".join([*head, *lines]) + "\n").encode()


def tsv(*columns: Any) -> bytes:
    """Columns of text."""
    return ("\n".join("\t".join(map(str, row)) for row in zip(*columns, strict=True)) + "\n").encode()


def names(g: int) -> tuple[list[str], list[str]]:
    """Identifiers and symbols of genes."""
    return [f"ENSG{i:011d}" for i in range(g)], [f"Gene{i}" for i in range(g)]


def write_10x_v2(folder: Path, X: sp.csr_matrix, cells: list[str] | None = None, genes: Any = None) -> Path:
    """matrix.mtx, genes.tsv, barcodes.tsv."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "matrix.mtx").write_bytes(matrix_market(X))
    (folder / "genes.tsv").write_bytes(tsv(*(genes or names(X.shape[1]))))
    (folder / "barcodes.tsv").write_bytes(tsv(cells or barcodes(X.shape[0])))
    return folder


def write_10x_v3(
    folder: Path, X: sp.csr_matrix, cells: list[str] | None = None, genes: Any = None, types: list[str] | None = None
) -> Path:
    """matrix.mtx.gz, features.tsv.gz, barcodes.tsv.gz."""
    folder.mkdir(parents=True, exist_ok=True)
    types = types or ["Gene Expression"] * X.shape[1]
    parts = {
        "matrix.mtx": matrix_market(X),
        "features.tsv": tsv(*(genes or names(X.shape[1])), types),
        "barcodes.tsv": tsv(cells or barcodes(X.shape[0])),
    }
    for name, content in parts.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1))
    return folder


def _text(values: Any) -> np.ndarray:
    return np.array([str(value).encode() for value in values])


def write_10x_h5(
    path: Path,
    X: sp.csr_matrix,
    version: int = 3,
    genome: str = "GRCh38",
    types: list[str] | None = None,
    cells: list[str] | None = None,
    genes: Any = None,
) -> Path:
    """The HDF5 file of Cell Ranger 2 (a group for each genome) or 3."""
    identifiers, symbols = genes or names(X.shape[1])
    with h5py.File(path, "a") as file:
        group = file.create_group("matrix" if version == 3 else genome)
        group["barcodes"] = _text(cells or barcodes(X.shape[0]))
        group.create_dataset("data", data=X.data.astype(np.int32), chunks=True, compression="gzip")
        group.create_dataset("indices", data=X.indices.astype(np.int64), chunks=True, compression="gzip")
        group["indptr"] = X.indptr.astype(np.int64)
        group["shape"] = np.array(X.shape[::-1], np.int32)
        if version == 2:
            group["genes"], group["gene_names"] = _text(identifiers), _text(symbols)
            return path
        features = group.create_group("features")
        features["id"], features["name"] = _text(identifiers), _text(symbols)
        features["feature_type"] = _text(types or ["Gene Expression"] * X.shape[1])
        features["genome"] = _text([genome] * X.shape[1])
        features["_all_tag_keys"] = _text(["genome"])
    return path


def write_loom(
    path: Path,
    X: sp.csr_matrix,
    cells: dict[str, Any],
    genes: dict[str, Any],
    others: dict[str, Any] | None = None,
    version: int = 2,
) -> Path:
    """Genes x cells with attributes of rows and columns; those of the file are HDF5 attributes until version 2."""
    with h5py.File(path, "w") as file:
        matrix = np.asarray(X.toarray().T, np.float32)
        chunks = (min(64, matrix.shape[0]), min(64, matrix.shape[1]))
        file.create_dataset("matrix", data=matrix, chunks=chunks, compression="gzip")
        for group in ("layers", "row_graphs", "col_graphs", "row_attrs", "col_attrs"):
            file.create_group(group)
        for group, attributes in (("row_attrs", genes), ("col_attrs", cells)):
            for name, values in attributes.items():
                values = np.asarray(values)
                file[group][name] = _text(values) if values.dtype.kind == "U" else values
        if version == 3:
            file.create_group("attrs")["LOOM_SPEC_VERSION"] = "3.0.0"
        for name, value in (others or {}).items():
            value = _text(value) if np.asarray(value).dtype.kind == "U" and np.ndim(value) else value
            if version == 3:
                file["attrs"][name] = value
            else:
                file.attrs[name] = value
    return path


def tar(path: Path, members: dict[str, bytes], mode: str = "w:gz") -> Path:
    """An archive of files."""
    import io

    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def tar_of(path: Path, folder: Path, prefix: str) -> Path:
    """An archive of the files of a folder, under another name."""
    return tar(path, {f"{prefix}/{file.name}": file.read_bytes() for file in sorted(folder.iterdir())})


def zipped(path: Path, members: dict[str, bytes]) -> Path:
    """A zip archive of files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def table(X: Any, lines: Any, columns: Any, sep: str = ",", corner: str | None = "", end: str = "\n") -> bytes:
    """A text table with names; corner None leaves the corner out, as R does."""
    head = [*([] if corner is None else [corner]), *map(str, columns)]
    rows = [[str(name), *map(str, row)] for name, row in zip(lines, np.asarray(X).tolist(), strict=True)]
    return (end.join(sep.join(row) for row in [head, *rows]) + end).encode()


def cortex_text(
    X: sp.csr_matrix,
    types: Any,
    subtypes: Any,
    genes: Any,
    first: tuple[str, str] = ("(none)", ""),
    beyond: int = 0,
    end: str = "\n",
) -> bytes:
    """The layout of Zeisel et al. 2015: ten lines of annotations, an empty one, genes with a number each.

    Parameters
    ----------
    first
        What the last three lines of annotations have before their name or, if that is nothing, behind it.
    beyond
        How many values the lines have that are no group and no class, beyond those of the cells.
    """
    n = X.shape[0]
    lines = {
        "tissue": ["sscortex"] * n,
        "group #": [1 + i % 9 for i in range(n)],
        "total mRNA mol": np.ravel(X.sum(axis=1)),
        "well": range(n),
        "sex": [i % 3 - 1 for i in range(n)],
        "age": [21] * n,
        "diameter": [0] * n,
        "cell_id": [f"1772071015_C{i:02d}" for i in range(n)],
        "level1class": types,
        "level2class": subtypes,
    }
    rows = [["", name, *map(str, values)] for name, values in lines.items()]
    for row in rows[7:]:
        row[:2] = [first[0], row[1]] if first[0] else [row[1], first[1]]
    for name, row in zip(lines, rows, strict=True):
        if name not in ("group #", "level1class"):
            row += [f"more{i}" for i in range(beyond)]
    dense = X.toarray().T
    body = [[gene, str(i % 7), *map(str, row)] for i, (gene, row) in enumerate(zip(genes, dense.tolist(), strict=True))]
    return (end.join("\t".join(row) for row in [*rows, [""] * len(rows[0]), *body]) + end).encode()

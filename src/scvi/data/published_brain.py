"""The mouse brain as it was published: the table of Zeisel et al. 2015, 1.3 million cells of 10x Genomics (2017)."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvi._checks import check_integer, check_sizes
from scvi.cells.storage import moments
from scvi.data.files import as_counts, existing, numbered, open_bytes, readable_as, stacked, unique_names
from scvi.data.tenx import TenxH5, genes_and_others, open_tenx_h5, warn_of_numbers

logger = logging.getLogger(__name__)

_VALUES_AT_ONCE = 2**24
"""Counts of the cells that are read at once from a large file."""
_KIND = "the table of Zeisel et al. 2015"
_ANNOTATIONS = 10
"""Lines before the empty one."""
_CLASSES = {8: "level1class", 9: "level2class"}
_NO_NAME = "(none)"
_LINES_IN_BLOCK = 256


def read_cortex(path: str | os.PathLike[str]) -> AnnData:
    """Reads the table of Zeisel et al. 2015.

    Ten lines of annotations (the first or second field names them, values begin with the third), an empty line, and a
    line for each gene: its name, a number of its cluster, counts. Where there is no name to write, lines may begin with
    "(none)". Cells are those that have a level1class; what other lines hold beyond them belongs to no cell and is left
    out, with a line in the log.

    Returns
    -------
    Counts as CSR; in `obs` the annotations as text, under the names that they have in the file; genes as in the file.
    Names of genes that occur twice get a number.

    Raises
    ------
    ValueError
        If the file is damaged, or another table.
    """
    path = existing(path)
    with readable_as(path, _KIND), open_bytes(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig") as text:
        lines = (line.rstrip("\n") for line in text)
        annotations = _annotations(path, lines)
        n = len(annotations["level1class"])
        genes: list[str] = []
        blocks: list[sp.csr_matrix] = []
        named = (line for line in lines if line.strip())
        while block := list(islice(named, _LINES_IN_BLOCK)):
            blocks.append(sp.csr_matrix(np.stack([_counts(line, n, genes) for line in block])))
        if not genes:
            raise ValueError("it has no genes")
    cells = annotations.get("cell_id", list(map(str, range(n))))
    obs = pd.DataFrame(
        {name: np.array(values, dtype=object) for name, values in annotations.items()},
        index=unique_names(cells, "names of cells", path),
    )
    return AnnData(stacked(blocks, n).T.tocsr(), obs=obs, var=pd.DataFrame(index=numbered(genes)))


def _annotations(path: Path, lines: Iterator[str]) -> dict[str, list[str]]:
    """Values of the cells by the names of the first lines; the empty line after them is read too."""
    annotations = {}
    for place, line in enumerate(islice(lines, _ANNOTATIONS)):
        fields = line.split("\t")
        name = next((field for field in fields[:2] if field not in ("", _NO_NAME)), f"line {place + 1}")
        if name != _CLASSES.get(place, name):
            raise ValueError(f"line {place + 1} is called {name[:40]!r}, not {_CLASSES[place]!r}")
        annotations[name] = fields[2:]
    if "level2class" not in annotations:
        raise ValueError(f"it ends before its line {_ANNOTATIONS}; it was cut short")
    if next(lines, "").strip():
        raise ValueError(f"line {_ANNOTATIONS + 1}, between the cells and the genes, is not empty")
    return _of_same_cells(path, annotations)


def _of_same_cells(path: Path, annotations: dict[str, list[str]]) -> dict[str, list[str]]:
    """The annotations cut to the cells that have a class; lines are not all of one length."""
    n = len(_unpadded(annotations["level1class"], 0))
    short = [name for name, values in annotations.items() if len(values) < n]
    if short or not n:
        raise ValueError(f"the lines {['level1class', *short]} are not of the same cells, or of none")
    longer = [name for name, values in annotations.items() if len(_unpadded(values, n)) > n]
    if longer:
        logger.warning("%s: the lines %s go beyond the %d cells that have a level1class", path, longer, n)
    return {name: values[:n] for name, values in annotations.items()}


def _counts(line: str, n: int, genes: list[str]) -> np.ndarray:
    """Counts of a gene, whose name is added to those before."""
    name, _, *values = line.split("\t") if line.count("\t") >= 2 else (line, "")
    if len(_unpadded(values, n)) != n:
        raise ValueError(f"the line of gene {name[:40]!r} has {len(values)} counts for {n} cells; it is damaged")
    try:
        numbers = as_counts(np.array(values, dtype=np.float64))
    except ValueError:
        raise ValueError(f"the line of gene {name[:40]!r} holds something that is no number") from None
    genes.append(name)
    return numbers


def _unpadded(values: list[str], n: int) -> list[str]:
    """The list itself without the empty fields at its end, as long as it has more than `n`."""
    while len(values) > n and not values[-1]:
        values.pop()
    return values


def read_brain_large(
    path: str | os.PathLike[str],
    *,
    n_genes: int = 720,
    n_cells_for_variance: int = 10_000,
    n_cells: int | None = None,
    n_cells_at_once: int = 100_000,
) -> AnnData:
    """Reads the most variable genes of a large HDF5 file of Cell Ranger; what is in memory is a part of the cells.

    Parameters
    ----------
    n_genes
        How many genes to keep, those of highest variance, in its decreasing order.
    n_cells_for_variance
        The variance is that of the first so many cells.
    n_cells
        Read the first so many cells; None reads all.
    n_cells_at_once
        Most cells of a part. A part has less where these have more than 16 million counts.

    Returns
    -------
    Counts as CSR, barcodes and genes. Where the file does not name its genes, their positions in it are the names, and
    a warning says so.

    Raises
    ------
    ValueError
        If the file is damaged, or an argument is no positive integer.
    """
    adata, _ = most_variable(
        path,
        n_genes=n_genes,
        n_cells_for_variance=n_cells_for_variance,
        n_cells=n_cells,
        n_cells_at_once=n_cells_at_once,
    )
    if "gene_ids" not in adata.var:
        warn_of_numbers(path)
    return adata


def most_variable(
    path: str | os.PathLike[str],
    *,
    n_genes: int,
    n_cells_for_variance: int,
    n_cells: int | None,
    n_cells_at_once: int,
) -> tuple[AnnData, np.ndarray]:
    """What :func:`read_brain_large` returns, and the positions of its genes in the file."""
    check_sizes(1, n_genes=n_genes, n_cells_for_variance=n_cells_for_variance, n_cells_at_once=n_cells_at_once)
    with open_tenx_h5(path) as file:
        n = file.shape[0] if n_cells is None else min(check_integer("n_cells", n_cells, 1), file.shape[0])
        first = min(n_cells_for_variance, file.shape[0])
        parts = (file.rows(*part) for part in _parts(file, first, n_cells_at_once))
        variance = moments(parts, first, file.shape[1])[1]
        features, barcodes = file.features, file.barcodes
        candidates, _ = genes_and_others(features, None, path)  # antibodies vary more than any gene
        genes = candidates[np.argsort(-variance[candidates], kind="stable")[:n_genes]]
        blocks = []
        for start, stop in _parts(file, n, n_cells_at_once):
            blocks.append(file.rows(start, stop)[:, genes])
            logger.info("loaded %d of %d cells", stop, n)
    obs = pd.DataFrame(index=pd.RangeIndex(n).astype(str) if barcodes is None else barcodes[:n])
    var = features.iloc[genes]
    names = unique_names(var["gene_ids"].to_numpy() if "gene_ids" in var else genes.astype(str), "genes", path)
    return AnnData(stacked(blocks, len(genes)), obs=obs, var=var.set_index(names)), genes


def _parts(file: TenxH5, n: int, most: int) -> Iterator[tuple[int, int]]:
    """First cell and end of each part of the first `n` cells."""
    start = 0
    while start < n:
        full = int(np.searchsorted(file.indptr, file.indptr[start] + _VALUES_AT_ONCE, side="right")) - 1
        stop = min(n, start + most, max(full, start + 1))
        yield start, stop
        start = stop

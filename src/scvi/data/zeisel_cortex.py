"""The table of the mouse cortex and hippocampus (Zeisel et al. 2015)."""

from __future__ import annotations

import os
from typing import IO

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvi.data.files import as_counts, existing, open_bytes, readable_as, stacked, unique_names

__all__ = ["read_cortex"]

_KIND = "the table of Zeisel et al. 2015"
_ANNOTATIONS = 10
"""Lines before the empty one."""
_CLASSES = {8: "level1class", 9: "level2class"}
_LINES_IN_BLOCK = 256


def read_cortex(path: str | os.PathLike[str]) -> AnnData:
    """Reads the table of Zeisel et al. 2015.

    Ten lines of annotations (the second field names them, values begin with the third), an empty line, and a line for
    each gene: its name, a number of its cluster, counts.

    Returns
    -------
    Counts as CSR; in `obs` the annotations as text, under the names that they have in the file; genes as in the file.

    Raises
    ------
    ValueError
        If the file is damaged, or another table.
    """
    path = existing(path)
    with readable_as(path, _KIND), open_bytes(path) as file:
        annotations = _annotations(file)
        n = len(annotations["level1class"])
        genes: list[str] = []
        blocks: list[sp.csr_matrix] = []
        while lines := [line for _ in range(_LINES_IN_BLOCK) if (line := _line(file))]:
            blocks.append(sp.csr_matrix(np.stack([_counts(line, n, genes) for line in lines])))
        if not genes:
            raise ValueError("it has no genes")
        var_names = unique_names(genes, "genes", path)
    cells = annotations.get("cell_id", [str(cell) for cell in range(n)])
    obs = pd.DataFrame(
        {name: np.array(values, dtype=object) for name, values in annotations.items()},
        index=unique_names(cells, "names of cells", path),
    )
    return AnnData(stacked(blocks, n).T.tocsr(), obs=obs, var=pd.DataFrame(index=var_names))


def _line(file: IO[bytes]) -> str:
    return file.readline().decode("utf-8").rstrip("\r\n")


def _annotations(file: IO[bytes]) -> dict[str, list[str]]:
    """Values of the cells by the names of the first lines; the empty line after them is read too."""
    annotations = {}
    for place in range(_ANNOTATIONS):
        fields = _line(file).split("\t")
        name = next((field for field in fields[:2] if field), f"line {place + 1}")
        if name != _CLASSES.get(place, name):
            raise ValueError(f"line {place + 1} is called {name[:40]!r}, not {_CLASSES[place]!r}")
        annotations[name] = fields[2:]
    _line(file)
    n = len(annotations["level1class"])
    other = [name for name, values in annotations.items() if len(values) != n]
    if other or not n:
        raise ValueError(f"the lines {['level1class', *other]} are not of the same cells, or of none")
    return annotations


def _counts(line: str, n: int, genes: list[str]) -> np.ndarray:
    """Counts of a gene, whose name is added to those before."""
    name, _, counts = line.split("\t", 2) if line.count("\t") >= 2 else (line, "", "")
    values = counts.split("\t")
    if len(values) != n:
        raise ValueError(f"the line of gene {name[:40]!r} has {len(values)} counts for {n} cells; it is damaged")
    try:
        numbers = as_counts(np.array(values, dtype=np.float64))
    except ValueError:
        raise ValueError(f"the line of gene {name[:40]!r} holds something that is no number") from None
    genes.append(name)
    return numbers

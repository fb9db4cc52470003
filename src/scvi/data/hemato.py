"""Haematopoietic progenitors of the mouse on their way to seven lineages (Tusi et al. 2018)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvi.data.files import Unreadable, as_counts, existing, open_bytes, readable_as, require, stacked

__all__ = ["LINEAGES", "read_hemato"]

_LINES_AT_ONCE = 256
_EXCLUDED = "basal_bm1"
LINEAGES = {
    "Pr_Er": "Erythroid",
    "Pr_Gr": "Granulocyte",
    "Pr_Ly": "Lymphoid",
    "Pr_DC": "Dendritic",
    "Pr_Mk": "Megakaryocyte",
    "Pr_Mo": "Monocyte",
    "Pr_Ba": "Basophil",
}


def read_hemato(
    counts: str | os.PathLike[str], spring: str | os.PathLike[str], genes: str | os.PathLike[str]
) -> AnnData:
    """Reads the three files of the data set.

    Parameters
    ----------
    counts
        Table of cells: cell_id, library_id, and a column for each gene. Library basal_bm1 is left out.
    spring
        Table of cells: cell_id, coordinates, probabilities of the lineages.
    genes
        Names of the genes to keep, one on a line.

    Returns
    -------
    Counts as CSR of the cells in both tables; in `obs` their other columns, and fate_score, the logit of Pr_Gr less
    that of Pr_Er, where 0 and 1 stand for the nearest value between them.

    Raises
    ------
    ValueError
        If a table is damaged, or they have no cells or genes in common.
    """
    wanted = _gene_list(Path(genes))
    with readable_as(existing(spring), "a table of cells"):
        places = pd.read_csv(spring, dtype={"cell_id": str})
    require(spring, places, ("cell_id", "x_spring", "y_spring", *LINEAGES), "columns")
    cells, matrix, kept = _counts(Path(counts), wanted)
    shared = [name for name in cells if name in places]
    joined = cells.assign(row=np.arange(len(cells))).merge(places, on=shared, how="inner")
    if joined.empty:
        raise Unreadable(f"{counts} and {spring} have no cells in common")
    obs = joined.drop(columns="row").set_index(pd.RangeIndex(len(joined)).astype(str))
    obs["fate_score"] = _logit(obs["Pr_Gr"]) - _logit(obs["Pr_Er"])
    return AnnData(matrix[joined["row"].to_numpy()], obs=obs, var=pd.DataFrame(index=kept))


def _gene_list(path: Path) -> list[str]:
    with readable_as(path, "a list of genes"), open_bytes(path) as file:
        lines = file.read().decode("utf-8-sig").splitlines()
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def _counts(path: Path, wanted: list[str]) -> tuple[pd.DataFrame, sp.csr_matrix, list[str]]:
    """The cells to keep, their counts, and which genes these are of."""
    with readable_as(existing(path), "a table of cells"), open_bytes(path) as file:
        parts = pd.read_csv(file, dtype={"cell_id": str, "library_id": str}, chunksize=_LINES_AT_ONCE)
        cells: list[pd.DataFrame] = []
        blocks: list[sp.csr_matrix] = []
        kept: list[str] = []
        with parts:
            for part in parts:
                kept = kept or _kept_genes(part, wanted)
                part = part[part["library_id"] != _EXCLUDED]
                cells.append(part[["cell_id", "library_id"]])
                blocks.append(sp.csr_matrix(as_counts(part[kept].to_numpy())))
    return pd.concat(cells, ignore_index=True), stacked(blocks, len(kept)), kept


def _kept_genes(part: pd.DataFrame, wanted: list[str]) -> list[str]:
    columns = set(part.columns)
    if not {"cell_id", "library_id"} <= columns:
        raise ValueError("it has no columns cell_id and library_id")
    kept = [gene for gene in wanted if gene in columns]
    if not kept:
        raise ValueError("none of the genes to keep is in it")
    return kept


def _logit(probability: pd.Series) -> np.ndarray:
    """Log odds; 0 and 1 stand for the nearest value between them."""
    p = probability.to_numpy(np.float64)
    inner = p[(p > 0) & (p < 1)]
    if len(inner):
        p = np.clip(p, inner.min(), inner.max())
    with np.errstate(divide="ignore"):
        return np.log(p) - np.log1p(-p)

"""Haematopoietic progenitors of the mouse on their way to seven lineages (Tusi et al. 2018)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvi.data.archives import extract
from scvi.data.files import Unreadable, as_counts, existing, open_bytes, readable_as, stacked
from scvi.data.published import published
from scvi.dataset.dataset import DownloadableDataset

__all__ = ["HematoDataset", "read_hemato"]

_LINES_AT_ONCE = 256
_EXCLUDED = "basal_bm1"
_SPRING, _GENES = "bBM.spring_and_pba.csv", "bBM.filtered_gene_list.paper.txt"
_LINEAGES = {
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
    missing = [name for name in ("cell_id", "x_spring", "y_spring", *_LINEAGES) if name not in places]
    if missing:
        raise Unreadable(f"{spring} has no columns {missing}")
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


class HematoDataset(DownloadableDataset):
    """4,016 haematopoietic progenitors of the mouse, 7,397 genes (Tusi et al. 2018). Empty cells are left out.

    Cells have no labels but places and probabilities: x_coord and y_coord, fate_score (see :func:`read_hemato`), and
    all columns of :attr:`meta`. `cell_types_levels` names the lineages.
    """

    def __init__(self, save_path: str = "data/HEMATO/", delayed_populating: bool = False) -> None:
        files = [published("hemato_counts"), published("hemato_data")]
        self.cell_types_levels = list(_LINEAGES.values())
        self._meta_names: list[str] = []
        super().__init__([f.url for f in files], [f.filename for f in files], save_path, delayed_populating)

    def populate(self) -> None:
        """Extracts what is not there yet, and reads it."""
        folder = Path(self.save_path)
        if not (folder / _SPRING).exists() or not (folder / _GENES).exists():
            self._extract(folder)
        adata = read_hemato(folder / self.filenames[0], folder / _SPRING, folder / _GENES)
        self._meta_names = [name for name in adata.obs if name not in ("x_spring", "y_spring", "fate_score")]
        self.populate_from_data(
            adata.X,
            gene_names=adata.var_names.to_numpy().astype(str),
            cell_attributes_dict={
                "x_coord": adata.obs["x_spring"].to_numpy(),
                "y_coord": adata.obs["y_spring"].to_numpy(),
                "fate_score": adata.obs["fate_score"].to_numpy(),
                **{name: _plain(adata.obs[name]) for name in self._meta_names},
            },
        )
        self.filter_cells_by_count()

    def _extract(self, folder: Path) -> None:
        """Unpacks the archive; its files may lie in a folder of their own there."""
        for path in extract(folder / self.filenames[1], folder):
            if path.name in (_SPRING, _GENES) and path.parent != folder:
                os.replace(path, folder / path.name)

    @property
    def meta(self) -> pd.DataFrame:
        """What is known of the cells: identifiers, potential, probabilities of the lineages."""
        return pd.DataFrame({name: np.ravel(getattr(self, name)) for name in self._meta_names})


def _plain(column: pd.Series) -> np.ndarray:
    values = column.to_numpy()
    return values if values.dtype.kind in "biuf" else values.astype(str)

"""Haematopoietic progenitors of the mouse on their way to seven lineages (Tusi et al. 2018)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from scvi.data.archives import extract
from scvi.data.published import published
from scvi.data.published_blood import LINEAGES, read_hemato
from scvi.dataset.arrays import array_if_small
from scvi.dataset.dataset import DownloadableDataset
from scvi.dataset.exchange import text_or_as_is

__all__ = ["HematoDataset", "read_hemato"]

_SPRING, _GENES = "bBM.spring_and_pba.csv", "bBM.filtered_gene_list.paper.txt"


class HematoDataset(DownloadableDataset):
    """4,016 haematopoietic progenitors of the mouse, 7,397 genes (Tusi et al. 2018). Empty cells are left out.

    Cells have no labels but places and probabilities: x_coord and y_coord, fate_score (see :func:`read_hemato`), and
    all columns of :attr:`meta`. `cell_types_levels` names the lineages.
    """

    def __init__(self, save_path: str = "data/HEMATO/", delayed_populating: bool = False) -> None:
        self.cell_types_levels = list(LINEAGES.values())
        self._meta_names: list[str] = []
        super().__init__(*published("hemato_counts", "hemato_data"), save_path, delayed_populating)

    def populate(self) -> None:
        """Extracts what is not there yet, and reads it."""
        folder = Path(self.save_path)
        if not (folder / _SPRING).exists() or not (folder / _GENES).exists():
            self._extract(folder)
        adata = read_hemato(self._paths[0], folder / _SPRING, folder / _GENES)
        self._meta_names = [name for name in adata.obs if name not in ("x_spring", "y_spring", "fate_score")]
        with self._all_or_nothing():
            self.populate_from_data(
                array_if_small(adata.X),
                gene_names=adata.var_names.to_numpy().astype(str),
                cell_attributes_dict={
                    "x_coord": adata.obs["x_spring"].to_numpy(),
                    "y_coord": adata.obs["y_spring"].to_numpy(),
                    "fate_score": adata.obs["fate_score"].to_numpy(),
                    **{name: text_or_as_is(adata.obs[name]) for name in self._meta_names},
                },
            )
            self.filter_cells_by_count()

    def _extract(self, folder: Path) -> None:
        """Unpacks the archive; its files may lie in a folder of their own there."""
        for path in extract(self._paths[1], folder):
            if path.name in (_SPRING, _GENES) and path.parent != folder:
                os.replace(path, folder / path.name)

    @property
    def meta(self) -> pd.DataFrame:
        """What is known of the cells: identifiers, potential, probabilities of the lineages."""
        return pd.DataFrame({name: np.ravel(getattr(self, name)) for name in self._meta_names})

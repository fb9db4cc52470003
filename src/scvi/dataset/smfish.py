"""osmFISH of the mouse somatosensory cortex (Codeluppi et al. 2018)."""

from __future__ import annotations

import numpy as np

from scvi.data.published import FILES
from scvi.data.published_fish import HIGH_LEVEL, read_smfish
from scvi.dataset.arrays import array_if_small
from scvi.dataset.dataset import DownloadableDataset

__all__ = ["SmfishDataset"]


class SmfishDataset(DownloadableDataset):
    """6,471 cells and 33 genes, places in x_coord and y_coord (n, 1). Empty cells stay.

    Parameters
    ----------
    save_path
        Folder of the file, ``osmFISH_SScortex_mouse_all_cell.loom`` or, as it is called on the web, ``..._cells.loom``.
    use_high_level_cluster
        Six types for 4,530 of the cells, instead of all clusters of the authors.
    delayed_populating
        Only download.
    """

    def __init__(
        self, save_path: str = "data/", use_high_level_cluster: bool = True, delayed_populating: bool = False
    ) -> None:
        self.use_high_level_cluster = use_high_level_cluster
        file = FILES["smfish"]
        super().__init__(file.url, file.name_in(save_path), save_path, delayed_populating)

    def populate(self) -> None:
        """Reads the file."""
        adata = read_smfish(self._paths[0])
        labels, names = (adata.obs[name].to_numpy() for name in ("ClusterID", "ClusterName"))
        codes, first = np.unique(labels, return_index=True)
        cell_types = np.full(codes.max() + 1, "", dtype=object)
        cell_types[codes] = names[first]
        x, y = np.hsplit(adata.obsm["coords"], 2)
        with self._all_or_nothing():
            self.populate_from_data(
                array_if_small(adata.X),
                labels=labels,
                gene_names=adata.var_names.to_numpy().astype(str),
                cell_types=cell_types.astype(str),
                cell_attributes_dict={"x_coord": x, "y_coord": y},
                remap_attributes=False,
            )
            if self.use_high_level_cluster:
                present = set(codes.tolist())
                merged = {tuple(present & set(clusters)): name for name, clusters in HIGH_LEVEL.items()}
                merged.pop((), None)  # types of which there is no cluster
                self.map_cell_types(merged)
                self.filter_cell_types(list(merged.values()))
            self.remap_categorical_attributes()

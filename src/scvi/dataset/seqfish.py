"""seqFISH of the mouse hippocampus (Shah et al. 2016)."""

from __future__ import annotations

from scvi.data.published import published
from scvi.data.published_fish import read_seqfish
from scvi.dataset.arrays import array_if_small
from scvi.dataset.dataset import DownloadableDataset

__all__ = ["SeqfishDataset", "read_seqfish"]


class SeqfishDataset(DownloadableDataset):
    """Counts of the mouse hippocampus by seqFISH; lines of the workbook are genes."""

    def __init__(self, save_path: str = "data/", delayed_populating: bool = False) -> None:
        super().__init__(*published("seqfish"), save_path, delayed_populating)

    def populate(self) -> None:
        """Reads the workbook."""
        adata = read_seqfish(self._paths[0])
        self.populate_from_data(array_if_small(adata.X), gene_names=adata.var_names.to_numpy().astype(str))

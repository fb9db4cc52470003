"""seqFISH+ of the mouse brain (Eng et al. 2019)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from scvi._checks import check_choice
from scvi.data.archives import extract
from scvi.data.published import published
from scvi.data.published_fish import read_seqfishplus
from scvi.dataset.arrays import array_if_small
from scvi.dataset.attributes import CellMeasurement
from scvi.dataset.dataset import DownloadableDataset

__all__ = ["SeqFishPlusDataset", "read_seqfishplus"]

_PREFIXES = {"subventricular cortex": "cortex_svz", "olfactory bulb": "ob"}
Region = Literal["subventricular cortex", "olfactory bulb"]


class SeqFishPlusDataset(DownloadableDataset):
    """About 10,000 genes in cells of the mouse cortex or olfactory bulb; places are the measurement coords.

    Parameters
    ----------
    tissue_region
        "subventricular cortex" or "olfactory bulb".
    save_path
        Folder of the archive, which is extracted into its folder ``seqfishplus``.
    delayed_populating
        Only download.
    """

    def __init__(
        self,
        tissue_region: Region = "subventricular cortex",
        save_path: str = "data",
        delayed_populating: bool = False,
    ) -> None:
        check_choice("tissue_region", tissue_region, sorted(_PREFIXES))
        self.tissue_region = tissue_region
        super().__init__(*published("seqfishplus"), save_path, delayed_populating)

    def populate(self) -> None:
        """Extracts what is not there yet, and reads it."""
        folder, prefix = Path(self.save_path) / "seqfishplus", _PREFIXES[self.tissue_region]
        files = [folder / "sourcedata" / f"{prefix}_{table}.csv" for table in ("counts", "cellcentroids")]
        if not all(file.exists() for file in files):
            extract(self._paths[0], folder)
        adata = read_seqfishplus(*files)
        self.populate_from_data(
            array_if_small(adata.X),
            Ys=[CellMeasurement("coords", adata.obsm["coords"], "axis", ["x", "y"])],
            gene_names=adata.var_names.to_numpy().astype(str),
            cell_attributes_dict={name: adata.obs[name].to_numpy() for name in adata.obs},
        )

"""seqFISH+ of the mouse brain (Eng et al. 2019)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvi.data.archives import extract
from scvi.data.files import Unreadable, as_counts, existing, numbered, open_bytes, readable_as, stacked
from scvi.data.published import published
from scvi.dataset.attributes import CellMeasurement
from scvi.dataset.dataset import DownloadableDataset

__all__ = ["SeqFishPlusDataset", "read_seqfishplus"]

_LINES_AT_ONCE = 256
_PREFIXES = {"subventricular cortex": "cortex_svz", "olfactory bulb": "ob"}
Region = Literal["subventricular cortex", "olfactory bulb"]


def read_seqfishplus(counts: str | os.PathLike[str], centroids: str | os.PathLike[str]) -> AnnData:
    """Reads the two tables of a region.

    Parameters
    ----------
    counts
        A line of names of genes, then a line for each cell.
    centroids
        Field of View, Cell ID, X, Y and, for the cortex, Region of the same cells.

    Returns
    -------
    Counts as CSR; in `obs` field_of_view, cell_id and, where it is there, region; ``obsm["coords"]``.

    Raises
    ------
    ValueError
        If a table is damaged, or they are of different numbers of cells.
    """
    blocks: list[sp.csr_matrix] = []
    with readable_as(existing(counts), "a table of counts"), open_bytes(Path(counts)) as file:
        with pd.read_csv(file, chunksize=_LINES_AT_ONCE) as parts:
            for part in parts:
                genes = part.columns
                blocks.append(sp.csr_matrix(as_counts(part.to_numpy())))
        matrix = stacked(blocks, len(genes))
    with readable_as(existing(centroids), "a table of places"):
        places = pd.read_csv(centroids)
    missing = [name for name in ("Field of View", "Cell ID", "X", "Y") if name not in places]
    if missing:
        raise Unreadable(f"{centroids} has no columns {missing}")
    if len(places) != matrix.shape[0]:
        raise Unreadable(f"{counts} has {matrix.shape[0]} cells and {centroids} {len(places)}")
    obs = pd.DataFrame({"field_of_view": places["Field of View"], "cell_id": places["Cell ID"]})
    if "Region" in places:
        obs["region"] = places["Region"].astype(str)
    obs.index = pd.RangeIndex(len(obs)).astype(str)
    coords = places[["X", "Y"]].to_numpy(np.float64)
    return AnnData(matrix, obs=obs, var=pd.DataFrame(index=numbered(genes)), obsm={"coords": coords})


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
        if tissue_region not in _PREFIXES:
            raise ValueError(f"tissue_region={tissue_region!r} is not one of {sorted(_PREFIXES)}")
        file = published("seqfishplus")
        self.tissue_region = tissue_region
        super().__init__(file.url, file.filename, save_path, delayed_populating)

    def populate(self) -> None:
        """Extracts what is not there yet, and reads it."""
        folder, prefix = Path(self.save_path) / "seqfishplus", _PREFIXES[self.tissue_region]
        files = [folder / "sourcedata" / f"{prefix}_{table}.csv" for table in ("counts", "cellcentroids")]
        if not all(file.exists() for file in files):
            extract(Path(self.save_path) / self.filenames[0], folder)
        adata = read_seqfishplus(*files)
        self.populate_from_data(
            adata.X,
            Ys=[CellMeasurement("coords", adata.obsm["coords"], "axis", ["x", "y"])],
            gene_names=adata.var_names.to_numpy().astype(str),
            cell_attributes_dict={name: adata.obs[name].to_numpy() for name in adata.obs},
        )

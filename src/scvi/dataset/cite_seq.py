"""CITE-seq of Stoeckius et al. 2017 (GSE100866)."""

from __future__ import annotations

from pathlib import Path

from scvi.data.published import CITE_SEQ, published
from scvi.data.published_blood import read_cite_seq
from scvi.dataset.arrays import array_if_small
from scvi.dataset.attributes import CellMeasurement
from scvi.dataset.dataset import DownloadableDataset

__all__ = ["CbmcDataset", "CiteSeqDataset", "read_cite_seq"]


class CiteSeqDataset(DownloadableDataset):
    """CITE-seq of Stoeckius et al. 2017: human genes, and antibodies as measurements.

    Cells without counts are left out. Counts of antibodies are in protein_expression (names in protein_names), the
    authors' centred log ratios in protein_expression_clr (protein_names_clr).

    Parameters
    ----------
    name
        "cbmc" (8,617 cord blood cells, 13 antibodies), "pbmc" or "cd8".
    save_path
        The files are in its folder `name`.
    """

    def __init__(self, name: str = "cbmc", save_path: str = "data/citeSeq/", delayed_populating: bool = False) -> None:
        if name not in CITE_SEQ:
            raise KeyError(f"name={name!r} is not one of {sorted(CITE_SEQ)}")
        files = [f"cite_seq_{name}_{part}" for part in ("rna", "adt", "adt_centered")]
        super().__init__(*published(*files), str(Path(save_path) / name), delayed_populating)

    def populate(self) -> None:
        """Reads the three tables."""
        adata = read_cite_seq(*self._paths)
        measurements = [
            CellMeasurement(
                f"protein_expression{kind}", adata.obsm[f"protein_expression{kind}"], f"protein_names{kind}", names
            )
            for kind, names in (("", adata.uns["protein_names"]), ("_clr", adata.uns["protein_names_clr"]))
        ]
        names = adata.var["gene_symbols"].to_numpy().astype(str)
        with self._all_or_nothing():
            self.populate_from_data(array_if_small(adata.X), Ys=measurements, gene_names=names)
            self.filter_cells_by_count()


class CbmcDataset(CiteSeqDataset):
    """8,617 cord blood cells with 13 antibodies, see :class:`CiteSeqDataset`."""

    def __init__(self, save_path: str = "data/citeSeq/", delayed_populating: bool = False) -> None:
        super().__init__("cbmc", save_path, delayed_populating)

"""Blood cells of 10x Genomics: two runs with cell types and quality metrics, and purified types."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from scvi.data.published import PURIFIED, published
from scvi.data.published_blood import read_pbmc
from scvi.dataset.dataset import DownloadableDataset
from scvi.dataset.dataset10X import Dataset10X

__all__ = ["PbmcDataset", "PurifiedPBMCDataset"]

_RUNS = ("pbmc8k", "pbmc4k")


class PbmcDataset(DownloadableDataset):
    """11,990 blood cells of two runs (pbmc8k, then pbmc4k) with 9 cell types, 3,346 genes by Ensembl identifier.

    Cells are those of the published metadata, in its order. `design`, `raw_qc`, `qc` (the same), `qc_pc` and
    `normalized_qc` are attributes of the cells, `qc_names` names the columns of `qc`, :attr:`de_metadata` has published
    differential expression of the genes.

    Parameters
    ----------
    save_path
        Folder of the metadata.
    save_path_10X
        Folder of the counts; `save_path` by default.
    remove_extracted_data
        Remove what was extracted from the archives of counts, once it is read.
    delayed_populating
        Only download.
    """

    def __init__(
        self,
        save_path: str = "data/",
        save_path_10X: str | None = None,
        remove_extracted_data: bool = False,
        delayed_populating: bool = False,
    ) -> None:
        self.save_path_10X = save_path if save_path_10X is None else save_path_10X
        self.remove_extracted_data = remove_extracted_data
        self.qc_names: npt.NDArray | None = None
        self._de_metadata = pd.DataFrame()
        super().__init__(*published("pbmc_gene_info", "pbmc_metadata"), save_path, delayed_populating)

    def download(self) -> None:
        """Downloads metadata and counts."""
        super().download()
        for name in _RUNS:
            self._run(name)

    def _run(self, name: str) -> Dataset10X:
        return Dataset10X(
            name, None, self.save_path_10X, remove_extracted_data=self.remove_extracted_data, delayed_populating=True
        )

    def populate(self) -> None:
        """Reads counts and metadata."""
        genes, metadata = self._paths
        adata = read_pbmc([self._run(name)._read() for name in _RUNS], metadata, genes)
        types, qc = adata.obs["cell_type"].cat, adata.obsm["raw_qc"].copy()
        with self._all_or_nothing():
            self.populate_from_data(
                adata.X,
                batch_indices=adata.obs["run"],
                labels=types.codes,
                gene_names=adata.var_names.to_numpy().astype(str),
                cell_types=types.categories.to_numpy(),
                cell_attributes_dict={"barcodes": adata.obs["barcode"].to_numpy().astype(str), **adata.obsm, "qc": qc},
            )
            self.filter_cells_by_count()
            self.qc_names = adata.uns.get("qc_names")
            self._de_metadata = adata.var

    @property
    def de_metadata(self) -> pd.DataFrame:
        """A line for each gene, in the order of the genes: its names, and for each comparison (CD, BDC, BDC2) what a
        published analysis found."""
        return self._de_metadata.reindex(self.gene_names).reset_index(drop=True)


class PurifiedPBMCDataset(DownloadableDataset):
    """Blood cells of ten purified types (Zheng et al. 2017); each type is a batch. Unexpressed genes are left out.

    Parameters
    ----------
    save_path
        Folder of the counts, which are in its folders ``cd4_t_helper``, ``regulatory_t`` and so on.
    subset_datasets
        Positions of the types to read, in :data:`scvi.data.published.PURIFIED`; all by default.
    remove_extracted_data
        Remove what was extracted from the archives, once it is read.
    delayed_populating
        Only download.
    """

    def __init__(
        self,
        save_path: str = "data/",
        subset_datasets: Sequence[int] | None = None,
        remove_extracted_data: bool = False,
        delayed_populating: bool = False,
    ) -> None:
        chosen = range(len(PURIFIED)) if subset_datasets is None else np.asarray(subset_datasets).tolist()
        outside = [place for place in chosen if place not in range(len(PURIFIED))]
        if outside:
            raise ValueError(f"subset_datasets has the position {outside[0]}; there are {len(PURIFIED)}, from 0")
        self.dataset_names = [PURIFIED[place] for place in chosen]
        self.remove_extracted_data = remove_extracted_data
        super().__init__(save_path=save_path, delayed_populating=delayed_populating)

    def download(self) -> None:
        """Downloads the counts of each type."""
        for name in self.dataset_names:
            Dataset10X(name, save_path=self.save_path, delayed_populating=True)

    def populate(self) -> None:
        """Reads the counts of each type."""
        datasets = [
            Dataset10X(name, save_path=self.save_path, remove_extracted_data=self.remove_extracted_data)
            for name in self.dataset_names
        ]
        for name, dataset in zip(self.dataset_names, datasets, strict=True):
            dataset.initialize_mapped_attribute("labels", "cell_types", [name])
        with self._all_or_nothing():
            self.populate_from_datasets(datasets, shared_labels=True)
            self.filter_genes_by_count()
            self.filter_cells_by_count()

"""1.3 million cells of the mouse brain (10x Genomics 2017), reduced to few genes."""

from __future__ import annotations

import logging

from scvi.data.published import published
from scvi.data.published_brain import most_variable, read_brain_large
from scvi.dataset.dataset import DownloadableDataset

__all__ = ["BrainLargeDataset", "read_brain_large"]

logger = logging.getLogger(__name__)


class BrainLargeDataset(DownloadableDataset):
    """1.3 million cells of the mouse brain, reduced to the genes of highest variance. Cells left empty are dropped.

    The positions of the genes in the file are their attribute subset_genes; names they have where the file has some.

    Parameters
    ----------
    filename
        Name of the file; "brain_large.h5" by default.
    save_path
        Folder of the file.
    sample_size_gene_var
        The variance is estimated on the first so many cells.
    max_cells_to_keep
        Read the first so many cells; None reads all.
    nb_genes_to_keep
        How many genes to keep, in decreasing order of their variance.
    loading_batch_size
        Cells that are in memory with all their genes.
    delayed_populating
        Only download.
    """

    def __init__(
        self,
        filename: str | None = None,
        save_path: str = "data/",
        sample_size_gene_var: int = 10_000,
        max_cells_to_keep: int | None = None,
        nb_genes_to_keep: int = 720,
        loading_batch_size: int = 100_000,
        delayed_populating: bool = False,
    ) -> None:
        self.sample_size_gene_var = sample_size_gene_var
        self.n_cells_to_keep = max_cells_to_keep
        self.nb_genes_to_keep = nb_genes_to_keep
        self.loading_batch_size = loading_batch_size
        urls, names = published("brain_large")
        super().__init__(urls, filename or names, save_path, delayed_populating)

    def populate(self) -> None:
        """Reads the file."""
        adata, genes = most_variable(
            self._paths[0],
            n_genes=self.nb_genes_to_keep,
            n_cells_for_variance=self.sample_size_gene_var,
            n_cells=self.n_cells_to_keep,
            n_cells_at_once=self.loading_batch_size,
        )
        self.n_cells_to_keep = adata.n_obs
        named = "gene_ids" in adata.var
        if not named:
            logger.warning("%s has no names of genes; subset_genes has their positions in it", self._paths[0])
        with self._all_or_nothing():
            self.populate_from_data(
                adata.X,
                gene_names=adata.var_names.to_numpy().astype(str) if named else None,
                gene_attributes_dict={"subset_genes": genes},
            )
            self.filter_cells_by_count()

"""Blood cells of 10x Genomics: two runs with cell types and quality metrics, and purified types."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from scvi.data.files import Unreadable, existing, readable_as
from scvi.data.published import published
from scvi.data.unpickling import read_pickle
from scvi.dataset.dataset import DownloadableDataset
from scvi.dataset.dataset10X import Dataset10X

__all__ = ["PbmcDataset", "PurifiedPBMCDataset"]

_RUNS = ("pbmc8k", "pbmc4k")
_TABLES = ("design", "raw_qc", "qc_pc", "normalized_qc")

PURIFIED = (
    *("cd4_t_helper", "regulatory_t", "naive_t", "memory_t", "cytotoxic_t", "naive_cytotoxic", "b_cells", "cd34"),
    *("cd56_nk", "cd14_monocytes"),
)
"""Types of PurifiedPBMCDataset, each of which is a data set of its own."""


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
        files = [published("pbmc_gene_info"), published("pbmc_metadata")]
        self.save_path_10X = save_path if save_path_10X is None else save_path_10X
        self.remove_extracted_data = remove_extracted_data
        self.qc_names: npt.NDArray | None = None
        self._de_metadata = pd.DataFrame({"ENSG": []})
        super().__init__([f.url for f in files], [f.filename for f in files], save_path, delayed_populating)

    def download(self) -> None:
        """Downloads metadata and counts."""
        super().download()
        for name in _RUNS:
            Dataset10X(name, save_path=self.save_path_10X, delayed_populating=True)

    def populate(self) -> None:
        """Reads counts and metadata."""
        folder = Path(self.save_path)
        info, pickled = folder / self.filenames[0], folder / self.filenames[1]
        with readable_as(existing(info), "a table of genes"):
            genes = pd.read_csv(info)
            if "ENSG" not in genes:
                raise ValueError("it has no column ENSG")
        metadata = read_pickle(pickled)
        missing = [key for key in ("barcodes", "clusters", "list_clusters", *_TABLES) if key not in metadata]
        if missing:
            raise Unreadable(f"{pickled} has no {missing}")
        runs = [
            Dataset10X(name, save_path=self.save_path_10X, remove_extracted_data=self.remove_extracted_data)
            for name in _RUNS
        ]
        with self._all_or_nothing():
            self.populate_from_datasets(runs)
            barcodes = [np.ravel(run.barcodes) for run in runs]  # type: ignore[attr-defined]
            rows, cells = _matched(metadata["barcodes"], barcodes)
            if not len(rows):
                raise Unreadable(f"{pickled} has none of the barcodes of the counts")
            self.update_cells(cells)
            self._annotate(metadata, rows)
            self._de_metadata = genes.drop_duplicates("ENSG")
            self.filter_genes_by_attribute(genes["ENSG"].to_numpy().astype(str))

    def _annotate(self, metadata: dict[str, Any], rows: np.ndarray) -> None:
        """Labels and metrics from these rows of the metadata."""
        names = np.asarray(metadata["list_clusters"]).astype(str).ravel()
        clusters = np.asarray(metadata["clusters"]).ravel().astype(np.int64)
        if clusters.min() < 0 or clusters.max() >= len(names):  # codes that do not count from 0
            clusters = np.unique(clusters, return_inverse=True)[1]
        self.labels = clusters[rows]
        self.initialize_mapped_attribute("labels", "cell_types", names)
        self.remap_categorical_attributes(["labels"])
        for name in _TABLES:
            self.initialize_cell_attribute(name, _as_array(metadata[name])[rows])
        self.initialize_cell_attribute("qc", np.array(self.raw_qc))  # type: ignore[attr-defined]
        columns = getattr(metadata["raw_qc"], "columns", None)
        self.qc_names = None if columns is None else columns.to_numpy().astype(str)

    @property
    def de_metadata(self) -> pd.DataFrame:
        """A line for each gene, in the order of the genes: its names, and for each comparison (CD, BDC, BDC2) what a
        published analysis found."""
        return self._de_metadata.set_index("ENSG", drop=False).reindex(self.gene_names).reset_index(drop=True)


def _matched(barcodes: Any, runs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the metadata that are cells of the runs, and which cells these are, all runs one after the other.

    Barcodes that occur in both runs got a further 1 at their second place in the metadata. Those that end so have no
    labels and are left out. At its first place such a barcode is of the run that the cells before it are of.
    """
    table = barcodes.index if isinstance(barcodes, (pd.DataFrame, pd.Series)) else pd.Index(np.ravel(barcodes))
    names = table.astype(str)
    places = np.stack([pd.Index(run.astype(str)).get_indexer(names) for run in runs])  # (runs, rows)
    found = places >= 0
    run = pd.Series(np.where(found.sum(axis=0) == 1, found.argmax(axis=0), np.nan))
    run = run.ffill().bfill().fillna(0).to_numpy(np.int64)
    run = np.where(found.sum(axis=0) > 1, run, found.argmax(axis=0))
    starts = np.cumsum([0, *(len(run_barcodes) for run_barcodes in runs[:-1])])
    rows = np.flatnonzero(found.any(axis=0) & ~names.str.endswith("11"))
    return rows, places[run[rows], rows] + starts[run[rows]]


def _as_array(table: Any) -> np.ndarray:
    """Numbers as they are, anything else as text."""
    values = np.asarray(table)
    return values if values.dtype.kind in "biuf" else values.astype(str)


class PurifiedPBMCDataset(DownloadableDataset):
    """Blood cells of ten purified types (Zheng et al. 2017); each type is a batch. Unexpressed genes are left out.

    Parameters
    ----------
    save_path
        Folder of the counts, which are in its folders ``cd4_t_helper``, ``regulatory_t`` and so on.
    subset_datasets
        Positions of the types to read, in :data:`scvi.dataset.pbmc.PURIFIED`; all by default.
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
        datasets = []
        for name in self.dataset_names:
            dataset = Dataset10X(
                name,
                save_path=self.save_path,
                remove_extracted_data=self.remove_extracted_data,
                delayed_populating=True,
            )
            dataset.populate()
            dataset.initialize_mapped_attribute("labels", "cell_types", [name])
            datasets.append(dataset)
        with self._all_or_nothing():
            self.populate_from_datasets(datasets, shared_labels=True)
            self.filter_genes_by_count()
            self.filter_cells_by_count()

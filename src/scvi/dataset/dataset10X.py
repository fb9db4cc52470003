"""Data sets of 10x Genomics under their 2020 names."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData

from scvi.data.archives import extract
from scvi.data.download import download_file
from scvi.data.files import Unreadable, readable_as
from scvi.data.pickles import read_metadata
from scvi.data.published import FILES, tenx_file
from scvi.data.tenx import VarNames, find_matrices, read_10x
from scvi.dataset.attributes import CellMeasurement
from scvi.dataset.dataset import DownloadableDataset

__all__ = ["BrainSmallDataset", "Dataset10X"]

logger = logging.getLogger(__name__)

_NAMES: tuple[VarNames, VarNames] = ("gene_ids", "gene_symbols")


class Dataset10X(DownloadableDataset):
    """Counts of Cell Ranger: a published data set by its name, an archive, or a folder.

    Antibodies become the measurement protein_expression with protein_names. Cells without counts are left out. The
    barcodes are an attribute of the cells; the number at their end, less 1, is their batch.

    Parameters
    ----------
    dataset_name
        One of the names in :data:`scvi.data.published.TENX_GROUPS`; its files are in ``save_path/dataset_name``.
    filename, url
        An archive (.tar.gz) in `save_path`, and where to download it from. Without these and without a name, the folder
        of matrices at `save_path` or below is read.
    save_path
        Folder of the files.
    type
        Published matrices of barcodes that are cells ("filtered"), or of all ("raw").
    dense
        Counts as an array.
    measurement_names_column
        Names of genes and other features: 0 for identifiers, 1 for symbols.
    remove_extracted_data
        Remove the folder that was extracted from the archive, once it is read, if it was not there before.
    delayed_populating
        Only download.
    """

    def __init__(
        self,
        dataset_name: str | None = None,
        filename: str | None = None,
        save_path: str = "data/10X",
        url: str | None = None,
        type: Literal["filtered", "raw"] = "filtered",
        dense: bool = False,
        measurement_names_column: int = 0,
        remove_extracted_data: bool = False,
        delayed_populating: bool = False,
    ) -> None:
        if measurement_names_column not in (0, 1):
            raise ValueError(f"measurement_names_column={measurement_names_column!r} is not 0 or 1")
        if dataset_name is not None:
            if filename is not None or url is not None:
                logger.warning("dataset_name=%r is given: filename and url are ignored", dataset_name)
            file = tenx_file(dataset_name, type)
            filename, url, save_path = file.filename, file.url, str(Path(save_path) / dataset_name)
        elif url is not None and filename is None:
            filename = url.rpartition("/")[2]
        self.dataset_name = dataset_name
        self.type = type
        self.dense = dense
        self.measurement_names_column = measurement_names_column
        self.remove_extracted_data = remove_extracted_data
        super().__init__(url, filename or [], save_path, delayed_populating)

    def populate(self) -> None:
        """Reads the matrices, extracting them first where need be."""
        adata = self._read()
        names = {name: "protein_names" if name == "protein_expression" else f"{name}_names" for name in adata.obsm}
        measurements = [
            CellMeasurement(
                name,
                data.astype(np.int64) if name == "protein_expression" else data,
                names[name],
                adata.uns[names[name]],
            )
            for name, data in adata.obsm.items()
        ]
        named = adata.obs_names.str.contains("[A-Za-z]").any()  # numbers stand for barcodes that were not listed
        with self._all_or_nothing():
            self.populate_from_data(
                adata.X.toarray() if self.dense else adata.X,
                Ys=measurements,
                batch_indices=_run_of(adata.obs_names) if named else None,
                gene_names=adata.var[_NAMES[self.measurement_names_column]].to_numpy().astype(str),
                cell_attributes_dict={"barcodes": adata.obs_names.to_numpy().astype(str)} if named else None,
            )
            self.filter_cells_by_count()

    def _read(self) -> AnnData:
        extracted = self._extract()
        try:
            return read_10x(self.find_path_to_data(), var_names=_NAMES[self.measurement_names_column])
        finally:
            if self.remove_extracted_data:
                for path in extracted:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _extract(self) -> list[Path]:
        """Extracts the archive, unless it was before; returns what has been added to the folder."""
        if not self.filenames or not self.filenames[0].endswith(".tar.gz"):
            return []
        folder = Path(self.save_path)
        if find_matrices(folder / self.filenames[0].removesuffix(".tar.gz")):
            return []
        before = set(folder.iterdir())
        extract(folder / self.filenames[0], folder)
        return sorted(set(folder.iterdir()) - before)

    def find_path_to_data(self) -> Path:
        """The folder with the matrix: the first one, or the first that is named after `type`, or the .h5 file.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        folder = Path(self.save_path)
        if self.filenames and not self.filenames[0].endswith(".tar.gz"):
            return folder / self.filenames[0]
        found = find_matrices(folder)
        if not found:
            raise FileNotFoundError(f"No matrix.mtx(.gz) found in path ({folder})")
        return next((place for place in found if self.type in str(place.relative_to(folder))), found[0])


def _run_of(barcodes: pd.Index) -> np.ndarray:
    """The number at the end of a barcode, from 0; 0 where there is none."""
    ends = [barcode.rpartition("-")[2] for barcode in barcodes]
    return np.array([max(int(end) - 1, 0) if end.isdecimal() else 0 for end in ends])


class BrainSmallDataset(Dataset10X):
    """9,128 cells of the mouse brain (neuron_9k), with clusters and quality metrics.

    `raw_qc` and `qc` hold the metrics of the cells, `qc_names` what they are.

    Parameters
    ----------
    save_path
        Folder of the metadata.
    save_path_10X
        Folder of the counts; `save_path` by default.
    """

    def __init__(
        self,
        save_path: str = "data/",
        save_path_10X: str | None = None,
        delayed_populating: bool = False,
        remove_extracted_data: bool = False,
    ) -> None:
        file = FILES["brain_small_metadata"]
        self._metadata = download_file(file.url, file.filename, save_path)
        self.qc_names: npt.NDArray | None = None
        super().__init__(
            "neuron_9k",
            save_path=save_path if save_path_10X is None else save_path_10X,
            remove_extracted_data=remove_extracted_data,
            delayed_populating=delayed_populating,
        )

    def populate(self) -> None:
        """Reads counts and metadata, which go by barcode."""
        with self._all_or_nothing():
            super().populate()
            metadata = read_metadata(self._metadata, "clusters", "raw_qc")
            with readable_as(self._metadata, "metadata of cells"):
                self._take(metadata)

    def _take(self, metadata: dict[str, Any]) -> None:
        """Clusters, which count from 1, and metrics of the cells."""
        barcodes = np.asarray(self.barcodes).astype(str)  # type: ignore[attr-defined]
        clusters = _of_cells(metadata, "clusters", barcodes, self._metadata).to_numpy().ravel()
        metrics = _of_cells(metadata, "raw_qc", barcodes, self._metadata)
        self.labels = clusters.astype(np.int64) - 1
        self.initialize_mapped_attribute("labels", "cell_types", np.arange(1, clusters.max() + 1).astype(str))
        self.remap_categorical_attributes(["labels"])
        self.initialize_cell_attribute("raw_qc", metrics.to_numpy(np.float64))
        self.initialize_cell_attribute("qc", metrics.to_numpy(np.float64))
        self.qc_names = metrics.columns.to_numpy().astype(str)


def _of_cells(metadata: dict[str, Any], key: str, barcodes: np.ndarray, path: Path) -> Any:
    """Rows of a table of the metadata, in the order of these cells."""
    table = metadata[key]
    if not isinstance(table, (pd.DataFrame, pd.Series)):
        raise Unreadable(f"{path} has no table {key!r}")
    names = table.index.astype(str)
    if not names.isin(barcodes).any():  # some tables have barcodes without the number of the run
        barcodes = np.array([name.partition("-")[0] for name in barcodes])
    place = names.get_indexer(barcodes) if names.is_unique else np.full(1, -1)
    if (place < 0).any():
        raise Unreadable(
            f"{path}: {key!r} lacks {int((place < 0).sum())} of the {len(barcodes)} cells, or repeats some"
        )
    return table.iloc[place]

"""A GeneExpressionDataset from an AnnData."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from anndata import AnnData

from scvi.cells.checks import nearest
from scvi.cells.on_disk import OnDisk
from scvi.cells.storage import Rows, as_rows, blocks, row_sums, take
from scvi.data.h5ad import read_h5ad
from scvi.dataset.arrays import LARGEST_CODE, array_if_small
from scvi.dataset.attributes import CODES, COMPUTED, CellMeasurement
from scvi.dataset.dataset import DownloadableDataset, GeneExpressionDataset
from scvi.dataset.exchange import Record, text_or_as_is

__all__ = ["AnnDatasetFromAnnData", "DownloadableAnnDataset", "extract_data_from_anndata"]

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"
"""Name of the category of cells whose entry is missing."""

_RESERVED = CODES | COMPUTED | {"cell_types", "batch_names", "gene_names"}


class AnnDatasetFromAnnData(GeneExpressionDataset):
    """Copies the counts and annotations of an AnnData; cells without counts are left out.

    Counts become an array where that takes less than 1 GB; sparse ones stay sparse beyond. Batches and labels may be
    codes or names; names are numbered by first appearance and kept in `cell_types` (labels) and `batch_names`. Cells
    where the name is missing form a category "unknown". Other columns of `obs` and `var` become attributes.

    Parameters
    ----------
    ad
        Left as it is.
    batch_label
        Column of ``ad.obs`` with the experimental batch, if there is one.
    ctype_label
        Column of ``ad.obs`` with the names of the cell types, if there is one.
    class_label
        Column of ``ad.obs`` with labels, read where there is no `ctype_label`.
    use_raw
        Read ``ad.raw`` (counts, gene names, annotations of genes) in place of ``ad.X``.
    cell_measurements_col_mappings
        Keys of ``ad.obsm`` to read as measurements, and for each the key of ``ad.uns`` with the names of its columns.
        By default those that :meth:`GeneExpressionDataset.to_anndata` has noted in
        ``ad.uns["cell_measurements_col_mappings"]``.
    """

    def __init__(
        self,
        ad: AnnData,
        batch_label: str = "batch_indices",
        ctype_label: str = "cell_types",
        class_label: str = "labels",
        use_raw: bool = False,
        cell_measurements_col_mappings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        extracted, batch_names = _extract(ad, batch_label, ctype_label, class_label, use_raw)
        data, batch, labels, genes, types, obs, obsm, var, varm, uns = extracted
        record = Record(uns)
        if cell_measurements_col_mappings is None:
            cell_measurements_col_mappings = {
                name: columns
                for name, columns in uns.get("cell_measurements_col_mappings", {}).items()
                if name in obsm and columns in uns
            }
        cells, of_genes = record.attributes(obs, obsm, "obsm"), record.attributes(var, varm, "varm")
        self.populate_from_data(
            data,
            Ys=[_measurement(obsm, uns, *pair) for pair in cell_measurements_col_mappings.items()],
            batch_indices=batch,
            labels=labels,
            gene_names=genes,
            cell_types=types,
            cell_attributes_dict={_unreserved(name, "_cell"): values for name, values in cells.items()},
            gene_attributes_dict={_unreserved(name, "_gene"): values for name, values in of_genes.items()},
            remap_attributes=False,
        )
        if batch_names is not None:
            self.initialize_mapped_attribute("batch_indices", "batch_names", batch_names)
        known = record.lists().get("labels", {}).get("cell_types")
        same_batches = batch is not None and batch_names is None and batch_label == "batch_indices"
        same_labels = class_label == "labels" if known is None else np.array_equal(known, types)
        same = {"batch_indices": same_batches, "labels": labels is not None and same_labels}
        self._take_lists(record, {name for name, is_same in same.items() if not is_same})
        self.filter_cells_by_count()
        self.remap_categorical_attributes()

    def _take_lists(self, record: Record, changed: set[str]) -> None:
        """What codes refer to, where they are still those of the data set that the AnnData was made of."""
        attributes = (self.cell_attribute_names | self.gene_attribute_names) - changed
        codes = {name for name in attributes if getattr(self, name).dtype.kind in "iu"}
        self.cell_categorical_attribute_names |= codes & self.cell_attribute_names & set(record.names("categorical"))
        for source, lists in record.lists().items():
            for name, values in lists.items():
                if source in codes and getattr(self, source).max(initial=0) < len(values):
                    self.initialize_mapped_attribute(source, name, values)


class DownloadableAnnDataset(DownloadableDataset):
    """Counts and labels of an .h5ad file; cells without counts are left out.

    What else the file holds is kept as it is in `obs`, `obsm`, `var`, `varm` and `uns`, of the cells that are kept at
    first.

    Parameters
    ----------
    filename
        Name of the file in `save_path`.
    save_path
        Folder of the file.
    url
        Where to download it from, if it is not there.
    delayed_populating
        Only download.
    batch_label, ctype_label, class_label, use_raw
        As for :class:`AnnDatasetFromAnnData`.
    """

    def __init__(
        self,
        filename: str = "anndataset",
        save_path: str = "data/",
        url: str | None = None,
        delayed_populating: bool = False,
        batch_label: str = "batch_indices",
        ctype_label: str = "cell_types",
        class_label: str = "labels",
        use_raw: bool = False,
    ) -> None:
        self.batch_label = batch_label
        self.ctype_label = ctype_label
        self.class_label = class_label
        self.use_raw = use_raw
        super().__init__(url, filename, save_path, delayed_populating)

    def populate(self) -> None:
        """Reads the file."""
        adata = read_h5ad(self._paths[0])
        counts = as_rows(adata.raw.X if self.use_raw and adata.raw is not None else adata.X, "X")
        nonempty = np.concatenate([row_sums(rows) for _, rows in blocks(counts)]) > 0
        data, batch, codes, genes, types, obs, obsm, var, varm, uns = extract_data_from_anndata(
            adata[nonempty], self.batch_label, self.ctype_label, self.class_label, self.use_raw
        )
        self.populate_from_data(data, batch_indices=batch, labels=codes, gene_names=genes, cell_types=types)
        self.obs, self.obsm, self.var, self.varm, self.uns = obs, dict(obsm), var, dict(varm), dict(uns)


def extract_data_from_anndata(
    ad: AnnData,
    batch_label: str = "batch_indices",
    ctype_label: str = "cell_types",
    class_label: str = "labels",
    use_raw: bool = False,
) -> tuple[Any, ...]:
    """Copies of what a data set reads; the arguments are those of :class:`AnnDatasetFromAnnData`.

    Returns
    -------
    Counts (float32 array or CSR), codes of the batch and of the labels (None where there are none), gene names, names
    of the labels (or None), the other columns of `obs`, `obsm`, `var`, `varm`, `uns`.

    Raises
    ------
    ValueError
        If there are no counts to read.
    """
    return _extract(ad, batch_label, ctype_label, class_label, use_raw)[0]


def _extract(
    ad: AnnData, batch_label: str, ctype_label: str, class_label: str, use_raw: bool
) -> tuple[tuple[Any, ...], npt.NDArray | None]:
    """What :func:`extract_data_from_anndata` returns, and the names of the batches, if they have names."""
    source = ad.raw if use_raw else ad
    if source is None or source.X is None:
        raise ValueError(f"{'ad.raw' if use_raw else 'ad.X'} is None; there are no counts to read")
    obs = ad.obs.copy()
    batch, batch_names = _codes(obs.pop(batch_label)) if batch_label in obs else (None, None)
    labels = types = None
    if ctype_label in obs:
        labels, types = _labels(obs, ctype_label, Record(ad.uns).lists().get("labels", {}).get("cell_types"))
    elif class_label in obs:
        labels, types = _codes(obs.pop(class_label))
    genes = np.asarray(source.var_names).astype(str)
    extracted = _copied(source.X), batch, labels, genes, types, obs, ad.obsm, source.var, source.varm, ad.uns
    return extracted, batch_names


def _copied(X: Any) -> Rows:
    counts = as_rows(X, "ad.X")
    if isinstance(counts, OnDisk):
        counts = take(counts, np.arange(counts.shape[0]))
    if isinstance(counts, np.ndarray):
        return np.array(counts, dtype=np.float32, order="C")
    small = array_if_small(counts)
    return counts.copy() if small is counts else small


def _codes(column: pd.Series) -> tuple[npt.NDArray, npt.NDArray | None]:
    """Codes as they are if the column holds codes (integers from 0 to 65535); otherwise numbered names."""
    if pd.api.types.is_numeric_dtype(column.dtype) and not column.isna().any():
        values = column.to_numpy()
        if values.size == 0 or (0 <= values.min() <= values.max() <= LARGEST_CODE and (values % 1 == 0).all()):
            return values.astype(np.int64), None
    return _numbered(column)


def _labels(obs: pd.DataFrame, ctype_label: str, known: npt.NDArray | None) -> tuple[npt.NDArray, npt.NDArray]:
    """Numbered names, taken out of `obs`; in the order of a data set that they come from, if they still are its own."""
    codes, names = _numbered(obs.pop(ctype_label))
    if known is None or not np.isin(names, known).all():
        return codes, names
    if len(np.unique(known)) == len(known):
        return pd.Index(known).get_indexer(names)[codes], known
    if "labels" in obs and pd.api.types.is_integer_dtype(obs["labels"].dtype):  # several types of one name
        kept = obs["labels"].to_numpy()
        if kept.min() >= 0 and kept.max() < len(known) and np.array_equal(known[kept], names[codes]):
            del obs["labels"]
            return kept, known
    return codes, names


def _numbered(column: pd.Series) -> tuple[npt.NDArray, npt.NDArray]:
    """Codes by first appearance, and the names."""
    names = column.astype(object)
    missing = names.isna()
    if missing.any():
        logger.warning("%s is missing in %d cells: they are called %r", column.name, int(missing.sum()), UNKNOWN)
        names = names.mask(missing, UNKNOWN)
    codes, categories = pd.factorize(names.astype(str))
    return codes, np.asarray(categories).astype(str)


def _measurement(obsm: Mapping[str, Any], uns: Mapping[str, Any], name: str, columns_name: str) -> CellMeasurement:
    for where, entries, key in (("obsm", obsm, name), ("uns", uns, columns_name)):
        if key not in entries:
            raise ValueError(f"cell_measurements_col_mappings: {key!r} is not in ad.{where}{nearest(key, entries)}")
    return CellMeasurement(name, obsm[name].copy(), columns_name, text_or_as_is(uns[columns_name]))


def _unreserved(name: str, suffix: str) -> str:
    """A name that overwrites nothing that population sets."""
    return name + suffix if name in _RESERVED else name

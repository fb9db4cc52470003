"""A data set as an AnnData, and what an AnnData says of the data set that it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvi.dataset.attributes import CODES, COMPUTED, AnnotatedCells

__all__ = ["RECORD", "Record", "as_anndata", "text_or_as_is"]

RECORD = "scvi_dataset"
"""Key of ``adata.uns`` with what columns cannot say."""


def as_anndata(dataset: AnnotatedCells) -> AnnData:
    """A copy of a data set, which :class:`scvi.dataset.AnnDatasetFromAnnData` reads back as it was.

    Attributes of cells are columns of `obs` (the names of labels as "cell_types", where known, and their codes beside
    them if names repeat), or entries of `obsm` if they have several columns, as measurements have; attributes of genes
    are columns of `var` or entries of `varm`. The names of a measurement's columns are in `uns`, under the name that
    ``uns["cell_measurements_col_mappings"]`` gives. ``uns["scvi_dataset"]`` keeps the lists that codes refer to. What
    is computed from the counts (library sizes, `norm_X`, `corrupted_X`) is left out.
    """
    n, names = len(dataset), dataset.gene_names
    cells = {name: getattr(dataset, name) for name in sorted(dataset.cell_attribute_names - COMPUTED)}
    genes = {name: getattr(dataset, name) for name in sorted(dataset.gene_attribute_names - {"gene_names"})}
    measurements = dataset.cell_measurements_col_mappings
    obsm = {name: cells.pop(name) for name in list(cells) if name in measurements or not _is_column(cells[name])}
    varm = {name: genes.pop(name) for name in list(genes) if not _is_column(genes[name])}
    record: dict[str, Any] = {
        "categorical": sorted(dataset.cell_categorical_attribute_names - CODES),
        "columns": [name for name, values in {**cells, **genes}.items() if values.ndim == 2 and name not in CODES],
        "obsm": [name for name in obsm if name not in measurements],
        "varm": list(varm),
    }
    record = {key: np.array(entries) for key, entries in record.items() if entries}
    record["mappings"] = {
        source: {mapping: np.array(getattr(dataset, mapping)) for mapping in mappings}
        for source, mappings in dataset.attribute_mappings.items()
        if mappings
    }
    obs = {name: np.ravel(values) for name, values in cells.items()}
    if dataset.cell_types is not None:
        types = np.asarray(dataset.cell_types)
        obs["cell_types"] = types[obs["labels"]]
        if len(np.unique(types)) == len(types):
            del obs["labels"]
    return AnnData(
        X=dataset.X.copy(),  # type: ignore[union-attr]
        obs=pd.DataFrame(obs, index=np.arange(n).astype(str)),
        var=pd.DataFrame(
            {name: np.ravel(values) for name, values in genes.items()},
            index=np.arange(dataset.nb_genes).astype(str) if names is None else names,
        ),
        obsm={name: values.copy() for name, values in obsm.items()},
        varm={name: values.copy() for name, values in varm.items()},
        uns={"cell_measurements_col_mappings": dict(measurements), RECORD: record}
        | {name: np.array(getattr(dataset, name)) for name in measurements.values()},
    )


def _is_column(values: Any) -> bool:
    """Whether there is one value for each cell or gene, in an array."""
    return not sp.issparse(values) and (values.ndim == 1 or values.shape[1:] == (1,))


class Record:
    """What the `uns` of an AnnData says of the data set that it was; nothing if it never was one."""

    def __init__(self, uns: Mapping[str, Any]) -> None:
        self._entries: Mapping[str, Any] = uns.get(RECORD, {})

    def names(self, kind: str) -> list[str]:
        """Names of attributes: "categorical", "columns" (of shape (n, 1)), "obsm" or "varm"."""
        return [str(name) for name in self._entries.get(kind, ())]

    def lists(self) -> dict[str, dict[str, npt.NDArray]]:
        """The lists that codes refer to, by the attribute with the codes and their own name."""
        return {
            source: {name: text_or_as_is(values) for name, values in lists.items()}
            for source, lists in self._entries.get("mappings", {}).items()
        }

    def attributes(self, frame: pd.DataFrame, arrays: Mapping[str, Any], kind: str) -> dict[str, Any]:
        """Attributes from `obs` and `obsm`, or `var` and `varm`, in the shapes that they had."""
        columns = self.names("columns")
        found = {name: text_or_as_is(frame[name]) for name in frame}
        found = {name: values.reshape(-1, 1) if name in columns else values for name, values in found.items()}
        return found | {name: arrays[name].copy() for name in self.names(kind) if name in arrays}


def text_or_as_is(values: Any) -> npt.NDArray:
    """A copy as an array; strings, which files give back as objects, are an array of strings again."""
    array = np.array(values)
    return array.astype(str) if array.dtype == object and pd.api.types.infer_dtype(array) == "string" else array

"""Counts with annotations of cells and genes, under their 2020 names."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch.utils.data import Dataset

from scvi.cells.cell_data import CellData
from scvi.cells.library_prior import VARIANCE_FLOOR
from scvi.cells.storage import Rows
from scvi.dataset.arrays import LARGEST_CODE, as_array, checked_matrix, log_totals, mean_and_variance, remap_categories
from scvi.kernels import rows_to_dense

__all__ = ["CODES", "COMPUTED", "AnnotatedCells", "CellMeasurement"]

logger = logging.getLogger(__name__)

CODES = {"batch_indices", "labels"}
"""Attributes of cells with codes that every data set has."""
COMPUTED = {"local_means", "local_vars"}
"""Attributes of cells that are computed from the counts."""
_FILLED = {"_cell": COMPUTED, "_gene": {"gene_names"}, "_mapping": {"cell_types"}}
"""What population registers, by the suffix that others of that kind get: None until then."""
PROTEINS = "protein_expression"
"""Name of the measurement that models of proteins read."""
_REGISTRIES = (
    "dataset_versions",
    "gene_attribute_names",
    "cell_attribute_names",
    "cell_categorical_attribute_names",
    "cell_measurements_col_mappings",
)


@dataclass
class CellMeasurement:
    """Further measurements of the same cells (proteins, coordinates...).

    Attributes
    ----------
    name
        Attribute of the data set that will hold the data.
    data
        (n, m) array or sparse matrix.
    columns_attr_name
        Attribute of the data set that will hold the names of the columns.
    columns
        m names.
    """

    name: str
    data: npt.NDArray | sp.csr_matrix
    columns_attr_name: str
    columns: npt.NDArray | Sequence[Any]


class AnnotatedCells(Dataset):
    """What a data set is: counts, attributes of cells and genes in registries, and the minibatches made of them.

    Attributes are read and written as attributes of the object (``dataset.labels``). n cells, G genes.
    """

    def __init__(self) -> None:
        self.dataset_versions: set[str] = set()
        self.gene_attribute_names: set[str] = set()
        self.cell_attribute_names: set[str] = set()
        self.cell_categorical_attribute_names: set[str] = set()
        self.attribute_mappings: defaultdict[str, list[str]] = defaultdict(list)
        self.cell_measurements_col_mappings: dict[str, str] = {}
        self.protected_attributes = ["X"]
        self.n_batches: int | None = None
        self.n_labels: int | None = None
        self.gene_names: npt.NDArray[np.str_] | None = None
        self.cell_types: npt.NDArray | None = None
        self.local_means: npt.NDArray[np.float64] | None = None
        self.local_vars: npt.NDArray[np.float64] | None = None
        self._X: Rows | None = None
        self._batch_indices: npt.NDArray[np.uint16] | None = None
        self._labels: npt.NDArray[np.uint16] | None = None
        self._norm_X: Rows | None = None
        self._corrupted_X: Rows | None = None
        self._cell_data: dict[bool, tuple[tuple[Any, ...], CellData]] = {}  # by whether it is corrupted

    def __repr__(self) -> str:
        if self._X is None:
            return "GeneExpressionDataset object (unpopulated)"
        lines = [f"GeneExpressionDataset object with n_cells x nb_genes = {self.nb_cells} x {self.nb_genes}"]
        for registry in _REGISTRIES:
            names = getattr(self, registry)
            entries = [
                f"{name!r}: {names[name]!r}" if isinstance(names, dict) else repr(name) for name in sorted(names)
            ]
            if entries:
                lines.append(f"    {registry}: {', '.join(entries)}")
        return "\n".join(lines)

    def __len__(self) -> int:
        return self.nb_cells

    def __getitem__(self, index: int) -> int:
        return index  # the collate function looks up

    def _forget(self) -> None:
        """Back to the unpopulated state; what a subclass has set for itself stays."""
        for name in self._taken():
            vars(self).pop(name, None)
        AnnotatedCells.__init__(self)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """What the block does to this object is undone if it raises."""
        # the registries are changed in place; arrays are replaced
        before = {name: copy(old) if isinstance(old, set | dict | list) else old for name, old in vars(self).items()}
        try:
            yield
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    # counts and codes

    @property
    def X(self) -> Rows | None:
        """(n, G) counts: ndarray or CSR; None before population."""
        return self._X

    @X.setter
    def X(self, X: Rows) -> None:
        if self._batch_indices is None:
            raise ValueError("this data set is unpopulated; use populate_from_data(X)")
        counts = checked_matrix(X)
        n_genes = counts.shape[1] if self.gene_names is None else len(self.gene_names)
        if counts.shape != (len(self._batch_indices), n_genes):
            raise ValueError(
                f"X has shape {counts.shape}; this data set has {len(self._batch_indices)} cells and {n_genes} genes. "
                "Use update_cells and update_genes to choose some of them"
            )
        self._X = counts
        self._norm_X = self._corrupted_X = None  # they were made from another X
        self.dataset_versions.clear()
        logger.info("Computing the library size for the new data")
        self.compute_library_size_batch()

    @property
    def _counts(self) -> Rows:
        """X, or a ValueError before population."""
        if self._X is None:
            raise ValueError("this data set is unpopulated; use populate_from_data(X)")
        return self._X

    @property
    def nb_cells(self) -> int:
        return self._counts.shape[0]

    @property
    def nb_genes(self) -> int:
        return self._counts.shape[1]

    @property
    def batch_indices(self) -> npt.NDArray[np.uint16]:
        """(n, 1) codes of the experimental batch."""
        return self._batch_indices  # type: ignore[return-value]

    @batch_indices.setter
    def batch_indices(self, batch_indices: npt.ArrayLike) -> None:
        self._batch_indices = self._as_codes("batch_indices", batch_indices)
        self.n_batches = len(np.unique(self._batch_indices))

    @property
    def labels(self) -> npt.NDArray[np.uint16]:
        """(n, 1) codes of the cell type."""
        return self._labels  # type: ignore[return-value]

    @labels.setter
    def labels(self, labels: npt.ArrayLike) -> None:
        self._labels = self._as_codes("labels", labels)
        self.n_labels = len(np.unique(self._labels))

    @property
    def norm_X(self) -> Rows | None:
        """Counts over the mean count of their cell; None until :meth:`normalize`."""
        return self._norm_X

    @norm_X.setter
    def norm_X(self, norm_X: Rows) -> None:
        self._norm_X = norm_X
        self.register_dataset_version("norm_X")

    @property
    def corrupted_X(self) -> Rows | None:
        """Counts with noise; None until :meth:`corrupt`."""
        return self._corrupted_X

    @corrupted_X.setter
    def corrupted_X(self, corrupted_X: Rows) -> None:
        self._corrupted_X = corrupted_X
        self.register_dataset_version("corrupted_X")

    def _as_codes(self, name: str, codes: npt.ArrayLike) -> npt.NDArray[np.uint16]:
        given = np.asarray(codes).reshape(-1, 1)
        whole = given.dtype.kind in "iub" or (given.dtype.kind == "f" and bool((given == np.floor(given)).all()))
        if not whole or (given.size and (given.min() < 0 or given.max() > LARGEST_CODE)):
            raise ValueError(f"{name} must be integers from 0 to {LARGEST_CODE}; got {np.asarray(codes).dtype} values")
        if self._X is not None and len(given) != self.nb_cells:
            raise ValueError(f"Number of cells ({self.nb_cells}) and length of {name} ({len(given)}) mismatch")
        return given.astype(np.uint16)

    # registries

    def register_dataset_version(self, version_name: str) -> None:
        """Notes that a derived version of X exists."""
        self.dataset_versions.add(version_name)

    def initialize_cell_attribute(self, attribute_name: str, attribute: Any, categorical: bool = False) -> None:
        """Sets and registers an attribute of cells.

        Parameters
        ----------
        attribute_name
            Gets the suffix "_cell" where the name is taken by another kind of attribute or by the data set itself.
        attribute
            (n,) or (n, m).
        categorical
            The values are codes, to be renumbered by :meth:`remap_categorical_attributes`.

        Raises
        ------
        ValueError
            If there is not one value for each cell.
        """
        name = self._register(attribute_name, attribute, "cell", self.cell_attribute_names)
        if categorical:
            self.cell_categorical_attribute_names.add(name)

    def initialize_gene_attribute(self, attribute_name: str, attribute: Any) -> None:
        """As :meth:`initialize_cell_attribute` for genes, with the suffix "_gene"."""
        self._register(attribute_name, attribute, "gene", self.gene_attribute_names)

    def _register(self, name: str, attribute: Any, kind: Literal["cell", "gene"], registry: set[str]) -> str:
        name, values = self._free_name(name, self._taken() - registry, f"_{kind}"), as_array(attribute)
        expected, length = self._counts.shape[kind == "gene"], values.shape[0] if values.ndim else 1
        if length != expected:
            raise ValueError(f"Number of {kind}s ({expected}) and length of {kind} attribute ({length}) mismatch")
        setattr(self, name, values)
        registry.add(name)
        return name

    def initialize_cell_measurement(self, measurement: CellMeasurement) -> None:
        """Sets and registers the data of a measurement and the names of its columns, in place of one so called.

        Names taken by anything else get the suffix "_cell".
        """
        measurements = self.cell_measurements_col_mappings
        name = self._free_name(measurement.name, self._taken() - set(measurements), "_cell")
        others = (self._taken() - {measurements.get(name)}) | {name}
        columns_name = self._free_name(measurement.columns_attr_name, others, "_cell")
        columns = np.asarray(measurement.columns)
        data = as_array(measurement.data)
        if data.ndim != 2 or len(columns) != data.shape[1]:
            raise ValueError(f"measurement {name!r} has data of shape {data.shape} and {len(columns)} names of columns")
        self.initialize_cell_attribute(name, data)
        setattr(self, columns_name, columns)
        self.cell_measurements_col_mappings[name] = columns_name

    def initialize_mapped_attribute(
        self, source_attribute_name: str, mapping_name: str, mapping_values: Sequence[Any] | npt.NDArray
    ) -> None:
        """Sets and registers a list that is indexed by the codes of another attribute.

        A name that is taken by anything but such a list of the same attribute gets the suffix "_mapping".

        Raises
        ------
        ValueError
            If the other attribute does not hold integers, or holds one beyond the end of the list.
        """
        codes = np.asarray(getattr(self, source_attribute_name))
        if codes.dtype.kind not in "iu":
            raise ValueError(
                f"Mapped attribute {source_attribute_name} should be categorical not {codes.dtype}; pass integer codes"
            )
        values = np.asarray(mapping_values)
        if codes.size and codes.max() >= len(values):
            raise ValueError(
                f"{mapping_name} has {len(values)} values, but {source_attribute_name} holds the code {codes.max()}"
            )
        own = {*self.attribute_mappings.get(source_attribute_name, ())}
        name = self._free_name(mapping_name, self._taken() - own, "_mapping")
        if name not in own:
            self.attribute_mappings[source_attribute_name].append(name)
        setattr(self, name, values)

    def remap_categorical_attributes(self, attributes_to_remap: Sequence[str] | None = None) -> None:
        """Renumbers codes as 0, 1, 2... in the order of the old codes, and drops the names of codes that do not occur.

        Parameters
        ----------
        attributes_to_remap
            Names of categorical attributes; None is all.
        """
        known = self.cell_categorical_attribute_names
        for name in sorted(known) if attributes_to_remap is None else attributes_to_remap:
            if name not in known:
                raise ValueError(f"{name!r} is not a registered categorical attribute of cells")
            mappings = {mapping: getattr(self, mapping) for mapping in self.attribute_mappings.get(name, [])}
            codes, n_codes, mappings = remap_categories(getattr(self, name), mappings_dict=mappings)  # type: ignore[misc]
            logger.info("Remapping %s to [0,%d]", name, n_codes)
            setattr(self, name, codes)
            for mapping, values in mappings.items():
                setattr(self, mapping, values)

    def _free_name(self, name: Any, taken: set[str], suffix: str) -> str:
        """The name, with the suffix if an attribute of that name must not be overwritten."""
        name = str(name)
        while name in self.protected_attributes or name in taken or self._is_own(name, suffix):
            logger.warning("%r is already taken: the attribute is stored as %r", name, name + suffix)
            name += suffix
        return name

    def _taken(self) -> set[str]:
        """Names of all registered attributes."""
        columns = self.cell_measurements_col_mappings.values()
        return self.cell_attribute_names.union(self.gene_attribute_names, columns, *self.attribute_mappings.values())

    def _is_own(self, name: str, suffix: str) -> bool:
        """Whether the data set keeps something else than a registered attribute under this name."""
        if hasattr(type(self), name):
            return name not in CODES
        return name in vars(self) and name not in self._taken() | _FILLED[suffix]

    # library size

    def compute_library_size_batch(self) -> None:
        """Sets `local_means` and `local_vars`, (n, 1): mean and variance of the log totals in the cell's batch.

        The variance of a batch of one cell, which says nothing, is set to a small positive number.
        """
        self._cell_data.clear()  # made from other counts, which are to be freed
        logs = log_totals(self._counts)
        means, variances = np.zeros((2, self.nb_cells, 1))
        for code in np.unique(self.batch_indices):
            cells = self.batch_indices.ravel() == code
            means[cells], variances[cells] = mean_and_variance(logs[cells])
            if cells.sum() < 2:
                variances[cells] = VARIANCE_FLOOR
        self.initialize_cell_attribute("local_means", means)
        self.initialize_cell_attribute("local_vars", variances)

    # minibatches

    def cell_data(self, corrupted: bool = False) -> CellData:
        """The data set as models read it now; counts and codes are shared, not copied.

        The same object comes until counts, codes, corruption, library sizes or gene names are replaced.

        Parameters
        ----------
        corrupted
            Read `corrupted_X` in place of `X`.
        """
        counts = self.corrupted_X if corrupted else self._counts
        if counts is None:
            raise ValueError("there is no corrupted_X; call corrupt() first")
        made_of = (
            counts,
            self.batch_indices,
            self.labels,
            self.local_means,
            self.local_vars,
            self.gene_names,
            self._proteins(),
        )
        known, cells = self._cell_data.get(corrupted, ((), None))
        if cells is None or any(old is not new for old, new in zip(known, made_of, strict=True)):
            cells = CellData(
                counts=counts,
                columns=None,
                batch=self.batch_indices.ravel(),
                labels=self.labels.ravel(),
                l_mean=np.asarray(self.local_means).ravel(),
                l_var=np.maximum(np.asarray(self.local_vars).ravel(), VARIANCE_FLOOR),
                log_size=None,
                continuous=None,
                categorical=None,
                cell_names=np.arange(self.nb_cells),
                gene_names=np.arange(self.nb_genes).astype(str) if self.gene_names is None else self.gene_names,
                proteins=self._proteins(),
            )
            self._cell_data[corrupted] = made_of, cells
        return cells

    def _proteins(self) -> npt.NDArray | None:
        """The measurement of proteins, if there is one."""
        return vars(self).get(PROTEINS) if PROTEINS in self.cell_measurements_col_mappings else None

    def collate_fn_builder(
        self,
        add_attributes_and_types: Mapping[str, Any] | None = None,
        override: bool = False,
        corrupted: bool = False,
    ) -> Callable[[Sequence[int]], tuple[torch.Tensor, ...]]:
        """A function from positions of cells to their tensors.

        The tensors are X float32, local_means float32, local_vars float32, batch_indices int64, labels int64. A
        variance below the smallest that the models can divide by is raised to it.

        Parameters
        ----------
        add_attributes_and_types
            Further attributes of cells and their numpy types, in order.
        override
            Leave out the five above.
        corrupted
            Read `corrupted_X` in place of `X`.
        """
        usual = {
            "corrupted_X" if corrupted else "X": np.float32,
            "local_means": np.float32,
            "local_vars": np.float32,
            "batch_indices": np.int64,
            "labels": np.int64,
        }
        return partial(self.collate_fn_base, {**({} if override else usual), **(add_attributes_and_types or {})})

    def collate_fn_base(
        self, attributes_and_types: Mapping[str, Any], batch: Sequence[int] | npt.NDArray
    ) -> tuple[torch.Tensor, ...]:
        """The named attributes of the cells at positions `batch`, one tensor each."""
        cells = np.asarray(batch, dtype=np.int64)
        tensors = {
            name: _as_tensor(getattr(self, name), cells, np.dtype(dtype))
            for name, dtype in attributes_and_types.items()
        }
        if "local_vars" in tensors:
            tensors["local_vars"].clamp_(min=VARIANCE_FLOOR)
        return tuple(tensors.values())


def _as_tensor(values: Any, cells: npt.NDArray[np.int64], dtype: np.dtype) -> torch.Tensor:
    if sp.issparse(values) and dtype == np.float32:
        return rows_to_dense(values, cells, None, values.shape[1])
    rows = values[cells]
    return torch.from_numpy(np.asarray(rows.toarray() if sp.issparse(rows) else rows).astype(dtype))

"""From an AnnData to minibatches: declare what a model reads, encode it, slice it.

``declare`` -> ``Schema`` -> ``encode`` -> ``CellData`` -> ``minibatch`` -> ``Minibatch``
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData

from scvi.cells import checks
from scvi.cells.epoch_order import ahead, buffer_cells, draw_buffers
from scvi.cells.minified import Kept, kept_of
from scvi.cells.on_disk import OnDisk
from scvi.cells.proteins import as_dense, encoded_proteins
from scvi.cells.resident import Resident, fits
from scvi.cells.schema import Schema
from scvi.cells.storage import Counts, Rows, as_rows, chosen_blocks, moments, row_sums, take
from scvi.cells.uns import fingerprint, in_a_file, register, registered
from scvi.kernels import rows_to_sparse
from scvi.minibatch import Minibatch

__all__ = [
    "VARIANCE_FLOOR",
    "CellData",
    "Schema",
    "count_minibatches",
    "declare",
    "draw_minibatches",
    "encode",
    "fingerprint",
    "in_a_file",
    "labelled_schema",
    "log_total_moments",
    "register",
    "registered",
]

VARIANCE_FLOOR = 1e-4
"""Smallest prior variance of a log library size: at 0 the KL divergence is infinite."""

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, eq=False)
class CellData:
    """Cells as a model reads them: aligned arrays, integer codes, and counts in memory or on disk.

    Nothing here is ever densified whole. n cells, g genes that are read, of s stored ones. Counts on disk are read many
    cells at a time, ahead of where they are used: see :mod:`scvi.cells.epoch_order`.
    """

    counts: Counts | Resident  # (n, s)
    columns: (
        np.ndarray | None
    )  # (s,) int32 position of each stored gene among those read, -1: not read; None: as stored
    batch: np.ndarray  # (n,) integer codes of the experimental batch
    labels: np.ndarray  # (n,) integer codes of the cell type, -1 where it is not known
    l_mean: np.ndarray  # (n,) prior mean of the log library size
    l_var: np.ndarray  # (n,) its variance
    log_size: np.ndarray | None  # (n,) log of a given size factor
    continuous: np.ndarray | None  # (n, c) standardised
    categorical: np.ndarray | None  # (n, m) codes
    cell_names: np.ndarray  # (n,)
    gene_names: np.ndarray  # (g,)
    kept: Kept | None = None  # what a model keeps of cells without counts
    proteins: np.ndarray | sp.csr_matrix | None = None  # (n, p) counts
    measured: np.ndarray | None = None  # (n, p) bool, which proteins were measured in each cell; None: all

    def __len__(self) -> int:
        return self.counts.shape[0]

    @property
    def n_genes(self) -> int:
        return len(self.gene_names)

    def positions(self, indices: Sequence[int] | np.ndarray | None = None, name: str = "indices") -> np.ndarray:
        """(k,) int64 positions of cells, in the order given; None is all cells, a mask is turned into positions.

        Parameters
        ----------
        name
            What the user calls the indices, for messages.

        Raises
        ------
        ValueError
            If they are not integers or no mask of n values.
        IndexError
            If one is out of range; negative positions are.
        """
        if indices is None:
            return np.arange(len(self))
        given = np.asarray(indices)
        if given.ndim != 1 or (given.size and given.dtype.kind not in "iub"):
            raise ValueError(
                f"{name} must be a list of cell positions or a mask; got {given.dtype} of shape {given.shape}"
            )
        if given.dtype.kind == "b":
            if len(given) != len(self):
                raise ValueError(f"the mask in {name} has {len(given)} values for {len(self)} cells")
            return np.flatnonzero(given)
        outside = (given < 0) | (given >= len(self))
        if outside.any():
            raise IndexError(
                f"{name} holds {given[outside][0]}; there are {len(self)} cells, numbered from 0 to {len(self) - 1}"
            )
        return given.astype(np.int64)

    def minibatch(self, indices: np.ndarray) -> Minibatch:
        """The cells at `indices`, in that order; positions may repeat."""
        rows = self.positions(indices)
        if isinstance(self.counts, Resident):
            counts = self.counts.take(rows)
        elif isinstance(self.counts, (np.ndarray, sp.csr_matrix, sp.csr_array)):
            counts = rows_to_sparse(self.counts, rows, self.columns, self.n_genes)
        else:
            counts = rows_to_sparse(take(self.counts, rows), np.arange(len(rows)), self.columns, self.n_genes)
        return Minibatch(
            counts=counts,
            batch=_column(self.batch[rows], np.int64),
            labels=_column(self.labels[rows], np.int64),
            l_mean=_column(self.l_mean[rows], np.float32),
            l_var=_column(self.l_var[rows], np.float32),
            log_size=None if self.log_size is None else _column(self.log_size[rows], np.float32),
            continuous=None if self.continuous is None else torch.from_numpy(self.continuous[rows]),
            categorical=None if self.categorical is None else torch.from_numpy(self.categorical[rows]),
            indices=torch.from_numpy(rows),
            kept=None if self.kept is None else {k: torch.from_numpy(v[rows]) for k, v in self.kept.values.items()},
            proteins=None if self.proteins is None else torch.from_numpy(_float32(self.proteins[rows])),
            measured=None if self.measured is None else torch.from_numpy(self.measured[rows]),
        )

    def minibatches(
        self, indices: Sequence[int] | np.ndarray | None = None, batch_size: int = 128
    ) -> Iterator[Minibatch]:
        """The cells at `indices` (None: all), in that order, `batch_size` at a time."""
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r} is below 1")
        rows = self.positions(indices)
        parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
        together = max(1, self._buffer_cells // batch_size)
        yield from self._in_turn(parts[start : start + together] for start in range(0, len(parts), together))

    def epoch(self, indices: np.ndarray, batch_size: int, rng: np.random.Generator) -> Iterator[Minibatch]:
        """The cells at `indices`, each once, shuffled and cut into minibatches as by :func:`draw_minibatches`.

        The order of counts in memory is any; cells on disk stay near their neighbours in the file, as
        :func:`scvi.cells.epoch_order.draw_buffers` says.
        """
        if not isinstance(self.counts, OnDisk):
            yield from self._in_turn([draw_minibatches(indices, batch_size, rng)])
            return
        ends = _ends(len(indices), batch_size)
        yield from self._in_turn(draw_buffers(indices, ends, self._buffer_cells, rng))

    def n_minibatches(self, indices: np.ndarray, batch_size: int) -> int:
        """How many minibatches :meth:`epoch` makes."""
        return count_minibatches(len(indices), batch_size)

    def loaded(self, rows: np.ndarray) -> CellData:
        """The cells at `rows` with their counts in memory; positions among them count from 0."""
        return replace(
            self,
            counts=take(self.counts, rows),
            batch=self.batch[rows],
            labels=self.labels[rows],
            l_mean=self.l_mean[rows],
            l_var=self.l_var[rows],
            log_size=None if self.log_size is None else self.log_size[rows],
            continuous=None if self.continuous is None else self.continuous[rows],
            categorical=None if self.categorical is None else self.categorical[rows],
            cell_names=self.cell_names[rows],
            proteins=None if self.proteins is None else self.proteins[rows],
            measured=None if self.measured is None else self.measured[rows],
        )

    def on(self, device: torch.device) -> CellData:
        """The same cells with their counts on a device, if they fit there; for drawing minibatches only."""
        counts = self.counts
        if isinstance(counts, (Resident, OnDisk)) or not fits(counts, device):
            return self
        return replace(self, counts=Resident.of(counts, self.columns, self.n_genes, device), columns=None)

    def _in_turn(self, buffers: Iterable[list[np.ndarray]]) -> Iterator[Minibatch]:
        """Minibatches of the cells at these positions; what is on disk is read a buffer at a time, one ahead."""
        if not isinstance(self.counts, OnDisk):
            yield from (self.minibatch(rows) for rows in chain.from_iterable(buffers))
            return

        def read(parts: list[np.ndarray]) -> tuple[CellData, list[np.ndarray], list[np.ndarray]]:
            rows, places = np.unique(np.concatenate(parts), return_inverse=True)
            return self.loaded(rows), np.split(places, np.cumsum([len(part) for part in parts[:-1]])), parts

        for cells, places, parts in ahead(read, buffers):
            for place, rows in zip(places, parts, strict=True):
                yield replace(cells.minibatch(place), indices=torch.from_numpy(rows))

    @property
    def _buffer_cells(self) -> int:
        return buffer_cells(self.counts.row_bytes) if isinstance(self.counts, OnDisk) else len(self)

    def totals(self, indices: Sequence[int] | np.ndarray | None = None) -> np.ndarray:
        """(k,) float64 total counts of the cells over the genes that are read."""
        return np.concatenate([np.empty(0), *(row_sums(rows, self._read) for rows in self._row_blocks(indices))])

    def gene_moments(self, indices: Sequence[int] | np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(g,) float64 means and population variances of the counts of each gene, over the cells at `indices`."""
        return self.moments(indices)[:2]

    def moments(self, indices: Sequence[int] | np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """:meth:`gene_moments` and :meth:`totals` in one pass over the cells."""
        totals: list[np.ndarray] = []

        def noted() -> Iterator[Rows]:
            for rows in self._row_blocks(indices):
                totals.append(row_sums(rows, self._read))
                yield rows

        n = len(self) if indices is None else len(self.positions(indices))
        mean, variance = moments(noted(), n, self.counts.shape[1])
        if self.columns is not None:
            read = self.columns >= 0
            order = np.argsort(self.columns[read])
            mean, variance = mean[read][order], variance[read][order]
        return mean, variance, np.concatenate([np.empty(0), *totals])

    @property
    def _read(self) -> np.ndarray | None:
        return None if self.columns is None else (self.columns >= 0).astype(np.float64)

    def _row_blocks(self, indices: Sequence[int] | np.ndarray | None) -> Iterator[Rows]:
        if indices is None:
            yield from chosen_blocks(self.counts)
            return
        wanted = self.positions(indices)
        parts = (wanted[start : start + _ROWS_AT_ONCE] for start in range(0, len(wanted), _ROWS_AT_ONCE))
        if isinstance(self.counts, OnDisk):
            yield from ahead(partial(take, self.counts), parts)
        else:
            yield from (take(self.counts, rows) for rows in parts)


def _float32(rows: np.ndarray | sp.csr_matrix) -> np.ndarray:
    return as_dense(rows).astype(np.float32)


def _column(values: np.ndarray, dtype: type) -> torch.Tensor:
    return torch.from_numpy(values.astype(dtype, copy=False)).unsqueeze(1)


def draw_minibatches(indices: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """One epoch: `indices` shuffled and cut into minibatches of `batch_size` cells.

    What is left over is folded into the last minibatch if it is less than half of one, and always if it is a single
    cell, which has no variance for batch normalisation. For the same reason `batch_size` is read as at least 2.
    """
    ends = _ends(len(indices), batch_size)
    return np.split(rng.permutation(indices), ends[:-1]) if len(ends) else []


def _ends(n_cells: int, batch_size: int) -> np.ndarray:
    """(number of minibatches,) where the minibatches of an epoch end."""
    ends = max(batch_size, 2) * np.arange(1, count_minibatches(n_cells, batch_size) + 1)
    ends[-1:] = n_cells
    return ends


def count_minibatches(n_cells: int, batch_size: int) -> int:
    """How many minibatches :func:`draw_minibatches` makes of so many cells."""
    full, left = divmod(n_cells, max(batch_size, 2))
    if full == 0:
        return min(left, 1)
    return full + (left > 1 and 2 * left >= batch_size)


def declare(
    adata: AnnData,
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    labels_key: str | None = None,
    size_factor_key: str | None = None,
    categorical_covariate_keys: Sequence[str] | None = None,
    continuous_covariate_keys: Sequence[str] | None = None,
    mask_var: str | Sequence[str] | np.ndarray | pd.Series | None = None,
    unlabeled_category: str | None = None,
) -> tuple[Schema, str]:
    """Checks everything that a model is going to read, and describes it. `adata` is not changed.

    Parameters
    ----------
    layer
        Key of ``adata.layers`` with the raw counts; None is ``adata.X``.
    batch_key, labels_key, size_factor_key, categorical_covariate_keys, continuous_covariate_keys
        Columns of ``adata.obs``.
    mask_var
        Which genes to read: a boolean column of ``adata.var``, a list of gene names, or a boolean mask. They are read
        in the order of ``adata.var_names``.
    unlabeled_category
        The value of the labels' column of cells whose label is not known.

    Returns
    -------
    The schema, and the fingerprint of the cells, genes and counts it was made for.

    Raises
    ------
    ValueError, TypeError
        For whatever cannot be fitted: see :mod:`scvi.cells.checks`.
    """
    checks.refuse_other_types(adata)
    if adata.n_obs < 2:
        raise ValueError(f"adata has {adata.n_obs} cells; a model is fitted to two or more")
    checks.stored_counts(adata, layer)
    genes = checks.chosen_genes(adata, mask_var)
    if len(genes) < 2:
        raise ValueError(f"{len(genes)} of the {adata.n_vars} genes of adata would be read; a model reads two or more")
    schema = Schema(
        layer=layer,
        batch_key=batch_key,
        labels_key=labels_key,
        size_factor_key=size_factor_key,
        categorical_covariate_keys=checks.checked_keys("categorical_covariate_keys", categorical_covariate_keys),
        continuous_covariate_keys=checks.checked_keys("continuous_covariate_keys", continuous_covariate_keys),
        mask_var=mask_var if isinstance(mask_var, str) else None,
        genes=tuple(genes),
    )
    named = {
        key: checks.category_names(checks.obs_column(adata, argument, key), argument)
        for argument, key in _categorical(schema)
    }
    covariates = [checks.moments_of(_covariate(adata, key)) for key in schema.continuous_covariate_keys]
    schema = replace(schema, categories=named, continuous_moments=tuple(covariates))
    if unlabeled_category is not None:
        schema = _with_unlabeled(schema, named, unlabeled_category)
    schema = replace(schema, library_prior=((0.0, 1.0),) * schema.n_batch)  # until the totals are known
    cells, totals = _encoded(adata, schema, validate=True, labels=True)
    if not totals.any():
        raise ValueError(
            f"every count of {schema.counts_name} is zero in the genes to be read; there is nothing to fit"
        )
    checks.warn_of_empty_cells(totals, adata.obs_names)
    schema = replace(schema, library_prior=_library_prior(totals, cells.batch, schema.n_batch))
    if cells.log_size is not None:
        schema = replace(
            schema, size_factor_scale=float(totals.mean() / np.exp(cells.log_size, dtype=np.float64).mean())
        )
    return schema, fingerprint(adata, schema)


def labelled_schema(adata: AnnData, schema: Schema, labels_key: str | None, unlabeled_category: str) -> Schema:
    """The schema of a model of the same cells, of which some have labels; `labels_key` None is that of `schema`."""
    key = schema.labels_key if labels_key is None else labels_key
    if key is None:
        raise ValueError("labels_key=None, and the model was set up without one: name the column of labels")
    schema = replace(schema, labels_key=key)
    named = {**schema.categories, key: checks.category_names(checks.obs_column(adata, "labels_key", key), "labels_key")}
    return _with_unlabeled(schema, named, unlabeled_category)


def _with_unlabeled(schema: Schema, named: dict[str, tuple[str, ...]], unlabeled_category: str) -> Schema:
    """The schema with these categories, but for the one that stands for unknown labels."""
    key = schema.labels_key
    category = checks.checked_unlabeled(key, unlabeled_category, named)
    if key is None or key == schema.batch_key or key in schema.categorical_covariate_keys:
        raise ValueError(f"labels_key={key!r} is the batch or a covariate as well, which are known of every cell")
    known = tuple(name for name in named[key] if name != category)
    used = {name: names for name, names in named.items() if name in schema.category_keys}
    return replace(schema, categories={**used, key: known}, unlabeled_category=category)


def encode(adata: AnnData, schema: Schema, *, validate: bool = True, labels: bool = True) -> CellData:
    """The cells of `adata` in the codes of `schema`; genes are found by name, in any order, further genes ignored.

    Parameters
    ----------
    validate
        Look at every stored count, and warn of empty cells. Not needed for an `adata` that was declared and has not
        changed since.
    labels
        Read the labels. A model that has no use for them need not refuse cells without known labels; their codes are 0.

    Raises
    ------
    ValueError, TypeError
        For keys, genes or categories that do not fit the schema, and for counts that are none.
    """
    cells, totals = _encoded(adata, schema, validate, labels)
    if len(totals):
        checks.warn_of_empty_cells(totals, adata.obs_names)
    return cells


def _encoded(adata: AnnData, schema: Schema, validate: bool, labels: bool) -> tuple[CellData, np.ndarray]:
    """The cells and, if validated, their totals."""
    checks.refuse_other_types(adata)
    if adata.n_obs < 1:
        raise ValueError("adata has no cells")
    kept = kept_of(adata)
    covariates = [_codes(adata, schema, "categorical_covariate_keys", key) for key in schema.categorical_covariate_keys]
    continuous = [
        ((_covariate(adata, key) - mean) / deviation).astype(np.float32)
        for key, (mean, deviation) in zip(schema.continuous_covariate_keys, schema.continuous_moments, strict=True)
    ]
    batch = _codes(adata, schema, "batch_key", schema.batch_key)
    prior = np.array(schema.library_prior, dtype=np.float32)[batch]  # (n, 2)
    counts: Counts = sp.csr_matrix((adata.n_obs, schema.n_genes), dtype=np.float32)  # no entry, if none were kept
    if kept is None:
        counts = as_rows(checks.stored_counts(adata, schema.layer), schema.counts_name)
    cells = CellData(
        counts=counts,
        columns=_stored_columns(adata, schema) if kept is None else None,
        batch=batch,
        labels=_label_codes(adata, schema) if labels else np.zeros(adata.n_obs, dtype=np.int64),
        l_mean=prior[:, 0],
        l_var=prior[:, 1],
        log_size=_log_size(adata, schema) if kept is None else kept.log_size,
        continuous=np.stack(continuous, axis=1) if continuous else None,
        categorical=np.stack(covariates, axis=1) if covariates else None,
        cell_names=adata.obs_names.to_numpy(),
        gene_names=np.array(schema.genes, dtype=object),
        kept=kept,
        **(
            {}
            if schema.proteins is None
            else encoded_proteins(adata if kept is None else None, schema.proteins, batch, validate)
        ),
    )
    if not validate or kept is not None:
        return cells, np.empty(0)
    totals = checks.checked_counts(
        counts, schema.counts_name, adata.obs_names, adata.var_names, cells._read, list(adata.layers)
    )
    return cells, totals


def _categorical(schema: Schema) -> list[tuple[str, str]]:
    """Pairs of the argument and the column for everything that has categories."""
    pairs = [("batch_key", schema.batch_key), ("labels_key", schema.labels_key)]
    pairs += [("categorical_covariate_keys", key) for key in schema.categorical_covariate_keys]
    return [(argument, key) for argument, key in pairs if key is not None]


def _codes(adata: AnnData, schema: Schema, argument: str, key: str | None) -> np.ndarray:
    if key is None:
        return np.zeros(adata.n_obs, dtype=np.int64)
    return checks.codes_of(checks.obs_column(adata, argument, key), schema.categories[key], argument)


def _label_codes(adata: AnnData, schema: Schema) -> np.ndarray:
    """(n,) codes of the labels; -1 where one is not known, as in cells that come without the column."""
    if schema.unlabeled_category is None or schema.labels_key is None:
        return _codes(adata, schema, "labels_key", schema.labels_key)
    if schema.labels_key not in adata.obs:
        return np.full(adata.n_obs, -1, dtype=np.int64)
    names = (*schema.label_names, schema.unlabeled_category)
    codes = checks.codes_of(checks.obs_column(adata, "labels_key", schema.labels_key), names, "labels_key")
    return np.where(codes == schema.n_labels, -1, codes)


def _covariate(adata: AnnData, key: str) -> np.ndarray:
    """(n,) float64 a continuous covariate as it is in ``adata.obs``."""
    return checks.numbers(checks.obs_column(adata, "continuous_covariate_keys", key), "continuous_covariate_keys")


def _log_size(adata: AnnData, schema: Schema) -> np.ndarray | None:
    key = schema.size_factor_key
    if key is None:
        return None
    factors = checks.numbers(checks.obs_column(adata, "size_factor_key", key), "size_factor_key", positive=True)
    return np.log(factors * np.float64(schema.size_factor_scale)).astype(np.float32)


def _stored_columns(adata: AnnData, schema: Schema) -> np.ndarray | None:
    """(s,) int32, see :class:`CellData`."""
    checks.refuse_repeated_genes(adata.var_names)
    stored = adata.var_names.get_indexer(pd.Index(schema.genes))
    missing = [gene for gene, position in zip(schema.genes, stored, strict=True) if position < 0]
    if missing:
        raise ValueError(
            f"adata lacks {len(missing)} of the {schema.n_genes} genes that the model reads: {checks.named(missing)}"
            f"{checks.nearest(missing[0], adata.var_names)}"
        )
    if len(stored) == adata.n_vars and (stored == np.arange(len(stored))).all():
        return None
    columns = np.full(adata.n_vars, -1, dtype=np.int32)
    columns[stored] = np.arange(len(stored), dtype=np.int32)
    return columns


def _library_prior(totals: np.ndarray, batch: np.ndarray, n_batch: int) -> tuple[tuple[float, float], ...]:
    """Mean and variance of the log totals in each batch; a batch of empty cells gets those of all cells."""
    overall = log_total_moments(totals)
    pairs = [log_total_moments(totals[batch == code]) or overall for code in range(n_batch)]
    return tuple((mean, max(variance, VARIANCE_FLOOR)) for mean, variance in pairs)  # type: ignore[misc]


def log_total_moments(totals: np.ndarray) -> tuple[float, float] | None:
    """Mean and population variance of the logs of the totals above zero; None if there are none."""
    logs = np.log(totals[totals > 0])
    return (float(logs.mean()), float(logs.var())) if len(logs) else None

"""An AnnData in the codes of a schema: columns of `obs` as integers and numbers, genes found by name."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from scvi.cells import checks
from scvi.cells.cell_data import CellData
from scvi.cells.count_checks import Called, counted, counts_of, warn_of_empty_cells, warn_of_estimates
from scvi.cells.far import warn_if_far
from scvi.cells.guard import Guard
from scvi.cells.minified import Kept, kept_of
from scvi.cells.on_disk import OnDisk
from scvi.cells.proteins import encoded_proteins
from scvi.cells.schema import Schema
from scvi.cells.storage import Rows


def encode(
    adata: AnnData,
    schema: Schema,
    *,
    validate: bool = True,
    labels: bool = True,
    digests: np.ndarray | None = None,
) -> CellData:
    """The cells of `adata` in the codes of `schema`; genes are found by name, in any order, further genes ignored.

    Parameters
    ----------
    validate
        Look at every stored count now, and warn of empty cells and of cells far from those of the schema. Otherwise
        counts are looked at when they are read.
    labels
        Read the labels. A model that has no use for them need not refuse cells without known labels; their codes are 0.
    digests
        (n,) what the counts of the cells were when all of them were looked at; not for use with `validate`.

    Raises
    ------
    ValueError, TypeError
        For keys, genes or categories that do not fit the schema, and for counts that are none.
    """
    checks.refuse_other_types(adata)
    if adata.n_obs < 1:
        raise ValueError("adata has no cells")
    kept = kept_of(adata)
    batch = checks.codes_of(adata, "batch_key", schema.batch_key, schema.categories)
    prior = np.array(schema.library_prior, dtype=np.float32)[batch]  # (n, 2)
    counts: Rows | OnDisk = sp.csr_matrix((adata.n_obs, schema.n_genes), dtype=np.float32)  # none, if none were kept
    columns = guard = None
    proteins = encoded_proteins(adata if kept is None else None, schema.proteins, batch, schema.non_integer)
    if kept is None:
        counts, columns, guard = _guarded(adata, schema, validate, digests, proteins.estimates)
    elif validate:
        warn_if_far(adata, schema)
    return CellData(
        counts=counts,
        columns=columns,
        batch=batch,
        labels=_labels(adata, schema) if labels else np.zeros(adata.n_obs, dtype=np.int64),
        l_mean=prior[:, 0],
        l_var=prior[:, 1],
        log_size=_log_size(adata, schema, kept),
        continuous=_continuous(adata, schema),
        categorical=_categorical(adata, schema),
        cell_names=adata.obs_names.to_numpy(),
        gene_names=np.array(schema.genes, dtype=object),
        kept=kept,
        proteins=proteins.counts,
        measured=proteins.measured,
        guard=guard,
        rounds=schema.non_integer == "round",
    )


def _guarded(
    adata: AnnData, schema: Schema, validate: bool, digests: np.ndarray | None, of_proteins: str | None
) -> tuple[Rows | OnDisk, np.ndarray | None, Guard]:
    """The counts, the places of their genes, and who looks at them when they are read.

    `of_proteins` is what there is to say of counts of proteins that are estimates.
    """
    counts, columns = counts_of(adata, schema.layer, look_at_all=validate), gene_columns(adata, schema.genes)

    def report(totals: np.ndarray, rows: np.ndarray, estimates: str | None) -> None:
        warn_of_estimates(estimates, of_proteins)
        warn_of_empty_cells(totals, adata.obs_names[rows])
        warn_if_far(adata, schema, totals, rows)

    if validate:
        found = counted(adata, schema.layer, counts, columns, schema.n_genes, schema.non_integer)
        report(found.totals, np.arange(adata.n_obs), found.estimates)
        digests = found.digests
    called = Called(schema.counts_name, adata.obs_names, schema.genes, list(adata.layers))
    return counts, columns, Guard(called, digests, report, schema.non_integer)


def gene_columns(adata: AnnData, genes: Sequence[str]) -> np.ndarray | None:
    """(s,) int32 where each stored gene is among `genes`, see :class:`scvi.cells.cell_data.CellData`."""
    checks.refuse_repeated_genes(adata.var_names)
    stored = checks.places_of(genes, adata.var_names, "adata", "gene", adata.var)
    if len(stored) == adata.n_vars and (stored == np.arange(len(stored))).all():
        return None
    columns = np.full(adata.n_vars, -1, dtype=np.int32)
    columns[stored] = np.arange(len(stored), dtype=np.int32)
    return columns


def log_sizes(adata: AnnData, key: str | None, scale: float = 1.0) -> np.ndarray | None:
    """(n,) float32 logs of the size factors in a column of ``adata.obs``, times `scale`."""
    if key is None:
        return None
    factors = checks.numbers(adata, "size_factor_key", key, positive=True)
    return np.log(factors * np.float64(scale)).astype(np.float32)


def _log_size(adata: AnnData, schema: Schema, kept: Kept | None) -> np.ndarray | None:
    """(n,) logs of the given size factors; where there are none, of what was kept of cells without counts."""
    given = log_sizes(adata, schema.size_factor_key, schema.size_factor_scale)
    return kept.log_size if given is None and kept is not None else given


def _labels(adata: AnnData, schema: Schema) -> np.ndarray:
    """(n,) codes of the labels; -1 where one is not known, as in cells that come without the column, or it is empty."""
    key, unknown = schema.labels_key, schema.unlabeled_category
    if key is None or unknown is None:
        return checks.codes_of(adata, "labels_key", key, schema.categories)
    if key not in adata.obs or checks.obs_column(adata, "labels_key", key).isna().all():
        return np.full(adata.n_obs, -1, dtype=np.int64)
    codes = checks.codes_of(adata, "labels_key", key, {key: (*schema.label_names, unknown)})
    return np.where(codes == schema.n_labels, -1, codes)


def _continuous(adata: AnnData, schema: Schema) -> np.ndarray | None:
    """(n, c) standardised covariates, by the moments of the cells that were declared."""
    standardised = [
        ((checks.numbers(adata, "continuous_covariate_keys", key) - mean) / deviation).astype(np.float32)
        for key, (mean, deviation) in zip(schema.continuous_covariate_keys, schema.continuous_moments, strict=True)
    ]
    return np.stack(standardised, axis=1) if standardised else None


def _categorical(adata: AnnData, schema: Schema) -> np.ndarray | None:
    """(n, m) codes of the categorical covariates."""
    codes = [
        checks.codes_of(adata, "categorical_covariate_keys", key, schema.categories)
        for key in schema.categorical_covariate_keys
    ]
    return np.stack(codes, axis=1) if codes else None

"""An AnnData in the codes of a schema: columns of `obs` as integers and numbers, genes found by name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvi.cells import checks
from scvi.cells.cell_data import CellData
from scvi.cells.count_checks import checked_counts, warn_of_empty_cells
from scvi.cells.minified import kept_of
from scvi.cells.proteins import encoded_proteins
from scvi.cells.schema import Schema
from scvi.cells.storage import Counts, as_rows

__all__ = ["covariate", "encode", "encode_and_total"]


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
    cells, totals = encode_and_total(adata, schema, validate, labels)
    if len(totals):
        warn_of_empty_cells(totals, adata.obs_names)
    return cells


def encode_and_total(adata: AnnData, schema: Schema, validate: bool, labels: bool) -> tuple[CellData, np.ndarray]:
    """The cells and, if validated, their totals."""
    checks.refuse_other_types(adata)
    if adata.n_obs < 1:
        raise ValueError("adata has no cells")
    kept = kept_of(adata)
    covariates = [_codes(adata, schema, "categorical_covariate_keys", key) for key in schema.categorical_covariate_keys]
    continuous = [
        ((covariate(adata, key) - mean) / deviation).astype(np.float32)
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
    totals = checked_counts(
        counts, schema.counts_name, adata.obs_names, adata.var_names, cells._read, list(adata.layers)
    )
    return cells, totals


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


def covariate(adata: AnnData, key: str) -> np.ndarray:
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

"""What a model of more batches reads: the schema of a fitted one, and the categories that only new cells have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from anndata import AnnData

from scvi.cells import checks
from scvi.cells.encode import encode
from scvi.cells.library_prior import VARIANCE_FLOOR, log_total_moments
from scvi.cells.proteins import with_new_batches
from scvi.cells.schema import Schema

__all__ = ["extended"]


def extended(schema: Schema, adata: AnnData, labels: bool) -> Schema:
    """The schema with the batches, and categories of the categorical covariates, that only `adata` has.

    New categories follow the old ones, whose codes stay. The prior of the library size of a new batch is that of its
    cells here; sizes and continuous covariates are scaled as those of the cells that the schema was made for.

    Parameters
    ----------
    labels
        Whether labels are read. New ones are refused.

    Raises
    ------
    ValueError, TypeError
        As :func:`scvi.cells.encode.encode`.
    """
    pairs = [("categorical_covariate_keys", key) for key in schema.categorical_covariate_keys]
    if schema.batch_key is not None:
        pairs.append(("batch_key", schema.batch_key))
    categories = dict(schema.categories)
    for argument, key in pairs:
        if labels and key == schema.labels_key:
            continue
        names = checks.category_names(checks.obs_column(adata, argument, key), argument)
        categories[key] = tuple(dict.fromkeys([*schema.categories[key], *names]))
    wider = replace(schema, categories=categories)
    n_new = wider.n_batch - schema.n_batch
    wider = replace(wider, library_prior=schema.library_prior + ((0.0, 1.0),) * n_new)  # until the totals are known
    if schema.proteins is not None:  # until their counts are
        unknown = ((True,) * len(schema.proteins.names),) * n_new
        wider = replace(wider, proteins=replace(schema.proteins, measured=schema.proteins.measured + unknown))
    cells = encode(adata, wider, labels=labels)
    if n_new == 0:
        return wider
    if schema.proteins is not None:
        proteins = with_new_batches(schema.proteins, np.asarray(cells.proteins), cells.batch, wider.n_batch)
        wider = replace(wider, proteins=proteins)
    totals = cells.totals()
    overall = log_total_moments(totals)
    if overall is None:
        raise ValueError(f"every count of {schema.counts_name} is zero in the genes of the reference")
    of_new = [
        log_total_moments(totals[cells.batch == code]) or overall for code in range(schema.n_batch, wider.n_batch)
    ]
    prior = tuple((mean, max(variance, VARIANCE_FLOOR)) for mean, variance in of_new)
    return replace(wider, library_prior=schema.library_prior + prior)

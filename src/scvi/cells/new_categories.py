"""What a model of more batches reads: the schema of a fitted one, and the categories that only new cells have."""

from __future__ import annotations

from dataclasses import replace

from anndata import AnnData

from scvi.cells import checks
from scvi.cells.count_checks import checked_totals, counts_of, warn_of_empty_cells
from scvi.cells.encode import gene_columns
from scvi.cells.library_prior import library_prior
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
    columns = [("categorical_covariate_keys", key) for key in schema.categorical_covariate_keys]
    columns += [("batch_key", key) for key in (schema.batch_key,) if key is not None]
    categories = dict(schema.categories)
    for argument, key in columns:
        if not (labels and key == schema.labels_key):
            names = checks.category_names(adata, argument, key)
            categories[key] = tuple(dict.fromkeys([*categories[key], *names]))
    batch = checks.codes_of(adata, "batch_key", schema.batch_key, categories)
    n_batch = 1 if schema.batch_key is None else len(categories[schema.batch_key])
    totals = checked_totals(adata, schema.layer, counts_of(adata, schema.layer), gene_columns(adata, schema.genes))
    warn_of_empty_cells(totals, adata.obs_names)
    prior, proteins = schema.library_prior, schema.proteins
    if n_batch > schema.n_batch:
        if not totals.any():
            raise ValueError(f"every count of {schema.counts_name} is zero in the genes of the reference")
        prior += library_prior(totals, batch, n_batch)[schema.n_batch :]
    if proteins is not None:
        proteins = with_new_batches(adata, proteins, batch, n_batch)
    return replace(schema, categories=categories, library_prior=prior, proteins=proteins)

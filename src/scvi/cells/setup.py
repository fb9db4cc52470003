"""Declaring what a model reads of an AnnData: everything is checked, and described by a schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi.cells import checks
from scvi.cells.count_checks import warn_of_empty_cells
from scvi.cells.encode import covariate, encode_and_total
from scvi.cells.fingerprint import fingerprint
from scvi.cells.library_prior import library_prior
from scvi.cells.schema import Schema

__all__ = ["declare", "labelled_schema"]


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
    covariates = [checks.moments_of(covariate(adata, key)) for key in schema.continuous_covariate_keys]
    schema = replace(schema, categories=named, continuous_moments=tuple(covariates))
    if unlabeled_category is not None:
        schema = _with_unlabeled(schema, named, unlabeled_category)
    schema = replace(schema, library_prior=((0.0, 1.0),) * schema.n_batch)  # until the totals are known
    cells, totals = encode_and_total(adata, schema, validate=True, labels=True)
    if not totals.any():
        raise ValueError(
            f"every count of {schema.counts_name} is zero in the genes to be read; there is nothing to fit"
        )
    warn_of_empty_cells(totals, adata.obs_names)
    schema = replace(schema, library_prior=library_prior(totals, cells.batch, schema.n_batch))
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


def _categorical(schema: Schema) -> list[tuple[str, str]]:
    """Pairs of the argument and the column for everything that has categories."""
    pairs = [("batch_key", schema.batch_key), ("labels_key", schema.labels_key)]
    pairs += [("categorical_covariate_keys", key) for key in schema.categorical_covariate_keys]
    return [(argument, key) for argument, key in pairs if key is not None]

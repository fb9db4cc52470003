"""Declaring what a model reads of an AnnData: everything is checked, and described by one schema.

Further models are described by a schema that follows from that of the first: :func:`labelled_schema`, and
:func:`extended` where new cells have new categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi.cells import checks
from scvi.cells.categories import joined, places_among
from scvi.cells.chosen import chosen_genes
from scvi.cells.count_checks import counted, counts_of, warn_of_empty_cells, warn_of_estimates
from scvi.cells.encode import gene_columns, log_sizes
from scvi.cells.estimates import NonInteger, check_non_integer
from scvi.cells.far import extent_of, warn_if_far
from scvi.cells.fingerprint import fingerprint
from scvi.cells.library_prior import library_prior
from scvi.cells.proteins import declared_proteins, with_new_batches
from scvi.cells.schema import ProteinPlace, Schema


class SetUp(NamedTuple):
    """A declaration, and what tells the cells that it was made for from others."""

    schema: Schema
    fingerprint: dict[str, str]  # of all that is read but the counts, see :mod:`scvi.cells.fingerprint`
    digests: np.ndarray  # (n,) uint64 of the counts of each cell


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
    proteins: ProteinPlace | None = None,
    non_integer: NonInteger = "warn",
) -> SetUp:
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
    proteins
        Where the counts of proteins are, for a model that reads them.
    non_integer
        What is done with counts that are estimates: see :mod:`scvi.cells.estimates`.

    Returns
    -------
    The schema, and what tells the cells that it was made for from others.

    Raises
    ------
    ValueError, TypeError
        For whatever cannot be fitted: see :mod:`scvi.cells.checks` and :mod:`scvi.cells.count_checks`.
    """
    check_non_integer(non_integer)
    genes = _genes(adata, layer, mask_var)
    categorical = checks.checked_keys("categorical_covariate_keys", categorical_covariate_keys)
    continuous = checks.checked_keys("continuous_covariate_keys", continuous_covariate_keys)
    of_covariates = [("categorical_covariate_keys", key) for key in categorical]
    columns = [("batch_key", batch_key), ("labels_key", labels_key), *of_covariates]
    categories = {key: checks.category_names(adata, argument, key) for argument, key in columns if key is not None}
    covariates = [checks.numbers(adata, "continuous_covariate_keys", key) for key in continuous]
    if unlabeled_category is not None:
        unlabeled_category, categories = _known_labels(
            unlabeled_category, labels_key, categories, (batch_key, *categorical)
        )
    relative = log_sizes(adata, size_factor_key)
    factors = None if relative is None else np.exp(relative, dtype=np.float64)
    batch = checks.codes_of(adata, "batch_key", batch_key, categories)
    batch_names = ("0",) if batch_key is None else categories[batch_key]
    found = counted(adata, layer, counts_of(adata, layer), gene_columns(adata, genes), len(genes), non_integer)
    totals = found.totals
    if not totals.any():
        raise ValueError(
            f"every count of {checks.counts_name(layer)} is zero in the genes to be read; there is nothing to fit"
        )
    warn_of_empty_cells(totals, adata.obs_names)
    of_proteins, estimates = None, None
    if proteins is not None:
        of_proteins, estimates = declared_proteins(adata, proteins, batch, batch_names, non_integer)
    warn_of_estimates(found.estimates, estimates)
    schema = Schema(
        layer=layer,
        batch_key=batch_key,
        labels_key=labels_key,
        size_factor_key=size_factor_key,
        categorical_covariate_keys=categorical,
        continuous_covariate_keys=continuous,
        mask_var=mask_var if isinstance(mask_var, str) else None,
        genes=genes,
        categories=categories,
        library_prior=library_prior(totals, batch, len(batch_names)),
        size_factor_scale=1.0 if factors is None else float(totals.mean() / factors.mean()),
        continuous_moments=tuple(checks.moments_of(values) for values in covariates),
        unlabeled_category=unlabeled_category,
        proteins=of_proteins,
        continuous_extents=tuple(extent_of(values, batch) for values in covariates),
        size_factor_extent=None if factors is None else extent_of(factors, batch),
        total_extent=extent_of(totals[totals > 0], batch[totals > 0]),
        non_integer=non_integer,
    )
    return SetUp(schema, fingerprint(adata, schema), found.digests)


def labelled_schema(adata: AnnData, schema: Schema, labels_key: str | None, unlabeled_category: str) -> Schema:
    """The schema of a model of the same cells, of which some have labels; `labels_key` None is that of `schema`."""
    checks.refuse_other_types(adata)
    key = schema.labels_key if labels_key is None else labels_key
    if key is None:
        raise ValueError("labels_key=None, and the model was set up without one: name the column of labels")
    others = (schema.batch_key, *schema.categorical_covariate_keys)
    kept = {name: names for name, names in schema.categories.items() if name in others}
    labelled = {**kept, key: checks.category_names(adata, "labels_key", key)}
    unlabeled_category, categories = _known_labels(unlabeled_category, key, labelled, others)
    return replace(schema, labels_key=key, categories=categories, unlabeled_category=unlabeled_category)


def extended(schema: Schema, adata: AnnData, labels: bool) -> tuple[Schema, np.ndarray]:
    """The schema with the batches, and categories of the categorical covariates, that only `adata` has.

    New categories follow the old ones, whose codes stay. The prior of the library size of a new batch is that of its
    cells here; sizes and continuous covariates are scaled as those of the cells that the schema was made for, and how
    far these reach stays what it is.

    Parameters
    ----------
    labels
        Whether labels are read. New ones are refused.

    Returns
    -------
    The schema, and (n,) digests of the counts of `adata`

    Raises
    ------
    ValueError, TypeError
        As :func:`scvi.cells.encode.encode`.
    """
    covariates = [("categorical_covariate_keys", key) for key in schema.categorical_covariate_keys]
    categories = dict(schema.categories)
    for argument, key in (*covariates, ("batch_key", schema.batch_key)):
        if key is not None and not (labels and key == schema.labels_key):
            categories[key] = joined(categories[key], checks.category_names(adata, argument, key))
    batch = checks.codes_of(adata, "batch_key", schema.batch_key, categories)
    n_batch = 1 if schema.batch_key is None else len(categories[schema.batch_key])
    counts, columns = counts_of(adata, schema.layer), gene_columns(adata, schema.genes)
    found = counted(adata, schema.layer, counts, columns, schema.n_genes, schema.non_integer)
    totals = found.totals
    warn_of_empty_cells(totals, adata.obs_names)
    warn_if_far(adata, schema, totals)
    prior, proteins, estimates = schema.library_prior, schema.proteins, None
    if n_batch > schema.n_batch:
        if not totals.any():
            raise ValueError(f"every count of {schema.counts_name} is zero in the genes of the reference")
        prior += library_prior(totals, batch, n_batch)[schema.n_batch :]
    if proteins is not None:
        proteins, estimates = with_new_batches(adata, proteins, batch, n_batch, schema.non_integer)
    warn_of_estimates(found.estimates, estimates)
    return replace(schema, categories=categories, library_prior=prior, proteins=proteins), found.digests


def _genes(adata: AnnData, layer: str | None, mask_var: Any) -> tuple[str, ...]:
    """Names of the genes to be read, of which there are enough, as there are of cells."""
    checks.refuse_other_types(adata)
    if adata.n_obs < 2:
        raise ValueError(f"adata has {adata.n_obs} cells; a model is fitted to two or more")
    checks.stored_counts(adata, layer)
    genes = chosen_genes(adata, mask_var)
    if len(genes) < 2:
        raise ValueError(f"{len(genes)} of the {adata.n_vars} genes of adata would be read; a model reads two or more")
    return tuple(genes)


def _known_labels(
    unlabeled_category: Any,
    labels_key: str | None,
    categories: dict[str, tuple[str, ...]],
    others: tuple[str | None, ...],
) -> tuple[str, dict[str, tuple[str, ...]]]:
    """The value that stands for an unknown label, as the column spells it, and the categories without it.

    Refused if it is almost, but not quite, one that occurs, and if no cell has another label. It need not occur.

    Parameters
    ----------
    categories
        Of all columns.
    others
        Columns of the batch and the covariates.
    """
    if labels_key is None:
        raise ValueError(
            f"unlabeled_category={unlabeled_category!r} is a value of the column of labels: name it by labels_key"
        )
    names = categories[labels_key]
    (place,) = places_among(names, [unlabeled_category])
    category = str(unlabeled_category) if place < 0 else names[place]
    if place < 0:
        if _is_almost(category, names):
            raise ValueError(
                f"unlabeled_category={category!r} does not occur in adata.obs[{labels_key!r}]"
                f"{checks.nearest(category, names)}"
            )
    elif len(names) == 1:
        raise ValueError(f"every cell has unlabeled_category={category!r} in adata.obs[{labels_key!r}]: label some")
    if labels_key in others:
        raise ValueError(
            f"labels_key={labels_key!r} is the batch or a covariate as well, which are known of every cell"
        )
    return category, {**categories, labels_key: tuple(name for name in names if name != category)}


def _is_almost(category: str, names: Sequence[str]) -> bool:
    """Whether a category that is none of `names` is likely one of them: 'unknwon', or 01 where there is 1."""
    number = _number(category)
    if number is None:
        return bool(get_close_matches(category.lower(), [name.lower() for name in names], n=1, cutoff=0.8))
    return number in map(_number, names)  # -1.0 is not almost 1.0


def _number(text: str) -> float | None:
    """The finite number that a text can be read as."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None

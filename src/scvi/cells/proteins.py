"""Counts of proteins beside those of genes: where they are, and what was measured."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi._warnings import warn
from scvi.cells import checks
from scvi.cells.count_checks import checked_counts
from scvi.cells.schema import ProteinPlace, ProteinSchema
from scvi.cells.storage import as_dense, as_rows

logger = logging.getLogger(__name__)


def declared_proteins(
    adata: AnnData, place: ProteinPlace, batch: np.ndarray, batch_names: Sequence[str]
) -> ProteinSchema:
    """Checks the counts of proteins, and describes them; `batch` (n,) are codes of the batches that are named.

    Raises
    ------
    ValueError, TypeError
        If the counts are not there or are none, or no batch has any.
    """
    values, names = read_proteins(adata, place)
    names = tuple(f"protein_{i}" for i in range(values.shape[1])) if names is None else names
    checked_counts(values, place.counts_name, adata.obs_names, names, None, None, feature="protein")
    seen = _measured(values, batch, len(batch_names))
    if not seen.any():
        raise ValueError(f"every count of {place.counts_name} is zero; there are no proteins to fit")
    for batch_name, row in zip(batch_names, seen, strict=True):
        missing = [name for name, is_seen in zip(names, row, strict=True) if not is_seen]
        if missing:
            logger.warning(
                "Batch %r has no count of the proteins %s: they are taken as not measured there, unless the model is "
                "made with override_missing_proteins=True.",
                batch_name,
                ", ".join(map(repr, missing)),
            )
    return ProteinSchema(**vars(place), names=names, measured=tuple(map(tuple, seen.tolist())))


def encoded_proteins(
    adata: AnnData | None, proteins: ProteinSchema | None, batch: np.ndarray, validate: bool
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(n, p) float32 counts, 0 where they were not measured, and (n, p) which were measured; None stands for all.

    NaN, as :func:`with_proteins` writes it, was not measured in this cell, whatever its batch (codes `batch`, (n,))
    measured. Cells whose counts were dropped (`adata` is None) have no counts of proteins either.

    Raises
    ------
    ValueError, TypeError
        If proteins are missing, or if `validate` and the counts are none.
    """
    if proteins is None:
        return None, None
    flags = np.array(proteins.measured, dtype=bool)
    measured = None if flags.all() else flags[batch]
    if adata is None:
        return None, measured
    values, missing = _aligned(adata, proteins, validate)
    if missing.any():
        measured = ~missing if measured is None else measured & ~missing
    return np.ascontiguousarray(values, dtype=np.float32), measured


def with_new_batches(adata: AnnData, proteins: ProteinSchema, batch: np.ndarray, n_batch: int) -> ProteinSchema:
    """The same proteins, with what further batches measured by their counts; `batch` (n,) are codes up to `n_batch`."""
    values, _ = _aligned(adata, proteins, validate=True)
    seen = _measured(values, batch, n_batch)[len(proteins.measured) :]
    return replace(proteins, measured=(*proteins.measured, *map(tuple, seen.tolist())))


def _aligned(adata: AnnData, proteins: ProteinSchema, validate: bool) -> tuple[np.ndarray, np.ndarray]:
    """(n, p) counts in the order of the schema, whatever that of the names is; 0 for NaN, and where there was NaN."""
    values, names = read_proteins(adata, proteins)
    where = proteins.counts_name
    if names is not None and names != proteins.names:
        values = values[:, checks.places_of(proteins.names, names, where, "protein")]
    if values.shape[1] != len(proteins.names):
        raise ValueError(f"{where} has {values.shape[1]} columns; the model reads {len(proteins.names)} proteins")
    missing = np.isnan(values)
    values = np.where(missing, 0, values) if missing.any() else values
    if validate:
        checked_counts(values, where, adata.obs_names, proteins.names, None, None, feature="protein")
    return values, missing


def with_proteins(adata: AnnData, proteins: ProteinSchema) -> AnnData:
    """`adata` if it has all proteins of the schema; otherwise a copy whose table has NaN for the missing ones.

    The copy shares the counts of genes. Proteins without names are not looked for: their number has to be right, unless
    there are none at all.

    Warns
    -----
    UserWarning
        If some are missing: how many, and which.
    """
    key, names = proteins.obsm_key, proteins.names
    values, given = np.zeros((adata.n_obs, 0), np.float32), ()
    if key in adata.obsm:
        values, found = read_proteins(adata, proteins)
        given = names if found is None else found  # type: ignore[assignment]
    missing = [name for name in names if name not in given]
    if not missing:
        return adata
    warn(
        f"adata has {len(names) - len(missing)} of the {len(names)} proteins of the reference in obsm[{key!r}]; the "
        f"others are taken as not measured: {checks.named(missing)}"
    )
    table = pd.DataFrame(values.astype(np.float32), index=adata.obs_names, columns=list(given))
    adata = adata.to_memory() if adata.isbacked else adata
    uns = {} if proteins.names_uns_key is None else {proteins.names_uns_key: list(names)}
    return AnnData(
        adata.X,
        obs=adata.obs,
        var=adata.var,
        obsm={**adata.obsm, key: table.reindex(columns=list(names))},
        obsp=dict(adata.obsp),
        layers=dict(adata.layers),
        uns={**adata.uns, **uns},
    )


def read_proteins(adata: AnnData, place: ProteinPlace) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """(n, p) counts as they are stored, in memory, and the names of the proteins, None where they have none."""
    where, names = place.counts_name, None
    stored = checks.found(
        adata.obsm,
        "protein_expression_obsm_key",
        place.obsm_key,
        "a key of adata.obsm",
        hint=" (cells whose proteins were not measured have zeros there)",
    )
    if isinstance(stored, pd.DataFrame):
        names, stored = tuple(map(str, stored.columns)), stored.to_numpy()
    values = as_dense(as_rows(stored, where))
    if place.names_uns_key is not None:
        given = checks.found(adata.uns, "protein_names_uns_key", place.names_uns_key, "a key of adata.uns")
        names = tuple(map(str, np.ravel(given)))
    if names is not None and (len(names) != values.shape[1] or len(set(names)) < len(names)):
        raise ValueError(
            f"{values.shape[1]} proteins in {where} need as many different names; there are "
            f"{len(set(names))} in {len(names)}: {checks.named(names)}"
        )
    return values, names


def _measured(values: np.ndarray, batch: np.ndarray, n_batch: int) -> np.ndarray:
    """(k, p) whether a batch has any count of a protein."""
    return np.stack([(values[batch == code] > 0).any(axis=0) for code in range(n_batch)])

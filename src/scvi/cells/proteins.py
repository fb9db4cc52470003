"""Counts of proteins beside those of genes: where they are, and what was measured."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi._warnings import warn
from scvi.cells import checks
from scvi.cells.count_checks import Called, checked_counts
from scvi.cells.estimates import NonInteger, rounded
from scvi.cells.schema import ProteinPlace, ProteinSchema
from scvi.cells.storage import as_dense, as_rows

logger = logging.getLogger(__name__)


class EncodedProteins(NamedTuple):
    """Counts of p proteins in n cells."""

    counts: np.ndarray | None  # (n, p) float32, 0 where they were not measured; None: there are none
    measured: np.ndarray | None  # (n, p) which were measured; None: all
    estimates: str | None = None  # what :func:`scvi.cells.count_checks.warn_of_estimates` is to say


def declared_proteins(
    adata: AnnData,
    place: ProteinPlace,
    batch: np.ndarray,
    batch_names: Sequence[str],
    non_integer: NonInteger = "warn",
) -> tuple[ProteinSchema, str | None]:
    """Checks the counts of proteins, and describes them; `batch` (n,) are codes of the batches that are named.

    A protein that is zero, or NaN, in all cells of a batch was not measured there. What there is to warn of in counts
    that are estimates comes beside the description.

    Raises
    ------
    ValueError, TypeError
        If the counts are not there or are none, no batch has any, or a protein is NaN in a part of a batch.
    """
    values, names = read_proteins(adata, place)
    names = tuple(f"protein_{i}" for i in range(values.shape[1])) if names is None else names
    values, missing = _without_gaps(values)
    gaps = _of_batches(missing, batch, len(batch_names))  # (k, p) how many cells
    _refuse_gaps_in_a_part(gaps, batch, batch_names, names, place.counts_name)
    called = Called(place.counts_name, adata.obs_names, names, feature="protein")
    values, estimates = _checked(values, called, non_integer)
    seen = _measured(values, batch, len(batch_names))
    if not seen.any():
        raise ValueError(f"every count of {place.counts_name} is zero or missing; there are no proteins to fit")
    for batch_name, row, no_value in zip(batch_names, seen, gaps > 0, strict=True):
        _report(batch_name, names, ~row & ~no_value, ", unless the model is made with override_missing_proteins=True")
        _report(batch_name, names, no_value, " (they are NaN)")
    return ProteinSchema(**vars(place), names=names, measured=tuple(map(tuple, seen.tolist()))), estimates


def _report(batch: str, names: Sequence[str], unmeasured: np.ndarray, more: str) -> None:
    if unmeasured.any():
        listed = ", ".join(repr(name) for name, flag in zip(names, unmeasured, strict=True) if flag)
        message = "Batch %r has no count of the proteins %s: they are taken as not measured there%s."
        logger.warning(message, batch, listed, more)


def _refuse_gaps_in_a_part(
    gaps: np.ndarray, batch: np.ndarray, batch_names: Sequence[str], names: Sequence[str], where: str
) -> None:
    """`gaps` (k, p) cells of each batch that lack a protein: all of them, or none."""
    n_cells = np.bincount(batch, minlength=len(batch_names))
    wrong = np.argwhere((gaps > 0) & (gaps < n_cells[:, None]))
    if len(wrong):
        code, protein = wrong[0]
        more = "" if len(wrong) == 1 else f" (and so in {len(wrong) - 1} further pairs of a protein and a batch)"
        raise ValueError(
            f"{where}: protein {names[protein]!r} is missing (NaN) in {gaps[code, protein]} of the {n_cells[code]} "
            f"cells of batch {str(batch_names[code])!r}{more}. A protein is measured in all cells of a batch or in "
            "none: put NaN (or 0) in all of this batch, where it is then taken as not measured, give the cells that "
            "lack it a batch of their own, or leave them out"
        )


def refuse_gaps(adata: AnnData, proteins: ProteinSchema) -> None:
    """Refuses NaN where all that is not counted is to be taken as a measured zero."""
    _, missing = _without_gaps(read_proteins(adata, proteins)[0])
    if missing.any():
        name = proteins.names[int(np.argmax(missing.any(axis=0)))]
        raise ValueError(
            "override_missing_proteins=True takes proteins without any count in a batch as measured zeros, and "
            f"{proteins.counts_name} has NaN, which is no zero ({name!r}, in {missing.any(axis=1).sum()} cells): leave "
            "override_missing_proteins out, or put 0 where the protein was measured"
        )


def encoded_proteins(
    adata: AnnData | None, proteins: ProteinSchema | None, batch: np.ndarray, non_integer: NonInteger = "warn"
) -> EncodedProteins:
    """The counts of proteins, and which were measured.

    NaN, as :func:`with_proteins` writes it, was not measured in this cell, whatever its batch (codes `batch`, (n,))
    measured. Cells whose counts were dropped (`adata` is None) have no counts of proteins either.

    Raises
    ------
    ValueError, TypeError
        If proteins are missing, or the counts are none.
    """
    if proteins is None:
        return EncodedProteins(None, None)
    flags = np.array(proteins.measured, dtype=bool)
    measured = None if flags.all() else flags[batch]
    if adata is None:
        return EncodedProteins(None, measured)
    values, missing, estimates = _aligned(adata, proteins, non_integer)
    if missing.any():
        measured = ~missing if measured is None else measured & ~missing
    return EncodedProteins(np.ascontiguousarray(values, dtype=np.float32), measured, estimates)


def with_new_batches(
    adata: AnnData, proteins: ProteinSchema, batch: np.ndarray, n_batch: int, non_integer: NonInteger = "warn"
) -> tuple[ProteinSchema, str | None]:
    """The same proteins, with what further batches measured by their counts; `batch` (n,) are codes up to `n_batch`.

    What there is to warn of in counts that are estimates comes beside them.
    """
    values, _, estimates = _aligned(adata, proteins, non_integer)
    seen = _measured(values, batch, n_batch)[len(proteins.measured) :]
    return replace(proteins, measured=(*proteins.measured, *map(tuple, seen.tolist()))), estimates


def _aligned(
    adata: AnnData, proteins: ProteinSchema, non_integer: NonInteger
) -> tuple[np.ndarray, np.ndarray, str | None]:
    """(n, p) counts in the order of the schema, whatever that of the names is; 0 for NaN, and where there was NaN.

    And what there is to warn of in counts that are estimates.
    """
    values, names = read_proteins(adata, proteins)
    where = proteins.counts_name
    if names is not None and names != proteins.names:
        values = values[:, checks.places_of(proteins.names, names, where, "protein")]
    if values.shape[1] != len(proteins.names):
        raise ValueError(f"{where} has {values.shape[1]} columns; the model reads {len(proteins.names)} proteins")
    values, missing = _without_gaps(values)
    called = Called(where, adata.obs_names, proteins.names, feature="protein")
    values, estimates = _checked(values, called, non_integer)
    return values, missing, estimates


def _checked(values: np.ndarray, called: Called, non_integer: NonInteger) -> tuple[np.ndarray, str | None]:
    """The counts as they are to be read, and what there is to warn of in estimates."""
    _, estimates = checked_counts(values, called, non_integer)
    return np.asarray(rounded(values)) if non_integer == "round" else values, estimates


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
    """(n, p) counts as they are stored, NaN for gaps, and the names of the proteins, None where they have none."""
    where, names = place.counts_name, None
    stored = checks.found(
        adata.obsm,
        "protein_expression_obsm_key",
        place.obsm_key,
        "a key of adata.obsm",
        hint=" (cells whose proteins were not measured have zeros there)",
    )
    if isinstance(stored, pd.DataFrame):
        names, stored = tuple(map(str, stored.columns)), checks.values_of_table(stored, where)
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
    return _of_batches(values > 0, batch, n_batch) > 0


def _of_batches(flags: np.ndarray, batch: np.ndarray, n_batch: int) -> np.ndarray:
    """(k, p) cells of each batch that have a flag of (n, p)."""
    return np.stack([flags[batch == code].sum(axis=0) for code in range(n_batch)])


def _without_gaps(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values with 0 for NaN, and where there was NaN."""
    missing = np.isnan(values)
    return np.where(missing, 0, values) if missing.any() else values, missing

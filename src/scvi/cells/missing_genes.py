"""Cells for a model that was fitted to others: the genes it reads, those that are missing padded with zeros."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scvi._checks import is_number
from scvi._warnings import warn
from scvi._writing import padded
from scvi.cells import checks
from scvi.cells.mudata_parts import with_features
from scvi.cells.other_names import likely_cause
from scvi.cells.proteins import with_proteins
from scvi.cells.schema import ProteinSchema, Schema
from scvi.cells.storage import as_rows

logger = logging.getLogger(__name__)


def with_genes(adata: AnnData, schema: Schema, min_genes_found: float, *, no_others: bool = False) -> AnnData:
    """`adata` if it has all genes and proteins of the schema, in any order; otherwise a copy where they are filled in.

    The copy has exactly the genes of the schema, in its order; the missing ones are zero. It has ``obs``, ``obsm``,
    ``obsp`` and ``uns``, all layers, and ``var`` as far as it goes, with gaps. Missing proteins are NaN, see
    :func:`scvi.cells.proteins.with_proteins`.

    Parameters
    ----------
    min_genes_found
        Share of the genes that has to be there.
    no_others
        Make the copy in any case, which has no genes but those of the schema.

    Raises
    ------
    ValueError
        If fewer are.

    Warns
    -----
    UserWarning
        If some are missing: how many, which, and the likely cause.
    """
    places = _places(adata, schema, min_genes_found)
    adata = _padded(adata, schema, places) if no_others or (places < 0).any() else adata
    return adata if schema.proteins is None else with_proteins(adata, schema.proteins)


def _places(adata: AnnData, schema: Schema, min_genes_found: float) -> np.ndarray:
    """(g,) positions in `adata` of the genes of the schema, -1 for missing ones, which are reported."""
    checks.refuse_other_types(adata)
    if not (is_number(min_genes_found) and 0 < min_genes_found <= 1):
        raise ValueError(
            f"min_genes_found={min_genes_found!r} is not a share of the genes, a number above 0 and up to 1"
        )
    checks.refuse_repeated_genes(adata.var_names)
    checks.stored_counts(adata, schema.layer)
    places = adata.var_names.get_indexer(pd.Index(schema.genes))
    missing = [gene for gene, place in zip(schema.genes, places, strict=True) if place < 0]
    n, n_found = schema.n_genes, schema.n_genes - len(missing)
    found = f"adata has {n_found} of the {n} genes of the reference ({n_found / n:.1%})"
    cause = likely_cause(missing, adata.var_names, adata.var)
    if n_found == 0 or n_found < min_genes_found * n:
        raise ValueError(
            f"{found}, at least {min_genes_found:.0%} are needed; it lacks {checks.named(missing)}"
            f"{cause or checks.nearest(missing[0], adata.var_names)} (are var_names of the same kind, symbols or "
            "identifiers, and was adata subset to genes of its own?)"
        )
    if not missing:
        logger.info("%s; %d further ones are not read.", found, adata.n_vars - n)
    else:
        warn(f"{found}; the others are read as zeros: {checks.named(missing)}{cause}")
    return places


def _padded(adata: AnnData, schema: Schema, places: np.ndarray) -> AnnData:
    if adata.isbacked:
        adata = adata[:, np.sort(places[places >= 0])].to_memory()
        places = adata.var_names.get_indexer(pd.Index(schema.genes))
    return _with_columns(adata, schema.genes, places)


def _with_columns(adata: AnnData, names: Sequence[str], places: np.ndarray) -> AnnData:
    """A copy with these genes, or proteins; `places` says where they are in `adata`, -1 where they are not."""
    return AnnData(
        None if adata.X is None else _columns(adata.X, places),
        obs=adata.obs.copy(),
        var=padded(adata.var, pd.Index(names, name=adata.var_names.name)),
        obsm={name: values.copy() for name, values in adata.obsm.items()},
        obsp={name: values.copy() for name, values in adata.obsp.items()},
        layers={name: _columns(values, places) for name, values in adata.layers.items()},
        uns=dict(adata.uns),
    )


def as_mudata(mdata: Any, joined: AnnData, proteins: Any, made: Any = None) -> Any:
    """A MuData with the genes and proteins of what :func:`with_genes` gave for the AnnData that is read of `mdata`.

    Other modalities are as they are.

    Parameters
    ----------
    proteins
        A ProteinSchema: those that its modality of proteins is to have, in this order; missing ones are NaN there.
    made
        The MuData to change, itself with its two modalities; None: a new one.
    """
    names = [proteins.modalities[argument] for argument in ("rna_layer", "protein_layer")]
    rna, protein = (mdata.mod[name] for name in names)
    if made is None:
        rna, protein = (part.to_memory() if part.isbacked else part for part in (rna, protein))
    genes = AnnData(
        joined.X,
        obs=rna.obs.copy(),
        var=joined.var,
        obsm={name: values.copy() for name, values in rna.obsm.items()},
        obsp={name: values.copy() for name, values in rna.obsp.items()},
        layers=dict(joined.layers),
        uns=dict(rna.uns),
    )
    table = joined.obsm[proteins.obsm_key][list(proteins.names)]
    table = table if protein.obs_names.equals(rna.obs_names) else table.loc[protein.obs_names]
    parts = (genes, _of_proteins(protein, table, proteins))
    if made is not None:
        for modality, new in zip((rna, protein), parts, strict=True):
            become(modality, new)
        parts = (rna, protein)
    return with_features(mdata, dict(zip(names, parts, strict=True)), made)


def _of_proteins(protein: AnnData, table: pd.DataFrame, proteins: ProteinSchema) -> AnnData:
    """A modality with the proteins of a table, whose counts it has; NaN for those that it lacks."""
    whole = _with_columns(protein, proteins.names, protein.var_names.get_indexer(table.columns))
    if table.isna().to_numpy().any():
        counts = table.to_numpy(dtype=np.float32)
        if proteins.layer is None:
            whole.X = counts
        else:
            whole.layers[proteins.layer] = counts
    return whole


def _columns(values: Any, places: np.ndarray) -> Any:
    """Columns in the order of `places`, zeros where that is -1."""
    found = np.flatnonzero(places >= 0)
    if hasattr(values, "to_memory"):  # of a modality that is open on disk
        values = values.to_memory()
    rows = as_rows(values[()] if isinstance(values, h5py.Dataset) else values, "adata")
    if isinstance(rows, np.ndarray):
        out = np.zeros((rows.shape[0], len(places)), dtype=rows.dtype)
        out[:, found] = rows[:, places[found]]
        return out
    chosen = sp.csr_matrix(
        (np.ones(len(found), rows.dtype), (places[found], found)), shape=(rows.shape[1], len(places))
    )
    return sp.csr_matrix(rows) @ chosen


def become(adata: AnnData, other: AnnData) -> None:
    """Makes an AnnData in memory what another one is; the caller's variable stays the same object.

    Raises
    ------
    ValueError
        If it is open on disk.
    """
    if adata.isbacked:
        raise ValueError("adata is open on disk and cannot be changed in place: pass inplace=False")
    parts = {name: getattr(other, name) for name in ("obs", "var", "obsm", "obsp", "layers", "uns")}
    AnnData.__init__(adata, other.X, **parts)

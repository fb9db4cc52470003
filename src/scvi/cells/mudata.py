"""A MuData as the AnnData that a model of genes and proteins reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from anndata import AnnData

from scvi.cells.checks import named, nearest
from scvi.cells.on_disk import OnDisk
from scvi.cells.schema import ProteinPlace
from scvi.cells.storage import as_dense, as_rows, take

__all__ = ["OBSM_KEY", "is_multimodal", "joined_modalities"]

OBSM_KEY = "protein_expression"
"""Where the joined AnnData has the proteins."""


def is_multimodal(data: Any) -> bool:
    """Whether an object holds AnnData by name of the modality, as a MuData does in `mod`."""
    return not isinstance(data, AnnData) and isinstance(getattr(data, "mod", None), Mapping)


def joined_modalities(mdata: Any, place: ProteinPlace) -> AnnData:
    """The RNA modality with the proteins in `obsm`; counts of genes are shared, not copied.

    Its `obs` also has the columns of ``mdata.obs`` that the RNA lacks.

    Parameters
    ----------
    mdata
        A MuData.
    place
        Its `modalities` are named 'rna_layer', 'protein_layer', and for columns of `obs` that are elsewhere than in the
        modality of the RNA, as the column.

    Raises
    ------
    ValueError
        If a modality, a layer or a column is not there, or the modalities have different cells.
    """
    modalities, protein_layer = place.modalities, place.layer
    rna, protein = (_modality(mdata, argument, modalities[argument]) for argument in ("rna_layer", "protein_layer"))
    if not rna.obs_names.equals(protein.obs_names):
        if not protein.obs_names.is_unique or set(rna.obs_names) != set(protein.obs_names):
            raise ValueError(
                f"the modalities {modalities['rna_layer']!r} and {modalities['protein_layer']!r} have different cells: "
                "keep those that have both, with mudata.pp.intersect_obs(mdata)"
            )
        protein = protein[rna.obs_names]
    obs = rna.obs.copy()
    for column in mdata.obs.columns.difference(obs.columns):
        if str(column).partition(":")[0] not in mdata.mod:  # a column of one modality, under its name
            obs[column] = mdata.obs[column].reindex(rna.obs_names)
    for column, name in modalities.items():
        if column not in ("rna_layer", "protein_layer"):
            other = _modality(mdata, column, name).obs
            if column not in other:
                raise ValueError(f"{column!r} is not a column of mdata.mod[{name!r}].obs{nearest(column, other)}")
            obs[column] = other[column].reindex(rna.obs_names)
    if protein_layer is not None and protein_layer not in protein.layers:
        raise ValueError(
            f"protein_layer={protein_layer!r} is not a layer of the proteins; there are "
            f"{named(protein.layers) or 'none'}"
        )
    stored = as_rows(protein.X if protein_layer is None else protein.layers[protein_layer], "the counts of proteins")
    values = as_dense(take(stored, pd.RangeIndex(protein.n_obs).to_numpy()) if isinstance(stored, OnDisk) else stored)
    table = pd.DataFrame(values, index=rna.obs_names, columns=protein.var_names.astype(str))
    return AnnData(rna.X, obs=obs, var=rna.var, layers=dict(rna.layers), obsm={OBSM_KEY: table}, uns=dict(mdata.uns))


def _modality(mdata: Any, argument: str, name: str) -> AnnData:
    if name not in mdata.mod:
        raise ValueError(f"modalities[{argument!r}]={name!r} is not a modality of mdata{nearest(name, mdata.mod)}")
    return mdata.mod[name]

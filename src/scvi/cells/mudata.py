"""A MuData as the AnnData that a model of genes and proteins reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi.cells.cell_data import CellData
from scvi.cells.checks import found, nearest
from scvi.cells.minified import is_minified, kept_entries
from scvi.cells.schema import ProteinPlace, Schema
from scvi.cells.storage import as_dense, as_rows

OBSM_KEY = "protein_expression"
"""Where the joined AnnData has the proteins."""


def is_multimodal(data: Any) -> bool:
    """Whether an object holds AnnData by name of the modality, as a MuData does in `mod`."""
    return not isinstance(data, AnnData) and isinstance(getattr(data, "mod", None), Mapping)


def places_of(modalities: Mapping[str, str], keys: Mapping[str, Any]) -> dict[str, str]:
    """Modalities of the two counts by argument, and of columns that are elsewhere by name of the column."""
    known = ("rna_layer", "protein_layer", *keys)
    unknown = [name for name in modalities if name not in known]
    if unknown:
        raise ValueError(
            f"modalities has {unknown[0]!r}, which is no argument with a modality{nearest(unknown[0], known)}"
        )
    places = {name: modalities.get(name, usual) for name, usual in (("rna_layer", "rna"), ("protein_layer", "protein"))}
    for argument, value in keys.items():
        place = modalities.get(argument, places["rna_layer"])
        if value is not None and place != places["rna_layer"]:
            places |= dict.fromkeys([value] if isinstance(value, str) else value, place)
    return places


def as_anndata(data: Any, schema: Schema) -> AnnData:
    """The AnnData that is read of a MuData that was set up, or any other object as it is.

    Raises
    ------
    TypeError
        If the model was set up with an AnnData.
    """
    if not is_multimodal(data):
        return data
    if schema.proteins is None or not schema.proteins.modalities:
        where = "" if schema.proteins is None else ", with its proteins in obsm"
        raise TypeError(f"a MuData came, but the model was set up with an AnnData: pass an anndata.AnnData{where}")
    return joined_modalities(data, schema.proteins)


def cells_in_order(data: Any, adata: AnnData, cells: CellData) -> CellData:
    """The cells that are read of `adata` in the order of the MuData, or the AnnData, that was given."""
    order = order_of(data, adata)
    return cells if order is None else cells.reordered(order)


def adata_in_order(data: Any, adata: AnnData) -> AnnData:
    """The AnnData that is read of a MuData in the order of the MuData: a copy, if its order is another."""
    order = order_of(data, adata)
    return adata if order is None else adata[order].copy()


def order_of(data: Any, adata: AnnData) -> np.ndarray | None:
    """(n,) where each cell of a MuData is in the AnnData that is read of it; None where the order is the same.

    Raises
    ------
    ValueError
        If ``mdata.obs_names`` are not the names of these cells.
    """
    if not is_multimodal(data) or data.obs.index.equals(adata.obs_names):
        return None
    names = data.obs.index
    are_unique = names.is_unique and adata.obs_names.is_unique
    order = adata.obs_names.get_indexer(names) if are_unique else np.array([-1])
    if len(order) != adata.n_obs or (order < 0).any():
        raise ValueError(
            f"the {len(names)} mdata.obs_names are not those of the {adata.n_obs} cells of the modalities that are "
            "read: was one of these filtered? Call mdata.update(), or keep the cells that all modalities have, with "
            "mudata.pp.intersect_obs(mdata)"
        )
    return order


def joined_modalities(mdata: Any, place: ProteinPlace) -> AnnData:
    """The RNA modality, in its own order, with the proteins in `obsm`; counts of genes are shared, not copied.

    Its `obs` also has the columns of ``mdata.obs`` that the RNA lacks. Of a minified MuData it has what was kept.

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
    modalities = {
        argument: found(mdata.mod, f"modalities[{argument!r}]", name, "a modality of mdata")
        for argument, name in place.modalities.items()
    }
    rna, protein = modalities.pop("rna_layer"), modalities.pop("protein_layer")
    if not rna.obs_names.equals(protein.obs_names):
        if not protein.obs_names.is_unique or set(rna.obs_names) != set(protein.obs_names):
            raise ValueError(
                "the modalities {rna_layer!r} and {protein_layer!r} have different cells: keep those that have both, "
                "with mudata.pp.intersect_obs(mdata)".format_map(place.modalities)
            )
        protein = protein[rna.obs_names]
    obs = rna.obs.copy()
    for column in mdata.obs.columns.difference(obs.columns):
        if str(column).partition(":")[0] not in mdata.mod:  # a column of one modality, under its name
            obs[column] = mdata.obs[column].reindex(rna.obs_names)
    for column, modality in modalities.items():
        where = f"a column of mdata.mod[{place.modalities[column]!r}].obs"
        obs[column] = found(modality.obs, "key", column, where).reindex(rna.obs_names)
    if is_minified(mdata):
        places = mdata.obs.index.get_indexer(rna.obs_names)
        obsm: dict[str, Any] = {name: values[places] for name, values in kept_entries(mdata).items()}
    else:
        obsm = {OBSM_KEY: _table(protein, place.layer)}
    return AnnData(rna.X, obs=obs, var=rna.var, layers=dict(rna.layers), obsm=obsm, uns=dict(mdata.uns))


def _table(protein: AnnData, layer: str | None) -> pd.DataFrame:
    """Counts of proteins by their names."""
    stored = protein.X if layer is None else found(protein.layers, "protein_layer", layer, "a layer of the proteins")
    values = as_dense(as_rows(stored, "the counts of proteins"))
    return pd.DataFrame(values, index=protein.obs_names, columns=protein.var_names.astype(str))

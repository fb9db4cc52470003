"""Cells without counts: an AnnData, or a MuData, that keeps what a fitted model knows of each cell."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from scvi.cells.mudata_parts import made_of

_UNS_KEY, _PREFIX = "_scvi_minified", "scvi_"
_SETUPS = "_scvi"  # in `uns`: set-ups are of counts
_KIND_KEY, _TOTAL = "_scvi_adata_minify_type", "observed_lib_size"  # in `uns` and `obs`, as scripts know them
WITHOUT_COUNTS, WITH_COUNTS = "latent_posterior_parameters", "latent_posterior_parameters_with_counts"


@dataclass(frozen=True, eq=False)
class Kept:
    """What a model keeps of cells without counts.

    Attributes
    ----------
    values
        (n, .) float32 by name.
    model
        Digest of the weights of the model, of which alone the values are true.
    """

    values: dict[str, np.ndarray]
    model: str

    def reordered(self, order: np.ndarray) -> Kept:
        """The same of cells in another order; (n,) positions of the cells that come first, second and so on."""
        return Kept({name: values[order] for name, values in self.values.items()}, self.model)

    @property
    def log_size(self) -> np.ndarray | None:
        """(n,) log library sizes, where they are observed."""
        log_library = self.values.get("log_library")
        return None if log_library is None else log_library[:, 0]


def minified(
    adata: AnnData,
    kept: Kept,
    drop_obsm: Sequence[str] = (),
    layers: Sequence[str] = (),
    totals: np.ndarray | None = None,
) -> AnnData:
    """A new AnnData with the cells and genes of `adata` and all that is known of them, but for the counts.

    ``X`` holds nothing, ``raw`` and ``layers`` are left out, and what a model keeps is in ``obsm``, each entry under
    its name with the prefix "scvi_". `adata` is not changed.

    Parameters
    ----------
    drop_obsm
        Entries of ``obsm`` that hold counts, too.
    layers
        Names of layers to keep all the same.
    totals
        (n,) total counts of the cells, which ``obs["observed_lib_size"]`` is to have.
    """
    smaller = _without_counts(adata, drop_obsm, layers)
    _mark(smaller, kept, totals, WITHOUT_COUNTS)
    return smaller


def minified_mudata(mdata: Any, kept: Kept, totals: np.ndarray) -> Any:
    """As :func:`minified` for a MuData: no modality has counts, and what a model keeps is in that of the MuData."""
    smaller = made_of(mdata, {name: _without_counts(modality) for name, modality in mdata.mod.items()})
    smaller.uns.pop(_SETUPS, None)
    _mark(smaller, kept, totals, WITHOUT_COUNTS)
    return smaller


def marked(data: Any, kept: Kept, totals: np.ndarray) -> Any:
    """A copy of an AnnData or a MuData with its counts, and beside them what :func:`minified` keeps."""
    if isinstance(data, AnnData):
        copy: Any = _copy(data)
    else:
        copy = made_of(data, {name: _copy(modality) for name, modality in data.mod.items()})
    _mark(copy, kept, totals, WITH_COUNTS)
    return copy


def _copy(adata: AnnData) -> AnnData:
    return adata.to_memory() if adata.isbacked else adata.copy()


def _without_counts(adata: AnnData, drop_obsm: Sequence[str] = (), layers: Sequence[str] = ()) -> AnnData:
    return AnnData(
        sp.csr_matrix(adata.shape, dtype=np.float32),
        obs=adata.obs.copy(),
        var=adata.var.copy(),
        obsm={name: values.copy() for name, values in adata.obsm.items() if name not in drop_obsm},
        varm={name: values.copy() for name, values in adata.varm.items()},
        obsp={name: values.copy() for name, values in adata.obsp.items()},
        varp={name: values.copy() for name, values in adata.varp.items()},
        layers={name: adata.layers[name].copy() for name in layers},
        uns={name: value for name, value in adata.uns.items() if name != _SETUPS},
    )


def _mark(data: Any, kept: Kept, totals: np.ndarray | None, kind: str) -> None:
    """Writes what is kept into an AnnData or a MuData of these cells."""
    if totals is not None:
        data.obs[_TOTAL] = totals
    for name, values in kept.values.items():
        data.obsm[f"{_PREFIX}{name}"] = values
    if kind == WITHOUT_COUNTS:
        data.uns[_UNS_KEY] = json.dumps({"model": kept.model, "kept": list(kept.values)})
    data.uns[_KIND_KEY] = kind


def kept_entries(data: Any) -> dict[str, np.ndarray]:
    """What was kept of the cells of a minified AnnData or MuData as it is in `obsm`."""
    return {name: np.asarray(values) for name, values in data.obsm.items() if name.startswith(_PREFIX)}


def minified_type(adata: AnnData) -> str | None:
    """'latent_posterior_parameters' for cells without counts, the same '..._with_counts', or None for others."""
    return WITHOUT_COUNTS if is_minified(adata) else adata.uns.get(_KIND_KEY)


def is_minified(adata: Any) -> bool:
    """Whether the counts were left out."""
    return _UNS_KEY in adata.uns


def kept_of(adata: AnnData) -> Kept | None:
    """What was kept of a minified AnnData; None for one with counts.

    Raises
    ------
    ValueError
        If it cannot be read.
    """
    if not is_minified(adata):
        return None
    try:
        description: Mapping = json.loads(adata.uns[_UNS_KEY])
        names = map(str, description["kept"])
        values = {name: np.asarray(adata.obsm[f"{_PREFIX}{name}"], dtype=np.float32) for name in names}
        return Kept(values, str(description["model"]))
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(
            f"adata is minified, but what was kept of it cannot be read ({error}): leave its obsm and "
            f"uns[{_UNS_KEY!r}] as minify_adata wrote them"
        ) from error

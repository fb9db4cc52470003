"""Cells without counts: an AnnData that keeps what a fitted model knows of each cell."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

_UNS_KEY, _PREFIX = "_scvi_minified", "scvi_"
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
    obsm = {name: values.copy() for name, values in adata.obsm.items() if name not in drop_obsm}
    uns = {name: value for name, value in adata.uns.items() if name != "_scvi"}  # set-ups are of counts
    return AnnData(
        sp.csr_matrix(adata.shape, dtype=np.float32),
        obs=_with_totals(adata.obs, totals),
        var=adata.var.copy(),
        obsm=obsm | {f"{_PREFIX}{name}": values for name, values in kept.values.items()},
        varm={name: values.copy() for name, values in adata.varm.items()},
        obsp={name: values.copy() for name, values in adata.obsp.items()},
        varp={name: values.copy() for name, values in adata.varp.items()},
        layers={name: adata.layers[name].copy() for name in layers},
        uns=uns | {_UNS_KEY: json.dumps({"model": kept.model, "kept": list(kept.values)}), _KIND_KEY: WITHOUT_COUNTS},
    )


def marked(adata: AnnData, kept: Kept, totals: np.ndarray) -> AnnData:
    """A copy of `adata` with its counts, and beside them what :func:`minified` keeps."""
    copy = adata.to_memory() if adata.isbacked else adata.copy()
    copy.obs = _with_totals(adata.obs, totals)
    for name, values in kept.values.items():
        copy.obsm[f"{_PREFIX}{name}"] = values
    copy.uns[_KIND_KEY] = WITH_COUNTS
    return copy


def minified_type(adata: AnnData) -> str | None:
    """'latent_posterior_parameters' for cells without counts, the same '..._with_counts', or None for others."""
    return WITHOUT_COUNTS if is_minified(adata) else adata.uns.get(_KIND_KEY)


def _with_totals(obs: pd.DataFrame, totals: np.ndarray | None) -> pd.DataFrame:
    return obs.copy() if totals is None else obs.assign(**{_TOTAL: totals})


def is_minified(adata: AnnData) -> bool:
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

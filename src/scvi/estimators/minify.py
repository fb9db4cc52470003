"""Cells without counts in the place of those that a model was made with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scvi._checks import NotThereError, check_choice
from scvi.cells.cell_data import CellData
from scvi.cells.checks import found, nearest
from scvi.cells.minified import WITH_COUNTS, WITHOUT_COUNTS, Kept, marked, minified, minified_mudata, minified_type
from scvi.cells.mudata import is_multimodal
from scvi.estimators.base import Estimator
from scvi.queries import latent

_MEANS, _VARIANCES = "X_latent_qzm", "X_latent_qzv"


def minify_adata(
    self: Estimator,
    minified_data_type: str = WITHOUT_COUNTS,
    use_latent_qzm_key: str = _MEANS,
    use_latent_qzv_key: str = _VARIANCES,
    *,
    layers: str | Sequence[str] = (),
) -> None:
    """Puts an AnnData without counts in the place of the model's ``adata``.

    The new one keeps ``obs``, ``var``, ``obsm``, ``varm``, ``obsp``, ``varp`` and ``uns``; its ``X`` is empty. In
    ``obsm`` it has the posterior of each cell: mean and variance of the latent variable ("scvi_qz_mean",
    "scvi_qz_var") and the log library size; ``obs["observed_lib_size"]`` has the total counts. From these the model
    answers as before what it answers without counts: latent representation, library size, normalised expression,
    parameters of the likelihood. Scores and training need counts, and are refused. Columns may be edited as long as the
    encoder does not see them; those that it saw are kept, too ("scvi_seen"). The AnnData with counts is not changed;
    the model lets go of it.

    ``save(..., save_anndata=True)`` writes the minified cells beside the model, and :meth:`load` reads them again.

    Parameters
    ----------
    minified_data_type
        'latent_posterior_parameters', or 'latent_posterior_parameters_with_counts' to write the same beside the counts,
        from which the model goes on answering.
    use_latent_qzm_key, use_latent_qzv_key
        Keys of ``adata.obsm`` with the means and variances, where they were computed already; under the default names
        they need not be there.
    layers
        Names of layers to keep, or of one.
    """
    data = _with_counts(self, minified_data_type)
    adata: Any = self.adata  # there is one, or it would have been refused
    layers = [layers] if isinstance(layers, str) else layers
    for name in layers:
        found(adata.layers, "layers", name, "in adata.layers")
    kept = _kept(self, data, adata, qz_mean=use_latent_qzm_key, qz_var=use_latent_qzv_key)
    if minified_data_type == WITH_COUNTS:
        self.adata = marked(adata, kept, data.totals())
        return
    proteins = self.schema.proteins
    drop = () if proteins is None else (proteins.obsm_key,)
    _take(self, minified(adata, kept, drop, layers, data.totals()))


def minify_mudata(
    self: Estimator,
    minified_data_type: str = WITHOUT_COUNTS,
    use_latent_qzm_key: str = _MEANS,
    use_latent_qzv_key: str = _VARIANCES,
) -> None:
    """As :meth:`minify_adata`, of a model that was made with a MuData: a MuData without counts takes its place.

    Every modality of it has an empty ``X`` and no layers. What is kept is in ``mdata.obsm`` and ``mdata.obs``, where a
    posterior that was computed already is looked for, too.
    """
    mdata: Any = self._cells.given
    if mdata is not None and not is_multimodal(mdata):
        raise TypeError("this model was not made with a MuData: call minify_adata")
    data = _with_counts(self, minified_data_type)
    kept = _kept(self, data, mdata, qz_mean=use_latent_qzm_key, qz_var=use_latent_qzv_key)
    if minified_data_type == WITH_COUNTS:
        self.adata = marked(mdata, kept, data.totals())
    else:
        _take(self, minified_mudata(mdata, kept, data.totals()))


def _with_counts(self: Estimator, minified_data_type: str) -> CellData:
    """The cells of the model, of which counts are needed."""
    self._require_trained()
    check_choice("minified_data_type", minified_data_type, (WITHOUT_COUNTS, WITH_COUNTS))
    return self._cells.own("minify")


def _kept(self: Estimator, data: CellData, given: Any, **keys: str) -> Kept:
    """What the model keeps of cells; mean and variance may be in the `obsm` of what was given, under these keys."""
    values = latent.summary(self.module, self._minibatches(data, data.positions(), None))
    return Kept(values | _given(given, values, **keys), self._digest())


def _take(self: Estimator, smaller: Any) -> None:
    """Cells without counts in the place of those that the model has."""
    self._take_cells(self._make_cells((self.schema,), self.options, (smaller,)))


def minified_data_type(self: Estimator) -> str | None:
    """How the model's ``adata`` was minified, see :meth:`minify_adata`; None if it was not."""
    adata = self.adata
    return None if adata is None else minified_type(adata)


def _given(adata: Any, values: dict[str, np.ndarray], **keys: str) -> dict[str, np.ndarray]:
    """Means and variances that are there, checked; one that is not under its default name has to be."""
    there = {}
    for name, key in keys.items():
        if key in adata.obsm:
            there[name] = np.asarray(adata.obsm[key], dtype=np.float32)
            if there[name].shape != values[name].shape or not np.isfinite(there[name]).all():
                raise ValueError(
                    f"adata.obsm[{key!r}] does not hold finite numbers of shape {values[name].shape}: write "
                    "get_latent_representation(return_dist=True) there"
                )
        elif key not in (_MEANS, _VARIANCES):
            raise NotThereError(f"{key!r} is not a key of adata.obsm{nearest(key, adata.obsm)}")
    if "qz_var" in there and (there["qz_var"] <= 0).any():
        raise ValueError(f"adata.obsm[{keys['qz_var']!r}] holds variances that are not above 0")
    return there

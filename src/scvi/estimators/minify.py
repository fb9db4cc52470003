"""Cells without counts in the place of those that a model was made with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from scvi.cells.minified import Kept, minified
from scvi.fit.checkpoint import digest
from scvi.queries import latent

if TYPE_CHECKING:
    from scvi.estimators.base import Estimator

__all__ = ["check_kept", "minify_adata"]


def minify_adata(self: Estimator) -> None:
    """Puts an AnnData without counts in the place of the model's ``adata``.

    The new one keeps ``obs``, ``var``, ``obsm``, ``obsp`` and ``uns``, and in ``obsm`` the posterior of each cell: mean
    and variance of the latent variable ("scvi_qz_mean", "scvi_qz_var") and the log library size. From these the model
    answers as before what it answers without counts: latent representation, library size, normalised expression,
    parameters of the likelihood. Scores and training need counts, and are refused. The AnnData with counts is not
    changed; the model lets go of it.

    ``save(..., save_anndata=True)`` writes the minified cells beside the model, and :meth:`load` reads them again.
    """
    self._require_trained()
    data = self._cells.own("minify")
    kept = Kept(latent.summary(self.module, self._minibatches(data, data.positions(), None)), _digest(self.module))
    proteins = self.schema.proteins
    adata = minified(self.adata, kept, () if proteins is None else (proteins.obsm_key,))
    self._take_cells(self._make_cells((self.schema,), self.options, (adata,)))


def check_kept(kept: Kept | None, module: nn.Module) -> None:
    """Refuses what another model kept, or this one before it was trained on."""
    if kept is not None and kept.model != _digest(module):
        raise ValueError(
            "adata was minified by another model, or by this one before its last training, and what was kept is not "
            "true of this one: pass the AnnData with counts, or load the model that minified it"
        )


def _digest(module: nn.Module) -> str:
    return digest(*(torch.as_tensor(t).cpu().numpy() for t in module.state_dict().values()))

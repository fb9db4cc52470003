"""Cells without counts in the place of those that a model was made with."""

from __future__ import annotations

from scvi.cells.minified import Kept, minified
from scvi.estimators.base import Estimator
from scvi.queries import latent


def minify_adata(self: Estimator) -> None:
    """Puts an AnnData without counts in the place of the model's ``adata``.

    The new one keeps ``obs``, ``var``, ``obsm``, ``obsp`` and ``uns``, and in ``obsm`` the posterior of each cell: mean
    and variance of the latent variable ("scvi_qz_mean", "scvi_qz_var") and the log library size. From these the model
    answers as before what it answers without counts: latent representation, library size, normalised expression,
    parameters of the likelihood. Scores and training need counts, and are refused. Columns may be edited as long as the
    encoder does not see them; those that it saw are kept, too ("scvi_seen"). The AnnData with counts is not changed;
    the model lets go of it.

    ``save(..., save_anndata=True)`` writes the minified cells beside the model, and :meth:`load` reads them again.
    """
    self._require_trained()
    data = self._cells.own("minify")
    kept = Kept(latent.summary(self.module, self._minibatches(data, data.positions(), None)), self._digest())
    proteins = self.schema.proteins
    adata = minified(self.adata, kept, () if proteins is None else (proteins.obsm_key,))
    self._take_cells(self._make_cells((self.schema,), self.options, (adata,)))

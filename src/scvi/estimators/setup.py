"""What a model reads of an AnnData: the declaration that most estimators take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from anndata import AnnData

from scvi.cells.estimates import NonInteger
from scvi.estimators.base import Estimator


def setup_anndata(
    cls: type[Estimator],
    adata: AnnData,
    layer: str | None = None,
    batch_key: str | None = None,
    labels_key: str | None = None,
    size_factor_key: str | None = None,
    categorical_covariate_keys: Sequence[str] | None = None,
    continuous_covariate_keys: Sequence[str] | None = None,
    mask_var: str | Sequence[str] | np.ndarray | None = None,
    non_integer: NonInteger = "warn",
) -> None:
    """Declares which parts of `adata` the model reads, and checks them.

    One entry is written to ``adata.uns["_scvi"]``; nothing else of `adata` is changed.

    Parameters
    ----------
    layer
        Key of ``adata.layers`` with the raw counts; None: ``adata.X``.
    batch_key
        Column of ``adata.obs`` with the experimental batch, whose effect is removed from the latent space.
    labels_key
        Column with the cell type (used by label-wise dispersions; other models do not look at it later on).
    size_factor_key
        Column with size factors, in place of each cell's total count. They are relative: their mean is scaled to
        the mean total count.
    categorical_covariate_keys, continuous_covariate_keys
        Further columns whose effect is removed like the batch's. Continuous ones enter standardised, by mean and
        standard deviation of the cells of this `adata`, also those of other cells later on.
    mask_var
        Genes to model: a boolean column of ``adata.var``, a list of names or a mask. None: all.
    non_integer
        What to do with counts that are no integers, but look like estimates of counts, as ambient correction and
        pseudo-alignment leave them: 'warn' once and model them as they are, 'refuse' them, or 'round' them to the
        nearest integers wherever they are read. The same goes for other cells later on. Normalised and transformed
        values are refused in any case.
    """
    cls._set_up(
        adata,
        layer=layer,
        batch_key=batch_key,
        labels_key=labels_key,
        size_factor_key=size_factor_key,
        categorical_covariate_keys=categorical_covariate_keys,
        continuous_covariate_keys=continuous_covariate_keys,
        mask_var=mask_var,
        non_integer=non_integer,
    )

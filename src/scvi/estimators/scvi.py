"""scVI for AnnData."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scvi.cells.schema import Schema
from scvi.estimators.counts import CountEstimator, network_options
from scvi.models.vae import VAE

if TYPE_CHECKING:
    pass

__all__ = ["SCVI"]


class SCVI(CountEstimator):
    """Single-cell variational inference (Lopez et al., Nature Methods 2018).

    >>> scvi.SCVI.setup_anndata(adata, batch_key="batch")
    >>> model = scvi.SCVI(adata)
    >>> model.train()
    >>> adata.obsm["X_scVI"] = model.get_latent_representation()

    Parameters
    ----------
    adata
        Raw counts, declared with :meth:`setup_anndata`.
    n_hidden, n_latent, n_layers, dropout_rate
        Width of the hidden layers, dimension of the latent space, number of hidden layers of encoder and decoder,
        dropout.
    dispersion
        The inverse dispersion is one number for each 'gene', 'gene-batch', 'gene-label' or 'gene-cell'.
    gene_likelihood
        'zinb', 'nb' or 'poisson'.
    latent_distribution
        'normal', or 'ln' for a logistic-normal one on the simplex.
    use_observed_lib_size
        Take each cell's total count as its library size instead of inferring it.
    encode_covariates
        Show batch and covariates to the encoder as well as to the decoder.
    seed
        Seed of the initial weights.
    """

    @classmethod
    def _make_module(cls, schema: Schema, options: Mapping[str, Any]) -> VAE:
        return VAE(**network_options(schema, options))

"""scVI for AnnData."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from scvi.dataset.cell_data import Schema
from scvi.estimators.counts import CountEstimator, network_options
from scvi.models.utils import check_choice
from scvi.models.vae import VAE

if TYPE_CHECKING:
    from anndata import AnnData

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

    def __init__(
        self,
        adata: AnnData,
        n_hidden: int = 128,
        n_latent: int = 10,
        n_layers: int = 1,
        dropout_rate: float = 0.1,
        dispersion: Literal["gene", "gene-batch", "gene-label", "gene-cell"] = "gene",
        gene_likelihood: Literal["zinb", "nb", "poisson"] = "zinb",
        latent_distribution: Literal["normal", "ln"] = "normal",
        use_observed_lib_size: bool = True,
        *,
        encode_covariates: bool = False,
        seed: int | None = None,
    ) -> None:
        check_choice("gene_likelihood", gene_likelihood, ("zinb", "nb", "poisson"))
        options = {
            "n_hidden": n_hidden,
            "n_latent": n_latent,
            "n_layers": n_layers,
            "dropout_rate": dropout_rate,
            "dispersion": dispersion,
            "gene_likelihood": gene_likelihood,
            "latent_distribution": latent_distribution,
            "use_observed_lib_size": use_observed_lib_size,
            "encode_covariates": encode_covariates,
        }
        super().__init__(adata, options, seed)

    @classmethod
    def _make_module(cls, schema: Schema, options: Mapping[str, Any]) -> VAE:
        return VAE(**network_options(schema, options))

"""Linearly decoded scVI for AnnData."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from scvi.cells.schema import Schema
from scvi.estimators.counts import CountEstimator, network_options
from scvi.models.ldvae import LDVAE
from scvi.models.utils import check_choice

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["LinearSCVI"]


class LinearSCVI(CountEstimator):
    """scVI with a linear decoder, whose weights say which genes a latent dimension moves (Svensson et al. 2020).

    Parameters
    ----------
    adata
        Raw counts, declared with :meth:`setup_anndata`.
    n_hidden, n_latent, n_layers, dropout_rate
        Width and number of the encoder's hidden layers, dimension of the latent space, dropout.
    dispersion
        The inverse dispersion is one number for each 'gene', 'gene-batch' or 'gene-label'.
    gene_likelihood
        'zinb', 'nb' or 'poisson'.
    latent_distribution
        'normal', or 'ln' for a logistic-normal one on the simplex.
    use_observed_lib_size
        Take each cell's total count as its library size instead of inferring it.
    use_batch_norm, bias
        Batch norm and bias of the decoder.
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
        dispersion: Literal["gene", "gene-batch", "gene-label"] = "gene",
        gene_likelihood: Literal["zinb", "nb", "poisson"] = "nb",
        latent_distribution: Literal["normal", "ln"] = "normal",
        use_observed_lib_size: bool = True,
        *,
        use_batch_norm: bool = True,
        bias: bool = False,
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
            "use_batch_norm": use_batch_norm,
            "bias": bias,
            "encode_covariates": encode_covariates,
        }
        self._make(adata, options, seed)

    @classmethod
    def _make_module(cls, schema: Schema, options: Mapping[str, Any]) -> LDVAE:
        return LDVAE(**network_options(schema, options))

    def get_loadings(self) -> pd.DataFrame:
        """Genes x latent dimensions: how much a step of 1 along a dimension moves the log frequency of each gene."""
        self._require_trained()
        loadings = self.module.get_loadings()
        names = [f"Z_{i}" for i in range(loadings.shape[1])]
        return pd.DataFrame(loadings, index=pd.Index(self.schema.genes), columns=names)

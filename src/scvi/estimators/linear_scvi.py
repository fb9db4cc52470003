"""Linearly decoded scVI for AnnData."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pandas as pd
from anndata import AnnData

from scvi.estimators import (
    checks,
    differential,
    minify,
    populations,
    predictive_questions,
    query_mapping,
    questions,
    reporting,
    setup,
)
from scvi.estimators.base import Estimator
from scvi.fit.plan import LinearPlan
from scvi.models.architecture import BatchRepresentation, Where
from scvi.models.gaussian import VarianceActivation, activation_name
from scvi.models.ldvae import LDVAE
from scvi.models.likelihood import LikelihoodName, make_likelihood


class LinearSCVI(Estimator):
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
        Take each cell's total count as its library size instead of inferring it. Size factors, where they are declared,
        are the library sizes in any case.
    use_batch_norm
        Whether the decoder has batch norm, as the encoder does; or where there is any: 'encoder', 'decoder', 'both' or
        'none'.
    use_layer_norm
        'encoder' or 'none'; it is no linear map, as the decoder is one.
    bias
        Bias of the decoder.
    encode_covariates, deeply_inject_covariates
        Show batch and covariates to the encoder as well as to the decoder; to every layer, not to the first alone.
    log_variational
        Show log(1 + counts) to the encoder, not the counts.
    var_activation
        What makes the variances of the posterior from the encoder's numbers: 'exp', 'softplus', 'relu', 'sigmoid' or
        'square', or the function of torch.
    batch_representation, batch_embedding_kwargs
        What the networks see of the batch: a 'one-hot' row, or an 'embedding', numbers that are learned for each batch,
        by default 5: ``{"embedding_dim": 5}``.
    seed
        Seed of the initial weights.
    """

    _network = LDVAE
    _plan = LinearPlan
    _adapts = ("keep_best",)

    def __init__(
        self,
        adata: AnnData,
        n_hidden: int = 128,
        n_latent: int = 10,
        n_layers: int = 1,
        dropout_rate: float = 0.1,
        dispersion: Literal["gene", "gene-batch", "gene-label"] = "gene",
        gene_likelihood: LikelihoodName = "nb",
        latent_distribution: Literal["normal", "ln"] = "normal",
        use_observed_lib_size: bool = True,
        *,
        use_batch_norm: bool | Where = True,
        bias: bool = False,
        encode_covariates: bool = False,
        deeply_inject_covariates: bool = True,
        use_layer_norm: Literal["encoder", "none"] = "none",
        log_variational: bool = True,
        var_activation: VarianceActivation = "exp",
        batch_representation: BatchRepresentation = "one-hot",
        batch_embedding_kwargs: Mapping[str, int] | None = None,
        seed: int | None = None,
    ) -> None:
        make_likelihood(gene_likelihood, "gene_likelihood")
        var_activation = activation_name(var_activation)
        self._make((adata,), seed, locals())

    @property
    def n_latent(self) -> int:
        """Dimension of the latent space: the number of columns of :meth:`get_loadings`."""
        return self.options["n_latent"]

    setup_anndata = classmethod(setup.setup_anndata)

    get_latent_representation = questions.get_latent_representation
    get_batch_representation = questions.get_batch_representation
    get_latent_library_size = questions.get_latent_library_size
    get_normalized_expression = questions.get_normalized_expression
    get_likelihood_parameters = questions.get_likelihood_parameters
    get_feature_correlation_matrix = predictive_questions.get_feature_correlation_matrix
    get_importance_weights = predictive_questions.get_importance_weights
    posterior_predictive_sample = predictive_questions.posterior_predictive_sample
    get_elbo = questions.get_elbo
    get_reconstruction_error = questions.get_reconstruction_error
    get_marginal_ll = questions.get_marginal_ll
    differential_expression = differential.differential_expression
    get_aggregated_posterior = populations.get_aggregated_posterior
    differential_abundance = populations.differential_abundance
    check = checks.check
    report = reporting.report

    load_query_data = query_mapping.load_query_data
    prepare_query_anndata = classmethod(query_mapping.prepare_query_anndata)
    minify_adata = minify.minify_adata
    minified_data_type = property(minify.minified_data_type)

    def get_loadings(self) -> pd.DataFrame:
        """Genes x latent dimensions: how much a step of 1 along a dimension moves the log frequency of each gene."""
        self._require_trained()
        loadings = self.module.get_loadings()
        return questions.table(loadings, self.schema.genes, [f"Z_{i}" for i in range(loadings.shape[1])])

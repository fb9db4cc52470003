"""AutoZI for AnnData."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from scvi._checks import check_flag
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
from scvi.estimators.cells import Indices
from scvi.estimators.train import train_by
from scvi.fit.plan import Plan
from scvi.models.architecture import BatchRepresentation, Where
from scvi.models.autozivae import AutoZIVAE
from scvi.models.gaussian import VarianceActivation, activation_name
from scvi.queries import inflation


class AUTOZI(Estimator):
    """scVI that tells which genes are zero-inflated (Clivio et al. 2019).

    >>> scvi.AUTOZI.setup_anndata(adata, batch_key="batch")
    >>> model = scvi.AUTOZI(adata)
    >>> model.train()
    >>> model.get_zero_inflation().nlargest(10)

    Each gene has a probability delta that it is *not* zero-inflated, with a Beta prior and a Beta posterior. The
    default learning rate of :meth:`train` is 0.015: these posteriors have a long way to go.

    Parameters
    ----------
    adata
        Raw counts, declared with :meth:`setup_anndata`.
    n_hidden, n_latent, n_layers, dropout_rate
        Width of the hidden layers, dimension of the latent space, number of hidden layers of encoder and decoder,
        dropout.
    dispersion
        The inverse dispersion is one number for each 'gene', 'gene-batch', 'gene-label' or 'gene-cell'.
    latent_distribution
        'normal', or 'ln' for a logistic-normal one on the simplex.
    alpha_prior, beta_prior
        Parameters of the prior of delta, between 0 and 1. If one is None it is 1 minus the other; if both are, they are
        learned.
    minimal_dropout
        Least probability, from 0 on and below 1, that a count of a zero-inflated gene is lost.
    zero_inflation
        There is one delta for each 'gene', 'gene-batch', 'gene-label' or 'gene-cell'.
    use_observed_lib_size
        Take each cell's total count as its library size instead of inferring it. Size factors, where they are declared,
        are the library sizes in any case.
    encode_covariates, deeply_inject_covariates
        Show batch and covariates to the encoder as well as to the decoder; to every layer, not to the first alone.
    use_batch_norm, use_layer_norm
        Where hidden layers are normalised over the cells of a minibatch, and over the units of each cell: in the
        'encoder', the 'decoder', 'both' or 'none'.
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

    _network = AutoZIVAE
    _adapts = ("weight_decay",)

    def __init__(
        self,
        adata: AnnData,
        n_hidden: int = 128,
        n_latent: int = 10,
        n_layers: int = 1,
        dropout_rate: float = 0.1,
        dispersion: Literal["gene", "gene-batch", "gene-label", "gene-cell"] = "gene",
        latent_distribution: Literal["normal", "ln"] = "normal",
        alpha_prior: float | None = 0.5,
        beta_prior: float | None = 0.5,
        minimal_dropout: float = 0.01,
        zero_inflation: Literal["gene", "gene-batch", "gene-label", "gene-cell"] = "gene",
        use_observed_lib_size: bool = True,
        *,
        encode_covariates: bool = False,
        deeply_inject_covariates: bool = True,
        use_batch_norm: Where = "both",
        use_layer_norm: Where = "none",
        log_variational: bool = True,
        var_activation: VarianceActivation = "exp",
        batch_representation: BatchRepresentation = "one-hot",
        batch_embedding_kwargs: Mapping[str, int] | None = None,
        seed: int | None = None,
    ) -> None:
        var_activation = activation_name(var_activation)
        self._make((adata,), seed, locals())

    setup_anndata = classmethod(setup.setup_anndata)
    train = train_by(Plan, lr=0.015)

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

    def get_alphas_betas(
        self,
        adata: AnnData | None = None,
        indices: Indices = None,
        batch_size: int | None = None,
        *,
        as_numpy: bool = True,
    ) -> dict[str, np.ndarray] | dict[str, torch.Tensor]:
        """Parameters of the Beta posteriors and priors of delta, the probability that a gene is not zero-inflated.

        Cells can be chosen with ``zero_inflation='gene-cell'`` only, where each entry has a posterior of its own.

        Parameters
        ----------
        as_numpy
            False gives tensors in place of arrays.

        Returns
        -------
        dict
            'alpha_posterior' and 'beta_posterior': (g,), one column a batch or label (g, k), or (n, g) for 'gene-cell';
            'alpha_prior' and 'beta_prior': (1,) or (1, k).
        """
        check_flag("as_numpy", as_numpy)
        found = self._alphas_betas(adata, indices, batch_size)
        return found if as_numpy else {name: torch.from_numpy(values) for name, values in found.items()}

    def _alphas_betas(self, adata: AnnData | None, indices: Indices, batch_size: int | None) -> dict[str, np.ndarray]:
        self._require_trained()
        if not self._is_by_cell() and not (adata is None and indices is None):
            raise ValueError(
                f"zero_inflation={self.options['zero_inflation']!r}: delta does not differ between cells, leave out "
                "adata and indices"
            )
        minibatches = self._ask(adata, indices, batch_size) if self._is_by_cell() else ()
        return inflation.alphas_betas(self.module, minibatches)

    def get_zero_inflation(
        self, adata: AnnData | None = None, indices: Indices = None, batch_size: int | None = None
    ) -> pd.Series | pd.DataFrame:
        """How sure the model is that a gene is zero-inflated: the posterior probability that delta is below 0.5.

        Genes above 0.5 are those to call zero-inflated.

        Returns
        -------
        One number a gene; a table of genes and batches or labels where these have a delta of their own, and of cells
        and genes for ``zero_inflation='gene-cell'``.
        """
        found = self._alphas_betas(adata, indices, batch_size)
        values = inflation.inflation_probability(found["alpha_posterior"], found["beta_posterior"])
        if self._is_by_cell():
            data, positions = self._choose(adata, indices)
            return questions.table(values, data.cell_names[positions], self.schema.genes)
        if values.ndim == 1:
            return pd.Series(values, index=pd.Index(self.schema.genes), name="zero_inflation")
        names = self.schema.batch_names if self.options["zero_inflation"] == "gene-batch" else self.schema.label_names
        return questions.table(values, self.schema.genes, names)

    def _is_by_cell(self) -> bool:
        return self.options["zero_inflation"] == "gene-cell"

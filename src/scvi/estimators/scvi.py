"""scVI for AnnData."""

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
from scvi.estimators.options_of_scvi import WithOptionsOfSCVI
from scvi.models.vae import VAE


class SCVI(WithOptionsOfSCVI):
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
    scale_activation
        Expected frequencies of genes are a 'softmax', so that the library size is what counts are expected to sum to;
        with 'softplus' a cell's expected counts are its size times positive numbers of any sum, as in scvi-tools with
        size factors, whose models are read with it.
    seed
        Seed of the initial weights.
    """

    _network = VAE
    _adapts = ("max_epochs", "weight_decay", "keep_best")

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

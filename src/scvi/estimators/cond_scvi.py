"""Label-conditioned scVI for AnnData."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi._checks import check_integer
from scvi.cells.estimates import NonInteger
from scvi.estimators import (
    checks,
    differential,
    minify,
    populations,
    predictive_questions,
    query_mapping,
    questions,
    reporting,
)
from scvi.estimators.cells import codes_among
from scvi.estimators.options_of_scvi import WithOptionsOfSCVI
from scvi.models.vaec import VAEC
from scvi.queries.annotation import expression_of_labels


class CondSCVI(WithOptionsOfSCVI):
    """scVI whose encoder and decoder are told the label of the cell (M2 of Kingma et al. 2014, for counts).

    >>> scvi.CondSCVI.setup_anndata(adata, labels_key="cell_type", batch_key="batch")
    >>> model = scvi.CondSCVI(adata)
    >>> model.train()
    >>> profiles = model.get_label_expression()

    The latent space holds what varies within a label. All cells need one, also those that are asked about later, and
    likelihoods are those of the counts given the label.

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

    _network = VAEC
    _adapts = ("weight_decay", "keep_best")
    _always_reads_labels = True

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        labels_key: str,
        layer: str | None = None,
        batch_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        mask_var: str | Sequence[str] | np.ndarray | None = None,
        non_integer: NonInteger = "warn",
    ) -> None:
        """Declares which parts of `adata` the model reads, and checks them; see :meth:`scvi.SCVI.setup_anndata`.

        Parameters
        ----------
        labels_key
            Column of ``adata.obs`` with the label of every cell.
        """
        if labels_key is None:
            raise ValueError("labels_key=None: CondSCVI is told the label of every cell, name the column of labels")
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

    def get_label_expression(
        self,
        labels: Sequence[str] | None = None,
        transform_batch: str | int | Sequence[str | int] | None = None,
        gene_list: Sequence[str] | None = None,
        n_samples: int = 1000,
        *,
        seed: int | None = None,
    ) -> pd.DataFrame:
        """The mean expression profile of each label: the share of each gene among the molecules of its cells.

        It is the decoder's expected frequency, averaged over draws of the latent state from its prior. Decoders that
        read covariates are shown those of cells of the model, drawn at random.

        Parameters
        ----------
        labels
            Names of labels, in the order wanted; None: all.
        transform_batch
            Name of the batch to decode in, or several, over which the result is averaged; None: all batches.
        gene_list
            Names of genes, in the order wanted; None: all.
        n_samples
            Draws for each label and batch.

        Returns
        -------
        (c, g) table of labels and genes; over all genes rows sum to 1
        """
        self._require_trained()
        asked = self.schema.label_names if labels is None else labels
        codes = codes_among(asked, self.schema.label_names, "labels has {!r}, which is not a label")
        if len(codes) == 0:
            raise ValueError("labels is an empty list; None asks for all labels")
        batches = self._cells.batch_codes(self.schema.batch_names if transform_batch is None else transform_batch)
        genes = self._cells.gene_positions(self.schema.genes if gene_list is None else gene_list)
        data = self._cells.own("show covariates to its decoder")
        generator = self._generator(seed)
        check_integer("n_samples", n_samples, 1)
        cells = np.random.default_rng(generator.initial_seed()).integers(len(data), size=n_samples)
        values = expression_of_labels(
            self.module,
            list(self._minibatches(data, cells, None)),
            codes.tolist(),
            batches or [0],
            generator,
        )
        names, columns = questions.chosen(self.schema.label_names, codes), questions.chosen(self.schema.genes, genes)
        return questions.table(values[:, genes], names, columns)

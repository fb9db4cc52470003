"""scANVI for AnnData."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi._checks import check_choice, check_flag, check_number
from scvi._random import resolve_seed, seeded
from scvi.cells.categories import places_among
from scvi.cells.cell_data import CellData
from scvi.cells.estimates import NonInteger
from scvi.cells.schema import Schema
from scvi.cells.setup import labelled_schema
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
from scvi.estimators.cells import Indices
from scvi.estimators.network_options import network_options
from scvi.estimators.options_of_scvi import WithOptionsOfSCVI
from scvi.estimators.scvi import SCVI
from scvi.estimators.train import train_by
from scvi.fit.plan import SemiSupervisedPlan
from scvi.models.architecture import BatchRepresentation, ScaleActivation, Where
from scvi.models.gaussian import VarianceActivation, activation_name
from scvi.models.likelihood import LikelihoodName, make_likelihood
from scvi.models.scanvae import SCANVAE
from scvi.queries import annotation, calibration

logger = logging.getLogger(__name__)

_EPOCHS_AFTER_SCVI = 20
_OF_CLASSIFIER = ("n_hidden", "n_layers", "dropout_rate", "use_batch_norm", "use_layer_norm")


class SCANVI(WithOptionsOfSCVI):
    """Annotation of cells from a few labelled ones (Xu et al., Molecular Systems Biology 2021).

    >>> scvi.SCVI.setup_anndata(adata, batch_key="batch")
    >>> first = scvi.SCVI(adata)
    >>> first.train()
    >>> model = scvi.SCANVI.from_scvi_model(first, "Unknown", labels_key="cell_type")
    >>> model.train()
    >>> adata.obs["predictions_scanvi"] = model.predict()

    Parameters
    ----------
    adata
        Raw counts, declared with :meth:`setup_anndata`.
    n_hidden, n_latent, n_layers, dropout_rate
        Width of the hidden layers, dimension of the latent space, number of hidden layers, dropout: of encoder, decoder
        and classifier.
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
    linear_classifier
        Classify with one linear layer.
    classifier_parameters
        ``n_hidden``, ``n_layers``, ``dropout_rate``, ``use_batch_norm`` and ``use_layer_norm`` (flags) of the
        classifier, where they are not those of the other networks.
    seed
        Seed of the initial weights.
    """

    _network = SCANVAE
    _plan = SemiSupervisedPlan
    _adapts = ("weight_decay",)
    _always_reads_labels = True

    def __init__(
        self,
        adata: AnnData,
        n_hidden: int = 128,
        n_latent: int = 10,
        n_layers: int = 1,
        dropout_rate: float = 0.1,
        dispersion: Literal["gene", "gene-batch", "gene-label", "gene-cell"] = "gene",
        gene_likelihood: LikelihoodName = "zinb",
        latent_distribution: Literal["normal", "ln"] = "normal",
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
        scale_activation: ScaleActivation = "softmax",
        linear_classifier: bool = False,
        classifier_parameters: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> None:
        make_likelihood(gene_likelihood, "gene_likelihood")
        var_activation = activation_name(var_activation)
        self._make((adata,), seed, locals())

    @classmethod
    def _make_networks(cls, schemas: Sequence[Schema], options: Mapping[str, Any]) -> Any:
        of_classifier = _checked(options["classifier_parameters"])
        if check_flag("linear_classifier", options["linear_classifier"]):
            of_classifier = {**of_classifier, "n_layers": 0}
        names = {"gene_likelihood": "reconstruction_loss", "linear_classifier": None}
        (schema,) = schemas
        arguments = network_options(schema, {**options, "classifier_parameters": of_classifier}, names)
        return cls._network(schema.n_genes, **arguments)

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        labels_key: str,
        unlabeled_category: str,
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
            Column of ``adata.obs`` with the labels.
        unlabeled_category
            Its value in cells whose label is not known, a number where labels are numbers. It need not occur.
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
            unlabeled_category=unlabeled_category,
        )

    @classmethod
    def from_scvi_model(
        cls,
        scvi_model: SCVI,
        unlabeled_category: str,
        labels_key: str | None = None,
        adata: AnnData | None = None,
        *,
        linear_classifier: bool = False,
        classifier_parameters: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> Self:
        """A model that starts from the weights of a fitted :class:`scvi.SCVI`, with its options and its cells.

        Parameters
        ----------
        scvi_model
            The fitted model; it is left as it is.
        unlabeled_category
            The value of the labels' column in cells whose label is not known.
        labels_key
            Column of ``adata.obs`` with the labels; None: the one that `scvi_model` was set up with.
        adata
            Cells in place of those of `scvi_model`, with its genes, in any order, and with its batches and covariates;
            they need no set-up, but for the labels. What `scvi_model` took of its own cells is kept: the prior of the
            library size, the scale of size factors and of covariates.
        linear_classifier, classifier_parameters
            As for :class:`scvi.SCANVI`.
        seed
            Seed of the initial weights of what scVI does not have.
        """
        if not isinstance(scvi_model, SCVI):
            raise TypeError(f"scvi_model is a {type(scvi_model).__name__}; pass a fitted scvi.SCVI")
        scvi_model._require_trained()
        digests = None
        if adata is None:
            data = scvi_model._cells.own("be annotated")
            adata, digests = scvi_model.adata, None if data.guard is None else data.guard.digests
        schema = labelled_schema(adata, scvi_model.schema, labels_key, unlabeled_category)
        of_classifier = {"linear_classifier": linear_classifier, "classifier_parameters": classifier_parameters}
        options = {**scvi_model.options, **of_classifier}
        seed = resolve_seed(seed)
        with seeded(seed):
            module = cls._make_networks((schema,), options)
        _take_weights(module, scvi_model, schema.label_names)
        cells = cls._make_cells((schema,), options, (adata,), [digests])
        model = cls._assembled(options, module.to(scvi_model.device), cells)
        model._is_initialised = True
        if adata is scvi_model._cells.given and scvi_model._seed is not None:
            model._seed, known = seed, scvi_model.schema.labels_key
            model._first = {"labels_key": known, "seed": scvi_model._seed, "fits": scvi_model._fits}
        return model

    # ---- fitting -----------------------------------------------------------------------------------------------------

    train = train_by(
        SemiSupervisedPlan,
        """Fits the model; arguments beside those below are explained in :meth:`scvi.SCVI.train`.

        A model made by :meth:`from_scvi_model` is fitted for 20 epochs unless `max_epochs` says otherwise. Training and
        validation cells get the same share of every label.

        Parameters
        ----------
        n_samples_per_label
            Labelled cells that the classifier sees of each label in an epoch, all where a label has fewer; None: all of
            every label, so that frequent labels weigh more.
        classification_ratio
            Weight of the cross-entropy of labelled cells beside the negative ELBO per cell; `plan_kwargs` may hold it,
            too.
        calibrate
            After training, choose the temperature of the probabilities by the labelled validation cells. Without such
            cells it stays what it was, 1 at first, and so it does where a mapped model's classifier is frozen.
        """,
        second="n_samples_per_label",
    )

    def _fit(self, given: Mapping[str, Any]) -> None:
        if given["max_epochs"] is None and self._is_initialised and not self.is_trained:
            given = {**given, "max_epochs": _EPOCHS_AFTER_SCVI}
        super()._fit(given)
        if given["calibrate"] and (self._scope is None or self._scope.reaches("classifier")):
            self._calibrate()

    def _strata(self, data: CellData) -> np.ndarray:
        return data.labels

    def _split(
        self, data_sets: Sequence[CellData], given: Mapping[str, Any], seed: int
    ) -> tuple[Sequence[np.ndarray], Sequence[np.ndarray]]:
        (train_cells,), validation_cells = super()._split(data_sets, given, seed)
        n_labelled = np.count_nonzero(data_sets[0].labels[train_cells] >= 0)
        if n_labelled < 2 and not self.is_trained:
            raise ValueError(
                f"{n_labelled} of {len(train_cells)} training cells have a label, a classifier needs at least 2: "
                "label more cells, or raise train_size"
            )
        return (train_cells,), validation_cells

    def _calibrate(self) -> None:
        """Gives the classifier the temperature that suits the labelled validation cells."""
        data = self._cells.own("be calibrated")
        cells = self.validation_indices
        cells = cells[data.labels[cells] >= 0] if cells is not None else np.empty(0, np.int64)
        if len(cells) == 0:
            logger.info("No validation cell has a label: the probabilities of the labels are not calibrated anew.")
            return
        log_q = annotation.log_probabilities(self.module, self._minibatches(data, cells, None), calibrated=False)
        found = calibration.temperature(log_q, data.labels[cells])
        self.module.temperature.fill_(found)
        logger.info("Temperature of the classifier from %d labelled validation cells: %.3g.", len(cells), found)

    # ---- questions ---------------------------------------------------------------------------------------------------

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

    def predict(
        self,
        adata: AnnData | None = None,
        indices: Indices = None,
        soft: bool = False,
        batch_size: int | None = None,
        use_posterior_mean: bool = True,
        *,
        abstain_below: float | None = None,
        keep_observed: bool = False,
        seed: int | None = None,
    ) -> np.ndarray | pd.DataFrame:
        """The label of every cell, or the probabilities of all labels.

        Parameters
        ----------
        soft
            Return probabilities.
        use_posterior_mean
            Classify the posterior mean of each cell's latent state; otherwise a posterior draw.
        abstain_below
            Answer with the unlabelled category where the most probable label has a lower probability than this.
        keep_observed
            Answer with the label that was given, and probability 1, where one was.

        Returns
        -------
        (n,) names of labels; with `soft` a table (n, c) of cells and labels, whose rows sum to 1
        """
        flags = {"soft": soft, "use_posterior_mean": use_posterior_mean, "keep_observed": keep_observed}
        for name, flag in flags.items():
            check_flag(name, flag)
        if abstain_below is not None:
            if check_number("abstain_below", abstain_below, "a probability", least=0) > 1:
                raise ValueError(f"abstain_below={abstain_below!r} is above 1, which no probability is")
            if soft:
                raise ValueError("abstain_below goes with soft=False: probabilities say themselves how sure they are")
        data, positions = self._choose(adata, indices, needs_counts=False)
        minibatches, generator = self._minibatches(data, positions, batch_size), self._generator(seed)
        log_q = annotation.log_probabilities(self.module, minibatches, not use_posterior_mean, generator=generator)
        probabilities = np.exp(log_q)
        if keep_observed:
            labels = data.labels[positions]
            known = np.flatnonzero(labels >= 0)
            probabilities[known] = 0.0
            probabilities[known, labels[known]] = 1.0
        names = np.array(self.schema.label_names, dtype=object)
        if soft:
            return questions.table(probabilities, data.cell_names[positions], names)
        answers = names[probabilities.argmax(axis=1)]
        if abstain_below is not None:
            answers[probabilities.max(axis=1) < abstain_below] = self.schema.unlabeled_category
        return answers


def _checked(classifier_parameters: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Sizes of the classifier, refused where they have other names."""
    if classifier_parameters is None:
        return {}
    if not isinstance(classifier_parameters, Mapping):
        raise ValueError(f"classifier_parameters={classifier_parameters!r} is not a mapping of names to values")
    for name in classifier_parameters:
        check_choice("a name in classifier_parameters", name, _OF_CLASSIFIER)
    return classifier_parameters


def _take_weights(module: SCANVAE, scvi_model: SCVI, labels: Sequence[str]) -> None:
    """The weights that scVI and scANVI have in common; a dispersion by label goes by the names of the labels."""
    given = scvi_model.module.state_dict()
    if scvi_model.options["dispersion"] == "gene-label":
        codes = places_among(scvi_model.schema.label_names, labels)
        if (codes < 0).any():
            unknown = [name for name, code in zip(labels, codes, strict=True) if code < 0]
            raise ValueError(
                f"dispersion='gene-label': the SCVI model does not know the labels {', '.join(unknown[:5])}: set SCVI "
                "up with this column of labels, or use another dispersion"
            )
        given["px_r"] = given["px_r"][:, codes]
    module.load_state_dict(given, strict=False)

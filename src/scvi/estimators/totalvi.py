"""totalVI for AnnData and MuData."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from anndata import AnnData

from scvi._checks import check_flag
from scvi.cells.cell_data import CellData
from scvi.cells.estimates import NonInteger
from scvi.cells.minified import is_minified
from scvi.cells.mudata import OBSM_KEY, is_multimodal, joined_modalities, order_of, places_of
from scvi.cells.protein_background import background_moments
from scvi.cells.proteins import refuse_gaps
from scvi.cells.schema import ProteinPlace, Schema
from scvi.cells.setup import declare
from scvi.cells.uns import register
from scvi.estimators import (
    checks,
    minify,
    populations,
    predictive_questions,
    protein_differential,
    protein_questions,
    query_mapping,
    questions,
    reporting,
)
from scvi.estimators.base import Estimator
from scvi.estimators.cells import Cells
from scvi.estimators.network_options import network_options
from scvi.estimators.train import train_by
from scvi.fit.plan import ProteinPlan
from scvi.fit.ranks import Ranks
from scvi.fit.starting_values import initialise
from scvi.models.architecture import BatchRepresentation, Where
from scvi.models.gaussian import VarianceActivation, activation_name
from scvi.models.likelihood import make_likelihood
from scvi.models.totalvae import TOTALVAE

# What the network calls the options that it knows under other names; None: it does not know them.
_NAMES = {
    "gene_likelihood": "reconstruction_loss_gene",
    "encode_covariates": "encoder_batch",
    "empirical_protein_background_prior": None,
    "override_missing_proteins": None,
}


class TOTALVI(Estimator):
    """Genes and surface proteins of the same cells (CITE-seq; Gayoso et al., Nature Methods 2021).

    >>> scvi.TOTALVI.setup_anndata(adata, batch_key="batch", protein_expression_obsm_key="protein_counts")
    >>> model = scvi.TOTALVI(adata)
    >>> model.train()
    >>> rna, protein = model.get_normalized_expression(n_samples=25)

    A protein without any count in a batch is taken as not measured there: it is left out of the likelihood of these
    cells, and can be imputed with `transform_batch`.

    Parameters
    ----------
    adata
        Raw counts, declared with :meth:`setup_anndata`, or a MuData declared with :meth:`setup_mudata`.
    n_latent
        Dimension of the latent space.
    gene_dispersion, protein_dispersion
        The inverse dispersion is one number for each 'gene' ('protein'), 'gene-batch' or 'gene-label'.
    gene_likelihood
        'nb' or 'zinb'.
    latent_distribution
        'normal', or 'ln' for a logistic-normal one on the simplex.
    empirical_protein_background_prior
        Start the background of each protein where the lower of two Gaussians fits its log counts. None: True.
    override_missing_proteins
        Take proteins without any count in a batch as measured zeros; those that are NaN there cannot be.
    n_hidden, n_layers_encoder, n_layers_decoder, dropout_rate_encoder, dropout_rate_decoder
        Width, depths and dropout rates of the networks.
    use_observed_lib_size
        Take each cell's total count of RNA as its library size instead of inferring it. Size factors, where they are
        declared, are the library sizes in any case.
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
    encoder_branches, background_deviation, relative_counts
        How the encoder ends, what makes the deviation of the background positive ('exp' or 'softplus'), and whether the
        encoder sees counts over one more than their mean in the cell; see :class:`scvi.models.TOTALVI`. False,
        'softplus' and True are those of scvi-tools, whose models are read with them.
    seed
        Seed of the initial weights.
    """

    _network = TOTALVAE
    _plan = ProteinPlan
    _adapts = ("weight_decay", "keep_best")

    def __init__(
        self,
        adata: AnnData,
        n_latent: int = 20,
        gene_dispersion: Literal["gene", "gene-batch", "gene-label"] = "gene",
        protein_dispersion: Literal["protein", "protein-batch", "protein-label"] = "protein",
        gene_likelihood: Literal["nb", "zinb"] = "nb",
        latent_distribution: Literal["normal", "ln"] = "normal",
        empirical_protein_background_prior: bool | None = None,
        override_missing_proteins: bool = False,
        *,
        n_hidden: int = 256,
        n_layers_encoder: int = 1,
        n_layers_decoder: int = 1,
        dropout_rate_encoder: float = 0.2,
        dropout_rate_decoder: float = 0.2,
        use_observed_lib_size: bool = True,
        encode_covariates: bool = True,
        deeply_inject_covariates: bool = True,
        use_batch_norm: Where = "both",
        use_layer_norm: Where = "none",
        log_variational: bool = True,
        var_activation: VarianceActivation = "exp",
        batch_representation: BatchRepresentation = "one-hot",
        batch_embedding_kwargs: Mapping[str, int] | None = None,
        encoder_branches: bool = True,
        background_deviation: Literal["exp", "softplus"] = "exp",
        relative_counts: bool = False,
        seed: int | None = None,
    ) -> None:
        make_likelihood(gene_likelihood, "gene_likelihood", needs_dispersion=True)
        if empirical_protein_background_prior is not None:
            check_flag("empirical_protein_background_prior", empirical_protein_background_prior)
        check_flag("override_missing_proteins", override_missing_proteins)
        var_activation = activation_name(var_activation)
        self._make((adata,), seed, locals())
        if override_missing_proteins and not is_minified(self.adata):
            refuse_gaps(self.adata, self.schema.proteins)  # type: ignore[arg-type]

    # ---- making a model ----------------------------------------------------------------------------------------------

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        protein_expression_obsm_key: str,
        protein_names_uns_key: str | None = None,
        batch_key: str | None = None,
        layer: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        labels_key: str | None = None,
        mask_var: str | Sequence[str] | np.ndarray | None = None,
        non_integer: NonInteger = "warn",
    ) -> None:
        """Declares which parts of `adata` the model reads, and checks them.

        One entry is written to ``adata.uns["_scvi"]``; nothing else of `adata` is changed.

        Parameters
        ----------
        protein_expression_obsm_key
            Key of ``adata.obsm`` with the raw counts of proteins: a table whose columns are their names, or an array.
        protein_names_uns_key
            Key of ``adata.uns`` with the names, for an array; None numbers them.
        batch_key, layer, size_factor_key, categorical_covariate_keys, continuous_covariate_keys, labels_key, mask_var
            As in :meth:`scvi.SCVI.setup_anndata`; labels serve label-wise dispersions.
        non_integer
            As in :meth:`scvi.SCVI.setup_anndata`, for counts of genes and of proteins.
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
            proteins=ProteinPlace(protein_expression_obsm_key, protein_names_uns_key),
        )

    @classmethod
    def setup_mudata(
        cls,
        mdata: Any,
        rna_layer: str | None = None,
        protein_layer: str | None = None,
        batch_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: Sequence[str] | None = None,
        continuous_covariate_keys: Sequence[str] | None = None,
        labels_key: str | None = None,
        modalities: Mapping[str, str] | None = None,
        non_integer: NonInteger = "warn",
    ) -> None:
        """As :meth:`setup_anndata` for a MuData, whose RNA and proteins are modalities of their own.

        Parameters
        ----------
        rna_layer, protein_layer
            Layers of the two modalities with the raw counts; None: their X.
        batch_key, size_factor_key, categorical_covariate_keys, continuous_covariate_keys, labels_key
            Columns of the `obs` of a modality: of the RNA unless `modalities` says otherwise, and where it has none of
            that name, of ``mdata.obs``.
        modalities
            Names of the modalities for 'rna_layer' and 'protein_layer' (by default 'rna' and 'protein'), and for each
            of the arguments above whose columns are in another one.
        non_integer
            As in :meth:`setup_anndata`.
        """
        if not is_multimodal(mdata):
            raise TypeError(f"mdata is a {type(mdata).__name__}; pass a MuData, or an AnnData to setup_anndata")
        keys: dict[str, Any] = {
            "batch_key": batch_key,
            "size_factor_key": size_factor_key,
            "categorical_covariate_keys": categorical_covariate_keys,
            "continuous_covariate_keys": continuous_covariate_keys,
            "labels_key": labels_key,
        }
        place = ProteinPlace(OBSM_KEY, modalities=places_of(modalities or {}, keys), layer=protein_layer)
        adata = joined_modalities(mdata, place)
        order_of(mdata, adata)  # refuses cells that are not those of mdata
        setup = declare(adata, layer=rna_layer, **keys, proteins=place, non_integer=non_integer)
        register(mdata, cls.__name__, setup)

    @classmethod
    def _make_networks(cls, schemas: Sequence[Schema], options: Mapping[str, Any]) -> TOTALVAE:
        (schema,) = schemas
        proteins = _proteins_of(schema, options)
        return TOTALVAE(
            schema.n_genes,
            len(proteins.names),
            protein_batch_mask=None if np.all(proteins.measured) else [np.array(row) for row in proteins.measured],
            **network_options(schema, options, _NAMES),
        )

    @classmethod
    def _make_cells(
        cls,
        schemas: Sequence[Schema],
        options: Mapping[str, Any],
        adatas: Sequence[AnnData | None],
        digests: Sequence[np.ndarray | None] | None = None,
    ) -> tuple[Cells, ...]:
        (schema,) = schemas
        schema = replace(schema, proteins=_proteins_of(schema, options))
        return super()._make_cells((schema,), options, adatas, digests)

    def _start(self, data_sets: Sequence[CellData], train_cells: Sequence[np.ndarray], ranks: Ranks) -> None:
        (data,), (cells,) = data_sets, train_cells
        background = None
        if self.options["empirical_protein_background_prior"] is not False:
            measured = np.array(self.schema.proteins.measured)  # type: ignore[union-attr]
            background = background_moments(data.proteins[cells], data.batch[cells], measured)  # type: ignore[index]
        initialise(self.module, data, cells, background, ranks)

    train = train_by(
        ProteinPlan,
        """Fits the model; see :meth:`scvi.SCVI.train` for what is not listed here.

        Parameters
        ----------
        hide_proteins
            Where a batch lacks proteins that others have: the share of the cells of a step that the encoder is shown as
            if they came from such a batch. It learns to say from the genes what the proteins would, which is what
            imputing them asks for. All that was measured stays in the likelihood. The fit of a query that is mapped
            hides none.
        """,
    )

    def _fit(self, given: Mapping[str, Any]) -> None:
        if self._scope is not None:  # what encodes the cells of the reference stays as it is
            given = {**given, "hide_proteins": 0.0}
        super()._fit(given)

    # ---- questions ---------------------------------------------------------------------------------------------------

    get_latent_representation = questions.get_latent_representation
    get_batch_representation = questions.get_batch_representation
    get_latent_library_size = questions.get_latent_library_size
    get_normalized_expression = protein_questions.get_normalized_expression
    get_protein_foreground_probability = protein_questions.get_protein_foreground_probability
    get_likelihood_parameters = questions.get_likelihood_parameters
    get_feature_correlation_matrix = protein_questions.get_feature_correlation_matrix
    get_importance_weights = predictive_questions.get_importance_weights
    posterior_predictive_sample = protein_questions.posterior_predictive_sample
    get_elbo = questions.get_elbo
    get_protein_background_mean = protein_questions.get_protein_background_mean
    get_reconstruction_error = protein_questions.get_reconstruction_error
    get_marginal_ll = questions.get_marginal_ll
    differential_expression = protein_differential.differential_expression
    get_aggregated_posterior = populations.get_aggregated_posterior
    differential_abundance = populations.differential_abundance
    check = checks.check
    report = reporting.report

    load_query_data = query_mapping.load_query_data
    prepare_query_anndata = classmethod(query_mapping.prepare_query_anndata)
    prepare_query_mudata = classmethod(query_mapping.prepare_query_mudata)
    minify_adata = minify.minify_adata
    minify_mudata = minify.minify_mudata
    minified_data_type = property(minify.minified_data_type)

    @property
    def mdata(self) -> Any:
        """The MuData the model was made with, or None; `adata` is what it reads of it."""
        return self._cells.given if is_multimodal(self._cells.given) else None


def _proteins_of(schema: Schema, options: Mapping[str, Any]) -> Any:
    """The proteins of a schema, all taken as measured where the options say so."""
    proteins = schema.proteins
    if proteins is None:
        raise ValueError("this set-up has no proteins: call TOTALVI.setup_anndata with protein_expression_obsm_key")
    if not options["override_missing_proteins"]:
        return proteins
    return replace(proteins, measured=tuple(tuple(True for _ in row) for row in proteins.measured))

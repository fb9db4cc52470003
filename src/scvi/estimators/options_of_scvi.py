"""The options of scVI, which other models of counts have as well."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from anndata import AnnData

from scvi.estimators.base import Estimator
from scvi.models.architecture import BatchRepresentation, ScaleActivation, Where
from scvi.models.gaussian import VarianceActivation, activation_name
from scvi.models.likelihood import LikelihoodName, make_likelihood


class WithOptionsOfSCVI(Estimator):
    """An estimator that is made with the options of scVI; each class explains them."""

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
        seed: int | None = None,
    ) -> None:
        make_likelihood(gene_likelihood, "gene_likelihood")
        var_activation = activation_name(var_activation)
        self._make((adata,), seed, locals())

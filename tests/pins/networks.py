"""Networks in all their options, whose names of weights are a file format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from scvi.models import JVAE, LDVAE, SCANVI, TOTALVI, VAE, VAEC, AutoZIVAE, Classifier
from scvi.models.modules import (
    Decoder,
    DecoderSCVI,
    DecoderTOTALVI,
    Encoder,
    EncoderTOTALVI,
    FCLayers,
    LinearDecoderSCVI,
    MultiDecoder,
    MultiEncoder,
)

G, P, K, C = 7, 3, 2, 4  # genes, proteins, batches, labels
COVARIATES: dict[str, Any] = {"n_continuous_cov": 1, "n_cats_per_cov": [2, 3]}
SEEN = COVARIATES | {"encode_covariates": True}
JOINT: dict[str, Any] = {"n_latent": 3, "dim_hidden_encoder": 5, "dim_hidden_decoder_shared": 6, "n_batch": K}


def of_counts(cls: type[nn.Module], **options: Any) -> Callable[[], nn.Module]:
    return lambda: cls(G, n_batch=K, n_labels=C, n_hidden=5, n_latent=3, **options)


def of_proteins(**options: Any) -> Callable[[], nn.Module]:
    return lambda: TOTALVI(G, P, n_batch=K, n_labels=C, n_hidden=5, n_latent=3, **options)


def joint(losses: list[str], **options: Any) -> Callable[[], nn.Module]:
    genes = [slice(None), np.array([3, 0, 5])]
    return lambda: JVAE([G, 3], G, genes, losses, [True, False], **JOINT, **options)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "VAE": of_counts(VAE),
    "VAE two layers by batch": of_counts(VAE, n_layers=2, dispersion="gene-batch", reconstruction_loss="nb"),
    "VAE by label, simplex": of_counts(VAE, dispersion="gene-label", latent_distribution="ln"),
    "VAE by cell": of_counts(VAE, dispersion="gene-cell"),
    "VAE observed library, covariates": of_counts(VAE, use_observed_lib_size=True, **COVARIATES),
    "VAE encoded covariates, poisson": of_counts(VAE, reconstruction_loss="poisson", **SEEN),
    "VAE layer norm": of_counts(VAE, n_layers=2, use_batch_norm="none", use_layer_norm="both", **SEEN),
    "VAE both norms": of_counts(VAE, use_batch_norm="encoder", use_layer_norm="both"),
    "VAE shallow": of_counts(VAE, n_layers=2, deeply_inject_covariates=False, **SEEN),
    "VAE embedding": of_counts(
        VAE, batch_representation="embedding", batch_embedding_kwargs={"embedding_dim": 4}, **SEEN
    ),
    "LDVAE": of_counts(LDVAE),
    "LDVAE no norm": of_counts(LDVAE, use_batch_norm="none", use_layer_norm="encoder"),
    "LDVAE plain": of_counts(LDVAE, use_batch_norm=False, bias=True, use_observed_lib_size=True, **SEEN),
    "AutoZIVAE": of_counts(AutoZIVAE),
    "AutoZIVAE learned priors by batch": of_counts(
        AutoZIVAE, alpha_prior=None, beta_prior=None, zero_inflation="gene-batch"
    ),
    "AutoZIVAE by label": of_counts(AutoZIVAE, zero_inflation="gene-label", dispersion="gene-label"),
    "AutoZIVAE by cell": of_counts(AutoZIVAE, zero_inflation="gene-cell", use_observed_lib_size=True),
    "VAEC": of_counts(VAEC),
    "VAEC covariates": of_counts(VAEC, use_observed_lib_size=True, latent_distribution="ln", **SEEN),
    "SCANVI": of_counts(SCANVI),
    "SCANVI groups": of_counts(SCANVI, labels_groups=[0, 0, 1, 1], use_labels_groups=True),
    "SCANVI covariates": of_counts(SCANVI, use_observed_lib_size=True, n_layers=2, **SEEN),
    "SCANVI another classifier": of_counts(SCANVI, classifier_parameters={"n_hidden": 6, "n_layers": 2}),
    "TOTALVI": of_proteins(),
    "TOTALVI simple encoder": of_proteins(encoder_batch=False, latent_distribution="normal", n_layers_decoder=2),
    "TOTALVI by batch, covariates": of_proteins(
        gene_dispersion="gene-batch", protein_dispersion="protein-batch", reconstruction_loss_gene="zinb", **COVARIATES
    ),
    "TOTALVI by label, observed library": of_proteins(
        gene_dispersion="gene-label", protein_dispersion="protein-label", use_observed_lib_size=True, n_layers_encoder=2
    ),
    "SCANVI layer norm": of_counts(SCANVI, use_batch_norm="none", use_layer_norm="both"),
    "TOTALVI layer norm": of_proteins(
        use_batch_norm="none", use_layer_norm="both", deeply_inject_covariates=False, n_layers_encoder=2
    ),
    "TOTALVI embedding": of_proteins(batch_representation="embedding"),
    "TOTALVI without branches": of_proteins(
        encoder_branches=False, background_deviation="softplus", relative_counts=True, n_continuous_cov=1
    ),
    "TOTALVI missing proteins": of_proteins(
        protein_batch_mask=[np.array([True, True, False]), np.array([True, True, True])]
    ),
    "JVAE": joint(["zinb", "nb"]),
    "JVAE layers": joint(["nb", "poisson"], n_layers_decoder_individual=1, n_layers_decoder_shared=2),
    "JVAE by label": joint(["zinb", "zinb"], dispersion="gene-label", n_labels=C),
    "Classifier": lambda: Classifier(G, 5, C, 2),
    "Classifier logits": lambda: Classifier(G, 5, C, logits=True),
    "FCLayers": lambda: FCLayers(G, 4, [K, 1, C], n_layers=2, n_hidden=5),
    "FCLayers plain": lambda: FCLayers(G, 4, use_batch_norm=False, use_relu=False, bias=False),
    "Encoder": lambda: Encoder(G, 3, [K], n_layers=2, n_hidden=5),
    "Encoder simplex": lambda: Encoder(G, 3, n_hidden=5, distribution="ln"),
    "DecoderSCVI": lambda: DecoderSCVI(3, G, [K], n_layers=2, n_hidden=5),
    "LinearDecoderSCVI": lambda: LinearDecoderSCVI(3, G, [K]),
    "LinearDecoderSCVI plain": lambda: LinearDecoderSCVI(3, G, use_batch_norm=False, bias=True),
    "Decoder": lambda: Decoder(3, G, [K], n_hidden=5),
    "MultiEncoder": lambda: MultiEncoder(2, [G, 4], 3, n_hidden=5, n_cat_list=[K]),
    "MultiDecoder": lambda: MultiDecoder(3, G, 5, 6, n_cat_list=[K]),
    "MultiDecoder one layer": lambda: MultiDecoder(3, G, 5, 6, n_layers_conditioned=0, n_layers_shared=1),
    "EncoderTOTALVI": lambda: EncoderTOTALVI(G, 3, [K], n_hidden=5),
    "DecoderTOTALVI": lambda: DecoderTOTALVI(3, G, P, [K], n_layers=2, n_hidden=5),
}


def weights(name: str) -> list[str]:
    """Names, shapes and kinds of what a state dict holds, in its order."""
    state = NETWORKS[name]().state_dict()
    return [f"{key} {list(value.shape)} {str(value.dtype).removeprefix('torch.')}" for key, value in state.items()]

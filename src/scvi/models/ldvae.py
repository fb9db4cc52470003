"""Linearly decoded scVI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import numpy as np
import torch
from torch import nn

from scvi._checks import check_flag, one_of_two
from scvi.models.architecture import PLACES, OtherOptions, Where
from scvi.models.modules import LinearDecoderSCVI
from scvi.models.vae import VAE

__all__ = ["LDVAE"]


class LDVAE(VAE):
    r"""scVI with a linear decoder (Svensson et al., Bioinformatics 2020)::

        z_n    ~ Normal(0, I)
        rho_n  = softmax(norm(W [z_n, s_n]))           norm is batch norm, if used
        x_ng   ~ NB(exp(l_n) rho_ng, theta_g)

    so that each column of W tells which genes a latent dimension moves. Parameters as in :class:`scvi.models.VAE`;
    `n_layers_encoder` (in 2019 `n_layers`) is the depth of the encoder, `bias` is an option of the decoder, and so is
    `use_batch_norm` where it is True or False: the encoder has batch norm then. Layer norm is no linear map: it is for
    the encoder only.
    """

    def __init__(
        self,
        n_input: int,
        n_batch: int = 0,
        n_labels: int = 0,
        n_hidden: int = 128,
        n_latent: int = 10,
        n_layers_encoder: int = 1,
        dropout_rate: float = 0.1,
        dispersion: str = "gene",
        log_variational: bool = True,
        reconstruction_loss: str = "nb",
        use_batch_norm: bool | Where = True,
        bias: bool = False,
        latent_distribution: str = "normal",
        *,
        n_layers: int | None = None,
        use_observed_lib_size: bool = False,
        n_continuous_cov: int = 0,
        n_cats_per_cov: Sequence[int] | None = None,
        encode_covariates: bool = False,
        **others: Unpack[OtherOptions],
    ) -> None:
        if dispersion == "gene-cell":
            raise ValueError(
                "dispersion='gene-cell' needs a decoder that gives it; LDVAE has 'gene', 'gene-batch', 'gene-label'"
            )
        layer_norm = others.get("use_layer_norm", "none")
        if layer_norm in ("decoder", "both"):
            raise ValueError(
                f"use_layer_norm={layer_norm!r}: layer norm is not linear, and this decoder is; choose 'encoder' or "
                "'none'"
            )
        self._bias = check_flag("bias", bias)
        super().__init__(
            n_input,
            n_batch,
            n_labels,
            n_hidden,
            n_latent,
            one_of_two("n_layers_encoder", n_layers_encoder, "n_layers", n_layers, default=1),
            dropout_rate,
            dispersion,
            log_variational,
            reconstruction_loss,
            latent_distribution,
            use_observed_lib_size=use_observed_lib_size,
            n_continuous_cov=n_continuous_cov,
            n_cats_per_cov=n_cats_per_cov,
            encode_covariates=encode_covariates,
            use_batch_norm=_places(use_batch_norm),
            **others,
        )

    def make_decoder(self, n_input: int, n_layers: int, n_hidden: int, covariates: dict[str, Any]) -> LinearDecoderSCVI:
        """One linear map for each head."""
        use_batch_norm = self.architecture.norms("decoder")["use_batch_norm"]
        return LinearDecoderSCVI(self.n_latent, n_input, use_batch_norm=use_batch_norm, bias=self._bias, **covariates)

    @torch.no_grad()
    def get_loadings(self) -> np.ndarray:
        """(g, d) weight of every latent dimension on every gene, in log-frequency units.

        With batch norm the weights are those after normalisation with the running variance.
        """
        linear, norm = self.decoder.factor_regressor.fc_layers[0][:2]  # type: ignore[union-attr, index]
        loadings = linear.weight
        if isinstance(norm, nn.BatchNorm1d):
            deviation = torch.sqrt(norm.running_var + norm.eps)  # type: ignore[arg-type, operator]
            loadings = (norm.weight / deviation)[:, None] * loadings
        return loadings[:, : self.n_latent].cpu().numpy().copy()  # not a view of the weights


def _places(use_batch_norm: bool | Where) -> Where:
    """Where True and False, which speak of the decoder alone, put batch norm."""
    if isinstance(use_batch_norm, str) and use_batch_norm in PLACES:
        return use_batch_norm
    if not isinstance(use_batch_norm, (bool, np.bool_)):
        places = ", ".join(map(repr, PLACES))
        raise ValueError(f"use_batch_norm={use_batch_norm!r} is not one of True, False, {places}")
    return "both" if use_batch_norm else "encoder"

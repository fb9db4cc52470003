"""scVI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from scvi._checks import check_choice, check_flag, check_rates, check_sizes
from scvi.kernels import Counts
from scvi.minibatch import Minibatch
from scvi.models import methods_2020
from scvi.models.architecture import Architecture, ArchitectureOptions
from scvi.models.base import Elbo, Latent, Model, Moments, batch_codes
from scvi.models.decoded import Decoded, GeneCounts, of_any_sum
from scvi.models.likelihood import make_dispersion, make_likelihood
from scvi.models.modules import DecoderSCVI, Encoder, LinearDecoderSCVI

__all__ = ["VAE"]


class VAE(Model):
    r"""scVI (Lopez et al., Nature Methods 2018)::

        z_n    ~ Normal(0, I)                          cell state
        l_n    ~ Normal(mean[s_n], var[s_n])           log library size
        rho_n  = f(z_n, s_n)                           expected frequencies, sum to 1
        pi_n   = h(z_n, s_n)                           dropout logits
        x_ng   ~ ZINB(exp(l_n) rho_ng, theta_g, pi_ng)

    approximated by q(z_n | x_n) q(l_n | x_n). With ``latent_distribution='ln'`` f and h see softmax(z_n).

    Parameters
    ----------
    n_input
        Number of genes g.
    n_batch, n_labels
        Numbers of batches and labels; 0 and 1 stand for none.
    n_hidden, n_latent, n_layers, dropout_rate
        Width, latent dimension, depth and dropout rate of the networks.
    dispersion
        'gene', 'gene-batch', 'gene-label' or 'gene-cell'.
    log_variational
        Encode log(1 + x) instead of x.
    reconstruction_loss
        'zinb', 'nb' or 'poisson'.
    latent_distribution
        'normal' or 'ln'.
    use_observed_lib_size
        Take the cell's total (or its given size factor) as its library size; there is no l_encoder then.
    n_continuous_cov, n_cats_per_cov
        Further covariates, which enter wherever the batch enters.
    encode_covariates
        Show batch and covariates to the encoder of z, too.
    **architecture
        Options of :class:`scvi.models.architecture.Architecture`: norms, depth of covariates, what makes
        variances, what is seen of the batch.
    """

    px_r: nn.Parameter  # log inverse dispersion, (g,) or (g, k); None where the decoder gives it

    def __init__(
        self,
        n_input: int,
        n_batch: int = 0,
        n_labels: int = 0,
        n_hidden: int = 128,
        n_latent: int = 10,
        n_layers: int = 1,
        dropout_rate: float = 0.1,
        dispersion: str = "gene",
        log_variational: bool = True,
        reconstruction_loss: str = "zinb",
        latent_distribution: str = "normal",
        *,
        use_observed_lib_size: bool = False,
        n_continuous_cov: int = 0,
        n_cats_per_cov: Sequence[int] | None = None,
        encode_covariates: bool = False,
        **architecture: Unpack[ArchitectureOptions],
    ) -> None:
        super().__init__()
        self.architecture = Architecture(**architecture)
        check_flag("log_variational", log_variational)
        check_sizes(1, n_input=n_input, n_hidden=n_hidden, n_latent=n_latent, n_layers=n_layers)
        check_sizes(0, n_batch=n_batch, n_labels=n_labels, n_continuous_cov=n_continuous_cov)
        check_rates(dropout_rate=dropout_rate)
        check_choice("latent_distribution", latent_distribution, ("normal", "ln"))
        check_flag("use_observed_lib_size", use_observed_lib_size)
        check_flag("encode_covariates", encode_covariates)
        check_sizes(0, **{f"n_cats_per_cov[{i}]": size for i, size in enumerate(n_cats_per_cov or ())})
        self.n_input, self.n_batch, self.n_labels, self.n_latent = n_input, n_batch, n_labels, n_latent
        self.dispersion, self.reconstruction_loss = dispersion, reconstruction_loss
        self.log_variational, self.latent_distribution = log_variational, latent_distribution
        self.use_observed_lib_size, self.encode_covariates = use_observed_lib_size, encode_covariates
        covariates = self.architecture.covariates(n_batch, n_continuous_cov, n_cats_per_cov)
        self.n_cat_list, self.n_continuous_cov = covariates["n_cat_list"], n_continuous_cov
        self.likelihood = make_likelihood(reconstruction_loss)
        self.dispersion_of = make_dispersion(dispersion, n_input, n_batch, n_labels)
        self.register_parameter("px_r", self.dispersion_of.table())
        sizes: dict[str, Any] = {"n_hidden": n_hidden, "dropout_rate": dropout_rate}
        self.z_encoder = Encoder(
            n_input,
            n_latent,
            n_layers=n_layers,
            distribution=latent_distribution,
            **sizes,
            **(covariates if encode_covariates else {}),
            **self.architecture.encoder,
        )
        if not use_observed_lib_size:
            self.l_encoder = Encoder(n_input, 1, n_layers=1, **sizes, **self.architecture.encoder)
        self.decoder: DecoderSCVI | LinearDecoderSCVI = self.make_decoder(n_input, n_layers, n_hidden, covariates)
        if self.architecture.batch_representation == "embedding":
            self.embeddings_dict = self.architecture.embeddings(n_batch)

    def make_decoder(
        self, n_input: int, n_layers: int, n_hidden: int, covariates: dict[str, Any]
    ) -> DecoderSCVI | LinearDecoderSCVI:
        """The network behind f and h."""
        layers = self.architecture.layers("decoder")
        return DecoderSCVI(self.n_latent, n_input, n_layers=n_layers, n_hidden=n_hidden, **covariates, **layers)

    # ---- the model -------------------------------------------------------------------------------------------------

    def generative(
        self, z: Tensor, log_size: Tensor, mb: Minibatch, batch: int | None = None, raw: bool = False
    ) -> Decoded:
        """p(x | z, l); with `raw` as the decoder says it, for :func:`methods_2020.inference`.

        That is with dropout logits also where the likelihood has no use for them.
        """
        codes = batch_codes(mb, batch)
        logits, decoded_r, dropout = self.decoder.heads(
            self.transformed(z),
            *self.categories(mb, codes),
            cont=self.columns(mb, codes),
            r=self.dispersion_of.per_cell,
            dropout=raw or self.likelihood.has_dropout,
        )
        log_theta = self.dispersion_of.log_theta(self.px_r, decoded_r, codes, mb.labels)
        if self.architecture.scale_activation == "softplus":
            logits, log_size = of_any_sum(logits, log_size)
        return Decoded(genes=GeneCounts(self.likelihood, logits, log_size, log_theta, dropout))

    def variational(self, mb: Minibatch) -> Latent:
        """q(z | x) and q(l | x)."""
        x = self.encoder_input(mb)
        columns = self.columns(mb, mb.batch) if self.encode_covariates else None
        qz = self.z_encoder.encode(x, *self.encoder_categories(mb), cont=columns)
        return Latent(qz, self.size_posterior(x))

    def size_posterior(self, x: Counts) -> Normal | None:
        """q(l | x) from what the encoders see, (n, g); None where the library size is observed."""
        return None if self.use_observed_lib_size else self.l_encoder.encode(x)

    def loss(self, mb: Minibatch, generator: torch.Generator | None = None) -> Elbo:
        """The negative ELBO, one draw a cell; KL(z) is annealed, KL(l) is not."""
        z, log_size, kl = self.variational(mb).draw_with_kl(mb, generator)
        return Elbo(self.generative(z, log_size, mb).nll(mb, 1 / mb.n_whole), kl)

    def start(self, moments: Moments) -> None:
        """Starts the decoder at the data's mean frequencies, and the dispersion."""
        moments.start_genes(self.decoder.scale_bias(), self.px_r)

    def encoder_input(self, mb: Minibatch) -> Counts:
        """(n, g) what the encoders see of the counts."""
        return mb.counts.log1p() if self.log_variational else mb.counts

    # ---- 2020 ------------------------------------------------------------------------------------------------------

    forward = methods_2020.forward
    inference = methods_2020.inference
    get_reconstruction_loss = methods_2020.get_reconstruction_loss
    get_latents = methods_2020.get_latents
    sample_from_posterior_z = methods_2020.sample_from_posterior_z
    sample_from_posterior_l = methods_2020.sample_from_posterior_l
    get_sample_scale = methods_2020.get_sample_scale
    get_sample_rate = methods_2020.get_sample_rate
    scale_from_z = methods_2020.scale_from_z


def __getattr__(name: str) -> Any:
    """LDVAE, which was in this module in 2020 and whose own one builds upon it."""
    if name == "LDVAE":
        from scvi.models.ldvae import LDVAE

        return LDVAE
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""scVI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from scvi._checks import check_flag
from scvi.kernels import Counts
from scvi.minibatch import Minibatch
from scvi.models.base import Elbo, Model
from scvi.models.gaussian import draw, draw_with_kl
from scvi.models.likelihood import Decoded, make_dispersion, make_likelihood
from scvi.models.modules import DecoderSCVI, Encoder, LinearDecoderSCVI
from scvi.models.utils import batch_code, check_choice, check_draws, check_rate, check_sizes

__all__ = ["VAE", "Variational"]

_LIBRARY_OF_SCALE_FROM_Z = 4.0  # the constant that 2020's scale_from_z decodes with; frequencies do not depend on it


class Variational(NamedTuple):
    """q(z | x), before any transformation, and q(l | x); `l` is None where the library size is observed."""

    z: Normal
    l: Normal | None

    def summary(self, mb: Minibatch) -> dict[str, Tensor]:
        """All that questions about latent variables and expression need of these cells, (n, .) by name.

        Means and variances, and `log_library` where that is observed.
        """
        summary = {"qz_mean": self.z.loc, "qz_var": self.z.scale.square()}
        if self.l is None:
            return summary | {"log_library": observed_log_library(mb)}
        return summary | {"ql_mean": self.l.loc, "ql_var": self.l.scale.square()}

    @classmethod
    def of(cls, summary: Mapping[str, Tensor]) -> Variational:
        """The inverse of :meth:`summary`."""

        def normal(name: str) -> Normal:
            return Normal(summary[f"{name}_mean"], summary[f"{name}_var"].sqrt(), validate_args=False)

        return cls(normal("qz"), normal("ql") if "ql_mean" in summary else None)


class VAE(Model):
    r"""scVI (Lopez et al., Nature Methods 2018).

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
    """

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
    ) -> None:
        super().__init__()
        check_sizes(1, n_input=n_input, n_hidden=n_hidden, n_latent=n_latent, n_layers=n_layers)
        check_sizes(0, n_batch=n_batch, n_labels=n_labels, n_continuous_cov=n_continuous_cov)
        check_rate("dropout_rate", dropout_rate)
        check_choice("latent_distribution", latent_distribution, ("normal", "ln"))
        check_flag("use_observed_lib_size", use_observed_lib_size)
        check_flag("encode_covariates", encode_covariates)
        for position, size in enumerate(n_cats_per_cov or ()):
            check_sizes(0, **{f"n_cats_per_cov[{position}]": size})
        self.n_input, self.n_batch, self.n_labels, self.n_latent = n_input, n_batch, n_labels, n_latent
        self.dispersion = dispersion
        self.log_variational = log_variational
        self.reconstruction_loss = reconstruction_loss
        self.latent_distribution = latent_distribution
        self.use_observed_lib_size = use_observed_lib_size
        self.encode_covariates = encode_covariates
        self.likelihood = make_likelihood(reconstruction_loss)
        self.dispersion_of = make_dispersion(dispersion)
        shape = self.dispersion_of.shape(n_input, n_batch, n_labels)
        if shape is not None:
            self.px_r = nn.Parameter(torch.randn(shape))
        self.n_cat_list = [n_batch, *(n_cats_per_cov or [])]
        self.n_continuous_cov = n_continuous_cov
        covariates: dict[str, Any] = {"n_cat_list": self.n_cat_list, "n_cont": n_continuous_cov}
        self.z_encoder = Encoder(
            n_input,
            n_latent,
            n_layers=n_layers,
            n_hidden=n_hidden,
            dropout_rate=dropout_rate,
            distribution=latent_distribution,
            **(covariates if encode_covariates else {}),
        )
        if not use_observed_lib_size:
            self.l_encoder = Encoder(n_input, 1, n_layers=1, n_hidden=n_hidden, dropout_rate=dropout_rate)
        self.decoder: DecoderSCVI | LinearDecoderSCVI = self.make_decoder(n_input, n_layers, n_hidden, covariates)

    def make_decoder(
        self, n_input: int, n_layers: int, n_hidden: int, covariates: dict[str, Any]
    ) -> DecoderSCVI | LinearDecoderSCVI:
        """The network behind f and h."""
        return DecoderSCVI(self.n_latent, n_input, n_layers=n_layers, n_hidden=n_hidden, **covariates)

    # ---- the model -------------------------------------------------------------------------------------------------

    def variational(self, mb: Minibatch) -> Variational:
        """q(z | x) and q(l | x), as it was kept for cells whose counts were dropped."""
        if mb.kept is not None:
            return Variational.of(mb.kept)
        x = self._encoder_input(mb)
        qz = self.z_encoder.encode(x, *self._categories(mb, mb.batch), cont=mb.continuous)
        return Variational(qz, None if self.use_observed_lib_size else self.l_encoder.encode(x))

    def generative(
        self,
        z: Tensor,
        log_library: Tensor,
        mb: Minibatch,
        transform_batch: int | None = None,
        every_head: bool = False,
    ) -> Decoded:
        """p(x | z, l): z (..., n, d) before its transformation, log_library (..., n, 1).

        `every_head` computes dropout logits also where the likelihood has no use for them.
        """
        batch = mb.batch
        if transform_batch is not None:
            batch = torch.full((len(mb), 1), transform_batch, device=z.device)
        logits, decoded_r, dropout = self.decoder.heads(
            self.z_encoder.z_transformation(z),
            *self._categories(mb, batch),
            cont=mb.continuous,
            r=self.dispersion_of.per_cell,
            dropout=every_head or self.likelihood.has_dropout,
        )
        px_r = None if self.dispersion_of.per_cell else self.px_r
        log_theta = self.dispersion_of.log_theta(px_r, decoded_r, batch, mb.labels)  # type: ignore[arg-type]
        return Decoded(logits, log_library, log_theta, dropout)

    def loss(self, mb: Minibatch, generator: torch.Generator | None = None) -> Elbo:
        """The negative ELBO, one draw a cell; KL(z) is annealed, KL(l) is not."""
        z, log_library, kl = self.draw_latent(mb, generator)
        decoded = self.generative(z, log_library, mb)
        return Elbo({"genes": self.likelihood.nll(mb.counts, decoded, weight=1 / len(mb))}, kl)

    def draw_latent(
        self, mb: Minibatch, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """One draw of z (n, d) and of the log library size (n, 1) from their posteriors, and KL divergences (n,)."""
        q = self.variational(mb)
        log_library = observed_log_library(mb) if q.l is None else draw(q.l, generator=generator)
        z, kl_z = draw_with_kl(q.z, generator)
        kl = {"z": kl_z}
        if q.l is not None:
            kl["l"] = kl_divergence(q.l, library_prior(mb)).sum(-1)
        return z, log_library, kl

    def importance_log_weights(
        self, mb: Minibatch, q: Variational, n_draws: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """log p(x, z, l) - log q(z, l | x) at draws from q; (s, n).

        z is the untransformed variable, with density N(0, I), so this holds for 'normal' and 'ln' alike.
        """
        z, log_library, log_weights = weighted_draws(mb, q, n_draws, generator)
        return log_weights - self.likelihood.nll(mb.counts, self.generative(z, log_library, mb))

    def initialise(self, frequencies: Tensor, log_theta: Tensor) -> None:
        """Start the decoder at the data's mean frequencies (g,) and the dispersion at `log_theta` (g,)."""
        with torch.no_grad():
            bias = self.decoder.scale_bias()
            if bias is not None:
                bias.copy_(frequencies.clamp(min=1e-8).log())
            if not self.dispersion_of.per_cell:
                self.px_r.copy_(log_theta if self.px_r.dim() == 1 else log_theta[:, None].expand_as(self.px_r))

    def check_fits(self, n_genes: int, n_batches: int, n_labels: int) -> None:
        """Refuses data of other sizes than the model was made for.

        Parameters
        ----------
        n_genes
            Genes of the data.
        n_batches, n_labels
            One more than the highest code of batches and labels. A model of one batch or none ignores the batch.
        """
        wrong = []
        if n_genes != self.n_input:
            wrong.append(f"n_input={self.n_input} for {n_genes} genes (nb_genes)")
        if n_batches > max(self.n_batch, 1) and (self.n_batch > 1 or self.has_parameters_by("batch")):
            wrong.append(f"n_batch={self.n_batch} for batch codes up to {n_batches - 1} (n_batches)")
        if n_labels > self.n_labels and self.has_parameters_by("label"):
            wrong.append(f"n_labels={self.n_labels} for label codes up to {n_labels - 1} (n_labels)")
        if wrong:
            raise ValueError(
                f"this {type(self).__name__} was made for other data, it has {', '.join(wrong)}: "
                "make one of the sizes of the data set, or keep the genes and cells that it was made for"
            )

    def has_parameters_by(self, category: str) -> bool:
        """Whether parameters of a gene differ between the codes of 'batch' or 'label'."""
        return self.dispersion == f"gene-{category}"

    def _encoder_input(self, mb: Minibatch) -> Counts:
        """(n, g) what the encoders see of the counts."""
        return mb.counts.log1p() if self.log_variational else mb.counts

    def _categories(self, mb: Minibatch, batch: Tensor | None) -> tuple[Tensor | None, ...]:
        others = () if mb.categorical is None else mb.categorical.split(1, dim=1)
        return batch, *others

    # ---- the 2020 methods ------------------------------------------------------------------------------------------

    def forward(
        self,
        x: Tensor,
        local_l_mean: Tensor,
        local_l_var: Tensor,
        batch_index: Tensor | None = None,
        y: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | float]:
        """(reconstruction loss + KL(l), KL(z), 0.0), the first two (n,)."""
        self._refuse_without_covariates("forward")
        mb = Minibatch(x, self._batch(x, batch_index), y, local_l_mean, local_l_var)  # type: ignore[arg-type]
        elbo = self.loss(mb)
        return elbo.fixed(), elbo.warmed(), elbo.global_kl

    def inference(
        self,
        x: Tensor,
        batch_index: Tensor | None = None,
        y: Tensor | None = None,
        n_samples: int = 1,
        transform_batch: int | None = None,
    ) -> dict[str, Tensor | None]:
        """Everything the model says of these cells.

        Parameters
        ----------
        x
            (n, g) counts.
        batch_index, y
            (n, 1) codes.
        n_samples
            Draws s; with more than one, all results but `px_r` get a leading axis s.
        transform_batch
            Decode as if all cells came from the batch of this code.

        Raises
        ------
        ValueError
            If `n_samples` is below 1, `transform_batch` no code of a batch, or the model has further covariates.

        Returns
        -------
        dict
            px_scale, px_r (inverse dispersion), px_rate, px_dropout (logits): (n, g); qz_m, qz_v, z: (n, d);
            ql_m, ql_v, library (the log library size): (n, 1).
        """
        check_draws("n_samples", n_samples)
        transform_batch = self._batch_code("transform_batch", transform_batch)
        self._refuse_without_covariates("inference")
        mb = Minibatch(x, self._batch(x, batch_index), y)  # type: ignore[arg-type]
        q = self.variational(mb)
        draws = None if n_samples == 1 else n_samples
        z = draw(q.z, draws)
        log_library = observed_log_library(mb) if q.l is None else draw(q.l, draws)
        if draws is not None:
            z, log_library = z.detach(), log_library.detach().expand(draws, -1, -1)
        decoded = self.decode_for_inference(z, log_library, mb, transform_batch)
        wide = (lambda t: t) if draws is None else (lambda t: t.expand(draws, *t.shape))
        return {
            "px_scale": decoded.scale,
            "px_r": decoded.theta,
            "px_rate": decoded.rate,
            "px_dropout": decoded.dropout_logits,
            "qz_m": wide(q.z.loc),
            "qz_v": wide(q.z.scale.square()),
            "z": self.z_encoder.z_transformation(z),
            "ql_m": None if q.l is None else wide(q.l.loc),
            "ql_v": None if q.l is None else wide(q.l.scale.square()),
            "library": log_library,
        }

    def decode_for_inference(
        self, z: Tensor, log_library: Tensor, mb: Minibatch, transform_batch: int | None
    ) -> Decoded:
        """What :meth:`inference` reports, also where the likelihood has no use for it."""
        return self.generative(z, log_library, mb, transform_batch, every_head=True)

    def get_reconstruction_loss(
        self, x: Tensor, px_rate: Tensor, px_r: Tensor, px_dropout: Tensor | None, **kwargs: Any
    ) -> Tensor:
        """(..., n) negative log-likelihood summed over genes, from expected counts and inverse dispersion.

        Evaluated in float64: for a large inverse dispersion its log-gamma functions cancel to nothing in float32.
        """
        dropout = None if px_dropout is None else px_dropout.double()
        density = self.likelihood.distribution(px_rate.double(), px_r.double(), dropout)
        return -density.log_prob(x.double()).sum(-1).to(px_rate.dtype)

    def get_latents(self, x: Tensor, y: Tensor | None = None) -> list[Tensor]:
        """[a draw of z]."""
        return [self.sample_from_posterior_z(x, y)]

    def sample_from_posterior_z(
        self, x: Tensor, y: Tensor | None = None, give_mean: bool = False, n_samples: int = 5000
    ) -> Tensor:
        """(n, d): a draw of z, or its mean (over `n_samples` draws where the latent distribution is 'ln')."""
        check_draws("n_samples", n_samples)
        self._refuse_to_encode("sample_from_posterior_z")
        q = self.variational(Minibatch(x, self._batch(x, None), y))  # type: ignore[arg-type]
        return self.latent_mean(q.z, n_samples) if give_mean else self.z_encoder.z_transformation(draw(q.z))

    def sample_from_posterior_l(self, x: Tensor) -> Tensor:
        """(n, 1) a draw of the log library size (the observed one where it is observed)."""
        self._refuse_to_encode("sample_from_posterior_l")
        mb = Minibatch(x, self._batch(x, None), None)  # type: ignore[arg-type]
        q = self.variational(mb)
        return observed_log_library(mb) if q.l is None else draw(q.l)

    def get_sample_scale(
        self,
        x: Tensor,
        batch_index: Tensor | None = None,
        y: Tensor | None = None,
        n_samples: int = 1,
        transform_batch: int | None = None,
    ) -> Tensor:
        """(n, g) expected frequencies; arguments as :meth:`inference`."""
        return self.inference(x, batch_index, y, n_samples, transform_batch)["px_scale"]  # type: ignore[return-value]

    def get_sample_rate(
        self,
        x: Tensor,
        batch_index: Tensor | None = None,
        y: Tensor | None = None,
        n_samples: int = 1,
        transform_batch: int | None = None,
    ) -> Tensor:
        """(n, g) expected counts; arguments as :meth:`inference`."""
        return self.inference(x, batch_index, y, n_samples, transform_batch)["px_rate"]  # type: ignore[return-value]

    def scale_from_z(self, sample_batch: Tensor, fixed_batch: int) -> Tensor:
        """(n, g) expected frequencies of these cells at a draw of z, decoded in batch `fixed_batch` (0.5 name)."""
        code = self._batch_code("fixed_batch", fixed_batch)
        self._refuse_to_encode("scale_from_z")
        self._refuse_without_covariates("scale_from_z")
        any_code = torch.zeros(sample_batch.shape[0], 1, dtype=torch.long, device=sample_batch.device)
        mb = Minibatch(sample_batch, any_code, any_code)
        z = draw(self.variational(mb).z)
        library = torch.full_like(z[:, :1], _LIBRARY_OF_SCALE_FROM_Z)
        return self.generative(z, library, mb, transform_batch=code).scale

    def _batch(self, x: Tensor, batch_index: Tensor | None) -> Tensor | None:
        """The given codes, or the only batch there is; None where there are several, which the networks refuse."""
        if batch_index is not None or self.n_batch > 1:
            return batch_index
        return torch.zeros(x.shape[0], 1, dtype=torch.long, device=x.device)

    def _batch_code(self, name: str, code: Any) -> int | None:
        return batch_code(name, code, self.n_batch)

    def _covariates(self) -> list[str]:
        """The options that brought covariates beside the batch."""
        options = {
            "n_continuous_cov": self.n_continuous_cov > 0,
            "n_cats_per_cov": any(size > 1 for size in self.n_cat_list[1:]),
        }
        return [name for name, is_used in options.items() if is_used]

    def _refuse_without_covariates(self, method: str) -> None:
        """For a 2020 method that has no argument for the covariates that the decoder needs."""
        if self._covariates():
            raise ValueError(
                f"{method} has no argument for the covariates of {' and '.join(self._covariates())}: "
                "use `variational` and `loss` with a Minibatch that holds them"
            )

    def _refuse_to_encode(self, method: str) -> None:
        """For a 2020 method that has no argument for the batch and the covariates that the encoder needs."""
        if self.encode_covariates and (self.n_batch > 1 or self._covariates()):
            raise ValueError(
                f"encode_covariates=True: {method} has no argument for the batch and covariates that the encoder "
                "sees; use `variational` with a Minibatch that holds them"
            )


def observed_log_library(mb: Minibatch) -> Tensor:
    """(n, 1) log of the given size factor or of the cell's total, which is taken as 1 for an empty cell."""
    if mb.log_size is not None:
        return mb.log_size
    return mb.totals.clamp(min=1).log()


def library_prior(mb: Minibatch) -> Normal:
    """p(l): Normal(mean, var) of the cell's batch, each (n, 1)."""
    if mb.l_mean is None or mb.l_var is None:
        raise ValueError("a latent library size needs its prior, l_mean and l_var; this minibatch has none")
    return Normal(mb.l_mean, mb.l_var.sqrt(), validate_args=False)


def weighted_draws(
    mb: Minibatch, q: Variational, n_draws: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws of z (s, n, d) and the log library size, and log p(z, l) - log q(z, l | x) at them (s, n)."""
    z = draw(q.z, n_draws, generator)
    prior = Normal(torch.zeros_like(q.z.loc), 1.0)
    log_weights = (prior.log_prob(z) - q.z.log_prob(z)).sum(-1)
    if q.l is None:
        return z, observed_log_library(mb), log_weights
    log_library = draw(q.l, n_draws, generator)
    log_weights = log_weights + (library_prior(mb).log_prob(log_library) - q.l.log_prob(log_library)).sum(-1)
    return z, log_library, log_weights


def __getattr__(name: str) -> Any:
    """LDVAE, which was in this module in 2020 and whose own one builds upon it."""
    if name == "LDVAE":
        from scvi.models.ldvae import LDVAE

        return LDVAE
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""AutoZI: which genes are zero-inflated?"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Beta, kl_divergence

from scvi._checks import check_choice, check_draws, check_rates, is_number
from scvi.kernels import mixed_dropout
from scvi.minibatch import Minibatch
from scvi.models import methods_2020
from scvi.models.base import Elbo, Latent, Moments, WeightedDraws, batch_codes
from scvi.models.decoded import Decoded
from scvi.models.distributions import NegativeBinomial
from scvi.models.one_hot import table_shape
from scvi.models.vae import VAE

__all__ = ["AutoZIVAE"]

_LEAD = 0.25  # of the posterior's logits over those of the prior at the start; measured, see docs/models/autozi.md
_PRIORS = ("alpha_prior_logit", "beta_prior_logit")


class AutoZIVAE(VAE):
    r"""AutoZI (Clivio et al., Machine Learning in Computational Biology 2019)::

        delta_g ~ Beta(alpha, beta)                       1: no zero inflation of gene g
        z_n, l_n, rho_n, theta_g                          as in scVI
        pi_ng   = m + (1 - m) sigmoid(h(z_n, s_n))        dropout probability, at least m
        x_ng    ~ delta_g NB(exp(l_n) rho_ng, theta_g) + (1 - delta_g) ZINB(exp(l_n) rho_ng, theta_g, pi_ng)
                = ZINB(exp(l_n) rho_ng, theta_g, (1 - delta_g) pi_ng)

    approximated by q(z_n | x_n) q(l_n | x_n) and one Beta(alpha_g, beta_g) a gene, whose parameters are in (0, 1).
    Training draws delta for each minibatch. A question about cells (evaluation mode) integrates it out, which is exact:
    the density of a count is linear in delta, so it is the one at the mean alpha_g / (alpha_g + beta_g).

    With ``zero_inflation='gene-cell'`` each entry has a delta_ng of its own. It is integrated out in training, too, and
    its posterior, in closed form given z_n, is a mixture of Beta(alpha + 1, beta) and Beta(alpha, beta + 1).

    Parameters
    ----------
    n_input
        Number of genes g.
    alpha_prior, beta_prior
        Parameters of the prior, in (0, 1). If one is None it is 1 minus the other; if both are, they are learned.
    minimal_dropout
        m, in [0, 1).
    zero_inflation
        There is one delta for each 'gene', 'gene-batch', 'gene-label' or 'gene-cell'.
    **args
        Further arguments of :class:`scvi.models.VAE`, but for `reconstruction_loss`.
    """

    alpha_prior_logit: Tensor  # (1,) or (1, k), a buffer unless it is learned
    beta_prior_logit: Tensor
    alpha_posterior_logit: nn.Parameter | None  # (g,) or (g, k)
    beta_posterior_logit: nn.Parameter | None

    def __init__(
        self,
        n_input: int,
        alpha_prior: float | None = 0.5,
        beta_prior: float | None = 0.5,
        minimal_dropout: float = 0.01,
        zero_inflation: str = "gene",
        **args: Any,
    ) -> None:
        if "reconstruction_loss" in args:
            raise ValueError("AutoZIVAE has a likelihood of its own: leave out reconstruction_loss")
        check_choice("zero_inflation", zero_inflation, ("gene", "gene-batch", "gene-label", "gene-cell"))
        check_rates(minimal_dropout=minimal_dropout)
        priors = _complementary(alpha_prior, beta_prior)
        super().__init__(n_input, **args)
        self.reconstruction_loss = "autozinb"
        self.zero_inflation, self.minimal_dropout = zero_inflation, float(minimal_dropout)
        shape = table_shape("zero_inflation", zero_inflation, n_input, self.n_batch, self.n_labels)
        for name, value in zip(_PRIORS, priors, strict=True):
            if value is None:
                self.register_parameter(name, nn.Parameter(torch.randn(1, *shape[1:])))
            else:
                self.register_buffer(name, torch.logit(torch.tensor([value])))
        for name in ("alpha_posterior_logit", "beta_posterior_logit"):
            self.register_parameter(name, None if zero_inflation == "gene-cell" else nn.Parameter(torch.randn(shape)))
        self.register_load_state_dict_pre_hook(_keep_fixed_priors)

    # ---- the model -------------------------------------------------------------------------------------------------

    def prior(self) -> Beta:
        """p(delta), (1,) or (1, k)."""
        return _beta(self.alpha_prior_logit, self.beta_prior_logit)

    def posterior(self) -> Beta:
        """q(delta), (g,) or (g, k); with 'gene-cell' the prior, (1,): no gene has a delta that cells share."""
        if self.alpha_posterior_logit is None or self.beta_posterior_logit is None:
            return self.prior()
        return _beta(self.alpha_posterior_logit, self.beta_posterior_logit)

    def generative(
        self,
        z: Tensor,
        log_size: Tensor,
        mb: Minibatch,
        batch: int | None = None,
        raw: bool = False,
        delta: Tensor | None = None,
    ) -> Decoded:
        """p(x | z, l, delta) as a ZINB; arguments as :meth:`VAE.generative`, `raw` is without floor and mixture.

        `delta` (g,), (n, g) or (s, 1, g); None: integrated out over its posterior.
        """
        decoded = super().generative(z, log_size, mb, batch, raw)
        if raw:
            return decoded
        if delta is None:
            mean = self._each_gene(self.posterior().mean)
            delta = self.reshape_bernoulli(mean, batch_codes(mb, batch), mb.labels)
        dropout = mixed_dropout(decoded.genes.dropout, delta, self.minimal_dropout)  # type: ignore[arg-type]
        return Decoded(genes=replace(decoded.genes, dropout=dropout))

    def loss(self, mb: Minibatch, generator: torch.Generator | None = None) -> Elbo:
        """The negative ELBO; in training at a draw of delta, in evaluation with delta integrated out."""
        return self._elbo(mb, self._draw_delta(mb.batch, mb.labels, generator) if self.training else None, generator)

    def _elbo(self, mb: Minibatch, delta: Tensor | None, generator: torch.Generator | None = None) -> Elbo:
        z, log_size, kl = self.variational(mb).draw_with_kl(mb, generator)
        nll = self.generative(z, log_size, mb, delta=delta).nll(mb, 1 / mb.n_whole)
        return Elbo(nll, kl, global_kl=self.compute_global_kl_divergence())

    def importance_draws(
        self,
        mb: Minibatch,
        q: Latent,
        n_draws: int,
        generator: torch.Generator | None = None,
        delta: Tensor | None = None,
    ) -> WeightedDraws:
        """As :meth:`Model.importance_draws`, given delta (s, 1, g) or (s, n, g), or with it integrated out."""
        z, log_size, log_weights = q.weighted_draws(mb, n_draws, generator)
        nll = self.generative(z, log_size, mb, delta=delta).genes.nll(mb)
        return WeightedDraws(z, log_size, log_weights - nll)

    def posterior_of_entries(self, mb: Minibatch) -> Beta:
        """p(delta_ng | x_ng, z_n, l_n), (n, g), at the means of z_n and l_n, for 'gene-cell'.

        Up to a factor it is Beta(delta; a, b) (delta NB(x) + (1 - delta) ZINB(x)), that is r Beta(a + 1, b) + (1 - r)
        Beta(a, b + 1) with odds r / (1 - r) = a NB(x) / (b ZINB(x)). Beta(a + r, b + 1 - r) has the same mean.
        """
        if self.zero_inflation != "gene-cell":
            raise ValueError(f"zero_inflation={self.zero_inflation!r}: delta does not differ between cells")
        q = self.variational(mb)
        never = torch.zeros(self.n_input, device=mb.device)
        genes = self.generative(q.z.loc, q.mean_size(mb), mb, delta=never).genes
        rate, theta, dropout = genes.rate.double(), genes.theta.double(), genes.dropout_logits.double()  # type: ignore[union-attr]
        prior, x = self.prior(), mb.x.double()
        a, b = prior.concentration1, prior.concentration0
        nb = NegativeBinomial(mu=rate, theta=theta, validate_args=False).log_prob(x)
        zinb = self.likelihood.distribution(rate, theta, dropout).log_prob(x)
        r = torch.sigmoid(a.log() - b.log() + nb - zinb).float()
        return Beta(a + r, b + 1 - r, validate_args=False)

    @torch.no_grad()
    def start(self, moments: Moments) -> None:
        """As :meth:`VAE.start`; the posterior of delta starts near its prior, a little on the side of 1.

        Where zeros tell nothing (of a gene with few counts) it stays there, so that noise calls no gene zero-inflated.
        """
        super().start(moments)
        for logit, prior, lead in (
            (self.alpha_posterior_logit, self.alpha_prior_logit, _LEAD),
            (self.beta_posterior_logit, self.beta_prior_logit, -_LEAD),
        ):
            if logit is not None:
                logit.copy_((prior + lead).expand_as(logit))

    def shared_posterior(self) -> list[nn.Parameter]:
        """As :meth:`Model.shared_posterior`: the logits of all Beta distributions that are trained."""
        return [
            p for name, p in self.named_parameters(recurse=False) if name.endswith(("posterior_logit", "prior_logit"))
        ]

    def has_parameters_by(self, category: str) -> bool:
        return super().has_parameters_by(category) or self.zero_inflation == f"gene-{category}"

    # ---- the 2020 methods ------------------------------------------------------------------------------------------

    def get_alphas_betas(self, as_numpy: bool = True) -> dict[str, Any]:
        """alpha_posterior, beta_posterior, (g,) or (g, k), and alpha_prior, beta_prior, (1,) or (1, k).

        Gene g is called zero-inflated where q(delta_g < 0.5) > 0.5, that is where alpha_g < beta_g. With 'gene-cell'
        see :meth:`posterior_of_entries`.
        """
        if self.zero_inflation == "gene-cell":
            raise ValueError(
                "zero_inflation='gene-cell': each entry has a posterior of its own, use posterior_of_entries"
            )
        q, p = self.posterior(), self.prior()
        named = {
            "alpha_posterior": q.concentration1,
            "beta_posterior": q.concentration0,
            "alpha_prior": p.concentration1,
            "beta_prior": p.concentration0,
        }
        return {name: value.detach().cpu().numpy() if as_numpy else value for name, value in named.items()}

    def sample_from_beta_distribution(
        self,
        alpha: Tensor,
        beta: Tensor,
        eps_gamma: float = 1e-30,
        eps_sample: float = 1e-7,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Reparameterised draws from Beta(alpha, beta), as X / (X + Y) of two Gamma variables, inside (0, 1)."""
        x, y = (torch._standard_gamma(shape, generator) for shape in (alpha, beta))
        return eps_sample + (1 - 2 * eps_sample) * torch.sigmoid(torch.log(x + eps_gamma) - torch.log(y + eps_gamma))

    def reshape_bernoulli(
        self, bernoulli_params: Tensor, batch_index: Tensor | None = None, y: Tensor | None = None
    ) -> Tensor:
        """delta of each cell: (g, k) -> (n, g), or (s, g, k) -> (s, n, g); what has no categories stays as it is."""
        if self.zero_inflation not in ("gene-batch", "gene-label"):
            return bernoulli_params
        codes, name = (batch_index, "batch_index") if self.zero_inflation == "gene-batch" else (y, "y")
        n_cat = bernoulli_params.shape[-1]
        if codes is None:
            if n_cat > 1:
                raise ValueError(f"zero_inflation={self.zero_inflation!r} needs {name}, None came")
            return bernoulli_params[..., 0].unsqueeze(-2)
        by_category = bernoulli_params.transpose(-1, -2)  # (..., k, g)
        if codes.shape[1] == n_cat and n_cat > 1:
            return codes.float() @ by_category
        return by_category[..., codes[:, 0].long(), :]

    def sample_bernoulli_params(
        self, batch_index: Tensor | None = None, y: Tensor | None = None, n_samples: int = 1
    ) -> Tensor:
        """Draws of delta from its posterior, (g,) or (s, g); with categories those of the cells, (n, g) or (s, n, g).

        With 'gene-cell' the mean of its prior, at which the density of a count is that with delta integrated out.
        """
        check_draws("n_samples", n_samples)
        return self._draw_delta(batch_index, y, draws=None if n_samples == 1 else n_samples)

    def rescale_dropout(self, px_dropout: Tensor, eps_log: float = 1e-8) -> Tensor:
        """Logits of m + (1 - m) sigmoid(px_dropout), with `eps_log` added to the probability of no dropout."""
        if self.minimal_dropout == 0:
            return px_dropout
        p = self.minimal_dropout + (1 - self.minimal_dropout) * torch.sigmoid(px_dropout)
        return torch.log(p / (1 - p + eps_log))

    def inference(  # type: ignore[override]  # the order of 2020, which had no transform_batch here
        self,
        x: Tensor,
        batch_index: Tensor | None = None,
        y: Tensor | None = None,
        n_samples: int = 1,
        eps_log: float = 1e-8,
        *,
        transform_batch: int | None = None,
    ) -> dict[str, Tensor | None]:
        """As :meth:`VAE.inference`, with px_dropout of at least `minimal_dropout`, and "bernoulli_params".

        These are draws of delta: (g,), or (s, 1, g) for more than one draw; with categories (n, g) or (s, n, g).
        `eps_log` is that of :meth:`rescale_dropout`.
        """
        if not (is_number(eps_log) and 0 <= eps_log < 1):
            raise ValueError(f"eps_log={eps_log!r} is not a number in [0, 1); transform_batch is passed by its name")
        out = super().inference(x, batch_index, y, n_samples, transform_batch)
        out["px_dropout"] = self.rescale_dropout(out["px_dropout"], eps_log)  # type: ignore[arg-type]
        batch = batch_codes(methods_2020.decodable(self, "inference", x, batch_index), transform_batch)
        delta = self.sample_bernoulli_params(batch, y, n_samples)
        out["bernoulli_params"] = delta.unsqueeze(1) if n_samples > 1 and delta.dim() == 2 else delta
        return out

    def compute_global_kl_divergence(self) -> Tensor:
        """KL of the posterior of delta from its prior, summed, in nats."""
        if self.zero_inflation == "gene-cell":
            return torch.zeros((), device=self.alpha_prior_logit.device)
        return kl_divergence(self.posterior(), self.prior()).sum()

    def get_reconstruction_loss(  # type: ignore[override]
        self,
        x: Tensor,
        px_rate: Tensor,
        px_r: Tensor,
        px_dropout: Tensor,
        bernoulli_params: Tensor,
        eps_log: float = 1e-8,
        **kwargs: Any,
    ) -> Tensor:
        """(..., n) negative log-likelihood summed over genes, at delta = `bernoulli_params`.

        `eps_log` keeps the weights of the two components above 0.
        """
        delta = bernoulli_params.double().clamp(eps_log, 1 - eps_log)
        return super().get_reconstruction_loss(x, px_rate, px_r, mixed_dropout(px_dropout.double(), delta))

    def forward(
        self,
        x: Tensor,
        local_l_mean: Tensor,
        local_l_var: Tensor,
        batch_index: Tensor | None = None,
        y: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | float]:
        """(reconstruction loss + KL(l), KL(z), KL(delta)) at draws, the first two (n,), the last for all cells."""
        mb = methods_2020.decodable(self, "forward", x, batch_index, y, local_l_mean, local_l_var)
        return methods_2020.three_terms(self._elbo(mb, self._draw_delta(mb.batch, mb.labels)))

    def _draw_delta(
        self,
        batch: Tensor | None,
        labels: Tensor | None,
        generator: torch.Generator | None = None,
        draws: int | None = None,
    ) -> Tensor:
        q = self.posterior()
        if self.zero_inflation == "gene-cell":
            delta = self._each_gene(q.mean)
            return delta if draws is None else delta.expand(draws, -1)
        alpha, beta = q.concentration1, q.concentration0
        if draws is not None:
            alpha, beta = (t.expand(draws, *t.shape) for t in (alpha, beta))
        return self.reshape_bernoulli(
            self.sample_from_beta_distribution(alpha, beta, generator=generator), batch, labels
        )

    def _each_gene(self, delta: Tensor) -> Tensor:
        return delta.expand(self.n_input) if self.zero_inflation == "gene-cell" else delta


def _beta(alpha_logit: Tensor, beta_logit: Tensor) -> Beta:
    return Beta(torch.sigmoid(alpha_logit), torch.sigmoid(beta_logit), validate_args=False)


def _complementary(alpha: float | None, beta: float | None) -> tuple[float | None, float | None]:
    """Checked parameters of the prior; one that is None is 1 minus the other."""
    for name, value in (("alpha_prior", alpha), ("beta_prior", beta)):
        if value is not None and not (is_number(value) and 0 < value < 1):
            raise ValueError(f"{name}={value!r} is neither a number between 0 and 1 nor None")
    if alpha is None and beta is not None:
        return 1 - beta, beta
    return alpha, 1 - alpha if beta is None and alpha is not None else beta


def _keep_fixed_priors(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """State dicts of 2020 do not hold priors that are not learned."""
    for name, buffer in module.named_buffers(recurse=False):
        if name in _PRIORS:
            state_dict.setdefault(f"{prefix}{name}", buffer)

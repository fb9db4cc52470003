"""The methods of 2020's VAE, over those of :mod:`scvi.models.base`: a class lists the ones that it has.

x are counts (n, g), batch_index and y codes (n, 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scvi._checks import batch_code, check_draws
from scvi.kernels.affine import as_tensor
from scvi.minibatch import Minibatch
from scvi.models.base import Elbo, Latent, Model, batch_codes, observed_log_size
from scvi.models.gaussian import draw

if TYPE_CHECKING:
    from scvi.models.vae import VAE


def forward(
    self: VAE,
    x: Tensor,
    local_l_mean: Tensor,
    local_l_var: Tensor,
    batch_index: Tensor | None = None,
    y: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor | float]:
    """(reconstruction loss + KL(l), KL(z), 0.0), the first two (n,)."""
    return three_terms(self.loss(decodable(self, "forward", x, batch_index, y, local_l_mean, local_l_var)))


def inference(
    self: VAE,
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
    code = batch_code("transform_batch", transform_batch, self.n_batch)
    mb = decodable(self, "inference", x, batch_index, y)
    z, log_size, posterior = drawn(self.variational(mb), mb, n_samples)
    genes = self.generative(z, log_size, mb, code, raw=True).genes
    return {
        "px_scale": genes.scale,
        "px_r": genes.theta,
        "px_rate": genes.rate,
        "px_dropout": genes.dropout_logits,
        **posterior,
        "z": self.transformed(z),
        "library": log_size,
    }


def get_reconstruction_loss(
    self: VAE, x: Tensor, px_rate: Tensor, px_r: Tensor, px_dropout: Tensor | None, **kwargs: Any
) -> Tensor:
    """(..., n) negative log-likelihood summed over genes, from expected counts and inverse dispersion."""
    return self.likelihood.textbook_nll(x, px_rate, px_r, px_dropout)


def get_latents(self: VAE, x: Tensor, y: Tensor | None = None) -> list[Tensor]:
    """[a draw of z]."""
    return [self.sample_from_posterior_z(x, y)]


def sample_from_posterior_z(
    self: VAE, x: Tensor, y: Tensor | None = None, give_mean: bool = False, n_samples: int = 5000
) -> Tensor:
    """(n, d): a draw of z, or its mean (over `n_samples` draws where the latent distribution is 'ln')."""
    check_draws("n_samples", n_samples)
    qz = self.variational(encodable(self, "sample_from_posterior_z", x, y)).z
    return self.latent_mean(qz, n_samples) if give_mean else self.transformed(draw(qz))


def sample_from_posterior_l(self: VAE, x: Tensor) -> Tensor:
    """(n, 1) a draw of the log library size (the observed one where it is observed)."""
    mb = Minibatch(x, None, None)  # type: ignore[arg-type]  # whose network sees counts alone
    ql = self.size_posterior(self.encoder_input(mb))
    return observed_log_size(mb) if ql is None else draw(ql)


def get_sample_scale(
    self: VAE,
    x: Tensor,
    batch_index: Tensor | None = None,
    y: Tensor | None = None,
    n_samples: int = 1,
    transform_batch: int | None = None,
) -> Tensor:
    """(n, g) expected frequencies; arguments as :meth:`inference`."""
    return self.inference(x, batch_index, y, n_samples, transform_batch=transform_batch)["px_scale"]  # type: ignore[return-value]


def get_sample_rate(
    self: VAE,
    x: Tensor,
    batch_index: Tensor | None = None,
    y: Tensor | None = None,
    n_samples: int = 1,
    transform_batch: int | None = None,
) -> Tensor:
    """(n, g) expected counts; arguments as :meth:`inference`."""
    return self.inference(x, batch_index, y, n_samples, transform_batch=transform_batch)["px_rate"]  # type: ignore[return-value]


def scale_from_z(self: VAE, sample_batch: Tensor, fixed_batch: int) -> Tensor:
    """(n, g) expected frequencies of these cells at a draw of z, decoded in batch `fixed_batch` (0.5 name)."""
    code = batch_code("fixed_batch", fixed_batch, self.n_batch)
    encodable(self, "scale_from_z", sample_batch)
    mb = decodable(self, "scale_from_z", sample_batch)
    z = self.transformed(draw(self.variational(mb).z))
    logits, *_ = self.decoder.heads(z, *self.categories(mb, batch_codes(mb, code)), dropout=False)
    return torch.softmax(as_tensor(logits), dim=-1)


# ---- what they share with the methods of other models ----------------------------------------------------------------


def three_terms(elbo: Elbo) -> tuple[Tensor, Tensor, Tensor | float]:
    """(terms that are not annealed, annealed ones, global KL), the first two (n,): what 2020's models return."""
    return elbo.fixed(), elbo.warmed(), elbo.global_kl


def drawn(q: Latent, mb: Minibatch, n_samples: int) -> tuple[Tensor, Tensor, dict[str, Tensor | None]]:
    """Draws of z and of the log library size, and the posterior's moments under the names of 2020.

    More than one draw is without gradient and has an axis of its own, (s, n, .), which the moments are given, too.
    """
    if n_samples == 1:
        z, log_size = draw(q.z), q.draw_size(mb)
    else:
        z = draw(q.z, n_samples).detach()
        log_size = q.draw_size(mb, n_samples).detach().expand(n_samples, -1, -1)
    moments = zip(("qz_m", "qz_v", "ql_m", "ql_v"), (q.z.loc, q.z.scale.square(), *q.size_moments), strict=True)
    wide = (lambda t: t) if n_samples == 1 else (lambda t: t.expand(n_samples, *t.shape))
    return z, log_size, {name: None if t is None else wide(t) for name, t in moments}


def decodable(
    model: Model,
    method: str,
    x: Tensor,
    batch: Tensor | None = None,
    y: Tensor | None = None,
    l_mean: Tensor | None = None,
    l_var: Tensor | None = None,
    proteins: Tensor | None = None,
) -> Minibatch:
    """2020's tensors as a minibatch, for a method that decodes and has no argument for further covariates."""
    if covariates := _covariates(model):
        raise ValueError(
            f"{method} has no argument for further covariates, here of {' and '.join(covariates)}: "
            "use `variational` and `loss` with a Minibatch that holds them"
        )
    batch = _batch_of(model, x) if batch is None else batch
    return Minibatch(x, batch, y, l_mean, l_var, proteins=proteins)  # type: ignore[arg-type]


def encodable(model: Model, method: str, x: Tensor, y: Tensor | None = None) -> Minibatch:
    """2020's tensors as a minibatch, for a method that encodes and has no argument for batch and covariates."""
    if model.encode_covariates and (model.n_batch > 1 or _covariates(model)):
        raise ValueError(
            f"encode_covariates=True: {method} has no argument for the batch and covariates that the encoder "
            "sees; use `variational` with a Minibatch that holds them"
        )
    return Minibatch(x, _batch_of(model, x), y)  # type: ignore[arg-type]


def _batch_of(model: Model, x: Tensor) -> Tensor | None:
    """(n, 1) codes of the only batch there is; None where there are several, which the networks refuse."""
    return None if model.n_batch > 1 else torch.zeros(x.shape[0], 1, dtype=torch.long, device=x.device)


def _covariates(model: Model) -> list[str]:
    """The options that brought covariates beside the batch."""
    options = {
        "n_continuous_cov": model.n_continuous_cov > 0,
        "n_cats_per_cov": any(size > 1 for size in model.n_cat_list[1:]),
    }
    return [name for name, is_used in options.items() if is_used]

"""2020's objectives over a whole posterior; its log densities live in :mod:`scvi.models.distributions`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, logsumexp
from torch.distributions import Beta

from scvi._checks import check_draws
from scvi.minibatch import Minibatch
from scvi.models.base import Model, blocks_of_draws
from scvi.models.distributions import log_mixture_nb, log_nb_positive, log_zinb_positive

__all__ = [
    "compute_elbo",
    "compute_marginal_log_likelihood_autozi",
    "compute_marginal_log_likelihood_scvi",
    "compute_reconstruction_error",
    "log_mixture_nb",
    "log_nb_positive",
    "log_zinb_positive",
    "logsumexp",
]


def compute_elbo(vae: Any, posterior: Any, **kwargs: Any) -> float:
    """Negative ELBO per cell, full KL weights.

    Parameters
    ----------
    vae
        A model whose call returns (reconstruction, local KL, global KL).
    posterior
        Iterable of 2020 tensor lists. The cells it yields count, each as often as it comes.
    **kwargs
        Passed to the model.
    """
    total, n = 0.0, 0
    kl_global: Tensor | float = 0.0
    for x, l_mean, l_var, batch_index, labels in _first_five(posterior):
        rec, kl_local, kl_global = vae(x, l_mean, l_var, batch_index=batch_index, y=labels, **kwargs)
        total += float((rec + kl_local).detach().sum())
        n += len(x)
    return (total + float(torch.as_tensor(kl_global).detach())) / _some(n)


def compute_reconstruction_error(vae: Any, posterior: Any, **kwargs: Any) -> float:
    """Mean over cells of the negative log-likelihood at one posterior draw; arguments as :func:`compute_elbo`."""
    losses: list[Tensor] = []  # (n,) each
    for x, _, _, batch_index, labels in _first_five(posterior):
        out = vae.inference(x, batch_index, labels, **kwargs)
        parameters = out["px_rate"], out["px_r"], out["px_dropout"]
        extra = {**kwargs, "bernoulli_params": out.get("bernoulli_params")}
        losses.append(vae.get_reconstruction_loss(x, *parameters, **extra).detach())
    return _mean(losses)


def compute_marginal_log_likelihood_scvi(vae: Model, posterior: Any, n_samples_mc: int = 100) -> float:
    """Minus the mean over cells of the importance-weighted log-likelihood (Burda et al. 2016)."""
    return -_mean([vae.marginal_log_likelihood(Minibatch.from_tensors(cells), n_samples_mc) for cells in posterior])


@torch.no_grad()
def compute_marginal_log_likelihood_autozi(autozivae: Any, posterior: Any, n_samples_mc: int = 100) -> float:
    """As :func:`compute_marginal_log_likelihood_scvi` where cells share a latent variable, delta of AutoZI.

    Each of the `n_samples_mc` draws of delta is weighted by the likelihood of all cells together. Where every entry has
    a delta of its own there is nothing to share, and the two are the same.
    """
    check_draws("n_samples_mc", n_samples_mc)
    if autozivae.zero_inflation == "gene-cell":
        return compute_marginal_log_likelihood_scvi(autozivae, posterior, n_samples_mc)
    q, prior = autozivae.posterior(), autozivae.prior()
    shapes = [t.expand(n_samples_mc, *t.shape) for t in (q.concentration1, q.concentration0)]
    delta = autozivae.sample_from_beta_distribution(*shapes)  # (s, g) or (s, g, k)
    log_weights = _beta_log_prob(prior, delta) - _beta_log_prob(q, delta)
    n = 0
    for tensors in posterior:
        mb = Minibatch.from_tensors(tensors)
        qz = autozivae.variational(mb)
        for some in torch.arange(n_samples_mc, device=delta.device).split(blocks_of_draws(mb, n_samples_mc)):
            of_cells = autozivae.reshape_bernoulli(delta[some], mb.batch, mb.labels)
            of_cells = of_cells.unsqueeze(1) if of_cells.dim() == 2 else of_cells  # (s, 1, g) or (s, n, g)
            drawn = autozivae.importance_draws(mb, qz, len(some), delta=of_cells)
            log_weights[some] += drawn.log_weights.double().sum(1)
        n += len(mb)
    return -(float(torch.logsumexp(log_weights, 0)) - math.log(n_samples_mc)) / _some(n)


def _beta_log_prob(beta: Beta, delta: Tensor) -> Tensor:
    """(s,) log densities in float64 of draws (s, ...), summed over what is drawn at once."""
    alpha, other = beta.concentration1.double(), beta.concentration0.double()
    return Beta(alpha, other, validate_args=False).log_prob(delta.double()).flatten(1).sum(1)


def _first_five(posterior: Iterable[Sequence[Tensor]]) -> Iterable[Sequence[Tensor]]:
    return (tensors[:5] for tensors in posterior)


def _mean(values: Sequence[Tensor]) -> float:
    """Over all cells, of values (n,) of some and some more."""
    return sum(float(of_some.sum()) for of_some in values) / _some(sum(map(len, values)))


def _some(n_cells: int) -> int:
    if n_cells == 0:
        raise ValueError("the posterior yields no cells, of which there is no mean")
    return n_cells

"""Which genes are zero-inflated."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from scvi.minibatch import Minibatch
from scvi.models.autozivae import AutoZIVAE
from scvi.queries.evaluation import asked_parts


def alphas_betas(model: AutoZIVAE, minibatches: Iterable[Minibatch]) -> dict[str, np.ndarray]:
    """Parameters of the Beta posteriors and priors of delta, the probability that there is no zero inflation.

    Returns
    -------
    dict
        'alpha_posterior', 'beta_posterior': (g,) or (g, k); (n, g) for the given cells with zero inflation 'gene-cell',
        otherwise the cells are not looked at. 'alpha_prior', 'beta_prior': (1,) or (1, k).
    """
    if model.zero_inflation != "gene-cell":
        return model.get_alphas_betas()

    def of_entries(mb: Minibatch) -> dict[str, Tensor]:
        q = model.posterior_of_entries(mb)
        return {"alpha_posterior": q.concentration1, "beta_posterior": q.concentration0}

    prior = model.prior()
    return asked_parts(model, minibatches, of_entries) | {
        "alpha_prior": prior.concentration1.detach().cpu().numpy(),
        "beta_prior": prior.concentration0.detach().cpu().numpy(),
    }


def inflation_probability(alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """q(delta < 0.5): how sure the posterior is that a gene is zero-inflated; above 0.5 where alpha < beta."""
    from scipy.special import betainc

    return betainc(alpha.astype(np.float64), beta.astype(np.float64), 0.5)

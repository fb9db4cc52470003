"""Questions about samples as populations of cells: where they lie, and which states they have more of."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from torch.distributions import MixtureSameFamily

from scvi._checks import check_integer, check_number
from scvi._random import resolve_seed
from scvi.cells.checks import as_text
from scvi.cells.checks import found as there
from scvi.estimators.base import Estimator
from scvi.estimators.cells import Indices
from scvi.estimators.questions import table
from scvi.queries import latent, populations


def get_aggregated_posterior(
    self: Estimator,
    adata: AnnData | None = None,
    indices: Indices = None,
    batch_size: int | None = None,
    dof: float | None = 3.0,
) -> MixtureSameFamily:
    """Where some cells lie in the latent space, as a distribution: the mixture of their posteriors.

    Its ``log_prob`` takes points of the latent space (n, d), before the softmax of a logistic-normal one; ``sample``
    draws them.

    Parameters
    ----------
    dof
        Degrees of freedom of Student's t, whose tails each component has; None: it is Gaussian.
    """
    _check_dof(dof)
    minibatches = self._ask(adata, indices, batch_size, needs_counts=False)
    return populations.aggregated_posterior(*latent.latent_distribution(self.module, minibatches), dof)


def differential_abundance(
    self: Estimator,
    adata: AnnData | None = None,
    sample_key: str | None = None,
    batch_size: int | None = None,
    num_cells_posterior: int | None = None,
    dof: float | None = None,
    *,
    seed: int | None = None,
) -> pd.DataFrame:
    """How typical the state of each cell is of each sample.

    These are log densities of the cell's latent state under the aggregated posterior of each sample, from which the
    cell's own posterior is left out. The difference of two samples, or of the means of the samples of two conditions,
    says of which one there are more cells in this state; with other samples of the same condition beside it one sees
    how much of it is chance.

    >>> density = model.differential_abundance(sample_key="donor")
    >>> adata.obs["more_in_treated"] = density[treated].mean(axis=1) - density[control].mean(axis=1)

    Parameters
    ----------
    sample_key
        Column of ``adata.obs`` with the samples. Cells without a value have densities, and belong to no sample.
    num_cells_posterior
        Cells of each sample to draw at most for its mixture; None: all. Time grows with cells times these.
    dof
        Degrees of freedom of Student's t, whose tails each component has; None: it is Gaussian.

    Returns
    -------
    (n, samples) table, in nats; NaN where a sample has no other cell
    """
    if sample_key is None:
        raise ValueError("differential_abundance needs sample_key, a column of adata.obs with the samples")
    _check_dof(dof)
    if num_cells_posterior is not None:
        check_integer("num_cells_posterior", num_cells_posterior, 2)
    data, positions = self._choose(adata, None, needs_counts=False)
    obs = (self.adata if adata is None else adata).obs  # type: ignore[union-attr]  # there is one, or no positions
    codes, names = pd.factorize(there(obs, "sample_key", sample_key, "a column of adata.obs"), sort=True)
    if len(names) < 2:
        raise ValueError(f"sample_key={sample_key!r} has {len(names)} sample; abundances are compared between samples")
    rng = np.random.default_rng([resolve_seed(seed), 3])
    members = {
        name: _drawn(np.flatnonzero(codes == code), num_cells_posterior, rng)
        for code, name in enumerate(as_text("sample_key", sample_key, names))
    }
    posteriors = latent.latent_distribution(self.module, self._minibatches(data, positions, batch_size))
    return table(populations.sample_densities(*posteriors, members, dof), data.cell_names, list(members))


def _drawn(cells: np.ndarray, most: int | None, rng: np.random.Generator) -> np.ndarray:
    return cells if most is None or len(cells) <= most else np.sort(rng.choice(cells, most, replace=False))


def _check_dof(dof: float | None) -> None:
    if dof is not None:
        check_number("dof", dof, "a positive number or None", above=0)

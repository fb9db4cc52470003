"""Where the weights of a decoder start: at what the moments of the training cells say."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from scvi.cells.cell_data import CellData
from scvi.models.base import Model, Moments

__all__ = ["initialise", "moment_estimates"]

_THETA_RANGE = (0.05, 100.0)


def initialise(
    module: Model,
    data: CellData,
    indices: np.ndarray,
    background: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> None:
    """Starts a model at moment estimates of these cells; `background` as in :class:`scvi.models.base.Moments`."""
    frequency, theta = moment_estimates(data, indices)
    device = next(module.parameters()).device
    as_tensor = lambda values: torch.as_tensor(values, dtype=torch.float32, device=device)  # noqa: E731
    of_proteins: Any = None if background is None else tuple(map(as_tensor, background))
    module.start(Moments(as_tensor(frequency), as_tensor(np.log(theta)), of_proteins))


def moment_estimates(data: CellData, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(g,) frequencies of the genes and (g,) their inverse dispersion.

    With library sizes l_n and frequencies f_g, ``var x = E[l] f + var(l) f**2 + E[l**2] f**2 / theta``.
    """
    mean, variance, totals = data.moments(indices)
    frequency = mean / max(mean.sum(), 1.0)
    spread = variance - mean - totals.var() * frequency**2
    with np.errstate(divide="ignore", invalid="ignore"):
        theta = np.where(spread > 0, (totals**2).mean() * frequency**2 / spread, np.inf)
    return frequency, np.clip(np.nan_to_num(theta, nan=1.0), *_THETA_RANGE)

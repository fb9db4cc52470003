"""Synthetic cells with structure, and small models of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from scvi.cells.cell_data import CellData
from scvi.cells.setup import SetUp

N, G = 150, 40
TINY: dict[str, Any] = {"n_hidden": 8, "n_latent": 3, "seed": 0}
"""Options of a model that is fitted in no time."""
QUICK: dict[str, Any] = {"max_epochs": 3, "batch_size": 64, "seed": 0, "enable_progress_bar": False}
"""Arguments of a fit that takes no time."""
KEYS: dict[str, Any] = {
    "batch_key": "batch",
    "labels_key": "cell_type",
    "size_factor_key": "size",
    "categorical_covariate_keys": ["donor", "treated"],
    "continuous_covariate_keys": ["age", "score"],
}
"""All columns that a model can read."""


def make_adata(n: int = N, g: int = G, seed: int = 0) -> AnnData:
    """Counts (n, g) of three cell types in three batches, csr of float32, no cell is empty; five proteins in `obsm`."""
    rng = np.random.default_rng(seed)
    batch, kind = np.arange(n) % 3, rng.integers(3, size=n)
    means = rng.gamma(1.0, 4.0, (3, g))[kind] * rng.gamma(8.0, 1 / 8, (3, g))[batch] * rng.gamma(4.0, 1 / 4, (n, 1))
    counts = rng.poisson(means)
    counts[:, 0] += 1
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical(np.array(["b0", "b1", "b2"])[batch]),
            "cell_type": np.array(["t0", "t1", "t2"])[kind],
            "donor": rng.integers(4, size=n),
            "treated": rng.random(n) < 0.5,
            "size": rng.uniform(0.5, 2.0, n),
            "age": rng.normal(50.0, 10.0, n) / 10,
            "score": rng.normal(size=n),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    var = pd.DataFrame({"chosen": np.arange(g) % 2 == 0}, index=[f"gene{j}" for j in range(g)])
    levels = np.array([[40.0, 3, 3, 20, 5], [3, 60, 3, 20, 5], [3, 3, 30, 2, 5]])[kind]
    proteins = pd.DataFrame(rng.poisson(levels), index=obs.index, columns=[f"protein{j}" for j in range(5)])
    return AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs, var=var, obsm={"proteins": proteins})


def same_set_up(first: SetUp, second: SetUp) -> bool:
    """Whether two declarations are of the same cells, and say the same of them."""
    return first[:2] == second[:2] and np.array_equal(first.digests, second.digests)


def whole(cells: CellData) -> np.ndarray:
    """(n, g) counts, as its minibatches have them."""
    return torch.cat([mb.x for mb in cells.minibatches(batch_size=7)]).numpy()

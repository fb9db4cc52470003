"""A small AnnData with everything that a model can be told to read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

N, G = 60, 12


@pytest.fixture
def counts() -> np.ndarray:
    """(N, G) integers; no cell is empty."""
    counts = np.random.default_rng(0).poisson(1.5, (N, G))
    counts[:, 0] += 1
    return counts


@pytest.fixture
def make(counts: np.ndarray) -> Callable[..., AnnData]:
    """An AnnData of the counts, in the layout that is asked for."""

    def build(layout: Callable[[np.ndarray], Any] = np.asarray, dtype: Any = np.float32) -> AnnData:
        rng = np.random.default_rng(1)
        obs = pd.DataFrame(
            {
                "batch": rng.permutation(np.repeat(["b", "a", "c"], N // 3)),
                "donor": rng.permutation(np.arange(N) % 4),
                "cell_type": pd.Categorical(rng.permutation(np.arange(N) % 2), categories=[1, 0, 7]),
                "treated": rng.random(N) < 0.5,
                "size": rng.uniform(0.5, 2.0, N),
                "age": rng.normal(50, 10, N),
            },
            index=[f"cell{i}" for i in range(N)],
        )
        var = pd.DataFrame({"chosen": np.arange(G) % 2 == 0}, index=[f"gene{j}" for j in range(G)])
        return AnnData(layout(counts.astype(dtype)), obs=obs, var=var)

    return build


@pytest.fixture
def adata(make: Callable[..., AnnData]) -> AnnData:
    return make()


@pytest.fixture
def keys() -> dict[str, Any]:
    """All arguments of `declare` at once."""
    return {
        "batch_key": "batch",
        "labels_key": "cell_type",
        "size_factor_key": "size",
        "categorical_covariate_keys": ["donor", "treated"],
        "continuous_covariate_keys": ["age"],
    }

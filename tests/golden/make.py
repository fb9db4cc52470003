"""Writes a golden model: a tiny fitted model as one version of the package wrote it, for all later ones to read.

    python tests/golden/make.py

A golden folder holds the model (`weights.safetensors`, `model.json`) and `expected.json`: the counts it was fitted to
and what it said of them. Folders are never written again; a new format gets a new folder, under a new number.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

import scvi

FOLDER = Path(__file__).parent / "scvi_v1"


def main() -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(1.0, 3.0, (2, 20))[np.arange(30) % 2]) + (np.arange(20) == 0)
    batch = np.array(["first", "second", "third"])[rng.integers(3, size=30)]
    age = rng.normal(size=30).round(3)
    obs = pd.DataFrame({"batch": batch, "age": age}, index=[f"cell{i}" for i in range(30)])
    adata = AnnData(counts.astype(np.float32), obs=obs, var=pd.DataFrame(index=[f"gene{j}" for j in range(20)]))
    scvi.SCVI.setup_anndata(adata, batch_key="batch", continuous_covariate_keys=["age"])
    model = scvi.SCVI(adata, n_hidden=4, n_latent=2, encode_covariates=True, seed=0)
    model.train(max_epochs=5, batch_size=8, seed=0, enable_progress_bar=False)
    model.save(FOLDER)
    mean, variance = model.get_latent_representation(return_dist=True)
    expected = {
        "counts": counts.tolist(),
        "batch": batch.tolist(),
        "age": age.tolist(),
        "latent_mean": mean.tolist(),
        "latent_variance": variance.tolist(),
        "marginal_ll": model.get_marginal_ll(n_mc_samples=2000, seed=0),
    }
    (FOLDER / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    main()

"""How many draws from the true posterior weighted draws are worth: Kish's effective sample size, of cells that ship.

    python benchmarks/importance_weights.py

Two fits of the demonstration cells: with default options, and with two latent dimensions and an NB likelihood. Of 200
cells drawn with seed 0: the median effective size, and its tenths; seconds of the question.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from common import load_average, machine, table

import scvi

OPTIONS = {"default": {}, "2 dimensions, nb": {"n_latent": 2, "gene_likelihood": "nb"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, nargs="+", default=[100, 500, 2000], help="draws of a cell")
    parser.add_argument("--cells", type=int, default=200)
    arguments = parser.parse_args()
    print(f"{machine()}\nload average {load_average()}\n")
    adata = scvi.demo.load()
    cells = np.random.default_rng(0).choice(adata.n_obs, arguments.cells, replace=False)
    rows = []
    for name, options in OPTIONS.items():
        scvi.SCVI.setup_anndata(adata, batch_key="batch")
        model = scvi.SCVI(adata, seed=0, **options)
        model.train(seed=0, enable_progress_bar=False)
        for n_draws in arguments.draws:
            begin = time.perf_counter()
            weights = model.get_importance_weights(indices=cells, n_mc_samples=n_draws, seed=0)
            seconds = time.perf_counter() - begin
            low, middle, high = np.quantile(1 / (weights**2).sum(axis=0), [0.1, 0.5, 0.9])
            rows.append([name, f"{n_draws:,}", f"{middle:,.0f} ({low:,.0f}, {high:,.0f})", f"{seconds:.1f}"])
    print(table(["fit", "draws", "effective size", "seconds"], rows))


if __name__ == "__main__":
    main()

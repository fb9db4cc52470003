"""Cuts the CITE-seq cells of the tests from a benchmark file: 1200 cells of both runs, 400 genes, 14 proteins.

python benchmarks/make_cite_data.py --data FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from anndata import AnnData
from common import DEFAULT_DATA, read
from scipy import sparse

from scvi.data.variable_genes import seurat_v3

TARGET = Path(__file__).parents[1] / "tests" / "sample_data" / "pbmc_cite_small.h5ad"
CELLS = {"pbmc_10k": 800, "pbmc_5k": 400}
N_GENES = 400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    adata = read(parser.parse_args().data, "pbmc_cite_10k_5k")
    rng, batch = np.random.default_rng(0), adata.obs["batch"].to_numpy()
    cells = np.sort(
        np.concatenate([rng.choice(np.flatnonzero(batch == k), n, replace=False) for k, n in CELLS.items()])
    )
    genes = seurat_v3(adata.X, N_GENES)["highly_variable"].to_numpy()
    part = adata[cells, genes]
    small = AnnData(
        sparse.csr_matrix(part.X, dtype=np.int16),
        obs=part.obs[["batch", "protein_gate"]].copy(),
        var=part.var[[]].copy(),
        obsm={"protein_counts": np.asarray(part.obsm["protein_counts"], np.int32)},
        uns={"protein_names": np.asarray(part.uns["protein_names"]).astype(str)},
    )
    small.write_h5ad(TARGET, compression="gzip", compression_opts=9)
    print(f"{small.n_obs} cells x {small.n_vars} genes, {TARGET.stat().st_size / 1e3:.0f} kB: {TARGET}")


if __name__ == "__main__":
    main()

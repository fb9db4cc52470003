"""Do the factors of LinearSCVI find the cell types of blood? Enrichment of known markers among their extreme genes.

    python benchmarks/linear_factors.py --data FOLDER

Cells: all of pbmc3k. Genes: the 2000 of the seurat_v3 method and the markers themselves, some of which are not that
variable. Of every factor the 30 genes with the highest loadings and the 30 with the lowest are looked at. For each set
of markers: the smallest hypergeometric p value over these lists, whose number is twice that of the factors, and the
list it comes from. Wanted: below 1e-3 for each set.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from common import DEFAULT_DATA, load_average, machine, read, table
from scipy.stats import hypergeom

from scvi import LinearSCVI
from scvi.data.variable_genes import seurat_v3

GENE_SETS = {
    "T cells": ("CD3D", "CD3E", "IL7R", "LDHB"),
    "B cells": ("MS4A1", "CD79A", "CD79B", "CD74"),
    "NK cells": ("NKG7", "GNLY", "PRF1", "GZMB", "CST7"),
    "monocytes": ("LYZ", "S100A8", "S100A9", "CST3", "FTL"),
    "FCGR3A+ monocytes": ("FCGR3A", "MS4A7", "LST1"),
    "megakaryocytes": ("PPBP", "PF4"),
}
N_EXTREME = 30


def enrichment(loadings: pd.DataFrame, markers: tuple[str, ...]) -> tuple[float, str, int]:
    """Smallest p value, its list of genes, and how many of the markers are on it."""
    found = []
    for factor in loadings:
        by_loading = loadings.index[np.argsort(loadings[factor].to_numpy(), kind="stable")]
        for side, genes in (("lowest", by_loading[:N_EXTREME]), ("highest", by_loading[-N_EXTREME:])):
            hits = len(set(genes) & set(markers))
            p = float(hypergeom.sf(hits - 1, len(loadings), len(markers), N_EXTREME))
            found.append((p, f"{factor} {side}", hits))
    return min(found)


def cells_and_genes(folder: Path) -> AnnData:
    adata = read(folder, "pbmc3k")
    markers = adata.var_names.isin([gene for genes in GENE_SETS.values() for gene in genes])
    return adata[:, seurat_v3(adata.X, 2000)["highly_variable"].to_numpy() | markers].copy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--threads", type=int, help="torch threads")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    print(machine())
    adata = cells_and_genes(arguments.data)
    print(f"load average {load_average()}; pbmc3k: {adata.n_obs} cells x {adata.n_vars} genes")
    LinearSCVI.setup_anndata(adata)
    for seed in range(arguments.seeds):
        model = LinearSCVI(adata, seed=seed)
        begin = time.perf_counter()
        model.train(seed=seed, enable_progress_bar=False)
        rows = []
        for name, markers in GENE_SETS.items():
            p, where, hits = enrichment(model.get_loadings(), markers)
            rows.append([name, " ".join(markers), where, f"{hits} of {len(markers)}", f"{p:.1e}"])
        print(f"\nseed {seed}, {time.perf_counter() - begin:.0f} s\n")
        print(table(["set", "markers", "among", "found", "p"], rows))


if __name__ == "__main__":
    main()

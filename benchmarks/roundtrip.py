"""Real cells written in each format that is read here, and read back: nothing may be lost.

    python benchmarks/roundtrip.py --data FOLDER

Every .h5ad of the folder is written as a 10x folder of both versions, a tar archive, an HDF5 file of both versions, a
loom file and a CSV table, with its antibodies where the format has a place for them, and put into one store on disk.
The writers are those of the tests. The exit code is 1 if counts, names or antibodies differ.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from common import DEFAULT_DATA, machine, table

from scvi.data import read_10x, read_csv, read_h5ad, read_loom, to_store

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import formats


@dataclass
class Cells:
    """What is written: genes and antibodies side by side."""

    X: sp.csr_matrix  # (n, g)
    proteins: sp.csr_matrix  # (n, p)
    cells: list[str]
    genes: list[str]
    antibodies: list[str]

    @property
    def features(self) -> dict[str, object]:
        """Arguments of the writers of 10x formats of version 3."""
        names = self.genes + self.antibodies
        types = ["Gene Expression"] * len(self.genes) + ["Antibody Capture"] * len(self.antibodies)
        return {"cells": self.cells, "genes": (names, names), "types": types}

    @property
    def together(self) -> sp.csr_matrix:
        return sp.hstack([self.X, self.proteins], format="csr")


def read(path: Path) -> Cells:
    adata = anndata.read_h5ad(path)
    proteins = sp.csr_matrix(adata.obsm.get("protein_counts", np.zeros((adata.n_obs, 0), np.int32)))
    antibodies = [f"antibody {name}" for name in adata.uns.get("protein_names", [])]
    return Cells(sp.csr_matrix(adata.X), proteins, list(adata.obs_names), list(adata.var_names), antibodies)


def ten_x(write: Callable[..., Path]) -> Callable[[Path, Cells], AnnData]:
    def there_and_back(folder: Path, given: Cells) -> AnnData:
        return read_10x(write(folder / "10x.h5", given.together, **given.features))

    return there_and_back


def version_2(folder: Path, given: Cells) -> AnnData:
    return read_10x(formats.write_10x_v2(folder / "v2", given.X, given.cells, (given.genes, given.genes)))


def version_2_h5(folder: Path, given: Cells) -> AnnData:
    names = (given.genes, given.genes)
    return read_10x(formats.write_10x_h5(folder / "v2.h5", given.X, 2, cells=given.cells, genes=names))


def archive(folder: Path, given: Cells) -> AnnData:
    source = formats.write_10x_v3(folder / "v3", given.together, **given.features)
    return read_10x(formats.tar_of(folder / "f.tar.gz", source, "filtered_feature_bc_matrix"))


def loom(folder: Path, given: Cells) -> AnnData:
    path = formats.write_loom(folder / "f.loom", given.X, {"CellID": given.cells}, {"Gene": given.genes})
    return read_loom(path)


def csv(folder: Path, given: Cells) -> AnnData:
    frame = pd.DataFrame(given.X.T.toarray(), index=given.genes, columns=given.cells)
    frame.to_csv(folder / "f.csv.gz", compression={"method": "gzip", "compresslevel": 1})
    return read_csv(folder / "f.csv.gz", genes_in_rows=True)


def store(folder: Path, given: Cells) -> AnnData:
    obs, var = pd.DataFrame(index=given.cells), pd.DataFrame(index=given.genes)
    AnnData(given.X, obs=obs, var=var).write_h5ad(folder / "f.h5ad")
    return read_h5ad(to_store(folder / "f.h5ad", folder / "store.h5ad", progress=False))


FORMATS: dict[str, Callable[[Path, Cells], AnnData]] = {
    "10x 2": version_2,
    "10x 3": ten_x(formats.write_10x_v3),
    "10x 3 tar.gz": archive,
    "10x 2 .h5": version_2_h5,
    "10x 3 .h5": ten_x(formats.write_10x_h5),
    "loom": loom,
    "CSV": csv,
    "store": store,
}


def differences(given: Cells, back: AnnData) -> list[str]:
    found = []
    if back.shape != given.X.shape or (back.X != given.X).nnz:
        found.append("counts")
    if back.obs_names.tolist() != given.cells:
        found.append("cells")
    if back.var_names.tolist() != given.genes:
        found.append("genes")
    if "protein_expression" in back.obsm and (
        back.uns["protein_names"].tolist() != given.antibodies
        or (back.obsm["protein_expression"] != given.proteins.toarray()).any()
    ):
        found.append("antibodies")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of .h5ad files")
    parser.add_argument("--files", nargs="+", help="names without .h5ad; all if not given")
    arguments = parser.parse_args()
    paths = [arguments.data / f"{name}.h5ad" for name in arguments.files or []] or sorted(arguments.data.glob("*.h5ad"))
    if not paths:
        sys.exit(f"there is no .h5ad in {arguments.data}: say where the benchmark files are with --data FOLDER")
    print(machine(), "\nSeconds to write and read; names of what differs, if anything does\n")
    rows, failed = [], False
    for path in paths:
        given = read(path)
        row = [path.stem, " x ".join(map(str, given.X.shape))]
        for there_and_back in FORMATS.values():
            with tempfile.TemporaryDirectory() as folder:
                begin = time.perf_counter()
                found = differences(given, there_and_back(Path(folder), given))
                row.append(", ".join(found) if found else f"{time.perf_counter() - begin:.1f}")
                failed |= bool(found)
        rows.append(row)
        print(*row, sep="; ", file=sys.stderr)  # it takes a while
    print(table(["file", "cells x genes", *FORMATS], rows))
    sys.exit(int(failed))


if __name__ == "__main__":
    main()

"""Peak memory and time of the readers.

    python benchmarks/readers.py

Counts are drawn at random, in the numbers of real cells: 10x folders and HDF5 files are read whole, and what they may
take is 2.5 times the size of the CSR matrix that comes. A file of 200,000 cells is reduced to 720 genes as
BrainLargeDataset does it, and put into a store on disk, a part of the cells at a time: that may take the size of a part
four times over, beside what comes, and 300 bytes a cell for the names in a store.

Every figure is from a process of its own: VmHWM of /proc/self/status (Linux) at its end, less VmRSS after a small file
of the same kind was read. The exit code is 1 if any figure is above its bar.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from common import machine, table
from memory import mb, status

from scvi.data import read_10x, read_brain_large, to_store

GENES = 20_000
PART = 10_000  # cells of BrainLarge that are read at once
PER_CELL = 500  # genes in each cell of the files that are read in parts


def h5(path: Path, n_cells: int, per_cell: int) -> Path:
    """A file of version 2 with `per_cell` genes in each cell."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        group = file.create_group("mm10")
        group["barcodes"] = np.array([f"C{i:09d}-1".encode() for i in range(n_cells)])
        group["genes"] = group["gene_names"] = np.array([f"ENSMUSG{i:011d}".encode() for i in range(GENES)])
        group["shape"] = np.array([GENES, n_cells])
        group["indptr"] = np.arange(n_cells + 1, dtype=np.int64) * per_cell
        indices = group.create_dataset("indices", (n_cells * per_cell,), np.int64, chunks=(2**18,))
        data = group.create_dataset("data", (n_cells * per_cell,), np.int32, chunks=(2**18,))
        step = GENES // per_cell
        for start in range(0, n_cells, 2000):
            stop = min(start + 2000, n_cells)
            genes = np.arange(per_cell) * step + rng.integers(0, step, (stop - start, per_cell))
            indices[start * per_cell : stop * per_cell] = genes.ravel()
            data[start * per_cell : stop * per_cell] = rng.geometric(0.5, genes.size)
    return path


def folder(path: Path, source: Path) -> Path:
    """The same cells as a folder of version 3, not compressed so that writing it takes no longer than reading it."""
    path.mkdir()
    adata = read_10x(source)
    coo = adata.X.tocoo()
    with (path / "matrix.mtx").open("w") as file:
        file.write(f"%%MatrixMarket matrix coordinate integer general\n{GENES} {adata.n_obs} {coo.nnz}\n")
        frame = pd.DataFrame({"gene": coo.col + 1, "cell": coo.row + 1, "value": coo.data})
        frame.to_csv(file, sep=" ", header=False, index=False)
    adata.var[["gene_ids", "gene_symbols", "feature_types"]].to_csv(
        path / "features.tsv", sep="\t", header=False, index=False
    )
    pd.Series(adata.obs_names).to_csv(path / "barcodes.tsv", header=False, index=False)
    return path


def child(task: str, path: str, small: str) -> None:
    """Prints peak, size of the counts that come, and seconds."""
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as name:
        reads: dict[str, Callable[[str], sp.csr_matrix | None]] = {
            "10x": lambda file: read_10x(file).X,
            "brain large": lambda file: read_brain_large(file, n_cells_at_once=PART).X,
            "store": lambda file: to_store(file, Path(name) / "s.h5ad", overwrite=True, progress=False) and None,
        }
        reads[task](small)
        before = status("VmRSS")
        begin = time.perf_counter()
        X = reads[task](path)
        seconds = time.perf_counter() - begin
        size = 0 if X is None else X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
        print(status("VmHWM") - before, size, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=20_000, help="of the files that are read whole")
    parser.add_argument("--many-cells", type=int, default=200_000, help="of the file that is read in parts")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        return child(*arguments.child)
    if not Path("/proc/self/status").exists():
        sys.exit("peak memory is read from /proc/self/status, which this system does not have")
    print(machine(), "\nMB = 1e6 bytes\n")
    rows, failed = [], False
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        small, whole = h5(place / "small.h5", 500, 1000), h5(place / "whole.h5", arguments.cells, 1000)
        text, small_text = folder(place / "folder", whole), folder(place / "small", small)
        many = h5(place / "many.h5", arguments.many_cells, PER_CELL)
        in_parts = 4 * PER_CELL * 8  # for each cell of a part
        for what, task, path, first, n_cells, bar in (
            ("10x .h5", "10x", whole, small, arguments.cells, 0),
            ("10x folder", "10x", text, small_text, arguments.cells, 0),
            ("brain large", "brain large", many, small, arguments.many_cells, PART * in_parts),
            ("to_store", "store", many, small, arguments.many_cells, 16_384 * in_parts + 300 * arguments.many_cells),
        ):
            command = [sys.executable, __file__, "--child", task, str(path), str(first)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            peak, size, seconds = map(float, done.stdout.split())
            bar += 2.5 * size
            failed |= peak > bar
            figures = [f"{n_cells:,}", *map(mb, (size, peak, bar)), f"{seconds:.1f}"]
            rows.append([what, *figures, "FAIL" if peak > bar else "ok"])
    print(table(["what", "cells", "CSR MB", "peak MB", "bar MB", "seconds", ""], rows))
    sys.exit(int(failed))


if __name__ == "__main__":
    main()

"""What the benchmarks share: the machine in one line, tables, real counts."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import anndata
import numpy as np
import torch
from anndata import AnnData
from scipy import sparse

DEFAULT_DATA = Path(__file__).parents[2] / "shared" / "data"


def machine() -> str:
    """Processor, cores, threads and versions."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":")[1].strip() if models else name
    packages = ", ".join(f"{p} {version(p)}" for p in ("scvi", "torch", "numpy", "numba"))
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return f"{name}, {threads}; Python {platform.python_version()}, {packages}"


def load_average() -> str:
    """How busy the machine was in the last minute, where it tells."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


def read(folder: Path, name: str) -> AnnData:
    """A benchmark file; ends the program with one line if there is none."""
    file = folder / f"{name}.h5ad"
    if not file.exists():
        sys.exit(f"{file} does not exist: say where the benchmark files are with --data FOLDER")
    return anndata.read_h5ad(file)


def most_counted(adata: AnnData, n_genes: int) -> AnnData:
    """The genes with the highest totals, in their order, with float32 counts by cell."""
    totals = np.asarray(adata.X.sum(axis=0)).ravel()
    genes = np.sort(np.argsort(-totals, kind="stable")[:n_genes])
    x = sparse.csr_matrix(adata.X[:, genes], dtype=np.float32)
    return AnnData(x, obs=adata.obs.copy(), var=adata.var.iloc[genes][[]].copy())


def resampled(adata: AnnData, n_cells: int, seed: int = 0) -> AnnData:
    """Cells of `adata` drawn with replacement, by batch (as in files that were put together), else in their order."""
    rows = np.sort(np.random.default_rng(seed).integers(0, adata.n_obs, n_cells))
    rows = rows[np.argsort(adata.obs["batch"].to_numpy()[rows], kind="stable")]
    obs = adata.obs.iloc[rows][["batch"]].copy()
    obs.index = [f"cell{i}" for i in range(n_cells)]
    return AnnData(adata.X[rows], obs=obs, var=adata.var.copy())


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as their widest cell; the first to the left, the others to the right."""
    cells = [list(map(str, row)) for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]

    def line(row: list[str]) -> str:
        padded = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        return "  ".join(padded).rstrip()

    return "\n".join([line(cells[0]), "  ".join("-" * w for w in widths), *map(line, cells[1:])])


def median(values: Sequence[float]) -> float:
    """Of at least one value."""
    return float(np.median(values))

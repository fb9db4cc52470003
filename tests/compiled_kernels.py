"""Compiled kernels on disk: none that is older than a source, and all of them there before several workers start.

Run as a script it compiles what is missing. numba compares a kernel with the file that it is in alone, not with those
whose functions became part of it; and workers that compile the same kernels at once take as long as one alone.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

import scvi

KERNELS = Path(scvi.__file__).parent / "kernels"
COMPILED = KERNELS / "__pycache__"
ALL = COMPILED / "all.compiled"
NUMBERS = ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8"]


def remove_stale() -> None:
    """Remove all compiled kernels if one of them is older than one of the sources."""
    sources = [path.stat().st_mtime for path in KERNELS.glob("*.py") if "from numba" in path.read_text("utf-8")]
    stored = [*COMPILED.glob("*.nb[ic]"), ALL]
    if any(path.stat().st_mtime < max(sources) for path in stored if path.exists()):
        for path in stored:
            path.unlink(missing_ok=True)


def compile_all() -> None:
    """Compile all kernels, in a process of its own, unless that was done before."""
    if not ALL.exists():
        subprocess.run([sys.executable, __file__], check=True)
        if COMPILED.is_dir():  # else numba keeps them where sources may not be written to
            ALL.touch()


def _call_all() -> None:
    import torch
    from scipy import sparse

    from scvi import kernels
    from scvi.kernels import GaussianHeads, networks
    from scvi.kernels.moments import Moments, Rule

    x, wide, column, row = torch.ones(64, 9), torch.ones(64, 9, requires_grad=True), torch.ones(64, 1), torch.ones(9)
    heads = [torch.ones(9, 9), torch.ones(9), torch.ones(9, 9), torch.ones(9)]
    for result in (
        kernels.nll_zinb(x, wide, column, row, wide),
        kernels.nll_nb(x, wide, column, row),
        kernels.nll_poisson(x, wide, column),
        kernels.nll_nb_mixture(x, wide, wide, wide, row),
        kernels.mixed_dropout(wide, row / 2, 0.01),
        kernels.linear(kernels.SparseRows.of(torch.eye(64)), torch.ones(9, 64, requires_grad=True), None),
        kernels.hidden_layer(wide, torch.nn.Linear(9, 9), torch.nn.BatchNorm1d(9), 0.1),
        torch.cat(GaussianHeads(wide, *heads, 1e-4).draw_with_kl(x)[:3]),
    ):
        result.sum().backward()
    networks.kept_entries(torch.arange(64), 9, 0.1)
    kernels.row_digests(kernels.SparseRows.of(x))
    half = np.array([[[1.0, 0.0]]]), np.array([[[0.0, 1.0]]])
    kernels.log_ratios(x.numpy(), np.arange(64, dtype=np.int32) % 2, half, np.zeros(1), np.ones(1))
    weights = torch.nn.Parameter(torch.ones(99))
    weights.grad = torch.ones(99)
    kernels.adam_step(Moments([weights], [0.0]), [0], torch.ones(()), Rule(1e-3, 1e-8))
    for numbers in NUMBERS:
        counts = np.eye(64, dtype=numbers)
        kernels.find_bad_count(counts)
        kernels.look_at_counts(counts)
        for layout in (counts, sparse.csr_matrix(counts)):
            kernels.rows_to_dense(layout, np.arange(64), None, 64)


if __name__ == "__main__":
    _call_all()

"""Milliseconds per training step of the models of counts, beside the bare matrix products of that step.

    python benchmarks/train_step.py --data FOLDER

A step is everything from one optimiser step to the next: drawing the cells, building the minibatch from sparse counts,
forward, backward, clipping, Adam. Its products, with 128 cells and g genes: the encoder's first layer, forward and
weight gradient; each decoder head (of LinearSCVI, from the latent state on), forward, weight gradient and input
gradient. They run with torch.mm into memory that is already there, between the steps of the same run. The smaller
products (128 x 128 and below) are left out. They are in float32 whatever the precision of the fit.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from anndata import AnnData
from common import DEFAULT_DATA, load_average, machine, median, read, table
from scipy import sparse
from torch.profiler import ProfilerActivity, profile, record_function

from scvi import AUTOZI, SCVI, TOTALVI, LinearSCVI
from scvi.cells.encode import encode
from scvi.cells.setup import declare
from scvi.fit.fit import Fit
from scvi.fit.optimizer import ClippedAdam
from scvi.fit.plan import Plan, Precision
from scvi.minibatch import Minibatch

AnyFit = TypeVar("AnyFit", bound=Fit)

CELLS, HIDDEN = 128, 128
WARM_UP = 15  # steps that are not timed
STEPS_BETWEEN_PRODUCTS = 8


def counts_of(adata: AnnData, n_genes: int, rng: np.random.Generator) -> tuple[sparse.csr_matrix, str]:
    """The genes with the highest totals; where there are too few, all genes again in cells that are shuffled."""
    by_total = np.argsort(-np.asarray(adata.X.sum(axis=0)).ravel(), kind="stable")
    x = sparse.csr_matrix(adata.X[:, by_total])
    x.sort_indices()  # as files have them: rows that are not sorted are whenever they are read
    if n_genes <= x.shape[1]:
        return sparse.csr_matrix(x[:, :n_genes]), "genes of highest total"
    copies = math.ceil(n_genes / x.shape[1])
    blocks = [x, *(x[rng.permutation(x.shape[0])] for _ in range(copies - 1))]
    return sparse.csr_matrix(sparse.hstack(blocks, format="csr")[:, :n_genes]), f"{x.shape[1]} genes, tiled"


@dataclass(frozen=True)
class Kind:
    """A model, with what its matrix products depend on."""

    estimator: type[SCVI | LinearSCVI | AUTOZI | TOTALVI]
    options: dict[str, str]
    n_heads: int  # of the decoder
    width: int = HIDDEN  # of what the heads read


KINDS = {
    "SCVI zinb": Kind(SCVI, {"gene_likelihood": "zinb"}, 2),
    "SCVI nb": Kind(SCVI, {"gene_likelihood": "nb"}, 1),
    "LinearSCVI nb": Kind(LinearSCVI, {"gene_likelihood": "nb"}, 1, width=10),
    "AUTOZI": Kind(AUTOZI, {}, 2),
}


def bare_products(
    n_genes: int,
    n_heads: int,
    width: int,
    hidden: int = HIDDEN,
    n_cells: int = CELLS,
    n_encoded: int = 1,
    device: torch.device | str = "cpu",
) -> Callable[[], float]:
    """A function that runs the products once, with so many minibatches encoded, and returns their summed seconds.

    On a GPU these are the seconds until it was told.
    """
    g, n = n_genes, n_cells
    shapes = ((n, g), (n, width), (n, hidden), (n, g), (hidden, g), (g, width))
    x, h, d_h, d_out, w_in, w_out = (torch.rand(shape, device=device) for shape in shapes)
    encoder = [(x, w_in.t()), (d_h.t(), x)]
    head = [(h, w_out.t()), (d_out.t(), h), (d_out, w_out)]
    pairs = n_encoded * encoder + n_heads * head
    results = [torch.empty(a.shape[0], b.shape[1], device=device) for a, b in pairs]

    def run() -> float:
        begin = time.perf_counter()
        for (a, b), out in zip(pairs, results, strict=True):
            torch.mm(a, b, out=out)
        return time.perf_counter() - begin

    return run


class TimedFit(Fit):
    """A fit that notes how long its steps take, and runs the bare products now and then."""

    def __init__(self, *args: object, products: Callable[[], float], **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.products = products
        self.step_seconds: list[float] = []
        self.product_seconds: list[float] = []
        self.processor_seconds: list[float] = []
        self.begin, self.processor_begin = time.perf_counter(), time.process_time()

    def on_iteration_end(self) -> None:
        super().on_iteration_end()
        self.step_seconds.append(time.perf_counter() - self.begin)
        self.processor_seconds.append(time.process_time() - self.processor_begin)
        if self.loop.n_iter % STEPS_BETWEEN_PRODUCTS == 0:
            self.products()
            self.product_seconds.append(self.products())
        self.begin, self.processor_begin = time.perf_counter(), time.process_time()


def fit_of(
    cls: type[AnyFit],
    adata: AnnData,
    kind: Kind,
    max_epochs: int,
    batch_size: int = CELLS,
    precision: Precision = "float32",
    **options: object,
) -> AnyFit:
    """A fit to all cells."""
    kind.estimator.setup_anndata(adata)
    module = kind.estimator(adata, **kind.options, seed=0).module
    data, cells = encode(adata, declare(adata)[0]), np.arange(adata.n_obs)
    plan = Plan(max_epochs=max_epochs, batch_size=batch_size, precision=precision)
    return cls(module, data, cells, cells[:0], plan, seed=0, show_progbar=False, **options)  # type: ignore[arg-type]


def measure(
    adata: AnnData, kind: Kind, n_steps: int, n_cells: int, precision: Precision = "float32"
) -> tuple[float, float, float]:
    """Median milliseconds of a step, those of processors that it takes, and those of its products."""
    products = bare_products(adata.n_vars, kind.n_heads, kind.width, n_cells=n_cells)
    max_epochs = math.ceil((n_steps + WARM_UP) / (adata.n_obs // n_cells))
    fit = fit_of(TimedFit, adata, kind, max_epochs, n_cells, precision, products=products)
    fit.fit()
    product_seconds = fit.product_seconds[WARM_UP // STEPS_BETWEEN_PRODUCTS :]
    measured = fit.step_seconds[WARM_UP:], fit.processor_seconds[WARM_UP:], product_seconds
    step, of_processors, of_products = (1e3 * median(seconds) for seconds in measured)
    return step, of_processors, of_products


def measure_totalvi(adata: AnnData, n_steps: int) -> tuple[float, float]:
    """The same for totalVI: 256 hidden units; the head of the genes also sees the latent state and the batch."""
    TOTALVI.setup_anndata(adata, "protein_counts", "protein_names", batch_key="batch")
    model = TOTALVI(adata, seed=0)
    data, cells = model._cells.data, np.arange(adata.n_obs)
    epochs = math.ceil((n_steps + WARM_UP) / (adata.n_obs // CELLS))
    plan = Plan(max_epochs=epochs, batch_size=CELLS, precision="float32")
    products = bare_products(adata.n_vars, 1, width=256 + 20 + 2, hidden=256)
    fit = TimedFit(model.module, data, cells, cells[:0], plan, seed=0, show_progbar=False, products=products)
    fit.fit()
    product_seconds = fit.product_seconds[WARM_UP // STEPS_BETWEEN_PRODUCTS :]
    return 1e3 * median(fit.step_seconds[WARM_UP:]), 1e3 * median(product_seconds)


PARTS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::addmm_"),
    "likelihood kernel": ("_RowLoss", "_RowLossBackward"),
    "dropout of the mixture": ("MixedDropout", "MixedDropoutBackward"),
    "draws of delta": ("aten::_standard_gamma", "aten::_standard_gamma_grad"),
    "first layer": ("SparseLinear", "SparseLinearBackward", "aten::log1p"),
    "hidden layers": ("Hidden", "HiddenBackward"),
    "posterior and draw": ("GaussianDraw", "GaussianDrawBackward"),
    "clipping and Adam": ("optimiser",),
    "loading": ("loading",),
}


class ProfiledFit(Fit):
    """A fit whose loading and optimiser show in a profile under these names."""

    def data_loaders_loop(self) -> Iterator[Minibatch]:
        minibatches = super().data_loaders_loop()
        while True:
            with record_function("loading"):
                found = next(minibatches, None)
            if found is None:
                return
            yield found

    def make_optimizer(self) -> ClippedAdam:
        optimizer = super().make_optimizer()
        optimizer.clipped_step = record_function("optimiser")(optimizer.clipped_step)  # type: ignore[method-assign]
        return optimizer


def profiled(adata: AnnData, kind: Kind, precision: Precision) -> list[list[object]]:
    """Milliseconds of the parts of a step, as torch's profiler sees them, which itself slows small operations down."""
    fit = fit_of(ProfiledFit, adata, kind, max_epochs=3, precision=precision)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        begin = time.perf_counter()
        fit.fit()
        seconds = time.perf_counter() - begin
    own = {event.key: event.self_cpu_time_total / 1e3 / fit.loop.n_iter for event in found.key_averages()}
    rows: list[list[object]] = [[part, sum(own.pop(name, 0.0) for name in names)] for part, names in PARTS.items()]
    rows.append(["other operations of torch", sum(own.values())])
    whole = 1e3 * seconds / fit.loop.n_iter
    rows.append(["Python between them", whole - sum(milliseconds for _, milliseconds in rows)])
    return [[part, f"{milliseconds:.2f}", f"{milliseconds / whole:.0%}"] for part, milliseconds in rows]


FIRST_CALLS = """
import time, numpy as np, scipy.sparse, torch
from scvi import kernels
from scvi.fit.optimizer import ClippedAdam
x, wide, column, row = torch.ones(256, 9), torch.ones(256, 9, requires_grad=True), torch.ones(256, 1), torch.ones(9)
counts = scipy.sparse.csr_matrix(np.ones((256, 9), np.int32))
eye = scipy.sparse.eye(256, format="csr", dtype=np.float32)
rows = kernels.SparseRows.of(torch.eye(256))
weight, norm = torch.ones(9, 256, requires_grad=True), torch.nn.BatchNorm1d(9)
large = [torch.nn.Parameter(torch.ones(300, 100))]
large[0].grad = torch.ones(300, 100)
optimizer = ClippedAdam(large, 1e-3, 1e-8)
calls = {
    "zinb": lambda: kernels.nll_zinb(x, wide, column, row, wide).sum().backward(),
    "nb": lambda: kernels.nll_nb(x, wide, column, row).sum().backward(),
    "mixed_dropout": lambda: kernels.mixed_dropout(wide, row / 2, 0.01).sum().backward(),
    "poisson": lambda: kernels.nll_poisson(x, wide, column).sum().backward(),
    "proteins": lambda: kernels.nll_nb_mixture(x, wide, wide, wide, row).sum().backward(),
    "first_layer": lambda: kernels.linear(rows, weight, None).sum().backward(),
    "hidden_layer": lambda: kernels.hidden_layer(wide, torch.nn.Linear(9, 9), norm, 0.1).sum().backward(),
    "Adam": lambda: optimizer.clipped_step(torch.tensor(0.0)),
    "rows_to_sparse": lambda: kernels.rows_to_sparse(eye, np.arange(256), None, 256),
    "rows_to_dense": lambda: kernels.rows_to_dense(counts, np.arange(256), None, 9),
    "find_bad_count": lambda: kernels.find_bad_count(counts.data),
}
for name, call in calls.items():
    begin = time.perf_counter()
    call()
    print(name, time.perf_counter() - begin)
"""


def first_calls() -> list[list[object]]:
    """Seconds of the first call of each kernel, numba's import included, without and with compiled code on disk."""
    with tempfile.TemporaryDirectory() as folder:
        runs = []
        for _ in range(2):
            env = {**os.environ, "NUMBA_CACHE_DIR": folder}
            command = [sys.executable, "-c", FIRST_CALLS]
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
            runs.append(dict(line.split() for line in done.stdout.splitlines()))
    rows: list[list[object]] = [[name, *(f"{float(run[name]):.2f}" for run in runs)] for name in runs[0]]
    return [*rows, ["all", *(f"{sum(map(float, run.values())):.2f}" for run in runs)]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument("--sets", nargs="+", default=["pbmc3k", "zeisel_cortex"], help="files to take counts from")
    parser.add_argument("--models", nargs="+", choices=KINDS, default=list(KINDS), help="models")
    parser.add_argument("--genes", nargs="+", type=int, default=[2000, 10000])
    parser.add_argument("--steps", type=int, default=120, help="timed steps of each fit")
    parser.add_argument("--cells", type=int, default=CELLS, help="cells of a minibatch")
    parser.add_argument("--threads", type=int, help="torch threads")
    parser.add_argument("--precision", nargs="+", choices=["float32", "bf16"], default=["float32"], help="in turn")
    parser.add_argument("--profile", action="store_true", help="show what the steps of the first set are made of")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    print(machine())
    print(
        f"load average {load_average()}; medians of {arguments.steps} steps of {arguments.cells} cells; "
        "products interleaved\n"
    )
    rows = []
    for name in arguments.sets:
        source = read(arguments.data, name)
        for n_genes in arguments.genes:
            x, how = counts_of(source, n_genes, np.random.default_rng(0))
            share = x.nnz / (x.shape[0] * n_genes)
            for model, precision in itertools.product(arguments.models, arguments.precision):
                adata = AnnData(x, obs=source.obs[[]].copy())
                step, busy, products = measure(adata, KINDS[model], arguments.steps, arguments.cells, precision)
                figures = [f"{step:.2f}", f"{busy:.2f}", f"{products:.2f}", f"{step / products:.2f}"]
                rows.append([f"{name} ({how})", f"{n_genes:,}", f"{share:.0%}", model, precision, *figures])
    header = ["counts", "genes", "non-zero", "model", "precision", "step ms", "of processors", "products ms", "ratio"]
    print(table(header, rows))
    proteins = read(arguments.data, "pbmc_cite_10k_5k")
    step, bare = measure_totalvi(proteins, arguments.steps)
    print(
        f"\ntotalVI, {proteins.n_vars:,} genes and 14 proteins of pbmc_cite_10k_5k: step {step:.2f} ms, products "
        f"{bare:.2f} ms, ratio {step / bare:.2f}"
    )
    if arguments.profile:
        source = read(arguments.data, arguments.sets[0])
        for n_genes in arguments.genes:
            x, _ = counts_of(source, n_genes, np.random.default_rng(0))
            print(f"\nA step of {arguments.models[0]} on {arguments.sets[0]}, {n_genes:,} genes:\n")
            adata, kind = AnnData(x, obs=source.obs[[]].copy()), KINDS[arguments.models[0]]
            print(table(["part", "ms", "share"], profiled(adata, kind, arguments.precision[-1])))
    print("\nFirst calls, seconds:\n")
    print(table(["kernel", "nothing compiled", "compiled earlier"], first_calls()))


if __name__ == "__main__":
    main()

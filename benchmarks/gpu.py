"""What a GPU makes of training: one run of under four minutes on one card, without network and without files.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu

The second has the CPU in the place of the GPU, at small sizes: it takes the torch operations that a GPU would, asks no
step whether it was good, and has nothing to count of what only a GPU has. Counts are simulated: eight types of cells,
negative binomial, genes of very different means, 20 proteins, half of the cells with a label.

Parts, each a process of its own, so that an error of the card in one leaves the others alone. What is not supported,
or finds no time, is said in its row.

    losses    of 20 steps, beside those of compiled code on the CPU with the same cells and the same random numbers
    speed     cells a second, a step beside its bare float32 products (see train_step.py), memory at the most
    waits     per step within an epoch: calls that wait for the card, kernels, and the share of time that it computes
    graph     forward and backward of one dense minibatch, without optimiser, replayed as a CUDA graph
    compiled  the same through torch.compile, with the seconds that compiling takes
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any, TypeVar

import numpy as np
import torch
from anndata import AnnData
from common import load_average, machine, median, table
from scipy import sparse
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.profiler import ProfilerActivity, profile
from train_step import bare_products

from scvi import SCANVI, SCVI, TOTALVI, kernels
from scvi.fit.fit import Fit
from scvi.fit.plan import Plan, ProteinPlan, SemiSupervisedPlan

AnyFit = TypeVar("AnyFit", bound=Fit)

PLANS = {"SCVI": Plan, "SCANVI": SemiSupervisedPlan, "TOTALVI": ProteinPlan}
PRODUCTS: dict[str, dict[str, int]] = {  # of a step, see `bare_products`
    "SCVI": {"n_heads": 2, "width": 128},
    "SCANVI": {"n_heads": 2, "width": 128, "n_encoded": 2},  # labelled cells are encoded beside all cells
    "TOTALVI": {"n_heads": 1, "width": 256 + 20 + 2, "hidden": 256},
}
N_SIMULATED, N_TYPES, N_PROTEINS = 2048, 8, 20
COMPARED = 20  # steps
BOUND = 1e-4  # of their losses
WARM_UP = 8  # steps that are not measured
WAITING = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy")  # of the whole device waits the watch alone


@dataclass(frozen=True)
class Sizes:
    """What is measured, and until when."""

    device: torch.device
    genes: Sequence[int]
    cells: Sequence[int]
    steps: int
    until: float  # seconds of `time.time`


# ---- cells and fits --------------------------------------------------------------------------------------------------


def simulated(n_cells: int, n_genes: int) -> AnnData:
    """Some thousand cells, repeated in another order where more are wanted."""
    rng = np.random.default_rng(0)
    kept, n = np.exp(rng.normal(0, 1.6, n_genes)), min(n_cells, N_SIMULATED)
    types = rng.integers(0, N_TYPES, n)
    means = kept * np.exp(rng.normal(0, 0.5, (N_TYPES, n_genes)))
    means *= (50 + n_genes**0.85) / means.sum(1, keepdims=True)
    sizes = rng.lognormal(0, 0.4, (n, 1))
    x = rng.poisson(means[types] * sizes * rng.gamma(2.0, 0.5, (n, n_genes))).astype(np.float32)
    proteins = rng.poisson(rng.gamma(2.0, 10.0, (N_TYPES, N_PROTEINS))[types] * rng.gamma(2.0, 0.5, (n, N_PROTEINS)))
    rows = np.arange(n_cells) % n
    adata = AnnData(sparse.csr_matrix(x)[rows])
    adata.obs_names = [f"cell{i}" for i in range(n_cells)]
    adata.obs["batch"] = [f"batch{i}" for i in rng.integers(0, 2, n_cells)]
    is_known = rng.random(n_cells) < 0.5
    adata.obs["label"] = [f"type{k}" if known else "unknown" for k, known in zip(types[rows], is_known, strict=True)]
    adata.obsm["proteins"] = proteins[rows].astype(np.float32)
    return adata


def made(name: str, adata: AnnData, **options: Any) -> Any:
    """A model of the cells, not fitted."""
    if name == "TOTALVI":
        TOTALVI.setup_anndata(adata, "proteins", batch_key="batch")
        dropout = {f"dropout_rate_{part}": rate for rate in options.values() for part in ("encoder", "decoder")}
        return TOTALVI(adata, seed=0, **dropout)
    if name == "SCANVI":
        SCANVI.setup_anndata(adata, labels_key="label", unlabeled_category="unknown", batch_key="batch")
        return SCANVI(adata, seed=0, **options)
    SCVI.setup_anndata(adata, batch_key="batch")
    return SCVI(adata, gene_likelihood="zinb", seed=0, **options)


def fit_of(
    cls: type[AnyFit], model: Any, n_cells: int, n_steps: int, device: torch.device | str, **options: Any
) -> AnyFit:
    """A fit of so many steps to all cells."""
    data, plan = model._cells.data, PLANS[type(model).__name__]
    cells, epochs = np.arange(len(data)), math.ceil(n_steps / (len(data) // n_cells))
    precision = options.pop("precision", "float32")
    planned = plan(max_epochs=epochs, batch_size=n_cells, max_steps=n_steps, precision=precision)
    return cls(model.module, data, cells, cells[:0], planned, seed=0, device=device, show_progbar=False, **options)


class NotedFit(Fit):
    """A fit that keeps the losses of its steps."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.losses: list[Tensor] = []
        loss = self.objective.loss

        def noted(mb: Any, kl_weight: float) -> tuple[Tensor, dict[str, Tensor]]:
            found, terms = loss(mb, kl_weight)
            self.losses.append(found.detach())
            return found, terms

        self.objective.loss = noted  # type: ignore[method-assign]


class MeasuredFit(Fit):
    """A fit that is watched from the end of its warm-up on, and waits for the device there and after its last step."""

    def __init__(
        self, *args: Any, watch: Callable[[], AbstractContextManager[Any]] = nullcontext, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.watch, self.seconds = watch, math.nan
        self.watching: AbstractContextManager[Any] = nullcontext()

    def on_iteration_end(self) -> None:
        super().on_iteration_end()
        if self.loop.n_iter == WARM_UP:
            finish(self.split.device)
            self.watching = self.watch()
            self.watching.__enter__()
            self.seconds = -time.perf_counter()
        elif self.loop.n_iter == self.n_steps:
            finish(self.split.device)
            self.seconds += time.perf_counter()
            self.watching.__exit__(None, None, None)


def finish(device: torch.device) -> None:
    """Waits until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def in_the_place_of_a_gpu(device: torch.device) -> Iterator[None]:
    """Inside, a CPU computes with the torch operations that a GPU would."""
    compiled = kernels._compiled
    if device.type == "cpu":
        kernels._compiled = lambda *given: False
    try:
        yield
    finally:
        kernels._compiled = compiled


def run_as_on_a_gpu(fit: Fit) -> None:
    """Fits, and asks no step whether it was good before the epoch ends."""
    fit.steps.waits = False
    with in_the_place_of_a_gpu(fit.split.device):
        fit.fit()


class DrawnAlike(TorchFunctionMode):
    """Inside, what is drawn for a device is drawn on the CPU, so that every device is given the same numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if func not in (torch.randn, torch.rand) or given.get("generator") is None:
            return func(*args, **given)
        device = given.pop("device", "cpu")
        return func(*args, **{**given, "generator": self.generator}).to(device)


# ---- parts -----------------------------------------------------------------------------------------------------------

Row = list[object]


class NotHere(Exception):
    """What this device does not have."""


def attempt(name: Sequence[object], sizes: Sizes, measure: Callable[..., Row], *given: Any, **options: Any) -> Row:
    """A row of what was measured, or of why it was not."""
    if time.time() > sizes.until:
        return [*name, "left out: no time"]
    try:
        return [*name, *measure(*given, **options)]
    except NotHere as reason:
        return [*name, str(reason)]
    except Exception as error:  # whatever torch, a driver or a compiler have to say
        return [
            *name,
            f"failed: {type(error).__name__}: {str(error).strip().splitlines()[0][:90] if str(error) else ''}",
        ]


def show(header: Sequence[str], rows: Sequence[Row]) -> None:
    """A table; a row that is too short has a reason in its last cell, which stands below."""
    whole = [row for row in rows if len(row) == len(header)]
    print(table(header, whole) if whole else "nothing was measured", flush=True)
    for row in rows:
        if len(row) != len(header):
            print(", ".join(map(str, row)), flush=True)
    print(flush=True)


def losses(sizes: Sizes) -> None:
    """Of the first steps, on the device and by compiled code on the CPU."""

    def measure(name: str, n_genes: int) -> Row:
        n_cells, found = min(max(sizes.cells), 128), []  # what rounding makes of a step grows sooner with fewer cells
        adata = simulated(COMPARED // 2 * n_cells, n_genes)  # two epochs
        for device in (torch.device("cpu"), sizes.device):
            fit = fit_of(NotedFit, made(name, adata, dropout_rate=0.0), n_cells, COMPARED, device)
            with DrawnAlike():
                fit.fit() if not found else run_as_on_a_gpu(fit)
            found.append(torch.stack([loss.cpu() for loss in fit.losses]).double())
        worst = float(((found[1] - found[0]) / found[0]).abs().max())
        said = "yes" if worst <= BOUND else "NO"
        return [f"{float(found[0][0]):.1f}", f"{float(found[0][-1]):.1f}", f"{worst:.1e}", said]

    header = ["model", "genes", "first loss", "last loss", "largest difference", f"within {BOUND:g}"]
    show(header, [attempt([name, g], sizes, measure, name, g) for g in sizes.genes[:1] for name in PLANS])


def speed(sizes: Sizes) -> None:
    """Cells a second, beside bare products, and memory."""

    @lru_cache(maxsize=1)
    def model_of(name: str, n_genes: int) -> Any:
        return made(name, simulated(4 * max(sizes.cells), n_genes))

    def measure(name: str, n_genes: int, n_cells: int, **options: Any) -> Row:
        model = model_of(name, n_genes)
        if sizes.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(sizes.device)
        fit = fit_of(MeasuredFit, model, n_cells, WARM_UP + sizes.steps, sizes.device, **options)
        run_as_on_a_gpu(fit)
        step = fit.seconds / sizes.steps
        memory = torch.cuda.max_memory_allocated(sizes.device) / 2**20 if sizes.device.type == "cuda" else math.nan
        run = bare_products(n_genes, **PRODUCTS[name], n_cells=n_cells, device=sizes.device)
        products = seconds_of(run, sizes.device)
        figures = [f"{n_cells / step:,.0f}", f"{1e3 * step:.2f}", f"{1e3 * products:.3f}", f"{step / products:.2f}"]
        return [*figures, "not known" if math.isnan(memory) else f"{memory:,.0f}"]

    rows = []
    for name, g in product(PLANS, sizes.genes):
        rows += [attempt([name, f"{g:,}", f"{n:,}"], sizes, measure, name, g, n) for n in sizes.cells]
        if name == "SCVI":
            n = max(sizes.cells)
            label = ["SCVI, bf16", f"{g:,}", f"{n:,}"]
            rows.append(attempt(label, sizes, measure, name, g, n, precision="bf16"))
    header = ["model", "genes", "minibatch", "cells/s", "step ms", "float32 products ms", "ratio", "memory MB"]
    show(header, rows)


def waits(sizes: Sizes) -> None:
    """Calls that wait, and how busy the device is."""
    places: Counter[str] = Counter()

    @contextmanager
    def watched() -> Iterator[None]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield
            finally:
                torch.cuda.set_sync_debug_mode("default")
        places.update(f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message))

    def measure(name: str, n_genes: int) -> Row:
        if sizes.device.type != "cuda":
            raise NotHere("counted on CUDA devices only")
        n_cells, n_steps = min(sizes.cells), WARM_UP + sizes.steps
        model, before = made(name, simulated(n_cells * n_steps, n_genes)), places.total()
        run_as_on_a_gpu(fit_of(MeasuredFit, model, n_cells, n_steps, sizes.device, watch=watched))
        seen = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
        fit = fit_of(MeasuredFit, model, n_cells, n_steps, sizes.device, watch=lambda: seen)
        run_as_on_a_gpu(fit)
        events = seen.key_averages()
        numbers = [
            places.total() - before,
            sum(event.count for event in events if event.key in WAITING),
            sum(event.count for event in events if event.key.startswith("cudaLaunchKernel")),
        ]
        busy = sum(event.self_device_time_total for event in events) / 1e6 / fit.seconds
        return [*(f"{number / sizes.steps:.2f}" for number in numbers), f"{busy:.0%}"]

    header = ["model", "genes", "waits (torch warns)", "waits (profiler)", "kernels", "device busy"]
    show(header, [attempt([name, f"{g:,}"], sizes, measure, name, g) for name in PLANS for g in sizes.genes])
    for place, number in places.most_common(12):
        print(f"{number:6d} waits at {place}", flush=True)


def _one_minibatch(sizes: Sizes, n_genes: int) -> tuple[Callable[[], Tensor], list[torch.nn.Parameter]]:
    """The loss of SCVI for one dense minibatch on the device, and its parameters."""
    n_cells = min(sizes.cells)
    model = made("SCVI", simulated(n_cells, n_genes))
    module = model.module.to(sizes.device).train()
    mb = model._cells.data.minibatch(np.arange(n_cells)).to(sizes.device)
    mb = replace(mb, counts=mb.x)
    return lambda: module.loss(mb).objective(1.0), list(module.parameters())


def _pass(loss: Callable[[], Tensor], parameters: Sequence[torch.nn.Parameter]) -> Callable[[], object]:
    """Forward and backward."""

    def run() -> None:
        for p in parameters:
            p.grad = None
        loss().backward()

    return run


def graph(sizes: Sizes) -> None:
    """As a CUDA graph."""

    def measure(n_genes: int) -> Row:
        if sizes.device.type != "cuda":
            raise NotHere("on CUDA devices only")
        once = _pass(*_one_minibatch(sizes, n_genes))
        plain = seconds_of(once, sizes.device)
        aside = torch.cuda.Stream(sizes.device)
        aside.wait_stream(torch.cuda.current_stream(sizes.device))
        with torch.cuda.stream(aside):  # memory and libraries are to be there before the recording
            for _ in range(3):
                once()
        torch.cuda.current_stream(sizes.device).wait_stream(aside)
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            once()
        return _compared(plain, seconds_of(recorded.replay, sizes.device))

    header = ["genes", "plain ms", "graph ms", "ratio"]
    show(header, [attempt([f"{g:,}"], sizes, measure, g) for g in sizes.genes])


def compiled(sizes: Sizes) -> None:
    """Through torch.compile."""

    def measure(n_genes: int) -> Row:
        loss, parameters = _one_minibatch(sizes, n_genes)
        with in_the_place_of_a_gpu(sizes.device):
            plain = seconds_of(_pass(loss, parameters), sizes.device)
            begin, faster = time.perf_counter(), _pass(torch.compile(loss), parameters)
            faster()
            finish(sizes.device)
            seconds = time.perf_counter() - begin
            return [*_compared(plain, seconds_of(faster, sizes.device)), f"{seconds:.0f}"]

    header = ["genes", "plain ms", "compiled ms", "ratio", "compiling, s"]
    show(header, [attempt([f"{g:,}"], sizes, measure, g) for g in sizes.genes])


def _compared(plain: float, other: float) -> Row:
    return [f"{1e3 * plain:.2f}", f"{1e3 * other:.2f}", f"{other / plain:.2f}"]


def seconds_of(call: Callable[[], object], device: torch.device, calls: int = 5) -> float:
    """Of one call, many in a row: the median of five such rows."""
    for _ in range(3):
        call()
    found = []
    for _ in range(5):
        finish(device)
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        finish(device)
        found.append((time.perf_counter() - begin) / calls)
    return median(found)


PARTS = {part.__name__: part for part in (losses, speed, waits, graph, compiled)}


# ---- the run ---------------------------------------------------------------------------------------------------------


def in_turn(parts: Sequence[str], given: Sequence[str], until: float) -> None:
    """Each part as a process, which is ended some seconds after the time is over."""
    for part in parts:
        left = until - time.time()
        if left <= 0:
            print(f"{part}: left out, no time\n", flush=True)
            continue
        command = [sys.executable, __file__, *given, "--parts", part, "--here", "--until", str(until)]
        try:
            code = subprocess.run(command, timeout=left + 5).returncode
            if code != 0:
                print(f"{part}: ended with code {code}\n", flush=True)
        except subprocess.TimeoutExpired:
            print(f"{part}: ended, the time was over\n", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--genes", nargs="+", type=int, help="(default: 2000 10000; on a CPU 200 500)")
    parser.add_argument("--cells", nargs="+", type=int, help="of a minibatch (default: 128 1024 4096; on a CPU 32 128)")
    parser.add_argument("--steps", type=int, help="measured ones (default: 30; on a CPU 5)")
    parser.add_argument("--seconds", type=float, default=230, help="after which nothing new begins")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--here", action="store_true", help="no process for each part")
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    on_gpu = arguments.device.type == "cuda"
    if on_gpu and not torch.cuda.is_available():
        sys.exit("no GPU is here that torch can use: --device cpu runs everything with the CPU in its place")
    until = arguments.until or time.time() + arguments.seconds
    if not arguments.here:
        card = torch.cuda.get_device_name(arguments.device) if on_gpu else "the CPU in the place of a GPU"
        print(f"{card}; {machine()}\nload average {load_average()}\n", flush=True)
        given = list(sys.argv[1:] if argv is None else argv)
        in_turn(arguments.parts, given, until)
        return
    genes = arguments.genes or ([2000, 10000] if on_gpu else [200, 500])
    cells = arguments.cells or ([128, 1024, 4096] if on_gpu else [32, 128])
    sizes = Sizes(arguments.device, genes, cells, arguments.steps or (30 if on_gpu else 5), until)
    for part in arguments.parts:
        print(f"{part}: {(PARTS[part].__doc__ or '').splitlines()[0]}\n", flush=True)
        PARTS[part](sizes)


if __name__ == "__main__":
    main()

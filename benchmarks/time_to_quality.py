"""Seconds until a fit is as good as the reference after its 400 epochs: the default, other recipes, the reference's.

    python benchmarks/time_to_quality.py --data FOLDER
    python benchmarks/time_to_quality.py --data FOLDER --sets large --recipes default 4x128 4x256@0.0078

Protocol and reference figures: benchmarks/quality.py. A recipe is 'default' or 'quick', which `SCVI.train()` decides;
'plain', the recipe of the reference on this package (PLAIN of benchmarks/training_study.py: constant learning rate
1e-3, Adam's epsilon 0.01, weight decay 1e-6, 128 cells a step, a KL weight that rises over all epochs, no starting
values); or epochs x cells a step @ peak learning rate, of which the last may be left out. All run on this package, one
after the other in one process, so their seconds compare; those of the reference are of another machine and are not
used.

large: cells of pbmc_cite_10k_5k, 1,000 genes, drawn with replacement to --cells, each count kept with probability 1/2
so that no two are the same; the held-out tenth is of other cells. There is no reference: it is the ELBO of the first
recipe at its end less a half percent.

The held-out ELBO is computed after every epoch (one posterior draw a cell, always the same noise), outside of the
seconds. --cpu-time counts the seconds of the processor: with one thread those of the fit alone, on a machine that is
busy with other things.

reached: the first epoch whose held-out ELBO is that of the reference, and the seconds until then. ELBO: at the end.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from anndata import AnnData
from common import DEFAULT_DATA, load_average, machine, most_counted, read, resampled, table
from quality import TASKS, load, split
from scipy import sparse
from training_study import DATA_SETS, PLAIN, no_start, training_initialise

from scvi import SCVI
from scvi.cells.cell_data import CellData
from scvi.cells.encode import encode
from scvi.estimators import base
from scvi.fit.callbacks import Training
from scvi.queries import likelihood

HEADER = ("", "recipe", "reached: epoch", "seconds", "epochs", "seconds", "ELBO", "reference")
LARGE = "large"
SHORT_OF = 0.005  # of the default's ELBO, where there is no reference


@dataclass
class Watch:
    """Notes the held-out ELBO after each epoch, and the seconds until then without those of the noting."""

    held_out: CellData
    clock: Callable[[], float]
    elbo: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.begin = self.clock()

    def on_epoch_end(self, training: Training, _: Training) -> None:
        now = self.clock()
        self.seconds.append(now - self.begin)
        minibatch = self.held_out.minibatch(np.arange(len(self.held_out)))
        draws = torch.Generator().manual_seed(0)
        self.elbo.append(float(likelihood.elbo(training.module, [minibatch], draws).mean()))  # type: ignore[arg-type]
        self.begin += self.clock() - now

    def reached(self, elbo: float) -> int | None:
        """The first epoch, from 1, that is as good; None if there is none."""
        return next((epoch for epoch, value in enumerate(self.elbo, 1) if value >= elbo), None)


def options_of(recipe: str, epochs_plain: int) -> dict[str, Any]:
    """Arguments of `train`."""
    named = {"default": {}, "quick": {"preset": "quick"}, "plain": {**PLAIN, "max_epochs": epochs_plain}}
    if recipe in named:
        return named[recipe]
    parts = re.fullmatch(r"(\d+)x(\d+)(?:@([\d.e-]+))?", recipe)
    if parts is None:
        raise SystemExit(f"{recipe!r} is not default, quick, plain or epochs x cells @ learning rate, as 20x128@0.008")
    rate = {} if parts[3] is None else {"lr": float(parts[3])}
    return {"max_epochs": int(parts[1]), "batch_size": int(parts[2]), **rate}


def cells_of(folder: Path, name: str, n_cells: int) -> tuple[AnnData, AnnData, str | None]:
    """Cells to fit, those held out, and the column of their batches."""
    if name != LARGE:
        return *split(load(folder, name)), TASKS[name].batch
    fitted, held_out = split(most_counted(read(folder, "pbmc_cite_10k_5k"), 1000))
    return thinned(resampled(fitted, n_cells)), thinned(held_out), "batch"


def thinned(adata: AnnData) -> AnnData:
    """Each count kept with probability 1/2."""
    counts = np.random.default_rng(0).binomial(adata.X.data.astype(np.int64), 0.5).astype(np.float32)
    x = sparse.csr_matrix((counts, adata.X.indices, adata.X.indptr), shape=adata.shape)
    x.eliminate_zeros()
    return AnnData(x, obs=adata.obs.copy(), var=adata.var.copy())


def watch(
    train: AnnData, held_out: AnnData, batch: str | None, recipe: str, epochs_plain: int, clock: Callable[[], float]
) -> Watch:
    """One fit to all of `train`, seed 0."""
    SCVI.setup_anndata(train, batch_key=batch)
    model = SCVI(train, seed=0)
    watched = Watch(encode(held_out, model.schema), clock)
    options = {"train_size": 1.0, "seed": 0, "enable_progress_bar": False, **options_of(recipe, epochs_plain)}
    with mock.patch.object(base, "initialise", no_start if recipe == "plain" else training_initialise):
        model.train(callbacks=[watched], **options)
    return watched


def row(name: str, recipe: str, fit: Watch, reference: float) -> list[str]:
    epoch = fit.reached(reference)
    reached = ["never", ""] if epoch is None else [str(epoch), f"{fit.seconds[epoch - 1]:.1f}"]
    end = [str(len(fit.elbo)), f"{fit.seconds[-1]:.1f}", f"{fit.elbo[-1]:.1f}", f"{reference:.1f}"]
    return [name, recipe, *reached, *end]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument("--sets", nargs="+", choices=(*DATA_SETS, LARGE), default=list(DATA_SETS), help="data sets")
    parser.add_argument("--recipes", nargs="+", default=["default", "plain"], metavar="RECIPE", help="default plain")
    parser.add_argument("--epochs-plain", type=int, default=400, help="epochs of the plain recipe")
    parser.add_argument("--cells", type=int, default=200_000, help=f"of {LARGE}")
    parser.add_argument("--cpu-time", action="store_true", help="seconds of the processor, not of the clock")
    parser.add_argument("--threads", type=int, help="torch threads")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    print(f"{machine()}\nload average {load_average()}\n", flush=True)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    rows, ratios = [], []
    for i, name in enumerate(arguments.sets):
        fitted, held_out, batch = cells_of(arguments.data, name, arguments.cells)
        if i == 0:
            watch(fitted[:: -(-fitted.n_obs // 300)].copy(), held_out, batch, "1x64", 1, clock)  # the kernels compile
        fits = {
            recipe: watch(fitted, held_out, batch, recipe, arguments.epochs_plain, clock)
            for recipe in arguments.recipes
        }
        first = next(iter(fits.values()))
        reference = (1 + SHORT_OF) * first.elbo[-1] if name == LARGE else TASKS[name].reference["elbo"]
        rows += [
            row(name if recipe == arguments.recipes[0] else "", recipe, fit, reference) for recipe, fit in fits.items()
        ]
        if {"default", "plain"} <= set(fits):
            default, whole = fits["default"], fits["plain"].seconds[-1]
            epoch = default.reached(reference)
            until = "never" if epoch is None else f"{whole / default.seconds[epoch - 1]:.1f}"
            ratios.append([name, until, f"{whole / default.seconds[-1]:.1f}"])
    print(table(HEADER, rows))
    if ratios:
        print("\nseconds of the whole plain fit, divided by those of the default\n")
        print(table(("", "until reached", "whole fit"), ratios))


if __name__ == "__main__":
    main()

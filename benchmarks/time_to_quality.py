"""Seconds until a default fit is as good as the reference after its 400 epochs, beside the reference's recipe here.

    python benchmarks/time_to_quality.py --data FOLDER

Protocol and reference figures: benchmarks/quality.py. default: the plan and starting values of `SCVI.train()`. plain:
the recipe of the reference (PLAIN of benchmarks/training_study.py: constant learning rate 1e-3, Adam's epsilon 0.01,
weight decay 1e-6, 128 cells a step, a KL weight that rises over all epochs, no starting values). Both run on this
package, one after the other in one process, so their seconds compare; the seconds of the reference are of another
machine and are not used.

The held-out ELBO is computed after every epoch (one posterior draw a cell, always the same noise), outside of the
seconds. --cpu-time counts the seconds of the processor: with one thread those of the fit alone, on a machine that is
busy with other things.

reached: the first epoch whose held-out ELBO is that of the reference, and the seconds until then. ELBO: at the end.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from common import DEFAULT_DATA, load_average, machine, table
from quality import TASKS, load, split
from training_study import DATA_SETS, PLAIN

from scvi import SCVI
from scvi.cells.cell_data import CellData
from scvi.cells.encode import encode
from scvi.fit.fit import Fit
from scvi.fit.plan import make_plan
from scvi.fit.starting_values import initialise
from scvi.queries import likelihood

HEADER = ("", "recipe", "reached: epoch", "seconds", "epochs", "seconds", "ELBO", "reference")


class WatchedFit(Fit):
    """A fit that notes the held-out ELBO after each epoch, and the seconds until then without those of the noting."""

    def __init__(
        self, *args: object, held_out: CellData, clock: Callable[[], float], begin: float, **kwargs: object
    ) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.held_out, self.clock, self.begin = held_out, clock, begin
        self.elbo: list[float] = []
        self.seconds: list[float] = []

    def on_epoch_end(self) -> bool:
        go_on = super().on_epoch_end()
        now = self.clock()
        self.seconds.append(now - self.begin)
        minibatch = self.held_out.minibatch(np.arange(len(self.held_out)))
        draws = torch.Generator().manual_seed(0)
        self.elbo.append(float(likelihood.elbo(self.model, [minibatch], draws).mean()))
        self.begin += self.clock() - now
        return go_on

    def reached(self, elbo: float) -> int | None:
        """The first epoch, from 1, that is as good; None if there is none."""
        return next((epoch for epoch, value in enumerate(self.elbo, 1) if value >= elbo), None)


def watch(
    adata: AnnData, batch: str | None, options: dict[str, Any], start_values: bool, clock: Callable[[], float]
) -> WatchedFit:
    """What `SCVI(adata, seed=0).train(train_size=1.0, seed=0, **options)` does, watched."""
    train, held_out = split(adata)
    SCVI.setup_anndata(train, batch_key=batch)
    model = SCVI(train, seed=0)
    data, cells = encode(train, model.schema), np.arange(train.n_obs)
    plan_options = {name: value for name, value in options.items() if name != "plan_kwargs"}
    plan = make_plan(plan_options, options.get("plan_kwargs"), len(cells), 0)
    looked_at = encode(held_out, model.schema)
    begin = clock()
    if start_values:
        initialise(model.module, data, cells)
    fit = WatchedFit(
        model.module,
        data,
        cells,
        cells[:0],
        plan,
        seed=0,
        show_progbar=False,
        held_out=looked_at,
        clock=clock,
        begin=begin,
    )
    fit.fit()
    return fit


def cells_of(name: str, recipe: str, fit: WatchedFit, reference: float) -> list[str]:
    epoch = fit.reached(reference)
    reached = ["never", ""] if epoch is None else [str(epoch), f"{fit.seconds[epoch - 1]:.1f}"]
    end = [str(len(fit.elbo)), f"{fit.seconds[-1]:.1f}", f"{fit.elbo[-1]:.1f}", f"{reference:.1f}"]
    return [name, recipe, *reached, *end]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument("--sets", nargs="+", choices=DATA_SETS, default=list(DATA_SETS), help="data sets")
    parser.add_argument("--epochs-plain", type=int, default=400, help="epochs of the plain recipe")
    parser.add_argument("--cpu-time", action="store_true", help="seconds of the processor, not of the clock")
    parser.add_argument("--threads", type=int, help="torch threads")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    print(f"{machine()}\nload average {load_average()}\n")
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    rows, ratios = [], []
    for name in arguments.sets:
        adata, task = load(arguments.data, name), TASKS[name]
        if not rows:
            watch(adata[:300].copy(), task.batch, {"max_epochs": 1}, True, clock)  # the kernels compile
        reference = task.reference["elbo"]
        default = watch(adata, task.batch, {}, True, clock)
        plain = watch(adata, task.batch, {**PLAIN, "max_epochs": arguments.epochs_plain}, False, clock)
        rows += [cells_of(name, "default", default, reference), cells_of("", "plain", plain, reference)]
        epoch, whole = default.reached(reference), plain.seconds[-1]
        until = "never" if epoch is None else f"{whole / default.seconds[epoch - 1]:.1f}"
        ratios.append([name, until, f"{whole / default.seconds[-1]:.1f}"])
    print(table(HEADER, rows))
    print("\nseconds of the whole plain fit, divided by those of the default\n")
    print(table(("", "until reached", "whole fit"), ratios))


if __name__ == "__main__":
    main()

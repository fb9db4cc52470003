"""What a search finds beyond the defaults, on cells that it never saw, and how long it takes.

    python benchmarks/tune.py --data FOLDER --workers 1 2

Protocol. zeisel_cortex, its 1000 most counted genes. RandomState(0).permutation of the cells: the first tenth is held
out of everything. `scvi.tune.search` looks at the others only, of which it scores each trial on a tenth: 30 trials of
the default space, fitted in short (preset='quick'), median pruning, metric marginal_ll. Then models with the best
arguments and with the defaults are fitted to these cells, in full, and the held-out ones are scored: marginal
likelihood with 100 draws, nats per cell, mean over seeds, ± half the range.

Each number of workers makes a search of its own, from the same seed, in a folder of its own. cpu: processor seconds of
all processes. A search that was interrupted goes on in --output.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from anndata import AnnData
from common import DEFAULT_DATA, load_average, machine, most_counted, read, table

from scvi import SCVI, tune

QUICK = {"preset": "quick"}


def split(adata: AnnData) -> tuple[AnnData, AnnData]:
    """The cells that a search may see, and the others; both set up."""
    order = np.random.RandomState(0).permutation(adata.n_obs)
    n_held_out = adata.n_obs // 10
    parts = adata[np.sort(order[n_held_out:])].copy(), adata[np.sort(order[:n_held_out])].copy()
    SCVI.setup_anndata(parts[0])
    return parts


def processor_seconds() -> float:
    """Of this process and those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def held_out(seen: AnnData, others: AnnData, found: tune.Search | None, seeds: int) -> str:
    """Marginal likelihood of cells that nobody saw, by models with the best arguments or the defaults."""
    scores = []
    for seed in range(seeds):
        model = SCVI(seen, **(found.best_model_args if found else {}), seed=seed)
        options = {name: value for name, value in found.best_train_args.items() if name not in QUICK} if found else {}
        model.train(**options, seed=seed, enable_progress_bar=False)
        scores.append(float(model.get_marginal_ll(others, n_mc_samples=100, seed=0)))
    return f"{np.mean(scores):.1f} ±{np.ptp(scores) / 2:.1f}"


def searched(seen: AnnData, workers: int, trials: int, folder: Path) -> tuple[tune.Search, list[object]]:
    """A search, and its row of the table."""
    began, cpu = time.perf_counter(), processor_seconds()
    space = {**tune.default_space(SCVI), **QUICK}
    found = tune.search(
        SCVI,
        seen,
        space=space,
        metric="marginal_ll",
        n_trials=trials,
        workers=workers,
        output=folder,
        refit=False,
        seed=0,
    )
    seconds, cpu = time.perf_counter() - began, processor_seconds() - cpu
    states = found.trials["state"].value_counts()
    default, best = found.trials["value"].iloc[0], found.best_value
    counts = [int(states.get(state, 0)) for state in ("complete", "pruned", "fail")]
    return found, [f"{workers} workers", *counts, f"{default:.1f}", f"{best:.1f}", f"{seconds:.0f}", f"{cpu:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="numbers of worker processes")
    parser.add_argument("--trials", type=int, default=30, help="trials of each search")
    parser.add_argument("--seeds", type=int, default=2, help="number of seeds of the last fits, from 0")
    parser.add_argument("--genes", type=int, default=1000, help="how many of the most counted genes")
    parser.add_argument("--output", type=Path, help="folder of the searches (default: one that is removed)")
    arguments = parser.parse_args()
    print(machine(), flush=True)
    print(f"load average {load_average()}\n")
    seen, others = split(most_counted(read(arguments.data, "zeisel_cortex"), arguments.genes))
    rows, searches = [], []
    with TemporaryDirectory() as temporary:
        for workers in arguments.workers:
            folder = (arguments.output or Path(temporary)) / f"workers{workers}"
            found, row = searched(seen, workers, arguments.trials, folder)
            searches.append(found)
            rows.append(row)
    header = ["search", "complete", "pruned", "failed", "first trial", "best trial", "seconds", "cpu"]
    print(table(header, rows) + "\n", flush=True)
    fits = [["defaults", held_out(seen, others, None, arguments.seeds)]]
    for workers, found in zip(arguments.workers, searches, strict=True):
        said = ", ".join(
            f"{name}={value}" for name, value in {**found.best_model_args, **found.best_train_args}.items()
        )
        fits.append([f"best of {workers} workers: {said}", held_out(seen, others, found, arguments.seeds)])
    print(table(["fitted in full", "marginal_ll of held-out cells"], fits))


if __name__ == "__main__":
    main()

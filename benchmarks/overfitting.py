"""Whether the default fit is as long as the data bear: its held-out ELBO beside that of fits of other lengths.

    python benchmarks/overfitting.py --data FOLDER --results FILE
    python benchmarks/overfitting.py --data FOLDER --results FILE --model LinearSCVI

Ten data sets: five with all their genes, where genes are many and cells are few, and the five of
benchmarks/quality.py, with whose protocol all are split and scored. A tenth of the cells is held out and never seen.
*default* fits the others as `train` does when it is told nothing but to fit all of them (train_size=1.0), *default,
validated* as it does when it is told nothing at all, which fits nine tenths of them and looks at the rest.

Every fit is written to the results file, one JSON object a line, and one that is there already is not made again.
elbo: the median over seeds, nats per cell; short: by how many percent it is below the best of the fits of a given
length, which is marked; seconds: of processor time. --show prints what is there and fits nothing.

--model looks at another estimator (benchmarks/family.py says how it is made and scored), on the sets that have what it
reads. Titles that end in *3e-3* or *by the cells* are fits whose weight decay is that, or SCVI's default, whatever the
default of the estimator is. accuracy: of SCANVI, for the fitted cells whose label it was not told.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from anndata import AnnData
from common import DEFAULT_DATA, load_average, machine, median, read, table
from family import MAKERS, can_read, prepared, scores
from quality import TASKS, Figures, load, split

from scvi.fit.plan import default_weight_decay

ALL_GENES = {  # and their batches
    "lymph_node_scrna": None,
    "pbmc_eccite_500": None,
    "sc_mixology": "batch",
    "kang_ifnb_2k": "condition",
    "celegans_l2_neurons": "plate",
}
SETS = {f"{name}, all genes": batch for name, batch in ALL_GENES.items()} | {
    name: TASKS[name].batch for name in ("sc_mixology", "kang_ifnb_labelled", "pbmc3k", "zeisel_cortex", "sln_day2")
}
LENGTHS = (10, 15, 20, 30, 50, 100)
FITS: dict[str, dict[str, Any]] = {
    "default": {},
    "default, validated": {"train_size": 0.9},
    **{f"{n} epochs": {"max_epochs": n} for n in LENGTHS},
}
DECAYS = ("3e-3", "by the cells")
FITS_OF_OTHERS = {
    **{title: FITS[title] for title in ("default", "default, validated")},
    **{f"{n} epochs, {decay}": {"max_epochs": n, "weight_decay": decay} for decay in DECAYS for n in LENGTHS},
}
ALL_FITS = FITS | FITS_OF_OTHERS
Results = dict[tuple[str, str, str, int], Figures]  # model, data set, fit, seed


def cells_of(folder: Path, name: str) -> AnnData:
    """All genes of a file, or those of the protocol."""
    file, _, all_genes = name.partition(", ")
    return prepared(read(folder, file) if all_genes else load(folder, file), file)


def as_numbers(options: dict[str, Any], train: AnnData) -> dict[str, Any]:
    """Options of `train`, with the weight decay that a word stands for."""
    by_cells = default_weight_decay(train.n_obs, float(train.X.mean()))
    decays = {DECAYS[0]: 3e-3, DECAYS[1]: by_cells}
    return {name: decays.get(value, value) for name, value in options.items()}


def fit(adata: AnnData, batch: str | None, model_name: str, seed: int, options: dict[str, Any]) -> Figures:
    """One seed; `options` are those of `train`."""
    train, held_out = split(adata)
    model = MAKERS[model_name](train, batch, seed)
    begin = time.process_time()
    model.train(**{"train_size": 1.0, "seed": seed, "enable_progress_bar": False, **as_numbers(options, train)})
    seconds = time.process_time() - begin
    return {**scores(model, train, held_out), "epochs": len(model.history["elbo_train"]), "seconds": seconds}


def read_results(file: Path) -> Results:
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {(line.get("model", "SCVI"), line["data"], line["fit"], line["seed"]): line["figures"] for line in lines}


def run(arguments: argparse.Namespace) -> None:
    """Makes the fits that are not there yet, one seed of everything before the next."""
    done, loaded = read_results(arguments.results), cache(lambda name: cells_of(arguments.data, name))
    warm = False
    for seed in range(arguments.seeds):
        for name in arguments.sets:
            for title in arguments.fits:
                if (arguments.model, name, title, seed) in done or not can_read(arguments.model, loaded(name)):
                    continue
                if not warm:  # the kernels compile
                    fit(loaded(name), SETS[name], arguments.model, seed, {"max_epochs": 1})
                    warm = True
                found = fit(loaded(name), SETS[name], arguments.model, seed, ALL_FITS[title])
                line = {"model": arguments.model, "data": name, "fit": title, "seed": seed, "figures": found}
                with arguments.results.open("a") as file:
                    file.write(json.dumps(line) + "\n")


def show(results: Results, model: str, name: str) -> None:
    """One table: a data set."""
    found = {fit: [figures for (*of, _), figures in results.items() if of == [model, name, fit]] for fit in ALL_FITS}
    medians = {
        title: {key: median([one[key] for one in figures]) for key in figures[0]}
        for title, figures in found.items()
        if figures
    }
    given = {title: figures["elbo"] for title, figures in medians.items() if "max_epochs" in ALL_FITS[title]}
    best = max(given, key=given.__getitem__, default=None)
    accuracy = any("accuracy" in figures for figures in medians.values())
    rows = [
        [
            f"{title}{' (best)' if title == best else ''}",
            len(found[title]),
            f"{figures['elbo']:.1f}",
            "" if best is None else f"{100 * (given[best] - figures['elbo']) / abs(given[best]):.2f}",
            f"{figures['epochs']:.0f}",
            f"{figures['seconds']:.1f}",
            *([f"{figures['accuracy']:.3f}"] if accuracy else []),
        ]
        for title, figures in medians.items()
    ]
    header = ["", "seeds", "elbo", "short, %", "epochs", "seconds", *(["accuracy"] if accuracy else [])]
    print(f"{model}, {name}\n\n{table(header, rows)}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument("--results", type=Path, default=Path("overfitting.jsonl"), help="file of the fits")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), metavar="SET", help="data sets")
    parser.add_argument("--model", choices=MAKERS, default="SCVI", help="estimator")
    parser.add_argument("--fits", nargs="+", choices=ALL_FITS, metavar="FIT", help="default: all")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--show", action="store_true", help="fit nothing")
    parser.add_argument("--threads", type=int, help="torch threads")
    arguments = parser.parse_args()
    arguments.fits = arguments.fits or list(FITS if arguments.model == "SCVI" else FITS_OF_OTHERS)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    print(f"{machine()}\nload average {load_average()}\n")
    if not arguments.show:
        run(arguments)
    results = read_results(arguments.results)
    for name in arguments.sets:
        if any(of[:2] == (arguments.model, name) for of in results):
            show(results, arguments.model, name)


if __name__ == "__main__":
    main()

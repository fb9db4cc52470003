"""What each part of the default training is worth: recipes one change away from it, on five data sets.

    python benchmarks/training_study.py --data FOLDER --results FILE

Protocol, scores and figures of others: benchmarks/quality.py. Every fit is written to the results file, one JSON object
a line, and one that is there already is not made again: the study can be interrupted, and recipes can be added. Data
sets come smallest first, recipes in the order below. --show prints the tables of what is there and fits nothing.

elbo is the mean over seeds, ± half the range; "better" its difference from the default's. entropy: batches among 50
neighbours, where there are batches.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from common import DEFAULT_DATA, load_average, machine, table
from quality import TASKS, Figures, fit, load, mean_and_half_range

from scvi import SCVI
from scvi.estimators import base
from scvi.fit.fit import Fit
from scvi.fit.optimizer import ClippedAdam
from scvi.models.vae import VAE

DATA_SETS = ("sc_mixology", "kang_ifnb_labelled", "pbmc3k", "zeisel_cortex", "sln_day2")
SHOWN = {"elbo": 1, "kNN15": 3, "NMI": 3, "ARI": 3, "ASW": 3, "entropy": 3, "epochs": 0, "seconds": 0}


def no_start(module: VAE, *_: object, **__: object) -> None:
    """The decoder and the dispersion start where torch and the model put them."""


def start_frequencies_only(module: VAE, *arguments: Any, **options: Any) -> None:
    dispersion = module.px_r.detach().clone()
    training_initialise(module, *arguments, **options)
    with torch.no_grad():
        module.px_r.copy_(dispersion)


def start_dispersion_only(module: VAE, *arguments: Any, **options: Any) -> None:
    bias = module.decoder.scale_bias()
    frequencies = bias.detach().clone()
    training_initialise(module, *arguments, **options)
    with torch.no_grad():
        bias.copy_(frequencies)


def decay_of_matrices(fit: Fit) -> ClippedAdam:
    """The default optimiser, with the L2 penalty on weight matrices only: none on biases, norms and dispersion."""
    plan, params = fit.plan, [p for p in fit.model.parameters() if p.requires_grad]
    others = [p for p in params if p.dim() <= 1]
    return ClippedAdam(params, plan.lr, plan.eps, plan.weight_decay, plan.gradient_clip, others)


training_initialise = base.initialise


@dataclass(frozen=True)
class Recipe:
    """A change from the default: options of `train`, what the weights start from, the optimiser."""

    options: dict[str, Any] = field(default_factory=dict)
    start: Callable[..., None] = training_initialise
    optimizer: Callable[[Fit], ClippedAdam] = Fit.make_optimizer


PLAIN = {
    "lr": 1e-3,
    "lr_schedule": "constant",
    "weight_decay": 1e-6,
    "batch_size": 128,
    "kl_warmup": 1.0,
    "gradient_clip": None,
    "plan_kwargs": {"eps": 0.01},
}
RECIPES = {
    "default": Recipe(),
    "weight_decay 0": Recipe({"weight_decay": 0.0}),
    "weight_decay 1e-2": Recipe({"weight_decay": 1e-2}),
    "weight_decay 3e-2": Recipe({"weight_decay": 3e-2}),
    "weight_decay 1e-2, matrices only": Recipe({"weight_decay": 1e-2}, optimizer=decay_of_matrices),
    "weight_decay 3e-2, matrices only": Recipe({"weight_decay": 3e-2}, optimizer=decay_of_matrices),
    "lr 2.75e-3": Recipe({"lr": 2.75e-3}),
    "lr 1.1e-2": Recipe({"lr": 1.1e-2}),
    "batch 128": Recipe({"batch_size": 128}),
    "epochs 25": Recipe({"max_epochs": 25}),
    "no start values": Recipe(start=no_start),
    "kl_warmup 0.5": Recipe({"kl_warmup": 0.5}),
    "kl_warmup 0": Recipe({"kl_warmup": 0.0}),
    "constant lr 1e-3": Recipe({"lr": 1e-3, "lr_schedule": "constant"}),
    "epochs 100": Recipe({"max_epochs": 100}),
    "weight_decay 1e-3": Recipe({"weight_decay": 1e-3}),
    "eps 1e-2": Recipe({"plan_kwargs": {"eps": 1e-2}}),
    "kl_warmup 1": Recipe({"kl_warmup": 1.0}),
    "batch 32": Recipe({"batch_size": 32}),
    "no decoder bias start": Recipe(start=start_dispersion_only),
    "no dispersion start": Recipe(start=start_frequencies_only),
    "no gradient clip": Recipe({"gradient_clip": None}),
    "train_size 0.9": Recipe({"train_size": 0.9}),
    "train_size 0.9, early stopping": Recipe({"train_size": 0.9, "early_stopping": True}),
    "max_kl_weight 1.25": Recipe({"plan_kwargs": {"max_kl_weight": 1.25}}),
    "plain, 50 epochs": Recipe({**PLAIN, "max_epochs": 50}, no_start),
    "plain, 400 epochs": Recipe({**PLAIN, "max_epochs": 400}, no_start),
}
DEFAULT_RECIPES = [name for name in RECIPES if name != "plain, 400 epochs"]  # that one takes as long as ten others

Results = dict[tuple[str, str, int], Figures]  # data set, recipe, seed


def read_results(file: Path) -> Results:
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {(line["data"], line["recipe"], line["seed"]): line["figures"] for line in lines}


def run(arguments: argparse.Namespace) -> None:
    """Makes the fits that are not there yet."""
    done, loaded = read_results(arguments.results), cache(lambda name: load(arguments.data, name))
    for title in arguments.recipes:
        recipe = RECIPES[title]
        for name in arguments.sets:
            for seed in range(arguments.seeds):
                if (name, title, seed) in done:
                    continue
                with (
                    mock.patch.object(base, "initialise", recipe.start),
                    mock.patch.object(Fit, "make_optimizer", recipe.optimizer),
                ):
                    found = fit(loaded(name), TASKS[name], SCVI, seed, marginal=False, **recipe.options)
                with arguments.results.open("a") as file:
                    file.write(json.dumps({"data": name, "recipe": title, "seed": seed, "figures": found}) + "\n")


def show(results: Results, name: str, recipes: list[str]) -> None:
    """One table: a data set."""
    ours = {r: [f for (data, recipe, _), f in results.items() if (data, recipe) == (name, r)] for r in recipes}
    summaries = {recipe: mean_and_half_range(found) for recipe, found in ours.items() if found}
    default = summaries["default"][0]["elbo"] if "default" in summaries else float("nan")
    rows: list[list[object]] = []
    for recipe, (mean, half_range) in summaries.items():
        cells = [f"{mean[key]:.{digits}f}" if key in mean else "" for key, digits in SHOWN.items()]
        cells[0] += f" ±{half_range['elbo']:.1f}"
        cells[1] += f" ±{half_range['kNN15']:.3f}"
        cells[2] += f" ±{half_range['NMI']:.3f}"
        rows.append([recipe, len(ours[recipe]), f"{mean['elbo'] - default:+.1f}", *cells])
    for title, figures in (("reference", TASKS[name].reference), ("PCA", TASKS[name].pca)):
        rows.append([title, "", "", *(f"{figures[k]:.{d}f}" if k in figures else "" for k, d in SHOWN.items())])
    print(f"{name}\n\n{table(['', 'seeds', 'better', *SHOWN], rows)}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA, help="folder of the benchmark files")
    parser.add_argument("--results", type=Path, default=Path("training_study.jsonl"), help="file of the fits")
    parser.add_argument("--sets", nargs="+", choices=DATA_SETS, default=list(DATA_SETS), help="data sets")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=DEFAULT_RECIPES, metavar="RECIPE")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument("--show", action="store_true", help="fit nothing")
    parser.add_argument("--threads", type=int, help="torch threads")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)

    print(f"{machine()}\nload average {load_average()}\n")
    if not arguments.show:
        run(arguments)
    results = read_results(arguments.results)
    for name in arguments.sets:
        show(results, name, arguments.recipes)


if __name__ == "__main__":
    main()

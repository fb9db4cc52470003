"""`scvi tune`."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from scvi.cli.answers import Answer, plan
from scvi.cli.declaring import DATA, check_columns, check_declared, declare, model_option
from scvi.cli.models import MODELS, estimator_named
from scvi.cli.options import MACHINE, SEED, Options, add_command, add_options, number, positive, use_machine
from scvi.cli.output import Refused, check_folder
from scvi.cli.reading import glance, read_cells

HELP = """\
Searches for the arguments with which a model fits the cells of a file best, and fits it with them. Each trial is scored
on cells that no trial has seen. Needs the extra [tune]. Writes into DIR:

  trials.csv    what was tried, and how good it was
  best.json     the best arguments
  model/        the model that was fitted with them
  study.db      the study, unless --storage says where it is

The same command goes on after Ctrl-C or a crash. Started again, on this machine or another with the same --storage, it
helps: workers come and go as they like.
"""
EPILOG = """\
examples:
  scvi tune cells.h5ad --output search --batch-key sample --n-trials 30
  scvi tune cells.h5ad --output search --search n_latent=5..30 --search lr=1e-4..1e-2,log --search n_hidden=64,128
  scvi tune cells.h5ad --output search --model scanvi --labels-key known --unlabeled-category Unknown --metric accuracy
  scvi tune cells.h5ad --output search --storage postgresql://me@host/studies --workers 4

A password in --storage is never printed, but others on the machine may see what you type: it may be in ~/.pgpass.
"""


def _values(text: str) -> tuple[str, Any]:
    """NAME=values: a range LOW..HIGH, perhaps with ',log'; choices A,B,...; or one value, which is held fixed."""
    name, equals, said = text.partition("=")
    if not (equals and name.isidentifier() and said):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=LOW..HIGH, NAME=LOW..HIGH,log, NAME=A,B,... or NAME=A")
    values = [_value(entry) for entry in said.split(",")]
    if ".." not in said:
        return name, values if len(values) > 1 else values[0]
    low, _, high = said.removesuffix(",log").partition("..")
    ends = (_value(low), _value(high))
    if not all(isinstance(end, (int, float)) for end in ends):
        raise argparse.ArgumentTypeError(f"{text!r} is no range of numbers, such as {name}=5..30")
    return name, (*ends, "log") if said.endswith(",log") else ends


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _metric(text: str) -> str | dict[str, float]:
    """A name, or NAME=WEIGHT,... for a sum."""
    if "=" not in text:
        return text
    pairs = [entry.partition("=") for entry in text.split(",")]
    return {name: number(weight, f"a weight of {name}", least=0.0) for name, _, weight in pairs}


SEARCH: Options = {
    **model_option([name for name in MODELS if name != "gimvi"]),
    "--metric": {
        "type": _metric,
        "default": "elbo",
        "metavar": "METRIC",
        "help": "elbo, marginal_ll, imputation, batch_mixing, accuracy or calibration, or a sum of some: "
        "accuracy=1,calibration=0.5 (default: elbo)",
    },
    "--search": {
        "action": "append",
        "type": _values,
        "metavar": "NAME=VALUES",
        "help": "what to search, arguments of the model or its train(): a range n_latent=5..30 or lr=1e-4..1e-2,log, "
        "choices gene_likelihood=zinb,nb, or a fixed value; may be given again (default: a space for each model)",
    },
    "--n-trials": {
        "type": positive,
        "default": 30,
        "metavar": "N",
        "help": "of the study, whoever runs them (default: 30)",
    },
    "--pruner": {
        "choices": ("median", "hyperband", "none"),
        "default": "median",
        "help": "by which hopeless trials are ended early (default: median)",
    },
    "--test-size": {
        "type": partial(number, least=0.0, most=1.0, wanted="a number from 0 to 1"),
        "default": 0.1,
        "metavar": "X",
        "help": "share of the cells on which trials are scored (default: 0.1)",
    },
    "--workers": {"type": positive, "default": 1, "metavar": "N", "help": "processes on this machine (default: 1)"},
    "--storage": {"metavar": "URL", "help": "where the study is: a file of SQLite, or the URL of a database"},
    "--study-name": {"metavar": "NAME", "help": "(default: made of model, metric and cells)"},
    "--no-refit": {"action": "store_true", "help": "run trials, and do not fit the best model at the end"},
    **SEED,
}
_DATA = {name: settings for name, settings in DATA.items() if name != "--spatial"}


def add(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "tune",
        _run,
        _plan,
        after_ctrl_c="; the same command goes on",
        help="search for the best arguments of a model",
        description=HELP,
        epilog=EPILOG,
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="cells x genes, raw counts")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of the result")
    for title, options in {"data": _DATA, "search": SEARCH, "machine": {"--threads": MACHINE["--threads"]}}.items():
        add_options(parser, title, options)


def _checked(arguments: argparse.Namespace) -> None:
    check_declared(arguments)
    check_folder(arguments.output)
    folder = arguments.output  # a search writes its trials before its model
    if (folder / "model").exists() and not (folder / "trials.csv").exists():
        raise Refused(f"--output {str(folder)!r} holds a model that no search has fitted; name another folder")


def _run(arguments: argparse.Namespace) -> Answer:
    from scvi.tune import search

    _checked(arguments)
    use_machine(arguments)
    cells = read_cells(arguments.file, arguments.on_disk, arguments.genes_in_rows)
    Model = estimator_named(MODELS[arguments.model].estimator)
    declare(Model, [cells], arguments)
    found = search(
        Model,
        cells,
        space=dict(arguments.search) if arguments.search else None,
        metric=arguments.metric,
        n_trials=arguments.n_trials,
        pruner=arguments.pruner,
        test_size=arguments.test_size,
        workers=arguments.workers,
        storage=arguments.storage,
        study_name=arguments.study_name,
        output=arguments.output,
        refit=not arguments.no_refit,
        seed=arguments.seed,
    )
    if found.was_interrupted:
        raise KeyboardInterrupt
    return _answer(found)


def _answer(found: Any) -> Answer:
    best = {**found.best_model_args, **found.best_train_args}
    states = found.trials["state"].value_counts().to_dict()
    facts = {
        "study": found.study_name,
        "storage": found.storage,
        "metric": found.metric,
        "direction": found.direction,
        "best_trial": found.best_trial,
        "best_value": found.best_value,
        "model_args": found.best_model_args,
        "train_args": found.best_train_args,
        "trials": states,
        "output": found.folder,
        "model": None if found.model is None else found.model_dir,
    }
    lines = [
        f"study {found.study_name!r} in {found.storage}: {', '.join(f'{n} {state}' for state, n in states.items())}"
    ]
    if found.best_trial is None:
        return Answer(f"{lines[0]}; no trial is complete", facts)
    lines.append(f"best of them, number {found.best_trial}: {found.metric} {found.best_value:.6g}")
    lines += [f"  {name} = {value}" for name, value in best.items()]
    lines += [str(found.folder / "trials.csv"), *([str(found.model_dir)] if found.model is not None else [])]
    return Answer("\n".join(lines), facts)


def _plan(arguments: argparse.Namespace) -> Answer:
    from scvi.tune import default_space
    from scvi.tune.storage import shown, url_of

    _checked(arguments)
    seen = glance(arguments.file)
    check_columns(seen, arguments)
    Model = estimator_named(MODELS[arguments.model].estimator)
    space = dict(arguments.search) if arguments.search else default_space(Model)
    place = shown(url_of(arguments.storage or arguments.output / "study.db"))
    does = [
        f"run trials of {Model.__name__} until the study in {place} has {arguments.n_trials}",
        f"search {', '.join(f'{name} in {values}' for name, values in space.items())}",
        *([] if arguments.no_refit else ["fit the best model to all cells"]),
    ]
    writes = [arguments.output / name for name in ("trials.csv", "best.json", "model")]
    return plan([seen.described()], does, writes)

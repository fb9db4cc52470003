"""`scvi train`."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import Any

from scvi._job import is_first
from scvi.cli.answers import Answer, plan
from scvi.cli.declaring import DATA, check_columns, check_declared, declare, model_option, typed
from scvi.cli.messages import say
from scvi.cli.models import MODELS, class_of, estimator_named, model_folder
from scvi.cli.options import (
    MACHINE,
    SEED,
    Options,
    add_command,
    add_options,
    positive,
    setting,
    use_machine,
    values_of,
)
from scvi.cli.output import Output, Refused
from scvi.cli.reading import glance, read_cells
from scvi.cli.results import check_writable, written

HELP = """\
Fits a model to the raw counts of a file and writes into DIR:

  FILE.h5ad     a copy of the input with the latent space in obsm (X_scVI, X_scANVI, X_totalVI, ...)
  model/        the model: scvi.SCVI.load("DIR/model", adata)
  history.csv   losses, epoch by epoch
  umap.png      the latent space on a plane (with the extra [plot] installed)
  report.html   a page on the fit, with --report (needs the extra [report])

FILE is an .h5ad, .h5mu, .zarr or .loom, an .h5, a folder or an archive of 10x, or a table of text (.csv, .tsv, .txt).
"""
EPILOG = """\
examples:
  scvi train cells.h5ad --output fit
  scvi train cells.h5ad --output fit --batch-key sample --n-top-genes 2000
  scvi train cells.h5ad --output fit --layer counts --model ldvae --n-latent 8
  scvi train cells.h5ad --output fit --dry-run        says what would be read and done
  scvi train cells.h5ad --output fit --resume         goes on after Ctrl-C or a crash, to the very same result
  scvi train cells.h5ad --output labels --model scanvi --from fit --labels-key cell_type --unlabeled-category Unknown
  scvi train cells.h5mu --output proteins --model totalvi --batch-key sample
  scvi train dissociated.h5ad --model gimvi --spatial tissue.h5ad --output joint
  torchrun --nproc_per_node 4 -m scvi train cells.h5ad --output fit      four processes share the work

Counts must be raw: not normalised, not log-transformed. Say where they are with --layer if X holds something else.
"""

FIT: Options = {
    **model_option(),
    "--from": {
        "type": Path,
        "dest": "start",
        "metavar": "MODEL",
        "help": "a fitted SCVI to start from, which is how scanvi is best fitted; data are read as it reads them",
    },
    "--n-latent": {"type": positive, "metavar": "N", "help": "latent dimensions (default: 10, totalvi: 20)"},
    "--max-epochs": {"type": positive, "metavar": "N", "help": "(default: from the number of cells)"},
    "--preset": {"choices": ("quick",), "help": "quick: a first look, 500 steps or 15 epochs (scvi)"},
    "--batch-size": {"type": positive, "metavar": "N", "help": "cells in a step (default: from the number of cells)"},
    "--precision": {"choices": ("float32", "bf16", "auto"), "help": "of large matrix products (default: auto)"},
    "--set": {
        "action": "append",
        "type": setting,
        "metavar": "NAME=VALUE",
        "help": "any other argument of the model or of its train(), as Python names it: --set n_hidden=256 "
        "--set gene_likelihood=nb; may be given again",
    },
    **SEED,
}
# What a model that is started from says itself.
_SAID_BY_START = (
    *("batch_key", "layer", "categorical_covariate", "continuous_covariate", "size_factor_key", "non_integer"),
    *("n_top_genes", "n_latent"),
)
# Arguments of constructors and of `train` that are said by options of their own, or by nobody.
_NOT_SET = {
    *(
        "self",
        "adata",
        "adata_seq",
        "adata_spatial",
        "scvi_model",
        "labels_key",
        "unlabeled_category",
        "n_latent",
        "seed",
    ),
    *("max_epochs", "preset", "batch_size", "precision", "checkpoint_dir", "resume", "accelerator", "devices"),
    *("trainer_kwargs", "callbacks", "logger"),
}


def add(commands: Any) -> None:
    """Adds the command."""
    train = add_command(
        commands,
        "train",
        _run,
        _plan,
        after_ctrl_c="; --resume goes on",
        help="fit a model to the cells of a file",
        description=HELP,
        epilog=EPILOG,
    )
    train.add_argument("file", type=Path, metavar="FILE.h5ad", help="cells x genes, raw counts")
    train.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new or an empty folder")
    for title, options in {"data": DATA, "fit": FIT, "machine": MACHINE}.items():
        add_options(train, title, options)
    train.add_argument("--report", action="store_true", help="write a page on the fit, too: DIR/report.html")
    again = train.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with the run that was interrupted in DIR")
    again.add_argument("--overwrite", action="store_true", help="replace what an earlier run wrote into DIR")


def _run(arguments: argparse.Namespace) -> Answer | None:
    from scvi.report.write import check_packages

    output = _checked(arguments)
    options = _recorded(arguments)
    if arguments.resume and output.is_complete:
        return Answer(f"{output.folder} is complete; --overwrite would fit it anew", {"output": output.folder})
    use_machine(arguments)
    cells = [read_cells(file, arguments.on_disk, arguments.genes_in_rows) for file in output.inputs]
    if arguments.report:
        check_packages()
    check_writable(cells)  # before the fit: not all that is read can be written, as it is with settings of anndata
    model = _model(cells, arguments)
    if arguments.overwrite:
        output.clear()
    with output.begun(options):
        model.train(**_of_train(arguments), checkpoint_dir=output.checkpoint, resume=output.has_checkpoint)
    if model.was_interrupted:
        raise KeyboardInterrupt
    if not is_first():  # of a job, whose first process writes
        return None
    answer = written(output, model, cells, arguments)
    output.end()
    return answer


# ---- what was typed --------------------------------------------------------------------------------------------------


def _checked(arguments: argparse.Namespace) -> Output:
    """Where the run writes; what was typed and does not go together is refused."""
    output = Output(arguments.output, arguments.file, *([arguments.spatial] if arguments.spatial else []))
    check_declared(arguments)
    if arguments.start is not None:
        for name in _SAID_BY_START:
            if getattr(arguments, name) is not None:
                raise Refused(f"{typed(name)} does not go with --from, whose model says it; leave it out")
    output.check(_recorded(arguments), resume=arguments.resume, overwrite=arguments.overwrite)
    if arguments.start is not None:
        output.refuse_model(_start(arguments))
    _of_model(arguments), _of_train(arguments)
    return output


def _start(arguments: argparse.Namespace) -> Path:
    """The folder of the model to start from."""
    folder = model_folder(arguments.start)
    if class_of(folder) != "SCVI":
        raise ValueError(f"--from {str(arguments.start)!r} holds a model of {class_of(folder)}; it must be one of SCVI")
    return folder


def _recorded(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options on which the result depends, as JSON has them; None where nothing was typed."""
    options = {name: value or None for name, value in values_of(arguments, {**DATA, **FIT}).items()}
    options |= {"seed": arguments.seed, "n_latent": _n_latent(arguments)}
    options["spatial"] = arguments.spatial.name if arguments.spatial else None
    options["start"] = str(arguments.start) if arguments.start else None
    options["set"] = [f"{name}={value}" for name, value in arguments.set or []] or None
    return options


def _n_latent(arguments: argparse.Namespace) -> int:
    return arguments.n_latent or (20 if arguments.model == "totalvi" else 10)


def _of_train(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of the model's `train`."""
    names = ("max_epochs", "preset", "batch_size", "precision")
    typed = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    machine = {"accelerator": arguments.device["accelerator"], "devices": arguments.device["device"]}
    return {**typed, **machine, **_settings(arguments)[1], "seed": arguments.seed}


def _of_model(arguments: argparse.Namespace) -> dict[str, Any]:
    """Arguments of the model's constructor."""
    size = {} if arguments.start else {"n_latent": _n_latent(arguments)}
    return {**size, **_settings(arguments)[0], "seed": arguments.seed}


def _settings(arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """What --set says of the model and of its `train`."""
    from scvi.cells.checks import nearest

    Model = estimator_named(MODELS[arguments.model].estimator)
    make = Model.from_scvi_model if arguments.start else Model
    of_model, of_train = (set(inspect.signature(f).parameters) - _NOT_SET for f in (make, Model.train))
    parts: tuple[dict[str, Any], dict[str, Any]] = {}, {}
    for name, value in arguments.set or []:
        if name not in of_model | of_train:
            raise Refused(
                f"--set {name}=...: {name!r} is no argument of {Model.__name__}{nearest(name, of_model | of_train)}"
            )
        parts[name not in of_model][name] = value
    return parts


# ---- the model -------------------------------------------------------------------------------------------------------


def _model(cells: list[Any], arguments: argparse.Namespace) -> Any:
    """The model to train; the gene selection, if one is asked for, goes into the cells."""
    from scvi.cells.checks import obs_column
    from scvi.cells.mudata import is_multimodal

    Model, first = estimator_named(MODELS[arguments.model].estimator), cells[0]
    if arguments.labels_key and not is_multimodal(first):
        obs_column(first, "labels_key", arguments.labels_key)
    if arguments.start is not None:
        model = _from_another(Model, first, arguments)
    else:
        declare(Model, cells, arguments)
        model = Model(*cells, **_of_model(arguments))
    for file, adata in zip((arguments.file, arguments.spatial), cells, strict=False):
        say(f"{file}: {adata.n_obs} cells x {adata.n_vars} genes")
    return model


def _from_another(Model: Any, adata: Any, arguments: argparse.Namespace) -> Any:
    """A model that starts from the weights of a fitted one."""
    start = estimator_named("SCVI").load(_start(arguments), adata)
    return Model.from_scvi_model(
        start, arguments.unlabeled_category, labels_key=arguments.labels_key, **_of_model(arguments)
    )


# ---- --dry-run -------------------------------------------------------------------------------------------------------


def _plan(arguments: argparse.Namespace) -> Answer:
    output = _checked(arguments)
    glances = [glance(file) for file in output.inputs]
    for seen in glances:
        check_columns(seen, arguments)
    named = MODELS[arguments.model].estimator
    said = {name: value for name, value in {**_of_model(arguments), **_of_train(arguments)}.items() if value != "auto"}
    does = [f"check all counts of {seen.file}" for seen in glances]
    if arguments.n_top_genes:
        does.append(f"choose the {arguments.n_top_genes} most variable genes")
    if arguments.resume and output.has_checkpoint:
        does.append(f"go on from the checkpoint in {output.checkpoint}")
    if arguments.overwrite:
        does.append(f"remove what an earlier run wrote into {output.folder}")
    does.append(f"fit {named} with {', '.join(f'{name}={value}' for name, value in said.items())}")
    writes = [
        *output.copies,
        output.model,
        output.history,
        output.picture,
        *([output.report] if arguments.report else []),
    ]
    reads = [seen.described() for seen in glances]
    if arguments.start is not None:
        folder = _start(arguments)
        reads.append({"file": folder, "estimator": "SCVI", "says": f"{folder}: a model of SCVI, to start from"})
    return plan(reads, does, writes)

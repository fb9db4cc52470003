"""`scvi map`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from scvi._job import is_first
from scvi.cli.answers import Answer, plan
from scvi.cli.messages import say
from scvi.cli.models import LATENT, estimator_named, require_class
from scvi.cli.options import (
    FILES,
    MACHINE,
    SEED,
    Options,
    add_command,
    add_options,
    share,
    use_machine,
    values_of,
    whole_number,
)
from scvi.cli.output import Output
from scvi.cli.reading import glance, read_cells
from scvi.cli.results import check_writable, written

HELP = """\
Maps cells of new batches onto a fitted reference: the weights of these batches alone are trained, and what the
reference says of its own cells stays as it is. Writes into DIR:

  QUERY.h5ad    a copy of the cells with their place in the latent space of the reference in obsm; of a scANVI
                reference with labels and probabilities in obs["predictions_scanvi"], obs["probability_scanvi"]
  model/        the model that knows both
  history.csv   losses, epoch by epoch
  umap.png      the latent space on a plane (with the extra [plot] installed)

QUERY needs the columns of obs that the reference reads, but for labels.
"""
EPILOG = """\
examples:
  scvi map fit new_cells.h5ad --output mapped
  scvi map labels new_cells.h5ad --output mapped --max-epochs 100
"""
OPTIONS: Options = {
    "--max-epochs": {
        "type": lambda text: whole_number(text, "a whole number"),
        "metavar": "N",
        "help": "passes over the query; 0 does not train (default: from the number of cells; 0 where nothing is new)",
    },
    "--min-genes-found": {
        "type": share,
        "default": 0.5,
        "metavar": "X",
        "help": "share of the genes of the reference that the query has to have (default: 0.5)",
    },
    **FILES,
    **SEED,
}
_CLASSES = [name for name in LATENT if name != "GIMVI"]


def add(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "map",
        _run,
        _plan,
        after_ctrl_c="; --resume goes on",
        help="map new cells onto a fitted reference",
        description=HELP,
        epilog=EPILOG,
    )
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="the reference: what `scvi train` wrote, or its model"
    )
    parser.add_argument("file", type=Path, metavar="QUERY", help="the new cells")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new or an empty folder")
    add_options(parser, "mapping", OPTIONS)
    add_options(parser, "machine", MACHINE)
    again = parser.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with the run that was interrupted in DIR")
    again.add_argument("--overwrite", action="store_true", help="replace what an earlier run wrote into DIR")


def _recorded(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options on which the result depends."""
    return {"reference": str(arguments.model), **values_of(arguments, OPTIONS)}


def _checked(arguments: argparse.Namespace) -> tuple[Output, Path, str]:
    """Where the run writes, and the folder and the class of the reference."""
    output = Output(arguments.output, arguments.file)
    output.check(_recorded(arguments), resume=arguments.resume, overwrite=arguments.overwrite)
    folder, name = require_class(arguments, *_CLASSES)
    output.refuse_model(folder)
    return output, folder, name


def _run(arguments: argparse.Namespace) -> Answer | None:
    from scvi.estimators.saving import without_cells

    output, folder, name = _checked(arguments)
    if arguments.resume and output.is_complete:
        return Answer(f"{output.folder} is complete; --overwrite would map it anew", {"output": output.folder})
    use_machine(arguments)
    cells = read_cells(arguments.file, arguments.on_disk, arguments.genes_in_rows)
    check_writable([cells])
    where, Model = arguments.device, estimator_named(name)
    reference = without_cells(Model, folder)
    model = Model.load_query_data(
        cells,
        reference,
        min_genes_found=arguments.min_genes_found,
        accelerator=where["accelerator"],
        device=where["device"],
    )
    say(f"{arguments.file}: {cells.n_obs} cells x {cells.n_vars} genes")
    if arguments.overwrite:
        output.clear()
    with output.begun(_recorded(arguments)):
        _train(model, output, arguments, model.schema.categories != reference.schema.categories)
    if not is_first():  # of a job, whose first process writes
        return None
    answer = written(output, model, [cells], arguments)
    output.end()
    return answer


def _train(model: Any, output: Output, arguments: argparse.Namespace, is_new: bool) -> None:
    """Trains what the query brought.

    Where it brought no category, what the reference says of its own cells would change: that is for who asks for it.
    """
    if arguments.max_epochs == 0 or not (is_new or arguments.max_epochs):
        say(
            "nothing is trained"
            if is_new
            else "nothing is new, so nothing is trained; --max-epochs N trains all the same"
        )
        return
    model.train(
        arguments.max_epochs,
        accelerator=arguments.device["accelerator"],
        devices=arguments.device["device"],
        seed=arguments.seed,
        checkpoint_dir=output.checkpoint,
        resume=output.has_checkpoint,
    )
    if model.was_interrupted:
        raise KeyboardInterrupt


def _plan(arguments: argparse.Namespace) -> Answer:
    output, folder, name = _checked(arguments)
    model = {"file": folder, "estimator": name, "says": f"{folder}: a model of {name}"}
    does = ["map the cells onto the model", "train the weights of batches that are new"][
        : 1 + (arguments.max_epochs != 0)
    ]
    writes = [*output.copies, output.model, output.history, output.picture]
    return plan([model, glance(arguments.file).described()], does, writes)

"""`scvi convert`."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scvi.cli.answers import Answer, plan
from scvi.cli.options import FILES, Options, add_command, add_options
from scvi.cli.output import Refused, check_folder
from scvi.cli.reading import glance, kind_of, read_cells

HELP = """\
Writes the cells of one file or many into one store (.h5ad or .zarr), a part at a time, so that a model can be trained
from there without reading it whole (scvi train --on-disk). A call that was interrupted goes on where it was, but begins
anew where a table of text or a .zarr is among the inputs, which are read whole. INPUT is an .h5ad, a .zarr, a loom
file, an .h5, a folder or an archive of 10x, a table of text, or NAME=INPUT to say what it is called.

Given the folder of a model that scvi-tools 1.0 to 1.4 saved (model.pt), it writes the model as this package does.
"""
EPILOG = """\
examples:
  scvi convert first.h5ad second.h5ad --output all.zarr --batch-key sample
  scvi convert day0=run1/filtered_feature_bc_matrix.h5 day7=run2/filtered_feature_bc_matrix.h5 --output all.h5ad
  scvi convert counts.csv.gz --genes-in-rows --output counts.h5ad
  scvi convert old_model --output new_model
"""
OPTIONS: Options = {
    "--batch-key": {
        "metavar": "COLUMN",
        "help": "column of obs that will say which input a cell is from (default: sample; none for one input)",
    },
    "--layer": {"metavar": "LAYER", "help": "layer of .h5ad files with the raw counts (default: X)"},
    "--protein-obsm-key": {
        "default": "protein_expression",
        "metavar": "KEY",
        "help": "where in obsm counts of proteins are, and will be (default: protein_expression)",
    },
    "--genes-in-rows": FILES["--genes-in-rows"],
}
STORES = (".h5ad", ".zarr")


def add(commands: Any) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "convert",
        _run,
        _plan,
        after_ctrl_c="; the same command goes on",
        help="files to one store, models of scvi-tools to ours",
        description=HELP,
        epilog=EPILOG,
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="files of cells, or one folder of a model")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="STORE", help=".h5ad or .zarr to write; of a model its folder"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    add_options(parser, "cells", OPTIONS)


def _run(arguments: argparse.Namespace) -> Answer:
    files = _checked(arguments)
    if _is_model(files):
        return _convert_model(next(iter(files.values())), arguments)
    from scvi.data import to_store

    with _without_text(files, arguments) as readable:
        to_store(
            readable,
            arguments.output,
            batch_key=_batch_key(arguments),
            layer=arguments.layer,
            protein_key=arguments.protein_obsm_key,
            overwrite=arguments.overwrite,
        )
    seen = glance(arguments.output).described()
    return Answer(
        seen["says"], {"output": arguments.output, **{name: seen[name] for name in ("cells", "genes", "obsm")}}
    )


def _checked(arguments: argparse.Namespace) -> dict[str, Path]:
    """The inputs by name; what is wrong with these and with the output is refused."""
    files: dict[str, Path] = {}
    for typed in arguments.inputs:
        name, equals, path = typed.partition("=")
        is_named = equals and not Path(typed).exists()
        file = Path(path) if is_named else Path(typed)
        name = name if is_named else file.name.partition(".")[0] or file.name
        if not file.exists():
            raise Refused(f"there is no file {str(file)!r}")
        if name in files:
            raise Refused(f"two inputs are called {name!r}: give them names, such as a={files[name]} b={file}")
        files[name] = file
    output = arguments.output
    if not _is_model(files) and output.suffix not in STORES:
        raise Refused(f"--output {str(output)!r} does not end with {' or '.join(STORES)}")
    if output.exists() and not arguments.overwrite:
        raise Refused(f"--output {str(output)!r} is there already; add --overwrite, or name another")
    if any(output.exists() and output.samefile(file) for file in files.values()):
        raise Refused(f"--output {str(output)!r} is an input, which would be overwritten; name another")
    check_folder(output.parent)
    return files


def _batch_key(arguments: argparse.Namespace) -> str | None:
    return arguments.batch_key or ("sample" if len(arguments.inputs) > 1 else None)


def _is_model(files: Mapping[str, Path]) -> bool:
    """Whether what came is the folder of a model."""
    return len(files) == 1 and any((file / "model.pt").is_file() for file in files.values())


def _convert_model(folder: Path, arguments: argparse.Namespace) -> Answer:
    from scvi.cli.models import class_of
    from scvi.estimators.converting import convert

    convert(folder, arguments.output, overwrite=arguments.overwrite)
    name = class_of(arguments.output)
    says = f"{arguments.output}  a model of {name}, for scvi.{name}.load({str(arguments.output)!r}, ...)"
    return Answer(says, {"output": arguments.output, "estimator": name})


@contextmanager
def _without_text(files: Mapping[str, Path], arguments: argparse.Namespace) -> Iterator[dict[str, Path]]:
    """The inputs, with an .h5ad in the place of each that is no file of 10x, loom or .h5ad."""
    with tempfile.TemporaryDirectory(prefix="scvi-") as folder:
        readable = dict(files)
        for number, (name, file) in enumerate(files.items()):
            if kind_of(file) in ("text", "zarr"):
                readable[name] = Path(folder) / f"{number}.h5ad"
                read_cells(file, genes_in_rows=arguments.genes_in_rows).write_h5ad(readable[name])
        yield readable


def _plan(arguments: argparse.Namespace) -> Answer:
    files = _checked(arguments)
    if _is_model(files):
        folder = next(iter(files.values()))
        reads = [{"file": folder, "says": f"{folder}: a model of scvi-tools"}]
        return plan(reads, ["write it as a model of this package"], [arguments.output])
    reads = [{**glance(file).described(), "name": name} for name, file in files.items()]
    key = _batch_key(arguments)
    does = [f"join the cells of {', '.join(files)}" + (f", named in obs[{key!r}]" if key else "")]
    return plan(reads, does, [arguments.output])

"""The command `scvi`."""

from __future__ import annotations

import argparse
import logging
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import scvi
from scvi._files import replacing
from scvi._output import Output, Refused, check_folder

if TYPE_CHECKING:
    from anndata import AnnData

    from scvi.estimators import SCVI, LinearSCVI

USAGE, BAD_DATA, INTERRUPTED = 2, 1, 130
FORESEEN = (ImportError, OSError, RuntimeError, TypeError, ValueError)  # their messages say what to do
# Arguments as the messages of the package name them, and as they are typed here.
TYPED = {"batch_key": "--batch-key", "labels_key": "--labels-key", "layer": "--layer", "checkpoint_dir": "--output"}
TYPED |= {"non_integer": "--non-integer"}

DEMO_HELP = """\
Fits scVI to 1021 real cells of five cell lines, sequenced in five batches (they come with the package), and prints
how well the cells find their true line and how well the batches mix, beside plain PCA. Takes a minute or two.
"""
TRAIN_HELP = """\
Fits a model to the raw counts of an .h5ad file and writes into DIR:

  FILE.h5ad     a copy of the input with the latent space in obsm["X_scVI"]
  model/        the model: scvi.SCVI.load("DIR/model", adata)
  history.csv   losses, epoch by epoch
  umap.png      the latent space on a plane (with the extra [plot] installed)
"""
TRAIN_EPILOG = """\
examples:
  scvi train cells.h5ad --output fit
  scvi train cells.h5ad --output fit --batch-key sample --n-top-genes 2000
  scvi train cells.h5ad --output fit --layer counts --model ldvae --n-latent 8
  scvi train cells.h5ad --output fit --resume         goes on after Ctrl-C or a crash, to the very same result

Counts must be raw: not normalised, not log-transformed. Say where they are with --layer if X holds something else.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(USAGE, f"scvi: error: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command `scvi` and returns its exit code: 0, 1 for bad data, 2 for bad usage, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    # Threads that spin while they wait slow a fit tenfold where other programs want the cores too. Read by torch's
    # OpenMP when it is loaded, so after this line.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        with _messages():
            arguments.run(arguments)
    except KeyboardInterrupt:
        _say("scvi: interrupted" + arguments.after_ctrl_c)
        return INTERRUPTED
    except Refused as refusal:
        arguments.parser.error(str(refusal))
    except Exception as error:  # a shell user is served by one line, whatever happened
        if arguments.debug:
            raise
        unforeseen = f"{type(error).__name__}: {error} (not foreseen; scvi --debug shows where it comes from)"
        _say(error if isinstance(error, FORESEEN) else unforeseen, "error")
        return BAD_DATA
    return 0


def _parser() -> argparse.ArgumentParser:
    options: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = _Parser(
        prog="scvi",
        description="Single-cell variational inference: batch-corrected latent spaces from raw counts.",
        epilog="start with: scvi demo\nthen:       scvi train --help",
        **options,
    )
    parser.add_argument("--version", action="version", version=f"scvi {scvi.__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo", help="fit the cells that come with the package", description=DEMO_HELP, **options
    )
    demo.add_argument("--output", type=Path, default=Path("scvi-demo"), metavar="DIR", help="(default: %(default)s)")
    demo.set_defaults(run=_demo, parser=demo, after_ctrl_c="")

    train = commands.add_parser(
        "train", help="fit the cells of an .h5ad file", description=TRAIN_HELP, epilog=TRAIN_EPILOG, **options
    )
    train.add_argument("file", type=Path, metavar="FILE.h5ad", help="cells x genes, raw counts")
    train.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new or an empty folder")
    for title, group in _train_options().items():
        added = train.add_argument_group(title)
        for name, settings in group.items():
            added.add_argument(name, **settings)
    again = train.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with the run that was interrupted in DIR")
    again.add_argument("--overwrite", action="store_true", help="replace what an earlier run wrote into DIR")
    train.set_defaults(run=_train, parser=train, after_ctrl_c="; --resume goes on")
    return parser


def _train_options() -> dict[str, dict[str, dict[str, Any]]]:
    """Options of `scvi train` on which the result depends, by their group in the help."""
    positive = partial(_whole_number, least=1, wanted="a positive whole number")
    seed = partial(_whole_number, below=2**32, wanted=f"a whole number from 0 to {2**32 - 1}")
    return {
        "data": {
            "--batch-key": {"metavar": "COLUMN", "help": "column of obs with the batch to correct for"},
            "--labels-key": {"metavar": "COLUMN", "help": "column of obs with the cell type; for the picture"},
            "--layer": {"metavar": "LAYER", "help": "layer with the raw counts (default: X)"},
            "--non-integer": {
                "choices": ("warn", "refuse", "round"),
                "help": "what to do with counts that are estimates, as after ambient correction (default: warn, and "
                "model them as they are)",
            },
            "--n-top-genes": {
                "type": positive,
                "metavar": "N",
                "help": "fit the N most variable genes (seurat_v3, per batch), kept in var['highly_variable']; "
                "the copy keeps all genes (default: fit all)",
            },
        },
        "fit": {
            "--model": {
                "choices": ("scvi", "ldvae"),
                "default": "scvi",
                "help": "ldvae: linear decoder (default: scvi)",
            },
            "--n-latent": {"type": positive, "default": 10, "metavar": "N", "help": "latent dimensions (default: 10)"},
            "--max-epochs": {"type": positive, "metavar": "N", "help": "(default: from the number of cells)"},
            "--seed": {"type": seed, "default": 0, "metavar": "N", "help": "same seed, same result (default: 0)"},
        },
    }


def _whole_number(text: str, wanted: str, least: int = 0, below: float = math.inf) -> int:
    if not (text.isdecimal() and least <= int(text) < below):
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
    return int(text)


def _demo(arguments: argparse.Namespace) -> None:
    from scvi import demo

    check_folder(arguments.output)
    demo.run(arguments.output)


def _train(arguments: argparse.Namespace) -> None:
    output = Output(arguments.output, arguments.file)
    options = _options(arguments)
    output.check(options, resume=arguments.resume, overwrite=arguments.overwrite)
    if arguments.resume and output.is_complete:
        print(f"{output.folder} is complete; --overwrite would fit it anew")
        return

    from scvi._writing import writable

    adata = _read(arguments.file)
    writable(adata, "adata")  # before the fit: not all that is read can be written, as it is with settings of anndata
    model = _model(adata, arguments)
    if arguments.overwrite:
        output.clear()
    output.begin(options)
    model.train(
        arguments.max_epochs, seed=arguments.seed, checkpoint_dir=output.checkpoint, resume=output.has_checkpoint
    )
    if model.was_interrupted:
        raise KeyboardInterrupt
    _write(output, model, adata)
    _draw(output, adata, arguments)
    output.end()


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options on which the result depends."""
    names = [name.removeprefix("--").replace("-", "_") for group in _train_options().values() for name in group]
    return {name: getattr(arguments, name) for name in names}


def _read(file: Path) -> AnnData:
    import anndata

    from scvi._links import check_links

    try:
        check_links(file)
        return anndata.read_h5ad(file)
    except Exception as error:  # a broken file fails in as many ways as HDF5 and anndata have
        raise ValueError(f"{str(file)!r} is no readable .h5ad file: {error}") from error


def _model(adata: AnnData, arguments: argparse.Namespace) -> SCVI | LinearSCVI:
    """The model to train; the gene selection, if one is asked for, goes into adata."""
    from scvi.cells.checks import obs_column
    from scvi.estimators import SCVI, LinearSCVI

    Model: type[SCVI] | type[LinearSCVI] = SCVI if arguments.model == "scvi" else LinearSCVI
    if arguments.labels_key:
        obs_column(adata, "labels_key", arguments.labels_key)
    if arguments.n_top_genes:
        _select_genes(adata, arguments)
    mask = "highly_variable" if arguments.n_top_genes else None
    rule: Any = arguments.non_integer or "warn"
    Model.setup_anndata(adata, layer=arguments.layer, batch_key=arguments.batch_key, mask_var=mask, non_integer=rule)
    print(f"{arguments.file}: {adata.n_obs} cells x {adata.n_vars} genes", flush=True)
    return Model(adata, n_latent=arguments.n_latent, seed=arguments.seed)


def _select_genes(adata: AnnData, arguments: argparse.Namespace) -> None:
    from scvi.cells.checks import obs_column, refuse_repeated_genes
    from scvi.cells.count_checks import EstimatedCounts, counted, counts_of
    from scvi.cells.estimates import rounded
    from scvi.data.variable_genes import seurat_v3

    n_top = arguments.n_top_genes
    if n_top > adata.n_vars:
        raise ValueError(f"--n-top-genes {n_top} is more than the {adata.n_vars} genes of the file; leave it out")
    refuse_repeated_genes(adata.var_names)
    batch = obs_column(adata, "batch_key", arguments.batch_key) if arguments.batch_key else None
    counts = counts_of(adata, arguments.layer)
    rule: Any = arguments.non_integer or "warn"
    counted(
        adata, arguments.layer, counts, non_integer=rule
    )  # the local regression is no match for values that are no counts
    if rule == "round":
        counts = rounded(counts)  # they are in memory
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EstimatedCounts)  # set-up says so, with the names of cells and genes
        adata.var["highly_variable"] = seurat_v3(counts, n_top, batch)["highly_variable"].to_numpy()


def _write(output: Output, model: SCVI | LinearSCVI, adata: AnnData) -> None:
    import pandas as pd

    from scvi._writing import writable, write_h5ad

    adata.obsm["X_scVI"] = model.get_latent_representation()
    print("writing", flush=True)
    with replacing(output.adata) as temporary:
        write_h5ad(temporary, writable(adata, "adata"), compression="gzip")
    print(f"  {output.adata}  with the latent space in obsm['X_scVI']")
    with replacing(output.history) as temporary:
        pd.concat(model.history.values(), axis=1).to_csv(temporary, index_label="epoch")
    print(f"  {output.history}")
    model.save(output.model, overwrite=True)
    print(f"  {output.model}  for scvi.{type(model).__name__}.load({str(output.model)!r}, adata)", flush=True)


def _draw(output: Output, adata: AnnData, arguments: argparse.Namespace) -> None:
    """Draws the picture. All else is written by now, so that a failure costs nothing but the picture."""
    from scvi import plots

    if not plots.available():
        print('  (no picture: pip install "scvi[plot]")')
        return
    if adata.n_obs < plots.FEWEST_CELLS:
        return
    try:
        colour_by = {key: adata.obs[key] for key in (arguments.batch_key, arguments.labels_key) if key}
        plots.latent_umap(adata.obsm["X_scVI"], colour_by, output.picture, seed=arguments.seed)
    except Exception as error:  # umap, numba and matplotlib have failures of their own
        if arguments.debug:
            raise
        _say(f"no picture, all else is written ({type(error).__name__}: {error})", "warning")
    else:
        print(f"  {output.picture}")


class _Messages(logging.Handler):
    """Prints the package's messages on standard error, plainly."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(record.getMessage(), "warning" if record.levelno >= logging.WARNING else None)


@contextmanager
def _messages() -> Iterator[None]:
    """Shows messages and warnings as lines of their own."""
    logger, handler = logging.getLogger("scvi"), _Messages()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *args, **kwargs: _say(message, "warning")
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _say(message: object, kind: str | None = None) -> None:
    text = re.sub(
        r"(?<![\w'-])(batch_key|labels_key|layer(?==)|checkpoint_dir|non_integer)\b",
        lambda found: TYPED[found[0]],
        str(message),
    )
    text = " ".join(text.split())
    print(f"scvi: {kind}: {text}" if kind else text, file=sys.stderr, flush=True)

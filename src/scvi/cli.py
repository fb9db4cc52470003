"""The command `scvi`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import scvi
from scvi._files import replacing

if TYPE_CHECKING:
    from anndata import AnnData

    from scvi.estimators import SCVI, LinearSCVI

USAGE, BAD_DATA, INTERRUPTED = 2, 1, 130

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


@dataclass(frozen=True)
class _Output:
    """Where `scvi train` writes. The model comes last, so where it is, everything is."""

    folder: Path
    input: Path

    @property
    def adata(self) -> Path:
        return self.folder / f"{self.input.stem}.h5ad"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def history(self) -> Path:
        return self.folder / "history.csv"

    @property
    def picture(self) -> Path:
        return self.folder / "umap.png"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def options(self) -> Path:
        return self.folder / "options.json"

    def clear(self) -> None:
        """Removes what an earlier run wrote, and nothing else."""
        for folder in (self.model, self.checkpoint):
            shutil.rmtree(folder, ignore_errors=True)
        for file in (self.adata, self.history, self.picture, self.options):
            file.unlink(missing_ok=True)


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
    except (ImportError, KeyError, OSError, RuntimeError, ValueError) as error:
        if arguments.debug:
            raise
        _say(error.args[0] if isinstance(error, KeyError) and error.args else error, "error")
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
    demo.set_defaults(run=_demo, after_ctrl_c="")

    train = commands.add_parser(
        "train", help="fit the cells of an .h5ad file", description=TRAIN_HELP, epilog=TRAIN_EPILOG, **options
    )
    train.add_argument("file", type=Path, metavar="FILE.h5ad", help="cells x genes, raw counts")
    train.add_argument("--output", type=Path, required=True, metavar="DIR", help="a new or an empty folder")
    data = train.add_argument_group("data")
    data.add_argument("--batch-key", metavar="COLUMN", help="column of obs with the batch to correct for")
    data.add_argument("--labels-key", metavar="COLUMN", help="column of obs with the cell type; for the picture")
    data.add_argument("--layer", metavar="LAYER", help="layer with the raw counts (default: X)")
    data.add_argument(
        "--n-top-genes",
        type=_positive,
        metavar="N",
        help="fit the N most variable genes (seurat_v3, per batch), kept in var['highly_variable']; "
        "the copy keeps all genes (default: fit all)",
    )
    fit = train.add_argument_group("fit")
    fit.add_argument("--model", choices=("scvi", "ldvae"), default="scvi", help="ldvae: linear decoder (default: scvi)")
    fit.add_argument("--n-latent", type=_positive, default=10, metavar="N", help="latent dimensions (default: 10)")
    fit.add_argument("--max-epochs", type=_positive, metavar="N", help="(default: from the number of cells)")
    fit.add_argument("--seed", type=_seed, default=0, metavar="N", help="same seed, same result (default: 0)")
    again = train.add_mutually_exclusive_group()
    again.add_argument("--resume", action="store_true", help="go on with the run that was interrupted in DIR")
    again.add_argument("--overwrite", action="store_true", help="replace what an earlier run wrote into DIR")
    train.set_defaults(run=_train, parser=train, after_ctrl_c="; --resume goes on")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {2**32 - 1}")
    return int(text)


def _demo(arguments: argparse.Namespace) -> None:
    from scvi import demo

    demo.run(arguments.output)


def _train(arguments: argparse.Namespace) -> None:
    output = _Output(arguments.output, arguments.file)
    _check_places(output, arguments)
    if arguments.resume and output.model.exists():
        print(f"{output.folder} is complete; --overwrite would fit it anew")
        return

    adata = _read(arguments.file)
    model = _model(adata, arguments)
    if arguments.overwrite:
        output.clear()
    output.folder.mkdir(parents=True, exist_ok=True)
    _remember_options(output, arguments)
    resume = arguments.resume and output.checkpoint.exists()
    model.train(arguments.max_epochs, seed=arguments.seed, checkpoint_dir=output.checkpoint, resume=resume)
    if model.was_interrupted:
        raise KeyboardInterrupt
    _write(output, model, adata, arguments)
    shutil.rmtree(output.checkpoint, ignore_errors=True)


def _check_places(output: _Output, arguments: argparse.Namespace) -> None:
    """Refuses, as bad usage, what the names of files already tell to be wrong."""
    refuse = arguments.parser.error
    if not output.input.is_file():
        refuse(f"there is no file {str(output.input)!r}")
    if output.folder.exists() and not output.folder.is_dir():
        refuse(f"--output {str(output.folder)!r} is a file; name a folder")
    if output.adata.exists() and output.adata.samefile(output.input):
        refuse(f"--output {str(output.folder)!r} holds the input, which would be overwritten; name another folder")
    if not output.folder.exists() or not any(output.folder.iterdir()) or arguments.overwrite:
        return
    if not arguments.resume:
        refuse(f"--output {str(output.folder)!r} is not empty; add --resume, --overwrite, or name another folder")
    if not output.options.exists():
        refuse(f"--output {str(output.folder)!r} holds no run to --resume; name another folder")
    then, now = json.loads(output.options.read_text()), _options(arguments)
    changed = [f"--{name.replace('_', '-')} {then.get(name)}" for name in now if now[name] != then.get(name)]
    if changed:
        refuse(f"--resume needs the options that the run began with: {', '.join(changed)}")


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options on which the result depends."""
    names = ("batch_key", "labels_key", "layer", "n_top_genes", "model", "n_latent", "max_epochs", "seed")
    return {name: getattr(arguments, name) for name in names}


def _remember_options(output: _Output, arguments: argparse.Namespace) -> None:
    record = {"file": arguments.file.name, **_options(arguments), "scvi_version": scvi.__version__}
    with replacing(output.options) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n")


def _read(file: Path) -> AnnData:
    import anndata

    try:
        return anndata.read_h5ad(file)
    except Exception as error:  # a broken file fails in as many ways as HDF5 and anndata have
        raise ValueError(f"{str(file)!r} is no readable .h5ad file: {error}") from error


def _model(adata: AnnData, arguments: argparse.Namespace) -> SCVI | LinearSCVI:
    """The model to train; the gene selection, if one is asked for, goes into adata."""
    from scvi.estimators import SCVI, LinearSCVI

    Model: type[SCVI] | type[LinearSCVI] = SCVI if arguments.model == "scvi" else LinearSCVI
    keys = {"layer": arguments.layer, "batch_key": arguments.batch_key, "labels_key": arguments.labels_key}
    Model.setup_anndata(adata, **keys)
    print(f"{arguments.file}: {adata.n_obs} cells x {adata.n_vars} genes", flush=True)
    if arguments.n_top_genes:
        _select_genes(adata, arguments)
        Model.setup_anndata(adata, mask_var="highly_variable", **keys)
    return Model(adata, n_latent=arguments.n_latent, seed=arguments.seed)


def _select_genes(adata: AnnData, arguments: argparse.Namespace) -> None:
    from scvi.dataset.genes import seurat_v3

    n_top = arguments.n_top_genes
    if n_top > adata.n_vars:
        raise ValueError(f"--n-top-genes {n_top} is more than the {adata.n_vars} genes of the file; leave it out")
    counts = adata.layers[arguments.layer] if arguments.layer else adata.X
    batch = adata.obs[arguments.batch_key] if arguments.batch_key else None
    adata.var["highly_variable"] = seurat_v3(counts, n_top, batch)["highly_variable"].to_numpy()


def _write(output: _Output, model: SCVI | LinearSCVI, adata: AnnData, arguments: argparse.Namespace) -> None:
    import pandas as pd

    from scvi import plots

    latent = adata.obsm["X_scVI"] = model.get_latent_representation()
    print("writing", flush=True)
    with replacing(output.adata) as temporary:
        adata.write_h5ad(temporary, compression="gzip")
    print(f"  {output.adata}  with the latent space in obsm['X_scVI']")
    with replacing(output.history) as temporary:
        pd.concat(model.history.values(), axis=1).to_csv(temporary, index_label="epoch")
    print(f"  {output.history}")
    if not plots.available():
        print('  (no picture: pip install "scvi[plot]")')
    elif adata.n_obs >= plots.FEWEST_CELLS:
        keys = [key for key in (arguments.batch_key, arguments.labels_key) if key]
        plots.latent_umap(latent, {key: adata.obs[key] for key in keys}, output.picture, seed=arguments.seed)
        print(f"  {output.picture}")
    model.save(output.model, overwrite=True)
    print(f"  {output.model}  for scvi.{type(model).__name__}.load({str(output.model)!r}, adata)")


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
    text = " ".join(str(message).split())
    print(f"scvi: {kind}: {text}" if kind else text, file=sys.stderr, flush=True)

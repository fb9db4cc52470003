"""`scvi train`."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scvi._files import replacing
from scvi.cli.messages import say
from scvi.cli.options import add_command, positive, seed
from scvi.cli.output import Output
from scvi.cli.reading import read_h5ad

if TYPE_CHECKING:
    from anndata import AnnData

    from scvi.estimators import SCVI, LinearSCVI

HELP = """\
Fits a model to the raw counts of an .h5ad file and writes into DIR:

  FILE.h5ad     a copy of the input with the latent space in obsm["X_scVI"]
  model/        the model: scvi.SCVI.load("DIR/model", adata)
  history.csv   losses, epoch by epoch
  umap.png      the latent space on a plane (with the extra [plot] installed)
"""
EPILOG = """\
examples:
  scvi train cells.h5ad --output fit
  scvi train cells.h5ad --output fit --batch-key sample --n-top-genes 2000
  scvi train cells.h5ad --output fit --layer counts --model ldvae --n-latent 8
  scvi train cells.h5ad --output fit --resume         goes on after Ctrl-C or a crash, to the very same result

Counts must be raw: not normalised, not log-transformed. Say where they are with --layer if X holds something else.
"""


def add(commands: Any) -> None:
    """Adds the command."""
    train = add_command(
        commands,
        "train",
        _train,
        "; --resume goes on",
        help="fit the cells of an .h5ad file",
        description=HELP,
        epilog=EPILOG,
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


def _train_options() -> dict[str, dict[str, dict[str, Any]]]:
    """Options of `scvi train` on which the result depends, by their group in the help."""
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


def _train(arguments: argparse.Namespace) -> None:
    output = Output(arguments.output, arguments.file)
    options = _options(arguments)
    output.check(options, resume=arguments.resume, overwrite=arguments.overwrite)
    if arguments.resume and output.is_complete:
        print(f"{output.folder} is complete; --overwrite would fit it anew")
        return

    from scvi._writing import writable

    adata = read_h5ad(arguments.file)
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
        say(f"no picture, all else is written ({type(error).__name__}: {error})", "warning")
    else:
        print(f"  {output.picture}")

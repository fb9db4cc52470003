"""What a fit leaves in its folder: copies of the cells with the latent space, the model, the losses and a picture."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scvi._files import replacing
from scvi.cli.answers import Answer
from scvi.cli.messages import say
from scvi.cli.models import LATENT
from scvi.cli.output import Output

if TYPE_CHECKING:
    from anndata import AnnData


def check_writable(cells: list[Any]) -> None:
    """ValueError if something that was read cannot be written."""
    for adata in cells:
        _parts(adata)


def written(output: Output, model: Any, cells: list[Any], arguments: argparse.Namespace) -> Answer:
    """Writes all of it, and says what.

    The picture and the page come last, so that a failure costs nothing but these.
    """
    say("writing")
    key = LATENT[type(model).__name__]
    latents = _latents(model)
    lines = []
    for file, adata, latent in zip(output.copies, cells, latents, strict=True):
        adata.obsm[key] = latent
        extra = _extra(model, adata)
        _write(file, adata)
        lines.append(f"{file}  with the latent space in obsm[{key!r}]{extra}")
    if model.history:  # of a model that was mapped and not trained there is none
        _write_history(output, model)
        lines.append(f"{output.history}")
    model.save(output.model, overwrite=True)
    lines += [f"{output.model}  for scvi.{type(model).__name__}.load({str(output.model)!r}, ...)"]
    lines += _drawn(output, model, cells, latents, arguments) + _reported(output, model, cells, arguments)
    return Answer("\n".join(lines), _facts(output, model, cells))


def _latents(model: Any) -> list[Any]:
    latent = model.get_latent_representation()
    return latent if isinstance(latent, list) else [latent]


def _extra(model: Any, adata: Any) -> str:
    """Adds what a model is fitted for beside the latent space, and says where it is."""
    name = type(model).__name__
    if name == "SCANVI":
        probabilities = model.predict(soft=True)
        adata.obs["predictions_scanvi"] = probabilities.idxmax(axis=1).astype("category")
        adata.obs["probability_scanvi"] = probabilities.max(axis=1)
        return ", labels in obs['predictions_scanvi']"
    if name == "AUTOZI" and model.options["zero_inflation"] == "gene":
        adata.var["zero_inflation"] = model.get_zero_inflation().reindex(adata.var_names)
        return ", the probability that a gene is zero-inflated in var['zero_inflation']"
    if name == "LinearSCVI":
        adata.varm["loadings"] = model.get_loadings().reindex(adata.var_names)
        return ", loadings of the genes in varm['loadings']"
    return ""


def _write_history(output: Output, model: Any) -> None:
    import pandas as pd

    with replacing(output.history) as temporary:
        pd.concat(model.history.values(), axis=1).to_csv(temporary, index_label="epoch")


def _facts(output: Output, model: Any, cells: list[Any]) -> dict[str, Any]:
    """What a machine is told."""
    losses = {name: table.iloc[:, 0].dropna() for name, table in model.history.items()}
    return {
        "output": output.folder,
        "model": output.model,
        "estimator": type(model).__name__,
        "cells": [adata.n_obs for adata in cells],
        "genes": [adata.n_vars for adata in cells],
        "latent": LATENT[type(model).__name__],
        "copies": output.copies,
        "history": output.history if model.history else None,
        "picture": output.picture if output.picture.exists() else None,
        "report": output.report if output.report.exists() else None,
        "epochs": len(losses.get("elbo_train", ())),
        "losses": {name: values.iloc[-1] for name, values in losses.items() if len(values)},
    }


# ---- copies ----------------------------------------------------------------------------------------------------------


def _parts(adata: Any) -> Any:
    """What a copy is made of; of counts on disk it has none."""
    from scvi._writing import writable
    from scvi.cells.mudata import is_multimodal
    from scvi.cells.mudata_parts import writable_mudata

    if is_multimodal(adata):
        return writable_mudata(adata, "mdata")
    return writable(adata if _is_in_memory(adata) else _without_counts(adata), "adata")


def _write(file: Path, adata: Any) -> None:
    from scvi._writing import write_h5ad
    from scvi.cells.mudata import is_multimodal
    from scvi.cells.mudata_parts import write_h5mu

    with replacing(file) as temporary:
        if is_multimodal(adata):
            write_h5mu(temporary, _parts(adata))
        else:
            write_h5ad(temporary, _parts(adata), compression="gzip")


def _is_in_memory(adata: AnnData) -> bool:
    import numpy as np
    from scipy import sparse

    return all(
        isinstance(x, np.ndarray) or sparse.issparse(x) for x in (adata.X, *adata.layers.values()) if x is not None
    )


def _without_counts(adata: AnnData) -> AnnData:
    from anndata import AnnData

    return AnnData(obs=adata.obs, var=adata.var, obsm=dict(adata.obsm), varm=dict(adata.varm), uns=dict(adata.uns))


# ---- the picture -----------------------------------------------------------------------------------------------------


def _drawn(
    output: Output, model: Any, cells: list[Any], latents: list[Any], arguments: argparse.Namespace
) -> list[str]:
    """Draws the picture; a line on it."""
    from scvi import plots

    if not plots.available():
        return ['(no picture: pip install "scvi[plot]")']
    if sum(map(len, latents)) < plots.FEWEST_CELLS:
        return []
    draw = partial(_picture, output.picture, model, cells, latents, arguments)
    return [str(output.picture)] if _is_made("picture", draw, arguments) else []


def _reported(output: Output, model: Any, cells: list[Any], arguments: argparse.Namespace) -> list[str]:
    """Writes the page on the fit, if one was asked for; a line on it."""
    if not getattr(arguments, "report", False):
        return []
    labels_key = arguments.labels_key if any(arguments.labels_key in adata.obs for adata in cells) else None
    write = partial(model.report, output.report, labels_key=labels_key, seed=arguments.seed)
    return [str(output.report)] if _is_made("report", write, arguments) else []


def _is_made(what: str, make: Callable[[], object], arguments: argparse.Namespace) -> bool:
    """Whether it could be made; a failure costs nothing but this."""
    try:
        make()
    except Exception as error:  # umap, numba and matplotlib have failures of their own
        if arguments.debug:
            raise
        say(f"no {what}, all else is written ({type(error).__name__}: {error})", "warning")
        return False
    return True


def _picture(file: Path, model: Any, cells: list[Any], latents: list[Any], arguments: argparse.Namespace) -> None:
    import numpy as np

    from scvi import plots

    if len(cells) > 1:
        colour_by = {"data set": np.repeat(["seq", "spatial"], [len(latent) for latent in latents])}
    else:
        keys = (model.schema.batch_key, getattr(arguments, "labels_key", None) or model.schema.labels_key)
        colour_by = {key: cells[0].obs[key] for key in keys if key and key in cells[0].obs}
    plots.latent_umap(np.concatenate(latents), colour_by, file, seed=arguments.seed)

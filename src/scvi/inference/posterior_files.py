"""Saving and loading a posterior."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal

import anndata
import numpy as np
import numpy.typing as npt
import pandas as pd
import safetensors.numpy
import safetensors.torch
import torch
from anndata import AnnData
from torch import Tensor, nn

import scvi
from scvi._files import replacing
from scvi._links import check_links
from scvi.dataset import CellMeasurement, GeneExpressionDataset
from scvi.models.weights import refuse_not_finite

if TYPE_CHECKING:
    from scvi.inference.posterior import Posterior

logger = logging.getLogger(__name__)

FORMAT = 1
INFO, DATA, CELLS, WEIGHTS = "posterior.json", "anndata_dataset.h5ad", "cells.safetensors", "weights.safetensors"
INFO_2020, INDICES_2020, WEIGHTS_2020 = "posterior_type.txt", "indices.npy", "model_params.pt"
CORRUPTED_LAYER = "corrupted_X"


def write_posterior(posterior: Posterior, dir_path: Path) -> None:
    """Writes what `load_posterior` reads: h5ad for the data, safetensors for codes and weights, JSON for the rest."""
    weights = {name: value.detach().cpu().contiguous() for name, value in posterior.model.state_dict().items()}
    refuse_not_finite(weights, "this posterior is not saved, for its model answers nothing any more; fit it anew")
    data_set = posterior.gene_dataset
    info = {
        "format": FORMAT,
        "scvi": scvi.__version__,
        "posterior_type": posterior.posterior_type,
        "data_loader_kwargs": _plain(posterior.data_loader_kwargs),
        "corrupted": posterior.reads_corrupted,
        "options": _plain(posterior.own_options()),
        "categorical": sorted(data_set.cell_categorical_attribute_names),
        "mappings": {
            source: {name: [str(value) for value in getattr(data_set, name)] for name in dict.fromkeys(names)}
            for source, names in data_set.attribute_mappings.items()
        },
    }
    names = ("batch_indices", "labels", "local_means", "local_vars")
    cells = {name: np.ascontiguousarray(getattr(data_set, name)) for name in names}
    cells["indices"] = posterior.indices.astype(np.int64)
    adata = data_set.to_anndata()
    if data_set.corrupted_X is not None:
        adata.layers[CORRUPTED_LAYER] = data_set.corrupted_X
    for attributes in (adata.obs, adata.var, adata.obsm, adata.varm, adata.uns):
        _as_text_where_mixed(attributes)
    if dir_path.exists():
        raise ValueError(f"{str(dir_path)!r} already exists: choose another directory or remove it")
    dir_path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(dir_path) as folder:
        folder.mkdir()
        adata.write_h5ad(folder / DATA, compression="lzf")
        safetensors.numpy.save_file(cells, folder / CELLS)
        safetensors.torch.save_file(weights, folder / WEIGHTS)
        (folder / INFO).write_text(json.dumps(info, indent=1), encoding="utf-8")


def load_posterior(
    dir_path: str | Path, model: nn.Module, use_cuda: bool | Literal["auto"] = "auto", **posterior_kwargs: Any
) -> Posterior:
    """Reads what `Posterior.save_posterior` wrote; runs no code from the files.

    Cells, their order in `indices` and all codes are as they were. The order of the iteration is random, as for any
    posterior with indices: call `sequential`. Directories of 2020 are read too, but for the options of their loader;
    their batch and label names are numbered by first appearance.

    Parameters
    ----------
    dir_path
        The directory.
    model
        A network of the saved model's class and sizes, which receives the saved weights.
    use_cuda
        Move the model to a GPU if there is one.
    **posterior_kwargs
        Further arguments of the posterior's class, in place of those that it was saved with.

    Raises
    ------
    FileNotFoundError
        If there is no such directory.
    ValueError
        If its files are damaged or of another origin, or the weights do not fit the model or are not finite.
    """
    # Posterior itself uses this module
    from scvi.inference.posterior import Posterior

    dir_path = Path(dir_path)
    if not dir_path.is_dir():
        raise FileNotFoundError(f"there is no directory {str(dir_path)!r}; save_posterior makes one")
    kinds = {kind.__name__: kind for kind in with_subclasses(Posterior)}
    with _blaming(dir_path):
        info, cells, weights = _read(dir_path)
        refuse_not_finite(weights, "its weights are damaged")
        name, options = info["posterior_type"], dict(info.get("options", {}))
        if name in kinds:
            data_set = _read_data_set(dir_path / DATA, info, cells)
    if name not in kinds:
        raise ValueError(f"Posterior type {name!r} is not eligible for loading; known types: {', '.join(kinds)}")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the weights in {str(dir_path)!r} are of another model than the one given: {error}") from None
    if use_cuda and torch.cuda.is_available():
        model.cuda()
    model.eval()
    posterior = kinds[name](
        model,
        data_set,
        indices=cells["indices"],
        use_cuda=bool(use_cuda),
        data_loader_kwargs=info["data_loader_kwargs"],
        **(options | posterior_kwargs),
    )
    return posterior.corrupted() if info["corrupted"] else posterior


def _read(dir_path: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray], dict[str, Tensor]]:
    """Description, arrays over cells, weights."""
    if not (dir_path / INFO).exists():
        return _read_2020(dir_path)
    info = json.loads((dir_path / INFO).read_text(encoding="utf-8"))
    if info["format"] != FORMAT:
        raise ValueError(f"it has format {info['format']!r}, this version of scvi reads {FORMAT}")
    return info, safetensors.numpy.load_file(dir_path / CELLS), safetensors.torch.load_file(dir_path / WEIGHTS)


def _read_2020(dir_path: Path) -> tuple[dict[str, Any], dict[str, npt.NDArray], dict[str, Tensor]]:
    info = {
        "posterior_type": (dir_path / INFO_2020).read_text(encoding="utf-8").strip(),
        "data_loader_kwargs": {},
        "corrupted": False,
        "categorical": [],
        "mappings": {},
    }
    cells = {"indices": np.load(dir_path / INDICES_2020, allow_pickle=False)}
    weights = torch.load(dir_path / WEIGHTS_2020, map_location="cpu", weights_only=True)
    logger.info("The options of the data loader of 2020 are not read; use update({'batch_size': ...}).")
    return info, cells, weights


def _read_data_set(path: Path, info: Mapping[str, Any], cells: Mapping[str, npt.NDArray]) -> GeneExpressionDataset:
    """The data set as it was saved: no cell is left out, no code is renumbered."""
    check_links(path)
    adata = anndata.read_h5ad(path)
    cells, mappings = _codes(adata, cells, info["mappings"])
    columns = adata.uns.get("cell_measurements_col_mappings", {})
    data_set = GeneExpressionDataset()
    data_set.populate_from_data(
        adata.X,
        Ys=[
            CellMeasurement(name, adata.obsm[name], column, _column_names(adata, name, column))
            for name, column in columns.items()
        ],
        batch_indices=cells["batch_indices"],
        labels=cells["labels"],
        gene_names=np.asarray(adata.var_names),
        cell_types=mappings.get("labels", {}).get("cell_types"),
        gene_attributes_dict={name: np.asarray(adata.var[name]) for name in adata.var} | dict(adata.varm),
        remap_attributes=False,
    )
    for name, values in [*adata.obs.items(), *adata.obsm.items()]:
        if name not in {"batch_indices", "labels", "cell_types", *columns}:
            data_set.initialize_cell_attribute(name, np.asarray(values), categorical=name in info["categorical"])
    for source, lists in mappings.items():
        for name, values in lists.items():
            data_set.initialize_mapped_attribute(source, name, values)
    for name in ("local_means", "local_vars"):
        setattr(data_set, name, cells.get(name, getattr(data_set, name)))
    if CORRUPTED_LAYER in adata.layers:
        data_set.corrupted_X = adata.layers[CORRUPTED_LAYER]
    return data_set


def _column_names(adata: AnnData, name: str, column: str) -> npt.NDArray:
    """Names of a measurement's columns; numbers in directories of 2020, which hold its data again in their place."""
    if column in adata.uns:
        return np.asarray(adata.uns[column])
    n_columns = adata.obsm[name].shape[1]
    logger.info("The columns of %s have no names here, they are numbered from 0 to %d.", name, n_columns - 1)
    return np.arange(n_columns).astype(str)


def _codes(
    adata: AnnData, cells: Mapping[str, npt.NDArray], mappings: Mapping[str, Any]
) -> tuple[Mapping[str, npt.NDArray], Mapping[str, Any]]:
    """Batch and label codes as saved; for a directory of 2020, from the columns of its data."""
    if "labels" in cells:
        return cells, mappings
    codes = {"batch_indices": np.asarray(adata.obs["batch_indices"])}
    if "cell_types" not in adata.obs:
        return {**cells, **codes, "labels": np.asarray(adata.obs["labels"])}, mappings
    codes["labels"], names = pd.factorize(adata.obs["cell_types"])
    return {**cells, **codes}, {"labels": {"cell_types": [str(name) for name in names]}}


@contextmanager
def _blaming(dir_path: Path) -> Iterator[None]:
    """Names the directory in whatever goes wrong while reading its files; readers of foreign files raise anything."""
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{str(dir_path)!r} is no complete directory of save_posterior: {reason}") from error


def _as_text_where_mixed(attributes: Any) -> None:
    """Values of mixed types, which no column of a file holds, become text."""
    for name in list(attributes):
        values = attributes[name]
        if np.dtype(object) != getattr(values, "dtype", None):
            continue
        if pd.api.types.infer_dtype(np.ravel(values), skipna=False) not in ("string", "empty"):
            logger.warning("The attribute %s holds objects that are not all text: it is saved as text", name)
            attributes[name] = values.astype(str)


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that JSON can hold."""
    values = {name: value.item() if isinstance(value, np.generic) else value for name, value in options.items()}
    plain = {name: value for name, value in values.items() if isinstance(value, (bool, int, float, str, NoneType))}
    dropped = sorted(set(options) - set(plain))
    if dropped:
        logger.warning("Options of the data loader that are objects are not saved: %s", ", ".join(dropped))
    return plain


def with_subclasses(kind: type[Posterior]) -> Iterator[type[Posterior]]:
    """The class, and all that are made of it."""
    yield kind
    for subclass in kind.__subclasses__():
        yield from with_subclasses(subclass)

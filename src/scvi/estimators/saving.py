"""Models to directories and back, as every estimator takes them over."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from anndata import AnnData
from torch import nn

from scvi.estimators import files, foreign_cells, foreign_models
from scvi.estimators.added import added_attributes
from scvi.estimators.class_methods import making_a_model
from scvi.fit.devices import resolve_device
from scvi.fit.ranks import writes

if TYPE_CHECKING:
    import pandas as pd

    from scvi.estimators.base import Estimator

Path = str | os.PathLike[str]


def save(
    self: Estimator,
    dir_path: Path,
    overwrite: bool = False,
    save_anndata: bool = False,
    *,
    prefix: str | None = None,
) -> None:
    """Writes the model to a directory: ``weights.safetensors`` and ``model.json``, whole or not at all.

    In a job of several processes the first one writes, and the others do nothing.

    Attributes that a user gave the model come along if their names end in ``_`` and they are numbers, strings,
    flags, or lists and dicts of these.

    Parameters
    ----------
    overwrite
        Write into a directory that is there, and replace the model that is in it. Other files are not touched.
    save_anndata
        Write the AnnData beside it, as ``adata.h5ad``, or the MuData, as ``mdata.h5mu``.
    prefix
        What the names of the files begin with, so that a directory holds several models.
    """
    if not writes():
        return
    pairs = zip(self._files_of_cells, self._data_sets, strict=True)
    adatas = {name: cells.given_now() for name, cells in pairs} if save_anndata else {}
    if any(adata is None for adata in adatas.values()):
        raise ValueError("save_anndata=True, but this model was loaded without an AnnData")
    stored = files.StoredModel(
        type(self).__name__,
        self.options,
        tuple(cells.schema for cells in self._data_sets),
        self.history,
        self.is_trained,
        self._networks.state_dict(),
        self._train_cells,
        self._validation_cells,
        self._scope,
        self._is_initialised,
        added_attributes(self),
        self._seed,
        self._fits,
        self._first,
    )
    files.write(dir_path, stored, adatas, overwrite, prefix)


@making_a_model
def load(
    cls: type[Estimator],
    dir_path: Path,
    adata: AnnData | Literal[False] | None = None,
    accelerator: str = "auto",
    device: str | int | Sequence[int] = "auto",
    prefix: str | None = None,
) -> Estimator:
    """Reads a model from a directory, one that scvi-tools 1.0 to 1.4 saved as well. Nothing in the files is run.

    Parameters
    ----------
    adata
        Cells to work with; it needs no set-up. None: the AnnData or MuData that was saved with the model, if any;
        without one, or with False, every question needs its `adata`.
    accelerator, device
        Where the model is to be, as `accelerator` and `devices` of :meth:`train`.
    prefix
        What the names of the files begin with.

    Raises
    ------
    FileNotFoundError
        If there is no model.
    ValueError
        If its files are truncated, foreign or of another estimator, or `adata` does not fit the model.
    """
    return with_cells(cls, dir_path, (adata,), accelerator, device, prefix)


def with_cells(
    cls: type[Any],
    dir_path: Path,
    adatas: Sequence[AnnData | Literal[False] | None],
    accelerator: str,
    device: str | int | Sequence[int],
    prefix: str | None,
) -> Any:
    """A model from its directory with an entry of `adatas` for each of its data sets, see :func:`load`."""
    wanted = resolve_device(accelerator, device)
    found = _read(cls, dir_path, prefix)
    if found.is_foreign:
        model = _translated(cls, found, adatas, dir_path, prefix or "")
    else:
        pairs = zip(cls._files_of_cells, adatas, strict=True)
        cells = [files.read_cells(dir_path, name, prefix) if adata is None else adata for name, adata in pairs]
        model = _restored(cls, found, [None if adata is False else adata for adata in cells])
    model.to_device(wanted)
    return model


def without_cells(cls: type[Any], dir_path: Path, prefix: str | None = None) -> Any:
    """A model from its directory, on the CPU."""
    return _restored(cls, _read(cls, dir_path, prefix), [None] * len(cls._files_of_cells))


def view_setup_args(cls: type[Estimator], dir_path: Path, prefix: str | None = None) -> pd.DataFrame:
    """What a saved model reads, as :meth:`view_anndata_setup` shows it; no cells are needed.

    Parameters
    ----------
    dir_path, prefix
        As of :meth:`load`.
    """
    return without_cells(cls, dir_path, prefix).view_anndata_setup()


class _Found(NamedTuple):
    stored: files.StoredModel
    networks: nn.Module
    is_foreign: bool


def _read(cls: type[Any], dir_path: Path, prefix: str | None = None) -> _Found:
    """The files of a model, and its networks."""
    is_foreign = foreign_models.is_foreign(dir_path, prefix or "")
    if is_foreign:
        stored = foreign_models.read(dir_path, prefix or "", cls.__name__, cls._defaults())
    else:
        stored = files.read(dir_path, cls.__name__, cls._option_names(), len(cls._files_of_cells), prefix)
    networks = files.rebuild(dir_path, stored, lambda: cls._make_networks(stored.schemas, stored.options))
    return _Found(stored, networks, is_foreign)


def _restored(cls: type[Any], found: _Found, adatas: Sequence[AnnData | None]) -> Any:
    """A model of what was read, with these cells."""
    stored = found.stored
    model = cls._assembled(stored.options, found.networks, cls._make_cells(stored.schemas, stored.options, adatas))
    model.history, model.is_trained = stored.history, stored.is_trained
    model._train_cells, model._validation_cells = stored.train_cells, stored.validation_cells
    model._scope, model._is_initialised = stored.scope, stored.is_initialised
    model._seed, model._fits, model._first = stored.seed, stored.fits, stored.first
    for name, value in stored.attributes.items():
        if not hasattr(cls, name):
            setattr(model, name, value)
    return model


def _translated(cls: type[Any], found: _Found, adatas: Sequence[Any], dir_path: Path, prefix: str) -> Any:
    """A model of scvi-tools as one of this class; what it kept of minified cells is true of its weights here."""
    model = _restored(cls, found, [None])
    adata = foreign_cells.beside(dir_path, prefix) if adatas[0] is None else adatas[0]
    if adata is not None and adata is not False:
        model.adata = foreign_cells.as_kept_here(adata, model._digest())
        model._train_cells, model._validation_cells = foreign_cells.named(adata, found.stored)
    return model

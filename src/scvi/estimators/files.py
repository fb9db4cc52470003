"""A fitted model as a directory: tensors in safetensors, everything else in JSON. Loading runs no code from it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from scvi._checks import check_flag, is_integer
from scvi._files import replacing
from scvi._formats import in_format
from scvi._random import resolve_seed, seeded
from scvi.cells.schema import Schema
from scvi.estimators import cell_files
from scvi.estimators.added import checked_attributes
from scvi.estimators.calls import checked_calls, checked_first
from scvi.estimators.cell_files import name_of, writable_cells, write_cells
from scvi.estimators.cells import one_or_all
from scvi.estimators.fitted_cells import FittedCells
from scvi.estimators.folder import ADATA, DESCRIPTION, MDATA, OWN_FILES, WEIGHTS, ModelFolder, digest_of_file
from scvi.models.former_names import present_name, renamed
from scvi.models.freezing import Scope
from scvi.models.weights import refuse_not_finite

logger = logging.getLogger(__name__)

_FORMAT = 3  # in the second, cells of a fit had no names; in the first one, a schema had no number
_NEW_IN_3 = {  # options of networks, and what earlier formats meant without them
    "deeply_inject_covariates": True,
    "use_batch_norm": "both",
    "use_layer_norm": "none",
    "log_variational": True,
    "var_activation": "exp",
    "batch_representation": "one-hot",
    "batch_embedding_kwargs": None,
    "linear_classifier": False,
    "classifier_parameters": None,
    "encoder_branches": True,
    "background_deviation": "exp",
    "relative_counts": False,
}
_SINCE = {"scale_activation": "softmax"}  # options that are written where they are not this
_KEYS = {"format", "scvi_version", "estimator", "options", "schema", "history", "is_trained"}
_SPLIT = ("train_indices", "validation_indices")
_PREFIX, _TRAINED = "model/", "trained/"  # of the names of weights, and of masks of the part of them that trains


@dataclass(frozen=True)
class StoredModel:
    """What the files of a model say; the attributes are those of :class:`scvi.estimators.base.Estimator`."""

    estimator: str  # name of the class
    options: dict[str, Any]  # in plain JSON types
    schemas: tuple[Schema, ...]  # one, or one for each of the data sets that a model joins
    history: dict[str, pd.DataFrame]
    is_trained: bool
    weights: dict[str, Tensor]
    train_cells: list[FittedCells] | None  # for each data set
    validation_cells: list[FittedCells] | None
    scope: Scope | None = None
    is_initialised: bool = False  # of a model that was not trained: whether its weights are those of another model
    attributes: dict[str, Any] = field(default_factory=dict)  # what a user added
    seed: int | None = None  # of the initial weights
    fits: list[dict[str, Any]] = field(default_factory=list)  # what `train` was told
    first: dict[str, Any] | None = None  # seed, fits and labels of the model that the weights are from

    def tensors(self) -> dict[str, Tensor]:
        """What goes into the one file."""
        tensors = {f"{_PREFIX}{name}": t.detach().cpu().contiguous() for name, t in self.weights.items()}
        if self.scope is not None:
            tensors |= {f"{_TRAINED}{name}": mask.cpu() for name, mask in self.scope.trained.items()}
        for side, parts in zip(_SPLIT, (self.train_cells, self.validation_cells), strict=True):
            for name, cells in zip(_names_of_split(side, len(self.schemas)), parts or [], strict=False):
                tensors |= {f"{name}/{part}".rstrip("/"): tensor for part, tensor in cells.tensors().items()}
        return tensors

    def description(self) -> dict[str, Any]:
        """What goes into the other."""
        from scvi import __version__

        scope = {} if self.scope is None else {"resting": list(self.scope.resting)}
        return {
            "format": _FORMAT,
            **scope,
            **({"is_initialised": True} if self.is_initialised else {}),
            **({"attributes": self.attributes} if self.attributes else {}),
            **({} if self.seed is None else {"seed": self.seed}),
            **({"fits": self.fits} if self.fits else {}),
            **({} if self.first is None else {"first": self.first}),
            **({"cells": [part.among for part in self.train_cells]} if self.train_cells else {}),
            "scvi_version": __version__,
            "estimator": self.estimator,
            "options": {name: value for name, value in self.options.items() if _SINCE.get(name, ...) != value},
            "schema": one_or_all([schema.to_json() for schema in self.schemas]),
            "is_trained": self.is_trained,
            "history": {name: [table.index.tolist(), table[name].tolist()] for name, table in self.history.items()},
        }


def write(
    directory: str | os.PathLike[str],
    model: StoredModel,
    adatas: Mapping[str, Any],
    overwrite: bool,
    prefix: str | None = None,
) -> None:
    """Writes a model whole or not at all, and beside it its cells, by names of files; what else is there stays.

    A MuData is written as ``mdata.h5mu`` in place of ``adata.h5ad``. In a folder that is there its files are replaced
    one by one, see :class:`scvi.estimators.folder.ModelFolder`.

    Raises
    ------
    FileExistsError
        If the directory exists and may not be overwritten, is a file, or has a file of another's under a name of ours.
    ValueError
        If a weight is not finite, so that the files could not be read; if something of the cells cannot be written.
    """
    refuse_not_finite(model.weights, "this model is not saved, for it answers nothing any more; fit it anew")
    folder = ModelFolder(Path(directory).resolve(), prefix)
    target = folder.directory
    own: tuple[str, ...] = ()
    if target.exists():
        if not overwrite:
            raise FileExistsError(
                f"{target} exists: choose another dir_path, or pass overwrite=True to replace the model in it"
            )
        own = _own_files(folder, (DESCRIPTION, WEIGHTS, *(name_of(cells, name) for name, cells in adatas.items())))
    cells = {name_of(adata, name): writable_cells(adata, name) for name, adata in adatas.items()}
    if target.exists():
        with folder.replaced(own) as temporary:
            _write_files(temporary, model, cells, "")
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        temporary.mkdir()
        _write_files(temporary, model, cells, folder.prefix)


def _own_files(folder: ModelFolder, wanted: Sequence[str]) -> tuple[str, ...]:
    """Names of the files of the model that is in a folder, made whole first; none of `wanted` may be another's."""
    if not folder.directory.is_dir():
        raise FileExistsError(f"{folder.directory} is a file: it is not overwritten, choose another dir_path")
    description = _described(folder)
    if description is not None:
        folder.recover(description.get("weights"))
    own = () if description is None else tuple(description.get("files", OWN_FILES))
    foreign = [folder.path(name).name for name in wanted if name not in own and folder.path(name).exists()]
    if foreign:
        raise FileExistsError(
            f"{folder.directory} has {', '.join(foreign)}, which no model of this package wrote: it is not "
            "overwritten, choose another dir_path or a prefix"
        )
    return own


def _described(folder: ModelFolder) -> dict[str, Any] | None:
    """The description of the model in a folder, None where there is none of this package."""
    try:
        description = json.loads(folder.path(DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return description if isinstance(description, dict) and set(description) >= _KEYS else None


def _write_files(folder: Path, model: StoredModel, cells: Mapping[str, Any], prefix: str) -> None:
    weights, description = folder / f"{prefix}{WEIGHTS}", folder / f"{prefix}{DESCRIPTION}"
    save_file(model.tensors(), weights)
    of_files = {"weights": digest_of_file(weights), "files": [DESCRIPTION, WEIGHTS, *cells]}
    description.write_text(json.dumps(model.description() | of_files, indent=1) + "\n")
    for name, parts in cells.items():
        write_cells(folder / f"{prefix}{name}", parts)
    weights.chmod(description.stat().st_mode)  # safetensors lets only the owner read


def read(
    directory: str | os.PathLike[str],
    estimator: str,
    options: Sequence[str],
    n_data_sets: int = 1,
    prefix: str | None = None,
) -> StoredModel:
    """Reads and checks the files of a model.

    Parameters
    ----------
    estimator, options
        Name of its class, and the names of the options that the class has, in its order.
    n_data_sets
        How many data sets it joins.

    Raises
    ------
    FileNotFoundError
        If there are no such files.
    ValueError
        If they are truncated, foreign, of a newer version, of another estimator, or say what cannot be; if a weight is
        not finite.
    """
    folder = ModelFolder(directory, prefix)
    source, path = folder.directory, folder.path(DESCRIPTION)
    if not path.is_file():
        others = sorted(file.name.removesuffix(DESCRIPTION) for file in source.glob(f"*{DESCRIPTION}"))
        hint = f"; pass prefix={others[0]!r} for the one that it holds" if others else ""
        raise FileNotFoundError(f"{source} holds no saved model: {path.name} is not there{hint}")
    description = _read_description(path, options)
    of_weights = folder.stored(WEIGHTS, description.get("weights"))
    if not of_weights.is_file():
        raise FileNotFoundError(f"{source} holds no saved model: {of_weights.name} is not there")
    if description["estimator"] != estimator:
        raise ValueError(
            f"{source} holds a {description['estimator']} model: load it with scvi.{description['estimator']}.load"
        )
    try:
        tensors = renamed(load_file(of_weights))
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{of_weights} is truncated or no safetensors file ({error})") from error
    with _naming(path, estimator):
        chosen = _checked_options(description["options"], options)
        if not isinstance(description["is_trained"], bool):
            raise ValueError(f"is_trained is {description['is_trained']!r}")
        is_initialised = check_flag("is_initialised", description.get("is_initialised", False))
        schemas = _schemas(description["schema"], n_data_sets)
        history = _history(description["history"])
        scope = _scope(description, tensors)
        attributes = checked_attributes(description.get("attributes", {}))
        seed, fits = description.get("seed"), checked_calls(description.get("fits", []))
        first = checked_first(description.get("first"))
        if seed is not None:
            resolve_seed(seed)
    train_cells, validation_cells = (_split(side, tensors, description, of_weights, n_data_sets) for side in _SPLIT)
    weights = {name.removeprefix(_PREFIX): t for name, t in tensors.items() if name.startswith(_PREFIX)}
    refuse_not_finite(weights, f"{of_weights} is damaged, take another copy of the model")
    return StoredModel(
        estimator,
        chosen,
        schemas,
        history,
        description["is_trained"],
        weights,
        train_cells,
        validation_cells,
        scope=scope,
        is_initialised=is_initialised,
        attributes=attributes,
        seed=seed,
        fits=fits,
        first=first,
    )


def rebuild(directory: str | os.PathLike[str], stored: StoredModel, make: Callable[[], nn.Module]) -> Any:
    """The network that `make` makes, with the stored weights.

    It is made without memory first, so that sizes that have nothing to do with the weights cost nothing.

    Raises
    ------
    ValueError
        If the description makes no network, or one that the weights do not fit.
    """
    with _naming(Path(directory) / DESCRIPTION, stored.estimator):
        _check_sizes(stored)
        with torch.device("meta"):
            wanted = {name: t.shape for name, t in make().state_dict().items()}
    found = {name: t.shape for name, t in stored.weights.items()}
    different = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
    if different:
        raise ValueError(
            f"the weights in {directory} do not fit the model that is described there: {', '.join(different[:5])}"
        )
    with seeded(0):
        module = make()
    module.load_state_dict(stored.weights)
    _check_scope(directory, stored.scope, module)
    return module


def read_cells(directory: str | os.PathLike[str], name: str = ADATA, prefix: str | None = None) -> Any:
    """An AnnData, or MuData, that was saved beside a model, None where there is none; ValueError if it is not read."""
    folder = ModelFolder(directory, prefix)
    description = _described(folder) or {}
    name = MDATA if name == ADATA and MDATA in description.get("files", ()) else name
    return cell_files.read_cells(folder.stored(name, description.get("weights")))


def _read_description(path: Path, options: Container[str]) -> dict[str, Any]:
    """What a file says, as this version writes it, of an estimator with these options."""
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also for an integer of thousands of digits
        raise ValueError(f"{path} is truncated or no JSON file ({error})") from error
    if not isinstance(description, dict) or not set(description) >= _KEYS:
        raise ValueError(f"{path} does not describe a model of this package")
    readers = {2: partial(_with_options, new=_NEW_IN_3, known=options)}
    read = in_format(_FORMAT, f"{path}, written by scvi {description['scvi_version']},", description, readers)
    return _with_options(read, _SINCE, options)


def _with_options(description: dict[str, Any], new: Mapping[str, Any], known: Container[str]) -> dict[str, Any]:
    """A description with options that its format had no names for, or that were not written."""
    if not isinstance(description["options"], dict):
        return description  # which is refused later on
    missing = {name: value for name, value in new.items() if name in known}
    return {**description, "options": {**missing, **description["options"]}}


@contextmanager
def _naming(path: Path, estimator: str) -> Iterator[None]:
    """Whatever is wrong in the description is a ValueError that names the file."""
    try:
        yield
    except (ArithmeticError, AttributeError, KeyError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} does not describe a {estimator} model ({error})") from error


def _schemas(values: Any, n_data_sets: int) -> tuple[Schema, ...]:
    listed = [values] if n_data_sets == 1 else values
    if not isinstance(listed, list) or len(listed) != n_data_sets:
        raise ValueError(f"schema is not a list of {n_data_sets}")
    return tuple(map(Schema.from_json, listed))


def _checked_options(options: Any, known: Sequence[str]) -> dict[str, Any]:
    """The options in the order of the known ones, whichever that of the file is; ValueError if they are others."""
    if not isinstance(options, dict):
        raise ValueError(f"options is {options!r}")
    if set(options) != set(known):
        raise ValueError(f"missing or unknown options: {', '.join(sorted(set(options) ^ set(known)))}")
    return {name: options[name] for name in known}


def _check_sizes(stored: StoredModel) -> None:
    """No size or number of layers is larger than the largest side or the number of the tensors."""
    largest = max([len(stored.weights), *(side for t in stored.weights.values() for side in t.shape)])
    for name, value in stored.options.items():
        if is_integer(value) and value > largest:
            raise ValueError(f"{name}={value} does not fit the weights, of which no side is above {largest}")


def _scope(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Scope | None:
    """The part of a mapped model that trains; None for another model."""
    if "resting" not in description:
        return None
    resting = description["resting"]
    if not isinstance(resting, list) or not all(isinstance(name, str) for name in resting):
        raise ValueError(f"resting is {resting!r}")
    trained = {name.removeprefix(_TRAINED): t for name, t in tensors.items() if name.startswith(_TRAINED)}
    return Scope(trained, tuple(map(present_name, resting)))


def _check_scope(directory: str | os.PathLike[str], scope: Scope | None, module: nn.Module) -> None:
    """Refuses masks and names that do not belong to the network."""
    if scope is None:
        return
    parameters, modules = dict(module.named_parameters()), dict(module.named_modules())
    wrong = [name for name in scope.resting if name not in modules]
    for name, mask in scope.trained.items():
        shape = parameters[name].shape if name in parameters else torch.Size()
        sides = () if mask.dim() == 0 else shape[-1:] if mask.dim() == 1 else (*shape[:1], 1)
        if name not in parameters or mask.dtype != torch.bool or mask.shape != sides:
            wrong.append(name)
    if wrong:
        raise ValueError(f"what {directory} says of the weights that train does not fit its model: {wrong[:5]}")


def _history(history: Any) -> dict[str, pd.DataFrame]:
    """Tables from ``{name: [epochs, values]}``."""
    tables = {}
    for name, (epochs, values) in history.items():
        if not all(is_integer(epoch) and 0 <= epoch < 2**31 for epoch in epochs):
            raise ValueError(f"the epochs of {name!r} in the history are not whole numbers")
        if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values):
            raise ValueError(f"{name!r} does not hold numbers in the history")
        tables[name] = pd.DataFrame({name: list(map(float, values))}, index=pd.Index(epochs, name="epoch"))
    return tables


def _names_of_split(name: str, n_data_sets: int) -> list[str]:
    """Names of the positions of one side of the split, in each data set."""
    return [name] if n_data_sets == 1 else [f"{name}/{i}" for i in range(n_data_sets)]


def _split(
    side: str, tensors: Mapping[str, Tensor], description: Mapping[str, Any], path: Path, n_data_sets: int
) -> list[FittedCells] | None:
    """The cells of one side of the split, in each data set."""
    among, found = description.get("cells", [""] * n_data_sets), []
    for i, name in enumerate(_names_of_split(side, n_data_sets)):
        of_part = {
            key.removeprefix(name).lstrip("/"): t for key, t in tensors.items() if f"{key}/".startswith(f"{name}/")
        }
        if "" not in of_part:
            return None
        try:
            found.append(FittedCells.from_tensors(of_part, str(among[i])))
        except (LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no positions of cells in {side!r} ({error})") from error
    if any(cells.names is None for cells in found):
        logger.warning(
            "%s was written by an earlier version, without the names of its cells: %s are right for the same cells in "
            "the same order only.",
            path.parent,
            side,
        )
    return found

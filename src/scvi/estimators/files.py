"""A fitted model as a directory: tensors in safetensors, everything else in JSON. Loading runs no code from it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

if TYPE_CHECKING:
    from anndata import AnnData

__all__ = ["ADATA", "StoredModel", "history_from_json", "history_to_json", "read", "read_adata", "write"]

WEIGHTS, DESCRIPTION, ADATA = "weights.safetensors", "model.json", "adata.h5ad"
FORMAT = 1
_KEYS = {"format", "scvi_version", "estimator", "options", "schema", "history", "is_trained"}


@dataclass(frozen=True)
class StoredModel:
    """What the files of a model say: `tensors` by name, `description` in plain JSON types."""

    tensors: dict[str, Tensor]
    description: dict[str, Any]


def write(directory: str | os.PathLike[str], model: StoredModel, adata: AnnData | None, overwrite: bool) -> None:
    """Writes a model whole or not at all.

    Raises
    ------
    FileExistsError
        If the directory exists and may not be overwritten, or is no model's.
    """
    target = Path(directory)
    if target.exists():
        if not overwrite:
            raise FileExistsError(
                f"{target} exists: choose another dir_path, or pass overwrite=True to replace the model in it"
            )
        if not target.is_dir() or (any(target.iterdir()) and not (target / DESCRIPTION).exists()):
            raise FileExistsError(f"{target} exists and holds no model: it is not overwritten, choose another dir_path")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        save_file({name: t.detach().cpu().contiguous() for name, t in model.tensors.items()}, temporary / WEIGHTS)
        (temporary / DESCRIPTION).write_text(json.dumps({"format": FORMAT, **model.description}, indent=1) + "\n")
        if adata is not None:
            _write_adata(adata, temporary / ADATA)
        temporary.chmod(0o755)
        (temporary / WEIGHTS).chmod((temporary / DESCRIPTION).stat().st_mode)  # safetensors lets only the owner read
        _move(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_adata(adata: AnnData, path: Path) -> None:
    """Writes a copy, and leaves the text columns of `adata` and the file that it may have open as they are."""
    from anndata import AnnData
    from anndata.io import write_h5ad

    if adata.isbacked:  # anndata would close the file, which the model reads
        parts = ("obs", "var", "uns", "obsm", "varm", "layers", "obsp", "varp")
        raw = None if adata.raw is None else {"X": adata.raw.X, "var": adata.raw.var, "varm": adata.raw.varm}
        adata = AnnData(adata.X, **{name: getattr(adata, name) for name in parts}, raw=raw)
    write_h5ad(path, adata, convert_strings_to_categoricals=False)


def _move(temporary: Path, target: Path) -> None:
    """A directory cannot be replaced in one step; the old one is put aside first and back on failure.

    Whatever else a user put into it stays there.
    """
    if not target.exists():
        temporary.rename(target)
        return
    aside = temporary.with_name(temporary.name + ".old")
    target.rename(aside)
    try:
        temporary.rename(target)
    except OSError:
        aside.rename(target)
        raise
    for other in aside.iterdir():
        if other.name not in (WEIGHTS, DESCRIPTION, ADATA):
            other.rename(target / other.name)
    shutil.rmtree(aside)


def read(directory: str | os.PathLike[str], estimator: str) -> StoredModel:
    """Reads and checks the files of a model.

    Raises
    ------
    FileNotFoundError
        If there are no such files.
    ValueError
        If they are truncated, foreign, of a newer version, or of another estimator.
    """
    source = Path(directory)
    for name in (DESCRIPTION, WEIGHTS):
        if not (source / name).is_file():
            raise FileNotFoundError(f"{source} holds no saved model: {name} is not there")
    description = _read_description(source / DESCRIPTION)
    if description["estimator"] != estimator:
        raise ValueError(
            f"{source} holds a {description['estimator']} model: load it with scvi.{description['estimator']}.load"
        )
    try:
        tensors = load_file(source / WEIGHTS)
    except (SafetensorError, ValueError) as error:
        raise ValueError(f"{source / WEIGHTS} is truncated or no safetensors file ({error})") from error
    return StoredModel(tensors, description)


def read_adata(directory: str | os.PathLike[str]) -> AnnData | None:
    """The AnnData that was saved beside a model, None where there is none; ValueError if it cannot be read."""
    path = Path(directory) / ADATA
    if not path.exists():
        return None
    import anndata

    try:
        return anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is truncated or no .h5ad file ({error}); pass adata to load without it") from error


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is truncated or no JSON file ({error})") from error
    if not isinstance(description, dict) or not set(description) >= _KEYS:
        raise ValueError(f"{path} does not describe a model of this package")
    if description["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {description['format']!r}, written by scvi {description['scvi_version']}; "
            f"this version reads format {FORMAT}: update scvi"
        )
    return description


def load_weights(module: torch.nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Puts stored weights into a network of the same shape."""
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        reasons = " ".join(str(error).split())
        raise ValueError(f"the weights in {source} do not fit the model that is described there: {reasons}") from error


def history_to_json(history: Mapping[str, pd.DataFrame]) -> dict[str, list[list[float]]]:
    """Name -> [epochs, values]."""
    return {name: [frame.index.tolist(), frame[name].tolist()] for name, frame in history.items()}


def history_from_json(history: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """The inverse of :func:`history_to_json`."""
    return {
        name: pd.DataFrame({name: values}, index=pd.Index(epochs, name="epoch"))
        for name, (epochs, values) in history.items()
    }


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

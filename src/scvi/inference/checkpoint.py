"""The state of a fit between two epochs, as one file: tensors (safetensors) and a JSON header. Nothing in it is run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scvi._files import replacing
from scvi.dataset.cell_data import CellData

__all__ = ["FILE_NAME", "digest", "digest_of_data", "flatten", "read", "unflatten", "write"]

FILE_NAME = "checkpoint.safetensors"
_FORMAT = "scvi checkpoint 1"


def write(directory: str | os.PathLike[str], tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Replaces the checkpoint of a directory in one move; `state` is plain JSON."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    metadata = {"format": _FORMAT, "state": json.dumps(state)}
    with replacing(Path(directory) / FILE_NAME) as path:
        save_file({name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}, path, metadata)


def read(directory: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and state of a checkpoint, None where there is none.

    Raises
    ------
    ValueError
        If the file is truncated or no checkpoint.
    """
    path = Path(directory) / FILE_NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise ValueError(f"its format is {metadata.get('format')!r}, not {_FORMAT!r}")
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(metadata["state"])  # noqa: SIM118
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is no complete checkpoint ({error}); remove it to start anew") from error


def digest(*arrays: np.ndarray | None) -> str:
    """Tells arrays from others: 16 hexadecimal digits."""
    value = hashlib.blake2b(digest_size=8)
    for array in arrays:
        if array is not None:
            text = array.dtype == object
            value.update("\n".join(map(str, array)).encode() if text else np.ascontiguousarray(array).tobytes())
        value.update(b"\0")
    return value.hexdigest()


def digest_of_data(data: CellData) -> str:
    """Tells the cells of a fit from others, by their names, genes, total counts and annotations."""
    annotations = data.batch, data.labels, data.log_size, data.continuous, data.categorical
    return digest(data.cell_names, data.gene_names, data.totals(), *annotations)


def flatten(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Puts the names of a state dict under a prefix."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def unflatten(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under a prefix, with their own names."""
    start = f"{prefix}/"
    return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser, by number of the parameter and name."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": value for i, values in state.items() for name, value in values.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of :func:`optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        state.setdefault(int(number), {})[name] = value.clone()
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})

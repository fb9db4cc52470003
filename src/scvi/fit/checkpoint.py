"""The state of a fit between two epochs: copies to go back to, and one file to go on from.

The file has tensors (safetensors) and a JSON header. Nothing in it is run.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from scvi._files import replacing
from scvi._random import resolve_seed
from scvi.cells.cell_data import CellData
from scvi.cells.joint import JointCells
from scvi.fit.optimizer import ClippedAdam
from scvi.fit.plan import Plan
from scvi.fit.ranks import ALONE, Ranks
from scvi.fit.split import Split
from scvi.models.former_names import present_name
from scvi.models.freezing import Scope
from scvi.models.weights import refuse_not_finite

logger = logging.getLogger(__name__)

FILE_NAME = "checkpoint.safetensors"
_FORMAT = "scvi checkpoint 1"
_RANDOM_STATE = "random/"  # and the kind of device that the numbers are drawn on
_WEIGHTS = "model/", "best/"  # beginnings of the names of tensors
_STATE: dict[str, type | tuple[type, ...]] = {
    "identity": dict,
    "first_epoch": int,
    "epochs_before": int,
    "n_iter": int,
    "steps_kept": int,
    "kl_weight": (int, float),
    "lr_scale": float,
    "recoveries": int,
    "best_epoch": (int, type(None)),
    "stopping": list,
    "plateau": list,
    "history": dict,
}
"""What a state has to hold."""


def make_directory(directory: str | os.PathLike[str]) -> None:
    """Makes the directory of checkpoints, before any time is spent on what could not be written there.

    Raises
    ------
    ValueError
        If it cannot be made, or cannot be written to.
    """
    path = Path(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"checkpoint_dir={str(directory)!r} cannot be made: {error.strerror}; name a directory, new or not"
        ) from error
    if not os.access(path, os.W_OK):
        raise ValueError(f"checkpoint_dir={str(directory)!r} is not writable; name another directory")


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
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            state = json.loads(metadata["state"])
        _check_state(tensors, state)
    except (SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} is no complete checkpoint ({error}); remove it to start anew") from error
    return tensors, state


def _check_state(tensors: Mapping[str, Tensor], state: Any) -> None:
    """Refuses what :class:`scvi.fit.fit.Fit` did not write."""
    if not isinstance(state, dict):
        raise ValueError("its state is no mapping")
    wrong = [name for name, kind in _STATE.items() if name not in state or not isinstance(state[name], kind)]
    if not wrong and not isinstance(state["identity"].get("seed"), int):
        wrong = ["seed"]
    if not any(name.startswith(_RANDOM_STATE) for name in tensors):
        wrong.append(_RANDOM_STATE)
    if wrong:
        raise ValueError(f"it lacks, or holds in another form, {', '.join(wrong)}")
    weights = {name: t for name, t in tensors.items() if name.startswith(_WEIGHTS)}
    refuse_not_finite(weights, "its weights are damaged")


def find(
    directory: str | os.PathLike[str], identity: Mapping[str, Any], resume: bool
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The checkpoint to resume a fit from, None where there is none yet.

    Raises
    ------
    FileExistsError
        If there is one, but the fit is not to be resumed.
    ValueError
        If there is one of another `identity`, or one that :func:`read` refuses.
    """
    found, path = read(directory), Path(directory) / FILE_NAME
    if found is None:
        if resume:
            logger.warning("%s does not exist: training starts from the beginning.", path)
        return None
    if not resume:
        raise FileExistsError(
            f"{path} is the checkpoint of an earlier fit: pass resume=True to go on with it, or remove it"
        )
    its = {present_name(k): present_name(v) if isinstance(v, str) else v for k, v in found[1]["identity"].items()}
    here = identity
    different = [name for name in {**here, **its} if name not in its or name not in here or its[name] != here[name]]
    if different:
        listed = "; ".join(f"{name} was {its.get(name)!r}, is {here.get(name)!r}" for name in different)
        raise ValueError(
            f"{path} belongs to another fit: {listed}. Train with the same data, options and seed, or in another "
            "checkpoint_dir"
        )
    return found


def seed_of_fit(seed: int | None, checkpoint_dir: str | os.PathLike[str] | None, resume: bool) -> int:
    """The seed of `train`; a resumed fit that is given none goes on with its own."""
    if not resume:
        return resolve_seed(seed)
    if checkpoint_dir is None:
        raise ValueError("resume=True needs checkpoint_dir, the directory with the checkpoint")
    found = read(checkpoint_dir) if seed is None else None
    return resolve_seed(seed) if found is None else int(found[1]["identity"]["seed"])


def precision_of_fit(checkpoint_dir: str | os.PathLike[str] | None) -> str | None:
    """The precision of the fit that left a checkpoint in a directory; None where there is none."""
    found = None if checkpoint_dir is None else read(checkpoint_dir)
    return None if found is None else found[1]["identity"].get("precision")


def digest(*arrays: np.ndarray | None) -> str:
    """Tells arrays from others: 16 hexadecimal digits."""
    value = hashlib.blake2b(digest_size=8)
    for array in arrays:
        if array is not None:
            text = array.dtype == object
            value.update("\n".join(map(str, array)).encode() if text else np.ascontiguousarray(array).tobytes())
        value.update(b"\0")
    return value.hexdigest()


def describe(plan: Plan, split: Split, seed: int, scope: Scope | None) -> dict[str, Any]:
    """What must be the same for a fit to be the continuation of another, in plain JSON types."""
    return {
        **plan.to_json(),
        **({} if scope is None else scope.describe()),
        "seed": seed,
        "data": digest_of_data(split.data, split.ranks),
        "training cells": f"{len(split.train)} ({digest(split.train)})",
        "validation cells": f"{len(split.validation)} ({digest(split.validation)})",
    }


def digest_of_data(data: CellData | JointCells, ranks: Ranks = ALONE) -> str:
    """Tells the cells of a fit from others, by their names, genes, total counts and annotations.

    Each of several processes reads the counts of some cells.
    """
    if isinstance(data, JointCells):
        return " ".join(digest_of_data(part, ranks) for part in data.parts)
    annotations = data.batch, data.labels, data.log_size, data.continuous, data.categorical, data.proteins
    own = data.totals() if not ranks.are_several else data.totals(ranks.portion.of(np.arange(len(data)))[0])
    return digest(data.cell_names, data.gene_names, np.concatenate(ranks.gather(own)), *annotations)


def digest_of_names(data: CellData | JointCells) -> str:
    """Tells cells from others by what is known of them without reading counts or comparing fractions."""
    parts = data.parts if isinstance(data, JointCells) else (data,)
    return " ".join(digest(part.cell_names, part.gene_names, part.batch, part.labels) for part in parts)


def flatten(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Puts the names of a state dict under a prefix."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def unflatten(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under a prefix, with their own names."""
    start = f"{prefix}/"
    return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}


class Snapshot(NamedTuple):
    """A model and its optimiser as they were.

    Attributes
    ----------
    weights, moments
        Copies of the state dict and of the optimiser's tensors.
    steps
        Steps behind them, without those that were taken back.
    """

    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    steps: int

    @classmethod
    def of(cls, model: nn.Module, optimizer: ClippedAdam, steps: int) -> Snapshot:
        return cls(copied(model.state_dict()), copied(optimizer.tensors()), steps)

    def restore(self, model: nn.Module, optimizer: ClippedAdam) -> None:
        """Puts the two back; the snapshot stays good for further times."""
        model.load_state_dict(self.weights)
        optimizer.load(self.moments)


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of their own with the same values."""
    return {name: t.detach().clone() for name, t in tensors.items()}


def random_state(generator: torch.Generator) -> dict[str, Tensor]:
    """The state of the generator of a fit."""
    return {f"{_RANDOM_STATE}{generator.device.type}": generator.get_state()}


def set_random_state(tensors: Mapping[str, Tensor], generator: torch.Generator) -> None:
    """The inverse of :func:`random_state`; says so where the state is one of another kind of device."""
    state = tensors.get(f"{_RANDOM_STATE}{generator.device.type}")
    if state is not None:
        generator.set_state(state)
        return
    kinds = ", ".join(name.removeprefix(_RANDOM_STATE) for name in tensors if name.startswith(_RANDOM_STATE))
    logger.warning(
        "The checkpoint was written on another device (%s): on this one (%s) the random numbers are others, and so "
        "the fit goes on a little differently.",
        kinds,
        generator.device.type,
    )

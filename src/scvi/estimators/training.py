"""From the arguments of `train` to a plan, a split of the cells, a device and starting values."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from scvi._checks import check_number, is_integer, is_number
from scvi._random import resolve_seed
from scvi._settings import settings
from scvi.cells.cell_data import CellData
from scvi.cells.epoch_order import count_minibatches
from scvi.fit import checkpoint
from scvi.fit.fit import Fit
from scvi.fit.plan import Plan, Precision, default_batch_size, default_max_epochs
from scvi.kernels import bf16_is_supported
from scvi.models.base import Model, Moments

__all__ = [
    "check_precision",
    "checked_device",
    "continued",
    "initialise",
    "make_plan",
    "moment_estimates",
    "past_epochs",
    "resolve_device",
    "seed_of_fit",
    "split_cells",
]

_SAME_NAME = ("lr", "weight_decay", "eps", "max_kl_weight", "min_kl_weight", "lr_patience", "lr_factor")
_PLAN_KEYS = (*_SAME_NAME, "n_epochs_kl_warmup", "n_steps_kl_warmup", "reduce_lr_on_plateau")
_KEY_OF_CLASSIFIERS = "classification_ratio"
_FROM_CELLS = ("max_epochs", "batch_size")  # None: by the number of cells
_KINDS = ("cpu", "cuda", "mps")
_THETA_RANGE = (0.05, 100.0)


def make_plan(
    options: Mapping[str, Any],
    plan_kwargs: Mapping[str, Any] | None,
    n_train: int,
    n_validation: int,
    kind: type[Plan] = Plan,
) -> Plan:
    """A checked plan.

    Parameters
    ----------
    options
        Options of :class:`scvi.fit.plan.Plan`; `max_epochs` and `batch_size` may be None: by the number of cells.
    plan_kwargs
        Options under the names of scripts that exist.
    n_train, n_validation
        Numbers of cells.
    kind
        Class of the plan.
    """
    given = {name: value for name, value in options.items() if value is not None or name not in _FROM_CELLS}
    given.setdefault("batch_size", settings.chosen_batch_size or default_batch_size(n_train, settings.batch_size))
    plan = kind(**{"max_epochs": 1, **given})
    if "max_epochs" not in given:
        plan = replace(plan, max_epochs=default_max_epochs(n_train, plan.batch_size))
    plan = replace(plan, **_translated({} if plan_kwargs is None else plan_kwargs, plan, n_train))
    _check_monitor(plan, n_validation)
    return plan


def _translated(plan_kwargs: Mapping[str, Any], plan: Plan, n_train: int) -> dict[str, Any]:
    """`plan_kwargs` as options of a plan; a warm-up in epochs or steps becomes a share of the planned steps."""
    if not isinstance(plan_kwargs, Mapping):
        raise ValueError(f"plan_kwargs={plan_kwargs!r} is not a dictionary")
    known = [*_PLAN_KEYS, *(option.name for option in fields(plan) if option.name == _KEY_OF_CLASSIFIERS)]
    if _KEY_OF_CLASSIFIERS in plan_kwargs and _KEY_OF_CLASSIFIERS not in known:
        raise ValueError(
            f"plan_kwargs has {_KEY_OF_CLASSIFIERS!r}, which belongs to models with a classifier; known here are "
            f"{', '.join(_PLAN_KEYS)}"
        )
    unknown = [key for key in plan_kwargs if key not in known]
    if unknown:
        raise ValueError(f"plan_kwargs has unknown keys {unknown}; known are {', '.join(known)}")
    same_name = (*_SAME_NAME, _KEY_OF_CLASSIFIERS)
    options = {name: plan_kwargs[name] for name in same_name if plan_kwargs.get(name) is not None}
    if plan_kwargs.get("reduce_lr_on_plateau"):
        options["lr_schedule"] = "plateau"
    if "n_epochs_kl_warmup" in plan_kwargs:  # None, and no number of steps: the weight is full from the start
        options["kl_warmup"] = 0.0
    n_steps = plan.max_epochs * count_minibatches(n_train, plan.batch_size)
    for name, planned in (("n_steps_kl_warmup", n_steps), ("n_epochs_kl_warmup", plan.max_epochs)):
        length = plan_kwargs.get(name)
        if length is not None:
            check_number(f"plan_kwargs[{name!r}]", length, "a number of at least 0", least=0)
            options["kl_warmup"] = min(1.0, length / planned)
    return options


def _check_monitor(plan: Plan, n_validation: int) -> None:
    """Refuses to follow a value that will not be in the history."""
    known = [f"{name}_validation" for name in ("elbo", "reconstruction_loss", "kl_local")]
    if plan.early_stopping_monitor not in known:
        raise ValueError(
            f"early_stopping_monitor={plan.early_stopping_monitor!r} is not one of {', '.join(map(repr, known))}"
        )
    if (plan.early_stopping or plan.lr_schedule == "plateau") and n_validation == 0:
        raise ValueError(
            "early_stopping and lr_schedule='plateau' look at validation cells, of which there are none: "
            "lower train_size"
        )


def seed_of_fit(seed: int | None, checkpoint_dir: str | os.PathLike[str] | None, resume: bool) -> int:
    """The seed of `train`; a resumed fit that is given none goes on with its own."""
    if not resume:
        return resolve_seed(seed)
    if checkpoint_dir is None:
        raise ValueError("resume=True needs checkpoint_dir, the directory with the checkpoint")
    found = checkpoint.read(checkpoint_dir) if seed is None else None
    return resolve_seed(seed) if found is None else int(found[1]["identity"]["seed"])


def split_cells(
    n_cells: int,
    train_size: float,
    validation_size: float | None,
    validation_indices: np.ndarray | None,
    seed: int,
    strata: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the training and the validation cells.

    Parameters
    ----------
    train_size, validation_size
        Shares of the cells; None is what the other leaves.
    validation_indices
        Positions of the validation cells, in place of the two; all others are trained on.
    strata
        (n,) codes of groups of cells that are split in the same proportions.
    """
    if validation_indices is not None:
        train = np.setdiff1d(np.arange(n_cells), validation_indices)
        validation = np.asarray(validation_indices)
    else:
        n_train, n_validation = _split_sizes(n_cells, train_size, validation_size)
        order = np.random.default_rng([seed, 1]).permutation(n_cells)
        if strata is not None:
            order = order[np.argsort(_ranks(strata[order]), kind="stable")]
        train, validation = np.sort(order[n_validation : n_validation + n_train]), np.sort(order[:n_validation])
    if len(train) < 2:
        cause = f"train_size={train_size!r}" if validation_indices is None else "the others are in validation_indices"
        raise ValueError(
            f"{len(train)} of {n_cells} cells are left for training ({cause}), at least 2 are needed: "
            "validate on fewer; train_size=1.0 alone takes all cells"
        )
    return train, validation


def _ranks(strata: np.ndarray) -> np.ndarray:
    """(n,) where each cell stands among those of its group, from 0 to 1: sorted by it, any stretch is stratified."""
    ranks = np.empty(len(strata))
    for code in np.unique(strata):
        members = np.flatnonzero(strata == code)
        ranks[members] = (np.arange(len(members)) + 0.5) / len(members)
    return ranks


def _split_sizes(n_cells: int, train_size: float, validation_size: float | None) -> tuple[int, int]:
    if not _is_share(train_size) or train_size == 0:
        raise ValueError(f"train_size={train_size!r} is not a share of the cells, a number above 0 and at most 1")
    if validation_size is not None and not _is_share(validation_size):
        raise ValueError(f"validation_size={validation_size!r} is not a share of the cells, a number from 0 to 1")
    if validation_size is not None and train_size + validation_size > 1 + 1e-9:
        raise ValueError(f"train_size={train_size!r} and validation_size={validation_size!r} add up to more than 1")
    n_train = math.ceil(train_size * n_cells - 1e-9)
    n_validation = n_cells - n_train if validation_size is None else math.floor(validation_size * n_cells)
    return n_train, min(n_validation, n_cells - n_train)


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def resolve_device(accelerator: str, devices: str | int | Sequence[int]) -> torch.device:
    """One device to work on; 'auto' is a CUDA GPU where there is one and the CPU elsewhere."""
    known = ("auto", "cpu", "gpu", "cuda", "mps")
    if accelerator not in known:
        raise ValueError(f"accelerator={accelerator!r} is not one of {', '.join(map(repr, known))}")
    number = _device_number(devices)
    kind = {"auto": "cuda" if torch.cuda.is_available() else "cpu", "gpu": "cuda"}.get(accelerator, accelerator)
    if not _how_many(kind):
        raise ValueError(f"accelerator={accelerator!r} is not available on this machine; use accelerator='cpu'")
    if number >= _how_many(kind):
        raise ValueError(f"devices={devices!r} is not there: this machine has {_how_many(kind)} of {kind!r}")
    return torch.device("cpu") if kind == "cpu" else torch.device(kind, number)


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuses bfloat16 where it would be emulated, slower than float32."""
    if precision == "bf16" and not bf16_is_supported(device):
        needs = {"cpu": "a CPU with AVX-512 or the bfloat16 instructions of ARM", "cuda": "a GPU of 2020 or later"}
        raise ValueError(
            f"precision='bf16' is not supported by the device {str(device)!r} of this machine, it needs "
            f"{needs.get(device.type, 'another device')}: use precision='float32'"
        )


def checked_device(device: str | int | torch.device) -> torch.device:
    """A device of this machine; an integer is the number of a CUDA GPU."""
    try:
        found = torch.device("cuda", int(device)) if is_integer(device) else torch.device(device)
    except (RuntimeError, TypeError):
        found = None
    if found is None or isinstance(device, bool) or (found.index or 0) >= _how_many(found.type):
        there = [f"{kind}:{i}" if kind == "cuda" else kind for kind in _KINDS for i in range(_how_many(kind))]
        raise ValueError(f"device={device!r} is not a device of this machine; there are {', '.join(map(repr, there))}")
    return found


def _how_many(kind: str) -> int:
    """Devices of a kind on this machine; none of a kind that is not computed on."""
    if kind == "cuda":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    return int(kind == "cpu" or (kind == "mps" and torch.backends.mps.is_available()))


def _device_number(devices: str | int | Sequence[int]) -> int:
    if isinstance(devices, str) and devices in ("auto", "1"):
        return 0
    if is_integer(devices) and devices in (1, -1):
        return 0
    if isinstance(devices, Sequence) and len(devices) == 1 and is_integer(devices[0]) and devices[0] >= 0:
        return int(devices[0])
    raise ValueError(f"devices={devices!r}: a model is fitted on one device; give 'auto', 1 or a list of one number")


def initialise(
    module: Model,
    data: CellData,
    indices: np.ndarray,
    background: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> None:
    """Starts a model at moment estimates of these cells; `background` as in :class:`scvi.models.base.Moments`."""
    frequency, theta = moment_estimates(data, indices)
    device = next(module.parameters()).device
    as_tensor = lambda values: torch.as_tensor(values, dtype=torch.float32, device=device)  # noqa: E731
    of_proteins: Any = None if background is None else tuple(map(as_tensor, background))
    module.start(Moments(as_tensor(frequency), as_tensor(np.log(theta)), of_proteins))


def moment_estimates(data: CellData, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(g,) frequencies of the genes and (g,) their inverse dispersion.

    With library sizes l_n and frequencies f_g, ``var x = E[l] f + var(l) f**2 + E[l**2] f**2 / theta``.
    """
    mean, variance, totals = data.moments(indices)
    frequency = mean / max(mean.sum(), 1.0)
    spread = variance - mean - totals.var() * frequency**2
    with np.errstate(divide="ignore", invalid="ignore"):
        theta = np.where(spread > 0, (totals**2).mean() * frequency**2 / spread, np.inf)
    return frequency, np.clip(np.nan_to_num(theta, nan=1.0), *_THETA_RANGE)


def past_epochs(history: Mapping[str, pd.DataFrame]) -> int:
    """How many epochs a history has."""
    return max((int(table.index[-1]) + 1 for table in history.values()), default=0)


def continued(history: Mapping[str, pd.DataFrame], fit: Fit) -> dict[str, pd.DataFrame]:
    """A history, up to where a fit began, and the fit's own."""
    earlier = {name: table[table.index < fit.epochs_before] for name, table in history.items()}
    frames = fit.frames()
    names = dict.fromkeys([*earlier, *frames])
    return {name: pd.concat([h[name] for h in (earlier, frames) if name in h]) for name in names}

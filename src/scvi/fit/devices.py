"""The device to work on, and what it can do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import torch

from scvi._checks import check_choice, is_integer
from scvi.fit import checkpoint
from scvi.fit.plan import Plan, Precision
from scvi.fit.ranks import Ranks
from scvi.kernels import bf16_is_supported, bf16_pays

_KINDS = ("cpu", "cuda", "mps")


def resolve_device(accelerator: str, devices: str | int | Sequence[int]) -> torch.device:
    """One device to work on; 'auto' is a CUDA GPU where there is one and the CPU elsewhere."""
    check_choice("accelerator", accelerator, ("auto", "cpu", "gpu", "cuda", "mps"))
    number = _device_number(devices)
    kind = {"auto": "cuda" if torch.cuda.is_available() else "cpu", "gpu": "cuda"}.get(accelerator, accelerator)
    if not _how_many(kind):
        raise ValueError(f"accelerator={accelerator!r} is not available on this machine; use accelerator='cpu'")
    if number >= _how_many(kind):
        raise ValueError(f"devices={devices!r} is not there: this machine has {_how_many(kind)} of {kind!r}")
    return torch.device("cpu") if kind == "cpu" else torch.device(kind, number)


def _device_number(devices: str | int | Sequence[int]) -> int:
    if (isinstance(devices, str) and devices in ("auto", "1")) or (is_integer(devices) and devices in (1, -1)):
        return 0
    if isinstance(devices, Sequence) and len(devices) == 1 and is_integer(devices[0]) and devices[0] >= 0:
        return int(devices[0])
    raise ValueError(f"devices={devices!r}: a model is fitted on one device; give 'auto', 1 or a list of one number")


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


def with_precision(
    plan: Plan, device: torch.device, checkpoint_dir: str | os.PathLike[str] | None, ranks: Ranks
) -> Plan:
    """The plan with one precision, which the first of several processes chooses.

    'auto' is that of a fit that goes on, and of a new one bfloat16 where the device has units for it.

    Raises
    ------
    ValueError
        As :func:`check_precision`: a fit that began in bfloat16 goes on in it, or not at all.
    """

    def choose() -> Precision:
        if plan.precision != "auto":
            return plan.precision
        before = checkpoint.precision_of_fit(checkpoint_dir)
        low = bf16_pays(device) if before is None else before == "bf16"
        return "bf16" if low else "float32"

    precision = ranks.of_first(choose)
    check_precision(precision, device)
    return replace(plan, precision=precision)


def check_precision(precision: Precision, device: torch.device) -> None:
    """Refuses bfloat16 where it would be emulated, slower than float32."""
    if precision == "bf16" and not bf16_is_supported(device):
        needs = {"cpu": "a CPU with AVX-512 or the bfloat16 instructions of ARM", "cuda": "a GPU of 2020 or later"}
        raise ValueError(
            f"precision='bf16' is not supported by the device {str(device)!r} of this machine, it needs "
            f"{needs.get(device.type, 'another device')}: use precision='float32', or 'auto' for a fit that begins"
        )

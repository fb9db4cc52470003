"""Weights of models of scvi-tools in the order of columns of this package."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scvi.cells.schema import Schema

EFFICIENCY = "log_per_batch_efficiency"


class Layout(NamedTuple):
    """Where a network has layers that see covariates, and what finds out the library size."""

    encoders: tuple[str, ...]  # which see them with `encode_covariates`
    decoders: tuple[str, ...]
    of_size: tuple[str, ...]
    size_sees_covariates: bool = False  # whether what finds out the library size here may see them
    further: Mapping[str, Tensor] = MappingProxyType({})  # what only the networks here have; it changes nothing
    options: Mapping[str, Any] = MappingProxyType({})  # what those of scvi-tools are in the terms of this package


def translated(
    weights: Mapping[str, Tensor], schema: Schema, options: Mapping[str, Any], layout: Layout
) -> dict[str, Tensor]:
    """Weights in the order of columns of this package, without those that are of no use."""
    unused = ["library_log_means", "library_log_vars"]
    if options["use_observed_lib_size"]:
        unused += layout.of_size
    kept = {name: tensor for name, tensor in weights.items() if not _is_part_of(name, unused)}
    kept |= layout.further
    seeing = layout.decoders + (layout.encoders if options.get("encode_covariates") else ())
    deep = options["deeply_inject_covariates"]
    table = kept.get("embeddings_dict.batch.weight")  # its numbers stand where the codes of batches would
    n_numbers = schema.n_continuous + (0 if table is None else table.shape[1])
    n_codes = sum(n for n in (1 if table is not None else schema.n_batch, *schema.n_cats_per_cov) if n > 1)
    for name, tensor in kept.items():
        is_first = "Layer 0." in name
        sees = name.endswith(".0.weight") and _is_part_of(name, seeing) and (is_first or deep)
        if sees and n_numbers:
            kept[name] = _reordered(tensor, n_codes, n_numbers, is_first)
    if EFFICIENCY in kept:
        if table is not None:
            raise ValueError("it has efficiencies of batches, and embeddings of them that leave these no place")
        _fold_efficiency(kept, schema.n_batch, n_codes + n_numbers)
    return kept


def _fold_efficiency(weights: dict[str, Tensor], n_batch: int, n_beside: int) -> None:
    """Puts what multiplies the rates of proteins in each batch, (p, k) logarithms, where the background has its mean.

    The foreground is a multiple of the background, so both rates change alike; the prior moves with the posterior.

    Parameters
    ----------
    n_beside
        Number of columns of codes and covariates, of which those of batches come first.
    """
    efficiency = weights.pop(EFFICIENCY)
    weights["background_pro_alpha"] = weights["background_pro_alpha"] + efficiency
    head = "decoder.py_back_mean_log_alpha.fc_layers.Layer 0.0"
    if n_batch == 1:  # there is no column of it
        weights[f"{head}.bias"] = weights[f"{head}.bias"] + efficiency[:, 0]
        return
    weight = weights[f"{head}.weight"].clone()
    first = weight.shape[1] - n_beside
    weight[:, first : first + n_batch] += efficiency
    weights[f"{head}.weight"] = weight


def _is_part_of(name: str, modules: Collection[str]) -> bool:
    return any(f"{name}.".startswith(f"{module}.") for module in modules)


def _reordered(weight: Tensor, n_codes: int, n_numbers: int, is_first: bool) -> Tensor:
    """Columns of covariates that are numbers after those of codes, not before; deeper layers get zeros for them."""
    n_inputs = weight.shape[1] - n_codes
    inputs, codes = weight[:, :n_inputs], weight[:, n_inputs:]
    if not is_first:
        return torch.cat([inputs, codes, torch.zeros(len(weight), n_numbers)], dim=1)
    return torch.cat([inputs[:, :-n_numbers], codes, inputs[:, -n_numbers:]], dim=1)

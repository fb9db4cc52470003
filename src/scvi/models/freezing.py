"""A fitted network made wider for categories it has not seen, of which only the new weights train.

"Architectural surgery" (Lotfollahi et al., Nature Biotechnology 2022): batches and covariates enter a network as
one-hot columns beside the input of its layers, so a new batch is a new column of each of these layers. With all else
frozen, what the network says of the cells it was fitted to stays as it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from scvi._checks import check_flag
from scvi.models.layers import FCLayers


@dataclass(frozen=True)
class Freeze:
    """What of a mapped network stays as it is, beside all weights that are named nowhere below.

    Attributes
    ----------
    dropout
        No dropout in training.
    expression, decoder_first_layer
        The first layers of the encoders and of the decoders, but for their new columns.
    batchnorm_encoder, batchnorm_decoder
        Scales, shifts and running moments of batch norm, which is then computed with the running moments.
    classifier
        The classifier of labels, where there is one.
    nothing
        All weights train, whatever the others say but for dropout.
    """

    dropout: bool = False
    expression: bool = True
    decoder_first_layer: bool = True
    batchnorm_encoder: bool = True
    batchnorm_decoder: bool = True
    classifier: bool = True
    nothing: bool = False

    def __post_init__(self) -> None:
        for entry in fields(self):
            check_flag("unfrozen" if entry.name == "nothing" else f"freeze_{entry.name}", getattr(self, entry.name))


@dataclass(frozen=True)
class Scope:
    """The part of a network that a fit may change.

    Attributes
    ----------
    trained
        By name of a parameter: which columns (places along its last axis) train, (columns,), or which rows, (rows, 1),
        or one True for all of it. A parameter that is not named stays as it is, bit for bit, and so do other places.
    resting
        Names of the batch norm and dropout modules that stay in evaluation mode.
    """

    trained: Mapping[str, Tensor]
    resting: tuple[str, ...] = ()

    def reaches(self, kind: str) -> bool:
        """Whether a fit may change a part of the network: 'encoder', 'decoder', 'classifier' or 'embeddings'."""
        return any(_part_of(name) == kind for name in self.trained)

    def describe(self) -> dict[str, str]:
        """Tells one scope from another, in plain JSON types."""
        columns = {
            name: str(mask.nonzero()[:, 0].tolist()) if mask.dim() else "all"
            for name, mask in sorted(self.trained.items())
        }
        return {**columns, "in evaluation mode": ", ".join(self.resting)}


def axis_of(mask: Tensor) -> int:
    """Along which axis of a parameter the places of a mask lie."""
    return -1 if mask.dim() == 1 else 0


@torch.no_grad()
def widen(old: nn.Module, new: nn.Module) -> dict[str, Tensor]:
    """Copies the weights of a network into one that is the same but for having more categories.

    The columns of a new category start as the mean of those of the old ones, so that before any training a new batch is
    an average one. A single category is no covariate and has no column: where the only old category gets one, it holds
    zeros and is not new, so that nothing changes for its cells.

    Returns
    -------
    Masks of the new columns, (columns,) bool, or of the new rows of an embedding, (rows, 1), by name of the parameters
    that have any.

    Raises
    ------
    ValueError
        If the networks differ in more than that.
    """
    given, wanted = old.state_dict(), new.state_dict()
    if given.keys() != wanted.keys():
        raise ValueError(f"networks of different parts: {', '.join(sorted(given.keys() ^ wanted.keys())[:5])}")
    layers = {name: module for name, module in new.named_modules() if isinstance(module, FCLayers)}
    blocks = {
        f"{name}.fc_layers.{layer}.0.weight": name
        for name, module in layers.items()
        for layer, _ in module.fc_layers.named_children()
    }
    embeddings = {f"{name}.weight" for name, module in new.named_modules() if isinstance(module, nn.Embedding)}
    parameters, masks = dict(new.named_parameters()), {}
    for name, tensor in wanted.items():  # these share memory with the parameters
        source, mask = given[name], None
        if tensor.shape == source.shape:
            tensor.copy_(source)
        elif name in blocks:
            mask = _widen_layer(source, tensor, old.get_submodule(blocks[name]), layers[blocks[name]])  # type: ignore[arg-type]
        elif name in embeddings:
            mask = _widen_table(name, source.T, tensor.T)[:, None]  # the categories of an embedding are its rows
        else:
            mask = _widen_table(name, source, tensor)
        if mask is not None and name in parameters:
            masks[name] = mask
    return masks


def _widen_layer(source: Tensor, target: Tensor, old: FCLayers, new: FCLayers) -> Tensor:
    """Columns of a layer: those of its own input, one block a categorical covariate, the continuous covariates."""
    start = place = source.shape[1] - sum(old.n_cat_list) - old.n_cont
    is_new = torch.zeros(target.shape[1], dtype=torch.bool)
    target[:, :start] = source[:, :start]
    for n_old, n_new in zip(old.n_cat_list, new.n_cat_list, strict=True):
        block = source[:, start : start + n_old]
        target[:, place : place + n_new] = block.mean(1, keepdim=True) if n_old else 0.0
        target[:, place : place + n_old] = block
        is_new[place + max(n_old, 1) : place + n_new] = True
        start, place = start + n_old, place + n_new
    target[:, place:] = source[:, start:]
    return is_new


def _widen_table(name: str, source: Tensor, target: Tensor) -> Tensor:
    """A value for each of ... and category, such as a dispersion: categories are the last axis."""
    n_old = source.shape[-1] if source.dim() else 0
    if n_old == 0 or source.shape[:-1] != target.shape[:-1] or n_old > target.shape[-1]:
        raise ValueError(
            f"{name} of shape {tuple(source.shape)} cannot be made one of shape {tuple(target.shape)}: only its last "
            "axis may be longer"
        )
    target[..., :n_old] = source
    target[..., n_old:] = source.mean(-1, keepdim=True)
    return torch.arange(target.shape[-1]) >= n_old


def columns_of(new_places: Mapping[str, Tensor], wanted: Sequence[Tensor]) -> dict[str, Tensor]:
    """Masks of the places of categories that a network has already, such as :func:`scope_of` takes.

    Parameters
    ----------
    new_places
        As :func:`widen` returns them of a network that has one more category for each covariate.
    wanted
        For each covariate which of its categories, (k,) bool; of a single one none. Tables and embeddings are of the
        first, the batch.
    """
    found = {}
    for name, is_new in new_places.items():
        places = is_new.flatten().nonzero()[:, 0].tolist()
        of_each = wanted[len(wanted) - len(places) :] if "fc_layers" in name else wanted[:1]
        chosen, stays = torch.zeros(is_new.numel(), dtype=torch.bool), ~is_new.flatten()
        for place, some in zip(places, of_each, strict=True):
            if len(some) > 1:
                chosen[place - len(some) : place] = some
            elif "fc_layers" in name:
                stays[place - 1] = False  # a single category is no covariate and has no column
        if chosen[stays].any():
            found[name] = chosen[stays].view(-1, *is_new.shape[1:])
    return found


def scope_of(model: nn.Module, new_columns: Mapping[str, Tensor], freeze: Freeze) -> Scope:
    """What trains of a network with new columns.

    Parameters
    ----------
    new_columns
        As :func:`widen` returns them.
    freeze
        What does not train.
    """
    trained: dict[str, Tensor] = dict(new_columns)
    resting: list[str] = []
    if freeze.nothing:
        trained = {name: torch.tensor(True) for name, p in model.named_parameters() if p.requires_grad}
    if not freeze.classifier:
        trained |= {
            name: torch.tensor(True)
            for name, p in model.named_parameters()
            if _part_of(name) == "classifier" and p.requires_grad
        }
    thaws = {  # first layers and batch norm, by part of the network
        "encoder": (not freeze.expression, not freeze.batchnorm_encoder),
        "decoder": (not freeze.decoder_first_layer, not freeze.batchnorm_decoder),
        "classifier": (False, not freeze.classifier),
    }
    for name, module in model.named_modules():
        thaws_first, thaws_norm = thaws.get(_part_of(name), (False, False))
        if isinstance(module, FCLayers) and thaws_first:
            trained |= _whole(f"{name}.fc_layers.Layer 0.0", module.fc_layers[0][0])  # type: ignore[index]
        if isinstance(module, nn.BatchNorm1d) and (thaws_norm or freeze.nothing):
            trained |= _whole(name, module)
        elif isinstance(module, nn.BatchNorm1d) or (isinstance(module, nn.Dropout) and freeze.dropout):
            resting.append(name)
    return Scope(trained, tuple(resting))


def _whole(name: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{name}.{parameter}": torch.tensor(True) for parameter, _ in module.named_parameters()}


def _part_of(name: str) -> str:
    """Which part of a network a module or parameter belongs to; attribute names tell."""
    words = name.split(".")[0].split("_")
    return next((part for part in ("encoder", "decoder", "classifier", "embeddings") if part in words), "")

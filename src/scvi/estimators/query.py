"""From a fitted reference and cells of new batches to a model of both, and from cells to what a model keeps of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from scvi._random import seeded
from scvi._warnings import warn
from scvi.cells.minified import Kept, minified
from scvi.cells.schema import Schema
from scvi.fit.checkpoint import digest
from scvi.minibatch import Minibatch
from scvi.models.base import Model
from scvi.models.freezing import Freeze, Scope, scope_of, widen
from scvi.queries import latent

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

__all__ = ["check_kept", "minify", "new_categories", "report", "widened"]

logger = logging.getLogger(__name__)


def new_categories(old: Schema, new: Schema) -> dict[str, tuple[str, ...]]:
    """Categories that only the second schema has, by column."""
    known = old.categories
    return {key: names[len(known[key]) :] for key, names in new.categories.items() if len(names) > len(known[key])}


def widened(old: Model, make: Callable[[], Model], freeze: Freeze) -> tuple[Model, Scope]:
    """A wider network with the weights of an old one, on its device, and what of it trains.

    Parameters
    ----------
    make
        Makes the network.
    freeze
        What does not train.
    """
    with seeded(0):  # nothing random is left in it
        module = make()
    module.to(next(old.parameters()).device)
    return module, scope_of(module, widen(old, module), freeze)


def report(new: Mapping[str, tuple[str, ...]], scope: Scope) -> None:
    """Says what was added, and warns where training cannot move the query in the latent space."""
    for key, names in new.items():
        logger.info("New categories of %r: %s.", key, ", ".join(names))
    if not scope.trained:
        warn(
            "the query has no batch and no category of a covariate that the reference does not know, so there is "
            "nothing to train; the model answers questions about it as it is"
        )
    elif not scope.reaches("encoder"):
        warn(
            "the reference was built with encode_covariates=False: its encoder sees no batch, so training leaves the "
            "latent representation of the query as it is now and fits the decoder's columns of the new categories only "
            "(normalised expression, likelihoods); build references with encode_covariates=True, or unfreeze more"
        )


def minify(module: Model, adata: AnnData, minibatches: Iterable[Minibatch], drop_obsm: tuple[str, ...] = ()) -> AnnData:
    """An AnnData without counts, see :func:`scvi.cells.minified.minified`."""
    kept = Kept(latent.summary(module, minibatches), _digest(module))
    return minified(adata, kept, drop_obsm)


def check_kept(kept: Kept | None, module: nn.Module) -> None:
    """Refuses what another model kept, or this one before it was trained on."""
    if kept is not None and kept.model != _digest(module):
        raise ValueError(
            "adata was minified by another model, or by this one before its last training, and what was kept is not "
            "true of this one: pass the AnnData with counts, or load the model that minified it"
        )


def _digest(module: nn.Module) -> str:
    tensors: Iterable[Tensor] = module.state_dict().values()
    return digest(*(torch.as_tensor(t).cpu().numpy() for t in tensors))

"""What a model of genes and proteins expects."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from scvi.minibatch import Minibatch
from scvi.models.decoded import Decoded, ProteinValue
from scvi.models.totalvae import TOTALVAE
from scvi.queries.expression import Wanted, columns, expected


def normalized(
    model: TOTALVAE,
    minibatches: Iterable[Minibatch],
    wanted: Wanted,
    value: ProteinValue,
    library_size: float | str = 1,
    generator: torch.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Of genes what :func:`scvi.queries.expression.normalized` returns, and expected counts of proteins."""

    def values(decoded: Decoded) -> dict[str, Tensor]:
        return {
            "genes": columns(decoded.genes.expected(library_size), wanted.genes),
            "proteins": columns(decoded.proteins.expected(value, generator), wanted.proteins),
        }

    found = expected(model, minibatches, values, wanted, generator)
    return found["genes"], found["proteins"]


def foreground_probability(
    model: TOTALVAE,
    minibatches: Iterable[Minibatch],
    wanted: Wanted,
    hide_missing: bool = False,
    generator: torch.Generator | None = None,
) -> np.ndarray:
    """Probability that the count of a protein is no background, (n, p), or (s, n, p) where draws are kept."""

    def values(decoded: Decoded) -> dict[str, Tensor]:
        fore = decoded.proteins.foreground_probability
        return {"fore": columns(decoded.proteins.hide_missing(fore) if hide_missing else fore, wanted.proteins)}

    return expected(model, minibatches, values, wanted, generator)["fore"]


def background(
    model: TOTALVAE, minibatches: Iterable[Minibatch], generator: torch.Generator | None = None
) -> np.ndarray:
    """(n, p) one draw of the mean count of the background."""
    return expected(
        model,
        minibatches,
        lambda decoded: {"rate": decoded.proteins.draw_background(generator).exp()},
        Wanted(),
        generator,
    )["rate"]


def background_mean(
    model: TOTALVAE, minibatches: Iterable[Minibatch], generator: torch.Generator | None = None
) -> np.ndarray:
    """(n, p) mean of the mean count of the background, NaN where it was not measured."""

    def values(decoded: Decoded) -> dict[str, Tensor]:
        return {"rate": decoded.proteins.hide_missing(decoded.proteins.log_mean_background.exp())}

    return expected(model, minibatches, values, Wanted(), generator)["rate"]


def dropout_probability(
    model: TOTALVAE, minibatches: Iterable[Minibatch], wanted: Wanted, generator: torch.Generator | None = None
) -> np.ndarray:
    """Probability that a count of a gene was lost, also where the likelihood does not use it: (n, g) or (s, n, g)."""
    return expected(
        model,
        minibatches,
        lambda decoded: {"lost": torch.sigmoid(decoded.genes.dropout_logits)},  # type: ignore[arg-type]  # it is raw
        wanted,
        generator,
        partial(model.generative, raw=True),
    )["lost"]

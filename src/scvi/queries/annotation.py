"""Labels of cells, as a model with a classifier sees them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from scvi.minibatch import Minibatch
from scvi.models.scanvae import SCANVAE
from scvi.models.vaec import VAEC
from scvi.queries.evaluation import asked, evaluating


def log_probabilities(
    model: SCANVAE,
    minibatches: Iterable[Minibatch],
    drawn: bool = False,
    *,
    calibrated: bool = True,
    generator: torch.Generator | None = None,
) -> npt.NDArray[np.float32]:
    """(n, c) log q(y | z1) at the mean of q(z1 | x) or a draw, at the temperature of the model or as it was trained."""
    answer = model.calibrated if calibrated else model.log_probabilities
    return asked(model, minibatches, lambda mb: answer(mb, drawn, generator))


def expression_of_labels(
    model: VAEC,
    minibatches: Sequence[Minibatch],
    labels: Sequence[int],
    batches: Sequence[int],
    generator: torch.Generator | None = None,
) -> npt.NDArray[np.float32]:
    """(k, g) expected frequencies of k labels, averaged over draws of z from its prior and over batches.

    Each cell of `minibatches` lends its covariates to one draw.
    """
    n = sum(map(len, minibatches)) * len(batches)
    result = []
    with evaluating(model):
        for label in labels:
            total = torch.zeros(model.n_input, device=minibatches[0].device)
            for mb in minibatches:
                told = replace(mb, labels=torch.full_like(mb.labels, label))
                z = torch.randn(len(mb), model.n_latent, generator=generator, device=mb.device)
                for batch in batches:
                    total += model.generative(z, torch.zeros_like(z[:, :1]), told, batch).genes.scale.sum(0)
            result.append(total / n)
    return torch.stack(result).cpu().numpy()

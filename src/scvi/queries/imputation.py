"""What a model of several data sets expects of the genes that a data set did not measure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from scvi.minibatch import Minibatch
from scvi.models.adversary import class_log_probabilities
from scvi.models.gaussian import draw
from scvi.models.jvae import JVAE
from scvi.models.vae import observed_log_library
from scvi.queries.evaluation import evaluating
from scvi.queries.joined import Joined

__all__ = ["data_set_probabilities", "imputed"]


def imputed(
    model: JVAE,
    minibatches: Iterable[Minibatch],
    *,
    deterministic: bool = True,
    normalized: bool = True,
    decode_mode: int | None = None,
    transform_batch: Sequence[int] | None = None,
    genes: np.ndarray | None = None,
    generator: torch.Generator | None = None,
) -> np.ndarray:
    """Expected frequencies or counts of all genes, of each cell.

    Parameters
    ----------
    deterministic
        Decode means of the latent variables, not draws.
    normalized
        Frequencies, which sum to 1 over the genes that the data set `decode_mode` observes; or else these times the
        cell's library size.
    decode_mode
        As which data set to decode; None: the cell's own.
    transform_batch
        Codes of batches to decode in, over which the result is averaged; None: the cell's own.
    genes
        Positions of the genes wanted.

    Returns
    -------
    (n, all genes) or (n, len(genes))
    """
    result = Joined()
    codes: list[int | None] = [None] if transform_batch is None else [*transform_batch]
    with evaluating(model):
        for mb in minibatches:
            q = model.variational(mb)
            z = q.z.loc if deterministic else draw(q.z, generator=generator)
            log_library = observed_log_library(mb)
            if q.l is not None:
                log_library = q.l.loc if deterministic else draw(q.l, generator=generator)
            mode = mb.dataset if decode_mode is None else decode_mode
            total: Tensor | float = 0.0
            for code in codes:
                batch = mb.batch if code is None else torch.full_like(mb.batch, code)
                scale, _, rate, _ = model.decode(z, mode, log_library, batch, mb.labels)
                total = total + (scale if normalized else rate)
            values = (total / len(codes)).cpu().numpy()  # type: ignore[union-attr]
            result.add(values if genes is None else values[:, genes])
    return result.array()


def data_set_probabilities(model: JVAE, discriminator: nn.Module, minibatches: Iterable[Minibatch]) -> np.ndarray:
    """(n, number of data sets) from which data set a discriminator takes each cell to be, by its latent mean."""
    result = Joined()
    networks = nn.ModuleList([model, discriminator])
    with evaluating(networks):
        for mb in minibatches:
            (log_p,) = class_log_probabilities(discriminator, [model.variational(mb).z.loc])
            result.add(log_p.exp().cpu().numpy())
    return result.array()

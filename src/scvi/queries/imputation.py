"""What a model expects where counts were replaced, and of genes that one of several data sets did not measure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scvi.minibatch import Minibatch
from scvi.models.adversary import class_log_probabilities
from scvi.models.base import Model, batch_codes
from scvi.models.gaussian import draw
from scvi.models.jvae import JVAE
from scvi.queries.evaluation import asked, evaluating
from scvi.queries.expression import columns, posterior_draws


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
    codes: list[int | None] = [None] if transform_batch is None else [*transform_batch]
    wanted = 0 if normalized else 2  # of what `decode` returns

    def values(mb: Minibatch) -> Tensor:
        q = model.variational(mb)
        z = q.z.loc if deterministic else draw(q.z, generator=generator)
        log_size = q.mean_size(mb) if deterministic else q.draw_size(mb, generator=generator)
        mode = mb.dataset if decode_mode is None else decode_mode
        decoded = (model.decode(z, mode, log_size, batch_codes(mb, code), mb.labels)[wanted] for code in codes)
        mean: Any = sum(decoded) / len(codes)
        return columns(mean, genes)

    return asked(model, minibatches, values)


def data_set_probabilities(model: JVAE, discriminator: nn.Module, minibatches: Iterable[Minibatch]) -> np.ndarray:
    """(n, number of data sets) from which data set a discriminator takes each cell to be, by its latent mean."""

    def probabilities(mb: Minibatch) -> Tensor:
        (log_p,) = class_log_probabilities(discriminator, [model.variational(mb).z.loc])
        return log_p.exp()

    return asked(nn.ModuleList([model, discriminator]), minibatches, probabilities)


def of_replaced(
    model: Model,
    pairs: Iterable[tuple[Minibatch, Minibatch]],
    n_samples: int = 1,
    generator: torch.Generator | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Counts that were replaced, and what a model that sees the replacements expects in their place.

    Parameters
    ----------
    pairs
        Minibatches of the same cells, with their true counts and with some of these replaced.
    n_samples
        Posterior draws a cell.

    Returns
    -------
    true, expected
        Of each cell (t,) and (n_samples, t), where t counts differ.
    """
    true: list[np.ndarray] = []
    expected: list[np.ndarray] = []
    with evaluating(model):
        for whole, replaced in pairs:
            cells, genes = torch.nonzero(whole.x != replaced.x, as_tuple=True)
            rates = [
                model.generative(z, log_size, replaced).genes.expected("latent")[:, cells, genes]
                for z, log_size in posterior_draws(model, replaced, n_samples, generator)
            ]
            ends = np.cumsum(np.bincount(cells.cpu().numpy(), minlength=len(whole)))[:-1]
            true += np.split(whole.x[cells, genes].cpu().numpy(), ends)
            expected += np.split(torch.cat(rates).cpu().numpy(), ends, axis=1)
    return true, expected

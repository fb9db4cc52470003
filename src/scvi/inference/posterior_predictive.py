"""Counts, denoised counts and parameters that a posterior generates; functions of a `Posterior`, which lists them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scvi._checks import check_choice, check_draws, check_number
from scvi.minibatch import Minibatch
from scvi.models.decoded import Decoded
from scvi.queries import predictive
from scvi.queries.correlation import Kind
from scvi.queries.evaluation import Joined
from scvi.queries.expression import Wanted, expected

if TYPE_CHECKING:
    from scvi.inference.posterior import Posterior

Floats: TypeAlias = npt.NDArray[np.float32]
Batches: TypeAlias = int | Sequence[int] | None
_ALL = ("dropout", "mean", "dispersions")


def generate(
    self: Posterior, n_samples: int = 100, genes: Sequence[str] | Sequence[int] | None = None, batch_size: int = 128
) -> tuple[Floats, Floats]:
    """Counts as the model would measure them, dropout included, and the counts themselves.

    Parameters
    ----------
    n_samples
        Draws of each cell.
    genes
        Names or positions of genes, in the order wanted; None for all.
    batch_size
        Cells that are read at once.

    Returns
    -------
    (n, g, s) and (n, g), in the order of the iteration, see the class.
    """
    positions = None if genes is None else _gene_positions(self, genes)
    return with_originals(self, Wanted(positions, n_samples=n_samples), batch_size)


def generate_denoised_samples(
    self: Posterior,
    n_samples: int = 25,
    batch_size: int = 64,
    rna_size_factor: float = 1000,
    transform_batch: int | None = None,
) -> Floats:
    """Draws without counting noise: gamma draws around the mean, of which counts would be Poisson draws.

    Parameters
    ----------
    n_samples
        Draws of each cell.
    batch_size
        Cells that are read at once.
    rna_size_factor
        What is multiplied with the frequency of a gene to give its mean.
    transform_batch
        Decode every cell as if it came from this batch; None for its own.

    Returns
    -------
    (n, g, s), for totalVI (n, g + p, s); in the order of the iteration, see the class.
    """
    check_number("rna_size_factor", rna_size_factor, "a positive number", above=0)
    wanted = self._wanted(n_samples, True, transform_batch)
    if wanted.transform_batch is not None and len(wanted.transform_batch) > 1:
        raise ValueError(f"transform_batch={transform_batch!r} is more than one batch; samples are drawn in one")
    blocks = predictive.denoised(self.model, cells(self, batch_size), wanted, rna_size_factor)
    return predictive.in_one_array(blocks, self.nb_cells, n_samples)


def generate_feature_correlation_matrix(
    self: Posterior,
    n_samples: int = 10,
    batch_size: int = 64,
    rna_size_factor: float = 1000,
    transform_batch: Batches = None,
    correlation_type: Kind = "spearman",
) -> npt.NDArray[np.float64]:
    """Correlation of genes over cells and denoised samples, averaged over batches.

    Pearson's holds no samples but those of some cells; for Spearman's all of them are held, once.

    Parameters
    ----------
    n_samples, batch_size, rna_size_factor
        As of :meth:`generate_denoised_samples`.
    transform_batch
        Decode every cell as if it came from this batch, or each of several; None for its own.
    correlation_type
        'spearman' or 'pearson'.

    Returns
    -------
    (g, g); 0 for a gene that does not vary
    """
    check_choice("correlation_type", correlation_type, ("spearman", "pearson"))
    check_number("rna_size_factor", rna_size_factor, "a positive number", above=0)
    wanted = self._wanted(n_samples, True, transform_batch)
    return predictive.correlations(
        self.model, lambda: cells(self, batch_size), wanted, rna_size_factor, correlation_type
    )


def generate_parameters(self: Posterior, n_samples: int = 1, give_mean: bool = False) -> tuple[Floats, Floats, Floats]:
    """Parameters of the density of each count of a gene, at draws of the cell's latent variables.

    Parameters
    ----------
    n_samples
        Draws of each cell.
    give_mean
        Average dropout logits and means over the draws.

    Returns
    -------
    Dropout logits and means before dropout, (n, g), or (s, n, g) for s > 1 draws that are not averaged; inverse
    dispersions (n, g), of ``dispersion="gene-cell"`` in the shape of the means. Without dropout the logits are
    -inf, of Poisson counts the inverse dispersions are inf. **In the order of** `indices`.
    """
    in_order, wanted = self.sequential(), self._wanted(n_samples, give_mean)
    names = ("dropout", "mean") if n_samples > 1 and self.model.dispersion != "gene-cell" else _ALL
    found = expected(self.model, cells(in_order), partial(_parameters, names=names), wanted)
    if len(names) < len(_ALL):  # the dispersions of a cell are the same in all draws
        found |= expected(self.model, cells(in_order), partial(_parameters, names=_ALL[-1:]), Wanted())
    return found["dropout"], found["mean"], found["dispersions"]


def cells(self: Posterior, batch_size: int | None = None) -> Iterator[Minibatch]:
    """All cells, some at once."""
    options = {} if batch_size is None else {"batch_size": batch_size}
    return self._asked().update(options).minibatches()


def with_originals(
    self: Posterior, wanted: Wanted, batch_size: int, with_dropout: bool = True
) -> tuple[Floats, Floats]:
    """Draws (n, f, s), and what was measured in the same cells, (n, f)."""
    check_draws("n_samples", wanted.n_samples)
    originals = Joined()

    def remembered(minibatches: Iterable[Minibatch]) -> Iterator[Minibatch]:  # the next pass may be in another order
        for mb in minibatches:
            x = mb.x if wanted.genes is None else mb.x[:, wanted.genes]
            originals.add((x if mb.proteins is None else torch.cat([x, mb.proteins], dim=1)).cpu().numpy())
            yield mb

    minibatches = remembered(cells(self, batch_size))
    blocks = predictive.counts(self.model, minibatches, wanted, with_dropout=with_dropout)
    return predictive.in_one_array(blocks, self.nb_cells, wanted.n_samples), originals.array()


def _gene_positions(self: Posterior, genes: Sequence[str] | Sequence[int]) -> npt.NDArray[np.int64]:
    """Of names, or of positions, which are checked."""
    positions, n_genes = self.gene_dataset.genes_to_index(np.atleast_1d(genes)), self.gene_dataset.nb_genes
    for position in positions:
        if not 0 <= position < n_genes:
            raise IndexError(f"genes holds {position}; there are {n_genes} genes, numbered from 0 to {n_genes - 1}")
    return positions


def _parameters(decoded: Decoded, names: Sequence[str] = _ALL) -> dict[str, Tensor]:
    """(s, n, g) each: of a Poisson the dispersion, and where nothing is lost the dropout, at their limits."""
    genes = decoded.genes
    mean, logits = genes.rate, genes.dropout_logits
    found = {
        "dropout": torch.full_like(mean, -torch.inf) if logits is None else logits,
        "mean": mean,
        "dispersions": genes.theta.expand_as(mean)
        if genes.likelihood.has_dispersion
        else torch.full_like(mean, torch.inf),
    }
    return {name: found[name] for name in names}

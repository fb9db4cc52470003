"""Counts as a fitted model would measure them, and as they would be without the noise of counting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from scvi.minibatch import Minibatch
from scvi.models.base import Model
from scvi.models.decoded import Decoded, GeneCounts, ProteinCounts
from scvi.queries.correlation import Kind, correlation
from scvi.queries.evaluation import Joined, evaluating
from scvi.queries.expression import Wanted, columns, posterior_draws

_MAX_RATE = 1e8  # numpy's Poisson draws know no larger means
_SHAPES = 1e-12, 1e12  # of gamma draws: beyond, their mean over their shape is no float32

Draw = Callable[[Decoded, np.random.Generator], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Drawn:
    """A block of draws of some cells, small enough to be held as an array.

    Attributes
    ----------
    cells, draws
        Which of all cells and draws.
    values
        (s, n, .) float32, by modality: 'genes', and 'proteins' where the model has them.
    """

    cells: slice
    draws: slice
    values: Mapping[str, np.ndarray]


def counts(
    model: Model,
    minibatches: Iterable[Minibatch],
    wanted: Wanted,
    generator: torch.Generator | None = None,
    with_dropout: bool = True,
) -> Iterator[Drawn]:
    """Counts as the fitted model would measure them in the same cells: posterior predictive draws, block by block.

    A posterior draw of the cell's latent variables, then one count of each gene and protein from its density. What all
    cells share and is latent, the delta of AutoZI, is integrated out for each count.

    Parameters
    ----------
    wanted
        Genes, proteins, draws a cell, and one batch to decode in at most.
    with_dropout
        Set counts to 0 with the probability of a dropout, where the likelihood has one.
    """

    def draw(decoded: Decoded, rng: np.random.Generator) -> dict[str, np.ndarray]:
        values = {"genes": counts_of_genes(decoded.genes, wanted.genes, rng, with_dropout)}
        if "proteins" in decoded:
            values["proteins"] = counts_of_proteins(decoded.proteins, wanted.proteins, rng, generator)
        return values

    return _drawn(model, minibatches, wanted, generator, draw)


def denoised(
    model: Model,
    minibatches: Iterable[Minibatch],
    wanted: Wanted,
    rna_size_factor: float,
    generator: torch.Generator | None = None,
) -> Iterator[Drawn]:
    """Gamma draws around the mean: biological variation without counting noise; proteins without their background.

    Genes have the mean `rna_size_factor` times their frequency, and the inverse dispersion of the likelihood; one that
    has none (Poisson) has no such variation, and gives the means themselves. Arguments as of :func:`counts`.
    """

    def draw(decoded: Decoded, rng: np.random.Generator) -> dict[str, np.ndarray]:
        genes = decoded.genes
        mean = columns(genes.scale, wanted.genes) * rna_size_factor
        values = {"genes": _around(mean, genes, wanted.genes, rng)}
        if "proteins" in decoded:
            values["proteins"] = _foreground_of_proteins(decoded.proteins, wanted.proteins, rng, generator)
        return values

    return _drawn(model, minibatches, wanted, generator, draw)


def correlations(
    model: Model,
    cells: Callable[[], Iterable[Minibatch]],
    wanted: Wanted,
    rna_size_factor: float,
    kind: Kind,
    generator: torch.Generator | None = None,
    log_transform: bool = False,
) -> np.ndarray:
    """(f, f) correlations of all features over the cells' :func:`denoised` draws, averaged over the batches wanted.

    `cells` gives the minibatches, once for each batch; `log_transform` correlates log(1 + draws).
    """
    codes: Sequence[int | None] = [None] if wanted.transform_batch is None else wanted.transform_batch
    total: np.ndarray | None = None
    for code in codes:
        in_batch = replace(wanted, transform_batch=None if code is None else [code])
        draws = (side_by_side(block) for block in denoised(model, cells(), in_batch, rna_size_factor, generator))
        rows = (np.log1p(values) if log_transform else values for values in draws)
        matrix = correlation((values.reshape(-1, values.shape[-1]) for values in rows), kind)
        total = matrix if total is None else np.add(total, matrix, out=total)
    return np.divide(total, len(codes), out=total)  # type: ignore[arg-type]  # there is at least one batch


def in_one_array(blocks: Iterable[Drawn], n_cells: int, n_samples: int) -> np.ndarray:
    """(n, f, s) all draws, float32, of all features: genes, then proteins."""
    result: np.ndarray | None = None
    for block in blocks:
        rows = side_by_side(block)
        if result is None:
            result = np.empty((n_cells, rows.shape[-1], n_samples), np.float32)
        result[block.cells, :, block.draws] = rows.transpose(1, 2, 0)
    if result is None:
        raise ValueError("there are no cells to draw")
    return result


def side_by_side(block: Drawn) -> np.ndarray:
    """(s, n, f) all features of a block: genes, then proteins."""
    parts = list(block.values.values())
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)


class SparseDraws:
    """Draws of counts in a sparse form, which takes block after block and holds only what is not 0."""

    def __init__(self) -> None:
        self._values, self._coordinates = Joined(), [Joined() for _ in range(3)]

    def add(self, block: Drawn, name: str = "genes") -> None:
        """The next block: the cells of the one before or later ones."""
        values = block.values[name]
        draw, cell, column = np.nonzero(values)
        self._values.add(values[draw, cell, column])
        for kept, found in zip(
            self._coordinates, (cell + block.cells.start, column, draw + block.draws.start), strict=True
        ):
            kept.add(found.astype(np.int32))

    def array(self, n_cells: int, n_columns: int, n_samples: int) -> sparse.csr_matrix | sparse.coo_array:
        """(n, g) CSR of a single draw, else (n, g, s) COO, float32. Nothing can be added afterwards."""
        values, (cell, column, draw) = self._values.array(), (kept.array() for kept in self._coordinates)
        if n_samples == 1:
            ends = np.cumsum(np.bincount(cell, minlength=n_cells))
            return sparse.csr_matrix((values, column, np.concatenate([[0], ends])), shape=(n_cells, n_columns))
        result = sparse.coo_array((n_cells, n_columns, n_samples), dtype=np.float32)
        result.coords, result.data = (cell, column, draw), values  # as they are: its constructor makes them int64
        result.has_canonical_format = False
        return result


def _drawn(
    model: Model, minibatches: Iterable[Minibatch], wanted: Wanted, generator: torch.Generator | None, draw: Draw
) -> Iterator[Drawn]:
    """What is drawn of some draws of a minibatch, then of further ones, then of the next minibatch.

    Torch's public distributions take no generator: numpy's draws follow one number of it.
    """
    codes: Sequence[int | None] = [None] if wanted.transform_batch is None else wanted.transform_batch
    if len(codes) != 1:
        raise ValueError(f"{len(codes)} batches to decode in; draws are decoded in one, or in each cell's own")
    device = "cpu" if generator is None else generator.device
    rng = np.random.default_rng(int(torch.randint(2**62, (), generator=generator, device=device)))
    first_cell = 0
    for mb in minibatches:
        cells, first_draw = slice(first_cell, first_cell + len(mb)), 0
        with evaluating(model):
            latent = list(posterior_draws(model, mb, wanted.n_samples, generator))
        for z, log_size in latent:
            with evaluating(model):
                values = draw(model.generative(z, log_size, mb, codes[0]), rng)
            yield Drawn(cells, slice(first_draw, first_draw + len(z)), values)  # outside: the model is in its own mode
            first_draw += len(z)
        first_cell += len(mb)


def counts_of_genes(
    genes: GeneCounts, positions: np.ndarray | None, rng: np.random.Generator, with_dropout: bool
) -> np.ndarray:
    """(..., n, k) draws of the counts of some genes, None: of all."""
    x = _poisson(_around(columns(genes.rate, positions), genes, positions, rng), rng)
    logits = genes.dropout_logits
    if with_dropout and logits is not None:
        x[rng.random(x.shape) < torch.sigmoid(columns(logits, positions)).cpu().numpy()] = 0
    return x


def _around(mean: Tensor, genes: GeneCounts, positions: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """What the counts of genes are Poisson of: gamma draws, or the means where the likelihood has no dispersion."""
    if not genes.likelihood.has_dispersion:
        return mean.cpu().numpy()
    return _gamma(mean, columns(genes.theta, positions), rng)


def counts_of_proteins(
    proteins: ProteinCounts,
    positions: np.ndarray | None,
    rng: np.random.Generator,
    generator: torch.Generator | None,
) -> np.ndarray:
    """(..., n, k) draws of the counts of some proteins, None: of all, each at a draw of its background."""
    log_background = columns(proteins.draw_background(generator), positions)
    mean = (log_background + _is_foreground(proteins, positions, rng) * columns(proteins.log_factor, positions)).exp()
    return _poisson(_gamma(mean, columns(proteins.theta, positions), rng), rng)


def _foreground_of_proteins(
    proteins: ProteinCounts,
    positions: np.ndarray | None,
    rng: np.random.Generator,
    generator: torch.Generator | None,
) -> np.ndarray:
    log_mean = columns(proteins.draw_background(generator) + proteins.log_factor, positions)
    foreground = _gamma(log_mean.exp(), columns(proteins.theta, positions), rng)
    return foreground * _is_foreground(proteins, positions, rng).cpu().numpy()


def _gamma(mean: Tensor, theta: Tensor, rng: np.random.Generator) -> np.ndarray:
    """Draws with the mean, and the variance mean^2 / theta."""
    shape = theta.clamp(*_SHAPES).expand_as(mean).cpu().numpy()
    return (rng.standard_gamma(shape, dtype=np.float32) * (mean.cpu().numpy() / shape)).astype(np.float32)


def _poisson(rate: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.poisson(np.minimum(rate, _MAX_RATE)).astype(np.float32)


def _is_foreground(proteins: ProteinCounts, positions: np.ndarray | None, rng: np.random.Generator) -> Tensor:
    """1 where a draw of a count is foreground."""
    fore = columns(proteins.foreground_probability, positions)
    return torch.from_numpy((rng.random(fore.shape) < fore.cpu().numpy()).astype(np.float32)).to(fore.device)

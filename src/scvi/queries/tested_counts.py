"""What differs in the counts between groups of cells, and what differs on top of what a model expects of each cell.

Sums for all comparisons are collected in one pass over the cells, in which each is decoded once, at its posterior mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from scvi._warnings import warn
from scvi.minibatch import Minibatch
from scvi.models.base import Model, observed_log_size
from scvi.models.decoded import GeneCounts, ProteinCounts
from scvi.queries.count_sums import PoolSums
from scvi.queries.evaluation import evaluating
from scvi.queries.groups import Comparison, entries
from scvi.queries.pseudobulk import pseudobulk_test
from scvi.queries.sample_test import sample_test
from scvi.queries.score_test import Tested, score_test

Kind = Literal["genes", "proteins"]


@dataclass(frozen=True, eq=False)
class Units:
    """The units that cells are of: batches, or whatever takes their place; or samples, with the batches they are of.

    Attributes
    ----------
    codes
        (n,) of each cell.
    names
        Of the units.
    are_samples
        They are samples.
    batches
        (u,) codes of the batches of samples; None where they are not needed, or cells of a sample are of several.
    """

    codes: np.ndarray
    names: tuple[str, ...]
    are_samples: bool = False
    batches: np.ndarray | None = None


class CountTests:
    """Collects what the tests need of cells on their way to something else, and then answers.

    Parameters
    ----------
    model
        Expects the counts of the cells.
    pools
        (n,) the pool of each cell; -1: in none.
    units
        Of the cells.
    """

    def __init__(self, model: Model, pools: np.ndarray, units: Units) -> None:
        self._model, self._pools, self._units = model, pools, units
        self.data: dict[Kind, PoolSums] = {"genes": PoolSums(pools, units.codes)}
        self._residual: dict[Kind, PoolSums] = {"genes": PoolSums(pools, units.codes)}

    def noted(self, minibatches: Iterable[Minibatch]) -> Iterator[Minibatch]:
        """The minibatches, whose counts are added as they pass."""
        for mb in minibatches:
            self._add(mb)
            yield mb

    def _add(self, mb: Minibatch) -> None:
        cells = mb.indices.cpu().numpy()  # type: ignore[union-attr]  # they are of a data set
        with evaluating(self._model):
            q = self._model.latent(mb)
            decoded = self._model.generative(q.z.loc, q.mean_size(mb), mb)
            expected = {"genes": _numpy(_expected_genes(decoded.genes))}
            if mb.proteins is not None:
                expected["proteins"] = _numpy(_expected_proteins(decoded.proteins))
        genes, size = _matrix(mb), _numpy(observed_log_size(mb).exp())
        self.data["genes"].add(cells, genes, size)
        self._residual["genes"].add(cells, genes, expected["genes"])
        if mb.proteins is not None:
            self._add_proteins(cells, mb, expected["proteins"])

    def _add_proteins(self, cells: np.ndarray, mb: Minibatch, expected: np.ndarray) -> None:
        if "proteins" not in self.data:
            for sums in (self.data, self._residual):
                sums["proteins"] = PoolSums(self._pools, self._units.codes)
        proteins = _numpy(mb.proteins)  # type: ignore[arg-type]
        measured = np.ones_like(proteins) if mb.measured is None else _numpy(mb.measured)
        self.data["proteins"].add(cells, proteins, _protein_size(proteins, measured), measured)
        self._residual["proteins"].add(cells, proteins, expected, measured)

    def answer(self, comparison: Comparison, pseudobulk: bool = False) -> dict[str, np.ndarray]:
        """Columns (f,) of a comparison by name, genes first and proteins after them.

        Parameters
        ----------
        pseudobulk
            Test sums of the genes' counts by sample, too.
        """
        data, residual = (
            [self._tested(sums[kind], comparison) for kind in sums] for sums in (self.data, self._residual)
        )
        found = _columns(data, "lfc_data", "p_value", "p_adjusted")
        found |= _columns(residual, "lfc_residual", "p_residual", "p_residual_adjusted")
        if pseudobulk:
            bulk = pseudobulk_test(self.data["genes"].of(comparison.pools1, comparison.pools2)[0])
            unknown = np.full(sum(len(tested.p) for tested in data[1:]), np.nan)
            names = ("lfc_pseudobulk", "p_pseudobulk", "p_pseudobulk_adjusted")
            found |= _columns([bulk, Tested(unknown, unknown)], *names)
        return found

    def _tested(self, pool_sums: PoolSums, comparison: Comparison) -> Tested:
        sums, units = pool_sums.of(comparison.pools1, comparison.pools2)
        if self._units.are_samples:
            batches = self._units.batches
            return sample_test(sums, None if batches is None else batches[units])
        is_pooled = len(sums.n) == 2 and self._is_confounded(comparison)  # each group is one batch
        return score_test(sums.by(np.zeros(2, dtype=np.int64)) if is_pooled else sums)

    def warn_of_confounded(self, comparisons: Sequence[Comparison]) -> None:
        """Says which groups have no cells of their own, are told from no batch, or have no replicates."""
        shared = [
            one for one in comparisons if not (set(one.pools1) - set(one.pools2) and set(one.pools2) - set(one.pools1))
        ]
        _warn_of(shared, "all cells of a group are in the other as well, so there is nothing to test: p_value is NaN")
        confounded = [one for one in comparisons if one not in shared and self._is_confounded(one)]
        if self._units.are_samples:
            said = "a group has cells of one sample only, so nothing is known of how its samples differ: p_value is NaN"
        else:  # who compares batches by name means their difference
            confounded = [one for one in confounded if one.group1 not in self._units.names]
            said = (
                "no batch has cells of both groups, and one of them is a single batch, so what differs between batches "
                "counts as a difference between groups (strata=[] says that this is meant)"
            )
        _warn_of(confounded, said)

    def _is_confounded(self, comparison: Comparison) -> bool:
        """One of the groups is one batch, and none has cells of both; or one of the groups is one sample."""
        has_cells = self.data["genes"].of(comparison.pools1, comparison.pools2)[0].n[:, :, 0] > 0
        has_one = bool((has_cells.sum(axis=0) < 2).any())
        if self._units.are_samples or not has_one:
            return has_one
        return len(has_cells) > 1 and not has_cells.all(axis=1).any()


def _warn_of(comparisons: Sequence[Comparison], said: str) -> None:
    if comparisons:
        names = [comparison.name for comparison in comparisons]
        warn(", ".join(names[:3]) + (", ..." if len(names) > 3 else "") + f": {said}")


def _columns(tested: list[Tested], lfc: str, p: str, p_adjusted: str) -> dict[str, np.ndarray]:
    return {
        lfc: np.concatenate([one.lfc for one in tested]),
        p: np.concatenate([one.p for one in tested]),
        p_adjusted: np.concatenate([one.p_adjusted for one in tested]),
    }


def _expected_genes(genes: GeneCounts) -> Tensor:
    """(n, g) counts, after dropout."""
    return genes.rate if genes.dropout_logits is None else genes.rate * torch.sigmoid(-genes.dropout_logits)


def _expected_proteins(proteins: ProteinCounts) -> Tensor:
    """(n, p) counts, with background."""
    background = (proteins.log_background.loc + proteins.log_background.scale.square() / 2).exp()
    fore = proteins.foreground_probability
    return background * (1 - fore + fore * proteins.log_factor.exp())


def _protein_size(proteins: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """(n, p) geometric mean of one more than the counts of a cell: a total is that of one or two proteins."""
    logs = (np.log1p(proteins) * measured).sum(axis=1, keepdims=True) / np.maximum(
        measured.sum(axis=1, keepdims=True), 1
    )
    return np.exp(logs) * np.ones_like(proteins)


def _matrix(mb: Minibatch) -> sparse.csr_matrix:
    """(n, g) counts."""
    cells, genes, values = entries(mb)
    return sparse.csr_matrix((values.astype(np.float64), (cells, genes)), shape=mb.counts.shape)


def _numpy(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy().astype(np.float64)

"""How a question of 2020 about two groups of cells is asked of a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from scvi._checks import check_draws, check_integer
from scvi._warnings import warn
from scvi.models.decoded import Decoded, ProteinValue
from scvi.queries.decoded_draws import Read, Values, decoded
from scvi.queries.differential import log_fold, share
from scvi.queries.evidence import bayes_factor, described
from scvi.queries.groups import Comparison, Groups, group_counts
from scvi.queries.pool_draws import Pairs, PoolDraws, pair_rows

if TYPE_CHECKING:
    from scvi.inference.posterior import Posterior

Cells: TypeAlias = Sequence[int] | Sequence[bool] | npt.NDArray[Any]
BatchIds: TypeAlias = Sequence[int] | npt.NDArray[np.integer] | None
Mode = Literal["vanilla", "change"]
Columns = dict[str, npt.NDArray[Any]]
Batches: TypeAlias = tuple[list[int] | None, list[int] | None]
"""Codes of the batches to decode each of two groups in; None: each cell's own."""
Rows: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]

_CELLS_AT_ONCE = 512  # of which counts are added up: so few stay in a cache


@dataclass(frozen=True)
class Question:
    """What :meth:`get_bayes_factors` is asked beside the groups."""

    mode: Mode = "vanilla"
    batchid1: BatchIds = None
    batchid2: BatchIds = None
    use_observed_batches: bool = False
    n_samples: int = 5000
    use_permutation: bool = False
    M_permutation: int = 10000
    change_fn: Callable[..., Any] | str | None = None
    m1_domain_fn: Callable[..., Any] | None = None
    delta: float | None = 0.5
    cred_interval_lvls: Sequence[float] | None = None

    @classmethod
    def of(cls, arguments: dict[str, Any]) -> Question:
        """Of the arguments of a method, those that are meant for it."""
        return cls(**{field.name: arguments[field.name] for field in fields(cls) if field.name in arguments})

    def __post_init__(self) -> None:
        if self.mode not in ("vanilla", "change"):
            raise NotImplementedError(f"mode={self.mode!r} is not one of 'vanilla', 'change'")
        check_draws("n_samples", self.n_samples)
        check_integer("M_permutation", self.M_permutation, 1)
        if not (self.change_fn is None or self.change_fn == "log-fold" or callable(self.change_fn)):
            raise ValueError(
                f"'change_fn' attribute not understood: {self.change_fn!r} is not None, 'log-fold' or a function"
            )
        for name, function, n in (("change_fn", self.change_fn, 2), ("m1_domain_fn", self.m1_domain_fn, 1)):
            if callable(function) and _n_positional(function) != n:
                raise AssertionError(f"{name} takes {_n_positional(function)} positional arguments, and needs {n}")

    def codes(self, posterior: Posterior) -> Batches:
        """Codes of the batches to decode both groups in; None: each cell's own."""
        first, second = (
            batch_codes(posterior, ids, self.use_observed_batches) for ids in (self.batchid1, self.batchid2)
        )
        if first and second and set(first) != set(second) and not set(first).isdisjoint(second):
            warn(
                f"batchid1={first} and batchid2={second} have some batches in common and others not: draws are "
                "compared whatever their batch. Name the same batches, or different ones"
            )
        return first, second

    def rows(self, draws: PoolDraws, comparison: Comparison, rng: np.random.Generator) -> Rows:
        """Which draws of both sides are compared."""
        first, second = draws.sides(comparison, rng)
        if not self.use_permutation:
            return first, second
        of_draws, (batches, others) = draws.draws.batches, draws.batches
        if of_draws is None or batches is None or others is None or set(batches) != set(others):
            return pair_rows(first, second, self.M_permutation, rng)
        n = max(self.M_permutation // len(set(batches)), 1)
        parts = [
            pair_rows(first[of_draws[first] == code], second[of_draws[second] == code], n, rng)
            for code in sorted(set(batches))
        ]
        return tuple(np.concatenate(side) for side in zip(*parts, strict=True))  # type: ignore[return-value]

    def answer(self, pairs: Pairs) -> Columns:
        """What the pairs say."""
        scales = pairs.each(lambda a, b: {"scale1": a.mean(axis=0), "scale2": b.mean(axis=0)})
        if self.mode == "vanilla":
            proba = pairs.each(lambda a, b: {"m1": share(a > b, a)})["m1"]
            return {"proba_m1": proba, "proba_m2": 1 - proba, "bayes_factor": bayes_factor(proba), **scales}
        is_own = callable(self.change_fn) or self.m1_domain_fn is not None
        found = (
            self._changes(pairs.values[pairs.first], pairs.values[pairs.second])
            if is_own
            else pairs.each(self._changes)
        )
        proba = found.pop("proba_de")
        return {"proba_de": proba, "proba_not_de": 1 - proba, "bayes_factor": bayes_factor(proba), **scales, **found}

    def _changes(self, a: npt.NDArray, b: npt.NDArray) -> Columns:
        """Of pairs of frequencies, twice (m, g)."""
        delta = 0.5 if self.delta is None else self.delta
        change = np.asarray(_called("change_fn", self.change_fn if callable(self.change_fn) else log_fold, a, b))
        large = np.asarray(_called("m1_domain_fn", self.m1_domain_fn or (lambda r: np.abs(r) >= delta), change))
        found = {
            f"lfc_{name}": values for name, values in described(change, tuple(self.cred_interval_lvls or ())).items()
        }
        return {"proba_de": share(large, change), **found}


def _n_positional(function: Callable[..., Any]) -> int:
    """How many positional arguments without a default a function has."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return sum(p.kind in kinds and p.default is inspect.Parameter.empty for p in parameters)


def _called(name: str, function: Callable[..., Any], *arrays: npt.NDArray) -> Any:
    try:
        return function(*arrays)
    except TypeError as error:
        shapes = " and ".join(str(array.shape) for array in arrays)
        raise TypeError(f"{name} cannot be called with arrays of shape {shapes} (draws, genes): {error}") from error


# ---- how it is answered ----------------------------------------------------------------------------------------------


def decoded_of(
    self: Posterior, groups: Groups, batches: Batches, n: int, options: dict[str, Any]
) -> tuple[PoolDraws, npt.NDArray[np.float32], np.random.Generator]:
    """`n` draws of every pool of cells, each decoded once; what is decoded; and what else is to draw from."""
    rng = rng_of_torch()
    draws = PoolDraws.of(groups, n, batches, rng)
    return draws, decoded(self.model, reader(self), draws.draws, self._scale_values(**options), rng), rng


def answers_of(self: Posterior, groups: Groups, question: Question, options: dict[str, Any]) -> list[Columns]:
    """What the model says of each comparison."""
    batches = question.codes(self)
    n_batches = max(len(codes or [0]) for codes in batches)
    n = draws_a_batch(question.n_samples, n_batches) * n_batches
    draws, scales, rng = decoded_of(self, groups, batches, n, options)
    return [question.answer(Pairs(scales, *question.rows(draws, comparison, rng))) for comparison in groups.comparisons]


def tables_of(
    self: Posterior, groups: Groups, question: Question, all_stats: bool, options: dict[str, Any]
) -> list[pd.DataFrame]:
    """A table for each comparison, the surest gene first."""
    chosen = slice(None) if options.get("gene_list") is None else self._gene_positions(options["gene_list"])
    answers = answers_of(self, groups, question, options)
    if all_stats:
        stats = counts_of(self, groups)
        answers = [
            answer | {name: values[chosen] for name, values in stat.items()}
            for answer, stat in zip(answers, stats, strict=True)
        ]
    by = "bayes_factor" if question.mode == "vanilla" else "proba_de"
    names = feature_names(self)[chosen]
    return [pd.DataFrame(answer, index=names).sort_values(by, ascending=False, kind="stable") for answer in answers]


def counts_of(self: Posterior, groups: Groups) -> list[Columns]:
    """What was counted, relative to the mean count of the cell, for each comparison; NaN of proteins."""
    minibatches = self.gene_dataset.cell_data().minibatches(groups.members, _CELLS_AT_ONCE)
    counts = group_counts(minibatches, groups)
    found = [counts.summary(comparison, counts.n_genes) for comparison in groups.comparisons]
    n = len(feature_names(self))
    for answer in found:
        for side in (1, 2):
            answer[f"raw_normalized_mean{side}"][counts.n_genes :] = np.nan
    return [{name: values[:n] for name, values in answer.items()} for answer in found]


def scale_values(self: Posterior, gene_list: Sequence[str] | None = None, library_size: float = 1) -> Values:
    """What is compared, with the arguments of :meth:`get_sample_scale`: expected frequencies."""
    genes = slice(None) if gene_list is None else self._gene_positions(gene_list)
    return lambda found: found.genes.expected(library_size)[:, genes]


def scale_values_of_proteins(
    self: Posterior,
    eps: float = 0.5,
    normalize_pro: bool = False,
    sample_bern: bool = True,
    include_bg: bool = False,
) -> Values:
    """The same of genes and proteins."""
    value = ProteinValue(include_background=include_bg, sample_mixing=sample_bern, scale=normalize_pro)

    def both(found: Decoded) -> Tensor:
        return torch.cat([found.genes.scale, found.proteins.expected(value) + eps], dim=-1)

    return both


# ---- cells, batches and names ----------------------------------------------------------------------------------------


def rng_of_torch() -> np.random.Generator:
    """Follows torch's global generator."""
    return np.random.default_rng(int(torch.randint(2**62, ())))


def reader(self: Posterior) -> Read:
    from scvi.inference.posterior import SequentialSubsetSampler

    asked = self._asked()
    return lambda cells: asked.update({"sampler": SequentialSubsetSampler(cells)}).minibatches()  # type: ignore[arg-type]


def feature_names(self: Posterior) -> npt.NDArray[Any]:
    """Of the genes, and of the proteins after them where the posterior has some."""
    return np.concatenate([self.gene_dataset.cell_data().gene_names, self._protein_names])


def positions_in(self: Posterior, name: str, cells: Cells) -> npt.NDArray[np.int64]:
    positions = self.gene_dataset.cell_data().positions(np.ravel(cells), name)
    if len(positions) == 0:
        raise ValueError(f"{name} chooses no cell")
    return positions


def mask_of(self: Posterior, name: str, cells: Cells) -> npt.NDArray[np.bool_]:
    mask = np.zeros(self.gene_dataset.nb_cells, dtype=bool)
    mask[positions_in(self, name, cells)] = True
    return mask


def two_groups(self: Posterior, idx1: Cells, idx2: Cells) -> Groups:
    return Groups.of_masks([("1", mask_of(self, "idx1", idx1), "2", mask_of(self, "idx2", idx2))])


def subset_mask(self: Posterior, subset: Cells | None) -> npt.NDArray[np.bool_]:
    return np.ones(self.gene_dataset.nb_cells, dtype=bool) if subset is None else mask_of(self, "subset", subset)


def of_each_cell(self: Posterior, name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    """(n,) what is given for each cell of the data set."""
    array = np.asarray(values).ravel()
    if len(array) != self.gene_dataset.nb_cells:
        raise ValueError(f"{name} has {len(array)} values for the {self.gene_dataset.nb_cells} cells of the data set")
    return array


def clusters_of(self: Posterior, cell_labels: npt.ArrayLike | None) -> list[tuple[Any, npt.NDArray[np.bool_]]]:
    """Names and masks of the clusters."""
    if cell_labels is not None:
        labels = of_each_cell(self, "cell_labels", cell_labels)
        known = labels[labels >= 0] if labels.dtype.kind in "iuf" else labels
        return [(value, labels == value) for value in np.unique(known).tolist()]
    if self.gene_dataset.cell_types is None:
        raise ValueError("the data set has no cell_types: pass cell_labels, the cluster of each cell")
    labels = self.gene_dataset.labels.ravel()
    return [(name, labels == code) for code, name in enumerate(self.gene_dataset.cell_types)]


def batch_codes(self: Posterior, ids: BatchIds, use_observed_batches: bool) -> list[int] | None:
    """Codes of the batches to decode in; None: each cell's own."""
    if use_observed_batches:
        if ids is not None:
            raise AssertionError("Unconsistent batch policy: use_observed_batches=True leaves no batch ids to choose")
        return None
    every = range(max(self.gene_dataset.n_batches or 1, 1))
    return list(every) if ids is None else self._batch_codes(np.ravel(ids).tolist())


def draws_a_batch(n_samples: int, n_batches: int) -> int:
    """Draws that are decoded in each batch."""
    check_draws("n_samples", n_samples)
    if n_samples < n_batches:
        warn(f"n_samples={n_samples} are fewer than the {n_batches} batches: 2 draws of each are taken")
        return 2
    return n_samples // n_batches

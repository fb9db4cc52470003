"""Differential expression, a question of most estimators: one table for all comparisons, genes and comparisons as rows.

Groups are resolved once, as :class:`scvi.queries.groups.Groups`; what is said of each comparison is a dict of columns,
whatever says it; and the table is put together of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi._checks import check_choice, check_flag, check_integer, check_number, is_number
from scvi._random import resolve_seed
from scvi.cells.cell_data import CellData
from scvi.estimators.base import Estimator
from scvi.estimators.cells import codes_among
from scvi.estimators.count_columns import Counted
from scvi.estimators.groups import Chosen, compared
from scvi.estimators.outliers import without_outliers
from scvi.models.decoded import Decoded
from scvi.queries.decoded_draws import Values
from scvi.queries.differential import Mode, Wish, compare
from scvi.queries.evidence import expected_fdr
from scvi.queries.groups import GroupCounts, Groups, group_counts
from scvi.queries.tested_counts import CountTests

Batches = str | int | Sequence[str | int] | None
Answers = list[dict[str, np.ndarray]]
"""Columns (f,) by name, of each comparison."""

_N_WEIGHED = 100  # draws of a cell, of which those that are compared are drawn by weight
_CELLS_AT_ONCE = 512  # of which counts are added up: so few stay in a cache


def differential_expression(
    self: Estimator,
    adata: AnnData | None = None,
    groupby: str | None = None,
    group1: str | Sequence[str] | None = None,
    group2: str | None = None,
    idx1: Chosen = None,
    idx2: Chosen = None,
    mode: Mode = "change",
    delta: float | None = 0.25,
    batch_size: int | None = None,
    all_stats: bool = True,
    batch_correction: bool = False,
    batchid1: Batches = None,
    batchid2: Batches = None,
    fdr_target: float | Sequence[float] = 0.05,
    silent: bool = True,
    weights: Literal["uniform", "importance"] | None = "uniform",
    filter_outlier_cells: bool = False,
    *,
    n_samples: int = 5000,
    pseudocounts: float | None = None,
    cred_interval_lvls: Sequence[float] | None = None,
    strata: str | Sequence[str] | None = None,
    sample_key: str | None = None,
    pseudobulk: bool = False,
    seed: int | None = None,
) -> pd.DataFrame:
    """Which genes differ between groups of cells: as the model sees it, in the counts, and beyond the model.

    Cells of both groups are drawn at random and decoded at draws of their latent state; draw is compared with draw.
    Beside this stand a test of the counts, given library sizes and batches (``lfc_data``, ``p_value``, ``p_adjusted``),
    and one of what they have beyond the model's expectation of each cell (``lfc_residual``, ``p_residual``). The page
    on differential expression says which column answers which question.

    Parameters
    ----------
    groupby
        Column of ``adata.obs`` with the groups.
    group1
        One category or several; None: each category.
    group2
        The category to compare with; None: all other cells.
    idx1, idx2
        In place of categories the cells themselves: a mask, positions, names, or a query of ``adata.obs`` such as
        ``"cell_type == 'B'"``. Without `idx2` the others are all cells that are not in `idx1`.
    mode
        'change': the probability that the absolute log2 fold change is at least `delta`. 'vanilla': the probability
        that the first group has more.
    delta
        None: estimated of the genes that move least, for each comparison.
    all_stats
        Say what was counted in the groups, and test it.
    batch_correction
        Decode every cell in the same batches, `batchid1` for the first group and `batchid2` for the second (None: all
        batches of the model), and compare draws of the same batch where these are the same; False: each cell in its
        own batch.
    fdr_target
        Expected share of false calls, or several: each has a column ``is_de_fdr_...`` in mode 'change'.
    silent
        Taken for scripts that pass it: questions show no progress.
    weights
        'uniform' (and None) draws from the variational posterior of each cell; 'importance' corrects it towards the
        true posterior, by 100 draws of each cell that are weighed. It needs counts, and time.
    filter_outlier_cells
        Leave out the tenth of the cells of each group that lies furthest from its centre in the latent space.
    n_samples
        Draws of each group. In a one-vs-rest all groups are decoded once, ``n_samples`` x groups x genes numbers.
    pseudocounts
        Added to expected frequencies before their logarithm; None: estimated, for each comparison, as what one count
        would be in the group that has fewer, or what the model gives to genes without counts if that is more.
    cred_interval_lvls
        Levels of credible intervals of the fold change.
    strata
        One column of ``adata.obs`` or several, within which counts are compared; None: the batches of the model; an
        empty list: nothing.
    sample_key
        Column of ``adata.obs`` with the samples (donors, animals), which then are the unit of tests of the counts:
        cells of one sample are not replicates of a treatment.
    pseudobulk
        Test sums of counts by sample with PyDESeq2, too.

    Returns
    -------
    A row for each gene and comparison, the surest first; the columns are those of the page on differential expression
    """
    asked = Asked(batch_size, all_stats, fdr_target, seed)
    wish = wish_of(mode, delta, pseudocounts, n_samples, cred_interval_lvls, silent, weights)
    data, groups = groups_of(self, adata, groupby, group1, group2, idx1, idx2)
    if check_flag("filter_outlier_cells", filter_outlier_cells):
        groups = without_outliers(self, data, groups, batch_size)
    batches = batches_of(self, batch_correction, batchid1, batchid2)
    counted = Counted(strata, sample_key, pseudobulk)
    answers = answers_of(self, adata, data, groups, wish, batches, asked, counted, _scale)
    return table_of(groups, answers, np.array(self.schema.genes, dtype=object), asked.targets)


@dataclass(frozen=True)
class Asked:
    """What is asked beside who is compared, and how."""

    batch_size: int | None
    all_stats: bool
    fdr_target: float | Sequence[float]
    seed: int | None

    def __post_init__(self) -> None:
        check_flag("all_stats", self.all_stats)
        for target in self.targets:
            if not (is_number(target) and 0 < target < 1):
                raise ValueError(f"fdr_target={target!r} is not between 0 and 1")

    @property
    def targets(self) -> list[float]:
        return [self.fdr_target] if np.isscalar(self.fdr_target) else list(self.fdr_target)  # type: ignore[arg-type, list-item]


def wish_of(
    mode: Mode,
    delta: float | None,
    pseudocounts: float | None,
    n_samples: int,
    levels: Sequence[float] | None,
    silent: bool,
    weights: str | None = None,
) -> Wish:
    check_choice("mode", mode, ("change", "vanilla"))
    check_flag("silent", silent)
    if delta is not None:
        check_number("delta", delta, "a number from 0 on, or None", least=0)
    if pseudocounts is not None:
        check_number("pseudocounts", pseudocounts, "a number from 0 on, or None", least=0)
    if weights is not None:
        check_choice("weights", weights, ("uniform", "importance"))
    n_weighed = _N_WEIGHED if weights == "importance" else None
    shares = _checked_levels(mode, levels)
    return Wish(mode, delta, pseudocounts, check_integer("n_samples", n_samples, 1), shares, n_weighed)


def _checked_levels(mode: Mode, levels: Sequence[float] | None) -> tuple[float, ...]:
    """Levels of credible intervals of a fold change, which mode 'vanilla' does not look at."""
    shares = () if levels is None else tuple(levels)
    if shares and mode == "vanilla":
        raise ValueError(f"cred_interval_lvls={levels!r} is about fold changes: ask in mode='change'")
    for share in shares:
        if not (is_number(share) and 0 < share < 1):
            raise ValueError(f"cred_interval_lvls={levels!r} has {share!r}, which is not between 0 and 1")
    return shares


def groups_of(self: Estimator, adata: AnnData | None, *who: Any) -> tuple[CellData, Groups]:
    """The cells that are asked about, and which of them are compared."""
    data, _ = self._choose(adata, None, needs_counts=False)
    obs = (self.adata if adata is None else adata).obs  # type: ignore[union-attr]  # there is one, or it was refused
    return data, compared(data, obs, *who)


def batches_of(self: Estimator, correct: bool, *named: Batches) -> tuple[list[int] | None, list[int] | None]:
    """Codes of the batches to decode both groups in; None: each cell's own."""
    if not check_flag("batch_correction", correct):
        for number, names in enumerate(named, start=1):
            if names is not None:
                raise ValueError(f"batchid{number}={names!r} needs batch_correction=True, without which it has no use")
        return None, None
    known = self.schema.batch_names
    codes = [
        codes_among(known if names is None else names, known, f"batchid{number}={{!r}} is not a batch").tolist()
        for number, names in enumerate(named, start=1)
    ]
    for number, found in enumerate(codes, start=1):
        if not found:
            raise ValueError(f"batchid{number} is an empty list; None decodes in all batches")
    return codes[0], codes[1]


def answers_of(
    self: Estimator,
    adata: AnnData | None,
    data: CellData,
    groups: Groups,
    wish: Wish,
    batches: tuple[list[int] | None, list[int] | None],
    asked: Asked,
    counted: Counted,
    values: Values,
) -> Answers:
    """What the model says of each comparison, what was counted, and what tests of it say."""
    counts, columns = None, None
    if data.kept is not None:
        counted.refuse_if_asked("these cells are minified, so that their counts are gone")
    elif asked.all_stats:
        counts, columns = _tested_counts(self, adata, data, groups, counted)
    else:
        counted.refuse_if_asked("all_stats=False leaves these out")
        counts = group_counts(data.minibatches(groups.members, _CELLS_AT_ONCE), groups)
    rng = np.random.default_rng([resolve_seed(asked.seed), 3])
    read = partial(self._minibatches, data, batch_size=asked.batch_size)
    answers = compare(self.module, read, values, groups, wish, rng, batches, counts)
    if counts is None or columns is None:
        return answers
    parts = zip(answers, groups.comparisons, columns, strict=True)
    return [answer | counts.summary(comparison) | tested for answer, comparison, tested in parts]


def _tested_counts(
    self: Estimator, adata: AnnData | None, data: CellData, groups: Groups, counted: Counted
) -> tuple[GroupCounts, Answers]:
    """What was counted, and columns of the tests, of one pass over the cells."""
    obs = (self.adata if adata is None else adata).obs  # type: ignore[union-attr]  # there is one, or it was refused
    tests = CountTests(self.module, groups.codes, counted.units(data, self.schema, obs, groups))
    minibatches = self._minibatches(data, groups.members, _CELLS_AT_ONCE)
    counts = group_counts(tests.noted(minibatches), groups)
    return counts, counted.answers(tests, groups)


def _scale(decoded: Decoded) -> Any:
    return decoded.genes.scale


def table_of(groups: Groups, answers: Answers, names: np.ndarray, targets: Sequence[float]) -> pd.DataFrame:
    """One row for each feature and comparison, in each comparison the surest first."""
    tables = []
    for comparison, answer in zip(groups.comparisons, answers, strict=True):
        columns: dict[str, Any] = dict(answer)
        if "proba_de" in answer:
            # no mean over surer genes calls what is out of the question, or what is not known
            fdr = expected_fdr(np.where(answer["proba_de"] > 0, answer["proba_de"], np.nan))
            columns |= {f"is_de_fdr_{target}": fdr <= target for target in targets}
        columns |= {"comparison": comparison.name, "group1": comparison.group1, "group2": comparison.group2}
        table = pd.DataFrame(columns, index=pd.Index(names))
        by = "proba_de" if "proba_de" in answer else "bayes_factor"
        tables.append(table.sort_values(by, ascending=False, kind="stable"))
    return pd.concat(tables)

"""Differential expression under the names of 2020: functions of a posterior, which its class takes over by name.

Groups are positions of cells in the data set, or masks. What is drawn follows torch's global generator.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from scvi._checks import check_draws
from scvi._warnings import warn
from scvi.inference.comparing import save_cluster_xlsx
from scvi.inference.group_questions import (
    BatchIds,
    Cells,
    Columns,
    Mode,
    Question,
    answers_of,
    batch_codes,
    clusters_of,
    draws_a_batch,
    of_each_cell,
    positions_in,
    reader,
    rng_of_torch,
    subset_mask,
    tables_of,
    two_groups,
)
from scvi.inference.score_of_2019 import score_of_2019
from scvi.queries.decoded_draws import Draws, decoded, drawn_cells
from scvi.queries.groups import Groups

if TYPE_CHECKING:
    from scvi.inference.posterior import Posterior


def scale_sampler(
    self: Posterior,
    selection: Cells,
    n_samples: int | None = 5000,
    n_samples_per_cell: int | None = None,
    batchid: BatchIds = None,
    use_observed_batches: bool = False,
    give_mean: bool = False,
    **kwargs: Any,
) -> dict[str, npt.NDArray[Any]]:
    """Expected frequencies at posterior draws of cells that are drawn from a selection, each as often as any other.

    Parameters
    ----------
    selection
        Positions of cells in the data set, or a mask.
    n_samples
        Draws in all, shared by the batches.
    n_samples_per_cell
        In place of `n_samples`, which is None then: draws for each cell of the selection.
    batchid
        Codes of the batches to decode in; None: all.
    use_observed_batches
        Decode each cell in its own batch.
    give_mean
        Average over the draws.
    **kwargs
        Of :meth:`get_sample_scale`: `gene_list`, `library_size`; of a `TotalPosterior` `eps`, `normalize_pro`,
        `sample_bern`, `include_bg`.

    Returns
    -------
    dict
        'scale': (s, g), or (g,) of means; 'batch': (s,) codes of batches, NaN where they are the observed ones
    """
    if selection is None:
        raise ValueError("selection=None: pass positions of cells, or a mask")
    cells = positions_in(self, "selection", selection)
    batches = batch_codes(self, batchid, use_observed_batches)
    if n_samples is not None and n_samples_per_cell is not None:
        warn("n_samples and n_samples_per_cell are both given: n_samples it is. Pass n_samples=None for the other")
    elif n_samples is None:
        n_samples = 5000 if n_samples_per_cell is None else len(cells) * n_samples_per_cell
    n = draws_a_batch(n_samples, len(batches or [0]))
    rng = rng_of_torch()
    parts = [
        Draws(drawn_cells(cells, n, rng), None if batches is None else np.full(n, code)) for code in batches or [0]
    ]
    draws = Draws.joined(parts)
    scale = decoded(self.model, reader(self), draws, self._scale_values(**kwargs), rng)
    codes = np.full(len(scale), np.nan) if draws.batches is None else draws.batches
    return {"scale": scale.mean(axis=0) if give_mean else scale, "batch": codes}


def get_bayes_factors(
    self: Posterior,
    idx1: Cells,
    idx2: Cells,
    mode: Mode = "vanilla",
    batchid1: BatchIds = None,
    batchid2: BatchIds = None,
    use_observed_batches: bool = False,
    n_samples: int = 5000,
    use_permutation: bool = False,
    M_permutation: int = 10000,
    change_fn: Callable[..., Any] | str | None = None,
    m1_domain_fn: Callable[..., Any] | None = None,
    delta: float | None = 0.5,
    cred_interval_lvls: Sequence[float] | None = None,
    **kwargs: Any,
) -> Columns:
    """Whether a gene differs between two groups of cells, as the model sees it.

    Parameters
    ----------
    idx1, idx2
        Cells of the two groups.
    mode
        'vanilla': is the first larger? 'change': does the change lie in the domain of `m1_domain_fn`?
    batchid1, batchid2
        Codes of the batches to decode each group in; None: all. Where they are the same, only draws of the same batch
        are compared.
    use_observed_batches
        Decode each cell in its own batch.
    n_samples
        Draws of each group.
    use_permutation, M_permutation
        Draw so many pairs at random; otherwise each draw is compared with one other.
    change_fn
        The change between two arrays of frequencies (m, g), 'log-fold' (or None) for log2 fold changes, in which
        a frequency of 0 counts as the least float32.
    m1_domain_fn
        Whether changes (m, g) are large; None: at least `delta` in absolute value, 0.5 if that is None.
    cred_interval_lvls
        Levels of credible intervals of the change.
    **kwargs
        As of :meth:`scale_sampler`.

    Returns
    -------
    dict
        (g,) 'proba_m1', 'proba_m2', 'bayes_factor' (a natural logarithm), 'scale1', 'scale2'; in mode 'change'
        'proba_de', 'proba_not_de', 'bayes_factor', the scales, and of the change 'lfc_mean', '_median', '_std', '_min',
        '_max', and '_confidence_interval_LEVEL_min' and '_max'
    """
    question = Question.of(locals())
    return answers_of(self, two_groups(self, idx1, idx2), question, kwargs)[0]


def differential_expression_score(
    self: Posterior,
    idx1: Cells,
    idx2: Cells,
    mode: Mode = "vanilla",
    batchid1: BatchIds = None,
    batchid2: BatchIds = None,
    use_observed_batches: bool = False,
    n_samples: int = 5000,
    use_permutation: bool = False,
    M_permutation: int = 10000,
    all_stats: bool = True,
    change_fn: Callable[..., Any] | str | None = None,
    m1_domain_fn: Callable[..., Any] | None = None,
    delta: float | None = 0.5,
    cred_interval_lvls: Sequence[float] | None = None,
    **kwargs: Any,
) -> pd.DataFrame:
    """What :meth:`get_bayes_factors` says as a table, one row a gene, the surest first.

    Parameters
    ----------
    all_stats
        Add mean counts, shares of counts that are not zero, and mean counts relative to the mean count of the cell.
    **kwargs
        As of :meth:`scale_sampler`. With `genes` or `sample_pairs`, which release 0.5 had, the answer is that of
        :mod:`scvi.inference.score_of_2019`.
    """
    if not kwargs.keys().isdisjoint({"genes", "sample_pairs"}):
        return score_of_2019(self, idx1, idx2, batchid1, batchid2, n_samples, M_permutation, all_stats, **kwargs)
    question = Question.of(locals())
    return tables_of(self, two_groups(self, idx1, idx2), question, all_stats, kwargs)[0]


def score_with_permutation(
    self: Posterior,
    idx1: Cells,
    idx2: Cells,
    mode: Mode = "vanilla",
    batchid1: BatchIds = None,
    batchid2: BatchIds = None,
    use_observed_batches: bool = False,
    n_samples: int = 5000,
    use_permutation: bool = True,
    M_permutation: int = 10000,
    all_stats: bool = True,
    change_fn: Callable[..., Any] | str | None = None,
    m1_domain_fn: Callable[..., Any] | None = None,
    delta: float | None = 0.5,
    cred_interval_lvls: Sequence[float] | None = None,
    **kwargs: Any,
) -> pd.DataFrame:
    """As :meth:`scvi.inference.Posterior.differential_expression_score`, genes first and proteins after them.

    By default pairs are drawn. Proteins have no mean counts relative to the cell.
    """
    return differential_expression_score(
        self,
        idx1,
        idx2,
        mode,
        batchid1,
        batchid2,
        use_observed_batches,
        n_samples,
        use_permutation,
        M_permutation,
        all_stats,
        change_fn,
        m1_domain_fn,
        delta,
        cred_interval_lvls,
        **kwargs,
    )


def one_vs_all_degenes(
    self: Posterior,
    subset: Cells | None = None,
    cell_labels: npt.ArrayLike | None = None,
    use_observed_batches: bool = False,
    min_cells: int = 10,
    n_samples: int = 5000,
    use_permutation: bool = False,
    M_permutation: int = 10000,
    output_file: bool = False,
    mode: Mode = "vanilla",
    change_fn: Callable[..., Any] | str | None = None,
    m1_domain_fn: Callable[..., Any] | None = None,
    delta: float | None = 0.5,
    cred_interval_lvls: Sequence[float] | None = None,
    save_dir: str = "./",
    filename: str = "one2all",
    **kwargs: Any,
) -> tuple[list[pd.DataFrame], list[Any]]:
    """Each cluster of cells against all others, of which every cluster is decoded once.

    Parameters
    ----------
    subset
        Mask of the cells to look at; None: all.
    cell_labels
        (n,) clusters; cells with a negative one are of no cluster, but of the others. None: the labels of the data set.
    min_cells
        A cluster is left out unless it and the others have more cells.
    output_file, save_dir, filename
        Write a workbook, ``save_dir + "differential_expression.<filename>.xlsx"``, with a sheet for each cluster.

    Returns
    -------
    Tables as of :meth:`differential_expression_score` with a column "clusters", and the names of the clusters
    """
    question = Question.of(locals())
    inside = subset_mask(self, subset)
    pairs = [(name, mask & inside, "rest", ~mask & inside) for name, mask in clusters_of(self, cell_labels)]
    file = f"{save_dir}differential_expression.{filename}.xlsx" if output_file else None
    return _of_clusters(self, pairs, min_cells, question, file, kwargs)


def within_cluster_degenes(
    self: Posterior,
    states: npt.ArrayLike,
    cell_labels: npt.ArrayLike | None = None,
    min_cells: int = 10,
    batch1: BatchIds = None,
    batch2: BatchIds = None,
    use_observed_batches: bool = False,
    subset: Cells | None = None,
    n_samples: int = 5000,
    use_permutation: bool = False,
    M_permutation: int = 10000,
    mode: Mode = "vanilla",
    change_fn: Callable[..., Any] | str | None = None,
    m1_domain_fn: Callable[..., Any] | None = None,
    delta: float | None = 0.5,
    cred_interval_lvls: Sequence[float] | None = None,
    output_file: bool = False,
    save_dir: str = "./",
    filename: str = "within_cluster",
    **kwargs: Any,
) -> tuple[list[pd.DataFrame], list[Any]]:
    """In each cluster the cells in a state against those that are not; see :meth:`one_vs_all_degenes`.

    Parameters
    ----------
    states
        (n,) mask of the cells in the state.
    batch1, batch2
        Codes of the batches to decode both in, as `batchid1` and `batchid2` of :meth:`get_bayes_factors`.
    """
    question = Question.of({**locals(), "batchid1": batch1, "batchid2": batch2})
    inside, is_on = subset_mask(self, subset), of_each_cell(self, "states", states).astype(bool)
    pairs = [
        (name, mask & inside & is_on, "others", mask & inside & ~is_on) for name, mask in clusters_of(self, cell_labels)
    ]
    file = f"{save_dir}differential_expression.{filename}.xlsx" if output_file else None
    return _of_clusters(self, pairs, min_cells, question, file, kwargs)


def differential_expression_stats(
    self: Posterior, M_sampling: int = 100
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Deprecated: expected frequencies at `M_sampling` posterior draws of each cell, and labels.

    Returns
    -------
    (n * s, g) and (n * s,), draw after draw of the first cell, then of the second, in the order of `indices`
    """
    warnings.warn("differential_expression_stats is deprecated: use scale_sampler", DeprecationWarning, stacklevel=2)
    check_draws("M_sampling", M_sampling)
    cells = np.repeat(self.indices, M_sampling)
    scale = decoded(self.model, reader(self), Draws(cells), self._scale_values(), rng_of_torch())
    return scale, self.gene_dataset.labels.ravel()[cells].astype(np.int64)


def no_differential_expression_stats(self: Posterior, M_sampling: int = 100) -> None:
    """Not there for genes and proteins, as in 2020: NotImplementedError."""
    raise NotImplementedError("a TotalPosterior has no differential_expression_stats: use scale_sampler")


def _of_clusters(
    self: Posterior,
    pairs: list[tuple[Any, npt.NDArray[np.bool_], str, npt.NDArray[np.bool_]]],
    min_cells: int,
    question: Question,
    file: str | None,
    kwargs: dict[str, Any],
) -> tuple[list[pd.DataFrame], list[Any]]:
    """Tables of the clusters with enough cells on both sides, and their names."""
    kept = [pair for pair in pairs if pair[1].sum() > min_cells and pair[3].sum() > min_cells]
    names = [name for name, *_ in kept]
    if not kept:
        return [], []
    tables = tables_of(self, Groups.of_masks(kept), question, True, kwargs)
    tables = [table.assign(clusters=name) for name, table in zip(names, tables, strict=True)]
    if file is not None:
        save_cluster_xlsx(file, tables, names)
    return tables, names

"""The answer that differential expression had in release 0.5, for scripts with that release's arguments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from scvi._checks import check_draws
from scvi.inference.group_questions import (
    BatchIds,
    Cells,
    Question,
    counts_of,
    decoded_of,
    feature_names,
    two_groups,
)
from scvi.queries.differential import share
from scvi.queries.evidence import bayes_factor
from scvi.queries.pool_draws import Pairs, pair_rows

if TYPE_CHECKING:
    from scvi.inference.posterior import Posterior

_STATISTICS = {"raw_mean": "mean", "non_zeros_proportion": "nonz", "raw_normalized_mean": "norm_mean"}


def score_of_2019(
    self: Posterior,
    idx1: Cells,
    idx2: Cells,
    batchid1: BatchIds = None,
    batchid2: BatchIds = None,
    n_samples: int | None = None,
    M_permutation: int | None = None,
    all_stats: bool = True,
    genes: Sequence[str] | None = None,
    sample_pairs: bool = True,
) -> pd.DataFrame | npt.NDArray[np.float64]:
    """Log Bayes factors of "the first is not smaller", over pairs of draws whatever their batch.

    Parameters
    ----------
    n_samples
        Draws of each batch; None: 5000.
    genes
        Names; None: all.
    sample_pairs, M_permutation
        Draw so many pairs, 10000 unless given; otherwise each draw is compared with one other.

    Returns
    -------
    A table with bayes1 (first against second), bayes2 (the reverse), the same of pairs that are drawn from both groups
    together ("permuted"), mean counts, shares of counts that are not zero, normalised means and scales; or, without
    `all_stats`, the array of bayes1
    """
    n = 5000 if n_samples is None else n_samples
    check_draws("n_samples", n)
    question = Question(batchid1=batchid1, batchid2=batchid2)
    groups, batches = two_groups(self, idx1, idx2), question.codes(self)
    n_batches = max(len(codes or [0]) for codes in batches)
    options = {} if genes is None else {"gene_list": genes}
    draws, scales, rng = decoded_of(self, groups, batches, n * n_batches, options)
    (comparison,) = groups.comparisons
    first, second = draws.sides(comparison, rng)
    both = np.concatenate([first, second])
    n_pairs = (10000 if M_permutation is None else M_permutation) if sample_pairs else None

    def odds(a: npt.NDArray, b: npt.NDArray, n: int | None = n_pairs) -> npt.NDArray[np.float64]:
        pairs = Pairs(scales, *pair_rows(a, b, n, rng))
        return bayes_factor(pairs.each(lambda x, y: {"m1": share(x >= y, x)})["m1"])

    bayes1 = odds(first, second)
    if not all_stats:
        return bayes1
    chosen = slice(None) if genes is None else self._gene_positions(genes)
    statistics = counts_of(self, groups)[0]
    columns = {
        "bayes1": bayes1,
        "bayes1_permuted": odds(both, both, n_pairs or len(first)),
        "bayes2": odds(second, first),
        "bayes2_permuted": odds(both, both, n_pairs or len(first)),
        **{f"{new}{side}": statistics[f"{old}{side}"][chosen] for old, new in _STATISTICS.items() for side in (1, 2)},
        "scale1": scales[first].mean(axis=0),
        "scale2": scales[second].mean(axis=0),
    }
    table = pd.DataFrame(columns, index=feature_names(self)[chosen])
    return table.sort_values("bayes1", ascending=False, kind="stable")

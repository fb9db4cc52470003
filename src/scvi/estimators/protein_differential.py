"""Differential expression of genes and proteins: :mod:`scvi.estimators.differential` for a model of both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from scvi._checks import check_flag, check_number
from scvi._random import resolve_seed
from scvi.estimators.base import Estimator
from scvi.estimators.count_columns import Counted
from scvi.estimators.differential import Asked, Batches, answers_of, batches_of, groups_of, table_of, wish_of
from scvi.estimators.groups import Chosen
from scvi.models.decoded import Decoded, ProteinValue
from scvi.queries.differential import Mode


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
    protein_prior_count: float = 0.1,
    scale_protein: bool = False,
    sample_protein_mixing: bool = False,
    include_protein_background: bool = False,
    use_field: str | Sequence[str] | None = None,
    pseudocounts: float | None = 1e-5,
    *,
    n_samples: int = 5000,
    cred_interval_lvls: Sequence[float] | None = None,
    strata: str | Sequence[str] | None = None,
    sample_key: str | None = None,
    pseudobulk: bool = False,
    seed: int | None = None,
) -> pd.DataFrame:
    """Which genes and proteins differ between groups of cells: as the model sees it, in the counts, beyond the model.

    The arguments are those of :meth:`scvi.SCVI.differential_expression`, and some of proteins. Of a protein those cells
    are compared that measured it or, with `batch_correction`, those decoded in a batch that did; where a group has
    none, its row is NaN and it is not called.

    Parameters
    ----------
    protein_prior_count
        Added to the expected counts of proteins before their logarithm.
    scale_protein
        Divide proteins by their sum in the cell.
    sample_protein_mixing
        Draw whether a count is background instead of weighing by the probability.
    include_protein_background
        Compare expected counts with their background.
    use_field
        'rna' or 'protein' for rows of one kind; None: both.
    pseudocounts
        As of the genes, also added to proteins; None: estimated.

    Returns
    -------
    As of :meth:`scvi.SCVI.differential_expression`, a row for each gene, protein and comparison
    """
    asked = Asked(batch_size, all_stats, fdr_target, seed)
    wish = wish_of(mode, delta, pseudocounts, n_samples, cred_interval_lvls, silent)
    check_number("protein_prior_count", protein_prior_count, "a number from 0 on", least=0)
    value = ProteinValue(
        include_background=check_flag("include_protein_background", include_protein_background),
        sample_mixing=check_flag("sample_protein_mixing", sample_protein_mixing),
        scale=check_flag("scale_protein", scale_protein),
        hide_missing=True,
    )
    wanted = _fields(use_field)
    generator = self._generator(resolve_seed(asked.seed))

    def values(decoded: Decoded) -> Tensor:
        proteins = decoded.proteins.expected(value, generator) + protein_prior_count
        return torch.cat([decoded.genes.scale, proteins], dim=-1)

    data, groups = groups_of(self, adata, groupby, group1, group2, idx1, idx2)
    batches = batches_of(self, batch_correction, batchid1, batchid2)
    counted = Counted(strata, sample_key, pseudobulk)
    answers = answers_of(self, adata, data, groups, wish, batches, asked, counted, values)
    genes, proteins = self.schema.genes, self.schema.proteins.names  # type: ignore[union-attr]
    is_wanted = np.repeat([field in wanted for field in ("rna", "protein")], [len(genes), len(proteins)])
    kept = [{name: values[is_wanted] for name, values in answer.items()} for answer in answers]
    return table_of(groups, kept, np.array([*genes, *proteins], dtype=object)[is_wanted], asked.targets)


def _fields(use_field: str | Sequence[str] | None) -> list[str]:
    """'rna', 'protein' or both."""
    fields = ["rna", "protein"] if use_field is None else [use_field] if isinstance(use_field, str) else list(use_field)
    if not fields or not set(fields) <= {"rna", "protein"}:
        raise ValueError(f"use_field={use_field!r} is not 'rna', 'protein', or a list of these")
    return fields

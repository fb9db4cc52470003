"""Differential expression in the layout of scanpy's ``rank_genes_groups``, which scanpy plots and reads."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from scvi._checks import check_integer
from scvi.cells.checks import found, named
from scvi.queries.evidence import expected_fdr


def rank_genes_groups(
    adata: AnnData,
    tables: pd.DataFrame | Sequence[pd.DataFrame],
    groupby: str,
    *,
    n_genes: int | None = None,
    key_added: str = "rank_genes_groups_scvi",
) -> None:
    """Writes differential expression to ``adata.uns[key_added]`` as scanpy's function of this name does.

    Then ``sc.pl.rank_genes_groups(adata, key="rank_genes_groups_scvi")``, its dot plots and
    ``sc.get.rank_genes_groups_df`` show it. The genes of a group are sorted by their scores: in mode 'change' the
    probability of a change, with the sign of the change; in mode 'vanilla' the Bayes factor. Fold changes are medians,
    or in mode 'vanilla' the log2 ratio of the scales. P values are those of the table if it has some; else they are
    `proba_not_de` (in mode 'vanilla' `proba_m2`), and the adjusted ones the expected share of false calls among all
    genes at least as sure.

    Parameters
    ----------
    tables
        What `differential_expression` of an estimator returned, or the list of tables of ``one_vs_all_degenes``.
    groupby
        Column of ``adata.obs`` with the groups.
    n_genes
        Genes of each group; None: all.
    """
    table = tables if isinstance(tables, pd.DataFrame) else pd.concat(list(tables))
    if n_genes is not None:
        check_integer("n_genes", n_genes, 1)
    categories = {str(name) for name in found(adata.obs, "groupby", groupby, "a column of adata.obs").unique()}
    column = "group1" if "group1" in table else "clusters"
    groups = [str(name) for name in found(table, "tables", column, "a column of differential expression").unique()]
    unknown = sorted(set(groups) - categories)
    if unknown:
        raise ValueError(f"the tables have groups that are not in adata.obs[{groupby!r}]: {named(unknown)}")
    ranked = {group: _ranked(part).head(n_genes or len(part)) for group, part in _parts(table, column)}
    others = table["group2"].unique() if "group2" in table else ["rest"]
    reference = str(others[0]) if len(others) == 1 and others[0] != "Rest" else "rest"
    entry: dict[str, object] = {
        "params": {
            "groupby": groupby,
            "reference": reference,
            "method": "scvi",
            "use_raw": False,
            "layer": None,
            "corr_method": "expected false discovery rate",
        }
    }
    n = min(len(part) for part in ranked.values())
    for name in ("names", "scores", "logfoldchanges", "pvals", "pvals_adj"):
        entry[name] = np.rec.fromarrays(
            [part[name].to_numpy()[:n] for part in ranked.values()],
            dtype=[(group, "O" if name == "names" else "f4" if name in _SINGLE else "f8") for group in groups],
        )
    adata.uns[key_added] = entry


_SINGLE = ("scores", "logfoldchanges")  # what scanpy keeps in float32


def _parts(table: pd.DataFrame, column: str) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each group, in the order of the table."""
    return [(str(name), part) for name, part in table.groupby(column, sort=False, observed=True)]


def _ranked(part: pd.DataFrame) -> pd.DataFrame:
    """Names, scores, fold changes and p values of one group, the highest score first."""
    if part.index.has_duplicates:
        raise ValueError(
            "the tables compare a group with several others: keep the rows of one, as table['group2'] says"
        )
    if "proba_de" in part:
        changes, proba = part["lfc_median"], part["proba_de"]
        scores = proba * np.sign(changes)
    else:
        changes, proba = np.log2(part["scale1"] / part["scale2"]), part["proba_m1"]
        scores = part["bayes_factor"]
    p_values, adjusted = 1 - proba, pd.Series(expected_fdr(proba.to_numpy()), part.index)
    columns = {
        "names": part.index.astype(str),
        "scores": scores,
        "logfoldchanges": changes,
        "pvals": part.get("p_value", p_values),
        "pvals_adj": part.get("p_adjusted", adjusted),
    }
    ranked = pd.DataFrame(columns, index=part.index).dropna(subset=["scores"])
    return ranked.sort_values(["scores", "logfoldchanges"], ascending=False, kind="stable")

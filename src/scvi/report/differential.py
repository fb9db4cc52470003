"""Which genes differ between cell types: pictures of the surest, and a table of all that can be shown."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from scvi import plots
from scvi.report.blocks import Block, Picture, Pictures, Section, Text, Widget, counted, listed
from scvi.report.cells import Shown, Wish
from scvi.report.interactive import sortable
from scvi.report.pictures import picture

_MOST_GROUPS, _MOST_DRAWN, _MOST_ROWS = 20, 6, 2000
_MOST_NUMBERS, _MOST_DRAWS = 10**8, 2000  # numbers of draws x groups x genes that are held at once
_FEWEST = 10  # cells of a group
_COLUMNS = {
    "comparison": "comparison",
    "lfc_data": "log2 fold",
    "p_adjusted": "adjusted p",
    "lfc_mean": "log2 fold, model",
    "proba_de": "probability",
    "raw_mean1": "mean count",
    "raw_mean2": "mean, others",
}


def compared(model: Any, wish: Wish, looked_at: Shown, has_counts: bool) -> pd.DataFrame | None:
    """Each cell type against all other cells; None where there are no two."""
    assert looked_at.labels is not None
    assert wish.labels_key is not None
    counts = looked_at.labels.value_counts()
    groups = [str(name) for name in counts.index[counts >= _FEWEST][:_MOST_GROUPS]]
    if not groups or looked_at.labels.fillna("").nunique() < 2:
        return None
    adata = model.adata if wish.adata is None else wish.adata
    if len(looked_at.positions) < adata.n_obs:
        adata = adata[looked_at.positions]
    elif wish.adata is None:
        adata = None
    n_samples = int(np.clip(_MOST_NUMBERS // ((len(groups) + 1) * model.schema.n_genes), 50, _MOST_DRAWS))
    return model.differential_expression(
        adata,
        wish.labels_key,
        group1=groups,
        all_stats=has_counts,
        n_samples=n_samples,
        seed=wish.seed,
    )


def check_table(table: Any) -> None:
    """Refuses what is no answer of ``differential_expression``, before anything is computed."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(
            "differential_expression is to be the DataFrame that model.differential_expression gives, "
            f"got a {type(table).__name__}"
        )
    needed = ["comparison", *(("lfc_data",) if "p_adjusted" in table else ("lfc_mean", "proba_de"))]
    missing = [name for name in needed if name not in table]
    if missing:
        raise ValueError(
            f"differential_expression has no column {listed(missing)}, it has {listed(table.columns, 12)}: give what "
            "model.differential_expression gives"
        )


def differential(table: pd.DataFrame, with_pictures: bool) -> Section:
    """What a table of ``differential_expression`` says."""
    comparisons = list(dict.fromkeys(table["comparison"]))
    answer: Any = "data" if "p_adjusted" in table else "model"
    sure, how = ("p_adjusted", "adjusted p-values of the counts") if answer == "data" else ("proba_de", "probabilities")
    surest = table.sort_values(sure, ascending=answer == "data", kind="stable")
    each = max(_MOST_ROWS // max(len(comparisons), 1), 20)
    kept = surest.groupby("comparison", sort=False, observed=True).head(each)
    shown = kept[[name for name in _COLUMNS if name in kept]].rename(columns=_COLUMNS)
    n_all, called = len(table), _called(table, answer)
    text = (
        f"{counted(len(comparisons), 'comparison')}, by {how}. {called:,} of {n_all:,} genes and comparisons are "
        "called at a rate of false ones of 5 %. Cells of one sample are no replicates: for differences between "
        "conditions, ask differential_expression(sample_key=...)."
    )
    if len(shown) < n_all:
        text += f" The table has the {each} surest of each comparison."
    blocks: list[Block] = [Text(text)]
    if with_pictures:
        drawn = comparisons[:_MOST_DRAWN]
        blocks.append(Pictures([_volcano(table, name, answer) for name in drawn]))
        if len(drawn) < len(comparisons):
            blocks.append(Text(f"The first {len(drawn)} of {len(comparisons)} comparisons are drawn."))
    label = "Genes that differ: sort and filter"
    blocks.append(Widget("differential_expression", label, sortable(shown, "gene", by="comparison")))
    return Section("differential-expression", "Genes that differ", blocks)


def _called(table: pd.DataFrame, answer: str) -> int:
    if answer == "data":
        return int((table["p_adjusted"] < 0.05).sum())
    names = [name for name in table if str(name).startswith("is_de_fdr_")]
    return int(table[names[0]].sum()) if names else 0


def _volcano(table: pd.DataFrame, comparison: str, answer: Any) -> Picture:
    rows = table[table["comparison"] == comparison]
    first = ", ".join(str(name) for name in rows.index[:5])
    return picture(
        lambda ax: plots.volcano(rows, ax, comparison=comparison, answer=answer, n_names=5),
        f"Fold changes of genes against how sure they are, {comparison}; the surest are {first}.",
        size=(4.4, 3.8),
    )

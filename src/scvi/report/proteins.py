"""Foreground and background of proteins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from scvi import plots
from scvi.models.decoded import protein_counts
from scvi.report.blocks import Block, Section, Table, Text, Widget, counted, listed, number, percent
from scvi.report.cells import Shown, Wish
from scvi.report.interactive import sortable
from scvi.report.pictures import picture

_MOST_DRAWN = 40
_CLOSE = 2.0  # times the background: a foreground below it is hardly told apart
_UNSURE = (0.2, 0.8)


def by_protein(model: Any, wish: Wish, looked_at: Shown) -> pd.DataFrame:
    """Of each protein: share of cells in the foreground, mean counts of background and foreground, cells measured."""
    chosen = looked_at.positions[looked_at.scored]
    data, _ = model._choose(wish.adata, None)
    p = model.get_protein_foreground_probability(wish.adata, chosen, seed=wish.seed, return_numpy=True)
    x = np.concatenate([protein_counts(mb).cpu().numpy() for mb in model._minibatches(data, chosen, None)])
    there = np.isfinite(p)  # NaN where a batch did not measure a protein
    p, x = np.where(there, p, 0.0), np.where(there, x, 0.0)
    n = np.maximum(there.sum(0), 1)
    low = np.where(there, 1 - p, 0.0)
    unsure = there & (p > _UNSURE[0]) & (p < _UNSURE[1])
    table = {
        "share in the foreground": p.sum(0) / n,
        "foreground": (p * x).sum(0) / np.maximum(p.sum(0), 1e-9),
        "background": (low * x).sum(0) / np.maximum(low.sum(0), 1e-9),
        "unsure": unsure.sum(0) / n,
        "cells": there.sum(0).astype(np.float64),
    }
    return pd.DataFrame(table, index=list(model.schema.proteins.names))


def proteins(table: pd.DataFrame, n_cells: int, with_pictures: bool) -> Section:
    """How far the two are apart, protein by protein."""
    ratio = table["foreground"] / table["background"].clip(lower=1e-9)
    table = table.assign(ratio=ratio).sort_values("ratio", ascending=False, kind="stable")
    close = [str(name) for name, value in table["ratio"].items() if value < _CLOSE]
    text = (
        "A count of a protein is background, which every cell has, or foreground, which says that the cell has the "
        "protein. Means are of the counts as measured, weighed by the probability that the model gives to either; "
        f"unsure is the share of cells with a probability between {_UNSURE[0]:g} and {_UNSURE[1]:g}. "
        f"{counted(n_cells, 'cell')} were looked at."
    )
    blocks: list[Block] = [Text(text)]
    if with_pictures:
        few = table.head(_MOST_DRAWN)
        alt = f"Mean counts of background and foreground of {counted(len(few), 'protein')}; numbers in the table below."
        blocks.append(picture(lambda ax: plots.foreground(few, ax), alt, size=(5.6, 1.6 + 0.25 * len(few))))
    rows = [
        (
            str(name),
            percent(row["share in the foreground"]),
            number(row["background"]),
            number(row["foreground"]),
            number(row["ratio"]),
            percent(row["unsure"]),
            f"{row['cells']:,.0f}",
        )
        for name, row in table.iterrows()
    ]
    heads = ("protein", "cells in the foreground", "background", "foreground", "ratio", "unsure", "cells measured")
    if len(rows) <= _MOST_DRAWN:
        blocks.append(Table("Foreground and background by protein, mean counts", heads, rows))
    else:
        blocks.append(Widget("all_of_proteins", "All proteins: sort and filter", sortable(table, "protein")))
    hard = f"hard to tell from background: {listed(close, 8)}" if close else "all stand out from their background"
    return Section(
        "proteins",
        "Proteins: foreground and background",
        blocks,
        [("Which proteins stand out?", f"Of {len(table)} proteins {hard}.")],
    )

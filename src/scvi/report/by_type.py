"""Whether batches are mixed in each cell type, or one of them is not."""

from __future__ import annotations

import numpy as np
import pandas as pd

from scvi.queries.checks import FEWEST_OF_BATCH, mixing_within
from scvi.report.blocks import Block, Section, Table, Text, listed, percent
from scvi.report.cells import Shown
from scvi.report.space import beside_pca

_WELL, _BARELY = 0.6, 0.3  # mixing from which a type is mixed, as the verdict has it, and below which it is not
_MOST_NAMED = 8


def mixing_by_type(
    looked_at: Shown, types: pd.Series, note: str, seed: int, with_pictures: bool, what: str
) -> Section | None:
    """How mixed the batches are among the cells of each type alone; None where types are known in one batch at most.

    Parameters
    ----------
    types
        (n,) cell types, missing where none is known.
    note
        On where these are from.
    """
    assert looked_at.batch is not None
    of_scored = types.iloc[looked_at.scored]
    known = of_scored.notna().to_numpy()
    batch = looked_at.batch.iloc[looked_at.scored].to_numpy(dtype=object)[known]
    if len(set(batch)) < 2:
        return None
    spaces = {name: space[known] for name, space in looked_at.spaces.items()}
    table = mixing_within(spaces, batch, of_scored[known].to_numpy(dtype=str), np.random.default_rng([seed, 2]))
    scored = table[table["latent"].notna()].sort_values("latent")
    others = [(str(name), _why_not(row, what)) for name, row in table[table["latent"].isna()].iterrows()]
    plural = "batches" if what == "batch" else f"{what}s"
    text = (
        f"The same among the cells of each type alone: are the {plural} mixed within it? Where a type is in one {what} "
        f"only, or no two have {FEWEST_OF_BATCH} cells of it, there is nothing to mix, and no score. {note}"
    )
    blocks: list[Block] = [Text(text)]
    if len(scored):
        blocks += beside_pca(scored, "cell type", "Mixing by cell type", with_pictures)
    if others:
        blocks.append(Table("Cell types without a score", ("cell type", "why"), others, n_texts=2))
    answer = " ".join([*_by_level(scored["latent"]), *_by_reason(others)])
    title = f"Mixing of {plural} in each cell type"
    return Section("mixing-by-type", title, blocks, [(f"Are {plural} mixed in each cell type?", answer)])


def _why_not(row: pd.Series, what: str) -> str:
    """Why a type has no score."""
    if row["cells"] - row["elsewhere"] < FEWEST_OF_BATCH:
        return f"too few cells to say in every {what}"
    return f"only in {what} {row['batch']}" if row["elsewhere"] == 0 else f"too few cells outside {what} {row['batch']}"


def _by_level(shares: pd.Series) -> list[str]:
    """Sentences that name types with their shares, those that are not mixed first."""
    levels = {
        "Not mixed": shares < _BARELY,
        "Partly": shares.between(_BARELY, _WELL, inclusive="left"),
        "Mixed": shares >= _WELL,
    }
    return [
        f"{word}: {listed([f'{name} ({percent(share)})' for name, share in shares[rows].items()], _MOST_NAMED)}."
        for word, rows in levels.items()
        if rows.any()
    ]


def _by_reason(others: list[tuple[str, str]]) -> list[str]:
    """Sentences that name types without a score, by why they have none."""
    reasons = dict.fromkeys(why for _, why in others)
    return [
        f"{why[0].upper()}{why[1:]}: {listed([name for name, own in others if own == why], _MOST_NAMED)}."
        for why in reasons
    ]

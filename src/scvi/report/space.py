"""The latent space: a map of the cells, how well it mixes batches, and whether cells of one type lie together."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from scvi import plots
from scvi.plots.scores import short
from scvi.queries import clustering
from scvi.report.blocks import Block, Section, Table, Text, Widget, counted, listed, percent
from scvi.report.cells import Shown
from scvi.report.interactive import MOST_GROUPS, cell_map, n_drawn
from scvi.report.pictures import picture

_FEWEST = 10  # cells of a label, to say anything of their neighbours
_APART, _MIXED = 0.9, 0.7  # shares of neighbours of the same label from which, and below which, it is named
_MOST_DRAWN = 40
_TOLD = "The model was told these types, which brings their cells together: it does not show that they are right."


def umap(looked_at: Shown, seed: int) -> Section:
    """The cells on a plane, by any of the columns that are shown."""
    places = plots.umap(looked_at.latent, seed)
    n = len(places)
    columns = looked_at.columns or {"cells": pd.Series([f"all {n:,}"] * n)}
    by = f"by {', '.join(columns)}"
    text = (
        f"Each point is a cell; neighbours in the latent space are neighbours here. {looked_at.sampled}"
        "Distances between groups say little. Point at a cell to see what is known of it; untick a group to hide it."
    )
    drawn = n_drawn(n, len(columns))
    if drawn < n:
        text += f" So that the page stays small, {drawn:,} of them are drawn, at random."
    if any(values.nunique() > MOST_GROUPS for values in columns.values()):
        text += (
            f" Of columns with more than {MOST_GROUPS} values the rarest are one group; numbers are cut into intervals."
        )
    label = f"Map of {counted(drawn, 'cell')}: UMAP of the latent space, {by}"
    blocks: list[Block] = [Text(text), Widget("cell_map", label, cell_map(places, columns))]
    for name, values in list(columns.items())[:2]:
        shown = _few(values)
        alt = f"UMAP of the latent space, {counted(n, 'cell')}, coloured by {name} ({shown.nunique()} values)."
        blocks.append(_still(places, shown, name, alt))
    return Section("map", "The cells on a plane", blocks)


def _still(places: np.ndarray, values: pd.Series, name: str, alt: str) -> Any:
    return picture(lambda ax: plots.embedding(places, values, ax, title=name), alt, alt, size=(7.0, 4.6), only="print")


def _few(values: pd.Series) -> pd.Series:
    """A column as groups, the rarest of many as one."""
    from scvi.report.interactive import grouped

    groups = grouped(values)
    return pd.Series(pd.Categorical.from_codes(groups.codes.astype(np.int16), _distinct(short(groups.names))))


def _distinct(names: list[str]) -> list[str]:
    """Names of groups, told apart where two are the same."""
    return [name if names.index(name) == i else f"{name} ({i})" for i, name in enumerate(names)]


def mixing(looked_at: Shown, seed: int, with_pictures: bool, what: str) -> Section:
    """How mixed the neighbours of the cells of each batch are, beside principal components."""
    assert looked_at.batch is not None
    batch = looked_at.batch.iloc[looked_at.scored].to_numpy(dtype=object)
    latent, spaces = looked_at.latent[looked_at.scored], looked_at.spaces
    by_chance = max(clustering.batch_entropy(latent, np.random.default_rng([seed, 2]).permutation(batch)), 1e-9)
    entropies = {name: clustering.neighbourhood_entropy(space, batch) / by_chance for name, space in spaces.items()}
    table = pd.DataFrame({"cells": 1, **entropies}).groupby(batch, sort=False)
    shares = table.mean().assign(cells=table.size()).sort_values("latent")
    plural = "batches" if what == "batch" else f"{what}s"
    text = (
        f"How mixed the neighbourhoods of the cells of each {what} are, as a share of what shuffled ones would be: "
        f"100 % is perfectly mixed, 0 % means that all neighbours are of the same {what}. Where a {what} has cell "
        f"types that no other has, it should not be mixed. {counted(len(batch), 'cell')} were looked at."
    )
    blocks: list[Block] = [Text(text), *beside_pca(shares, what, f"Mixing by {what}", with_pictures)]
    first = shares.iloc[0]
    pca = f" (among principal components {percent(first['pca'])})" if "pca" in spaces else ""
    answer = f"{shares.index[0]}: its neighbourhoods are {percent(first['latent'])} as mixed as shuffled ones{pca}."
    return Section("mixing", f"Mixing of {plural}", blocks, [(f"Which {what} mixes worst?", answer)])


def beside_pca(shares: pd.DataFrame, what: str, title: str, with_pictures: bool) -> list[Block]:
    """A table of shares of groups in the latent space and among principal components, and its picture."""
    spaces = {"latent": "latent space", "pca": "PCA"}
    there = [space for space in spaces if space in shares]
    rows = [
        (str(name), f"{row['cells']:,.0f}", *(percent(row[space]) for space in there))
        for name, row in shares.iterrows()
    ]
    table = Table(f"{title}, the worst first", (what, "cells", *(spaces[space] for space in there)), rows)
    if not with_pictures or "pca" not in shares:
        return [table]
    few = shares.head(_MOST_DRAWN)
    alt = f"{title} in the latent space and among principal components, the worst first; numbers below."
    draw = partial(plots.beside_pca, few, xlabel=title.split()[0].lower())
    return [picture(draw, alt, size=(5.6, 1.6 + 0.3 * len(few))), table]


def purity(looked_at: Shown, labels_key: str, with_pictures: bool, told: bool) -> Section | None:
    """How many neighbours of the cells of each type are of their type; `told`: the model was fitted with the types."""
    assert looked_at.labels is not None
    labels = looked_at.labels.iloc[looked_at.scored]
    counts = labels.value_counts()
    known = labels.isin(counts.index[counts >= _FEWEST]).to_numpy()
    if labels[known].nunique() < 2:
        return None
    names, sizes = np.unique(labels[known].to_numpy(dtype=str), return_counts=True)
    spaces = {name: space[known] for name, space in looked_at.spaces.items()}
    found = {name: clustering.label_purity(space, labels[known].to_numpy(dtype=str)) for name, space in spaces.items()}
    shares = pd.DataFrame({"cells": sizes, **found}, index=names).sort_values("latent")
    text = (
        f"The share of the 30 nearest neighbours of a cell that are of its own type (obs[{labels_key!r}]): near 100 % "
        "the cells of this type lie together and apart from others. Low shares mean types that the data do not tell "
        "apart, or labels that are wrong. A type of few cells has low shares in any case; those of very few, and cells "
        f"without a label, are left out. {_TOLD if told else 'High ones support the annotation.'}"
    )
    blocks: list[Block] = [Text(text), *beside_pca(shares, labels_key, f"Purity by {labels_key}", with_pictures)]
    answer = _in_words(shares["latent"], shares["cells"]) + (f" {_TOLD}" if told else "")
    return Section("purity", "Do cells of one type lie together?", blocks, [("Do cell types lie together?", answer)])


def _in_words(shares: pd.Series, sizes: pd.Series) -> str:
    """Which types lie apart, and which are mixed with others; the purest first, then the least pure."""
    apart, mixed = shares[shares >= _APART][::-1], shares[shares < _MIXED]
    parts = [f"On average {percent(np.average(shares, weights=sizes))} of a cell's neighbours are of its type."]
    for said, some in ((f"{percent(_APART)} or more", apart), (f"Less than {percent(_MIXED)}", mixed)):
        if len(some):
            named = [f"{name} ({percent(share)})" for name, share in some.items()]
            parts.append(f"{said}: {listed(named, 8)}.")
    return " ".join(parts)

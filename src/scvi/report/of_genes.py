"""What a model says of genes alone: which are zero-inflated, and which make up the dimensions of a linear decoder."""

from __future__ import annotations

from typing import Any

import pandas as pd

from scvi.report.blocks import Section, Table, Text, Widget, counted, listed, percent
from scvi.report.interactive import sortable

_SURE, _MOST_ROWS, _NAMED = 0.5, 2000, 5


def zero_inflated(model: Any) -> Section | None:
    """Of an AUTOZI model, the genes with more zeros than counts explain; None where each entry has its own answer."""
    found = model.get_zero_inflation()
    if isinstance(found, pd.DataFrame) and list(found.index) != list(model.schema.genes):
        return None
    highest = found if isinstance(found, pd.Series) else found.max(axis=1)
    table = pd.DataFrame({"probability": highest.astype(float)}).sort_values("probability", ascending=False)
    called = table.index[table["probability"] > _SURE]
    where = "" if isinstance(found, pd.Series) else f" in one of {counted(found.shape[1], 'group')} at least"
    answer = f"{len(called):,} of {counted(len(table), 'gene')} ({percent(len(called) / len(table))}){where}"
    answer += f", first {listed(called[:_NAMED])}." if len(called) else "."
    text = (
        "The probability that a gene has more zeros than the noise of its counts explains. Genes above "
        f"{_SURE:g} are called zero-inflated."
    )
    label = "Zero inflation by gene: sort and filter"
    widget = Widget("zero_inflation", label, sortable(table.head(_MOST_ROWS), "gene"))
    title = "Zero-inflated genes"
    return Section("zero-inflation", title, [Text(text), widget], [("Which genes have too many zeros?", answer)])


def dimensions(model: Any) -> Section:
    """Of a LinearSCVI model, the genes that rise and fall most along each dimension."""
    loadings = model.get_loadings()
    rows = []
    for name, values in loadings.items():
        order = values.sort_values(kind="stable").index
        rows.append((str(name), listed(order[::-1][:_NAMED]), listed(order[:_NAMED])))
    text = (
        "Along each dimension of the latent space the log frequency of every gene changes by its loading. Named are "
        "the genes with the largest: what a dimension means is read from these."
    )
    table = Table("Genes of each dimension", ("dimension", "rise most", "fall most"), rows, n_texts=3)
    return Section("dimensions", "Genes of the dimensions", [Text(text), table])

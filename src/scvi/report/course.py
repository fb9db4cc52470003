"""Can the fit be trusted: verdicts, losses, counts beside draws, and the genes that are fitted worst."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from scvi import plots
from scvi.estimators.verdicts import FitCheck, Verdict, by_misfit
from scvi.plots.answers import PANELS
from scvi.queries.predictive_checks import Predictive
from scvi.report.blocks import Block, Picture, Pictures, Section, Table, Text, Verdicts, Widget, counted, listed, number
from scvi.report.interactive import sortable
from scvi.report.pictures import picture

_WORST = 10
_MOST_ROWS = 2000


def verdicts(found: FitCheck) -> Section:
    """What the check says, the most doubtful first."""
    levels = [verdict.level for verdict in found.verdicts]
    doubts = [verdict for verdict in found.verdicts if verdict.level != "good"]
    counts = ", ".join(f"{levels.count(level)} {level}" for level in ("bad", "doubtful", "good") if level in levels)
    blocks: list[Block] = [Text(f"This fit is {found.level}: {counts}."), Verdicts(found.verdicts)]
    if found.skipped:
        rows = [(name, why) for name, why in found.skipped.items()]
        blocks.append(Table("Not checked", ("check", "why"), rows, n_texts=2))
    first = f"Most doubtful: {listed([verdict.name for verdict in doubts])}." if doubts else "Nothing is in doubt."
    short = [("Can the fit be trusted?", f"It is {found.level} ({counts}). {first}"), *_convergence(found.verdicts)]
    return Section("verdicts", "Can the fit be trusted?", blocks, short)


def _convergence(all_of_them: tuple[Verdict, ...]) -> Iterator[tuple[str, str]]:
    words = {"good": "Yes", "doubtful": "Not quite", "bad": "No"}
    asked = {"convergence": "Did it converge?", "classifier": "Did the classifier converge?"}
    for verdict in sorted(all_of_them, key=lambda verdict: verdict.name != "convergence"):
        if verdict.name in asked:
            yield asked[verdict.name], f"{words[verdict.level]}: {verdict.says}."


_CURVES = {
    "elbo": "Loss (negative evidence lower bound), nats per cell: it falls, and should have become flat.",
    "classification_loss": "Loss of the classifier (cross-entropy of labelled cells), nats per cell: flat at the end. "
    "That of validation cells may rise a little; probabilities are calibrated afterwards.",
    "accuracy": "Share of labelled validation cells that the classifier calls right: flat at the end.",
}
_OF_WHOM = {"train": "training cells", "validation": "validation cells"}


def losses(model: Any, with_pictures: bool) -> Section:
    """The course of the fit, and of its classifier if it has one."""
    curves = {
        what: {f"{what}_{part}": part for part in _OF_WHOM if f"{what}_{part}" in model.history} for what in _CURVES
    }
    ends = [
        (
            what.replace("elbo", "loss (negative ELBO)").replace("_", " "),
            _OF_WHOM[part],
            *(number(model.history[name].iloc[i, 0], 4) for i in (0, -1)),
        )
        for what, names in curves.items()
        for name, part in names.items()
    ]
    caption = "Losses, nats per cell" + (", and accuracy, a share" if curves["accuracy"] else "")
    table = Table(caption, ("", "of", "first epoch", "last epoch"), ends, n_texts=2)
    drawn = {what: names for what, names in curves.items() if names and with_pictures}
    pictures = [_course(model.history, list(names), _CURVES[what]) for what, names in drawn.items()]
    return Section("losses", "Losses", [*([Pictures(pictures)] if pictures else []), table])


def _course(history: Mapping[str, pd.DataFrame], names: list[str], caption: str) -> Picture:
    ends = "; ".join(
        f"{name} from {number(history[name].iloc[0, 0], 4)} to {number(history[name].iloc[-1, 0], 4)}" for name in names
    )
    ylabel = "share of cells" if names == ["accuracy_validation"] else "nats per cell"
    return picture(
        lambda ax: plots.history(history, ax, names=names).set(ylabel=ylabel),
        f"By epoch: {ends}.",
        caption,
        size=(4.4, 3.4),
    )


def beside_draws(found: FitCheck, with_pictures: bool) -> Iterator[Section]:
    """Of each modality counts beside draws of the model."""
    for what, predictive in found.predictive.items():
        name = f"draws-{what.replace(' ', '-')}"
        intro = (
            "Counts of the same cells, as measured and as the fitted model draws them. If the model is true they are "
            f"alike: points lie on the line. {counted(len(predictive.cells), 'cell')} were looked at."
        )
        pictures = [_panel(predictive, what, panel) for panel in PANELS] if with_pictures else []
        blocks: list[Block] = [Text(intro), *([Pictures(pictures)] if pictures else [])]
        yield Section(name, f"Counts beside draws of the model: {what}", blocks)
        yield worst(predictive, what)


def _panel(found: Predictive, what: str, panel: Any) -> Picture:
    alt = {
        "mean and variance": f"Variance against mean of {what}, of counts and of draws.",
        "cv of features": f"Coefficients of variation of {what}: drawn against counted.",
        "cv of cells": f"Coefficients of variation of cells, over {what}: drawn against counted.",
        "zeros": f"Share of zeros of each of the {what}: drawn against counted.",
        "intervals": f"Shares of counts of {what} inside of intervals of the model, against what these promise.",
    }
    said = ""
    if panel == "intervals":
        pairs = found.intervals["covered"].items()
        said = " " + ", ".join(f"{100 * covered:.0f} % in {100 * level:.0f} %" for level, covered in pairs) + "."
    elif panel == "zeros":
        zeros, drawn = found.features[["zeros", "zeros_drawn"]].mean()
        said = f" On average {100 * zeros:.0f} % are counted and {100 * drawn:.0f} % drawn."
    return picture(lambda ax: plots.predictive(found, ax, panel=panel), alt[panel] + said, size=(3.6, 3.4))


def worst(found: Predictive, what: str) -> Section:
    """Features by how far the scatter of their counts is from that of draws."""
    ranked = by_misfit(found)
    columns = {
        "scatter": "spread",
        "mean": "mean",
        "mean drawn": "mean_drawn",
        "zeros": "zeros",
        "zeros drawn": "zeros_drawn",
    }
    table = pd.DataFrame({shown: ranked[name].astype(float) for shown, name in columns.items()}, index=ranked.index)
    rows = [(str(name), *(number(value) for value in row)) for name, row in table.head(_WORST).iterrows()]
    one = "protein" if what.endswith("proteins") else "gene"
    text = (
        "Scatter is how far counts are from what the model expects of each cell, beside the same of draws: 1 where the "
        f"noise is as large as the model says, less where counts are closer to it. First come {one}s whose scatter is "
        "furthest, up or down, from that of the middle one, for certain (in the median tenth of the cells, less two "
        "standard errors); those with too few counts to say are left out."
    )
    name = what.replace(" ", "-")
    if not len(table):
        return Section(f"worst-{name}", f"Worst-fitted {what}", [Text(f"No {one} has counts enough to say.")])
    blocks: list[Block] = [
        Text(text),
        Table(f"The {len(rows)} worst-fitted {what}", (one, *columns), rows),
        Widget(f"all_{name.replace('-', '_')}", f"All {what}: sort and filter", sortable(table.head(_MOST_ROWS), one)),
    ]
    first = [str(entry) for entry in table.index[:3]]
    scatter = ", ".join(number(value) for value in table["scatter"].iloc[:3])
    return Section(
        f"worst-{name}",
        f"Worst-fitted {what}",
        blocks,
        [
            (
                f"Which {what} fit worst?",
                f"{listed(first)}: their counts vary {scatter} times as much as the model says, those of the middle "
                f"{one} {number(table['scatter'].median())} times. {_how_sure(ranked['off'].iloc[:3])}",
            )
        ],
    )


def _how_sure(off: pd.Series) -> str:
    """Of the first features, which are off by a factor of two for certain."""
    sure = [str(name) for name in off.index[off > 1]]
    if not sure:
        return "None is off by a factor of two for certain: another seed may name others."
    return f"Off by a factor of two for certain: {listed(sure)}."

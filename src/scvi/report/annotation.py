"""How far the labels of a classifier can be trusted: confusions, calibration, and the cells that it is not sure of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from scvi import plots
from scvi.cells.categories import reads_as_unknown
from scvi.queries.calibration import calibration_error
from scvi.report.blocks import Block, Section, Table, Text, counted, listed, percent
from scvi.report.cells import Shown, Wish
from scvi.report.pictures import picture

ABSTAIN_BELOW = 0.5  # no label is more probable than all others together
_FEWEST, _FEWEST_OF_LABEL = 30, 10  # validation cells, and cells of a label, that say anything
_SURE, _FAIR = 0.9, 0.75
_SOME_CONFUSED = 0.05  # of the cells of a label, to name what they are taken for
_MOST_PAIRS = 20
_NORMAL_95 = 1.96
_HELD_OUT, _LEARNT = "held out of the fit", "that the classifier was trained on, so this flatters it"
_OTHERS = "given for this report, which flatters the classifier if it was trained on some of them"


@dataclass(frozen=True)
class Judged:
    """Predictions beside labels.

    Attributes
    ----------
    names
        (c,) of the labels.
    probabilities
        (n, c) of all cells that are shown.
    known
        (n,) codes of the given labels, -1 where there is none.
    rows
        Those of the n cells by which the classifier is judged.
    of_whom
        What these are, in words: whether it learnt from them.
    """

    names: list[str]
    probabilities: np.ndarray
    known: np.ndarray
    rows: np.ndarray
    of_whom: str

    @property
    def answers(self) -> np.ndarray:
        """(n,) codes of the most probable labels."""
        return self.probabilities.argmax(axis=1)

    @property
    def unsure(self) -> np.ndarray:
        """(n,) of which cells no label is probable."""
        return self.probabilities.max(axis=1) < ABSTAIN_BELOW


def judged(model: Any, wish: Wish, looked_at: Shown) -> Judged:
    """What a model with a classifier says of the cells that are shown."""
    probabilities = model.predict(wish.adata, looked_at.positions, soft=True)
    data, _ = model._choose(wish.adata, None, needs_counts=False)
    known = data.labels[looked_at.positions]
    labelled = known >= 0
    held_out = np.zeros(len(known), dtype=bool)
    if wish.adata is None and model.validation_indices is not None:
        held_out = np.isin(looked_at.positions, model.validation_indices) & labelled
    has_enough = held_out.sum() >= _FEWEST
    return Judged(
        list(probabilities.columns),
        probabilities.to_numpy(dtype=np.float64),
        known,
        np.flatnonzero(held_out if has_enough else labelled),
        _HELD_OUT if has_enough else _LEARNT if wish.adata is None else _OTHERS,
    )


def annotation(found: Judged, with_pictures: bool) -> Section:
    """Of each label, how often it is found, and how often it is right."""
    if not len(found.rows):
        return Section("annotation", "Can the annotation be trusted?", [Text("No cell has a label that is known.")])
    known, answers = found.known[found.rows], found.answers[found.rows]
    confused = _confusions(found)
    error = calibration_error(found.probabilities[found.rows], known)
    right = float(np.mean(known == answers))
    answer = f"The label is right in {percent(right)} of {counted(len(known), 'labelled cell')} {found.of_whom}."
    answer += _without_unknown(found.names, known, answers)
    table = _by_label(found, confused)
    blocks: list[Block] = [Text(f"{answer} {_CAPTION}"), Table("Trust by label", _HEADS, _rows(table), n_texts=2)]
    if with_pictures:
        blocks += _pictures(found, confused, error)
    blocks += [
        _pairs(confused),
        Text(
            f"Calibration error {error:.3f}: so far are probabilities from the share of right answers. "
            f"{int(found.unsure.sum()):,} of the {len(found.unsure):,} cells shown have no label with a probability of "
            f"{ABSTAIN_BELOW:g} or more: predict(abstain_below={ABSTAIN_BELOW:g}) abstains on these."
        ),
    ]
    short = [("Can the annotation be trusted?", f"{answer} {_in_words(table)}")]
    return Section("annotation", "Can the annotation be trusted?", blocks, short)


_HEADS = ("label", "to be trusted?", "cells judged", "found", "right when called", "called, of all shown", "not sure")
_CAPTION = (
    "Found: of the cells with this label, the share that is called so. Right when called: of the cells that are called "
    "so, the share that has this label; in brackets 95 % intervals. Not sure: the share of the cells that are called "
    f"so with a probability below {ABSTAIN_BELOW:g}."
)


def _without_unknown(names: list[str], known: np.ndarray, answers: np.ndarray) -> str:
    """What the share is without labels that read as if there were none."""
    odd = [name for name in names if reads_as_unknown(name)]
    if not odd:
        return ""
    kept = ~np.isin(known, [names.index(name) for name in odd])
    right = float(np.mean(known[kept] == answers[kept])) if kept.any() else float("nan")
    said = f"{listed(map(repr, odd))} reads as if the label were not known, and is judged as a type"
    return f" {said}; without it: {percent(right)}."


def _confusions(found: Judged) -> pd.DataFrame:
    n = len(found.names)
    pairs = found.known[found.rows] * n + found.answers[found.rows]
    counts = np.bincount(pairs, minlength=n * n).reshape(n, n)
    return pd.DataFrame(counts, index=found.names, columns=found.names)


def _by_label(found: Judged, confused: pd.DataFrame) -> pd.DataFrame:
    """A row for each label, with numbers of cells and a word on whether it can be trusted."""
    counts = confused.to_numpy()
    table = pd.DataFrame({"known": counts.sum(1), "called": counts.sum(0), "right": np.diag(counts)}, index=found.names)
    table["of_all"] = np.bincount(found.answers, minlength=len(found.names))
    table["unsure"] = np.bincount(found.answers[found.unsure], minlength=len(found.names))
    table["word"] = [_word(row, confused.loc[name], name) for name, row in table.iterrows()]
    order = {"no": 0, "wi": 1, "to": 2, "ye": 3}
    return table.sort_values("word", key=lambda words: words.str[:2].map(order), kind="stable")


def _word(row: pd.Series, taken_for: pd.Series, name: object) -> str:
    """Whether a label can be trusted."""
    if row["known"] < _FEWEST_OF_LABEL:
        return f"too few cells to say ({row['known']})"
    shares = row["right"] / row["known"], row["right"] / max(row["called"], 1)
    others = taken_for.drop(name).sort_values(ascending=False, kind="stable")
    often = len(others) and others.iloc[0] >= _SOME_CONFUSED * row["known"]
    confused = f", {percent(others.iloc[0] / row['known'])} are taken for {others.index[0]}" if often else ""
    if min(shares) >= _SURE:
        return f"yes{confused}"
    return f"{'with care' if min(shares) >= _FAIR else 'no'}{confused}"


def _rows(table: pd.DataFrame) -> list[tuple[str, ...]]:
    return [
        (
            str(name),
            row["word"],
            f"{row['known']:,}",
            _share(row["right"], row["known"]),
            _share(row["right"], row["called"]),
            f"{row['of_all']:,}",
            percent(row["unsure"] / row["of_all"]) if row["of_all"] else "–",
        )
        for name, row in table.iterrows()
    ]


def _share(part: float, whole: float) -> str:
    """A share with the interval that so many cells leave (Wilson 1927)."""
    if whole == 0:
        return "–"
    share, z2 = part / whole, _NORMAL_95**2
    centre = (share + z2 / (2 * whole)) / (1 + z2 / whole)
    half = _NORMAL_95 / (1 + z2 / whole) * np.sqrt(share * (1 - share) / whole + z2 / (4 * whole**2))
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return f"{100 * share:.0f} %\n({100 * low:.0f} to {100 * high:.0f})"


def _in_words(table: pd.DataFrame) -> str:
    parts = []
    for start, said in (("yes", "To be trusted"), ("with care", "With care"), ("no", "Not to be trusted")):
        names = [str(name) for name, word in table["word"].items() if word.startswith(start)]
        if names:
            parts.append(f"{said}: {listed(names, 12)}.")
    few = [
        f"{name} ({row['right']} of {row['known']} right)"
        for name, row in table.iterrows()
        if row["word"].startswith("too few")
    ]
    return " ".join([*parts, *([f"Too few labelled cells to say: {listed(few, 12)}."] if few else [])])


def _pairs(confused: pd.DataFrame) -> Table:
    """What is taken for what, the most cells first."""
    counts = confused.to_numpy()
    rows, columns = np.nonzero(counts * (1 - np.eye(len(counts), dtype=int)))
    order = np.argsort(-counts[rows, columns], kind="stable")[:_MOST_PAIRS]
    known = counts.sum(1)
    names = [str(name) for name in confused.columns]
    pairs = [
        (names[i], names[j], f"{counts[i, j]:,}", percent(counts[i, j] / known[i]))
        for i, j in zip(rows[order], columns[order], strict=True)
    ]
    more = f", the {_MOST_PAIRS} most frequent of {len(rows)}" if len(rows) > _MOST_PAIRS else ""
    caption = f"Confusions: which labels are taken for which{more}" if pairs else "Confusions: there are none"
    return Table(caption, ("known label", "is called", "cells", "of its cells"), pairs, n_texts=2)


def _pictures(found: Judged, confused: pd.DataFrame, error: float) -> list[Block]:
    side = 2.4 + 0.32 * len(confused)
    probabilities, labels = found.probabilities[found.rows], found.known[found.rows]
    return [
        picture(
            lambda ax: plots.confusion(confused, ax),
            "Which labels are taken for which; numbers are in the table below.",
            size=(min(side + 0.8, 9.0), min(side, 8.0)),
        ),
        picture(
            lambda ax: plots.calibration(probabilities, labels, ax),
            f"Share of right answers against the probability that was given; calibration error {error:.3f}.",
            "On the line the classifier can be taken at its word. Larger points are of more cells.",
            size=(4.4, 4.4),
        ),
    ]

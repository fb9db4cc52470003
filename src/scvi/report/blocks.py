"""What a page is made of: sections, and in them texts, tables, pictures and what can be sorted or switched."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from scvi.estimators.verdicts import Verdict


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Code:
    """Lines to type."""

    text: str
    label: str
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Table:
    """Rows of texts; all columns but the first `n_texts` are numbers, and stand to the right."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    n_texts: int = 1
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Picture:
    """An image in the page itself.

    Attributes
    ----------
    source
        A ``data:`` address.
    alt
        What it shows, for who does not see it.
    only
        'print' for one that stands in for an interactive one on paper.
    """

    source: str
    alt: str
    caption: str
    width: int
    height: int
    only: str = ""
    kind: ClassVar[str] = "picture"


@dataclass(frozen=True)
class Pictures:
    """Several, side by side where there is room."""

    pictures: Sequence[Picture]
    kind: ClassVar[str] = "pictures"


@dataclass(frozen=True)
class Verdicts:
    """Those of a check, and what was not checked."""

    verdicts: Sequence[Verdict]
    kind: ClassVar[str] = "verdicts"


@dataclass(frozen=True)
class Widget:
    """What a charting library draws: `model` is its object, `label` what it is called for who does not see it."""

    name: str
    label: str
    model: Any
    kind: ClassVar[str] = "widget"


Block = Text | Code | Table | Picture | Pictures | Verdicts | Widget


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes
    ----------
    name
        Its anchor.
    short
        Questions that it answers, with the answers in a sentence, for the top of the page.
    """

    name: str
    title: str
    blocks: Sequence[Block]
    short: Sequence[tuple[str, str]] = field(default_factory=tuple)


def number(value: float, digits: int = 3) -> str:
    """A number as it is read: 12,345, 0.0123, 1.2e-07; a dash where there is none."""
    value = float(value)
    if not math.isfinite(value):
        return "–"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def percent(share: float) -> str:
    """A share as it is read."""
    return "–" if not math.isfinite(share) else f"{100 * share:.0f} %"


def listed(names: Iterable[object], most: int = 5) -> str:
    """Names in a sentence; the last ones are only counted."""
    texts = [str(name) for name in names]
    if len(texts) > most:
        return f"{', '.join(texts[:most])} and {len(texts) - most} more"
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def counted(n: int, one: str, many: str | None = None) -> str:
    """Such as "1 cell" and "2,000 cells"."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"

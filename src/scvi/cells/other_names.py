"""Why genes or proteins are not found: they go by other names, in another spelling or of another kind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pandas as pd

ENOUGH = 0.1
"""Share that has to be there in another spelling, of the missing names or of all that there are; two at least.

Of human and mouse symbols it was 14 to 76 % but for upper and lower case, of human symbols of two annotations 3 %.
"""
_SPELLINGS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("upper and lower case (genes of another species, as human 'CD3E' is 'Cd3e' in mice?)", str.casefold),
    ("a version at the end, such as '.1'", lambda name: re.sub(r"\.\d+$", "", name)),
    ("'-', '_', '.' or spaces", lambda name: re.sub(r"[-_. ]+", "-", name.strip())),
    (
        "a genome or 'gene:' in front",
        lambda name: re.sub(r"^(gene[:_-]|(GRC[a-z]|hg|mm|rn|danRer|dm|ce)\d+[a-z]?_+)", "", name, flags=re.IGNORECASE),
    ),
)


def likely_cause(missing: Sequence[str], there: Iterable[Any], table: pd.DataFrame | None = None) -> str:
    """'; ...' that says why names are missing from those that are there; nothing where no cause is in sight.

    Parameters
    ----------
    table
        ``adata.var``, of which a column may have the names.
    """
    names = [str(name) for name in there]
    if not missing or not names:
        return ""
    enough = max(2.0, ENOUGH * min(len(missing), len(names)))
    for column, values in () if table is None else table.items():
        n_found = int(pd.Index(missing).isin(values.astype(str)).sum())
        if n_found >= enough:
            return (
                f"; adata.var[{column!r}] has {n_found} of them: "
                f"adata.var_names = adata.var[{column!r}].astype(str) makes them the names"
            )
    found = {words: _found_as(missing, names, spelling) for words, spelling in _SPELLINGS}
    words, pairs = max(found.items(), key=lambda entry: len(entry[1]))
    if len(pairs) >= enough:
        (wanted, given), n_more = pairs[0], len(pairs) - 1
        return f"; {wanted!r} is there as {given!r} (and {n_more} more), the same but for {words}: rename them"
    wanted_kind, given_kind = _kind(missing), _kind(names)
    if wanted_kind != given_kind:
        return (
            f"; the missing ones are {wanted_kind}, such as {missing[0]!r}, and those that are there {given_kind}, "
            f"such as {names[0]!r}: rename them"
        )
    return ""


def _found_as(missing: Sequence[str], names: Sequence[str], spelling: Callable[[str], str]) -> list[tuple[str, str]]:
    """Each missing name that is there when both are spelt so, with the name that stands for it."""
    by_spelling = {spelling(name): name for name in reversed(names)}
    return [(name, by_spelling[spelling(name)]) for name in missing if spelling(name) in by_spelling]


def _kind(names: Sequence[str]) -> str:
    """What most of the names are."""
    return Counter(map(_kind_of_name, names)).most_common(1)[0][0]


def _kind_of_name(name: str) -> str:
    ensembl = re.fullmatch(r"(ENS[A-Z]*)\d{11}(\.\d+)?", name)
    if ensembl:
        return f"Ensembl identifiers ({ensembl[1]}...)"
    return "numbers" if name.isdecimal() else "symbols"

"""The losses of one fit after the other, as one-column tables by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd


def tables(rows: Mapping[str, Sequence[tuple[int, Any]]], epochs_before: int) -> dict[str, pd.DataFrame]:
    """Pairs of an epoch and a value, by name, as tables; epochs are counted on from those of earlier fits."""
    return {
        name: pd.DataFrame(
            {name: [value for _, value in pairs]},
            index=pd.Index([epochs_before + epoch for epoch, _ in pairs], name="epoch"),
        )
        for name, pairs in rows.items()
    }


def past_epochs(history: Mapping[str, pd.DataFrame]) -> int:
    """How many epochs a history has."""
    return max((int(table.index[-1]) + 1 for table in history.values()), default=0)


def continued(
    history: Mapping[str, pd.DataFrame], later: Mapping[str, pd.DataFrame], epochs_before: int
) -> dict[str, pd.DataFrame]:
    """A history up to where a fit began, and the fit's own."""
    earlier = {name: table[table.index < epochs_before] for name, table in history.items()}
    names = dict.fromkeys([*earlier, *later])
    return {name: pd.concat([h[name] for h in (earlier, later) if name in h]) for name in names}

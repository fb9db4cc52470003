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


_WITHOUT_A_SIDE = ("train_loss_epoch", "train_loss_step")
_OTHER_NAMES = {  # by which scripts that exist know them, too
    "classification_loss_train": "train_classification_loss",
    "classification_loss_validation": "validation_classification_loss",
    "accuracy_validation": "validation_accuracy",
}
_FIRST = ("validation_loss", "validation_f1_score", "validation_calibration_error")  # under this name only


def named_values(fitted: Mapping[str, float], looked_at: Mapping[str, float] | None) -> dict[str, float]:
    """What the history calls the means of an epoch: ``elbo_train``, ``elbo_validation``, ``validation_loss``, ...

    Parameters
    ----------
    fitted, looked_at
        Means over training and validation cells, by term; None: these were not looked at.
    """
    named = {name if name in _WITHOUT_A_SIDE else f"{name}_train": value for name, value in fitted.items()}
    for name, value in (looked_at or {}).items():
        first = f"validation_{name}"
        named[first if first in _FIRST else f"{name}_validation"] = value
    return named | {other: named[name] for name, other in _OTHER_NAMES.items() if name in named}


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

"""Metrics of a user's own, in a module, as a search over several processes needs them."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np


def interrupted_once(model: Any, cells: np.ndarray) -> float:
    """An ELBO; in the second call Ctrl-C comes before the answer."""
    interrupted_once.calls += 1  # type: ignore[attr-defined]
    if interrupted_once.calls == 2:  # type: ignore[attr-defined]
        os.kill(os.getpid(), signal.SIGINT)
    return model.get_elbo(indices=cells, seed=0)

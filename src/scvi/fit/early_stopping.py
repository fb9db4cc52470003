"""When to stop, and when to lower the learning rate."""

from __future__ import annotations

import math


class Patience:
    """Counts epochs without improvement of a value that should fall."""

    def __init__(self, patience: int, min_delta: float):
        self.patience, self.min_delta = patience, min_delta
        self.best, self.wait = math.inf, 0

    def update(self, value: float) -> bool:
        """False when patience has run out."""
        if value < self.best - self.min_delta:
            self.best, self.wait = value, 0
        else:
            self.wait += 1
        return self.wait < self.patience

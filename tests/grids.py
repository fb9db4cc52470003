"""Grids of arguments as one test."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# As many examples as there are combinations: hypothesis tries each once. What a fixture changes may stay for all.
HEALTHY = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def each_of(**axes: Collection[Any]) -> Callable[[Any], Any]:
    """Decorate a test that is to be run with every combination of these arguments.

    A failure is shrunk: the combination that is reported differs as little as can be from the first value of each.
    """
    size = math.prod(map(len, axes.values()))
    options = settings(max_examples=size, deadline=None, derandomize=True, suppress_health_check=HEALTHY)
    return lambda test: options(given(**{name: st.sampled_from(list(values)) for name, values in axes.items()})(test))

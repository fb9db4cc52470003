"""What is searched: default spaces, and from a dict to distributions, checked before anything is fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scvi._checks import is_integer, is_number
from scvi.tune.packages import optuna

_CHOICES = (type(None), bool, int, float, str)
_LR = (1e-4, 1e-2, "log")
_OF_SCVI: dict[str, Any] = {
    "n_latent": (5, 15),
    "n_hidden": [64, 128, 256],
    "n_layers": (1, 5),
    "dropout_rate": [0.1, 0.3, 0.5, 0.7],
    "gene_likelihood": ["zinb", "nb"],
    "lr": _LR,
}
_WITHOUT_LIKELIHOOD = {name: values for name, values in _OF_SCVI.items() if name != "gene_likelihood"}
_SPACES: dict[str, dict[str, Any]] = {
    "SCVI": _OF_SCVI,
    "SCANVI": _OF_SCVI,
    "LinearSCVI": _OF_SCVI,
    "CondSCVI": _WITHOUT_LIKELIHOOD,
    "AUTOZI": {**_WITHOUT_LIKELIHOOD, "lr": (1e-3, 3e-2, "log")},
    "TOTALVI": {
        "n_latent": (10, 30),
        "n_hidden": [128, 256, 512],
        "n_layers_encoder": (1, 2),
        "n_layers_decoder": (1, 2),
        "dropout_rate_encoder": [0.1, 0.2, 0.3, 0.5],
        "dropout_rate_decoder": [0.1, 0.2, 0.3, 0.5],
        "gene_likelihood": ["nb", "zinb"],
        "lr": _LR,
    },
}


def default_space(model_class: type[Any]) -> dict[str, Any]:
    """What is searched of a model unless a space is given, in the notation of :func:`distributions`."""
    named = next((kind.__name__ for kind in model_class.__mro__ if kind.__name__ in _SPACES), None)
    if named is None:
        raise ValueError(f"there is no default space for {model_class.__name__}: pass space={{argument: values}}")
    return dict(_SPACES[named])


def distributions(space: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The distributions of a space, and what it holds fixed.

    Parameters
    ----------
    space
        Of each argument: an optuna distribution; a list of choices; a range (low, high) of integers or of numbers, or
        (low, high, "log"); or a single value.

    Raises
    ------
    ValueError
        If there is nothing to search, or values are none of these.
    """
    if not isinstance(space, Mapping) or not space:
        raise ValueError(f"space={space!r} is not a dict of arguments with their values")
    searched, fixed = {}, {}
    for name, values in space.items():
        if isinstance(values, (optuna().distributions.BaseDistribution, list, tuple)):
            searched[name] = distribution(name, values)
        else:
            fixed[name] = _of_python(values)
    if not searched:
        raise ValueError("space holds every argument fixed: give at least one a list, a range or a distribution")
    return searched, fixed


def distribution(name: str, values: Any) -> Any:
    """One argument's distribution, see :func:`distributions`."""
    kinds = optuna().distributions
    if isinstance(values, kinds.BaseDistribution):
        return values
    values = type(values)(map(_of_python, values))
    if isinstance(values, list):
        unfit = [value for value in values if not isinstance(value, _CHOICES)]
        if not values or unfit:
            raise ValueError(f"space[{name!r}] must list numbers, strings, flags or None, got {values!r}")
        return kinds.CategoricalDistribution(values)
    log = len(values) == 3 and values[2] == "log"
    if len(values) != 2 + log or not all(map(is_number, values[:2])) or values[0] > values[1]:
        raise ValueError(
            f"space[{name!r}]={values!r} is not a range (low, high) or (low, high, 'log') of numbers; choices go into "
            "a list"
        )
    low, high = values[:2]
    if log and low <= 0:
        raise ValueError(f"space[{name!r}]={values!r}: a logarithmic range begins above 0")
    kind = kinds.IntDistribution if is_integer(low) and is_integer(high) else kinds.FloatDistribution
    return kind(low, high, log=log)


def _of_python(value: Any) -> Any:
    """A number of numpy as one of Python, which a study can keep."""
    return value.item() if isinstance(value, np.generic) else value


def extremes(values: Any) -> Sequence[Any]:
    """The ends of a distribution's range, or all its choices."""
    return values.choices if hasattr(values, "choices") else (values.low, values.high)


def suggest(trial: Any, searched: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a trial for all that is searched."""
    kinds = optuna().distributions
    chosen = {}
    for name, values in searched.items():
        if isinstance(values, kinds.CategoricalDistribution):
            chosen[name] = trial.suggest_categorical(name, values.choices)
        elif isinstance(values, kinds.IntDistribution):
            chosen[name] = trial.suggest_int(name, values.low, values.high, step=values.step, log=values.log)
        else:
            chosen[name] = trial.suggest_float(name, values.low, values.high, step=values.step, log=values.log)
    return chosen

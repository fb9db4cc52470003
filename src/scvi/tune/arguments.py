"""Arguments of a constructor and of `train` that are searched or held fixed, checked before the first trial."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from anndata import AnnData

from scvi._checks import is_integer, is_number
from scvi.estimators.base import Estimator
from scvi.estimators.train import course_of
from scvi.estimators.trainer_names import understood
from scvi.fit.devices import check_precision, resolve_device
from scvi.fit.plan import make_plan
from scvi.tune.packages import optuna
from scvi.tune.spaces import distributions, extremes

_OF_THE_SEARCH = {
    *("seed", "callbacks", "logger", "enable_progress_bar", "checkpoint_dir", "resume"),
    *("train_size", "validation_size", "validation_indices", "datasplitter_kwargs", "shuffle_set_split"),
}
"""Arguments of `train` that a search gives itself."""


@dataclass(frozen=True)
class Arguments:
    """What is searched and what is held fixed, of a constructor and of `train`.

    Attributes
    ----------
    searched, fixed
        Distributions and values by name.
    of_model
        Names that are the constructor's; all others are those of `train`.
    defaults
        Default values of what is searched, where there are any.
    """

    searched: Mapping[str, Any]
    fixed: Mapping[str, Any]
    of_model: frozenset[str]
    defaults: Mapping[str, Any]

    def parted(self, params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Arguments of the constructor and of `train` with these values."""
        given = {**self.fixed, **params}
        for_model = {name: value for name, value in given.items() if name in self.of_model}
        return for_model, {name: value for name, value in given.items() if name not in self.of_model}

    def first_trial(self) -> dict[str, Any]:
        """The defaults of what is searched, where the space has them."""
        first = {}
        for name, values in self.searched.items():
            if name in self.defaults and _has(values, self.defaults[name]):
                first[name] = self.defaults[name]
        return first

    def to_json(self) -> dict[str, str]:
        """Both, as a study keeps them."""
        to_json = optuna().distributions.distribution_to_json
        given = {name: to_json(values) for name, values in self.searched.items()}
        return {**given, **{name: repr(value) for name, value in self.fixed.items()}}


def _has(values: Any, value: Any) -> bool:
    """Whether a distribution may give a value."""
    if hasattr(values, "choices"):
        return any(value == choice and type(value) is type(choice) for choice in values.choices)
    if not is_number(value) or not values.low <= value <= values.high:
        return False
    if isinstance(values, optuna().distributions.IntDistribution) and not is_integer(value):
        return False
    steps = 0.0 if values.step is None else (value - values.low) / values.step
    return math.isclose(steps, round(steps), abs_tol=1e-8)


def checked_arguments(model_class: type[Estimator], adata: AnnData, space: Mapping[str, Any]) -> Arguments:
    """The arguments that a space names.

    Raises
    ------
    ValueError
        If a name is none, or if a model cannot be made or fitted with one of the values: each end of a range and each
        choice is tried, one at a time.
    """
    searched, fixed = distributions(space)
    of_model = model_class._defaults()
    of_train = {name: p.default for name, p in inspect.signature(model_class.train).parameters.items()}
    of_train["lr"] = of_train["lr"] or model_class._plan.lr
    known = [name for name in (*of_model, *of_train) if name not in (*_OF_THE_SEARCH, "self", "trainer_kwargs")]
    for name in space:
        if name in _OF_THE_SEARCH:
            raise ValueError(f"space has {name!r}, which is for the search to decide")
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"space has {name!r}, which is no argument of {model_class.__name__} or its train: {hint}")
    defaults = {name: {**of_train, **of_model}[name] for name in searched}
    arguments = Arguments(searched, fixed, frozenset(of_model), defaults)
    _try_each(model_class, adata, arguments)
    return arguments


def _try_each(model_class: type[Estimator], adata: AnnData, arguments: Arguments) -> None:
    """Makes a model and a plan of its fit with each value, all others as in the first trial or at their first."""
    usual = {name: extremes(values)[0] for name, values in arguments.searched.items()} | arguments.first_trial()
    tried = [usual, *({**usual, name: value} for name, v in arguments.searched.items() for value in extremes(v))]
    model: Any = None
    for params in tried:
        for_model, for_train = arguments.parted(params)
        try:
            if model is None or any(for_model[name] != usual.get(name, for_model[name]) for name in for_model):
                model = model_class(adata, **for_model, seed=0)  # type: ignore[call-arg]
            _check_train(model, for_train)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{model_class.__name__} cannot have {params}: {error}") from error


def _check_train(model: Any, told: Mapping[str, Any]) -> None:
    """Refuses what the `train` of a model would refuse, before it reads a cell."""
    defaults = {name: p.default for name, p in inspect.signature(type(model).train).parameters.items()}
    given = understood(type(model).__name__, {**defaults, "trainer_kwargs": {}, **told})
    options = {option.name: given[option.name] for option in fields(model._plan) if option.name in given}
    n = model.adata.n_obs
    plan = make_plan(options, given["plan_kwargs"], n, n, model._plan, course=course_of(model, given))
    check_precision(plan.precision, resolve_device(given["accelerator"], given["devices"]))

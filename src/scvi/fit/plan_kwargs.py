"""`plan_kwargs`: options of a plan under the names of scripts that exist."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scvi._checks import check_flag
from scvi._warnings import warn
from scvi.cells.checks import nearest

logger = logging.getLogger(__name__)

WARMUP = ("n_epochs_kl_warmup", "n_steps_kl_warmup")
_KEY_OF_CLASSIFIERS = "classification_ratio"
_SAME_NAME = (
    *("lr", "weight_decay", "eps", "max_kl_weight", "min_kl_weight", "lr_patience", "lr_factor"),
    *("lr_min", "lr_threshold", "lr_scheduler_metric", "optimizer"),
)
NO_MEANING = ("compile", "compile_kwargs", "on_step", "on_epoch", "scale_adversarial_loss")
"""Accepted and named: how that package works inside, and the weight of an adversary that there is not."""
_REFUSED = {
    "optimizer_creator": "the optimisers are 'Adam' and 'AdamW', by plan_kwargs={'optimizer': ...}",
    "update_only_decoder": "all weights are fitted",
}


class Translated(NamedTuple):
    """What `plan_kwargs` say.

    Attributes
    ----------
    options
        Options of a plan.
    warmup
        Lengths of the warm-up in epochs and in steps, where they were given.
    """

    options: dict[str, Any]
    warmup: dict[str, Any]


def translated(plan_kwargs: Mapping[str, Any], of_plan: Sequence[str]) -> Translated:
    """`plan_kwargs` as options of a plan that has the options `of_plan`.

    Raises
    ------
    ValueError
        For a key that is not known, or asks for what there is not.
    """
    if not isinstance(plan_kwargs, Mapping):
        raise ValueError(f"plan_kwargs={plan_kwargs!r} is not a dictionary")
    same_name = [name for name in (*_SAME_NAME, _KEY_OF_CLASSIFIERS) if name in of_plan]
    known = [*same_name, *WARMUP, "reduce_lr_on_plateau"]
    if _KEY_OF_CLASSIFIERS in plan_kwargs and _KEY_OF_CLASSIFIERS not in known:
        raise ValueError(
            f"plan_kwargs has {_KEY_OF_CLASSIFIERS!r}, which belongs to models with a classifier; known here are "
            f"{', '.join(known)}"
        )
    accepted = (*known, *NO_MEANING, *_REFUSED, "adversarial_classifier")
    unknown = [key for key in plan_kwargs if key not in accepted]
    if unknown:
        hint = nearest(unknown[0], known)
        raise ValueError(
            f"plan_kwargs has unknown keys {unknown}{hint if hint.endswith('?') else ''}; known are {', '.join(known)}"
        )
    _refuse(plan_kwargs)
    say_ignored("plan_kwargs", [key for key in NO_MEANING if plan_kwargs.get(key) is not None])
    options = {name: plan_kwargs[name] for name in same_name if plan_kwargs.get(name) is not None}
    reduced = plan_kwargs.get("reduce_lr_on_plateau")
    if reduced is not None and check_flag("plan_kwargs['reduce_lr_on_plateau']", reduced):
        options["lr_schedule"] = "plateau"
    return Translated(options, {name: plan_kwargs[name] for name in WARMUP if name in plan_kwargs})


def say_ignored(where: str, names: Sequence[str]) -> None:
    """Names what was accepted and has no meaning, in one line of the log."""
    if names:
        logger.info("%s: without a meaning here, and not used: %s.", where, ", ".join(names))


def _refuse(plan_kwargs: Mapping[str, Any]) -> None:
    """Refuses what would make another fit, and warns of an adversary that is asked for."""
    for key, reason in _REFUSED.items():
        if plan_kwargs.get(key):
            raise ValueError(f"plan_kwargs[{key!r}]={plan_kwargs[key]!r} cannot be done: {reason}")
    if plan_kwargs.get("adversarial_classifier"):
        warn(
            "adversarial_classifier=True: there is no adversary here that keeps the batch out of the latent space; "
            "the model is fitted without one (scvi.inference.TotalTrainer has use_adversarial_loss)."
        )

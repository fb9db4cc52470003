"""Arguments of `train` under the names of scripts that exist, as arguments of this package's `train`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from scvi._checks import check_flag, is_number
from scvi.cells.checks import nearest
from scvi.fit.plan_kwargs import WARMUP, say_ignored

_TRAIN_SIZE = 0.9
_PRECISIONS = {32: "float32", "32": "float32", "32-true": "float32", "bf16-mixed": "bf16", "bf16-true": "bf16"}
_OF_THE_PLAN = (*WARMUP, "reduce_lr_on_plateau", "adversarial_classifier", "scale_adversarial_loss")
_BAGS = ("plan_config", "trainer_config", "datamodule", "external_indexing", "gradient_clip_val")
_NO_MEANING = (
    *("simple_progress_bar", "progress_bar_refresh_rate", "enable_checkpointing", "checkpointing_monitor"),
    *("enable_model_summary", "log_every_n_steps", "log_save_dir", "learning_rate_monitor", "default_root_dir"),
    *("strategy", "load_sparse_tensor", "benchmark", "deterministic", "num_sanity_val_steps", "num_nodes"),
    *("inference_mode", "use_distributed_sampler", "sync_batchnorm", "profiler", "plugins"),
)
"""How Lightning shows, files and distributes a fit."""
_OF_LOADERS = (
    *("pin_memory", "num_workers", "persistent_workers", "prefetch_factor"),
    *("drop_last", "drop_dataset_tail"),  # all cells are seen here in each epoch
)


def understood(owner: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `train` with what came under other names in its place; what has no meaning is named once.

    Parameters
    ----------
    owner
        Name of the estimator.
    given
        Arguments by name, and those that `train` has no name for as `trainer_kwargs`.

    Raises
    ------
    TypeError
        For a name that is not known, with the nearest that is.
    ValueError
        For a value that asks for what there is not.
    """
    told = {name: value for name, value in given.items() if name != "trainer_kwargs"}
    further = {**_options_in(given["trainer_kwargs"], "trainer_config"), **given["trainer_kwargs"]}
    own = [name for name in told if name != "self"]
    told |= {name: further.pop(name) for name in own if name in further}  # in trainer_config only
    if further.pop("gradient_clip_algorithm", None) not in (None, "norm"):
        raise ValueError("gradient_clip_algorithm: gradients are clipped by their norm; pass 'norm'")
    known = (*_OF_THE_PLAN, *_BAGS, *_NO_MEANING)
    for name in further:
        if name not in known:
            hint = nearest(name, [*own, *known])
            raise TypeError(f"{owner}.train() got an unexpected keyword argument {name!r}{hint}")
    if further.get("datamodule") is not None:
        raise ValueError("datamodule: a model is fitted to the cells that it was made with; pass none")
    say_ignored("train", [name for name in _NO_MEANING if further.get(name) is not None])
    return _with_defaults(_with_bags(told, further))


def _options_in(further: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What a `plan_config` or `trainer_config` says, a mapping or an instance of a dataclass."""
    config = further.get(name)
    if config is None or isinstance(config, Mapping):
        return dict(config or {})
    if is_dataclass(config) and not isinstance(config, type):
        return asdict(config)
    raise ValueError(f"{name}={config!r} is not a dictionary")


def _with_bags(told: dict[str, Any], further: Mapping[str, Any]) -> dict[str, Any]:
    """With options of the plan and of the split in their places."""
    plan = {name: further[name] for name in _OF_THE_PLAN if further.get(name) is not None}
    plan |= _options_in(further, "plan_config")
    if plan and (told["plan_kwargs"] is None or isinstance(told["plan_kwargs"], Mapping)):
        told["plan_kwargs"] = {**plan, **(told["plan_kwargs"] or {})}
    if "gradient_clip_val" in further:
        told["gradient_clip"] = further["gradient_clip_val"] or None
    told["external_indexing"] = _external_indexing(told["datasplitter_kwargs"])
    if further.get("external_indexing") is not None:
        told["external_indexing"] = further["external_indexing"]
    return told


def _with_defaults(told: dict[str, Any]) -> dict[str, Any]:
    """With our own value where None, or another word, means the default."""
    check_flag("shuffle_set_split", told["shuffle_set_split"])
    if told["train_size"] is None:
        left = 1 - told["validation_size"] if is_number(told["validation_size"]) else 1.0
        told["train_size"] = min(_TRAIN_SIZE, left)
    if told["check_val_every_n_epoch"] is None:
        told["check_val_every_n_epoch"] = 1
    if told["max_steps"] == -1:
        told["max_steps"] = None
    if isinstance(told["precision"], (int, str)):
        told["precision"] = _PRECISIONS.get(told["precision"], told["precision"])
    return told


def _external_indexing(datasplitter_kwargs: Any) -> Sequence[Any] | None:
    """What `datasplitter_kwargs` say of the split."""
    if datasplitter_kwargs is None:
        return None
    if not isinstance(datasplitter_kwargs, Mapping):
        raise ValueError(f"datasplitter_kwargs={datasplitter_kwargs!r} is not a dictionary")
    unknown = [key for key in datasplitter_kwargs if key not in ("external_indexing", *_OF_LOADERS)]
    if unknown:
        raise ValueError(f"datasplitter_kwargs has unknown keys {unknown}; known is external_indexing")
    say_ignored("datasplitter_kwargs", [key for key in _OF_LOADERS if key in datasplitter_kwargs])
    return datasplitter_kwargs.get("external_indexing")

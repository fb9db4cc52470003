"""What holds for the whole session: logging, seed, threads, minibatch size, progress bars."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Any, Literal

from scvi._checks import check_choice, check_integer

ProgressBarStyle = Literal["tqdm", "none"]

_BATCH_SIZE = 128
_LEVELS = {name: getattr(logging, name) for name in ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "NOTSET")}

_NAMES = ("seed", "verbosity", "num_threads", "batch_size", "progress_bar_style")
_NO_MEANING = (
    *("dl_num_workers", "dl_persistent_workers", "jax_preallocate_gpu_memory", "logging_dir", "warnings_stacklevel"),
)
"""Settings that scripts make and nothing here reads."""

logger = logging.getLogger("scvi")
logger.addHandler(logging.NullHandler())


class DispatchingFormatter(logging.Formatter):
    """Formats a record with the formatter of its logger, or of the nearest ancestor that has one.

    Parameters
    ----------
    default_formatter
        Used where no logger on the way to the root is named in `formatters`.
    formatters
        Formatters by logger name.
    """

    def __init__(
        self, default_formatter: logging.Formatter, formatters: Mapping[str, logging.Formatter] | None = None
    ) -> None:
        super().__init__()
        self._default_formatter = default_formatter
        self._formatters = dict(formatters or {})

    def format(self, record: logging.LogRecord) -> str:
        name = record.name
        while name and name not in self._formatters:
            name = name.rpartition(".")[0]
        return self._formatters.get(name, self._default_formatter).format(record)


autotune_formatter = logging.Formatter(
    "[%(asctime)s - %(processName)s - %(threadName)s] %(levelname)s - %(name)s\n%(message)s"
)
_formatter = DispatchingFormatter(
    logging.Formatter("[%(asctime)s] %(levelname)s - %(name)s | %(message)s"),
    {"scvi.inference.autotune": autotune_formatter},
)


class Settings:
    """Session-wide defaults, the one object `scvi.settings`.

    Attributes
    ----------
    seed
        Seed of every fit and query that is given none; None (the default) means fresh entropy. Setting it also seeds
        the global generators of torch and numpy and asks cuDNN for deterministic algorithms.
    verbosity
        Level of the logger "scvi", as a number. Setting it makes the messages visible on standard output.
    num_threads
        Number of CPU threads that torch and the kernels use.
    chosen_num_threads
        `num_threads` if it was set here, else None, where a process of a job takes its share of the cores. To be read
        only.
    batch_size
        Cells in a minibatch where a method is given no `batch_size`; 128 unless set. None takes back what was set.
    chosen_batch_size
        `batch_size` if it was set, else None, where a fit is free to choose for small data. To be read only.
    progress_bar_style
        'tqdm' (default) or 'none'. 'rich', which scripts that exist may ask for, is read as 'tqdm'.

    Settings of scripts that have no meaning here, such as `dl_num_workers`, are kept and named in the log. Any other
    name is refused.
    """

    def __init__(self) -> None:
        self._seed: int | None = None
        self._num_threads: int | None = None
        self._batch_size: int | None = None
        self._progress_bar_style: ProgressBarStyle = "tqdm"

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _NO_MEANING:
            logger.info("settings.%s: without a meaning here, and not used.", name)
        elif not name.startswith("_") and not hasattr(type(self), name):
            raise AttributeError(f"there is no setting {name!r}; there are {', '.join(map(repr, _NAMES))}")
        super().__setattr__(name, value)

    @property
    def seed(self) -> int | None:
        return self._seed

    @seed.setter
    def seed(self, seed: int | None) -> None:
        if seed is not None:
            seed = check_integer("seed", seed, 0, 2**32 - 1)
            _seed_generators(seed)
        self._seed = seed

    @property
    def verbosity(self) -> int:
        return logger.level

    @verbosity.setter
    def verbosity(self, level: int | str) -> None:
        _show_messages(_level(level))

    @property
    def num_threads(self) -> int:
        import torch

        return torch.get_num_threads()

    @num_threads.setter
    def num_threads(self, num: int) -> None:
        import torch

        self._num_threads = check_integer("num_threads", num, 1, 2**15)
        torch.set_num_threads(self._num_threads)

    @property
    def chosen_num_threads(self) -> int | None:
        return self._num_threads

    @property
    def batch_size(self) -> int:
        return _BATCH_SIZE if self._batch_size is None else self._batch_size

    @batch_size.setter
    def batch_size(self, batch_size: int | None) -> None:
        self._batch_size = None if batch_size is None else check_integer("batch_size", batch_size, 1, 2**31 - 1)

    @property
    def chosen_batch_size(self) -> int | None:
        return self._batch_size

    @property
    def progress_bar_style(self) -> ProgressBarStyle:
        return self._progress_bar_style

    @progress_bar_style.setter
    def progress_bar_style(self, style: Literal["tqdm", "rich", "none"]) -> None:
        check_choice("progress_bar_style", style, ("tqdm", "rich", "none"))
        self._progress_bar_style = "none" if style == "none" else "tqdm"

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={getattr(self, name)!r}' for name in _NAMES)})"


settings = Settings()


def set_verbosity(level: int | str) -> None:
    """Shows the messages of this package from `level` on, on standard output.

    Parameters
    ----------
    level
        A level of `logging` as a number or by name: CRITICAL (50), ERROR (40), WARNING (30), INFO (20), DEBUG (10).
    """
    settings.verbosity = level


def set_seed(seed: int = 0) -> None:
    """Makes what follows repeatable; the same as ``scvi.settings.seed = seed``.

    Parameters
    ----------
    seed
        From 0 to 2**32 - 1. It seeds torch and numpy (not Python's `random`), and every fit and query that is given
        no seed of its own starts from it.
    """
    settings.seed = seed


def _seed_generators(seed: int) -> None:
    import numpy as np
    import torch

    torch.manual_seed(seed)
    np.random.seed(seed)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def _show_messages(level: int) -> None:
    """Sets the level of what shows messages already; adds a handler on standard output where nothing does."""
    logger.setLevel(level)
    streams = [handler for handler in logger.handlers if isinstance(handler, logging.StreamHandler)]
    for handler in streams:
        handler.setLevel(level)
    if any(not isinstance(handler, logging.FileHandler) for handler in streams):  # a file shows nothing
        logger.info("Verbosity set to %s", logging.getLevelName(level))
        return
    shown = logging.StreamHandler(sys.stdout)
    shown.setFormatter(_formatter)
    logger.addHandler(shown)
    logger.propagate = False  # a handler of the root logger would print every message a second time


def _level(level: int | str) -> int:
    if isinstance(level, str) and level.upper() in _LEVELS:
        return _LEVELS[level.upper()]
    names = ", ".join(map(repr, _LEVELS))
    return check_integer("verbosity", level, 0, 2**31 - 1, f"a number from 0 on or one of {names}")

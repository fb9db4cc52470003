"""The packages of the extra `[tune]`, imported when a search begins."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def optuna() -> Any:
    """The package optuna.

    Raises
    ------
    ImportError
        If it or SQLAlchemy is not installed.
    """
    try:
        import optuna
        import sqlalchemy  # noqa: F401  # optuna imports it later, where it keeps a study
    except ImportError as error:
        raise ImportError(f'a search needs optuna and sqlalchemy: pip install "scvi[tune]" ({error})') from error
    return optuna


@contextmanager
def quiet() -> Iterator[None]:
    """Within, optuna says no more than warnings: what there is to say of a study is said here."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)

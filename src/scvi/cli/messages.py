"""What is said on standard error: messages, warnings and errors, each in a line of its own."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Arguments as the messages of the package name them, and as they are typed here.
TYPED = {"batch_key": "--batch-key", "labels_key": "--labels-key", "layer": "--layer", "checkpoint_dir": "--output"}
TYPED |= {"non_integer": "--non-integer"}


class _Messages(logging.Handler):
    """Prints the package's messages on standard error, plainly."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), "warning" if record.levelno >= logging.WARNING else None)


@contextmanager
def messages() -> Iterator[None]:
    """Shows messages and warnings as lines of their own."""
    logger, handler = logging.getLogger("scvi"), _Messages()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *args, **kwargs: say(message, "warning")
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def say(message: object, kind: str | None = None) -> None:
    """Prints a line on standard error, with arguments named as they are typed."""
    text = re.sub(
        r"(?<![\w'-])(batch_key|labels_key|layer(?==)|checkpoint_dir|non_integer)\b",
        lambda found: TYPED[found[0]],
        str(message),
    )
    text = " ".join(text.split())
    print(f"scvi: {kind}: {text}" if kind else text, file=sys.stderr, flush=True)

"""What is said on standard error: messages, warnings and errors, each in a line of its own."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from scvi._job import is_first

# Arguments as the messages of the package name them, and as they are typed here.
TYPED = {
    "abstain_below": "--abstain-below",
    "batch_key": "--batch-key",
    "batch_size": "--batch-size",
    "categorical_covariate": "--categorical-covariate",
    "categorical_covariate_keys": "--categorical-covariate",
    "checkpoint_dir": "--output",
    "continuous_covariate": "--continuous-covariate",
    "continuous_covariate_keys": "--continuous-covariate",
    "fdr_target": "--fdr",
    "gene_list": "--genes",
    "labels_key": "--labels-key",
    "library_size": "--library-size",
    "max_epochs": "--max-epochs",
    "min_genes_found": "--min-genes-found",
    "n_cells": "--n-cells",
    "n_latent": "--n-latent",
    "n_samples": "--n-samples",
    "non_integer": "--non-integer",
    "protein_expression_obsm_key": "--protein-obsm-key",
    "protein_key": "--protein-obsm-key",
    "protein_list": "--proteins",
    "protein_names_uns_key": "--protein-names-key",
    "sample_key": "--sample-key",
    "size_factor_key": "--size-factor-key",
    "transform_batch": "--transform-batch",
    "n_trials": "--n-trials",
    "study_name": "--study-name",
    "test_size": "--test-size",
    "unlabeled_category": "--unlabeled-category",
}
# Words as others are, which are arguments where a value follows.
WORDS = {"accelerator": "--device", "precision": "--precision", "preset": "--preset"}
WORDS |= {
    name: f"--{name}"
    for name in ("delta", "group1", "group2", "groupby", "layer", "metric", "mode", "pruner", "strata", "workers")
}
# Not in quotes, and not a part of a path.
_ARGUMENTS = re.compile(rf"(?<![\w'\"./-])(?:(?:{'|'.join(TYPED)})\b(?!['\"/-]|\.\w)|(?:{'|'.join(WORDS)})(?==))")
_PASSWORD = re.compile(r"(://[^\s:/@]*):\S*@")


class _Messages(logging.Handler):
    """Prints the package's messages on standard error, plainly."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage(), "warning" if record.levelno >= logging.WARNING else None)


@contextmanager
def showing_messages() -> Iterator[None]:
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


def without_passwords(text: str) -> str:
    """The text without the passwords of the URLs in it."""
    return _PASSWORD.sub(r"\1:***@", text)


def say(message: object, kind: str | None = None) -> None:
    """Prints a line on standard error, with arguments named as they are typed.

    Of the processes of a job the first one speaks, but all say what is an error.
    """
    if kind != "error" and not is_first():
        return
    text = _ARGUMENTS.sub(lambda found: (TYPED | WORDS)[found[0]], without_passwords(str(message)))
    text = " ".join(text.split())
    print(f"scvi: {kind}: {text}" if kind else text, file=sys.stderr, flush=True)

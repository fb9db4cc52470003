"""2020's import path of helpers that live in :mod:`scvi.models.one_hot`."""

from scvi.models.one_hot import broadcast_labels, enumerate_discrete, iterate, one_hot

__all__ = ["broadcast_labels", "enumerate_discrete", "iterate", "one_hot"]

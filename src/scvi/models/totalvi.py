"""2020's import path of totalVI, whose network lives in :mod:`scvi.models.totalvae`."""

from scvi.models.totalvae import TOTALVAE as TOTALVI

__all__ = ["TOTALVI"]

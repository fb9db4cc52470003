"""2020's import path of scANVI, whose network lives in :mod:`scvi.models.scanvae`."""

from scvi.models.scanvae import SCANVAE as SCANVI

__all__ = ["SCANVI"]

"""What the papers say: networks and probability, under their 2020 names."""

from scvi.models.autozivae import AutoZIVAE
from scvi.models.ldvae import LDVAE
from scvi.models.vae import VAE

__all__ = ["LDVAE", "VAE", "AutoZIVAE"]

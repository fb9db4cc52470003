"""What the papers say: networks and probability, under their 2020 names."""

from scvi.models.autozivae import AutoZIVAE
from scvi.models.classifier import Classifier
from scvi.models.jvae import JVAE
from scvi.models.ldvae import LDVAE
from scvi.models.scanvi import SCANVI
from scvi.models.totalvi import TOTALVI
from scvi.models.vae import VAE
from scvi.models.vaec import VAEC

__all__ = ["JVAE", "LDVAE", "SCANVI", "TOTALVI", "VAE", "VAEC", "AutoZIVAE", "Classifier"]

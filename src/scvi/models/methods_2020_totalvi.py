"""The methods of 2020's totalVI, as :mod:`scvi.models.methods_2020`.

x are counts of genes (n, g), y those of proteins (n, p), batch_index and label codes (n, 1).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from scvi._checks import batch_code, check_draws
from scvi.models.distributions import log_mixture_nb
from scvi.models.gaussian import draw
from scvi.models.methods_2020 import decodable, drawn
from scvi.models.modules_totalvi import MAX_LOG_LIBRARY, proteins_of_2020

if TYPE_CHECKING:
    from scvi.models.totalvae import TOTALVAE


def forward(
    self: TOTALVAE,
    x: Tensor,
    y: Tensor,
    local_l_mean_gene: Tensor,
    local_l_var_gene: Tensor,
    batch_index: Tensor | None = None,
    label: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Reconstruction losses of genes and of proteins, KL of z, log library and background; (n,) each."""
    elbo = self.loss(decodable(self, "forward", x, batch_index, label, local_l_mean_gene, local_l_var_gene, y))
    kl = {"l": torch.zeros_like(elbo.kl["z"]), **elbo.kl}
    return (*(elbo.reconstruction[name] for name in ("genes", "proteins")), kl["z"], kl["l"], kl["background"])


def inference(
    self: TOTALVAE,
    x: Tensor,
    y: Tensor,
    batch_index: Tensor | None = None,
    label: Tensor | None = None,
    n_samples: int = 1,
    transform_batch: int | None = None,
) -> dict[str, Any]:
    """Everything the model says of these cells.

    Parameters
    ----------
    x, y
        (n, g) and (n, p) counts.
    batch_index, label
        (n, 1) codes.
    n_samples
        Draws s; with more than one, all results but the dispersions and the prior get a leading axis s.
    transform_batch
        Decode as if all cells came from the batch of this code.

    Returns
    -------
    dict
        px_ (scale, rate, dropout, r) and py_ (back_alpha, back_beta, rate_back, fore_scale, rate_fore, mixing,
        scale, r); qz_m, qz_v, z, untran_z (n, d); ql_m, ql_v, library_gene, untran_l (n, 1); log_pro_back_mean
        (n, p) and back_mean_prior, its prior. ``ql_m`` and ``ql_v`` are None where the library is observed.
    """
    check_draws("n_samples", n_samples)
    code = batch_code("transform_batch", transform_batch, self.n_batch)
    mb = decodable(self, "inference", x, batch_index, label, proteins=y)
    q = self.variational(mb)
    z, log_size, posterior = drawn(q, mb, n_samples)
    if n_samples == 1 and q.l is not None:
        log_size = log_size.clamp(max=MAX_LOG_LIBRARY)
    decoded = self.generative(z, log_size, mb, code, raw=True)
    genes, proteins = decoded.genes, decoded.proteins
    py_, log_pro_back_mean = proteins_of_2020(proteins.log_background, proteins.log_factor.exp(), proteins.mixing)
    return {
        "px_": {"scale": genes.scale, "rate": genes.rate, "dropout": genes.dropout_logits, "r": genes.theta},
        "py_": {**py_, "r": proteins.theta},
        **posterior,
        "z": self.transformed(z),
        "untran_z": z,
        "library_gene": log_size.exp(),
        "untran_l": log_size,
        "log_pro_back_mean": log_pro_back_mean,
        "back_mean_prior": self.background_prior(mb),
    }


def get_reconstruction_loss(
    self: TOTALVAE,
    x: Tensor,
    y: Tensor,
    px_: dict[str, Tensor],
    py_: dict[str, Tensor],
    pro_batch_mask_minibatch: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(..., n) negative log-likelihoods of genes and of measured proteins, evaluated in float64."""
    genes = self.likelihood.textbook_nll(x, px_["rate"], px_["r"], px_["dropout"])
    back, fore, phi, mixing = (py_[name].double() for name in ("rate_back", "rate_fore", "r", "mixing"))
    proteins = -log_mixture_nb(y.double(), back, fore, phi, None, mixing)
    if pro_batch_mask_minibatch is not None:
        proteins = proteins * pro_batch_mask_minibatch
    return genes, proteins.sum(-1).to(genes.dtype)


def sample_from_posterior_z(
    self: TOTALVAE,
    x: Tensor,
    y: Tensor,
    batch_index: Tensor | None = None,
    give_mean: bool = False,
    n_samples: int = 5000,
) -> Tensor:
    """(n, d): a draw of z, or its mean (over `n_samples` draws where the latent distribution is 'ln')."""
    check_draws("n_samples", n_samples)
    qz = self.variational(decodable(self, "sample_from_posterior_z", x, batch_index, proteins=y)).z
    return self.latent_mean(qz, n_samples) if give_mean else self.transformed(draw(qz))


def sample_from_posterior_l(
    self: TOTALVAE, x: Tensor, y: Tensor, batch_index: Tensor | None = None, give_mean: bool = True
) -> Tensor:
    """(n, 1) library size, not its log: its mean, or a draw; the observed one where it is observed."""
    mb = decodable(self, "sample_from_posterior_l", x, batch_index, proteins=y)
    q = self.variational(mb)
    if q.l is None or not give_mean:
        return q.draw_size(mb).exp()
    return (q.l.loc + q.l.scale.square() / 2).exp()


def get_sample_rate(
    self: TOTALVAE,
    x: Tensor,
    y: Tensor,
    batch_index: Tensor | None = None,
    label: Tensor | None = None,
    n_samples: int = 1,
) -> Tensor:
    """(n, g) expected counts of genes; arguments as :meth:`inference`."""
    return self.inference(x, y, batch_index, label, n_samples)["px_"]["rate"]


def get_sample_dispersion(
    self: TOTALVAE,
    x: Tensor,
    y: Tensor,
    batch_index: Tensor | None = None,
    label: Tensor | None = None,
    n_samples: int = 1,
) -> tuple[Tensor, Tensor]:
    """Inverse dispersions of genes and of proteins; arguments as :meth:`inference`."""
    outputs = self.inference(x, y, batch_index, label, n_samples)
    return outputs["px_"]["r"], outputs["py_"]["r"]


def get_sample_scale(
    self: TOTALVAE,
    x: Tensor,
    y: Tensor,
    batch_index: Tensor | None = None,
    label: Tensor | None = None,
    n_samples: int = 1,
    transform_batch: int | None = None,
    eps: float = 0,
    normalize_pro: bool = False,
    sample_bern: bool = True,
    include_bg: bool = False,
) -> tuple[Tensor, Tensor]:
    """Expected frequencies of genes, and expected foreground counts of proteins plus `eps`.

    Parameters
    ----------
    normalize_pro
        Divide by the sum over proteins.
    sample_bern
        Draw whether a count is background instead of weighing by the probability.
    include_bg
        Add the background.
    """
    outputs = self.inference(x, y, batch_index, label, n_samples, transform_batch)
    py_ = outputs["py_"]
    pi = torch.sigmoid(py_["mixing"])
    pi = torch.bernoulli(pi) if sample_bern else pi
    value = (1 - pi) * py_["rate_fore"]
    if include_bg:
        value = value + pi * py_["rate_back"]
    if normalize_pro:
        value = normalize(value, p=1, dim=-1)
    return outputs["px_"]["scale"], value + eps


def scale_from_z(self: TOTALVAE, x: Tensor, y: Tensor, fixed_batch: int) -> tuple[Tensor, Tensor]:
    """Frequencies of genes and shares of proteins' foreground, at a draw of z, as of cells of batch `fixed_batch`.

    A name of 0.5, where the encoder saw no batch. One that does is shown `fixed_batch`, too; to decode cells in a batch
    that is not theirs, use :meth:`get_sample_scale` with `transform_batch`.
    """
    code = batch_code("fixed_batch", fixed_batch, self.n_batch)
    codes = torch.full((len(x), 1), code, device=x.device)  # type: ignore[arg-type]
    mb = decodable(self, "scale_from_z", x, codes, proteins=y)
    z = self.transformed(draw(self.variational(mb).z))
    px_, py_, _ = self.decoder(z, torch.ones_like(z[:, :1]), *self.categories(mb, codes))
    return px_["scale"], py_["scale"]

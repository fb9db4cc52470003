"""The methods of 2020's gimVI, as :mod:`scvi.models.methods_2020`; they call the number of a data set `mode`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scvi._checks import batch_code, check_integer
from scvi.minibatch import Minibatch
from scvi.models.base import batch_codes
from scvi.models.gaussian import draw
from scvi.models.methods_2020 import three_terms

if TYPE_CHECKING:
    from scvi.models.jvae import JVAE


def encode(self: JVAE, x: Tensor, mode: int) -> tuple[Tensor | None, ...]:
    """(qz_m, qz_v, z, ql_m, ql_v, library) of cells (n, g) of data set `mode`; `library` is the log.

    Where the library size is observed ql_m and ql_v are None; that of an empty cell is taken as 1.
    """
    mb = _cells(self, x, checked_mode(self, mode))
    q = self.variational(mb)
    z, log_size = draw(q.z), q.draw_size(mb)
    of_size = (None, None) if q.l is None else (q.l.loc, q.l.scale.square())
    return q.z.loc, q.z.scale.square(), z, *of_size, log_size


def forward(
    self: JVAE,
    x: Tensor,
    local_l_mean: Tensor,
    local_l_var: Tensor,
    batch_index: Tensor | None = None,
    y: Tensor | None = None,
    mode: int | None = None,
) -> tuple[Tensor, Tensor, Tensor | float]:
    """(reconstruction loss over the observed genes, KL(z) + KL(l), 0.0), the first two (n,)."""
    return three_terms(self.loss(_cells(self, x, checked_mode(self, mode), local_l_mean, local_l_var, batch_index, y)))


def sample_from_posterior_z(self: JVAE, x: Tensor, mode: int | None = None, deterministic: bool = False) -> Tensor:
    """(n, d) a draw of z, or its mean."""
    mean, _, z, *_ = self.encode(x, checked_mode(self, mode, " when having multiple datasets"))
    return mean if deterministic else z  # type: ignore[return-value]


def sample_from_posterior_l(self: JVAE, x: Tensor, mode: int | None = None, deterministic: bool = False) -> Tensor:
    """(n, 1) a draw of the log library size, or its mean; the observed one where it is observed."""
    *_, mean, _, library = self.encode(x, checked_mode(self, mode, " when having multiple datasets"))
    return mean if deterministic and mean is not None else library  # type: ignore[return-value]


def sample_scale(
    self: JVAE,
    x: Tensor,
    mode: int,
    batch_index: Tensor,
    y: Tensor | None = None,
    deterministic: bool = False,
    decode_mode: int | None = None,
    *,
    transform_batch: int | None = None,
) -> Tensor:
    """(n, all genes) expected frequencies; they sum to 1 over the genes that data set `decode_mode` observes.

    Parameters
    ----------
    x
        (n, g) counts of cells of data set `mode`.
    batch_index, y
        (n, 1) codes.
    deterministic
        Decode means of the latent variables, not draws.
    decode_mode
        As which data set to decode; None: `mode`.
    transform_batch
        Code of the batch to decode in, of `decode_mode` perhaps; None: each cell's own.
    """
    return _sampled(self, x, mode, batch_index, y, deterministic, decode_mode, transform_batch)[0]


def sample_rate(
    self: JVAE,
    x: Tensor,
    mode: int,
    batch_index: Tensor,
    y: Tensor | None = None,
    deterministic: bool = False,
    decode_mode: int | None = None,
    *,
    transform_batch: int | None = None,
) -> Tensor:
    """(n, all genes) expected counts: :meth:`sample_scale` times the cell's library size."""
    return _sampled(self, x, mode, batch_index, y, deterministic, decode_mode, transform_batch)[2]


def get_sample_rate(self: JVAE, x: Tensor, batch_index: Tensor, *_: Any, **__: Any) -> Tensor:
    """:meth:`sample_rate` of cells of the first data set; further arguments are ignored."""
    return self.sample_rate(x, 0, batch_index)


def reconstruction_loss(self: JVAE, x: Tensor, px_rate: Tensor, px_r: Tensor, px_dropout: Tensor, mode: int) -> Tensor:
    """(n,) negative log-likelihood of the counts of data set `mode`; all arguments over its genes."""
    return self.likelihoods[checked_mode(self, mode)].textbook_nll(x, px_rate, px_r, px_dropout)


def _sampled(
    model: JVAE,
    x: Tensor,
    mode: int,
    batch_index: Tensor | None,
    y: Tensor | None,
    deterministic: bool,
    decode_mode: int | None,
    transform_batch: int | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    qz_m, _, z, ql_m, _, library = model.encode(x, mode)
    if deterministic:
        z, library = qz_m, library if ql_m is None else ql_m
    code = batch_code("transform_batch", transform_batch, model.n_batch)
    batch = batch_codes(_cells(model, x, mode, None, None, batch_index), code)
    return model.decode(z, mode if decode_mode is None else decode_mode, library, batch, y)  # type: ignore[arg-type]


def checked_mode(model: JVAE, mode: int | None, where: str = "") -> int:
    """The number of a data set; there is no need to say which one where there is one."""
    if mode is None:
        if model.n_datasets > 1:
            raise ValueError(f"Must provide a mode{where}: the number of the data set that the cells are from")
        return 0
    last = model.n_datasets - 1
    return check_integer("mode", mode, 0, last, f"a data set of this model, 0 to {last}")


def _cells(
    model: JVAE,
    x: Tensor,
    mode: int,
    l_mean: Tensor | None = None,
    l_var: Tensor | None = None,
    batch: Tensor | None = None,
    y: Tensor | None = None,
) -> Minibatch:
    """2020's tensors as a minibatch; batch and label 0 where there are none."""
    if x.shape[-1] != model.n_input_list[mode]:
        raise ValueError(f"x has {x.shape[-1]} genes, data set {mode} of this model has {model.n_input_list[mode]}")
    none = torch.zeros(len(x), 1, dtype=torch.long, device=x.device)
    batch, y = none if batch is None else batch, none if y is None else y
    return Minibatch(x, batch, y, l_mean, l_var, dataset=mode)

"""Fast numerics with one door each: compiled code on the CPU, torch operations on every other device.

The choice is made here and nowhere else. numba is imported by the first call that needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from scvi.kernels import forks, gaussian, precision, twin  # noqa: F401 - forks is to be there from the first kernel on
from scvi.kernels.affine import Affine, as_tensor
from scvi.kernels.counts import CountsLook, find_bad_count, look_at_counts, row_digests, rows_to_sparse
from scvi.kernels.dropout import dropout, dropout_from
from scvi.kernels.moments import Moments, Rule
from scvi.kernels.moments import adam_step as adam_in_torch
from scvi.kernels.part import Part, all_agree, drawn_from_rows, drawn_rows, in_part, present_work, recounted
from scvi.kernels.precision import LowWeights, bf16_is_supported, bf16_pays, bf16_products
from scvi.kernels.ratios import LogRatios, log_ratios
from scvi.kernels.rows import SparseRows

if TYPE_CHECKING:
    from scipy.sparse import csr_array, csr_matrix

__all__ = [
    "Affine",
    "Counts",
    "CountsLook",
    "GaussianHeads",
    "LogRatios",
    "LowWeights",
    "Part",
    "SparseRows",
    "adam_step",
    "all_agree",
    "batch_norm",
    "bf16_is_supported",
    "bf16_pays",
    "bf16_products",
    "drawn_from_rows",
    "drawn_rows",
    "dropout",
    "dropout_from",
    "find_bad_count",
    "gaussian_draw_with_kl",
    "hidden_layer",
    "in_part",
    "linear",
    "log_ratios",
    "look_at_counts",
    "mixed_dropout",
    "nll_nb",
    "nll_nb_mixture",
    "nll_poisson",
    "nll_zinb",
    "recounted",
    "row_digests",
    "rows_to_dense",
    "rows_to_sparse",
]

Counts = Tensor | SparseRows
"""(n, g) float32 counts."""


def nll_zinb(
    x: Counts,
    logits: Tensor | Affine,
    log_library: Tensor,
    log_theta: Tensor,
    dropout: Tensor | Affine,
    weight: float | Tensor = 1.0,
) -> Tensor:
    """Negative log-likelihood of zero-inflated negative binomial counts, summed over genes.

    Parameters
    ----------
    x
        (n, g) counts.
    logits
        (..., n, g), s leading draws allowed; the expected frequencies are their softmax.
    log_library
        (n, 1) or (..., n, 1).
    log_theta
        Log inverse dispersion, (g,), (n, g) or (..., n, g); clamped to [-18, 18].
    dropout
        (..., n, g) logits of the probability that a count was replaced by 0.
    weight
        The gradient with respect to each result that the caller expects to come (1 / n for a mean over cells), or one
        for each, (n,) and without leading draws. Any other gradient is handled too, at the price of another pass.

    Returns
    -------
    (..., n)
    """
    return _nll(twin.log_zinb, x, logits, log_library, log_theta, dropout, weight)


def nll_nb(
    x: Counts, logits: Tensor | Affine, log_library: Tensor, log_theta: Tensor, weight: float | Tensor = 1.0
) -> Tensor:
    """As :func:`nll_zinb`, without zero inflation."""
    return _nll(twin.log_nb, x, logits, log_library, log_theta, None, weight)


def nll_poisson(x: Counts, logits: Tensor | Affine, log_library: Tensor, weight: float | Tensor = 1.0) -> Tensor:
    """As :func:`nll_zinb`, for Poisson counts."""
    return _nll(twin.log_poisson, x, logits, log_library, None, None, weight)


def mixed_dropout(dropout: Tensor | Affine, delta: Tensor, floor: float = 0.0) -> Tensor:
    """Dropout logits of a mixture: with weight `delta` without dropout, else dropped with a probability above `floor`.

    Parameters
    ----------
    dropout
        (..., n, g) logits a; the second component drops with probability ``floor + (1 - floor) sigmoid(a)``.
    delta
        Weights in [0, 1], (g,) or of a shape that broadcasts to that of the logits.
    floor
        In [0, 1).

    Returns
    -------
    (..., n, g) logits of ``(1 - delta) (floor + (1 - floor) sigmoid(a))``
    """
    logits = as_tensor(dropout)
    if _compiled(logits, delta):
        from scvi.kernels.fused import MixedDropout

        return MixedDropout.apply(logits, delta, floor)
    return twin.mixed_dropout(logits, delta, floor)


def nll_nb_mixture(
    y: Tensor,
    log_background: Tensor,
    log_factor: Tensor,
    mixing: Tensor,
    log_theta: Tensor,
    measured: Tensor | None = None,
    weight: float = 1.0,
) -> Tensor:
    """Negative log-likelihood of counts that are background or foreground, summed over proteins.

    Parameters
    ----------
    y
        (n, p) counts.
    log_background, log_factor
        (..., n, p): log of the mean count of the background, and of how many times more the foreground has.
    mixing
        (..., n, p) logits of the probability of the background.
    log_theta
        Log inverse dispersion of both, (p,), (n, p) or (..., n, p); clamped to [-18, 18].
    measured
        (n, p): counts where it is False or 0 say nothing and add nothing; None: all are measured.
    weight
        As in :func:`nll_zinb`.

    Returns
    -------
    (..., n)
    """
    if _compiled(y, log_background, log_factor, mixing, log_theta):
        from scvi.kernels.fused import mixture_nll

        return mixture_nll(y, log_background, log_factor, mixing, log_theta, measured, weight)
    log_likelihood = twin.log_nb_mixture(y, log_background, log_factor, mixing, log_theta)
    return -(log_likelihood if measured is None else log_likelihood * measured).sum(-1)


def linear(x: Counts, weight: Tensor, bias: Tensor | None, beside: Tensor | None = None) -> Tensor:
    """A linear layer of counts, or of a function of them that leaves zeros at zero, and of dense columns beside them.

    Parameters
    ----------
    x, beside
        (n, g) and (n, k).
    weight, bias
        (h, g + k) and (h,). Sparse rows read the weights by gene: best lay them like that in memory.

    Returns
    -------
    (n, h)
    """
    given = _checked(x, beside, weight)
    if isinstance(given, SparseRows) and _compiled(given, weight):
        from scvi.kernels.networks import SparseLinear

        return SparseLinear.apply(given, weight, bias, beside)
    dense = _dense(given)
    return precision.linear(dense if beside is None else torch.cat([dense, beside], dim=-1), weight, bias)


def batch_norm(x: Tensor, norm: nn.BatchNorm1d) -> Tensor:
    """Rows (n, d) with moments of their own in training, over all processes where :func:`in_part` says so."""
    work = present_work()
    if work is None or not norm.training:
        return norm(x)
    from scvi.kernels.shared_norm import shared_batch_norm

    return shared_batch_norm(x, norm, work.processes)


def _checked(x: Counts, beside: Tensor | None, weight: Tensor) -> Counts:
    """Rows that belong to the weights: sparse where such a product is faster, else dense in its precision."""
    width = x.shape[-1] + (0 if beside is None else beside.shape[-1])
    if width != weight.shape[1]:  # compiled code does not check the bounds of its arrays
        raise ValueError(f"{width} columns do not belong to weights of shape {tuple(weight.shape)}")
    if not isinstance(x, SparseRows) or x.density < precision.dense_from(weight):
        return x
    return _dense(x, torch.float32 if precision.low_of(weight) is None else torch.bfloat16)


def hidden_layer(
    x: Counts, layer: nn.Linear, norm: nn.BatchNorm1d, rate: float, beside: Tensor | None = None
) -> Tensor:
    """A linear layer, batch norm in training mode, ReLU and dropout; the running moments are brought up to date.

    Dropout draws from the generator that :func:`dropout_from` names.

    Parameters
    ----------
    x, beside
        As in :func:`linear`.

    Returns
    -------
    (n, h)
    """
    work = present_work()
    if work is None and _compiled(x, layer.weight) and len(x) > 1:
        from scvi.kernels.networks import Hidden

        x = _checked(x, beside, layer.weight)
        return Hidden.apply(x, beside, layer.weight, layer.bias, norm.weight, norm.bias, norm, rate)
    h = torch.relu(batch_norm(linear(x, layer.weight, layer.bias, beside), norm))
    if work is None or rate == 0 or not _compiled(h):
        return dropout(h, rate)
    from scvi.kernels.networks import kept_entries

    return h * kept_entries(work.part.places, h.shape[1], rate)


class GaussianHeads(NamedTuple):
    """N(mean, exp(log variance) + floor), (n, d), of two linear layers of one input, not computed yet."""

    h: Tensor  # (n, hidden)
    w_mean: Tensor  # (d, hidden)
    b_mean: Tensor  # (d,)
    w_var: Tensor  # (d, hidden)
    b_var: Tensor  # (d,)
    floor: float

    def compute(self) -> tuple[Tensor, Tensor]:
        """Location and scale."""
        return gaussian.Heads.apply(*self)

    def draw_with_kl(self, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Location, scale, a draw with `noise` (n, d) of N(0, 1), and KL(q || N(0, I)), (n,)."""
        if _compiled(self.h, self.w_mean, self.w_var, noise):
            from scvi.kernels.networks import GaussianDraw

            return GaussianDraw.apply(*self, noise)
        loc, scale = self.compute()
        return loc, scale, *gaussian_draw_with_kl(loc, scale, noise)


def gaussian_draw_with_kl(loc: Tensor, scale: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """A draw (n, d) of a Gaussian with `noise` of N(0, 1), and KL(q || N(0, I)), (n,)."""
    return gaussian.DrawWithKl.apply(loc, scale, noise)


def adam_step(moments: Moments, given: Sequence[int], loss: Tensor, rule: Rule) -> Tensor:
    """A step of Adam with those parameters (their numbers) that have a gradient; none where something is not finite.

    Returns
    -------
    () whether loss and norm of the gradient were finite and the step was taken.
    """
    if _compiled(moments.flat_mean):
        from scvi.kernels import networks

        return torch.tensor(networks.adam_step(moments, given, loss, rule))
    return adam_in_torch(moments, given, loss, rule)


def _dense(x: Counts, dtype: torch.dtype = torch.float32) -> Tensor:
    if not isinstance(x, SparseRows):
        return x
    if not _compiled(x):
        return x.dense
    from scvi.kernels.networks import densified

    return densified(x, dtype)


def _compiled(*given: Counts | Affine) -> bool:
    tensors = [t.values if isinstance(t, SparseRows) else t.h if isinstance(t, Affine) else t for t in given]
    return all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)


def _nll(
    density: Callable[..., Tensor],
    x: Counts,
    logits: Tensor | Affine,
    log_library: Tensor,
    log_theta: Tensor | None,
    dropout: Tensor | Affine | None,
    weight: float | Tensor,
) -> Tensor:
    """(..., n); `density` is the elementwise log density in torch operations, of those parameters that are not None."""
    given = [t for t in (logits, log_library, log_theta, dropout) if t is not None]
    if not _compiled(x, *given):
        return -density(_dense(x), *map(as_tensor, given)).sum(-1)
    from scvi.kernels.fused import count_nll

    x = x if isinstance(x, SparseRows) else SparseRows.of(x)
    return count_nll(x, logits, log_library, log_theta, dropout, weight)


def rows_to_dense(
    counts: csr_matrix | csr_array | np.ndarray, rows: np.ndarray, columns: np.ndarray | None, n_genes: int
) -> Tensor:
    """As :func:`rows_to_sparse`; (len(rows), n_genes)."""
    return _dense(rows_to_sparse(counts, rows, columns, n_genes))

"""Fully connected layers that see covariates, and Gaussian draws."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from scvi.kernels import Affine, Counts, batch_norm, dropout, hidden_layer, linear
from scvi.models.gaussian import draw
from scvi.models.one_hot import as_one_hot

VARIANCE_FLOOR = 1e-4  # of the Gaussians that encoders give


def reparameterize_gaussian(mu: Tensor, var: Tensor) -> Tensor:
    """A differentiable draw from N(mu, var)."""
    return draw(Normal(mu, var.sqrt(), validate_args=False))


def identity(x: Tensor) -> Tensor:
    """Returns `x`."""
    return x


class FCLayers(nn.Module):
    """Linear -> batch norm -> layer norm -> ReLU -> dropout, `n_layers` times; covariates enter every layer.

    Parameters
    ----------
    n_in, n_out, n_hidden
        Widths of input, output and the layers between.
    n_cat_list
        Category counts of the covariates; 0 and 1 stand for no covariate.
    n_layers
        Number of layers, at least one.
    dropout_rate, use_batch_norm, use_relu, bias
        Parts of each layer; one that is off keeps its place in the state dict.
    n_cont
        Number of continuous covariates.
    use_layer_norm
        Normalise the units of each cell; this norm has no weights.
    inject_covariates
        Show the covariates to every layer, not to the first alone.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_cat_list: Sequence[int] | None = None,
        n_layers: int = 1,
        n_hidden: int = 128,
        dropout_rate: float = 0.1,
        use_batch_norm: bool = True,
        use_relu: bool = True,
        bias: bool = True,
        *,
        n_cont: int = 0,
        use_layer_norm: bool = False,
        inject_covariates: bool = True,
    ):
        super().__init__()
        self.n_cat_list = [n if n > 1 else 0 for n in n_cat_list or []]
        self.n_cont, self.inject_covariates = n_cont, inject_covariates
        widths = [n_in] + [n_hidden] * (n_layers - 1) + [n_out]
        extra = sum(self.n_cat_list) + n_cont

        def layer(number: int, width_in: int, width_out: int) -> nn.Sequential:
            beside = extra if inject_covariates or number == 0 else 0
            return nn.Sequential(
                nn.Linear(width_in + beside, width_out, bias=bias),
                nn.BatchNorm1d(width_out, momentum=0.01, eps=0.001) if use_batch_norm else nn.Identity(),
                *([nn.LayerNorm(width_out, elementwise_affine=False)] if use_layer_norm else []),
                nn.ReLU() if use_relu else nn.Identity(),
                nn.Dropout(dropout_rate) if dropout_rate > 0 else nn.Identity(),
            )

        pairs = zip(widths[:-1], widths[1:], strict=True)
        self.fc_layers = nn.Sequential(OrderedDict((f"Layer {i}", layer(i, *pair)) for i, pair in enumerate(pairs)))
        first = self.fc_layers[0][0]  # type: ignore[index]
        # Laid out by input in memory: the first layer may read sparse counts, which look the weights up by gene.
        first.weight = nn.Parameter(first.weight.detach().t().contiguous().t())

    def forward(
        self,
        x: Counts,
        *cat_list: Tensor | None,
        instance_id: int = 0,
        cont: Tensor | None = None,
        also: Tensor | None = None,
    ) -> Tensor:
        """(..., n, n_in) -> (..., n, n_out); categories (n, 1) codes or (n, k) one-hot, `cont` (n, n_cont).

        `also` are further columns of x, dense where x may be sparse; `n_in` counts them.
        """
        covariates = self.covariates(cat_list, cont)
        for layer in self.fc_layers:
            columns = [*([] if also is None else [also]), *(c.expand(*x.shape[:-1], -1) for c in covariates)]
            beside, also = torch.cat(columns, dim=-1) if columns else None, None
            x = hidden(layer, x, beside)  # type: ignore[arg-type]
            covariates = covariates if self.inject_covariates else []
        return x  # type: ignore[return-value]

    def covariates(self, cat_list: tuple[Tensor | None, ...], cont: Tensor | None) -> list[Tensor]:
        """The columns, (n, .) each, that are put beside the input of every layer."""
        if len(cat_list) < len(self.n_cat_list):
            raise AssertionError("nb. categorical args provided doesn't match init. params.")
        seen = [(cat, n_cat) for n_cat, cat in zip(self.n_cat_list, cat_list, strict=False) if n_cat > 0]
        if any(cat is None for cat, _ in seen):
            raise AssertionError("cat not provided while n_cat != 0 in init. params.")
        covariates = [as_one_hot(cat, n_cat) for cat, n_cat in seen]  # type: ignore[arg-type]
        if self.n_cont:
            if cont is None:
                raise ValueError(f"{self.n_cont} continuous covariates are expected, none came")
            covariates.append(cont)
        return covariates


def hidden(layer: nn.Sequential, x: Counts, beside: Tensor | None = None) -> Tensor:
    """What linear, batch norm, layer norm, ReLU and dropout make of x (..., n, d) and of columns beside it."""
    first, norm, *of_units, relu, last = layer.children()  # layer norm has a place only where it is used
    rate = last.p if isinstance(last, nn.Dropout) and last.training else 0.0
    fuses = isinstance(relu, nn.ReLU) and not of_units and len(x.shape) == 2
    if isinstance(norm, nn.BatchNorm1d) and norm.training and fuses:
        return hidden_layer(x, first, norm, rate, beside)  # type: ignore[arg-type]
    h = _each_draw(norm, linear(x, first.weight, first.bias, beside))  # type: ignore[arg-type]
    for layer_norm in of_units:
        h = layer_norm(h)
    h = relu(h)
    return dropout(h, rate) if isinstance(last, nn.Dropout) else last(h)


def waiting(layer: nn.Module, h: Tensor, genes: Tensor | None = None) -> Tensor | Affine:
    """A linear layer of h (..., n, hidden), or of it the rows of some genes (k,).

    Where gradients are wanted it is not computed here: the likelihood does so in memory of its own, and writes the
    gradient over the logits instead of keeping both, see :class:`scvi.kernels.Affine`.
    """
    weight, bias = (p if genes is None else p[genes] for p in (layer.weight, layer.bias))  # type: ignore[index]
    return Affine(h, weight, bias) if torch.is_grad_enabled() else linear(h, weight, bias)  # type: ignore[arg-type]


def _each_draw(norm: nn.Module, x: Tensor) -> Tensor:
    """Batch norm with statistics of one draw at a time: (s, n, d) -> (s, n, d)."""
    if not isinstance(norm, nn.BatchNorm1d):
        return norm(x)
    if x.dim() == 2:
        return batch_norm(x, norm)
    if not norm.training:
        return norm(x.flatten(0, -2)).view_as(x)
    return torch.stack([batch_norm(one, norm) for one in x])

"""Building blocks of the networks. Attribute names are part of the file format of saved weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from scvi._checks import check_choice, check_flag, superseded
from scvi.kernels import Affine, Counts
from scvi.kernels.affine import as_tensor
from scvi.models.architecture import LayerOptions
from scvi.models.gaussian import VarianceActivation, activation_name, draw, gaussian_of
from scvi.models.layers import VARIANCE_FLOOR, FCLayers, identity, reparameterize_gaussian, waiting
from scvi.models.modules_totalvi import DecoderTOTALVI, EncoderTOTALVI

__all__ = [
    "Decoder",
    "DecoderSCVI",
    "DecoderTOTALVI",
    "Encoder",
    "EncoderTOTALVI",
    "FCLayers",
    "LinearDecoderSCVI",
    "MultiDecoder",
    "MultiEncoder",
    "identity",
    "reparameterize_gaussian",
]


class Encoder(nn.Module):
    """q(z | x): a Gaussian whose mean and variance are read off a network.

    With ``distribution='ln'`` the latent variable is the softmax of the Gaussian one.
    """

    def __init__(
        self,
        n_input: int,
        n_output: int,
        n_cat_list: Sequence[int] | None = None,
        n_layers: int = 1,
        n_hidden: int = 128,
        dropout_rate: float = 0.1,
        distribution: str = "normal",
        *,
        n_cont: int = 0,
        var_activation: VarianceActivation = "exp",
        **layers: Unpack[LayerOptions],
    ):
        super().__init__()
        check_choice("distribution", distribution, ("normal", "ln"))
        self.distribution, self.var_activation = distribution, activation_name(var_activation)
        self.encoder = FCLayers(
            n_input, n_hidden, n_cat_list, n_layers, n_hidden, dropout_rate, n_cont=n_cont, **layers
        )
        self.mean_encoder = nn.Linear(n_hidden, n_output)
        self.var_encoder = nn.Linear(n_hidden, n_output)
        self.z_transformation = nn.Softmax(dim=-1) if distribution == "ln" else identity

    def encode(self, x: Counts, *cat_list: Tensor | None, cont: Tensor | None = None) -> Normal:
        """The untransformed Gaussian, (n, d)."""
        h = self.encoder(x, *cat_list, cont=cont)
        return gaussian_of(h, self.mean_encoder, self.var_encoder, VARIANCE_FLOOR, self.var_activation)

    def forward(self, x: Tensor, *cat_list: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and variance of the untransformed Gaussian, and a transformed draw; each (n, d)."""
        q = self.encode(x, *cat_list)
        return q.loc, q.scale.square(), self.z_transformation(draw(q))


class Decoder(nn.Module):
    """A Gaussian p(x | z): (mean, variance)."""

    def __init__(
        self,
        n_input: int,
        n_output: int,
        n_cat_list: Sequence[int] | None = None,
        n_layers: int = 1,
        n_hidden: int = 128,
        **layers: Unpack[LayerOptions],
    ):
        super().__init__()
        self.decoder = FCLayers(n_input, n_hidden, n_cat_list, n_layers, n_hidden, dropout_rate=0, **layers)
        self.mean_decoder = nn.Linear(n_hidden, n_output)
        self.var_decoder = nn.Linear(n_hidden, n_output)

    def forward(self, x: Tensor, *cat_list: Tensor | None) -> tuple[Tensor, Tensor]:
        """(n, n_input) -> mean and variance, each (n, n_output)."""
        p = self.decoder(x, *cat_list)
        return self.mean_decoder(p), torch.exp(self.var_decoder(p))


Heads = tuple[Tensor | Affine, Tensor | None, Tensor | Affine | None]


def _as_in_2020(heads: Heads, library: Tensor) -> tuple[Tensor | None, ...]:
    """(px_scale, px_r, px_rate, px_dropout), from logits and the log library size (n, 1)."""
    logits, px_r, px_dropout = heads
    px_scale = torch.softmax(as_tensor(logits), dim=-1)
    return px_scale, px_r, torch.exp(library) * px_scale, as_tensor(px_dropout)  # type: ignore[arg-type]


class DecoderSCVI(nn.Module):
    """Expected frequencies, dropout logits and (for ``'gene-cell'``) log dispersion of counts given z."""

    def __init__(
        self,
        n_input: int,
        n_output: int,
        n_cat_list: Sequence[int] | None = None,
        n_layers: int = 1,
        n_hidden: int = 128,
        *,
        n_cont: int = 0,
        **layers: Unpack[LayerOptions],
    ):
        super().__init__()
        self.px_decoder = FCLayers(
            n_input, n_hidden, n_cat_list, n_layers, n_hidden, dropout_rate=0, n_cont=n_cont, **layers
        )
        self.px_scale_decoder = nn.Sequential(nn.Linear(n_hidden, n_output), nn.Softmax(dim=-1))
        self.px_r_decoder = nn.Linear(n_hidden, n_output)
        self.px_dropout_decoder = nn.Linear(n_hidden, n_output)

    def heads(
        self, z: Tensor, *cat_list: Tensor | None, cont: Tensor | None = None, r: bool = False, dropout: bool = True
    ) -> Heads:
        """Logits of the frequencies, log dispersion and dropout logits, (..., n, g); the last two if asked for."""
        h = self.px_decoder(z, *cat_list, cont=cont)
        log_r = self.px_r_decoder(h) if r else None
        return waiting(self.px_scale_decoder[0], h), log_r, waiting(self.px_dropout_decoder, h) if dropout else None

    def scale_bias(self) -> nn.Parameter:
        """(g,) the parameter that the frequencies' logits equal where nothing else contributes."""
        return self.px_scale_decoder[0].bias  # type: ignore[return-value]

    def forward(
        self, dispersion: str, z: Tensor, library: Tensor, *cat_list: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """(px_scale, px_r, px_rate, px_dropout); `library` is the log library size (n, 1)."""
        return _as_in_2020(self.heads(z, *cat_list, r=dispersion == "gene-cell"), library)


class LinearDecoderSCVI(nn.Module):
    """The decoder of LDVAE (Svensson et al. 2020): each head is one linear map of z and the covariates."""

    @superseded(
        n_layers="each head is one linear map, with the options use_batch_norm and bias; leave it out",
        n_hidden="each head is one linear map, with the options use_batch_norm and bias; leave it out",
    )
    def __init__(
        self,
        n_input: int,
        n_output: int,
        n_cat_list: Sequence[int] | None = None,
        use_batch_norm: bool = True,
        bias: bool = False,
        *,
        n_cont: int = 0,
    ):
        super().__init__()
        check_flag("use_batch_norm", use_batch_norm)  # the numbers of layers and of hidden units stood here in 0.5
        check_flag("bias", bias)

        def linear_map() -> FCLayers:
            return FCLayers(
                n_input,
                n_output,
                n_cat_list,
                dropout_rate=0,
                use_batch_norm=use_batch_norm,
                use_relu=False,
                bias=bias,
                n_cont=n_cont,
            )

        self.factor_regressor = linear_map()
        self.px_dropout_decoder = linear_map()

    def heads(
        self, z: Tensor, *cat_list: Tensor | None, cont: Tensor | None = None, r: bool = False, dropout: bool = True
    ) -> Heads:
        """As :meth:`DecoderSCVI.heads`; there is no log dispersion."""
        if r:
            raise ValueError(
                "a linear decoder has no dispersion of its own; choose another dispersion than 'gene-cell'"
            )
        px_dropout = self.px_dropout_decoder(z, *cat_list, cont=cont) if dropout else None
        return self.factor_regressor(z, *cat_list, cont=cont), None, px_dropout

    def scale_bias(self) -> nn.Parameter | None:
        """(g,) bias of the batch norm or of the linear map; None where there is neither."""
        linear, norm = self.factor_regressor.fc_layers[0][:2]  # type: ignore[index]
        return norm.bias if isinstance(norm, nn.BatchNorm1d) else linear.bias

    def forward(
        self, dispersion: str, z: Tensor, library: Tensor, *cat_list: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """(px_scale, None, px_rate, px_dropout); `library` is the log library size (n, 1)."""
        return _as_in_2020(self.heads(z, *cat_list), library)


class MultiEncoder(nn.Module):
    """One network a data set, then a shared one: q(z | x) of gimVI."""

    def __init__(
        self,
        n_heads: int,
        n_input_list: Sequence[int],
        n_output: int,
        n_hidden: int = 128,
        n_layers_individual: int = 1,
        n_layers_shared: int = 2,
        n_cat_list: Sequence[int] | None = None,
        dropout_rate: float = 0.1,
    ):
        super().__init__()
        if len(n_input_list) != n_heads:
            raise ValueError(
                f"n_input_list has {len(n_input_list)} entries for n_heads={n_heads}; give one width a head"
            )
        self.encoders = nn.ModuleList(
            FCLayers(n_input, n_hidden, n_cat_list, n_layers_individual, n_hidden, dropout_rate)
            for n_input in n_input_list
        )
        self.encoder_shared = FCLayers(n_hidden, n_hidden, n_cat_list, n_layers_shared, n_hidden, dropout_rate)
        self.mean_encoder = nn.Linear(n_hidden, n_output)
        self.var_encoder = nn.Linear(n_hidden, n_output)
        self.z_transformation = identity

    def encode(self, x: Counts, head_id: int, *cat_list: Tensor | None) -> Normal:
        """The Gaussian of cells of data set `head_id`, (n, n_output); the variance has a floor."""
        h = self.encoder_shared(self.encoders[head_id](x, *cat_list), *cat_list)
        return gaussian_of(h, self.mean_encoder, self.var_encoder, VARIANCE_FLOOR)

    def forward(self, x: Tensor, head_id: int, *cat_list: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and a draw, each (n, n_output)."""
        q = self.encoder_shared(self.encoders[head_id](x, *cat_list), *cat_list)
        mean, variance = self.mean_encoder(q), torch.exp(self.var_encoder(q))
        return mean, variance, reparameterize_gaussian(mean, variance)


class MultiDecoder(nn.Module):
    """The decoder of gimVI: layers that see the covariates, then layers that do not, then the heads of scVI."""

    def __init__(
        self,
        n_input: int,
        n_output: int,
        n_hidden_conditioned: int = 32,
        n_hidden_shared: int = 128,
        n_layers_conditioned: int = 1,
        n_layers_shared: int = 1,
        n_cat_list: Sequence[int] | None = None,
        dropout_rate: float = 0.2,
    ):
        super().__init__()
        width = n_input
        self.px_decoder_conditioned: FCLayers | None = None
        self.px_decoder_final: FCLayers | None = None
        if n_layers_conditioned > 0:
            n_out = n_hidden_conditioned if n_layers_shared else n_hidden_shared
            self.px_decoder_conditioned = FCLayers(
                width, n_out, n_cat_list, n_layers_conditioned, n_hidden_conditioned, dropout_rate
            )
            width = n_out
        if n_layers_shared > 0:
            self.px_decoder_final = FCLayers(width, n_hidden_shared, [], n_layers_shared, n_hidden_shared, dropout_rate)
            width = n_hidden_shared
        self.px_scale_decoder = nn.Sequential(nn.Linear(width, n_output), nn.Softmax(dim=-1))
        self.px_r_decoder = nn.Linear(width, n_output)
        self.px_dropout_decoder = nn.Linear(width, n_output)

    def heads(
        self,
        z: Tensor,
        *cat_list: Tensor | None,
        genes: Tensor | None = None,
        r: bool = False,
        dropout: bool = True,
    ) -> Heads:
        """As :meth:`DecoderSCVI.heads`; with `genes` (k,) for these alone, and nothing is computed for the others."""
        h = z if self.px_decoder_conditioned is None else self.px_decoder_conditioned(z, *cat_list)
        h = h if self.px_decoder_final is None else self.px_decoder_final(h)
        log_r = as_tensor(waiting(self.px_r_decoder, h, genes)) if r else None
        drop = waiting(self.px_dropout_decoder, h, genes) if dropout else None
        return waiting(self.px_scale_decoder[0], h, genes), log_r, drop

    def scale_bias(self) -> nn.Parameter:
        """As :meth:`DecoderSCVI.scale_bias`."""
        return self.px_scale_decoder[0].bias  # type: ignore[return-value]

    def forward(
        self, z: Tensor, dataset_id: int, library: Tensor, dispersion: str, *cat_list: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """(px_scale, px_r, px_rate, px_dropout); `library` is the log library size (n, 1)."""
        return _as_in_2020(self.heads(z, *cat_list, r=dispersion == "gene-cell"), library)

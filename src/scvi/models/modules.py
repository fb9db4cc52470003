"""Building blocks of the networks. Attribute names are part of the file format of saved weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from scvi.kernels import Counts, batch_norm_relu_dropout, linear
from scvi.kernels.affine import Affine, as_tensor
from scvi.models.gaussian import draw, gaussian_of
from scvi.models.layers import FCLayers, dropout_rate_of, identity, reparameterize_gaussian
from scvi.models.utils import check_choice

__all__ = [
    "MAX_LOG_LIBRARY",
    "Decoder",
    "DecoderSCVI",
    "DecoderTOTALVI",
    "Encoder",
    "EncoderTOTALVI",
    "FCLayers",
    "LinearDecoderSCVI",
    "MultiDecoder",
    "MultiEncoder",
    "TotalHeads",
    "identity",
    "reparameterize_gaussian",
]

_VARIANCE_FLOOR = 1e-4
MAX_LOG_LIBRARY = 15.0
"""Largest draw of the log library size in totalVI."""


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
    ):
        super().__init__()
        check_choice("distribution", distribution, ("normal", "ln"))
        self.distribution = distribution
        self.encoder = FCLayers(n_input, n_hidden, n_cat_list, n_layers, n_hidden, dropout_rate, n_cont=n_cont)
        self.mean_encoder = nn.Linear(n_hidden, n_output)
        self.var_encoder = nn.Linear(n_hidden, n_output)
        self.z_transformation = nn.Softmax(dim=-1) if distribution == "ln" else identity

    def encode(self, x: Counts, *cat_list: Tensor | None, cont: Tensor | None = None) -> Normal:
        """The untransformed Gaussian, (n, d)."""
        h = self.encoder(x, *cat_list, cont=cont)
        return gaussian_of(h, self.mean_encoder, self.var_encoder, _VARIANCE_FLOOR)

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
    ):
        super().__init__()
        self.decoder = FCLayers(n_input, n_hidden, n_cat_list, n_layers, n_hidden, dropout_rate=0)
        self.mean_decoder = nn.Linear(n_hidden, n_output)
        self.var_decoder = nn.Linear(n_hidden, n_output)

    def forward(self, x: Tensor, *cat_list: Tensor | None) -> tuple[Tensor, Tensor]:
        """(n, n_input) -> mean and variance, each (n, n_output)."""
        p = self.decoder(x, *cat_list)
        return self.mean_decoder(p), torch.exp(self.var_decoder(p))


Heads = tuple[Tensor | Affine, Tensor | None, Tensor | Affine | None]


def _waiting(layer: nn.Module, h: Tensor, genes: Tensor | None = None) -> Tensor | Affine:
    """A linear layer of h, or some rows of it; where gradients are wanted it is left to the likelihood to compute."""
    weight, bias = (p if genes is None else p[genes] for p in (layer.weight, layer.bias))  # type: ignore[index]
    return Affine(h, weight, bias) if torch.is_grad_enabled() else linear(h, weight, bias)  # type: ignore[arg-type]


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
    ):
        super().__init__()
        self.px_decoder = FCLayers(n_input, n_hidden, n_cat_list, n_layers, n_hidden, dropout_rate=0, n_cont=n_cont)
        self.px_scale_decoder = nn.Sequential(nn.Linear(n_hidden, n_output), nn.Softmax(dim=-1))
        self.px_r_decoder = nn.Linear(n_hidden, n_output)
        self.px_dropout_decoder = nn.Linear(n_hidden, n_output)

    def heads(
        self, z: Tensor, *cat_list: Tensor | None, cont: Tensor | None = None, r: bool = False, dropout: bool = True
    ) -> Heads:
        """Logits of the frequencies, log dispersion and dropout logits, (..., n, g); the last two if asked for."""
        h = self.px_decoder(z, *cat_list, cont=cont)
        log_r = self.px_r_decoder(h) if r else None
        return _waiting(self.px_scale_decoder[0], h), log_r, _waiting(self.px_dropout_decoder, h) if dropout else None

    def scale_bias(self) -> nn.Parameter:
        """(g,) the parameter that the frequencies' logits equal where nothing else contributes."""
        return self.px_scale_decoder[0].bias  # type: ignore[return-value]

    def forward(
        self, dispersion: str, z: Tensor, library: Tensor, *cat_list: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """(px_scale, px_r, px_rate, px_dropout); `library` is the log library size (n, 1)."""
        logits, px_r, px_dropout = self.heads(z, *cat_list, r=dispersion == "gene-cell")
        px_scale = torch.softmax(as_tensor(logits), dim=-1)
        return px_scale, px_r, torch.exp(library) * px_scale, as_tensor(px_dropout)  # type: ignore[arg-type]


class LinearDecoderSCVI(nn.Module):
    """The decoder of LDVAE (Svensson et al. 2020): each head is one linear map of z and the covariates."""

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

        def linear_map() -> FCLayers:
            return FCLayers(
                n_input,
                n_output,
                n_cat_list,
                dropout_rate=0,
                use_batch_norm=bool(use_batch_norm),
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
        logits, _, px_dropout = self.heads(z, *cat_list)
        px_scale = torch.softmax(as_tensor(logits), dim=-1)
        return px_scale, None, torch.exp(library) * px_scale, as_tensor(px_dropout)  # type: ignore[arg-type]


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
        return gaussian_of(h, self.mean_encoder, self.var_encoder, _VARIANCE_FLOOR)

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

    def hidden(self, z: Tensor, *cat_list: Tensor | None) -> Tensor:
        """(..., n, width) what the heads see: z itself where there are no layers."""
        h = z if self.px_decoder_conditioned is None else self.px_decoder_conditioned(z, *cat_list)
        return h if self.px_decoder_final is None else self.px_decoder_final(h)

    def heads(
        self,
        z: Tensor,
        *cat_list: Tensor | None,
        genes: Tensor | None = None,
        r: bool = False,
        dropout: bool = True,
    ) -> Heads:
        """As :meth:`DecoderSCVI.heads`; with `genes` (k,) for these alone, and nothing is computed for the others."""
        h = self.hidden(z, *cat_list)
        log_r = as_tensor(_waiting(self.px_r_decoder, h, genes)) if r else None
        drop = _waiting(self.px_dropout_decoder, h, genes) if dropout else None
        return _waiting(self.px_scale_decoder[0], h, genes), log_r, drop

    def forward(
        self, z: Tensor, dataset_id: int, library: Tensor, dispersion: str, *cat_list: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """(px_scale, px_r, px_rate, px_dropout); `library` is the log library size (n, 1)."""
        h = self.hidden(z, *cat_list)
        px_scale = self.px_scale_decoder(h)
        px_r = self.px_r_decoder(h) if dispersion == "gene-cell" else None
        return px_scale, px_r, torch.exp(library) * px_scale, self.px_dropout_decoder(h)


class EncoderTOTALVI(nn.Module):
    """q(z | x, y) and q(l | x, y) of totalVI: one trunk, a branch for each; the log library is at most 15.

    With ``latent_library=False`` there is no branch for l, which is observed.
    """

    def __init__(
        self,
        n_input: int,
        n_output: int,
        n_cat_list: Sequence[int] | None = None,
        n_layers: int = 2,
        n_hidden: int = 256,
        dropout_rate: float = 0.1,
        distribution: str = "ln",
        *,
        n_cont: int = 0,
        latent_library: bool = True,
    ):
        super().__init__()
        check_choice("distribution", distribution, ("normal", "ln"))
        self.distribution, self.latent_library = distribution, latent_library
        self.encoder = FCLayers(n_input, n_hidden, n_cat_list, n_layers, n_hidden, dropout_rate, n_cont=n_cont)

        def branch() -> nn.Sequential:
            parts = nn.Linear(n_hidden, n_hidden), nn.BatchNorm1d(n_hidden), nn.ReLU(), nn.Dropout(dropout_rate)
            return nn.Sequential(*parts)

        self.z_encoder = branch()
        self.z_mean_encoder = nn.Linear(n_hidden, n_output)
        self.z_var_encoder = nn.Linear(n_hidden, n_output)
        if latent_library:
            self.l_encoder = branch()
            self.l_mean_encoder = nn.Linear(n_hidden, 1)
            self.l_var_encoder = nn.Linear(n_hidden, 1)
        self.z_transformation = nn.Softmax(dim=-1) if distribution == "ln" else identity

    def reparameterize_transformation(self, mu: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """A draw of z and the same before its transformation."""
        untransformed = reparameterize_gaussian(mu, var)
        return self.z_transformation(untransformed), untransformed

    def encode(
        self, genes: Counts, *cat_list: Tensor | None, also: Tensor | None = None, cont: Tensor | None = None
    ) -> tuple[Normal, Normal | None]:
        """The Gaussians of the untransformed z, (n, d), and of the log library, (n, 1); `also` are the proteins."""
        h = self.encoder(genes, *cat_list, also=also, cont=cont)
        qz = gaussian_of(_branched(self.z_encoder, h), self.z_mean_encoder, self.z_var_encoder, _VARIANCE_FLOOR)
        if not self.latent_library:
            return qz, None
        ql = gaussian_of(_branched(self.l_encoder, h), self.l_mean_encoder, self.l_var_encoder, _VARIANCE_FLOOR)
        return qz, ql

    def forward(self, data: Tensor, *cat_list: Tensor | None) -> tuple[Tensor | dict[str, Tensor], ...]:
        """(qz_m, qz_v, ql_m, ql_v, latent, untran_latent); the dictionaries have 'z' and 'l' (library, its log)."""
        qz, ql = self.encode(data, *cat_list)
        if ql is None:
            raise ValueError("the library size is observed here: call `encode`, which gives q(z) alone")
        z, untran_z = self.reparameterize_transformation(qz.loc, qz.scale.square())
        log_library = draw(ql).clamp(max=MAX_LOG_LIBRARY)
        latent = {"z": z, "l": torch.exp(log_library)}
        untransformed = {"z": untran_z, "l": log_library}
        return qz.loc, qz.scale.square(), ql.loc, ql.scale.square(), latent, untransformed


def _branched(branch: nn.Sequential, h: Tensor) -> Tensor:
    first, norm, relu, dropout = branch
    x = linear(h, first.weight, first.bias)  # type: ignore[arg-type]
    if norm.training:
        return batch_norm_relu_dropout(x, norm, dropout_rate_of(dropout))  # type: ignore[arg-type]
    return dropout(relu(norm(x)))


class TotalHeads(NamedTuple):
    """What :class:`DecoderTOTALVI` says of n cells, leading draw axes allowed."""

    logits: Tensor | Affine  # (..., n, g) of the genes' frequencies
    dropout: Tensor | Affine | None  # (..., n, g) logits; None where they were not asked for
    background: Normal  # of the log background rates, (..., n, p)
    excess: Tensor  # (..., n, p) how many backgrounds the foreground has more than one
    mixing: Tensor  # (..., n, p) logits of the background


class DecoderTOTALVI(nn.Module):
    """Genes and proteins given z (totalVI): four trunks, whose heads see z and the covariates again."""

    def __init__(
        self,
        n_input: int,
        n_output_genes: int,
        n_output_proteins: int,
        n_cat_list: Sequence[int] | None = None,
        n_layers: int = 1,
        n_hidden: int = 256,
        dropout_rate: float = 0,
        *,
        n_cont: int = 0,
    ):
        super().__init__()

        def trunk() -> FCLayers:
            return FCLayers(n_input, n_hidden, n_cat_list, n_layers, n_hidden, dropout_rate, n_cont=n_cont)

        def head(n_out: int, use_relu: bool = False) -> FCLayers:
            off = {"dropout_rate": 0, "use_batch_norm": False}
            made = FCLayers(n_hidden + n_input, n_out, n_cat_list, use_relu=use_relu, n_cont=n_cont, **off)  # type: ignore[arg-type]
            layer = _only_layer(made)  # it reads no counts: its weights lie in memory as their gradient comes
            layer.weight = nn.Parameter(layer.weight.detach().contiguous())
            return made

        self.px_decoder = trunk()
        self.px_scale_decoder = head(n_output_genes)
        self.py_back_decoder = trunk()
        self.py_back_mean_log_alpha = head(n_output_proteins)
        self.py_back_mean_log_beta = head(n_output_proteins)
        self.py_fore_decoder = trunk()
        self.py_fore_scale_decoder = head(n_output_proteins, use_relu=True)
        self.sigmoid_decoder = trunk()
        self.px_dropout_decoder_gene = head(n_output_genes)
        self.py_background_decoder = head(n_output_proteins)

    def heads(
        self, z: Tensor, *cat_list: Tensor | None, cont: Tensor | None = None, dropout: bool = True
    ) -> TotalHeads:
        """Everything that follows from z, (..., n, d); dropout logits if asked for."""
        covariates = [c.expand(*z.shape[:-1], -1) for c in self.px_decoder.covariates(cat_list, cont)]

        def seen(trunk: FCLayers) -> Tensor:
            return torch.cat([trunk(z, *cat_list, cont=cont), z, *covariates], dim=-1)

        back, drop = seen(self.py_back_decoder), seen(self.sigmoid_decoder)
        return TotalHeads(
            logits=_waiting(_only_layer(self.px_scale_decoder), seen(self.px_decoder)),
            dropout=_waiting(_only_layer(self.px_dropout_decoder_gene), drop) if dropout else None,
            background=Normal(
                _computed(self.py_back_mean_log_alpha, back),
                torch.exp(_computed(self.py_back_mean_log_beta, back)),
                validate_args=False,
            ),
            excess=torch.relu(_computed(self.py_fore_scale_decoder, seen(self.py_fore_decoder))),
            mixing=_computed(self.py_background_decoder, drop),
        )

    def start_genes(self, frequencies: Tensor) -> None:
        """Puts the frequencies of genes where nothing else contributes at (g,)."""
        _only_layer(self.px_scale_decoder).bias.copy_(frequencies.clamp(min=1e-8).log())

    def start_proteins(self, log_background: Tensor, log_sd: Tensor, log_factor: Tensor) -> None:
        """The same for the background of proteins, its standard deviation and its factor, (p,) each."""
        _only_layer(self.py_back_mean_log_alpha).bias.copy_(log_background)
        _only_layer(self.py_back_mean_log_beta).bias.copy_(log_sd)
        _only_layer(self.py_fore_scale_decoder).bias.copy_(torch.expm1(log_factor))

    def forward(
        self, z: Tensor, library_gene: Tensor, *cat_list: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """(px_, py_, log_pro_back_mean); `library_gene` is the library size itself, not its log."""
        heads = self.heads(z, *cat_list)
        scale = torch.softmax(as_tensor(heads.logits), dim=-1)
        px_ = {"scale": scale, "rate": library_gene * scale, "dropout": as_tensor(heads.dropout)}  # type: ignore[arg-type]
        log_pro_back_mean = draw(heads.background)
        rate_back, fore_scale = torch.exp(log_pro_back_mean), heads.excess + 1 + 1e-8
        py_ = {
            "back_alpha": heads.background.loc,
            "back_beta": heads.background.scale,
            "rate_back": rate_back,
            "fore_scale": fore_scale,
            "rate_fore": rate_back * fore_scale,
            "mixing": heads.mixing,
        }
        foreground = torch.sigmoid(-py_["mixing"]) * py_["rate_fore"]
        py_["scale"] = torch.nn.functional.normalize(foreground, p=1, dim=-1)
        return px_, py_, log_pro_back_mean


def _only_layer(head: FCLayers) -> nn.Linear:
    return head.fc_layers[0][0]  # type: ignore[index]


def _computed(head: FCLayers, h: Tensor) -> Tensor:
    layer = _only_layer(head)
    return linear(h, layer.weight, layer.bias)

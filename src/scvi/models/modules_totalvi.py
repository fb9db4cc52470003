"""The networks of totalVI. Attribute names are part of the file format of saved weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Unpack

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn.functional import normalize, softplus

from scvi._checks import check_choice
from scvi.kernels import Affine, Counts, linear
from scvi.kernels.affine import as_tensor
from scvi.models.architecture import LayerOptions
from scvi.models.gaussian import VarianceActivation, activation_name, draw, gaussian_of
from scvi.models.layers import VARIANCE_FLOOR, FCLayers, hidden, identity, reparameterize_gaussian, waiting

MAX_LOG_LIBRARY = 15.0
"""Largest draw of the log library size."""


class EncoderTOTALVI(nn.Module):
    """q(z | x, y) and q(l | x, y) of totalVI: one trunk, a branch for each; the log library is at most 15.

    With ``latent_library=False`` there is no branch for l, which is observed. With ``branches=False`` z is read off the
    trunk itself, and l off a layer of its own that sees what the trunk sees.
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
        branches: bool = True,
        var_activation: VarianceActivation = "exp",
        **layers: Unpack[LayerOptions],
    ):
        super().__init__()
        check_choice("distribution", distribution, ("normal", "ln"))
        self.distribution, self.latent_library, self.branches = distribution, latent_library, branches
        self.var_activation = activation_name(var_activation)
        self.encoder = FCLayers(
            n_input, n_hidden, n_cat_list, n_layers, n_hidden, dropout_rate, n_cont=n_cont, **layers
        )

        def branch() -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(n_hidden, n_hidden),
                nn.BatchNorm1d(n_hidden) if layers.get("use_batch_norm", True) else nn.Identity(),
                *([nn.LayerNorm(n_hidden, elementwise_affine=False)] if layers.get("use_layer_norm") else []),
                nn.ReLU(),
                nn.Dropout(dropout_rate),
            )

        if branches:
            self.z_encoder = branch()
        self.z_mean_encoder = nn.Linear(n_hidden, n_output)
        self.z_var_encoder = nn.Linear(n_hidden, n_output)
        if latent_library:
            self.l_gene_encoder = (
                branch()
                if branches
                else FCLayers(n_input, n_hidden, n_cat_list, 1, n_hidden, dropout_rate, n_cont=n_cont, **layers)
            )
            self.l_gene_mean_encoder = nn.Linear(n_hidden, 1)
            self.l_gene_var_encoder = nn.Linear(n_hidden, 1)
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
        heads = self.z_mean_encoder, self.z_var_encoder
        of_z = hidden(self.z_encoder, h) if self.branches else h
        qz = gaussian_of(of_z, *heads, VARIANCE_FLOOR, self.var_activation)
        if not self.latent_library:
            return qz, None
        if self.branches:
            h = hidden(self.l_gene_encoder, h)  # type: ignore[arg-type]
        else:
            h = self.l_gene_encoder(genes, *cat_list, also=also, cont=cont)
        heads = self.l_gene_mean_encoder, self.l_gene_var_encoder
        return qz, gaussian_of(h, *heads, VARIANCE_FLOOR, self.var_activation)

    def forward(self, data: Tensor, *cat_list: Tensor | None) -> tuple[Tensor | dict[str, Tensor], ...]:
        """(qz_m, qz_v, ql_m, ql_v, latent, untran_latent); the dictionaries have 'z' and 'l' (library, its log)."""
        qz, ql = self.encode(data, *cat_list)
        if ql is None:
            raise ValueError("the library size is observed here: call `encode`, which gives q(z) alone")
        z, untran_z = self.reparameterize_transformation(qz.loc, qz.scale.square())
        log_library = draw(ql).clamp(max=MAX_LOG_LIBRARY)
        moments = qz.loc, qz.scale.square(), ql.loc, ql.scale.square()
        return *moments, {"z": z, "l": torch.exp(log_library)}, {"z": untran_z, "l": log_library}


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
        deviation: str = "exp",
        **layers: Unpack[LayerOptions],
    ):
        super().__init__()
        check_choice("background_deviation", deviation, ("exp", "softplus"))
        self.deviation = deviation

        def trunk() -> FCLayers:
            return FCLayers(n_input, n_hidden, n_cat_list, n_layers, n_hidden, dropout_rate, n_cont=n_cont, **layers)

        def head(n_out: int, use_relu: bool = False) -> FCLayers:
            made = FCLayers(
                n_hidden + n_input,
                n_out,
                n_cat_list,
                dropout_rate=0,
                use_batch_norm=False,
                use_relu=use_relu,
                n_cont=n_cont,
            )
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
            logits=waiting(_only_layer(self.px_scale_decoder), seen(self.px_decoder)),
            dropout=waiting(_only_layer(self.px_dropout_decoder_gene), drop) if dropout else None,
            background=Normal(
                _computed(self.py_back_mean_log_alpha, back),
                self._deviation(_computed(self.py_back_mean_log_beta, back)),
                validate_args=False,
            ),
            excess=torch.relu(_computed(self.py_fore_scale_decoder, seen(self.py_fore_decoder))),
            mixing=_computed(self.py_background_decoder, drop),
        )

    def _deviation(self, raw: Tensor) -> Tensor:
        """Standard deviations of the log background, from what the network says of them."""
        return raw.exp() if self.deviation == "exp" else softplus(raw) + 1e-8

    def scale_bias(self) -> nn.Parameter:
        """(g,) the parameter that the frequencies' logits equal where nothing else contributes."""
        return _only_layer(self.px_scale_decoder).bias

    def start_proteins(self, log_background: Tensor, log_sd: Tensor, log_factor: Tensor) -> None:
        """Puts the background of proteins, its standard deviation and its factor there, (p,) each."""
        _only_layer(self.py_back_mean_log_alpha).bias.copy_(log_background)
        raw = log_sd if self.deviation == "exp" else log_sd.exp().expm1().log()
        _only_layer(self.py_back_mean_log_beta).bias.copy_(raw)
        _only_layer(self.py_fore_scale_decoder).bias.copy_(torch.expm1(log_factor))

    def forward(
        self, z: Tensor, library_gene: Tensor, *cat_list: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """(px_, py_, log_pro_back_mean); `library_gene` is the library size itself, not its log."""
        heads = self.heads(z, *cat_list)
        scale = torch.softmax(as_tensor(heads.logits), dim=-1)
        px_ = {"scale": scale, "rate": library_gene * scale, "dropout": as_tensor(heads.dropout)}  # type: ignore[arg-type]
        return px_, *proteins_of_2020(heads.background, heads.excess + 1 + 1e-8, heads.mixing)


def proteins_of_2020(background: Normal, fore_scale: Tensor, mixing: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The dictionary `py_` of 2020 without the dispersion, and the draw of the log background that it is for."""
    log_pro_back_mean = draw(background)
    rate_back = torch.exp(log_pro_back_mean)
    py_ = {
        "back_alpha": background.loc,
        "back_beta": background.scale,
        "rate_back": rate_back,
        "fore_scale": fore_scale,
        "rate_fore": rate_back * fore_scale,
        "mixing": mixing,
    }
    py_["scale"] = normalize(torch.sigmoid(-mixing) * py_["rate_fore"], p=1, dim=-1)
    return py_, log_pro_back_mean


def _only_layer(head: FCLayers) -> nn.Linear:
    return head.fc_layers[0][0]  # type: ignore[index]


def _computed(head: FCLayers, h: Tensor) -> Tensor:
    layer = _only_layer(head)
    return linear(h, layer.weight, layer.bias)

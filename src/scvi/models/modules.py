"""Building blocks of the networks. Attribute names are part of the file format of saved weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from scvi.kernels import Counts, linear
from scvi.kernels.affine import Affine, as_tensor
from scvi.models.gaussian import draw, gaussian_of
from scvi.models.layers import FCLayers, identity, reparameterize_gaussian
from scvi.models.utils import check_choice

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

_VARIANCE_FLOOR = 1e-4


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
    """q(z | x) and q(l | x) of totalVI: one trunk, a branch for each; the log library is at most 15."""

    def __init__(
        self,
        n_input: int,
        n_output: int,
        n_cat_list: Sequence[int] | None = None,
        n_layers: int = 2,
        n_hidden: int = 256,
        dropout_rate: float = 0.1,
        distribution: str = "ln",
    ):
        super().__init__()
        check_choice("distribution", distribution, ("normal", "ln"))
        self.distribution = distribution
        self.encoder = FCLayers(n_input, n_hidden, n_cat_list, n_layers, n_hidden, dropout_rate)

        def branch() -> nn.Sequential:
            parts = nn.Linear(n_hidden, n_hidden), nn.BatchNorm1d(n_hidden), nn.ReLU(), nn.Dropout(dropout_rate)
            return nn.Sequential(*parts)

        self.z_encoder = branch()
        self.z_mean_encoder = nn.Linear(n_hidden, n_output)
        self.z_var_encoder = nn.Linear(n_hidden, n_output)
        self.l_encoder = branch()
        self.l_mean_encoder = nn.Linear(n_hidden, 1)
        self.l_var_encoder = nn.Linear(n_hidden, 1)
        self.z_transformation = nn.Softmax(dim=-1) if distribution == "ln" else identity

    def reparameterize_transformation(self, mu: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """A draw of z and the same before its transformation."""
        untransformed = reparameterize_gaussian(mu, var)
        return self.z_transformation(untransformed), untransformed

    def forward(self, data: Tensor, *cat_list: Tensor | None) -> tuple[Tensor | dict[str, Tensor], ...]:
        """(qz_m, qz_v, ql_m, ql_v, latent, untran_latent); the dictionaries have 'z' and 'l' (library, its log)."""
        q = self.encoder(data, *cat_list)
        qz, ql = self.z_encoder(q), self.l_encoder(q)
        qz_m, qz_v = self.z_mean_encoder(qz), torch.exp(self.z_var_encoder(qz)) + _VARIANCE_FLOOR
        ql_m, ql_v = self.l_mean_encoder(ql), torch.exp(self.l_var_encoder(ql)) + _VARIANCE_FLOOR
        z, untran_z = self.reparameterize_transformation(qz_m, qz_v)
        log_library = reparameterize_gaussian(ql_m, ql_v).clamp(max=15)
        latent = {"z": z, "l": torch.exp(log_library)}
        return qz_m, qz_v, ql_m, ql_v, latent, {"z": untran_z, "l": log_library}


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
    ):
        super().__init__()

        def trunk() -> FCLayers:
            return FCLayers(n_input, n_hidden, n_cat_list, n_layers, n_hidden, dropout_rate)

        def head(n_out: int, use_relu: bool = False) -> FCLayers:
            return FCLayers(
                n_hidden + n_input, n_out, n_cat_list, dropout_rate=0, use_batch_norm=False, use_relu=use_relu
            )

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

    def forward(
        self, z: Tensor, library_gene: Tensor, *cat_list: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """(px_, py_, log_pro_back_mean); `library_gene` is the library size itself, not its log."""

        def seen(trunk: FCLayers) -> Tensor:
            return torch.cat([trunk(z, *cat_list), z], dim=-1)

        px, back, fore, drop = map(
            seen, (self.px_decoder, self.py_back_decoder, self.py_fore_decoder, self.sigmoid_decoder)
        )
        scale = torch.softmax(self.px_scale_decoder(px, *cat_list), dim=-1)
        px_ = {
            "scale": scale,
            "rate": library_gene * scale,
            "dropout": self.px_dropout_decoder_gene(drop, *cat_list),
        }
        alpha = self.py_back_mean_log_alpha(back, *cat_list)
        beta = torch.exp(self.py_back_mean_log_beta(back, *cat_list))
        log_pro_back_mean = draw(Normal(alpha, beta, validate_args=False))
        rate_back = torch.exp(log_pro_back_mean)
        fore_scale = self.py_fore_scale_decoder(fore, *cat_list) + 1 + 1e-8
        py_ = {
            "back_alpha": alpha,
            "back_beta": beta,
            "rate_back": rate_back,
            "fore_scale": fore_scale,
            "rate_fore": rate_back * fore_scale,
            "mixing": self.py_background_decoder(drop, *cat_list),
        }
        foreground = torch.sigmoid(-py_["mixing"]) * py_["rate_fore"]
        py_["scale"] = torch.nn.functional.normalize(foreground, p=1, dim=-1)
        return px_, py_, log_pro_back_mean

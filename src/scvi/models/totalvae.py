"""totalVI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from scvi._checks import check_flag
from scvi.minibatch import Minibatch
from scvi.models.base import Elbo, Model
from scvi.models.gaussian import draw, draw_with_kl
from scvi.models.likelihood import Decoded, DecodedProteins, Dispersion, make_dispersion, make_likelihood
from scvi.models.log_likelihood import log_mixture_nb
from scvi.models.modules import MAX_LOG_LIBRARY, DecoderTOTALVI, EncoderTOTALVI
from scvi.models.utils import batch_code, check_choice, check_draws, check_rate, check_sizes
from scvi.models.vae import Variational, library_prior, observed_log_library, weighted_draws

__all__ = ["TOTALVAE", "DecodedCells"]


class DecodedCells(NamedTuple):
    """p(x, y | z, l)."""

    genes: Decoded
    proteins: DecodedProteins


class TOTALVAE(Model):
    r"""totalVI (Gayoso et al., Nature Methods 2021): genes and proteins of the same cells.

        z_n     ~ Normal(0, I)                              cell state, seen as softmax(z_n) with 'ln'
        l_n     ~ Normal(mean[s_n], var[s_n])               log library size of the RNA
        rho_n   = f(z_n, s_n)                               expected frequencies of genes, sum to 1
        x_ng    ~ NB(exp(l_n) rho_ng, theta_g)

        b_nt    ~ Normal(alpha_t[s_n], sd_t[s_n]^2)         log background of protein t, prior learned
        v_nt    ~ Bernoulli(sigmoid(pi_nt)), pi_n = h(z_n, s_n)       1: background
        y_nt    ~ NB(exp(b_nt), phi_t)                      if v_nt = 1
        y_nt    ~ NB(exp(b_nt) (1 + e_nt), phi_t), e_n = k(z_n, s_n) >= 0     otherwise

    approximated by q(z_n | x_n, y_n, s_n) q(l_n | x_n, y_n, s_n) q(b_n | z_n, s_n); v is summed over. A protein that a
    batch did not measure enters neither the likelihood nor the divergence of its background.

    Parameters
    ----------
    n_input_genes, n_input_proteins
        Numbers of genes g and proteins p.
    n_batch, n_labels
        Numbers of batches and labels; 0 and 1 stand for none.
    n_hidden, n_latent, n_layers_encoder, n_layers_decoder, dropout_rate_decoder, dropout_rate_encoder
        Width, latent dimension, depths and dropout rates of the networks.
    gene_dispersion
        'gene', 'gene-batch' or 'gene-label'.
    protein_dispersion
        'protein', 'protein-batch' or 'protein-label'.
    log_variational
        Encode log(1 + counts) instead of counts.
    reconstruction_loss_gene
        'nb' or 'zinb'.
    latent_distribution
        'normal' or 'ln'.
    protein_batch_mask
        For each batch (p,) whether a protein was measured; None: all were, unless the minibatch says otherwise.
    encoder_batch
        Show batch and covariates to the encoder, too.
    n_layers
        The name of both numbers of layers in 2019.
    use_observed_lib_size
        Take the cell's total (or its given size factor) as its library size.
    n_continuous_cov, n_cats_per_cov
        Further covariates, which enter wherever the batch enters.
    """

    def __init__(
        self,
        n_input_genes: int,
        n_input_proteins: int,
        n_batch: int = 0,
        n_labels: int = 0,
        n_hidden: int = 256,
        n_latent: int = 20,
        n_layers_encoder: int = 1,
        n_layers_decoder: int = 1,
        dropout_rate_decoder: float = 0.2,
        dropout_rate_encoder: float = 0.2,
        gene_dispersion: str = "gene",
        protein_dispersion: str = "protein",
        log_variational: bool = True,
        reconstruction_loss_gene: str = "nb",
        latent_distribution: str = "ln",
        protein_batch_mask: Sequence[npt.ArrayLike] | None = None,
        encoder_batch: bool = True,
        *,
        n_layers: int | None = None,
        use_observed_lib_size: bool = False,
        n_continuous_cov: int = 0,
        n_cats_per_cov: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if n_layers is not None:
            n_layers_encoder = n_layers_decoder = n_layers
        widths = {"n_hidden": n_hidden, "n_latent": n_latent}
        depths = {"n_layers_encoder": n_layers_encoder, "n_layers_decoder": n_layers_decoder}
        check_sizes(1, n_input_genes=n_input_genes, n_input_proteins=n_input_proteins, **widths, **depths)
        check_sizes(0, n_batch=n_batch, n_labels=n_labels, n_continuous_cov=n_continuous_cov)
        check_rate("dropout_rate_decoder", dropout_rate_decoder)
        check_rate("dropout_rate_encoder", dropout_rate_encoder)
        check_choice("latent_distribution", latent_distribution, ("normal", "ln"))
        check_choice("reconstruction_loss_gene", reconstruction_loss_gene, ("nb", "zinb"))
        check_flag("encoder_batch", encoder_batch)
        check_flag("use_observed_lib_size", use_observed_lib_size)
        self.n_input_genes, self.n_input_proteins, self.n_latent = n_input_genes, n_input_proteins, n_latent
        self.n_batch, self.n_labels = n_batch, n_labels
        self.gene_dispersion, self.protein_dispersion = gene_dispersion, protein_dispersion
        self.log_variational, self.latent_distribution = log_variational, latent_distribution
        self.reconstruction_loss_gene, self.encoder_batch = reconstruction_loss_gene, encoder_batch
        self.use_observed_lib_size, self.n_continuous_cov = use_observed_lib_size, n_continuous_cov
        self.n_cat_list = [n_batch, *(n_cats_per_cov or [])]
        self.likelihood = make_likelihood(reconstruction_loss_gene)

        sizes = {"batch": n_batch, "label": n_labels}
        self.dispersion_of = _dispersion("gene", gene_dispersion, sizes)
        self.dispersion_of_proteins = _dispersion("protein", protein_dispersion, sizes)
        self.px_r = nn.Parameter(torch.randn(self.dispersion_of.shape(n_input_genes, n_batch, n_labels)))  # type: ignore[arg-type]
        self.py_r = nn.Parameter(torch.ones(self.dispersion_of_proteins.shape(n_input_proteins, n_batch, n_labels)))  # type: ignore[arg-type]
        shape = (n_input_proteins, n_batch) if n_batch > 0 else (n_input_proteins,)
        self.background_pro_alpha = nn.Parameter(torch.randn(shape))
        self.background_pro_log_beta = nn.Parameter(torch.randn(shape).clamp(-10, 1))
        mask = None if protein_batch_mask is None else _mask(protein_batch_mask, max(n_batch, 1), n_input_proteins)
        self.protein_batch_mask: Tensor | None
        self.register_buffer("protein_batch_mask", mask, persistent=False)

        covariates: dict[str, Any] = {"n_cat_list": self.n_cat_list, "n_cont": n_continuous_cov}
        self.encoder = EncoderTOTALVI(
            n_input_genes + n_input_proteins,
            n_latent,
            n_layers=n_layers_encoder,
            n_hidden=n_hidden,
            dropout_rate=dropout_rate_encoder,
            distribution=latent_distribution,
            latent_library=not use_observed_lib_size,
            **(covariates if encoder_batch else {}),
        )
        self.decoder = DecoderTOTALVI(
            n_latent,
            n_input_genes,
            n_input_proteins,
            n_layers=n_layers_decoder,
            n_hidden=n_hidden,
            dropout_rate=dropout_rate_decoder,
            **covariates,
        )

    # ---- the model -------------------------------------------------------------------------------------------------

    def variational(self, mb: Minibatch) -> Variational:
        """q(z | x, y) and q(l | x, y), as it was kept for cells whose counts were dropped."""
        if mb.kept is not None:
            return Variational.of(mb.kept)
        x, y = mb.counts, _proteins(mb)
        if self.log_variational:
            x, y = x.log1p(), y.log1p()
        return Variational(*self.encoder.encode(x, *self._categories(mb, mb.batch), also=y, cont=mb.continuous))

    def generative(
        self,
        z: Tensor,
        log_library: Tensor,
        mb: Minibatch,
        transform_batch: int | None = None,
        every_head: bool = False,
    ) -> DecodedCells:
        """p(x, y | z, l): z (..., n, d) before its transformation, log_library (..., n, 1).

        Dispersions are those of the cell's own batch, also under `transform_batch`. `every_head` computes dropout
        logits also where the likelihood has no use for them.
        """
        batch = mb.batch
        if transform_batch is not None:
            batch = torch.full((len(mb), 1), transform_batch, device=z.device)
        heads = self.decoder.heads(
            self.transformed(z),
            *self._categories(mb, batch),
            cont=mb.continuous,
            dropout=every_head or self.likelihood.has_dropout,
        )
        log_theta = self.dispersion_of.log_theta(self.px_r, None, mb.batch, mb.labels)
        log_phi = self.dispersion_of_proteins.log_theta(self.py_r, None, mb.batch, mb.labels)
        return DecodedCells(
            Decoded(heads.logits, log_library, log_theta, heads.dropout),
            DecodedProteins(heads.background, heads.excess.log1p(), heads.mixing, log_phi, self.measured(mb, batch)),
        )

    def loss(self, mb: Minibatch, generator: torch.Generator | None = None) -> Elbo:
        """The negative ELBO, one draw a cell; KL(z) and KL(b) are annealed, KL(l) is not."""
        q = self.variational(mb)
        z, kl_z = draw_with_kl(q.z, generator)
        kl = {"z": kl_z}
        if q.l is None:
            log_library = observed_log_library(mb)
        else:
            log_library = draw(q.l, generator=generator).clamp(max=MAX_LOG_LIBRARY)
            kl["l"] = kl_divergence(q.l, library_prior(mb)).sum(-1)
        genes, proteins = self.generative(z, log_library, mb)
        qb = proteins.log_background
        kl["background"] = _summed(kl_divergence(qb, self.background_prior(mb)), proteins.measured)
        reconstruction = {
            "genes": self.likelihood.nll(mb.counts, genes, weight=1 / len(mb)),
            "proteins": proteins.nll(_proteins(mb), draw(qb, generator=generator), weight=1 / len(mb)),
        }
        return Elbo(reconstruction, kl, annealed=("z", "background"))

    def background_prior(self, mb: Minibatch) -> Normal:
        """p(b), (n, p) or (p,): of the batch that a cell comes from."""
        columns = Dispersion() if self.n_batch == 0 else make_dispersion("gene-batch")
        mean, log_sd = (
            columns.log_theta(table, None, mb.batch, None)
            for table in (self.background_pro_alpha, self.background_pro_log_beta)
        )
        return Normal(mean, log_sd.exp(), validate_args=False)

    def measured(self, mb: Minibatch, batch: Tensor) -> Tensor | None:
        """(n, p) which proteins were measured in the batches of these codes; None: all. Of its own a cell may know."""
        if batch is mb.batch and mb.measured is not None:
            return mb.measured
        return None if self.protein_batch_mask is None else self.protein_batch_mask[batch[:, 0]]

    def importance_log_weights(
        self, mb: Minibatch, q: Variational, n_draws: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """log p(x, y, z, l, b) - log q(z, l, b | x, y) at draws from q, (s, n); z is the untransformed variable."""
        z, log_library, log_weights = weighted_draws(mb, q, n_draws, generator)
        genes, proteins = self.generative(z, log_library, mb)
        qb = proteins.log_background
        b = draw(qb, generator=generator)
        log_weights = log_weights + _summed(self.background_prior(mb).log_prob(b) - qb.log_prob(b), proteins.measured)
        return log_weights - self.likelihood.nll(mb.counts, genes) - proteins.nll(_proteins(mb), b)

    def initialise(self, frequencies: Tensor, log_theta: Tensor) -> None:
        """Start the decoder at the data's mean frequencies (g,) and the dispersion of genes at `log_theta` (g,)."""
        with torch.no_grad():
            self.decoder.start_genes(frequencies)
            self.px_r.copy_(log_theta if self.px_r.dim() == 1 else log_theta[:, None].expand_as(self.px_r))

    def initialise_background(self, mean: Tensor, log_sd: Tensor, log_factor: Tensor) -> None:
        """Start the background of proteins, its prior and its posterior, where data say.

        Parameters
        ----------
        mean, log_sd
            (p, k) of the log background in each batch.
        log_factor
            (p,) how much higher the foreground is.
        """
        with torch.no_grad():
            shape = self.background_pro_alpha.shape
            self.background_pro_alpha.copy_(mean.reshape(shape))
            self.background_pro_log_beta.copy_(log_sd.reshape(shape))
            self.decoder.start_proteins(mean.mean(1), log_sd.mean(1), log_factor)

    def check_fits(self, n_genes: int, n_batches: int, n_labels: int) -> None:
        """Refuses data of other sizes than the model was made for; as :meth:`scvi.models.VAE.check_fits`."""
        wrong = []
        if n_genes != self.n_input_genes:
            wrong.append(f"n_input_genes={self.n_input_genes} for {n_genes} genes (nb_genes)")
        if n_batches > max(self.n_batch, 1) and self.n_batch > 0:
            wrong.append(f"n_batch={self.n_batch} for batch codes up to {n_batches - 1} (n_batches)")
        by_label = "gene-label" in self.gene_dispersion or "protein-label" in self.protein_dispersion
        if n_labels > self.n_labels and by_label:
            wrong.append(f"n_labels={self.n_labels} for label codes up to {n_labels - 1} (n_labels)")
        if wrong:
            raise ValueError(
                f"this {type(self).__name__} was made for other data, it has {', '.join(wrong)}: "
                "make one of the sizes of the data set, or keep the genes and cells that it was made for"
            )

    def _categories(self, mb: Minibatch, batch: Tensor | None) -> tuple[Tensor | None, ...]:
        others = () if mb.categorical is None else mb.categorical.split(1, dim=1)
        return batch, *others

    # ---- the 2020 methods: y are the proteins (n, p), label the cell type (n, 1) ------------------------------------

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        local_l_mean_gene: Tensor,
        local_l_var_gene: Tensor,
        batch_index: Tensor | None = None,
        label: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Reconstruction losses of genes and of proteins, KL of z, log library and background; (n,) each."""
        mb = self._minibatch(x, y, batch_index, label, local_l_mean_gene, local_l_var_gene)
        elbo = self.loss(mb)
        kl = {"l": torch.zeros_like(elbo.kl["z"]), **elbo.kl}
        return (*(elbo.reconstruction[name] for name in ("genes", "proteins")), kl["z"], kl["l"], kl["background"])

    def inference(
        self,
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
        mb = self._minibatch(x, y, batch_index, label)
        q = self.variational(mb)
        draws = None if n_samples == 1 else n_samples
        z = draw(q.z, draws)
        log_library = observed_log_library(mb) if q.l is None else draw(q.l, draws)
        if draws is not None:
            z, log_library = z.detach(), log_library.detach().expand(draws, -1, -1)
        elif q.l is not None:
            log_library = log_library.clamp(max=MAX_LOG_LIBRARY)
        decoded = self.generative(z, log_library, mb, code, every_head=True)
        px_, py_, log_pro_back_mean = _named(decoded)
        wide = (lambda t: t) if draws is None else (lambda t: t.expand(draws, *t.shape))
        return {
            "px_": px_,
            "py_": py_,
            "qz_m": wide(q.z.loc),
            "qz_v": wide(q.z.scale.square()),
            "z": self.transformed(z),
            "untran_z": z,
            "ql_m": None if q.l is None else wide(q.l.loc),
            "ql_v": None if q.l is None else wide(q.l.scale.square()),
            "library_gene": log_library.exp(),
            "untran_l": log_library,
            "log_pro_back_mean": log_pro_back_mean,
            "back_mean_prior": self.background_prior(mb),
        }

    def get_reconstruction_loss(
        self,
        x: Tensor,
        y: Tensor,
        px_: dict[str, Tensor],
        py_: dict[str, Tensor],
        pro_batch_mask_minibatch: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(..., n) negative log-likelihoods of genes and of measured proteins, evaluated in float64."""
        density = self.likelihood.distribution(px_["rate"].double(), px_["r"].double(), px_["dropout"].double())
        genes = -density.log_prob(x.double()).sum(-1)
        names = ("rate_back", "rate_fore", "r", "mixing")
        back, fore, phi, mixing = (py_[name].double() for name in names)
        proteins = _summed(-log_mixture_nb(y.double(), back, fore, phi, None, mixing), pro_batch_mask_minibatch)
        return genes.to(px_["rate"].dtype), proteins.to(px_["rate"].dtype)

    def sample_from_posterior_z(
        self,
        x: Tensor,
        y: Tensor,
        batch_index: Tensor | None = None,
        give_mean: bool = False,
        n_samples: int = 5000,
    ) -> Tensor:
        """(n, d): a draw of z, or its mean (over `n_samples` draws where the latent distribution is 'ln')."""
        check_draws("n_samples", n_samples)
        qz = self.variational(self._minibatch(x, y, batch_index)).z
        return self.latent_mean(qz, n_samples) if give_mean else self.transformed(draw(qz))

    def sample_from_posterior_l(
        self, x: Tensor, y: Tensor, batch_index: Tensor | None = None, give_mean: bool = True
    ) -> Tensor:
        """(n, 1) library size, not its log: its mean, or a draw; the observed one where it is observed."""
        mb = self._minibatch(x, y, batch_index)
        ql = self.variational(mb).l
        if ql is None:
            return observed_log_library(mb).exp()
        return (ql.loc + ql.scale.square() / 2).exp() if give_mean else draw(ql).exp()

    def get_sample_rate(
        self,
        x: Tensor,
        y: Tensor,
        batch_index: Tensor | None = None,
        label: Tensor | None = None,
        n_samples: int = 1,
    ) -> Tensor:
        """(n, g) expected counts of genes; arguments as :meth:`inference`."""
        return self.inference(x, y, batch_index, label, n_samples)["px_"]["rate"]

    def get_sample_dispersion(
        self,
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
        self,
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
            value = nn.functional.normalize(value, p=1, dim=-1)
        return outputs["px_"]["scale"], value + eps

    def scale_from_z(self, x: Tensor, y: Tensor, fixed_batch: int) -> tuple[Tensor, Tensor]:
        """Frequencies of genes and shares of proteins' foreground, decoded in batch `fixed_batch` (0.5 name)."""
        outputs = self.inference(x, y, torch.zeros_like(x[:, :1]).long(), transform_batch=fixed_batch)
        return outputs["px_"]["scale"], outputs["py_"]["scale"]

    def _minibatch(
        self,
        x: Tensor,
        y: Tensor,
        batch: Tensor | None,
        label: Tensor | None = None,
        l_mean: Tensor | None = None,
        l_var: Tensor | None = None,
    ) -> Minibatch:
        if self.n_continuous_cov or any(size > 1 for size in self.n_cat_list[1:]):
            raise ValueError(
                "the methods of 2020 have no argument for further covariates: "
                "use `variational` and `loss` with a Minibatch that holds them"
            )
        if batch is None and self.n_batch <= 1:  # the only batch there is; several are asked for by the networks
            batch = torch.zeros(x.shape[0], 1, dtype=torch.long, device=x.device)
        return Minibatch(x, batch, label, l_mean, l_var, proteins=y)  # type: ignore[arg-type]


def _named(decoded: DecodedCells) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """The dictionaries of 2020, and a draw of the log background."""
    genes, proteins = decoded
    background, fore_scale = proteins.log_background, proteins.log_factor.exp()
    log_pro_back_mean = draw(background)
    rate_back = log_pro_back_mean.exp()
    px_ = {"scale": genes.scale, "rate": genes.rate, "dropout": genes.dropout_logits, "r": genes.theta}
    py_ = {
        "back_alpha": background.loc,
        "back_beta": background.scale,
        "rate_back": rate_back,
        "fore_scale": fore_scale,
        "rate_fore": rate_back * fore_scale,
        "mixing": proteins.mixing,
        "r": proteins.theta,
    }
    py_["scale"] = nn.functional.normalize(proteins.foreground_probability * py_["rate_fore"], p=1, dim=-1)
    return px_, py_, log_pro_back_mean  # type: ignore[return-value]


def _proteins(mb: Minibatch) -> Tensor:
    if mb.proteins is None:
        raise ValueError("this minibatch has no proteins, which totalVI needs beside the genes")
    return mb.proteins


def _summed(values: Tensor, measured: Tensor | None) -> Tensor:
    """Over the proteins that were measured."""
    return (values if measured is None else values * measured).sum(-1)


def _dispersion(kind: str, value: Any, sizes: dict[str, int]) -> Dispersion:
    """'gene', 'gene-batch'... for genes, and the same for proteins under their own names."""
    check_choice(f"{kind}_dispersion", value, [kind, f"{kind}-batch", f"{kind}-label"])
    by = value.removeprefix(kind).removeprefix("-")
    if by and sizes[by] < 1:
        raise ValueError(
            f"{kind}_dispersion={value!r} needs n_{by}{'s' if by == 'label' else ''} >= 1, got {sizes[by]}"
        )
    return make_dispersion(f"gene-{by}" if by else "gene")


def _mask(given: Sequence[npt.ArrayLike], n_batch: int, n_proteins: int) -> Tensor:
    """(k, p) bool."""
    mask = torch.stack([torch.as_tensor(row).bool() for row in given])
    if mask.shape != (n_batch, n_proteins):
        raise ValueError(
            f"protein_batch_mask has shape {tuple(mask.shape)}; it says for each of {n_batch} batches which of "
            f"{n_proteins} proteins were measured"
        )
    return mask

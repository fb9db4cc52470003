"""totalVI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from scvi._checks import check_choice, check_flag, check_rates, check_sizes, one_of_two
from scvi.kernels import Affine, SparseRows
from scvi.minibatch import Minibatch
from scvi.models import methods_2020_totalvi
from scvi.models.architecture import Architecture, ArchitectureOptions
from scvi.models.base import Elbo, Latent, Model, Moments, WeightedDraws, batch_codes
from scvi.models.decoded import Decoded, GeneCounts, ProteinCounts, of_any_sum, protein_counts
from scvi.models.former_names import rename_weights
from scvi.models.gaussian import draw_with_kl
from scvi.models.likelihood import make_dispersion, make_likelihood
from scvi.models.modules_totalvi import MAX_LOG_LIBRARY, DecoderTOTALVI, EncoderTOTALVI
from scvi.models.one_hot import columns_of


class TOTALVAE(Model):
    r"""totalVI (Gayoso et al., Nature Methods 2021): genes and proteins of the same cells::

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
    encoder_branches
        q(z | x, y) and q(l | x, y) are branches of one network, with a hidden layer each; False: z is read off that
        network itself, and l off a hidden layer of its own.
    background_deviation
        What makes the standard deviation of q(b | z) positive: 'exp' or 'softplus'.
    relative_counts
        With `log_variational` encode log(1 + x / (1 + mean of x in the cell)), genes and proteins apart.
    **architecture
        As of :class:`scvi.models.VAE`.
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
        encoder_branches: bool = True,
        background_deviation: str = "exp",
        relative_counts: bool = False,
        **architecture: Unpack[ArchitectureOptions],
    ) -> None:
        super().__init__()
        self.architecture = Architecture(**architecture)
        check_flag("log_variational", log_variational)
        check_flag("encoder_branches", encoder_branches)
        self.relative_counts = check_flag("relative_counts", relative_counts)
        n_layers_encoder = one_of_two("n_layers_encoder", n_layers_encoder, "n_layers", n_layers, default=1)
        n_layers_decoder = one_of_two("n_layers_decoder", n_layers_decoder, "n_layers", n_layers, default=1)
        check_sizes(
            1,
            n_input_genes=n_input_genes,
            n_input_proteins=n_input_proteins,
            n_hidden=n_hidden,
            n_latent=n_latent,
            n_layers_encoder=n_layers_encoder,
            n_layers_decoder=n_layers_decoder,
        )
        check_sizes(0, n_batch=n_batch, n_labels=n_labels, n_continuous_cov=n_continuous_cov)
        check_rates(dropout_rate_decoder=dropout_rate_decoder, dropout_rate_encoder=dropout_rate_encoder)
        check_choice("latent_distribution", latent_distribution, ("normal", "ln"))
        check_flag("encoder_batch", encoder_batch)
        check_flag("use_observed_lib_size", use_observed_lib_size)
        self.n_input_genes, self.n_input_proteins, self.n_latent = n_input_genes, n_input_proteins, n_latent
        self.n_batch, self.n_labels = n_batch, n_labels
        self.gene_dispersion, self.protein_dispersion = gene_dispersion, protein_dispersion
        self.log_variational, self.latent_distribution = log_variational, latent_distribution
        self.reconstruction_loss_gene = reconstruction_loss_gene
        self.encode_covariates = self.encoder_batch = encoder_batch
        self.use_observed_lib_size, self.n_continuous_cov = use_observed_lib_size, n_continuous_cov
        covariates = self.architecture.covariates(n_batch, n_continuous_cov, n_cats_per_cov)
        self.n_cat_list = covariates["n_cat_list"]
        self.likelihood = make_likelihood(reconstruction_loss_gene, "reconstruction_loss_gene", needs_dispersion=True)
        self.dispersion_of = make_dispersion(
            gene_dispersion, n_input_genes, n_batch, n_labels, "gene_dispersion", per_cell=False
        )
        self.dispersion_of_proteins = make_dispersion(
            protein_dispersion, n_input_proteins, n_batch, n_labels, "protein_dispersion", "protein", per_cell=False
        )
        self.px_r = nn.Parameter(torch.randn(self.dispersion_of.shape))
        self.py_r = nn.Parameter(torch.ones(self.dispersion_of_proteins.shape))
        shape = (n_input_proteins, n_batch) if n_batch > 0 else (n_input_proteins,)
        self.background_pro_alpha = nn.Parameter(torch.randn(shape))
        self.background_pro_log_beta = nn.Parameter(torch.randn(shape).clamp(-10, 1))
        mask = None if protein_batch_mask is None else _mask(protein_batch_mask, max(n_batch, 1), n_input_proteins)
        self.protein_batch_mask: Tensor | None
        self.register_buffer("protein_batch_mask", mask, persistent=False)

        self.encoder = EncoderTOTALVI(
            n_input_genes + n_input_proteins,
            n_latent,
            n_layers=n_layers_encoder,
            n_hidden=n_hidden,
            dropout_rate=dropout_rate_encoder,
            distribution=latent_distribution,
            latent_library=not use_observed_lib_size,
            branches=encoder_branches,
            **(covariates if encoder_batch else {}),
            **self.architecture.encoder,
        )
        self.decoder = DecoderTOTALVI(
            n_latent,
            n_input_genes,
            n_input_proteins,
            n_layers=n_layers_decoder,
            n_hidden=n_hidden,
            dropout_rate=dropout_rate_decoder,
            deviation=background_deviation,
            **covariates,
            **self.architecture.layers("decoder"),
        )
        if self.architecture.batch_representation == "embedding":
            self.embeddings_dict = self.architecture.embeddings(n_batch)
        self.register_load_state_dict_pre_hook(rename_weights)

    # ---- the model -------------------------------------------------------------------------------------------------

    def generative(
        self, z: Tensor, log_size: Tensor, mb: Minibatch, batch: int | None = None, raw: bool = False
    ) -> Decoded:
        """p(x, y | z, l); `raw` as for :meth:`VAE.generative`. Dispersions are those of the cell's own batch."""
        codes = batch_codes(mb, batch)
        heads = self.decoder.heads(
            self.transformed(z),
            *self.categories(mb, codes),
            cont=self.columns(mb, codes),
            dropout=raw or self.likelihood.has_dropout,
        )
        log_theta = self.dispersion_of.log_theta(self.px_r, None, mb.batch, mb.labels)
        log_phi = self.dispersion_of_proteins.log_theta(self.py_r, None, mb.batch, mb.labels)
        logits: Tensor | Affine = heads.logits
        if self.architecture.scale_activation == "softplus":
            logits, log_size = of_any_sum(logits, log_size)
        return Decoded(
            genes=GeneCounts(self.likelihood, logits, log_size, log_theta, heads.dropout),
            proteins=ProteinCounts(
                heads.background, heads.excess.log1p(), heads.mixing, log_phi, self.measured(mb, codes)
            ),
        )

    def variational(self, mb: Minibatch) -> Latent:
        """q(z | x, y) and q(l | x, y)."""
        x, y = mb.counts, protein_counts(mb)
        if self.log_variational and self.relative_counts:
            of_cells = 1 + mb.totals / self.n_input_genes
            x = x.over(of_cells) if isinstance(x, SparseRows) else x / of_cells
            y = y / (1 + y.mean(1, keepdim=True))
        if self.log_variational:
            x, y = x.log1p(), y.log1p()
        columns = self.columns(mb, mb.batch) if self.encode_covariates else None
        return Latent(*self.encoder.encode(x, *self.encoder_categories(mb), also=y, cont=columns))

    def loss(self, mb: Minibatch, generator: torch.Generator | None = None, seen: Minibatch | None = None) -> Elbo:
        """The negative ELBO, one draw a cell; KL(z) and KL(b) are annealed, KL(l) is not.

        `seen` is what the encoder is shown of the same cells; None: all.
        """
        q = self.variational(mb if seen is None else seen)
        z, kl_z = draw_with_kl(q.z, generator)  # before the library size
        log_size = q.draw_size(mb, generator=generator)
        if q.l is not None:
            log_size = log_size.clamp(max=MAX_LOG_LIBRARY)
        kl = {"z": kl_z, **q.kl_of_size(mb)}
        decoded = self.generative(z, log_size, mb)
        proteins = decoded.proteins
        kl["background"] = proteins.over_measured(kl_divergence(proteins.log_background, self.background_prior(mb)))
        return Elbo(decoded.nll(mb, 1 / mb.n_whole, generator), kl, annealed=("z", "background"))

    def background_prior(self, mb: Minibatch) -> Normal:
        """p(b), (n, p) or (p,): of the batch that a cell comes from."""
        mean, log_sd = (
            columns_of(table, mb.batch, "batch_index") if self.n_batch else table
            for table in (self.background_pro_alpha, self.background_pro_log_beta)
        )
        return Normal(mean, log_sd.exp(), validate_args=False)

    def measured(self, mb: Minibatch, batch: Tensor) -> Tensor | None:
        """(n, p) which proteins were measured in the batches of these codes; None: all. Of its own a cell may know."""
        if batch is mb.batch and mb.measured is not None:
            return mb.measured
        return None if self.protein_batch_mask is None else self.protein_batch_mask[batch[:, 0]]

    def importance_draws(
        self, mb: Minibatch, q: Latent, n_draws: int, generator: torch.Generator | None = None
    ) -> WeightedDraws:
        """Draws from q, with log p(x, y, z, l, b) - log q(z, l, b | x, y) at them and a draw of b each."""
        z, log_size, log_weights = q.weighted_draws(mb, n_draws, generator)
        decoded = self.generative(z, log_size, mb)
        genes, proteins = decoded.genes, decoded.proteins
        b = proteins.draw_background(generator)
        of_b = self.background_prior(mb).log_prob(b) - proteins.log_background.log_prob(b)
        log_weights = log_weights + proteins.over_measured(of_b)
        return WeightedDraws(z, log_size, log_weights - genes.nll(mb) - proteins.nll_given(b, mb))

    def start(self, moments: Moments) -> None:
        """Starts the decoder at the data's mean frequencies, the dispersions of genes, and the background."""
        moments.start_genes(self.decoder.scale_bias(), self.px_r)
        if moments.background is not None:
            self.start_background(*moments.background)

    @torch.no_grad()
    def start_background(self, mean: Tensor, log_sd: Tensor, log_factor: Tensor) -> None:
        """Starts the prior and the posterior of the background; arguments as :attr:`Moments.background`."""
        self.background_pro_alpha.copy_(mean.reshape_as(self.background_pro_alpha))
        self.background_pro_log_beta.copy_(log_sd.reshape_as(self.background_pro_log_beta))
        self.decoder.start_proteins(mean.mean(1), log_sd.mean(1), log_factor)

    def input_size(self, dataset: int = 0) -> tuple[str, int]:
        return "n_input_genes", self.n_input_genes

    def has_parameters_by(self, category: str) -> bool:
        return (category == "batch" and self.n_batch > 0) or any(
            dispersion.endswith(f"-{category}") for dispersion in (self.gene_dispersion, self.protein_dispersion)
        )

    # ---- 2020 ------------------------------------------------------------------------------------------------------

    forward = methods_2020_totalvi.forward
    inference = methods_2020_totalvi.inference
    get_reconstruction_loss = methods_2020_totalvi.get_reconstruction_loss
    sample_from_posterior_z = methods_2020_totalvi.sample_from_posterior_z
    sample_from_posterior_l = methods_2020_totalvi.sample_from_posterior_l
    get_sample_rate = methods_2020_totalvi.get_sample_rate
    get_sample_dispersion = methods_2020_totalvi.get_sample_dispersion
    get_sample_scale = methods_2020_totalvi.get_sample_scale
    scale_from_z = methods_2020_totalvi.scale_from_z


def _mask(given: Sequence[npt.ArrayLike], n_batch: int, n_proteins: int) -> Tensor:
    """(k, p) bool."""
    mask = torch.stack([torch.as_tensor(row).bool() for row in given])
    if mask.shape != (n_batch, n_proteins):
        raise ValueError(
            f"protein_batch_mask has shape {tuple(mask.shape)}; it says for each of {n_batch} batches which of "
            f"{n_proteins} proteins were measured"
        )
    return mask

"""gimVI: one latent space for cells of several technologies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scvi._checks import batch_code, check_flag, check_integer, check_rates, check_sizes
from scvi.kernels.affine import as_tensor
from scvi.minibatch import Minibatch
from scvi.models.base import Elbo, Latent, Model, Moments, batch_codes
from scvi.models.decoded import Decoded, GeneCounts
from scvi.models.gaussian import draw
from scvi.models.likelihood import make_dispersion, make_likelihood
from scvi.models.methods_2020 import three_terms
from scvi.models.modules import Encoder, MultiDecoder, MultiEncoder

__all__ = ["JVAE"]


class JVAE(Model):
    r"""gimVI (Lopez, Nazaret et al., ICML Workshop on Computational Biology 2019): data sets that share some genes.

    Data set d observes the genes G_d. For its cell n::

        z_n    ~ Normal(0, I)                                cell state
        l_n    ~ Normal(mean[s_n], var[s_n])                 log library size, or the observed one
        rho_ng = exp f_g(z_n) / sum over h in G_d of exp f_h(z_n)      expected frequency
        pi_n   = h(z_n)                                      dropout logits
        x_ng   ~ ZINB(exp(l_n) rho_ng, theta_g, pi_ng)       or NB, or Poisson, by data set; g in G_d

    approximated by q_d(z_n | x_n) q_d(l_n | x_n), networks whose first layers belong to the data set. f and h are the
    same for all data sets, so that genes which d did not measure have a rho in its cells, too.

    The data set of cells is the `dataset` of their minibatch; the methods of 2020 call it `mode`.

    Parameters
    ----------
    dim_input_list
        Number of genes of each data set.
    total_genes
        Number of all genes.
    indices_mappings
        For each data set the positions of its genes among all genes, or a slice of them.
    reconstruction_losses
        'zinb', 'nb' or 'poisson', for each data set.
    model_library_bools
        For each data set whether the library size is latent, or else the cell's total.
    n_latent
        Latent dimension.
    n_layers_encoder_individual, n_layers_encoder_shared, dim_hidden_encoder
        Layers of the encoder for one data set and for all, and their width.
    n_layers_decoder_individual, n_layers_decoder_shared, dim_hidden_decoder_individual, dim_hidden_decoder_shared
        Layers of the decoder that see the batch and that do not, and their widths. Without any f and h are linear.
    dropout_rate_encoder, dropout_rate_decoder
        Dropout of the hidden layers.
    n_batch, n_labels
        Numbers of batches and labels over all data sets; 0 and 1 stand for none.
    dispersion
        'gene', 'gene-batch', 'gene-label' or 'gene-cell'.
    log_variational
        Encode log(1 + x) instead of x.
    """

    px_r: nn.Parameter  # log inverse dispersion, (all genes,) or (all genes, k); None where the decoder gives it
    remedy_of_misfit = (
        "make one of the sizes of the data sets; the batches and labels of all data sets are counted through"
    )

    def __init__(
        self,
        dim_input_list: Sequence[int],
        total_genes: int,
        indices_mappings: Sequence[np.ndarray | slice | Sequence[int]],
        reconstruction_losses: Sequence[str],
        model_library_bools: Sequence[bool],
        n_latent: int = 10,
        n_layers_encoder_individual: int = 1,
        n_layers_encoder_shared: int = 1,
        dim_hidden_encoder: int = 128,
        n_layers_decoder_individual: int = 0,
        n_layers_decoder_shared: int = 0,
        dim_hidden_decoder_individual: int = 32,
        dim_hidden_decoder_shared: int = 128,
        dropout_rate_encoder: float = 0.1,
        dropout_rate_decoder: float = 0.3,
        n_batch: int = 0,
        n_labels: int = 0,
        dispersion: str = "gene-batch",
        log_variational: bool = True,
    ) -> None:
        super().__init__()
        check_sizes(
            1,
            total_genes=total_genes,
            n_latent=n_latent,
            n_layers_encoder_individual=n_layers_encoder_individual,
            n_layers_encoder_shared=n_layers_encoder_shared,
            dim_hidden_encoder=dim_hidden_encoder,
            dim_hidden_decoder_individual=dim_hidden_decoder_individual,
            dim_hidden_decoder_shared=dim_hidden_decoder_shared,
        )
        check_sizes(
            0,
            n_batch=n_batch,
            n_labels=n_labels,
            n_layers_decoder_individual=n_layers_decoder_individual,
            n_layers_decoder_shared=n_layers_decoder_shared,
        )
        check_rates(dropout_rate_encoder=dropout_rate_encoder, dropout_rate_decoder=dropout_rate_decoder)
        _check_lengths(
            dim_input_list,
            indices_mappings=indices_mappings,
            reconstruction_losses=reconstruction_losses,
            model_library_bools=model_library_bools,
        )
        self.n_input_list, self.total_genes = [int(n) for n in dim_input_list], total_genes
        self.indices_mappings = [
            _positions(i, mapping, n, total_genes)
            for i, (mapping, n) in enumerate(zip(indices_mappings, dim_input_list, strict=True))
        ]
        self.reconstruction_losses = list(reconstruction_losses)
        self.likelihoods = [make_likelihood(name) for name in reconstruction_losses]
        self.model_library_bools = [check_flag("model_library_bools", flag) for flag in model_library_bools]
        self.n_latent, self.n_batch, self.n_labels = n_latent, n_batch, n_labels
        self.dispersion, self.log_variational = dispersion, log_variational
        self.dispersion_of = make_dispersion(dispersion, total_genes, max(n_batch, 1), n_labels)
        for i, positions in enumerate(self.indices_mappings):  # None: all genes in their order
            whole = len(positions) == total_genes and (positions == np.arange(total_genes)).all()
            self.register_buffer(f"_genes_{i}", None if whole else torch.from_numpy(positions), persistent=False)

        self.z_encoder = MultiEncoder(
            len(self.n_input_list),
            self.n_input_list,
            n_latent,
            dim_hidden_encoder,
            n_layers_encoder_individual,
            n_layers_encoder_shared,
            dropout_rate=dropout_rate_encoder,
        )
        self.l_encoders = nn.ModuleList(
            Encoder(n, 1, n_layers=1, dropout_rate=dropout_rate_encoder) if is_latent else None  # type: ignore[misc]
            for n, is_latent in zip(self.n_input_list, self.model_library_bools, strict=True)
        )
        self.decoder = MultiDecoder(
            n_latent,
            total_genes,
            dim_hidden_decoder_individual,
            dim_hidden_decoder_shared,
            n_layers_decoder_individual,
            n_layers_decoder_shared,
            n_cat_list=[n_batch],
            dropout_rate=dropout_rate_decoder,
        )
        self.register_parameter("px_r", self.dispersion_of.table())
        self.register_load_state_dict_pre_hook(_one_dispersion_for_no_batch)

    @property
    def n_datasets(self) -> int:
        """Number of data sets."""
        return len(self.n_input_list)

    def observed_genes(self, dataset: int) -> Tensor | None:
        """(k,) positions of the genes of a data set among all; None where they are all genes in their order."""
        return getattr(self, f"_genes_{dataset}")

    # ---- the model -------------------------------------------------------------------------------------------------

    def generative(self, z: Tensor, log_size: Tensor, mb: Minibatch, batch: int | None = None) -> Decoded:
        """p(x | z, l) of the genes that the data set observes: z (..., n, d), log_size (..., n, 1)."""
        codes, genes, likelihood = batch_codes(mb, batch), self.observed_genes(mb.dataset), self.likelihoods[mb.dataset]
        logits, decoded_r, dropout = self.decoder.heads(
            z, codes, genes=genes, r=self.dispersion_of.per_cell, dropout=likelihood.has_dropout
        )
        px_r = self.px_r if genes is None or self.px_r is None else self.px_r[genes]
        log_theta = self.dispersion_of.log_theta(px_r, decoded_r, codes, mb.labels)
        return Decoded(genes=GeneCounts(likelihood, logits, log_size, log_theta, dropout))

    def variational(self, mb: Minibatch) -> Latent:
        """q(z | x) and q(l | x)."""
        x = mb.counts.log1p() if self.log_variational else mb.counts
        l_encoder: Any = self.l_encoders[mb.dataset]
        return Latent(self.z_encoder.encode(x, mb.dataset), None if l_encoder is None else l_encoder.encode(x))

    def loss(self, mb: Minibatch, generator: torch.Generator | None = None) -> Elbo:
        """The negative ELBO, one draw a cell; both divergences are annealed."""
        return self.draw_with_loss(mb, generator)[1]

    def draw_with_loss(
        self, mb: Minibatch, generator: torch.Generator | None = None, n_cells: int | None = None
    ) -> tuple[Tensor, Elbo]:
        """A draw of z (n, d), and the negative ELBO at it.

        `n_cells` is the number over which a mean is going to be taken; None: those of the minibatch. With another one
        than comes, the likelihood would have to compute its gradient twice.
        """
        z, log_size, kl = self.variational(mb).draw_with_kl(mb, generator)
        nll = self.generative(z, log_size, mb).nll(mb, 1 / (n_cells or mb.n_whole))
        return z, Elbo(nll, kl, annealed=tuple(kl))

    def decode(
        self,
        z: Tensor,
        mode: int,
        library: Tensor,
        batch_index: Tensor | None = None,
        y: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What is expected of all genes, as data set `mode` would see the cells.

        Parameters
        ----------
        z, library
            (..., n, d), and the log library size (..., n, 1).
        batch_index, y
            (n, 1) codes.

        Returns
        -------
        px_scale, px_r (inverse dispersion), px_rate, px_dropout (logits), over all genes. px_scale sums to 1 over the
        genes that data set `mode` observes, so to more over all.
        """
        genes = self.observed_genes(self._mode(mode))
        logits, decoded_r, dropout = self.decoder.heads(z, batch_index, r=self.dispersion_of.per_cell)
        logits, dropout = as_tensor(logits), as_tensor(dropout)  # type: ignore[arg-type]
        observed = logits if genes is None else logits[..., genes]
        scale = torch.exp(logits - torch.logsumexp(observed, dim=-1, keepdim=True))
        theta = torch.exp(self.dispersion_of.log_theta(self.px_r, decoded_r, batch_index, y))
        theta = theta.view(1, -1) if theta.dim() == 1 else theta
        return scale, theta, scale * library.exp(), dropout

    def start(self, moments: Moments) -> None:
        """Starts f at mean frequencies of all genes, and the dispersion."""
        moments.start_genes(self.decoder.scale_bias(), self.px_r)

    def input_size(self, dataset: int = 0) -> tuple[str, int]:
        if dataset >= self.n_datasets:
            raise ValueError(f"this JVAE is of {self.n_datasets} data sets, there is no data set {dataset}")
        return f"dim_input_list[{dataset}]", self.n_input_list[dataset]

    # ---- 2020 ------------------------------------------------------------------------------------------------------

    def encode(self, x: Tensor, mode: int) -> tuple[Tensor | None, ...]:
        """(qz_m, qz_v, z, ql_m, ql_v, library) of cells (n, g) of data set `mode`; `library` is the log.

        Where the library size is observed ql_m and ql_v are None; that of an empty cell is taken as 1.
        """
        mb = self._cells(x, self._mode(mode))
        q = self.variational(mb)
        z, log_size = draw(q.z), q.draw_size(mb)
        return q.z.loc, q.z.scale.square(), z, *q.size_moments, log_size

    def forward(
        self,
        x: Tensor,
        local_l_mean: Tensor,
        local_l_var: Tensor,
        batch_index: Tensor | None = None,
        y: Tensor | None = None,
        mode: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | float]:
        """(reconstruction loss over the observed genes, KL(z) + KL(l), 0.0), the first two (n,)."""
        return three_terms(self.loss(self._cells(x, self._mode(mode), local_l_mean, local_l_var, batch_index, y)))

    def sample_from_posterior_z(self, x: Tensor, mode: int | None = None, deterministic: bool = False) -> Tensor:
        """(n, d) a draw of z, or its mean."""
        mean, _, z, *_ = self.encode(x, self._mode(mode, " when having multiple datasets"))
        return mean if deterministic else z  # type: ignore[return-value]

    def sample_from_posterior_l(self, x: Tensor, mode: int | None = None, deterministic: bool = False) -> Tensor:
        """(n, 1) a draw of the log library size, or its mean; the observed one where it is observed."""
        *_, mean, _, library = self.encode(x, self._mode(mode, " when having multiple datasets"))
        return mean if deterministic and mean is not None else library  # type: ignore[return-value]

    def sample_scale(
        self,
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
        return self._sampled(x, mode, batch_index, y, deterministic, decode_mode, transform_batch)[0]

    def sample_rate(
        self,
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
        return self._sampled(x, mode, batch_index, y, deterministic, decode_mode, transform_batch)[2]

    def get_sample_rate(self, x: Tensor, batch_index: Tensor, *_: Any, **__: Any) -> Tensor:
        """:meth:`sample_rate` of cells of the first data set; of further arguments only `y`, the next, is read."""
        return self.sample_rate(x, 0, batch_index, _[0] if _ else __.get("y"))

    def reconstruction_loss(self, x: Tensor, px_rate: Tensor, px_r: Tensor, px_dropout: Tensor, mode: int) -> Tensor:
        """(n,) negative log-likelihood of the counts of data set `mode`; all arguments over its genes."""
        return self.likelihoods[self._mode(mode)].textbook_nll(x, px_rate, px_r, px_dropout)

    def _sampled(
        self,
        x: Tensor,
        mode: int,
        batch_index: Tensor | None,
        y: Tensor | None,
        deterministic: bool,
        decode_mode: int | None,
        transform_batch: int | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        qz_m, _, z, ql_m, _, library = self.encode(x, mode)
        if deterministic:
            z, library = qz_m, library if ql_m is None else ql_m
        code = batch_code("transform_batch", transform_batch, self.n_batch)
        batch = batch_codes(self._cells(x, mode, None, None, batch_index), code)
        return self.decode(z, mode if decode_mode is None else decode_mode, library, batch, y)  # type: ignore[arg-type]

    def _mode(self, mode: int | None, where: str = "") -> int:
        """The number of a data set; there is no need to say which one where there is one."""
        if mode is None:
            if self.n_datasets > 1:
                raise ValueError(f"Must provide a mode{where}: the number of the data set that the cells are from")
            return 0
        last = self.n_datasets - 1
        return check_integer("mode", mode, 0, last, f"a data set of this model, 0 to {last}")

    def _cells(
        self,
        x: Tensor,
        mode: int,
        l_mean: Tensor | None = None,
        l_var: Tensor | None = None,
        batch: Tensor | None = None,
        y: Tensor | None = None,
    ) -> Minibatch:
        """2020's tensors as a minibatch; batch and label 0 where there are none."""
        if x.shape[-1] != self.n_input_list[mode]:
            raise ValueError(f"x has {x.shape[-1]} genes, data set {mode} of this model has {self.n_input_list[mode]}")
        none = torch.zeros(len(x), 1, dtype=torch.long, device=x.device)
        batch, y = none if batch is None else batch, none if y is None else y
        return Minibatch(x, batch, y, l_mean, l_var, dataset=mode)


def _one_dispersion_for_no_batch(module: JVAE, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """2020's table by gene and batch was empty with ``n_batch=0``; the sum over it, a log dispersion, was 0."""
    name = f"{prefix}px_r"
    if name in state_dict and module.n_batch == 0 and state_dict[name].shape == (module.total_genes, 0):
        state_dict[name] = torch.zeros(module.total_genes, 1)


def _check_lengths(dim_input_list: Sequence[int], **lists: Sequence[Any]) -> None:
    """As many entries in every list as there are data sets."""
    if len(dim_input_list) == 0:
        raise ValueError("dim_input_list is empty: give the number of genes of each data set")
    for i, n in enumerate(dim_input_list):
        check_integer(f"dim_input_list[{i}]", n, 1)
    for name, values in lists.items():
        if isinstance(values, str) or len(values) != len(dim_input_list):
            raise ValueError(f"{name}={values!r} does not have one entry for each of {len(dim_input_list)} data sets")


def _positions(i: int, mapping: Any, n_genes: int, total_genes: int) -> np.ndarray:
    """(k,) int64 positions of the genes of data set i among all."""
    positions = np.arange(total_genes)[mapping] if isinstance(mapping, slice) else np.asarray(mapping)
    name = f"indices_mappings[{i}]"
    if positions.ndim != 1 or positions.dtype.kind not in "iu":
        raise ValueError(f"{name} is neither a slice nor a list of positions, but {mapping!r}")
    if len(positions) != n_genes:
        raise ValueError(f"{name} has {len(positions)} positions for the {n_genes} genes of dim_input_list[{i}]")
    if positions.min() < 0 or positions.max() >= total_genes or len(np.unique(positions)) < n_genes:
        raise ValueError(f"{name} does not hold {n_genes} different positions from 0 to {total_genes - 1}")
    return positions.astype(np.int64)

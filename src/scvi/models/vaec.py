"""A conditional VAE of counts and labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Unpack

import torch
from torch import Tensor

from scvi.kernels import all_agree, recounted
from scvi.minibatch import Minibatch
from scvi.models.architecture import ArchitectureOptions
from scvi.models.base import Elbo, Latent
from scvi.models.classifier import Classifier
from scvi.models.labels import LabelledVAE, LabelPairs, known_labels
from scvi.models.modules import DecoderSCVI, Encoder, LinearDecoderSCVI

__all__ = ["VAEC"]


class VAEC(LabelledVAE):
    r"""The M2 model of Kingma et al. (NeurIPS 2014) for counts::

        y_n    ~ Categorical(y_prior)                  label
        z_n    ~ Normal(0, I)                          what the label does not say
        x_n    | z_n, y_n, l_n, s_n as in scVI, its decoder shown the label as well

    approximated by q(z | x, y) q(l | x) q(y | x). Where y is not known, all terms are summed over q(y | x): the cell is
    encoded and decoded once for every label.

    Parameters are those of :class:`scvi.models.VAE`; `n_labels` is at least 1, and `y_prior` are the prior
    probabilities of the labels, None for uniform ones.
    """

    def __init__(
        self,
        n_input: int,
        n_batch: int,
        n_labels: int,
        n_hidden: int = 128,
        n_latent: int = 10,
        n_layers: int = 1,
        dropout_rate: float = 0.1,
        y_prior: Any = None,
        dispersion: str = "gene",
        log_variational: bool = True,
        reconstruction_loss: str = "zinb",
        *,
        latent_distribution: str = "normal",
        use_observed_lib_size: bool = False,
        n_continuous_cov: int = 0,
        n_cats_per_cov: Sequence[int] | None = None,
        encode_covariates: bool = False,
        **architecture: Unpack[ArchitectureOptions],
    ) -> None:
        super().__init__(
            n_input,
            n_batch,
            n_labels,
            n_hidden,
            n_latent,
            n_layers,
            dropout_rate,
            dispersion,
            log_variational,
            reconstruction_loss,
            latent_distribution,
            use_observed_lib_size=use_observed_lib_size,
            n_continuous_cov=n_continuous_cov,
            n_cats_per_cov=n_cats_per_cov,
            encode_covariates=encode_covariates,
            **architecture,
        )
        self.add_labels(n_labels, y_prior)
        sizes: dict[str, Any] = {"n_hidden": n_hidden, "n_layers": n_layers, "dropout_rate": dropout_rate}
        beside: dict[str, Any] = {"n_cat_list": [n_labels]}
        if encode_covariates:
            beside = {"n_cat_list": self._seen_categories, "n_cont": n_continuous_cov + self.architecture.n_numbers}
        beside |= self.architecture.encoder
        self.z_encoder = Encoder(n_input, n_latent, distribution=latent_distribution, **beside, **sizes)
        self.classifier = Classifier(n_input, n_labels=n_labels, **{**sizes, **self.architecture.norms("encoder")})

    def make_decoder(
        self, n_input: int, n_layers: int, n_hidden: int, covariates: dict[str, Any]
    ) -> DecoderSCVI | LinearDecoderSCVI:
        """The network of scVI, which sees the label too."""
        return super().make_decoder(n_input, n_layers, n_hidden, {**covariates, "n_cat_list": self._seen_categories})

    @property
    def _seen_categories(self) -> list[int]:
        """Category counts as :meth:`categories` has the codes: batch, label, covariates."""
        return [self.n_cat_list[0], self.n_labels, *self.n_cat_list[1:]]

    def categories(self, mb: Minibatch, batch: Tensor | None) -> tuple[Tensor | None, ...]:
        first, *others = super().categories(mb, batch)
        return first, mb.labels, *others

    def encoder_categories(self, mb: Minibatch) -> tuple[Tensor | None, ...]:
        return super().encoder_categories(mb) if self.encode_covariates else (mb.labels,)

    # ---- the model -------------------------------------------------------------------------------------------------

    def variational(self, mb: Minibatch) -> Latent:
        """q(z | x, y) and q(l | x), of cells whose label is known."""
        if mb.labels is not None and bool((mb.labels < 0).any()):
            raise ValueError(f"{int((mb.labels < 0).sum())} of {len(mb)} cells have no label, on which z depends")
        return super().variational(mb)

    def loss(self, mb: Minibatch, generator: torch.Generator | None = None) -> Elbo:
        """The negative ELBO, one draw a pair of a cell and a label; every KL is annealed."""
        labels = known_labels(mb)
        all_known = all_agree(bool((labels >= 0).all()))
        log_q_y = torch.zeros(len(mb), self.n_labels, device=mb.device) if all_known else self.log_probabilities(mb)
        pairs = LabelPairs.of(labels, log_q_y)
        cells = mb if all_known else replace(mb.take(pairs.cell), labels=pairs.label[:, None])  # m pairs
        with recounted(len(cells)):
            z, log_size, kl = self.variational(cells).draw_with_kl(cells, generator)
            nll = self.generative(z, log_size, cells).nll(cells, pairs.weight.detach() / mb.n_whole)
        means = {name: pairs.mean(of_pairs) for name, of_pairs in kl.items()}  # that of l is the same for every label
        kl = {"z": means.pop("z"), "y": self.kl_y(labels, log_q_y), **means}
        return Elbo({name: pairs.mean(of_pairs) for name, of_pairs in nll.items()}, kl, annealed=tuple(kl))

    def log_probabilities(self, mb: Minibatch) -> Tensor:
        """(n, c) log q(y | x)."""
        return self.classifier.log_probabilities(self.encoder_input(mb))  # type: ignore[arg-type]

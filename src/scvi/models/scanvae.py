"""scANVI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from scvi._checks import check_flag
from scvi.kernels import recounted
from scvi.minibatch import Minibatch
from scvi.models.architecture import ArchitectureOptions
from scvi.models.base import Elbo, Latent, WeightedDraws
from scvi.models.classifier import Classifier
from scvi.models.decoded import Decoded, GeneCounts
from scvi.models.gaussian import draw, draw_with_kl
from scvi.models.labels import LabelledVAE, LabelPairs, known_labels
from scvi.models.methods_2020 import encodable
from scvi.models.modules import Decoder, Encoder
from scvi.models.one_hot import one_hot


class SCANVAE(LabelledVAE):
    r"""scANVI (Xu et al., Molecular Systems Biology 2021)::

        y_n    ~ Categorical(y_prior)                  label
        z2_n   ~ Normal(0, I)                          state within the label
        z1_n   ~ Normal(m(z2_n, y_n), v(z2_n, y_n))    state of the cell
        x_n    | z1_n, l_n, s_n as in scVI

    approximated by q(z1 | x) q(l | x) q(y | z1) q(z2 | z1, y). Where y is not known, its terms are summed over
    q(y | z1); the counts depend on z1 alone, so a cell is decoded once whatever the number of labels.

    Parameters are those of :class:`scvi.models.VAE`, and:

    Parameters
    ----------
    n_labels
        Number of labels c, at least 1.
    y_prior
        Prior probabilities of the labels; None is uniform.
    labels_groups, use_labels_groups
        A group, 0, 1, ..., for each label. If used, q(y | z1) is q(group | z1) q(y | z1, group).
    classifier_parameters
        Options of :class:`scvi.models.Classifier` in place of the depth, width, dropout and norms of the encoders.

    Attributes
    ----------
    temperature
        What :meth:`calibrated` divides log q(y | z1) by; 1 unless it was set. Training does not look at it.
    """

    temperature: Tensor

    def __init__(
        self,
        n_input: int,
        n_batch: int = 0,
        n_labels: int = 0,
        n_hidden: int = 128,
        n_latent: int = 10,
        n_layers: int = 1,
        dropout_rate: float = 0.1,
        dispersion: str = "gene",
        log_variational: bool = True,
        reconstruction_loss: str = "zinb",
        y_prior: Any = None,
        labels_groups: Sequence[int] | None = None,
        use_labels_groups: bool = False,
        classifier_parameters: Mapping[str, Any] | None = None,
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
        of_encoder = {**sizes, **self.architecture.norms("encoder")}
        self.classifier = Classifier(n_latent, n_labels=n_labels, **{**of_encoder, **_checked(classifier_parameters)})
        self.encoder_z2_z1 = Encoder(n_latent, n_latent, n_cat_list=[n_labels], **of_encoder)
        of_decoder = self.architecture.norms("decoder")
        self.decoder_z1_z2 = Decoder(n_latent, n_latent, [n_labels], n_layers, n_hidden, **of_decoder)
        self.register_buffer("temperature", torch.ones(()))
        self.labels_groups = None if labels_groups is None else np.asarray(labels_groups)
        if self.labels_groups is not None and self.labels_groups.shape != (n_labels,) and not use_labels_groups:
            raise ValueError(
                f"labels_groups has {self.labels_groups.size} groups for n_labels={n_labels}: give each one"
            )
        self.use_labels_groups = check_flag("use_labels_groups", use_labels_groups)
        if use_labels_groups:
            self.n_groups = _count_groups(self.labels_groups, n_labels)
            self.classifier_groups = Classifier(n_latent, n_labels=self.n_groups, **of_encoder)
            masks = torch.as_tensor(self.labels_groups)[None] == torch.arange(self.n_groups)[:, None]
            self.groups_index = nn.ParameterList(nn.Parameter(mask, requires_grad=False) for mask in masks)

    # ---- the model -------------------------------------------------------------------------------------------------

    def log_q_y(self, z1: Tensor) -> Tensor:
        """(..., n, d) -> (..., n, c) log q(y | z1)."""
        log_u = self.classifier.log_probabilities(z1)
        if not self.use_labels_groups:
            return log_u
        log_w = self.classifier_groups.log_probabilities(z1)
        result = log_u
        for i, mask in enumerate(self.groups_index):
            total = log_u.masked_fill(~mask, -torch.inf).logsumexp(-1, keepdim=True)
            result = torch.where(mask, log_u - total + log_w[..., i : i + 1], result)
        return result

    def loss(self, mb: Minibatch, generator: torch.Generator | None = None) -> Elbo:
        """The negative ELBO, one draw a cell; KL of z2, y and l are annealed, that of z1 is not."""
        q = self.variational(mb)
        log_size = q.draw_size(mb, generator=generator)
        z1 = draw(q.z, generator=generator)
        labels, log_q_y = known_labels(mb), self.log_q_y(z1)
        pairs = LabelPairs.of(labels, log_q_y)
        z1s, y = z1[pairs.cell], pairs.one_hot
        with recounted(len(z1s)):
            z2, kl_z2 = draw_with_kl(self.encoder_z2_z1.encode(z1s, y), generator)
            log_p_z1 = self._log_p_z1(z1s, z2, y)
        kl = {
            "z1": q.z.log_prob(z1).sum(-1) - pairs.mean(log_p_z1),
            "z2": pairs.mean(kl_z2),
            "y": self.kl_y(labels, log_q_y),
            **q.kl_of_size(mb),
        }
        nll = self._reconstruction(mb, self.generative(z1, log_size, mb).genes, log_q_y)
        return Elbo({"genes": nll}, kl, annealed=tuple(name for name in kl if name != "z1"))

    def _log_p_z1(self, z1: Tensor, z2: Tensor, y: Tensor) -> Tensor:
        """(m,) log p(z1 | z2, y)."""
        mean, variance = self.decoder_z1_z2(z2, y)
        return Normal(mean, variance.sqrt(), validate_args=False).log_prob(z1).sum(-1)

    def generative(
        self, z: Tensor, log_size: Tensor, mb: Minibatch, batch: int | None = None, raw: bool = False
    ) -> Decoded:
        """As for :class:`scvi.models.VAE`; a dispersion by label is the mean of its logarithm where y is not known."""
        if self.dispersion == "gene-label":
            labels = known_labels(mb)
            known = one_hot(labels.clamp(min=0), self.n_labels)
            mb = replace(mb, labels=torch.where(labels >= 0, known, self.log_q_y(z).exp()))  # (..., n, c)
        return super().generative(z, log_size, mb, batch, raw)

    def _reconstruction(self, mb: Minibatch, genes: GeneCounts, log_q_y: Tensor) -> Tensor:
        """(..., n) -log p(x | z1, l, y); with a dispersion by label its mean over the labels that are not known."""
        labels = known_labels(mb)
        if self.dispersion != "gene-label" or bool((labels >= 0).all()):
            return genes.nll(mb, 1 / mb.n_whole)
        by_label = [replace(genes, log_theta=column).nll(mb) for column in self.px_r.T]
        known = one_hot(labels.clamp(min=0), self.n_labels)
        return (torch.where(labels >= 0, known, log_q_y.exp()) * torch.stack(by_label, dim=-1)).sum(-1)

    def importance_draws(
        self, mb: Minibatch, q: Latent, n_draws: int, generator: torch.Generator | None = None
    ) -> WeightedDraws:
        """Draws of z1 with log p(x, z1, z2, l | y) - log q(z1, z2, l | x, y); summed over a y that is not known.

        With a dispersion by label log p(x | z1, l) is taken at the expected log dispersion of such a cell.
        """
        z1 = draw(q.z, n_draws, generator)
        log_size, of_size = q.weighted_sizes(mb, n_draws, generator)
        log_weights = -q.z.log_prob(z1).sum(-1) + of_size
        genes = self.generative(z1, log_size, mb).genes
        log_prior = self._log_prior_draws(known_labels(mb), z1, generator)
        return WeightedDraws(z1, log_size, log_weights + log_prior - genes.nll(mb))

    def _log_prior_draws(self, labels: Tensor, z1: Tensor, generator: torch.Generator | None) -> Tensor:
        """(s, n) log of an unbiased estimate of p(z1), or of p(z1 | y) where y is known, by one draw of z2 a label."""
        rows, labels = z1.flatten(0, 1), labels.repeat(len(z1), 1)  # (s * n, .)
        known = labels >= 0
        prior = torch.where(known, torch.zeros_like(self.y_prior), self.y_prior.log())  # (s * n, c)
        pairs = LabelPairs.of(labels, torch.zeros_like(prior))
        z1s, y = rows[pairs.cell], pairs.one_hot
        qz2 = self.encoder_z2_z1.encode(z1s, y)
        z2 = draw(qz2, generator=generator)
        standard = Normal(torch.zeros_like(z2), 1.0, validate_args=False)
        log_pair = self._log_p_z1(z1s, z2, y) + (standard.log_prob(z2) - qz2.log_prob(z2)).sum(-1)
        by_label = torch.full_like(prior, -torch.inf)
        by_label[pairs.cell, pairs.label] = log_pair + prior[pairs.cell, pairs.label]
        return by_label.logsumexp(-1).view(z1.shape[:-1])

    # ---- questions -------------------------------------------------------------------------------------------------

    def log_probabilities(self, mb: Minibatch, drawn: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """(n, c) log q(y | z1) at the mean of q(z1 | x), or at a draw."""
        qz = self.latent(mb).z
        return self.log_q_y(draw(qz, generator=generator) if drawn else qz.loc)

    def calibrated(self, mb: Minibatch, drawn: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """(n, c) the same at the temperature of the model."""
        return torch.log_softmax(self.log_probabilities(mb, drawn, generator) / self.temperature, dim=-1)

    def get_latents(self, x: Tensor, y: Tensor | None = None) -> list[Tensor]:
        """[z1, z2]: a draw of z1, and z2 of the cells' labels `y`, a draw in training and the mean in evaluation."""
        if y is None and self.n_labels > 1:
            raise ValueError(f"z2 depends on the label, of which there are {self.n_labels}: y is needed, None came")
        z1 = draw(self.variational(encodable(self, "get_latents", x, y)).z)
        qz2 = self.encoder_z2_z1.encode(z1, y)
        return [self.transformed(z1), draw(qz2) if self.training else qz2.loc]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        state_dict.setdefault(f"{prefix}temperature", torch.ones(()))  # the weights of 2020 come without
        super()._load_from_state_dict(state_dict, prefix, *arguments)


def _checked(classifier_parameters: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Options of the classifier, but for the sizes that its place in the model decides."""
    given = classifier_parameters or {}
    for name, place in (("n_input", "n_latent"), ("n_labels", "n_labels")):
        if name in given:
            raise ValueError(f"classifier_parameters has {name!r}, which is the model's {place}: leave it out")
    return given


def _count_groups(labels_groups: np.ndarray | None, n_labels: int) -> int:
    if labels_groups is None:
        raise AssertionError("Specify label groups: use_labels_groups=True needs labels_groups, a group for each label")
    groups = np.unique(labels_groups)
    if labels_groups.shape != (n_labels,) or not np.array_equal(groups, np.arange(len(groups))):
        raise AssertionError(
            f"labels_groups={labels_groups.tolist()!r} are not the groups of {n_labels} labels: number the groups "
            "0, 1, ... without a gap and give one for each label"
        )
    return len(groups)

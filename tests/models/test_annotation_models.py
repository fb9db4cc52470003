"""Classifier, VAEC and SCANVAE: losses by hand, the marginal over labels, groups, options, names of parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence

import oracles
from grids import each_of
from scvi.kernels import SparseRows
from scvi.minibatch import Minibatch
from scvi.models import SCANVI, VAE, VAEC, Classifier
from scvi.models.labels import LabelledVAE, LabelPairs
from scvi.models.scanvae import SCANVAE

N, G, D, K, C = 6, 12, 3, 2, 4  # cells, genes, latent dimensions, batches, labels
BOTH = pytest.mark.parametrize("cls", [SCANVI, VAEC])


def build(cls: type[LabelledVAE], **options: Any) -> Any:
    torch.manual_seed(0)
    return cls(G, **{"n_batch": K, "n_labels": C, "n_hidden": 16, "n_latent": D} | options).eval()


def cells(labels: list[int] | None = None, n: int = N, sparse: bool = False) -> Minibatch:
    generator = torch.Generator().manual_seed(0)
    counts = torch.poisson(4 * torch.rand(n, G, generator=generator), generator=generator)
    return Minibatch(
        counts=SparseRows.of(counts) if sparse else counts,
        batch=torch.randint(K, (n, 1), generator=generator),
        labels=None if labels is None else torch.tensor(labels)[:, None],  # type: ignore[arg-type]
        l_mean=torch.full((n, 1), 3.0),
        l_var=torch.full((n, 1), 0.5),
    )


@pytest.fixture
def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every draw is the mean of its distribution, so that results can be computed by hand."""
    monkeypatch.setattr("scvi.models.gaussian._noise", lambda q, shape, generator: torch.zeros(shape))


def close(found: Tensor, expected: Any, rtol: float = 1e-4) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.asarray(expected), rtol=rtol, atol=1e-4)


# --- the classifier ---------------------------------------------------------------------------------------------------


def test_the_classifier_gives_probabilities_or_logits() -> None:
    torch.manual_seed(0)
    probabilities = Classifier(5, n_hidden=8, n_labels=3).eval()
    logits = Classifier(5, n_hidden=8, n_labels=3, logits=True).eval()
    logits.load_state_dict(probabilities.state_dict())
    x = torch.randn(7, 5)
    close(probabilities(x).sum(1), np.ones(7))
    close(torch.softmax(logits(x), 1), probabilities(x).detach())
    for one in (probabilities, logits):
        close(one.log_probabilities(x).exp(), probabilities(x).detach())
    assert next(iter(probabilities.state_dict())) == "classifier.0.fc_layers.Layer 0.0.weight"
    assert {"classifier.1.weight", "classifier.1.bias"} <= set(probabilities.state_dict())


@pytest.mark.parametrize(
    "options",
    [{"n_input": 0}, {"n_hidden": 0}, {"n_labels": 0}, {"logits": 2}, {"n_layers": -1}, {"dropout_rate": 1.5}],
)
def test_bad_options_of_the_classifier_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Classifier(**{"n_input": 5, **options})


# --- pairs of a cell and a label --------------------------------------------------------------------------------------


def test_pairs() -> None:
    q_y = torch.tensor([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1]])
    pairs = LabelPairs.of(torch.tensor([[1], [-1], [0]]), q_y.log())
    assert pairs.cell.tolist() == [0, 1, 1, 2]
    assert pairs.label.tolist() == [1, 0, 1, 0]
    close(pairs.weight, [1, 0.5, 0.5, 1])
    close(pairs.mean(torch.tensor([3.0, 4.0, 6.0, 5.0])), [3, 5, 5])
    assert pairs.one_hot.tolist() == [[0, 1], [1, 0], [0, 1], [1, 0]]


def test_improbable_labels_are_left_out() -> None:
    q_y = torch.tensor([[1 - 2e-7, 1e-7, 1e-7], [0.5, 0.4, 0.1], [1e-7, 1e-7, 1 - 2e-7]])
    pairs = LabelPairs.of(torch.tensor([[-1], [-1], [0]]), q_y.log())  # an observed label is kept whatever q says
    assert pairs.cell.tolist() == [0, 1, 1, 1, 2]
    assert pairs.label.tolist() == [0, 0, 1, 2, 0]


# --- losses -----------------------------------------------------------------------------------------------------------


def per_label(model: Any, mb: Minibatch) -> list[Any]:
    """The loss of the cells with each label in turn."""
    return [model.loss(replace(mb, labels=torch.full((len(mb), 1), k))) for k in range(C)]


@BOTH
@each_of(dispersion=["gene", "gene-batch", "gene-label", "gene-cell"], loss=["zinb", "nb", "poisson"])
def test_an_unlabelled_cell_has_the_mean_over_labels(
    cls: type[LabelledVAE], dispersion: str, loss: str, no_noise: None
) -> None:
    model = build(cls, dispersion=dispersion, reconstruction_loss=loss, y_prior=[0.1, 0.2, 0.3, 0.4])
    mb = cells()
    found = model.loss(mb)
    q_y = model.log_probabilities(mb).exp().T  # (c, n), at the mean of z, where there is no noise
    labelled = per_label(model, mb)
    assert found.annealed == tuple(name for name in found.kl if name != "z1")
    if dispersion == "gene-label" or cls is VAEC:
        expected = sum(q * one.reconstruction["genes"] for q, one in zip(q_y, labelled, strict=True))
        close(found.reconstruction["genes"], expected.detach())
    else:
        close(found.reconstruction["genes"], labelled[0].reconstruction["genes"].detach())
    for name in set(found.kl) - {"y"}:
        expected = sum(q * one.kl[name] for q, one in zip(q_y, labelled, strict=True))
        close(found.kl[name], expected.detach())
    prior = Categorical(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    close(found.kl["y"], kl_divergence(Categorical(q_y.T), prior).detach())
    assert all(not one.kl["y"].any() for one in labelled)


@BOTH
@pytest.mark.parametrize("dispersion", ["gene", "gene-label"])
def test_labelled_and_unlabelled_cells_share_a_minibatch(
    cls: type[LabelledVAE], dispersion: str, no_noise: None
) -> None:
    model = build(cls, dispersion=dispersion)
    mixed = model.loss(cells([0, -1, 3, -1, 1, 2]))
    alone, known = model.loss(cells()), model.loss(cells([0, 0, 3, 0, 1, 2]))
    is_known = torch.tensor([True, False, True, False, True, True])
    for name, value in {**mixed.kl, **mixed.reconstruction}.items():
        of_alone, of_known = ({**one.kl, **one.reconstruction}[name] for one in (alone, known))
        close(value, torch.where(is_known, of_known, of_alone).detach())


def test_the_loss_of_scanvi_by_hand() -> None:
    model, mb = build(SCANVI), cells([0, 1, 2, 3, 1, 2])
    elbo = model.loss(mb, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(1)  # draws of l, z1 and z2, in this order
    x = torch.log1p(mb.x)
    qz_m, qz_v, _ = model.z_encoder(x)
    ql_m, ql_v, _ = model.l_encoder(x)
    log_library = ql_m + ql_v.sqrt() * torch.randn(ql_m.shape, generator=generator)
    z1 = qz_m + qz_v.sqrt() * torch.randn(qz_m.shape, generator=generator)
    qz2_m, qz2_v, _ = model.encoder_z2_z1(z1, mb.labels)
    z2 = qz2_m + qz2_v.sqrt() * torch.randn(qz2_m.shape, generator=generator)
    pz1_m, pz1_v = model.decoder_z1_z2(z2, mb.labels)
    log_q = oracles.log_normal_pdf(*(t.detach().numpy() for t in (z1, qz_m, qz_v))).sum(-1)
    log_p = oracles.log_normal_pdf(*(t.detach().numpy() for t in (z1, pz1_m, pz1_v))).sum(-1)
    close(elbo.kl["z1"], log_q - log_p)
    close(elbo.kl["z2"], oracles.kl_normal(qz2_m.detach().numpy(), qz2_v.detach().numpy(), 0.0, 1.0).sum(-1))
    close(elbo.kl["l"], oracles.kl_normal(ql_m.detach().numpy(), ql_v.detach().numpy(), 3.0, 0.5).sum(-1))
    _, _, rate, dropout = model.decoder("gene", z1, log_library, mb.batch)
    theta = model.px_r.exp()
    log_x = oracles.log_zinb(*(t.detach().numpy() for t in (mb.x, rate, theta, dropout)), eps=0.0)
    close(elbo.reconstruction["genes"], -log_x.sum(-1))
    fixed, warmed, total = model.forward(mb.x, mb.l_mean, mb.l_var, mb.batch, mb.labels)
    assert fixed.shape == warmed.shape == (N,)
    assert total == 0.0


@BOTH
def test_sparse_and_dense_counts_give_the_same(cls: type[LabelledVAE], no_noise: None) -> None:
    model = build(cls)
    for labels in (None, [0, -1, 3, -1, 1, 2]):
        dense, sparse = (model.loss(cells(labels, sparse=s)) for s in (False, True))
        close(sparse.per_cell(), dense.per_cell().detach())


@BOTH
def test_gradients_of_the_marginal(cls: type[LabelledVAE], no_noise: None) -> None:
    """All weights at once, along random directions, against difference quotients."""
    model, mb = build(cls), cells([0, -1, 3, -1, 1, 2], sparse=True)
    parameters = [p for p in model.parameters() if p.requires_grad]

    def loss() -> Tensor:
        return model.loss(mb).objective()

    gradients = torch.autograd.grad(loss(), parameters, allow_unused=True)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        slope, values, steps = 0.0, [], [2e-4 * torch.randn(p.shape, generator=generator) for p in parameters]
        for gradient, step in zip(gradients, steps, strict=True):
            slope += 0.0 if gradient is None else float((gradient * step).sum())
        for sign in (1, -2):  # ahead, then as far behind
            with torch.no_grad():
                for parameter, step in zip(parameters, steps, strict=True):
                    parameter.add_(sign * step)
                values.append(float(loss()))
        with torch.no_grad():
            for parameter, step in zip(parameters, steps, strict=True):
                parameter.add_(step)
        assert slope == pytest.approx((values[0] - values[1]) / 2, rel=0.03, abs=1e-4)


@BOTH
def test_labels_are_used_where_they_were_observed_and_nowhere_else(cls: type[LabelledVAE], no_noise: None) -> None:
    model = build(cls)
    base = model.loss(cells([0, -1, 3, -1, 1, 2])).per_cell()
    changed = model.loss(cells([1, -1, 3, -1, 1, 2])).per_cell()
    assert (base != changed).tolist() == [True, False, False, False, False, False]


@BOTH
def test_the_importance_weighted_bound_lies_above_the_elbo(cls: type[LabelledVAE]) -> None:
    model, mb = build(cls), cells([0, 1, 2, 3, 1, 2])
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        elbo = torch.stack([-model.loss(mb, generator).per_cell() for _ in range(300)]).mean(0)
        tight = model.marginal_log_likelihood(mb, 2000, generator)
    assert (tight > elbo - 0.1).all()
    assert float((tight - elbo).mean()) > 0.1


def test_the_marginal_over_labels_is_the_mixture_of_the_labels() -> None:
    """log p(x) = log sum_y p(y) p(x | y), each side by importance sampling."""
    model, mb = build(SCANVI, y_prior=[0.4, 0.3, 0.2, 0.1], use_observed_lib_size=True), cells(n=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        whole = model.marginal_log_likelihood(mb, 20_000, generator)
        parts = [
            model.marginal_log_likelihood(replace(mb, labels=torch.full((3, 1), k)), 20_000, generator)
            + model.y_prior[0, k].log()
            for k in range(C)
        ]
    close(whole, torch.stack(parts).logsumexp(0), rtol=2e-3)


# --- what the models say ----------------------------------------------------------------------------------------------


@BOTH
def test_classify(cls: type[LabelledVAE]) -> None:
    model, mb = build(cls), cells()
    probabilities = model.classify(mb.x)
    assert probabilities.shape == (N, C)
    close(probabilities.sum(1), np.ones(N))
    inputs = torch.log1p(mb.x)
    z = inputs if cls is VAEC else model.z_encoder(inputs)[0]
    close(probabilities, model.classifier(z).detach())
    raw = build(cls, log_variational=False)
    z = mb.x if cls is VAEC else raw.z_encoder(mb.x)[0]
    close(raw.classify(mb.x), raw.classifier(z).detach())


def test_the_temperature_flattens_answers_and_nothing_else() -> None:
    model, mb = build(SCANVI), cells()
    before, loss = model.log_probabilities(mb), model.loss(mb, torch.Generator().manual_seed(0)).per_cell()
    close(model.calibrated(mb), before.detach())
    model.temperature.fill_(2.0)
    close(model.calibrated(mb), torch.log_softmax(before / 2, 1).detach())
    close(model.log_probabilities(mb), before.detach())
    close(model.loss(mb, torch.Generator().manual_seed(0)).per_cell(), loss.detach())
    old = {name: value for name, value in model.state_dict().items() if name != "temperature"}
    assert not model.load_state_dict(old).missing_keys
    assert float(model.temperature) == 1.0


def test_groups_of_labels() -> None:
    model, mb = build(SCANVI, labels_groups=[0, 0, 1, 1], use_labels_groups=True), cells()
    z = model.z_encoder(torch.log1p(mb.x))[0]
    w, u = model.classifier_groups(z), model.classifier(z)
    expected = torch.cat(
        [u[:, :2] / u[:, :2].sum(1, keepdim=True) * w[:, :1], u[:, 2:] / u[:, 2:].sum(1, keepdim=True) * w[:, 1:]], 1
    )
    close(model.classify(mb.x), expected.detach())
    assert model.n_groups == 2
    assert model.groups_index[0].tolist() == [True, True, False, False]
    assert {"groups_index.0", "groups_index.1"} <= set(model.state_dict())
    model.loss(mb).objective().backward()
    assert model.classifier_groups.classifier[1].weight.grad is not None
    unused = build(SCANVI, labels_groups=[0, 0, 1, 1])
    assert unused.labels_groups.tolist() == [0, 0, 1, 1]
    assert not any(name.startswith("classifier_groups") for name in unused.state_dict())


def test_the_two_latent_levels() -> None:
    model, mb = build(SCANVI), cells([0, 1, 2, 3, 1, 2])
    z1, z2 = model.get_latents(mb.x, mb.labels)
    assert z1.shape == z2.shape == (N, D)
    close(z2, model.encoder_z2_z1(z1, mb.labels)[0].detach())  # the mean, in evaluation
    with pytest.raises(ValueError, match=r"y is needed, None came"):
        model.get_latents(mb.x)


def test_a_cell_without_label_has_no_latent_state_in_vaec() -> None:
    with pytest.raises(ValueError, match=r"1 of 6 cells have no label"):
        build(VAEC).variational(cells([0, 1, 2, 3, 1, -1]))


@BOTH
@pytest.mark.parametrize("options", [{}, {"dispersion": "gene-label"}, {"encode_covariates": True}])
def test_the_library_size_depends_on_counts_alone(cls: type[LabelledVAE], options: dict[str, Any]) -> None:
    model, mb = build(cls, **options), cells()
    torch.manual_seed(3)
    drawn = model.sample_from_posterior_l(mb.x)
    torch.manual_seed(3)
    close(drawn, model.l_encoder(torch.log1p(mb.x))[2].detach())
    observed = build(cls, use_observed_lib_size=True, **options)
    close(observed.sample_from_posterior_l(mb.x), mb.x.sum(1, keepdim=True).log())


def test_frequencies_decoded_from_z_need_a_label_where_the_decoder_sees_it() -> None:
    mb = cells()
    assert build(SCANVI, dispersion="gene-label").scale_from_z(mb.x, 1).shape == (N, G)
    with pytest.raises(AssertionError, match="cat not provided"):
        build(VAEC).scale_from_z(mb.x, 1)


def test_dispersion_by_label_where_it_is_not_known() -> None:
    model, mb = build(SCANVI, dispersion="gene-label"), cells([0, -1, 3, -1, 1, 2])
    out = model.inference(mb.x, mb.batch, mb.labels)
    q_y = model.log_q_y(out["z"]).exp()
    known = torch.nn.functional.one_hot(mb.labels[:, 0].clamp(min=0), C)
    weights = torch.where(mb.labels >= 0, known, q_y)
    close(out["px_r"], torch.exp(weights @ model.px_r.T).detach())
    assert model.inference(mb.x, mb.batch, mb.labels, n_samples=3)["px_rate"].shape == (3, N, G)


def test_weights_of_scvi_are_those_of_scanvi() -> None:
    vae = VAE(G, n_batch=K, n_hidden=16, n_latent=D)
    model = build(SCANVI, classifier_parameters={"dropout_rate": 0.2, "n_hidden": 20, "n_layers": 2})
    result = model.load_state_dict(vae.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert {key.split(".")[0] for key in result.missing_keys} == {
        "classifier",
        "encoder_z2_z1",
        "decoder_z1_z2",
        "y_prior",
    }
    assert model.classifier.classifier[1].weight.shape == (C, 20)
    assert {"decoder_z1_z2.mean_decoder.weight", "decoder_z1_z2.var_decoder.bias"} <= set(result.missing_keys)
    assert SCANVI is SCANVAE


def test_names_of_the_weights_of_vaec() -> None:
    model = build(VAEC)
    assert {key.split(".")[0] for key in model.state_dict()} == {
        "px_r",
        "z_encoder",
        "l_encoder",
        "decoder",
        "classifier",
        "y_prior",
    }
    assert model.z_encoder.encoder.fc_layers[0][0].weight.shape == (16, G + C)
    assert model.decoder.px_decoder.fc_layers[0][0].weight.shape == (16, D + K + C)


@BOTH
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_labels": 0}, ValueError, "n_labels=0"),
        ({"y_prior": [0.5, 0.5]}, ValueError, r"y_prior=.* is not a distribution of 4 labels"),
        ({"y_prior": [0.5, 0.5, 0.5, 0.5]}, ValueError, "add up to 1"),
        ({"y_prior": [1.0, 0.0, 0.0, 0.0]}, ValueError, "one positive number a label"),
    ],
)
def test_bad_options_are_refused(
    cls: type[LabelledVAE], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build(cls, **options)


def test_bad_groups_are_refused() -> None:
    with pytest.raises(AssertionError, match="Specify label groups"):
        build(SCANVI, use_labels_groups=True)
    for groups in ([0, 0, 2, 2], [0, 1, 0], [1, 1, 2, 2]):
        with pytest.raises(AssertionError, match="number the groups 0, 1"):
            build(SCANVI, use_labels_groups=True, labels_groups=groups)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classifier_parameters": {"n_labels": 7}}, r"classifier_parameters has 'n_labels', .* leave it out"),
        ({"classifier_parameters": {"n_input": 7}}, r"which is the model's n_latent"),
        ({"use_labels_groups": "no"}, "use_labels_groups='no'"),
        ({"labels_groups": [0]}, "labels_groups has 1 groups for n_labels=4"),
    ],
)
def test_bad_options_of_scanvi_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(SCANVI, **options)


@BOTH
@pytest.mark.parametrize("dispersion", ["gene", "gene-label"])
def test_labels_as_codes_and_as_one_hot_rows(cls: type[LabelledVAE], dispersion: str, no_noise: None) -> None:
    model, mb = build(cls, dispersion=dispersion), cells([0, 1, 2, 3, 0, 1])
    ask = lambda y: model(mb.x, mb.l_mean, mb.l_var, mb.batch, y)  # noqa: E731
    expected, rows = ask(mb.labels), ask(torch.eye(C)[mb.labels[:, 0]])  # type: ignore[index]
    for found, wanted in zip(rows[:2], expected[:2], strict=True):
        close(found, wanted.detach())
    with pytest.raises(ValueError, match="the code 4, of n_labels=4"):
        ask(mb.labels + 1)  # type: ignore[operator]
    for shape in ((N,), (N, C + 1), (N - 1, 1)):
        with pytest.raises(ValueError, match="one code of a label a cell"):
            ask(torch.zeros(shape, dtype=torch.long))


@BOTH
def test_data_of_more_labels_are_refused(cls: type[LabelledVAE]) -> None:
    with pytest.raises(ValueError, match=r"n_labels=4 for label codes up to 5"):
        build(cls).check_fits(G, K, 6)
    build(cls).check_fits(G, K, 3)


@BOTH
def test_a_prior_of_another_shape_and_type(cls: type[LabelledVAE]) -> None:
    model = build(cls, y_prior=np.array([0.1, 0.2, 0.3, 0.4]))
    assert model.y_prior.shape == (1, C)
    assert model.y_prior.dtype == torch.float32
    assert not model.y_prior.requires_grad


def test_normal_is_checked_once() -> None:
    """The scores of the prior of z1 agree with torch's own density."""
    model, mb = build(SCANVI), cells([0, 1, 2, 3, 1, 2])
    y = torch.nn.functional.one_hot(mb.labels[:, 0], C).float()
    z1, z2 = torch.randn(2, N, D)
    mean, variance = model.decoder_z1_z2(z2, y)
    close(model._log_p_z1(z1, z2, y), Normal(mean, variance.sqrt()).log_prob(z1).sum(-1).detach())

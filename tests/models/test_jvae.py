"""JVAE: its file format, its loss against textbook densities, its normalisation over the genes that are observed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import oracles
from grids import each_of
from scvi.kernels import SparseRows
from scvi.minibatch import Minibatch
from scvi.models import JVAE, Classifier
from scvi.models.adversary import Adversaries, adversarial_losses, class_log_probabilities
from scvi.models.base import observed_log_size

N, TOTAL = 12, 7
MAPPINGS: list[Any] = [slice(None), np.array([4, 0, 5, 2])]
SIZES: dict[str, Any] = {
    "dim_input_list": [TOTAL, 4],
    "total_genes": TOTAL,
    "indices_mappings": MAPPINGS,
    "model_library_bools": [True, False],
    "n_latent": 2,
    "dim_hidden_encoder": 8,
    "n_batch": 3,
}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def make(**options: Any) -> JVAE:
    return JVAE(**{**SIZES, "reconstruction_losses": ["zinb", "nb"], **options})


def cells(mode: int, n: int = N) -> Minibatch:
    genes = SIZES["dim_input_list"][mode]
    rng = np.random.default_rng(mode)
    x = torch.from_numpy(rng.poisson(2.0, (n, genes)).astype(np.float32))
    batch = torch.from_numpy(rng.integers(3, size=(n, 1)))
    labels = torch.from_numpy(rng.integers(2, size=(n, 1)))
    prior = torch.full((n, 1), 1.5), torch.full((n, 1), 0.3)
    return Minibatch(SparseRows.of(x), batch, labels, *prior, dataset=mode)


# ---- file format -----------------------------------------------------------------------------------------------------


def test_the_rate_of_2020_reads_labels_where_dispersions_differ_by_label() -> None:
    model, mb = make(dispersion="gene-label", n_labels=2).eval(), cells(0)
    for given, named in (((mb.labels,), {}), ((), {"y": mb.labels}), ((mb.labels, 1), {"transform_batch": None})):
        assert model.get_sample_rate(mb.x, mb.batch, *given, **named).shape == (N, TOTAL)


def test_weights_of_2020_without_batches() -> None:
    """The table by gene and batch was empty there; one-hot codes of no batch times it are zeros, a theta of 1."""
    model = make(n_batch=0)
    state = {**make(n_batch=0).state_dict(), "px_r": torch.zeros(TOTAL, 0)}
    model.load_state_dict(state)
    assert state["px_r"].shape == (TOTAL, 0)
    mb = cells(0)
    _, theta, *_ = model.decode(torch.zeros(N, 2), 0, torch.zeros(N, 1), torch.zeros_like(mb.batch))
    assert torch.equal(theta, torch.ones(N, TOTAL))
    again = make(n_batch=0)
    again.px_r.data += 1
    model.load_state_dict(again.state_dict())
    assert torch.equal(model.px_r, again.px_r)
    for n_batch in (1, 3):
        with pytest.raises(RuntimeError, match="size mismatch for px_r"):
            make(n_batch=n_batch).load_state_dict(make(n_batch=n_batch).state_dict() | {"px_r": torch.zeros(TOTAL, 0)})


def test_the_names_of_the_weights() -> None:
    names = {name for name in make().state_dict() if "num_batches" not in name and "running" not in name}
    layer = [f"fc_layers.Layer 0.{part}" for part in ("0.weight", "0.bias", "1.weight", "1.bias")]
    heads = [f"{head}.{part}" for head in ("mean_encoder", "var_encoder") for part in ("weight", "bias")]
    assert names == {
        "px_r",
        *(
            f"z_encoder.{network}.{part}"
            for network in ("encoders.0", "encoders.1", "encoder_shared")
            for part in layer
        ),
        *(f"z_encoder.{head}" for head in heads),
        *(f"l_encoders.0.encoder.{part}" for part in layer),
        *(f"l_encoders.0.{head}" for head in heads),
        *(
            f"decoder.{head}.{part}"
            for head in ("px_scale_decoder.0", "px_r_decoder", "px_dropout_decoder")
            for part in ("weight", "bias")
        ),
    }


@pytest.mark.parametrize(
    ("dispersion", "shape"), [("gene", (TOTAL,)), ("gene-batch", (TOTAL, 3)), ("gene-label", (TOTAL, 2))]
)
def test_shape_of_the_dispersion(dispersion: str, shape: tuple[int, ...]) -> None:
    assert make(dispersion=dispersion, n_labels=2).px_r.shape == shape


def test_the_defaults_make_a_model_without_batches() -> None:
    model = JVAE([3, 2], 3, [slice(None), [0, 1]], ["nb", "poisson"], [True, False])
    assert model.px_r.shape == (3, 1)
    x = torch.ones(4, 2)
    assert torch.isfinite(model(x, torch.zeros(4, 1), torch.ones(4, 1), mode=1)[0]).all()


# ---- loss ------------------------------------------------------------------------------------------------------------


def textbook_nll(model: JVAE, mb: Minibatch, z: Tensor, log_library: Tensor) -> np.ndarray:
    """(n,) in float64 from the networks' weights alone."""
    genes = np.arange(TOTAL)[MAPPINGS[mb.dataset]]
    with torch.no_grad():
        layer = model.decoder.px_scale_decoder[0]
        logits = (z @ layer.weight.T + layer.bias).double().numpy()[:, genes]
        head = model.decoder.px_dropout_decoder
        dropout = (z @ head.weight.T + head.bias).double().numpy()[:, genes]
        r_head = model.decoder.px_r_decoder
        log_theta = {
            "gene": lambda: model.px_r.expand(len(z), -1),
            "gene-batch": lambda: model.px_r.T[mb.batch[:, 0]],
            "gene-label": lambda: model.px_r.T[mb.labels[:, 0]],
            "gene-cell": lambda: z @ r_head.weight.T + r_head.bias,
        }[model.dispersion]()
    log_theta = log_theta.detach().double().numpy()[:, genes]
    log_mu = oracles.log_softmax(logits) + log_library.double().numpy()
    x = mb.x.double().numpy()
    name = model.reconstruction_losses[mb.dataset]
    if name == "poisson":
        return -oracles.poisson(x, log_mu).log_prob.value.sum(1)
    if name == "nb":
        return -oracles.log_nb(x, np.exp(log_mu), np.exp(log_theta), 0.0).sum(1)
    return -oracles.log_zinb(x, np.exp(log_mu), np.exp(log_theta), dropout, 0.0).sum(1)


@each_of(
    dispersion=["gene", "gene-batch", "gene-label", "gene-cell"],
    names=[("zinb", "nb"), ("poisson", "zinb"), ("nb", "poisson")],
    mode=[0, 1],
)
def test_the_loss_is_that_of_the_textbook(dispersion: str, names: tuple[str, str], mode: int) -> None:
    model = make(dispersion=dispersion, reconstruction_losses=names, n_labels=2).eval()
    mb = cells(mode)
    q = model.variational(mb)
    generator = torch.Generator().manual_seed(1)
    elbo = model.loss(mb, torch.Generator().manual_seed(1))
    if q.l is None:
        log_library = observed_log_size(mb)
    else:
        log_library = q.l.loc + q.l.scale * torch.randn(N, 1, generator=generator)
    z = q.z.loc + q.z.scale * torch.randn(N, 2, generator=generator)
    np.testing.assert_allclose(
        elbo.reconstruction["genes"].detach(),
        textbook_nll(model, mb, z.detach(), log_library.detach()),
        rtol=2e-5,
    )
    kl_z = oracles.kl_normal(q.z.loc.detach(), q.z.variance.detach(), 0.0, 1.0).sum(1)
    np.testing.assert_allclose(elbo.kl["z"].detach(), kl_z, rtol=1e-4)
    assert ("l" in elbo.kl) == (mode == 0)
    if q.l is not None:
        kl_l = oracles.kl_normal(q.l.loc.detach(), q.l.variance.detach(), 1.5, 0.3).sum(1)
        np.testing.assert_allclose(elbo.kl["l"].detach(), kl_l, rtol=1e-4)
    assert set(elbo.annealed) == set(elbo.kl)  # both are annealed


def test_forward_is_the_loss() -> None:
    model, mb = make().eval(), cells(0)
    torch.manual_seed(3)
    reconstruction, kl, kl_global = model(mb.x, mb.l_mean, mb.l_var, mb.batch, mb.labels, mode=0)
    torch.manual_seed(3)
    elbo = model.loss(mb)
    assert torch.allclose(reconstruction, elbo.reconstruction["genes"])
    assert torch.allclose(kl, elbo.kl["z"] + elbo.kl["l"])
    assert kl_global == 0.0


@pytest.mark.parametrize("mode", [0, 1])
def test_gradients_reach_what_the_data_set_uses_and_nothing_else(mode: int) -> None:
    model = make()
    model.loss(cells(mode)).objective().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and bool((p.grad != 0).any())}
    assert not any(f"encoders.{1 - mode}." in name for name in reached)
    assert any(f"z_encoder.encoders.{mode}." in name for name in reached)
    weights = model.decoder.px_scale_decoder[0].weight.grad
    unobserved = np.setdiff1d(np.arange(TOTAL), np.arange(TOTAL)[MAPPINGS[mode]])
    assert bool((weights[unobserved] == 0).all())
    assert bool((model.px_r.grad[unobserved] == 0).all())
    assert ("decoder.px_dropout_decoder.weight" in reached) == (mode == 0)  # nb has no dropout


def test_gradients_are_those_of_torch_operations() -> None:
    """The same loss in float64 takes torch's path: its gradients are autograd's."""
    model = make(dropout_rate_encoder=0.0)
    gradients = []
    for kind in (torch.float32, torch.float64):
        model.to(kind)
        model.zero_grad()
        mb = cells(1)
        mb = Minibatch(mb.x.to(kind), mb.batch, mb.labels, mb.l_mean, mb.l_var, dataset=1)
        q = model.variational(mb)
        model.generative(q.z.loc, observed_log_size(mb), mb).genes.nll(mb).mean().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    for name, exact in gradients[1].items():
        torch.testing.assert_close(gradients[0][name].double(), exact, rtol=1e-3, atol=1e-5, msg=name)


def test_importance_sampling_is_above_the_elbo() -> None:
    model, mb = make().eval(), cells(0)
    with torch.no_grad():
        elbo = -torch.stack([model.loss(mb).per_cell() for _ in range(200)]).mean(0)
        assert bool((model.marginal_log_likelihood(mb, 500) > elbo - 0.05).all())


# ---- decoding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decode_mode", [None, 0, 1])
def test_frequencies_sum_to_one_over_the_observed_genes(decode_mode: int | None) -> None:
    model, mb = make().eval(), cells(0)
    scale = model.sample_scale(mb.x, 0, mb.batch, deterministic=True, decode_mode=decode_mode)
    assert scale.shape == (N, TOTAL)
    observed = scale[:, MAPPINGS[decode_mode or 0]]
    assert torch.allclose(observed.sum(1), torch.ones(N))
    q = model.variational(mb)
    rate = model.sample_rate(mb.x, 0, mb.batch, deterministic=True, decode_mode=decode_mode)
    assert torch.allclose(rate, scale * q.l.loc.exp())


def test_observed_genes_are_decoded_as_they_are_trained() -> None:
    model, mb = make().eval(), cells(1)
    with torch.no_grad():
        q = model.variational(mb)
        log_library = observed_log_size(mb)
        decoded = model.generative(q.z.loc, log_library, mb).genes
        scale, theta, rate, dropout = model.decode(q.z.loc, 1, log_library, mb.batch, mb.labels)
    assert torch.allclose(decoded.scale, scale[:, MAPPINGS[1]])
    assert torch.allclose(decoded.rate, rate[:, MAPPINGS[1]])
    assert torch.allclose(decoded.theta, theta[:, MAPPINGS[1]])
    nll = model.reconstruction_loss(mb.x, *(t[:, MAPPINGS[1]] for t in (rate, theta, dropout)), mode=1)
    assert torch.allclose(nll, decoded.nll(mb), rtol=1e-4)
    assert make(dispersion="gene").decode(q.z.loc, 1, log_library)[1].shape == (1, TOTAL)


def test_transform_batch_decodes_in_that_batch() -> None:
    model, mb = make(n_layers_decoder_individual=1, n_layers_decoder_shared=1).eval(), cells(0)
    with torch.no_grad():
        there = model.sample_scale(mb.x, 0, torch.full((N, 1), 2), deterministic=True)
        assert torch.equal(model.sample_scale(mb.x, 0, mb.batch, deterministic=True, transform_batch=2), there)
        assert not torch.equal(model.sample_scale(mb.x, 0, mb.batch, deterministic=True), there)


@pytest.mark.parametrize("code", [3, -1, "b"])
def test_a_batch_that_is_none_is_refused(code: Any) -> None:
    model, mb = make(dispersion="gene").eval(), cells(0)
    for method in (model.sample_scale, model.sample_rate):
        with pytest.raises(ValueError, match=f"transform_batch={code!r} is not"):
            method(mb.x, 0, mb.batch, transform_batch=code)


def test_an_empty_cell_has_a_library() -> None:
    model = make().eval()
    library = model.encode(torch.zeros(3, 4), 1)[-1]
    assert torch.equal(library, torch.zeros(3, 1))


def test_the_variance_has_a_floor() -> None:
    model = make().eval()
    with torch.no_grad():
        model.z_encoder.var_encoder.bias.fill_(-1e4)
        assert float(model.encode(torch.ones(2, 4), 1)[1].min()) >= 0.99e-4


def test_samples_are_draws_and_means() -> None:
    model, mb = make().eval(), cells(0)
    mean = model.sample_from_posterior_z(mb.x, 0, deterministic=True)
    torch.testing.assert_close(mean, model.variational(mb).z.loc)
    assert not torch.equal(model.sample_from_posterior_z(mb.x, 0), mean)
    torch.testing.assert_close(model.sample_from_posterior_l(mb.x, 0, deterministic=True), model.variational(mb).l.loc)
    other = cells(1)
    assert torch.equal(model.sample_from_posterior_l(other.x, 1), observed_log_size(other))
    assert model.get_sample_rate(mb.x, mb.batch, mb.labels, n_samples=3).shape == (N, TOTAL)


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reconstruction_losses": ["zinb", "nbb"]}, "'nbb' is not one of 'zinb', 'nb', 'poisson'"),
        ({"dispersion": "gene-bach"}, "dispersion='gene-bach' is not one of"),
        ({"dispersion": "gene-label"}, "needs n_labels >= 1"),
        (
            {"reconstruction_losses": ["zinb"]},
            r"reconstruction_losses=\['zinb'\] does not have one entry for each of 2",
        ),
        ({"indices_mappings": [slice(None), [0, 1, 2]]}, r"indices_mappings\[1\] has 3 positions for the 4 genes"),
        ({"indices_mappings": [slice(None), [0, 1, 2, 7]]}, "different positions from 0 to 6"),
        ({"indices_mappings": [slice(None), [0, 1, 2, 2]]}, "different positions from 0 to 6"),
        ({"indices_mappings": [slice(None), [0.5, 1, 2, 3]]}, "neither a slice nor a list of positions"),
        ({"model_library_bools": [True, "no"]}, "model_library_bools='no' is not True or False"),
        ({"dim_input_list": [], "indices_mappings": []}, "dim_input_list is empty"),
        ({"n_latent": 0}, "n_latent=0 is not a positive integer"),
        ({"dropout_rate_decoder": 1.0}, r"dropout_rate_decoder=1.0 is not a number in \[0, 1\)"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_the_mode_is_needed_and_checked() -> None:
    model, x = make(), torch.ones(2, 4)
    with pytest.raises(ValueError, match="Must provide a mode when having multiple datasets"):
        model.sample_from_posterior_z(x)
    with pytest.raises(ValueError, match="Must provide a mode"):
        model(x, torch.zeros(2, 1), torch.ones(2, 1))
    with pytest.raises(ValueError, match="mode=2 is not a data set of this model, 0 to 1"):
        model.sample_from_posterior_z(x, mode=2)
    with pytest.raises(ValueError, match="x has 4 genes, data set 0 of this model has 7"):
        model.sample_from_posterior_z(x, mode=0)
    alone = JVAE([4], 4, [slice(None)], ["nb"], [False])
    assert alone.sample_from_posterior_z(x).shape == (2, 10)


# ---- the adversary ---------------------------------------------------------------------------------------------------


def test_classifier() -> None:
    for logits in (False, True):
        classifier = Classifier(3, 8, n_labels=4, n_layers=2, logits=logits).eval()
        said = classifier(torch.randn(5, 3))
        assert said.shape == (5, 4)
        assert torch.allclose(said.sum(1), torch.ones(5)) != logits
    assert "classifier.1.weight" in classifier.state_dict()
    assert "classifier.0.fc_layers.Layer 1.0.weight" in classifier.state_dict()


def test_adversarial_losses_by_hand() -> None:
    p = [
        torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25]]),
        torch.tensor([[0.1, 0.8, 0.1]]),
        torch.tensor([[1 / 3] * 3]),
    ]
    logs = [part.log() for part in p]
    own = adversarial_losses(logs, predict_true_class=True)
    np.testing.assert_allclose(own, [-np.log([0.7, 0.5]).mean(), -np.log(0.8), np.log(3)], rtol=1e-5)
    others = adversarial_losses(logs, predict_true_class=False)
    expected = [-np.log([0.2, 0.1, 0.25, 0.25]).sum() / 4, -np.log(0.1), np.log(3)]
    np.testing.assert_allclose(others, expected, rtol=1e-5)


def test_each_side_has_gradients_of_its_own() -> None:
    networks = Adversaries(make(), Classifier(2, 8, 2, 2, logits=True))
    latents = [networks.model.draw_with_loss(cells(mode))[0] for mode in (0, 1)]
    own = torch.stack(adversarial_losses(networks.told_apart(latents), predict_true_class=True)).sum()
    own.backward(retain_graph=True)
    assert all(p.grad is None for p in networks.model.parameters())
    assert all(p.grad is not None for p in networks.discriminator.parameters())
    networks.zero_grad()
    networks.deception(latents).backward()
    assert all(p.grad is None for p in networks.discriminator.parameters())
    assert networks.model.z_encoder.mean_encoder.weight.grad is not None


def test_batch_norm_does_not_hide_a_shift_between_the_data_sets() -> None:
    """A discriminator in training mode sees that the cells of two data sets lie far from one another."""
    classifier = Classifier(2, 16, 2, 3, dropout_rate=0.0, logits=True).train()
    latents = [torch.randn(200, 2) - 3, torch.randn(200, 2) + 3]
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-2)
    for _ in range(60):
        loss = torch.stack(adversarial_losses(class_log_probabilities(classifier, latents), True)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.2

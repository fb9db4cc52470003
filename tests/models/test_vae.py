"""VAE and LDVAE: the loss against the oracle, the 2020 methods, options, covariates, names of parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

import oracles
from grids import each_of
from scvi.minibatch import Minibatch
from scvi.models import LDVAE, VAE
from scvi.models.base import Elbo, Moments

N, G, D, K, C = 7, 12, 3, 3, 2  # cells, genes, latent dimensions, batches, labels
DISPERSIONS = ("gene", "gene-batch", "gene-label", "gene-cell")
LOSSES = ("zinb", "nb", "poisson")
CLASSES = pytest.mark.parametrize("cls", [VAE, LDVAE])
MODELS = [(cls, d) for cls in (VAE, LDVAE) for d in DISPERSIONS if (cls, d) != (LDVAE, "gene-cell")]


def build(cls: type[VAE] = VAE, **options: Any) -> VAE:
    torch.manual_seed(0)
    return cls(G, **{"n_batch": K, "n_labels": C, "n_hidden": 16, "n_latent": D} | options).eval()


def cells(n: int = N, seed: int = 0, **more: Tensor) -> Minibatch:
    generator = torch.Generator().manual_seed(seed)
    return Minibatch(
        counts=torch.poisson(4 * torch.rand(n, G, generator=generator), generator=generator),
        batch=torch.randint(K, (n, 1), generator=generator),
        labels=torch.randint(C, (n, 1), generator=generator),
        l_mean=torch.full((n, 1), 3.0),
        l_var=torch.full((n, 1), 0.5),
        **more,
    )


@pytest.fixture
def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every draw is the mean of its distribution, so that results can be computed by hand."""
    monkeypatch.setattr("scvi.models.gaussian._noise", lambda q, shape, generator: torch.zeros(shape))


# --- options ----------------------------------------------------------------------------------------------------------


@CLASSES
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (
            "dispersion",
            "gene-bach",
            r"dispersion='gene-bach' is not one of 'gene', 'gene-batch', 'gene-label', 'gene-cell'",
        ),
        ("reconstruction_loss", "mse", r"reconstruction_loss='mse' is not one of 'zinb', 'nb', 'poisson'"),
        ("latent_distribution", "gumbel", r"latent_distribution='gumbel' is not one of 'normal', 'ln'"),
        ("n_input", 0, "n_input=0"),
        ("n_hidden", 0, "n_hidden=0"),
        ("n_latent", 0, "n_latent=0"),
        ("n_latent", -2, "n_latent=-2"),
        ("n_latent", 2.5, r"n_latent=2\.5"),
        ("n_layers", 0, "n_layers=0"),
        ("n_batch", -1, "n_batch=-1"),
        ("n_labels", -1, "n_labels=-1"),
        ("n_continuous_cov", -1, "n_continuous_cov=-1"),
        ("dropout_rate", 1.0, r"dropout_rate=1\.0"),
        ("dropout_rate", -0.1, r"dropout_rate=-0\.1"),
        ("dropout_rate", float("nan"), "dropout_rate=nan"),
    ],
    ids=lambda v: str(v)[:20],
)
def test_wrong_options_are_refused(cls: type[VAE], option: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(**{"n_input": G, option: value})


@CLASSES
@pytest.mark.parametrize("dispersion", ["gene-batch", "gene-label"])
def test_dispersion_of_nothing_is_refused(cls: type[VAE], dispersion: str) -> None:
    with pytest.raises(ValueError, match=f"dispersion='{dispersion}' needs"):
        cls(G, dispersion=dispersion)


def test_linear_decoder_has_no_dispersion_per_cell() -> None:
    with pytest.raises(ValueError, match="gene-cell"):
        LDVAE(G, dispersion="gene-cell")


def test_defaults() -> None:
    vae, linear = VAE(G), LDVAE(G)
    assert (vae.n_batch, vae.n_labels, vae.n_latent) == (0, 0, 10)
    assert (vae.dispersion, vae.log_variational, vae.latent_distribution) == ("gene", True, "normal")
    assert (vae.reconstruction_loss, linear.reconstruction_loss) == ("zinb", "nb")
    assert vae.z_encoder.encoder.fc_layers[0][0].out_features == 128
    assert vae.z_encoder.encoder.fc_layers[0][3].p == 0.1
    assert linear.decoder.factor_regressor.fc_layers[0][0].bias is None
    assert isinstance(linear.decoder.factor_regressor.fc_layers[0][1], nn.BatchNorm1d)


def test_arguments_in_their_2020_order() -> None:
    vae = VAE(G, 2, 3, 16, 4, 2, 0.2, "gene-cell", False, "nb", "ln")
    assert (vae.n_batch, vae.n_labels, vae.n_latent, vae.dispersion) == (2, 3, 4, "gene-cell")
    assert (vae.log_variational, vae.reconstruction_loss, vae.latent_distribution) == (False, "nb", "ln")
    linear = LDVAE(G, 2, 3, 16, 4, 2, 0.2, "gene", False, "zinb", False, True, "ln")
    assert (linear.reconstruction_loss, linear.latent_distribution) == ("zinb", "ln")
    assert isinstance(linear.decoder.factor_regressor.fc_layers[0][1], nn.Identity)
    assert linear.decoder.factor_regressor.fc_layers[0][0].bias is not None
    assert len(linear.z_encoder.encoder.fc_layers) == 2


def test_depth_of_the_networks() -> None:
    vae = build(n_layers=3)
    assert [len(net.fc_layers) for net in (vae.z_encoder.encoder, vae.l_encoder.encoder, vae.decoder.px_decoder)] == [
        3,
        1,
        3,
    ]
    linear = build(LDVAE, n_layers_encoder=2)
    assert [len(net.fc_layers) for net in (linear.z_encoder.encoder, linear.l_encoder.encoder)] == [2, 1]
    assert len(build(LDVAE, n_layers=4).z_encoder.encoder.fc_layers) == 4  # its name in 2019


def test_importing_the_models_leaves_the_backend_alone() -> None:
    assert torch.backends.cudnn.benchmark is False


# --- the loss ---------------------------------------------------------------------------------------------------------


def expected_loss(vae: VAE, mb: Minibatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reconstruction loss, KL(z), KL(l) at the means of the posterior, from the networks' outputs and the oracles."""
    x = torch.log1p(mb.x) if vae.log_variational else mb.x
    qz_m, qz_v, _ = vae.z_encoder(x)
    if vae.use_observed_lib_size:
        library, kl_l = mb.x.sum(1, keepdim=True).log(), np.zeros(len(mb))
    else:
        library, ql_v, _ = vae.l_encoder(x)
        kl_l = oracles.kl_normal(library, ql_v, mb.l_mean, mb.l_var).sum(-1)
    scale, r, _, dropout = vae.decoder(vae.dispersion, vae.z_encoder.z_transformation(qz_m), library, mb.batch)
    log_theta = {
        "gene": lambda: vae.px_r,
        "gene-batch": lambda: vae.px_r.T[mb.batch[:, 0]],
        "gene-label": lambda: vae.px_r.T[mb.labels[:, 0]],
        "gene-cell": lambda: r,
    }[vae.dispersion]()
    given = {"poisson": (), "nb": (log_theta,), "zinb": (log_theta, dropout)}[vae.reconstruction_loss]
    nll = oracles.row_loss(mb.x, scale.log(), library, *given).nll.value
    return nll, oracles.kl_normal(qz_m, qz_v, 0.0, 1.0).sum(-1), kl_l


@pytest.mark.usefixtures("no_noise")
@each_of(model=MODELS, loss=LOSSES, observed=[False, True], latent_distribution=["normal", "ln"])
@torch.no_grad()
def test_loss(model: tuple[type[VAE], str], loss: str, observed: bool, latent_distribution: str) -> None:
    cls, dispersion = model
    vae = build(
        cls,
        dispersion=dispersion,
        reconstruction_loss=loss,
        latent_distribution=latent_distribution,
        use_observed_lib_size=observed,
        log_variational=not observed,
    )
    mb = cells()
    nll, kl_z, kl_l = expected_loss(vae, mb)
    elbo = vae.loss(mb)
    np.testing.assert_allclose(elbo.reconstruction["genes"], nll, rtol=1e-5)
    np.testing.assert_allclose(elbo.kl["z"], kl_z, rtol=1e-4)
    assert set(elbo.kl) == ({"z"} if observed else {"z", "l"})
    if not observed:
        np.testing.assert_allclose(elbo.kl["l"], kl_l, rtol=1e-4)
    assert elbo.annealed == ("z",)
    np.testing.assert_allclose(elbo.per_cell(), nll + kl_z + kl_l, rtol=1e-5)
    assert elbo.objective(0.3).item() == pytest.approx((nll + 0.3 * kl_z + kl_l).mean(), rel=1e-5)

    first, second, third = vae(mb.x, mb.l_mean, mb.l_var, mb.batch, mb.labels)
    np.testing.assert_allclose(first, nll + kl_l, rtol=1e-5)
    np.testing.assert_allclose(second, kl_z, rtol=1e-4)
    assert first.shape == second.shape == (N,)
    assert third == 0.0


@each_of(dispersion=DISPERSIONS, loss=LOSSES, observed=[False, True])
def test_what_the_loss_depends_on_gets_a_gradient(dispersion: str, loss: str, observed: bool) -> None:
    vae = build(dispersion=dispersion, reconstruction_loss=loss, use_observed_lib_size=observed).train()
    vae.loss(cells()).objective().backward()
    idle = {name.split(".")[0 if name == "px_r" else 1] for name, p in vae.named_parameters() if p.grad is None}
    expected = set()
    if dispersion != "gene-cell" or loss == "poisson":
        expected.add("px_r_decoder")
    if loss == "poisson" and dispersion != "gene-cell":
        expected.add("px_r")
    if loss != "zinb":
        expected.add("px_dropout_decoder")
    assert idle <= expected
    assert all(p.grad.isfinite().all() for p in vae.parameters() if p.grad is not None)
    moving = {"z_encoder.mean_encoder.weight", "z_encoder.var_encoder.weight", "decoder.px_scale_decoder.0.weight"}
    assert all(p.grad.abs().sum() > 0 for name, p in vae.named_parameters() if name in moving)


def test_elbo_combines_its_terms_in_one_place() -> None:
    terms = {name: torch.tensor([float(i), 2.0 * i]) for i, name in enumerate(("genes", "proteins", "z", "y", "l"), 1)}
    elbo = Elbo(
        {k: terms[k] for k in ("genes", "proteins")},
        {k: terms[k] for k in ("z", "y", "l")},
        annealed=("z", "y"),
        global_kl=7.0,
    )
    assert elbo.fixed().tolist() == [8, 16]
    assert elbo.warmed().tolist() == [7, 14]
    assert elbo.per_cell().tolist() == [15, 30]
    assert elbo.objective(0.5).item() == pytest.approx(12 + 0.5 * 10.5)


@torch.no_grad()
@pytest.mark.parametrize("latent_distribution", ["normal", "ln"])
def test_kl_against_monte_carlo(latent_distribution: str) -> None:
    vae, mb = build(latent_distribution=latent_distribution), cells()
    elbo, q = vae.loss(mb), vae.variational(mb)
    torch.manual_seed(1)
    z, log_library = q.z.sample((100_000,)), q.l.sample((100_000,))
    ratio = (q.z.log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(-1)
    assert torch.allclose(ratio.mean(0), elbo.kl["z"], atol=0.05)
    ratio = (q.l.log_prob(log_library) - Normal(mb.l_mean, mb.l_var.sqrt()).log_prob(log_library)).sum(-1)
    assert torch.allclose(ratio.mean(0), elbo.kl["l"], atol=0.05)


def test_kl_oracle_is_torchs() -> None:
    q, p = (
        Normal(torch.tensor([0.3, -1.0]), torch.tensor([0.5, 2.0])),
        Normal(torch.tensor([1.0, 0.0]), torch.tensor([3.0, 1.0])),
    )
    expected = oracles.kl_normal(q.loc, q.scale**2, p.loc, p.scale**2)
    assert torch.allclose(kl_divergence(q, p), torch.from_numpy(expected).float())


@pytest.mark.usefixtures("no_noise")
def test_empty_cells_and_genes_have_a_finite_loss() -> None:
    mb = cells()
    mb.x[0] = 0
    mb.x[:, 2] = 0
    for observed in (False, True):
        vae = build(use_observed_lib_size=observed).train()
        elbo = vae.loss(mb)
        elbo.objective().backward()
        assert elbo.per_cell().isfinite().all()
        assert all(p.grad.isfinite().all() for p in vae.parameters() if p.grad is not None)


def test_the_latent_library_needs_its_prior() -> None:
    mb = cells()
    with pytest.raises(ValueError, match="l_mean and l_var"):
        build().loss(Minibatch(mb.x, mb.batch, mb.labels))
    build(use_observed_lib_size=True).loss(Minibatch(mb.x, mb.batch, mb.labels))


@torch.no_grad()
@pytest.mark.usefixtures("no_noise")
def test_a_given_size_replaces_the_total() -> None:
    vae, mb = build(use_observed_lib_size=True), cells()
    sizes = torch.linspace(1, 4, N)[:, None]
    sized = cells(log_size=sizes)
    assert torch.equal(vae.loss(cells(log_size=mb.x.sum(1, keepdim=True).log())).per_cell(), vae.loss(mb).per_cell())
    out = vae.loss(sized).reconstruction["genes"]
    rate = vae.inference(mb.x, mb.batch, mb.labels)["px_scale"] * sizes.exp()
    dropout = vae.inference(mb.x, mb.batch, mb.labels)["px_dropout"]
    expected = oracles.zero_inflated_negative_binomial(mb.x, rate.log(), vae.px_r, dropout).log_prob.value.sum(-1)
    np.testing.assert_allclose(out, -expected, rtol=1e-5)


# --- the 2020 methods -------------------------------------------------------------------------------------------------

KEYS = {"px_scale", "px_r", "px_rate", "px_dropout", "qz_m", "qz_v", "z", "ql_m", "ql_v", "library"}


@each_of(model=MODELS, n_samples=[1, 4], loss=LOSSES)
@torch.no_grad()
def test_inference(model: tuple[type[VAE], str], n_samples: int, loss: str) -> None:
    cls, dispersion = model
    vae, mb = build(cls, dispersion=dispersion, reconstruction_loss=loss), cells()
    out = vae.inference(mb.x, mb.batch, mb.labels, n_samples=n_samples)
    assert set(out) == KEYS
    draws = () if n_samples == 1 else (n_samples,)
    shapes = {name: tuple(value.shape) for name, value in out.items()}
    genes = dict.fromkeys(("px_scale", "px_rate", "px_dropout"), (*draws, N, G))
    latent = dict.fromkeys(("qz_m", "qz_v", "z"), (*draws, N, D))
    library = dict.fromkeys(("ql_m", "ql_v", "library"), (*draws, N, 1))
    theta = {"gene": (G,), "gene-batch": (N, G), "gene-label": (N, G), "gene-cell": (*draws, N, G)}
    assert shapes == {**genes, **latent, **library, "px_r": theta[dispersion]}

    assert torch.allclose(out["px_scale"].sum(-1), torch.ones(1))
    assert torch.allclose(out["px_rate"], out["library"].exp() * out["px_scale"])
    codes = {"gene-batch": mb.batch, "gene-label": mb.labels}.get(dispersion)
    if codes is not None:
        assert torch.allclose(out["px_r"], vae.px_r.exp().T[codes[:, 0]])
    elif dispersion == "gene":
        assert torch.allclose(out["px_r"], vae.px_r.exp())
    if n_samples > 1:
        assert torch.equal(out["qz_m"][0], out["qz_m"][3])
        assert not torch.equal(out["z"][0], out["z"][1])
        assert not torch.equal(out["library"][0], out["library"][1])
    per_cell = vae.get_reconstruction_loss(mb.x, out["px_rate"], out["px_r"], out["px_dropout"], bernoulli_params=None)
    assert per_cell.shape == (*draws, N)
    given = {"poisson": (), "nb": (out["px_r"].log(),), "zinb": (out["px_r"].log(), out["px_dropout"])}[loss]
    expected = oracles.row_loss(mb.x, out["px_scale"].log(), out["library"], *given).nll.value
    np.testing.assert_allclose(per_cell, expected, rtol=1e-4)


def test_many_draws_carry_no_gradient_of_the_encoder() -> None:
    vae, mb = build(), cells()
    out = vae.inference(mb.x, mb.batch, n_samples=3)
    assert not out["z"].requires_grad
    assert not out["library"].requires_grad
    assert vae.inference(mb.x, mb.batch)["z"].requires_grad


@torch.no_grad()
def test_observed_library_in_inference() -> None:
    vae, mb = build(use_observed_lib_size=True), cells()
    total = mb.x.sum(1, keepdim=True)
    out = vae.inference(mb.x, mb.batch)
    assert torch.allclose(out["library"], total.log())
    assert torch.allclose(out["px_rate"].sum(1, keepdim=True), total)
    assert vae.inference(mb.x, mb.batch, n_samples=3)["library"].shape == (3, N, 1)
    assert torch.allclose(vae.sample_from_posterior_l(mb.x), total.log())
    empty = vae.inference(torch.zeros(2, G), torch.zeros(2, 1, dtype=torch.long))
    assert torch.equal(empty["library"], torch.zeros(2, 1))


def seeded(call: Callable[[], Any]) -> Any:
    torch.manual_seed(5)
    return call()


@torch.no_grad()
@pytest.mark.parametrize("n_samples", [1, 3])
@pytest.mark.parametrize("dispersion", ["gene", "gene-batch"])
@CLASSES
def test_transform_batch(cls: type[VAE], dispersion: str, n_samples: int) -> None:
    vae, mb = build(cls, dispersion=dispersion), cells()
    for target in range(K):
        moved = seeded(lambda: vae.inference(mb.x, mb.batch, n_samples=n_samples, transform_batch=target))  # noqa: B023
        there = seeded(lambda: vae.inference(mb.x, torch.full_like(mb.batch, target), n_samples=n_samples))  # noqa: B023
        for name in KEYS:
            assert torch.equal(moved[name], there[name]), name
    stayed = seeded(lambda: vae.inference(mb.x, mb.batch, n_samples=n_samples))
    assert torch.equal(stayed["z"], moved["z"])
    assert not torch.equal(stayed["px_scale"], moved["px_scale"])
    scale = seeded(lambda: vae.get_sample_scale(mb.x, mb.batch, None, n_samples, 2))
    rate = seeded(lambda: vae.get_sample_rate(mb.x, mb.batch, None, n_samples, 2))
    assert torch.equal(scale, moved["px_scale"])
    assert torch.equal(rate, moved["px_rate"])


@torch.no_grad()
@pytest.mark.parametrize("latent_distribution", ["normal", "ln"])
def test_sample_from_posterior_z(latent_distribution: str) -> None:
    vae, mb = build(latent_distribution=latent_distribution), cells()
    qz_m, qz_v, _ = vae.z_encoder(torch.log1p(mb.x))
    drawn = vae.sample_from_posterior_z(mb.x)
    assert drawn.shape == (N, D)
    assert not torch.equal(drawn, vae.sample_from_posterior_z(mb.x))
    (latent,) = vae.get_latents(mb.x, mb.labels)
    assert latent.shape == (N, D)
    torch.manual_seed(3)
    mean = vae.sample_from_posterior_z(mb.x, give_mean=True, n_samples=20_000)
    if latent_distribution == "normal":
        assert torch.equal(mean, qz_m)
    else:
        softmax = torch.softmax(Normal(qz_m, qz_v.sqrt()).sample((20_000,)), -1)
        assert torch.allclose(mean, softmax.mean(0), atol=0.01)
        assert torch.allclose(drawn.sum(-1), torch.ones(N))
        assert vae.sample_from_posterior_z(mb.x, give_mean=True, n_samples=3).shape == (N, D)


@torch.no_grad()
def test_sample_from_posterior_l() -> None:
    vae, mb = build(), cells()
    ql_m, ql_v, _ = vae.l_encoder(torch.log1p(mb.x))
    torch.manual_seed(4)
    draws = vae.sample_from_posterior_l(mb.x.repeat(3000, 1))
    assert draws.shape == (3000 * N, 1)
    draws = draws.view(3000, N, 1)
    assert torch.allclose(draws.mean(0), ql_m, atol=0.1)
    assert torch.allclose(draws.var(0), ql_v, rtol=0.15)


@torch.no_grad()
@pytest.mark.parametrize("dispersion", ["gene", "gene-batch", "gene-label", "gene-cell"])
@pytest.mark.parametrize("latent", ["normal", "ln"])
def test_scale_from_z(dispersion: str, latent: str) -> None:
    vae, mb = build(dispersion=dispersion, latent_distribution=latent), cells()
    scale = seeded(lambda: vae.scale_from_z(mb.x, 1))
    z = seeded(lambda: vae.sample_from_posterior_z(mb.x))
    expected, *_ = vae.decoder("gene", z, torch.full((N, 1), 4.0), torch.ones(N, 1, dtype=torch.long))
    assert torch.allclose(scale, expected)


def test_models_without_batches_need_no_batch() -> None:
    vae, mb = build(n_batch=1), cells()
    first, *_ = vae(mb.x, mb.l_mean, mb.l_var)
    assert first.shape == (N,)
    assert vae.get_sample_scale(mb.x).shape == (N, G)


@CLASSES
def test_models_with_batches_refuse_to_guess_the_batch(cls: type[VAE]) -> None:
    vae, mb = build(cls), cells()
    for call in (
        lambda: vae(mb.x, mb.l_mean, mb.l_var),
        lambda: vae.inference(mb.x),
        lambda: vae.get_sample_rate(mb.x),
    ):
        with pytest.raises(AssertionError, match=r"cat not provided while n_cat != 0 in init\. params\."):
            call()
    assert vae.sample_from_posterior_z(mb.x).shape == (N, D)  # the encoder does not see the batch


def test_dispersion_per_label_needs_labels() -> None:
    vae, mb = build(dispersion="gene-label"), cells()
    with pytest.raises(ValueError, match="y is needed"):
        vae.inference(mb.x, mb.batch)


@torch.no_grad()
def test_log_variational() -> None:
    mb = cells()
    as_given = build(log_variational=False).sample_from_posterior_z(mb.x, give_mean=True)
    in_logs = build().sample_from_posterior_z(torch.expm1(mb.x), give_mean=True)
    torch.testing.assert_close(as_given, in_logs, rtol=1e-5, atol=1e-5)


# --- covariates -------------------------------------------------------------------------------------------------------


def covariates() -> Minibatch:
    return cells(continuous=torch.randn(N, 2), categorical=torch.stack([torch.arange(N) % 2, torch.arange(N) % 4], 1))


@CLASSES
@pytest.mark.parametrize("encode", [False, True])
def test_covariates_enter_where_the_batch_enters(cls: type[VAE], encode: bool) -> None:
    vae = build(cls, n_continuous_cov=2, n_cats_per_cov=[2, 4], encode_covariates=encode, n_layers=2)
    extra = K + 2 + 4 + 2
    decoder = vae.decoder.px_decoder if cls is VAE else vae.decoder.factor_regressor
    first = decoder.fc_layers[0][0]
    assert first.in_features == D + extra
    if cls is VAE:
        assert decoder.fc_layers[1][0].in_features == 16 + extra
    inputs = [layer[0].in_features for layer in vae.z_encoder.encoder.fc_layers]
    assert inputs == [G + extra * encode, 16 + extra * encode]
    assert vae.l_encoder.encoder.fc_layers[0][0].in_features == G

    mb = covariates()
    with torch.no_grad():
        before = seeded(lambda: vae.loss(mb).per_cell())
        for name in ("continuous", "categorical"):
            changed = covariates()
            getattr(changed, name)[:] = 1
            seeded_loss = seeded(lambda: vae.loss(changed).per_cell())  # noqa: B023
            assert not torch.equal(seeded_loss, before), name
            moved = vae.variational(changed).z.loc
            assert torch.equal(moved, vae.variational(mb).z.loc) is not encode


@torch.no_grad()
def test_encoded_batch_stays_under_transform_batch() -> None:
    vae, mb = build(encode_covariates=True), cells()
    moved = vae.inference(mb.x, mb.batch, transform_batch=1)
    assert torch.equal(moved["qz_m"], vae.inference(mb.x, mb.batch)["qz_m"])
    assert not torch.equal(moved["qz_m"], vae.inference(mb.x, torch.full_like(mb.batch, 1))["qz_m"])


@pytest.mark.parametrize("name", ["continuous", "categorical"])
def test_missing_covariates_are_refused(name: str) -> None:
    options = {"n_continuous_cov": 2} if name == "continuous" else {"n_cats_per_cov": [2]}
    with pytest.raises((ValueError, AssertionError), match=r"covariates|categorical"):
        build(**options).loss(cells())


# --- importance weights -----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.usefixtures("no_noise")
def test_importance_log_weights(observed: bool) -> None:
    vae, mb = build(use_observed_lib_size=observed), cells()
    nll, _, _ = expected_loss(vae, mb)
    q = vae.variational(mb)
    expected = -nll + (Normal(0.0, 1.0).log_prob(q.z.loc) - q.z.log_prob(q.z.loc)).sum(-1).double().numpy()
    if not observed:
        prior = Normal(mb.l_mean, mb.l_var.sqrt())
        expected += (prior.log_prob(q.l.loc) - q.l.log_prob(q.l.loc)).sum(-1).double().numpy()
    weights = vae.importance_draws(mb, q, 4).log_weights
    assert weights.shape == (4, N)
    np.testing.assert_allclose(weights, np.broadcast_to(expected, (4, N)), rtol=1e-5)


# --- initialisation from data -----------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize(("cls", "dispersion"), MODELS)
@pytest.mark.parametrize("use_batch_norm", [True, False])
def test_starting_values(cls: type[VAE], dispersion: str, use_batch_norm: bool) -> None:
    options = {"use_batch_norm": use_batch_norm} if cls is LDVAE else {}
    vae = build(cls, **options, dispersion=dispersion)
    frequencies = torch.linspace(0, 1, G)
    log_theta = torch.linspace(-1, 1, G)
    vae.start(Moments(frequencies / frequencies.sum(), log_theta))
    assert all(p.isfinite().all() for p in vae.parameters())
    if dispersion != "gene-cell":
        theta = vae.px_r if vae.px_r.dim() == 1 else vae.px_r[:, 1]
        assert torch.equal(theta, log_theta)
    bias = vae.decoder.scale_bias()
    if bias is not None:
        assert torch.allclose(torch.softmax(bias, 0), frequencies / frequencies.sum(), atol=1e-6)


# --- loadings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_batch", [0, 1, 3])
@pytest.mark.parametrize("use_batch_norm", [True, False])
def test_loadings(use_batch_norm: bool, n_batch: int) -> None:
    vae = build(LDVAE, n_batch=n_batch, use_batch_norm=use_batch_norm)
    linear, norm = vae.decoder.factor_regressor.fc_layers[0][:2]
    weight = linear.weight.detach().numpy()
    if use_batch_norm:
        nn.init.uniform_(norm.weight, 0.5, 2)
        nn.init.uniform_(norm.running_var, 0.5, 2)
        weight = np.diag((norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().numpy()) @ weight
    for mode in (True, False):
        vae.train(mode)
        loadings = vae.get_loadings()
        assert loadings.shape == (G, D)
        np.testing.assert_allclose(loadings, weight[:, :D], rtol=1e-6)


def test_loadings_are_log_frequency_per_unit_of_z() -> None:
    vae = build(LDVAE)
    nn.init.uniform_(vae.decoder.factor_regressor.fc_layers[0][1].running_var, 0.5, 2)
    with torch.no_grad():
        z, batch, library = torch.zeros(D + 1, D), torch.zeros(D + 1, 1, dtype=torch.long), torch.zeros(D + 1, 1)
        z[1:] = torch.eye(D)
        log_scale = vae.decoder("gene", z, library, batch)[0].log()
    difference = (log_scale[1:] - log_scale[0]).T.numpy()
    loadings = vae.get_loadings()
    np.testing.assert_allclose(
        difference - difference.mean(0), loadings - loadings.mean(0), atol=1e-5
    )  # softmax forgets a constant


def test_loadings_are_a_copy() -> None:
    vae = build(LDVAE, use_batch_norm=False, n_batch=0)
    vae.get_loadings()[:] = 7
    assert not (vae.get_loadings() == 7).any()


# --- names of parameters: a file format -------------------------------------------------------------------------------

NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def encoder_names(name: str, n_layers: int) -> set[str]:
    layers = {f"{name}.encoder.{key}" for key in layer_names(n_layers)}
    return layers | {f"{name}.{head}_encoder.{p}" for head in ("mean", "var") for p in ("weight", "bias")}


def layer_names(n_layers: int) -> set[str]:
    names = {f"fc_layers.Layer {i}.0.{p}" for i in range(n_layers) for p in ("weight", "bias")}
    return names | {f"fc_layers.Layer {i}.1.{p}" for i in range(n_layers) for p in NORM}


@each_of(n_layers=[1, 2], observed=[False, True], dispersion=DISPERSIONS)
def test_names_of_vae(n_layers: int, observed: bool, dispersion: str) -> None:
    heads = ("px_scale_decoder.0", "px_r_decoder", "px_dropout_decoder")
    expected = encoder_names("z_encoder", n_layers) | {f"decoder.px_decoder.{k}" for k in layer_names(n_layers)}
    expected |= {f"decoder.{head}.{p}" for head in heads for p in ("weight", "bias")}
    if dispersion != "gene-cell":
        expected.add("px_r")
    if not observed:
        expected |= encoder_names("l_encoder", 1)
    vae = build(n_layers=n_layers, use_observed_lib_size=observed, dispersion=dispersion)
    assert set(vae.state_dict()) == expected


def test_names_of_ldvae() -> None:
    def maps(slot: int, names: tuple[str, ...]) -> set[str]:
        return {
            f"decoder.{m}.fc_layers.Layer 0.{slot}.{p}"
            for m in ("factor_regressor", "px_dropout_decoder")
            for p in names
        }

    common = encoder_names("z_encoder", 1) | encoder_names("l_encoder", 1) | {"px_r"}
    assert set(build(LDVAE).state_dict()) == common | maps(0, ("weight",)) | maps(1, NORM)
    bare = build(LDVAE, use_batch_norm=False, bias=True)
    assert set(bare.state_dict()) == common | maps(0, ("weight", "bias"))


def test_shapes_of_parameters() -> None:
    shapes = {name: tuple(p.shape) for name, p in build(dispersion="gene-batch").state_dict().items()}
    assert shapes["px_r"] == (G, K)
    assert shapes["z_encoder.encoder.fc_layers.Layer 0.0.weight"] == (16, G)
    assert shapes["z_encoder.mean_encoder.weight"] == (D, 16)
    assert shapes["l_encoder.mean_encoder.weight"] == (1, 16)
    assert shapes["decoder.px_decoder.fc_layers.Layer 0.0.weight"] == (16, D + K)
    assert shapes["decoder.px_scale_decoder.0.weight"] == (G, 16)
    assert build(dispersion="gene-label").px_r.shape == (G, C)
    assert tuple(build(LDVAE).state_dict()["decoder.factor_regressor.fc_layers.Layer 0.0.weight"].shape) == (G, D + K)


def test_every_parameter_learns() -> None:
    assert all(p.requires_grad for p in build().parameters())


# --- what the 2020 methods refuse -------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("loss", ["nb", "zinb"])
def test_reconstruction_of_a_large_inverse_dispersion(loss: str) -> None:
    vae, mb = build(reconstruction_loss=loss), cells()
    vae.px_r.fill_(np.log(1e6))
    out = vae.inference(mb.x, mb.batch, mb.labels)
    parameters = out["px_rate"], out["px_r"], out["px_dropout"]
    exact = vae.get_reconstruction_loss(mb.x.double(), *(p.double() for p in parameters))
    single = vae.get_reconstruction_loss(mb.x, *parameters)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single, exact, rtol=1e-6)


def test_a_count_under_an_underflown_rate_is_possible() -> None:
    vae = build(reconstruction_loss="poisson")
    loss = vae.get_reconstruction_loss(torch.ones(1, G), torch.zeros(1, G), torch.ones(G), None)
    assert torch.isfinite(loss).all()


@pytest.mark.parametrize("n_samples", [0, -1, 2.5])
def test_a_number_of_draws_below_one_is_refused(n_samples: float) -> None:
    vae, mb = build(), cells()
    for call in (
        lambda: vae.inference(mb.x, mb.batch, n_samples=n_samples),
        lambda: vae.get_sample_scale(mb.x, mb.batch, n_samples=n_samples),
        lambda: vae.sample_from_posterior_z(mb.x, give_mean=True, n_samples=n_samples),
    ):
        with pytest.raises(ValueError, match=f"n_samples={n_samples} is not a number of draws"):
            call()


@pytest.mark.parametrize("code", [-1, K, 0.5, "b"])
def test_what_is_no_batch_is_refused(code: Any) -> None:
    vae, mb = build(), cells()
    with pytest.raises(ValueError, match=f"transform_batch={code!r} is not"):
        vae.inference(mb.x, mb.batch, transform_batch=code)
    with pytest.raises(ValueError, match=f"fixed_batch={code!r} is not"):
        vae.scale_from_z(mb.x, code)


def test_methods_without_covariates_say_so() -> None:
    mb = cells()
    encoding = build(encode_covariates=True)
    for call in (
        lambda: encoding.sample_from_posterior_z(mb.x),
        lambda: encoding.get_latents(mb.x),
        lambda: encoding.scale_from_z(mb.x, 0),
    ):
        with pytest.raises(ValueError, match="encode_covariates=True"):
            call()
    encoding(mb.x, mb.l_mean, mb.l_var, mb.batch)  # is given the batch
    for option in ({"n_continuous_cov": 2}, {"n_cats_per_cov": [2]}):
        vae = build(**option)
        for call in (
            lambda vae=vae: vae(mb.x, mb.l_mean, mb.l_var, mb.batch),
            lambda vae=vae: vae.scale_from_z(mb.x, 0),
        ):
            with pytest.raises(ValueError, match=next(iter(option))):
                call()
        assert vae.sample_from_posterior_z(mb.x).shape == (N, D)  # the encoder does not see them
    with pytest.raises(ValueError, match=r"n_cats_per_cov\[1\]=-3"):
        build(n_cats_per_cov=[2, -3])


def test_check_fits() -> None:
    build().check_fits(G, K, C + 5)
    build(n_batch=1).check_fits(G, 9, 9)
    with pytest.raises(ValueError, match="n_input=12 for 13 genes"):
        build().check_fits(13, K, C)
    with pytest.raises(ValueError, match=r"n_batch=3 for batch codes up to 3 \(n_batches\)"):
        build().check_fits(G, K + 1, C)
    with pytest.raises(ValueError, match="n_batch=1"):
        build(n_batch=1, dispersion="gene-batch").check_fits(G, 2, C)
    with pytest.raises(ValueError, match="n_labels=2"):
        build(dispersion="gene-label").check_fits(G, K, 3)


def test_the_module_of_2020_has_ldvae() -> None:
    from scvi.models import LDVAE, vae

    assert vae.LDVAE is LDVAE
    with pytest.raises(AttributeError, match="no attribute 'LDVEA'"):
        vae.LDVEA  # noqa: B018

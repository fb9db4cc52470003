"""TOTALVAE: the loss against the oracle, missing proteins, the 2020 methods, options, names of parameters."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

import oracles
from scvi.kernels import SparseRows
from scvi.minibatch import Minibatch
from scvi.models import TOTALVI
from scvi.models.base import Elbo, Moments
from scvi.models.totalvae import TOTALVAE

N, G, P, D, K, C = 7, 12, 4, 3, 3, 2  # cells, genes, proteins, latent dimensions, batches, labels
BY = ("", "-batch", "-label")


def build(**options: Any) -> TOTALVAE:
    torch.manual_seed(0)
    return TOTALVI(G, P, **{"n_batch": K, "n_labels": C, "n_hidden": 16, "n_latent": D} | options).eval()


def cells(n: int = N, seed: int = 0, **more: Tensor) -> Minibatch:
    generator = torch.Generator().manual_seed(seed)
    return Minibatch(
        counts=torch.poisson(4 * torch.rand(n, G, generator=generator), generator=generator),
        batch=torch.randint(K, (n, 1), generator=generator),
        labels=torch.randint(C, (n, 1), generator=generator),
        l_mean=torch.full((n, 1), 3.0),
        l_var=torch.full((n, 1), 0.5),
        proteins=torch.poisson(20 * torch.rand(n, P, generator=generator), generator=generator),
        **more,
    )


@pytest.fixture
def no_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scvi.models.gaussian._noise", lambda q, shape, generator: torch.zeros(shape))


def double(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def one_of(parameter: Tensor, by: str, mb: Minibatch) -> np.ndarray:
    """The column of each cell, by hand."""
    table = double(parameter)
    codes = {"": None, "-batch": mb.batch, "-label": mb.labels}[by]
    return table if codes is None else np.stack([table[:, code] for code in codes[:, 0].tolist()])


# --- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("observed", [False, True])
@pytest.mark.parametrize(
    ("loss", "genes_by", "proteins_by", "latent"),
    [*product(("nb", "zinb"), BY, ("",), ("ln",)), *product(("nb",), ("",), BY, ("normal",))],
)
def test_the_loss_is_that_of_the_paper(
    loss: str, genes_by: str, proteins_by: str, latent: str, observed: bool, no_noise: None
) -> None:
    model = build(
        reconstruction_loss_gene=loss,
        gene_dispersion=f"gene{genes_by}",
        protein_dispersion=f"protein{proteins_by}",
        latent_distribution=latent,
        use_observed_lib_size=observed,
    )
    mb = cells()
    elbo = model.loss(mb)
    q = model.variational(mb)
    mean, var = double(q.z.loc), double(q.z.scale) ** 2
    np.testing.assert_allclose(double(elbo.kl["z"]), oracles.kl_normal(mean, var, 0, 1).sum(1), rtol=1e-4)
    if observed:
        log_library = np.log(double(mb.counts).sum(1, keepdims=True))
        assert set(elbo.kl) == {"z", "background"}
    else:
        log_library = double(q.l.loc)
        kl_l = oracles.kl_normal(log_library, double(q.l.scale) ** 2, 3.0, 0.5).sum(1)
        np.testing.assert_allclose(double(elbo.kl["l"]), kl_l, rtol=1e-4)
    z = torch.softmax(q.z.loc, -1) if latent == "ln" else q.z.loc
    px_, py_, log_back = model.decoder(z, torch.ones(N, 1), mb.batch)
    theta = one_of(model.px_r, genes_by, mb)
    dropout = double(px_["dropout"]) if loss == "zinb" else None
    expected = oracles.row_loss(mb.counts.numpy(), np.log(double(px_["scale"])), log_library, theta, dropout).nll.value
    np.testing.assert_allclose(double(elbo.reconstruction["genes"]), expected, rtol=2e-5)

    phi = np.broadcast_to(one_of(model.py_r, proteins_by, mb), (N, P))
    factor, mixing = np.log(double(py_["fore_scale"])), double(py_["mixing"])
    of_proteins = oracles.mixture_loss(mb.proteins.numpy(), double(log_back), factor, mixing, phi, np.ones(N))[0].value
    np.testing.assert_allclose(double(elbo.reconstruction["proteins"]), of_proteins, rtol=2e-5)

    prior = one_of(model.background_pro_alpha, "-batch", mb), one_of(model.background_pro_log_beta, "-batch", mb)
    kl = oracles.kl_normal(double(py_["back_alpha"]), double(py_["back_beta"]) ** 2, prior[0], np.exp(2 * prior[1]))
    np.testing.assert_allclose(double(elbo.kl["background"]), kl.sum(1), rtol=1e-5)
    assert elbo.annealed == ("z", "background")


def test_sparse_counts_give_the_same_loss(no_noise: None) -> None:
    model, mb = build(), cells()
    sparse = Minibatch(SparseRows.of(mb.counts), mb.batch, mb.labels, mb.l_mean, mb.l_var, proteins=mb.proteins)
    torch.testing.assert_close(model.loss(sparse).per_cell(), model.loss(mb).per_cell(), rtol=1e-5, atol=1e-4)


def test_every_parameter_is_learnt() -> None:
    model = build(reconstruction_loss_gene="zinb").train()
    model.loss(cells()).objective().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_covariates_enter_encoder_and_decoder(no_noise: None) -> None:
    model = build(n_continuous_cov=2, n_cats_per_cov=[3])
    more = {"continuous": torch.randn(N, 2), "categorical": torch.randint(3, (N, 1))}
    other = {"continuous": more["continuous"] + 1, "categorical": (more["categorical"] + 1) % 3}
    loss = model.loss(cells(**more)).per_cell()
    for name, value in other.items():
        assert not torch.allclose(model.loss(cells(**more | {name: value})).per_cell(), loss)
    with pytest.raises(ValueError, match="further covariates"):
        model.inference(cells().counts, cells().proteins, cells().batch)


def test_the_encoder_may_be_blind_to_the_batch() -> None:
    mb = cells()
    moved = Minibatch(mb.counts, (mb.batch + 1) % K, mb.labels, proteins=mb.proteins)
    for sees in (True, False):
        model = build(encoder_batch=sees)
        assert torch.equal(model.variational(mb).z.loc, model.variational(moved).z.loc) is not sees


# --- what was not measured --------------------------------------------------------------------------------------------

MASK = [[True] * P, [False] * P, [True, False, False, True]]


def test_missing_proteins_add_nothing(no_noise: None) -> None:
    mb = cells(n=40)
    model, whole = build(protein_batch_mask=[np.array(row) for row in MASK]), build()
    elbo, every = model.loss(mb), whole.loss(mb)
    batch = mb.batch[:, 0]
    for name, terms in (("proteins", "reconstruction"), ("background", "kl")):
        masked, full = getattr(elbo, terms)[name], getattr(every, terms)[name]
        torch.testing.assert_close(masked[batch == 0], full[batch == 0])
        assert (masked[batch == 1] == 0).all()
        assert (masked[batch == 2] != full[batch == 2]).all()
    torch.testing.assert_close(elbo.reconstruction["genes"], every.reconstruction["genes"])
    given = torch.tensor(MASK)[batch]  # the same, said by the cells
    torch.testing.assert_close(whole.loss(replace(mb, measured=given)).per_cell(), elbo.per_cell())
    # and entry by entry: one protein at a time adds up to those that were measured
    only = [replace(mb, measured=torch.eye(P)[j].bool().expand(40, P)) for j in range(P)]
    each = torch.stack([whole.loss(one).reconstruction["proteins"] for one in only], dim=1)
    torch.testing.assert_close(elbo.reconstruction["proteins"], (each * given).sum(1))


def test_missing_proteins_leave_no_gradient() -> None:
    model = build(protein_batch_mask=MASK).train()
    model.loss(cells(n=40)).objective().backward()
    gradient = model.background_pro_alpha.grad
    assert (gradient[:, 1] == 0).all()
    assert (gradient[:, 0] != 0).all()
    assert ((gradient[:, 2] != 0) == torch.tensor(MASK[2])).all()


def test_a_mask_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"protein_batch_mask has shape \(2, 4\).*each of 3 batches.* 4 proteins"):
        build(protein_batch_mask=MASK[:2])


# --- the marginal likelihood ------------------------------------------------------------------------------------------


def test_importance_sampling_is_above_the_elbo_and_tightens() -> None:
    model, mb = build(protein_batch_mask=MASK), cells()
    with torch.no_grad():
        model.background_pro_log_beta.fill_(-1.0)
        model.decoder.py_back_mean_log_beta.fc_layers[0][0].bias.fill_(-1.0)
        generator = torch.Generator().manual_seed(0)
        elbo = torch.stack([-model.loss(mb, generator).per_cell() for _ in range(200)]).mean(0)
        few, many = (model.marginal_log_likelihood(mb, n, generator) for n in (10, 5000))
    assert (many > elbo).all()
    assert many.mean() > few.mean() > elbo.mean()


def test_importance_weights_are_joint_over_posterior(no_noise: None) -> None:
    model, mb = build(), cells()
    q = model.variational(mb)
    got = model.importance_draws(mb, q, 2).log_weights
    decoded = model.generative(q.z.loc, q.l.loc, mb)
    genes, proteins = decoded.genes, decoded.proteins
    qb, pb = proteins.log_background, model.background_prior(mb)
    log_q = q.z.log_prob(q.z.loc).sum(1) + q.l.log_prob(q.l.loc).sum(1) + qb.log_prob(qb.loc).sum(1)
    log_p = Normal(0.0, 1.0).log_prob(q.z.loc).sum(1) + Normal(mb.l_mean, mb.l_var.sqrt()).log_prob(q.l.loc).sum(1)
    log_p = log_p + pb.log_prob(qb.loc).sum(1)
    log_p = log_p - genes.nll(mb) - proteins.nll_given(qb.loc, mb)
    torch.testing.assert_close(got, (log_p - log_q).expand(2, N), rtol=1e-4, atol=1e-3)


# --- the 2020 methods -------------------------------------------------------------------------------------------------


def test_forward_is_the_loss_in_five_parts(no_noise: None) -> None:
    model, mb = build(), cells()
    parts = model(mb.counts, mb.proteins, mb.l_mean, mb.l_var, mb.batch, mb.labels)
    elbo = model.loss(mb)
    assert len(parts) == 5
    assert all(part.shape == (N,) for part in parts)
    torch.testing.assert_close(sum(parts), elbo.per_cell())
    torch.testing.assert_close(parts[2] + parts[4], elbo.warmed())
    observed = build(use_observed_lib_size=True)(mb.counts, mb.proteins, mb.l_mean, mb.l_var, mb.batch)
    assert (observed[3] == 0).all()


@pytest.mark.parametrize("n_samples", [1, 3])
def test_inference(n_samples: int) -> None:
    model, mb = build(), cells()
    out = model.inference(mb.counts, mb.proteins, mb.batch, mb.labels, n_samples=n_samples)
    draws = () if n_samples == 1 else (n_samples,)
    for names, width in ((("qz_m", "qz_v", "z", "untran_z"), D), (("ql_m", "ql_v", "library_gene", "untran_l"), 1)):
        assert all(out[name].shape == (*draws, N, width) for name in names)
    assert out["log_pro_back_mean"].shape == (*draws, N, P)
    assert set(out["px_"]) == {"scale", "rate", "dropout", "r"}
    py_ = out["py_"]
    assert set(py_) == {"back_alpha", "back_beta", "rate_back", "fore_scale", "rate_fore", "mixing", "scale", "r"}
    torch.testing.assert_close(out["px_"]["rate"], out["library_gene"] * out["px_"]["scale"])
    torch.testing.assert_close(out["px_"]["r"], model.px_r.exp())
    torch.testing.assert_close(py_["rate_fore"], py_["rate_back"] * py_["fore_scale"])
    assert (py_["rate_fore"] >= py_["rate_back"]).all()
    torch.testing.assert_close(py_["scale"].sum(-1), torch.ones(*draws, N))
    torch.testing.assert_close(out["back_mean_prior"].mean, model.background_pro_alpha.T[mb.batch[:, 0]])
    parts = model.get_reconstruction_loss(mb.counts, mb.proteins, out["px_"], py_)
    assert [part.shape for part in parts] == [(*draws, N)] * 2


def test_reconstruction_loss_of_2020_is_that_of_training(no_noise: None) -> None:
    for loss in ("nb", "zinb"):
        model, mb = build(reconstruction_loss_gene=loss), cells()
        elbo = model.loss(mb)
        out = model.inference(mb.counts, mb.proteins, mb.batch)
        given = (mb.counts, mb.proteins, out["px_"], out["py_"])
        genes, proteins = model.get_reconstruction_loss(*given)
        torch.testing.assert_close(genes, elbo.reconstruction["genes"], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(proteins, elbo.reconstruction["proteins"], rtol=1e-4, atol=1e-4)
        mask = torch.eye(N, P)
        each = [model.get_reconstruction_loss(*given, torch.eye(P)[[j] * N])[1] for j in range(P)]
        masked = model.get_reconstruction_loss(*given, mask)[1]
        torch.testing.assert_close(masked[:P], torch.stack([each[j][j] for j in range(P)]))
        assert (masked[P:] == 0).all()


def test_another_batch_changes_the_decoder_only(no_noise: None) -> None:
    model, mb = build(gene_dispersion="gene-batch"), cells()
    own, other = (model.inference(mb.counts, mb.proteins, mb.batch, transform_batch=b) for b in (None, 1))
    assert torch.equal(own["z"], other["z"])
    assert torch.equal(own["px_"]["r"], other["px_"]["r"])  # dispersions are the cell's own
    there = mb.batch[:, 0] == 1
    torch.testing.assert_close(own["px_"]["scale"][there], other["px_"]["scale"][there])
    assert not torch.allclose(own["py_"]["mixing"][~there], other["py_"]["mixing"][~there])
    with pytest.raises(ValueError, match="transform_batch=3 is not a batch of this model, which has 0 to 2"):
        model.inference(mb.counts, mb.proteins, mb.batch, transform_batch=3)


def test_samples_of_the_posterior(no_noise: None) -> None:
    model, mb = build(latent_distribution="normal"), cells()
    q = model.variational(mb)
    given = (mb.counts, mb.proteins, mb.batch)
    assert torch.equal(model.sample_from_posterior_z(*given, give_mean=True), q.z.loc)
    assert torch.equal(model.sample_from_posterior_z(*given), q.z.loc)
    torch.testing.assert_close(model.sample_from_posterior_l(*given), (q.l.loc + q.l.scale**2 / 2).exp())
    torch.testing.assert_close(model.sample_from_posterior_l(*given, give_mean=False), q.l.loc.exp())
    on_simplex = build().sample_from_posterior_z(*given, give_mean=True, n_samples=10)
    torch.testing.assert_close(on_simplex.sum(1), torch.ones(N))
    seen = build(use_observed_lib_size=True).sample_from_posterior_l(*given)
    torch.testing.assert_close(seen, mb.counts.sum(1, keepdim=True))


def test_sample_scale(no_noise: None) -> None:
    model, mb = build(), cells()
    given = (mb.counts, mb.proteins, mb.batch)
    out = model.inference(*given)
    pi, py_ = torch.sigmoid(out["py_"]["mixing"]), out["py_"]
    genes, value = model.get_sample_scale(*given, sample_bern=False)
    torch.testing.assert_close(genes, out["px_"]["scale"])
    torch.testing.assert_close(value, (1 - pi) * py_["rate_fore"])
    both = model.get_sample_scale(*given, sample_bern=False, include_bg=True, eps=0.5)[1]
    torch.testing.assert_close(both, value + pi * py_["rate_back"] + 0.5)
    shares = model.get_sample_scale(*given, sample_bern=False, normalize_pro=True)[1]
    torch.testing.assert_close(shares, py_["scale"])
    drawn = model.get_sample_scale(*given)[1]
    assert ((drawn == 0) | torch.isclose(drawn, py_["rate_fore"])).all()
    torch.testing.assert_close(model.get_sample_rate(*given), out["px_"]["rate"])
    assert [r.shape for r in model.get_sample_dispersion(*given)] == [(G,), (P,)]


@pytest.mark.parametrize("sees", [True, False])
@pytest.mark.parametrize("by", BY)
def test_scale_from_z(by: str, sees: bool, no_noise: None) -> None:
    """Of cells of one batch what the model says of them there; neither labels nor other batches matter."""
    model = build(gene_dispersion=f"gene{by}", protein_dispersion=f"protein{by}", encoder_batch=sees)
    mb = cells()
    found = model.scale_from_z(mb.counts, mb.proteins, 1)
    out = model.inference(mb.counts, mb.proteins, torch.ones_like(mb.batch), mb.labels)
    for part, expected in zip(found, (out["px_"]["scale"], out["py_"]["scale"]), strict=True):
        torch.testing.assert_close(part, expected)
        torch.testing.assert_close(part.sum(1), torch.ones(N))
    with pytest.raises(ValueError, match="fixed_batch=3 is not a batch of this model, which has 0 to 2"):
        model.scale_from_z(mb.counts, mb.proteins, 3)


def test_one_batch_needs_no_codes() -> None:
    mb = cells()
    for n_batch in (0, 1):
        model = build(n_batch=n_batch)
        assert model.background_pro_alpha.shape == ((P,) if n_batch == 0 else (P, 1))
        parts = model(mb.counts, mb.proteins, mb.l_mean, mb.l_var)
        assert all(torch.isfinite(part).all() for part in parts)
        assert torch.isfinite(model.inference(mb.counts, mb.proteins)["z"]).all()


# --- options and file format ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"gene_dispersion": "gene-cell"},
            r"gene_dispersion='gene-cell' is not one of 'gene', 'gene-batch', 'gene-label'",
        ),
        (
            {"protein_dispersion": "gene"},
            r"protein_dispersion='gene' is not one of 'protein', 'protein-batch', 'protein-l",
        ),
        (
            {"protein_dispersion": "protein-batch", "n_batch": 0},
            r"protein_dispersion='protein-batch' needs n_batch >= 1",
        ),
        ({"gene_dispersion": "gene-label", "n_labels": 0}, r"gene_dispersion='gene-label' needs n_labels >= 1"),
        ({"reconstruction_loss_gene": "poisson"}, r"reconstruction_loss_gene='poisson' is not one of 'nb', 'zinb'"),
        ({"latent_distribution": "beta"}, r"latent_distribution='beta'"),
        ({"n_latent": 0}, "n_latent=0"),
        ({"n_layers_encoder": 0}, "n_layers_encoder=0"),
        ({"n_layers_decoder": 0}, "n_layers_decoder=0"),
        ({"dropout_rate_decoder": 1}, "dropout_rate_decoder=1"),
        ({"dropout_rate_encoder": -1}, "dropout_rate_encoder=-1"),
        ({"encoder_batch": 1}, "encoder_batch=1"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_n_layers_is_the_name_of_both_depths_in_2019() -> None:
    model = build(n_layers=2)
    assert len(model.encoder.encoder.fc_layers) == len(model.decoder.px_decoder.fc_layers) == 2


def test_proteins_are_needed() -> None:
    mb = cells()
    with pytest.raises(ValueError, match="no proteins, which totalVI needs"):
        build().loss(Minibatch(mb.counts, mb.batch, mb.labels, mb.l_mean, mb.l_var))


def test_data_of_other_sizes_are_refused() -> None:
    model = build(gene_dispersion="gene-label")
    model.check_fits(G, K, C)
    with pytest.raises(ValueError, match=r"n_input_genes=12 for 13 genes.*n_batch=3.*n_labels=2"):
        model.check_fits(G + 1, K + 1, C + 1)


def test_names_of_parameters_are_those_of_2020() -> None:
    names = set(build().state_dict())
    own = {"background_pro_alpha", "background_pro_log_beta", "px_r", "py_r"}
    linear = {
        f"{part}.{kind}"
        for part in ("z_mean_encoder", "z_var_encoder", "l_gene_mean_encoder", "l_gene_var_encoder")
        for kind in ("weight", "bias")
    }
    trunks = ("px_decoder", "py_back_decoder", "py_fore_decoder", "sigmoid_decoder")
    heads = (
        "px_scale_decoder",
        "py_back_mean_log_alpha",
        "py_back_mean_log_beta",
        "py_fore_scale_decoder",
        "px_dropout_decoder_gene",
        "py_background_decoder",
    )
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = own | {f"encoder.{name}" for name in linear}
    for branch in ("z_encoder", "l_gene_encoder"):
        expected |= {f"encoder.{branch}.0.{kind}" for kind in ("weight", "bias")}
        expected |= {f"encoder.{branch}.1.{kind}" for kind in norm}
    for block in ("encoder.encoder", *(f"decoder.{trunk}" for trunk in trunks)):
        expected |= {f"{block}.fc_layers.Layer 0.0.{kind}" for kind in ("weight", "bias")}
        expected |= {f"{block}.fc_layers.Layer 0.1.{kind}" for kind in norm}
    expected |= {f"decoder.{head}.fc_layers.Layer 0.0.{kind}" for head in heads for kind in ("weight", "bias")}
    assert names == expected
    observed = set(build(use_observed_lib_size=True, protein_batch_mask=MASK).state_dict())
    assert observed == {name for name in names if "encoder.l_" not in name}


def with_former_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As files of the first two formats have the networks of the library size."""
    return {name.replace("encoder.l_gene_", "encoder.l_"): value for name, value in state.items()}


def test_weights_under_their_former_names_are_read() -> None:
    model = build()
    former = with_former_names(model.state_dict())
    kept = dict(former)
    assert len(former.keys() - model.state_dict().keys()) == 11
    fresh = nn.ModuleDict({"totalvi": TOTALVI(G, P, n_batch=K, n_labels=C, n_hidden=16, n_latent=D)})
    fresh["totalvi"].load_state_dict(former)
    assert former == kept  # the caller's
    for name, value in fresh["totalvi"].state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    fresh.load_state_dict({f"totalvi.{name}": torch.zeros_like(value) for name, value in former.items()})
    assert not fresh["totalvi"].encoder.l_gene_mean_encoder.weight.any()


@pytest.mark.parametrize("former", [False, True])
def test_weights_that_are_not_those_of_the_network_are_refused_by_name(former: bool) -> None:
    model = build()
    state = dict(model.state_dict())
    lacks = {name: value for name, value in state.items() if name != "encoder.l_gene_var_encoder.bias"}
    doubled = {**state, "encoder.l_var_encoder.bias": torch.zeros(1)}
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "encoder.l_gene_var_encoder.bias"'):
        model.load_state_dict(with_former_names(lacks) if former else lacks)
    with pytest.raises(RuntimeError, match=r'Unexpected key\(s\) in state_dict: "encoder.l_var_encoder.bias"'):
        model.load_state_dict(doubled)


def test_starting_values() -> None:
    model = build(latent_distribution="normal")
    frequency = torch.rand(G).add(0.1)
    frequency /= frequency.sum()
    mean, log_sd, factor = torch.rand(P, K) * 3, torch.rand(P, K) - 1, torch.rand(P)
    model.start(Moments(frequency, torch.arange(float(G)), (mean, log_sd, factor)))
    assert torch.equal(model.px_r, torch.arange(float(G)))
    assert torch.equal(model.background_pro_alpha, mean)
    assert torch.equal(model.background_pro_log_beta, log_sd)
    for head in (
        model.decoder.px_scale_decoder,
        model.decoder.py_back_mean_log_alpha,
        model.decoder.py_fore_scale_decoder,
    ):
        nn.init.zeros_(head.fc_layers[0][0].weight)
    heads = model.generative(torch.zeros(N, D), torch.zeros(N, 1), cells())
    torch.testing.assert_close(heads.genes.scale, frequency.expand(N, G))
    torch.testing.assert_close(heads.proteins.log_background.mean, mean.mean(1).expand(N, P))
    torch.testing.assert_close(heads.proteins.log_factor, factor.expand(N, P))


def test_an_elbo_says_what_is_annealed() -> None:
    elbo = build().loss(cells())
    assert isinstance(elbo, Elbo)
    torch.testing.assert_close(elbo.objective(0.0), elbo.fixed().mean())

"""Norms, depth of covariates and variances of the networks, against their formulas in torch's own operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import softplus

from grids import each_of
from scvi.kernels import SparseRows
from scvi.minibatch import Minibatch
from scvi.models import LDVAE, SCANVI, TOTALVI, VAE, VAEC, AutoZIVAE, Classifier
from scvi.models.base import Model, Moments
from scvi.models.decoded import of_any_sum

N, G, P, K, C, D = 11, 7, 3, 3, 4, 2
PLACES = ("encoder", "decoder", "none", "both")
VARIANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "softplus": lambda a: (1 + a.exp()).log(),
    "relu": lambda a: a.clamp(min=0),
    "sigmoid": lambda a: 1 / (1 + (-a).exp()),
    "square": lambda a: a * a,
}
SIZES: dict[str, Any] = {"n_batch": K, "n_labels": C, "n_hidden": 6, "n_latent": D, "dropout_rate": 0.0}
EMBEDDING: dict[str, Any] = {"batch_representation": "embedding"}
COVARIATES: dict[str, Any] = {"n_continuous_cov": 1, "n_cats_per_cov": [2], "use_observed_lib_size": True}

options = st.fixed_dictionaries(
    {
        "use_batch_norm": st.sampled_from(PLACES),
        "use_layer_norm": st.sampled_from(PLACES),
        "deeply_inject_covariates": st.booleans(),
        "encode_covariates": st.booleans(),
        "log_variational": st.booleans(),
        "var_activation": st.sampled_from(sorted(VARIANCES)),
        "n_layers": st.integers(1, 3),
        "batch_representation": st.sampled_from(["one-hot", "embedding"]),
    }
)
many = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def minibatch(sparse: bool = False) -> Minibatch:
    torch.manual_seed(1)
    counts = torch.poisson(3 * torch.rand(N, G))
    return Minibatch(
        counts=SparseRows.of(counts) if sparse else counts,
        batch=torch.randint(K, (N, 1)),
        labels=torch.randint(C, (N, 1)),
        categorical=torch.randint(2, (N, 1)),
        continuous=torch.randn(N, 1),
        proteins=torch.poisson(5 * torch.rand(N, P)),
    )


def made(cls: type[Model], *sizes: int, **given: Any) -> Any:
    """A model whose moments and weights of norms are not those of the start."""
    torch.manual_seed(0)
    common = without(SIZES, "dropout_rate") if cls is TOTALVI else SIZES
    model = cls(*sizes, **{**common, **given})  # type: ignore[arg-type]
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()  # type: ignore[union-attr, operator]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model


class Reference:
    """The networks of a model from the names and values of its weights."""

    def __init__(self, model: nn.Module, options: dict[str, Any]) -> None:
        self.state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.training, self.options = model.training, options

    def linear(self, name: str, h: Tensor) -> Tensor:
        return h @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def layers(self, name: str, part: str, h: Tensor, columns: list[Tensor], always: bool = False) -> Tensor:
        """Linear, batch norm, layer norm and ReLU, as often as there are weights."""
        number = 0
        while f"{name}.fc_layers.Layer {number}.0.weight" in self.state:
            deep = always or number == 0 or self.options["deeply_inject_covariates"]
            layer = f"{name}.fc_layers.Layer {number}"
            h = self.linear(f"{layer}.0", torch.cat([h, *columns], 1) if deep else h)
            h, number = self.normed(layer, part, h).relu(), number + 1
        return h

    def normed(self, layer: str, part: str, h: Tensor, eps: float = 1e-3) -> Tensor:
        assert (f"{layer}.1.weight" in self.state) == (self.options["use_batch_norm"] in (part, "both"))
        if self.options["use_batch_norm"] in (part, "both"):
            mean, variance = self.state[f"{layer}.1.running_mean"], self.state[f"{layer}.1.running_var"]
            if self.training:
                mean, variance = h.mean(0), ((h - h.mean(0)) ** 2).mean(0)
            h = (h - mean) / (variance + eps) ** 0.5 * self.state[f"{layer}.1.weight"] + self.state[f"{layer}.1.bias"]
        if self.options["use_layer_norm"] in (part, "both"):
            centred = h - h.mean(1, keepdim=True)
            h = centred / ((centred**2).mean(1, keepdim=True) + 1e-5) ** 0.5
        return h

    def gaussian(self, h: Tensor, mean: str, variance: str, activation: str | None = None) -> tuple[Tensor, Tensor]:
        activation = self.options["var_activation"] if activation is None else activation
        return self.linear(mean, h), VARIANCES[activation](self.linear(variance, h)) + 1e-4


def columns_of(mb: Minibatch, model: Any = None, *, labels: bool = False) -> list[Tensor]:
    """One-hot rows of batch, label and covariate, then the continuous covariate and the batch's embedding."""
    codes = [(mb.batch, K), *([(mb.labels, C)] if labels else []), (mb.categorical, 2)]
    columns = [*(nn.functional.one_hot(code[:, 0], n).float() for code, n in codes), mb.continuous]  # type: ignore[index]
    if model is None or model.architecture.batch_representation == "one-hot":
        return columns  # type: ignore[return-value]
    return [*columns[1:], columns[0] @ model.embeddings_dict["batch"].weight]  # type: ignore[operator, list-item]


def seen(mb: Minibatch, given: dict[str, Any]) -> Tensor:
    return mb.x.log1p() if given["log_variational"] else mb.x


def same_moments(q: Any, expected: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(q.loc, expected[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(q.scale.square(), expected[1], rtol=1e-4, atol=1e-4)


def without(given: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in names}


@many
@given(options=options, training=st.booleans(), sparse=st.booleans())
@pytest.mark.parametrize("cls", [VAE, AutoZIVAE])
def test_encoder_and_decoder_of_scvi(cls: type[Model], options: dict[str, Any], training: bool, sparse: bool) -> None:
    model, mb = made(cls, G, **COVARIATES, **options).train(training), minibatch(sparse)
    reference, columns = Reference(model, options), columns_of(mb, model)
    h = reference.layers(
        "z_encoder.encoder", "encoder", seen(mb, options), columns if options["encode_covariates"] else []
    )
    expected = reference.gaussian(h, "z_encoder.mean_encoder", "z_encoder.var_encoder")
    q = model.variational(mb).z
    same_moments(q, expected)
    z = torch.randn(N, D)
    h = reference.layers("decoder.px_decoder", "decoder", z, columns)
    logits = reference.linear("decoder.px_scale_decoder.0", h)
    found = model.generative(z, torch.zeros(N, 1), mb, raw=True).genes.rate
    torch.testing.assert_close(found, logits.softmax(1), rtol=1e-4, atol=1e-5)
    encoded = ("z_encoder", "embeddings") if options["encode_covariates"] else ("z_encoder",)
    weights = [p for name, p in model.named_parameters() if name.startswith(encoded)]
    theirs = torch.autograd.grad(expected[0].sum() + expected[1].square().sum(), weights)
    ours = torch.autograd.grad(q.loc.sum() + q.scale.pow(4).sum(), weights)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


@each_of(norm=PLACES, layer_norm=("none", "encoder"), bias=(True, False), training=(True, False))
def test_the_linear_decoder(norm: str, layer_norm: str, bias: bool, training: bool) -> None:
    given = {"use_batch_norm": norm, "use_layer_norm": layer_norm}
    model, mb = made(LDVAE, G, bias=bias, use_observed_lib_size=True, **given).train(training), minibatch()
    reference = Reference(model, {**given, "deeply_inject_covariates": True, "var_activation": "exp"})
    h = reference.layers("z_encoder.encoder", "encoder", mb.x.log1p(), [])
    same_moments(model.variational(mb).z, reference.gaussian(h, "z_encoder.mean_encoder", "z_encoder.var_encoder"))
    z, layer = torch.randn(N, D), "decoder.factor_regressor.fc_layers.Layer 0"
    weight = reference.state[f"{layer}.0.weight"]
    h = torch.cat([z, columns_of(mb)[0]], 1) @ weight.T + reference.state.get(f"{layer}.0.bias", torch.zeros(G))
    logits = reference.normed(layer, "decoder", h)
    found = model.generative(z, torch.zeros(N, 1), mb, raw=True).genes.rate
    torch.testing.assert_close(found, logits.softmax(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("former", "place"), [(True, "both"), (False, "encoder")])
def test_true_and_false_speak_of_the_linear_decoder_alone(former: bool, place: str) -> None:
    assert LDVAE(G, use_batch_norm=former).architecture.use_batch_norm == place


@each_of(norm=PLACES, layer_norm=PLACES, deep=(True, False))
def test_labels_and_classifiers(norm: str, layer_norm: str, deep: bool) -> None:
    given = {"use_batch_norm": norm, "use_layer_norm": layer_norm, "deeply_inject_covariates": deep}
    mb, z, y = minibatch(), torch.randn(N, D), nn.functional.one_hot(torch.arange(N) % C, C).float()
    model = made(SCANVI, G, n_layers=2, var_activation="softplus", **given, **COVARIATES).eval()
    reference = Reference(model, {**given, "var_activation": "exp"})
    h = reference.layers("encoder_z2_z1.encoder", "encoder", z, [y], always=True)
    same_moments(
        model.encoder_z2_z1.encode(z, y),
        reference.gaussian(h, "encoder_z2_z1.mean_encoder", "encoder_z2_z1.var_encoder"),
    )
    h = reference.layers("decoder_z1_z2.decoder", "decoder", z, [y], always=True)
    torch.testing.assert_close(model.decoder_z1_z2(z, y)[0], reference.linear("decoder_z1_z2.mean_decoder", h))
    h = reference.layers("classifier.classifier.0", "encoder", z, [])
    logits = reference.linear("classifier.classifier.1", h)
    torch.testing.assert_close(model.classifier.log_probabilities(z), logits.log_softmax(1), rtol=1e-4, atol=1e-5)

    model = made(VAEC, G, n_layers=2, encode_covariates=True, **given, **COVARIATES).eval()
    reference, columns = Reference(model, {**given, "var_activation": "exp"}), columns_of(mb, labels=True)
    h = reference.layers("z_encoder.encoder", "encoder", mb.x.log1p(), columns)
    same_moments(model.variational(mb).z, reference.gaussian(h, "z_encoder.mean_encoder", "z_encoder.var_encoder"))
    h = reference.layers("decoder.px_decoder", "decoder", z, columns)
    logits = reference.linear("decoder.px_scale_decoder.0", h)
    found = model.generative(z, torch.zeros(N, 1), mb).genes.rate
    torch.testing.assert_close(found, logits.softmax(1), rtol=1e-4, atol=1e-5)


@many
@given(options=options, training=st.booleans(), sparse=st.booleans(), latent_library=st.booleans())
def test_the_networks_of_totalvi(options: dict[str, Any], training: bool, sparse: bool, latent_library: bool) -> None:
    n_layers = options["n_layers"]
    model: Any = made(
        TOTALVI,
        G,
        P,
        encoder_batch=options["encode_covariates"],
        latent_distribution="normal",
        **{**COVARIATES, "use_observed_lib_size": not latent_library},
        **without(options, "n_layers", "encode_covariates"),
        n_layers_encoder=n_layers,
        n_layers_decoder=n_layers,
        dropout_rate_encoder=0.0,
        dropout_rate_decoder=0.0,
    ).train(training)
    mb = minibatch(sparse)
    reference, columns = Reference(model, options), columns_of(mb, model)
    x = torch.cat([mb.x, mb.proteins], 1)  # type: ignore[list-item]
    x = x.log1p() if options["log_variational"] else x
    h = reference.layers("encoder.encoder", "encoder", x, columns if options["encode_covariates"] else [])
    latent = model.variational(mb)
    for name, q in (("z", latent.z), ("l_gene", latent.l))[: 1 + latent_library]:
        branch = reference.linear(f"encoder.{name}_encoder.0", h)
        branch = reference.normed(f"encoder.{name}_encoder", "encoder", branch, eps=1e-5).relu()
        same_moments(q, reference.gaussian(branch, f"encoder.{name}_mean_encoder", f"encoder.{name}_var_encoder"))
    z = torch.randn(N, D)
    h = reference.layers("decoder.px_decoder", "decoder", z, columns)
    logits = reference.linear("decoder.px_scale_decoder.fc_layers.Layer 0.0", torch.cat([h, z, *columns], 1))
    found = model.generative(z, torch.zeros(N, 1), mb).genes.rate
    torch.testing.assert_close(found, logits.softmax(1), rtol=1e-4, atol=1e-5)


def test_labels_and_an_embedding() -> None:
    model = made(VAEC, G, **COVARIATES, encode_covariates=True, batch_representation="embedding", n_layers=2).eval()
    mb, z = minibatch(), torch.randn(N, D)
    given = {"use_batch_norm": "both", "use_layer_norm": "none", "deeply_inject_covariates": True}
    reference = Reference(model, {**given, "var_activation": "exp"})
    columns = columns_of(mb, model, labels=True)
    h = reference.layers("z_encoder.encoder", "encoder", mb.x.log1p(), columns)
    same_moments(model.variational(mb).z, reference.gaussian(h, "z_encoder.mean_encoder", "z_encoder.var_encoder"))
    h = reference.layers("decoder.px_decoder", "decoder", z, columns)
    logits = reference.linear("decoder.px_scale_decoder.0", h)
    found = model.generative(z, torch.zeros(N, 1), mb).genes.rate
    torch.testing.assert_close(found, logits.softmax(1), rtol=1e-4, atol=1e-5)


def test_a_batch_may_be_chosen_drawn_and_one_hot() -> None:
    model, mb = made(VAE, G, batch_representation="embedding", use_observed_lib_size=True).eval(), minibatch()
    z, size = torch.randn(4, N, D), torch.zeros(N, 1)
    in_first = model.generative(z, size, replace(mb, batch=torch.zeros_like(mb.batch))).genes.rate
    torch.testing.assert_close(model.generative(z, size, mb, batch=0).genes.rate, in_first)
    rows = nn.functional.one_hot(mb.batch[:, 0], K)
    by_rows = model.generative(z, size, replace(mb, batch=rows)).genes.rate
    torch.testing.assert_close(by_rows, model.generative(z, size, mb).genes.rate)
    with pytest.raises(ValueError, match="differs between 3 batches: the batch is needed, None came"):
        model.get_sample_rate(mb.x)
    single = VAE(G, n_batch=1, batch_representation="embedding")
    assert single.embeddings_dict["batch"].weight.shape == (1, 5)  # type: ignore[index, union-attr]
    assert single.get_sample_rate(mb.x).shape == (N, G)


@pytest.mark.parametrize("place", PLACES)
def test_the_decoder_starts_where_the_data_say(place: str) -> None:
    """Also where no batch norm follows: the logits are those of the frequencies where the hidden layer is silent."""
    frequencies = torch.rand(G).softmax(0)
    model = made(VAE, G, use_batch_norm=place, use_layer_norm="both")
    model.start(Moments(frequencies, torch.zeros(G)))
    torch.testing.assert_close(model.decoder.scale_bias().softmax(0), frequencies)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (torch.exp, "exp"),
        (None, "exp"),
        (nn.functional.softplus, "softplus"),
        (nn.Softplus(), "softplus"),
        (nn.functional.relu, "relu"),
        (nn.ReLU(), "relu"),
        (torch.sigmoid, "sigmoid"),
        ("square", "square"),
    ],
)
def test_functions_of_torch_have_names(given: Any, name: str) -> None:
    model = made(VAE, G, var_activation=given)
    assert model.z_encoder.var_activation == name


@pytest.mark.parametrize(
    ("cls", "given", "message"),
    [
        (VAE, {"use_batch_norm": True}, "use_batch_norm=True is not one of 'encoder', 'decoder', 'none', 'both'"),
        (VAE, {"use_layer_norm": "all"}, "use_layer_norm='all' is not one of"),
        (VAE, {"deeply_inject_covariates": 1}, "deeply_inject_covariates=1 is not True or False"),
        (VAE, {"log_variational": "no"}, "log_variational='no' is not True or False"),
        (VAE, {"var_activation": "tanh"}, "var_activation='tanh' is not one of 'exp'"),
        (VAE, {"var_activation": torch.tanh}, "no function that a saved model could name: pass one of 'exp'"),
        (VAE, {"var_activation": nn.Softplus(beta=2)}, "no function that a saved model could name"),
        (VAE, {"batch_representation": "embeddings"}, "batch_representation='embeddings' is not one of"),
        (VAE, {"batch_embedding_kwargs": {"embedding_dim": 3}}, "is for batch_representation='embedding'"),
        (VAE, EMBEDDING | {"batch_embedding_kwargs": {"dim": 3}}, "is not what a batch's embedding has: pass"),
        (VAE, EMBEDDING | {"batch_embedding_kwargs": 3}, "is not what a batch's embedding has: pass"),
        (VAE, EMBEDDING | {"batch_embedding_kwargs": {"embedding_dim": 0}}, "embedding_dim=0 is not a positive"),
        (LDVAE, {"use_layer_norm": "both"}, "use_layer_norm='both': layer norm is not linear"),
        (LDVAE, {"use_batch_norm": "all"}, "use_batch_norm='all' is not one of True, False, 'encoder'"),
        (LDVAE, {"use_batch_norm": 1}, "use_batch_norm=1 is not one of True, False, 'encoder'"),
        (Classifier, {"use_batch_norm": "none"}, "use_batch_norm='none' is not True or False"),
    ],
)
def test_what_cannot_be(cls: type[nn.Module], given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cls(G, **given)


# ---- expected counts of any sum --------------------------------------------------------------------------------------


def test_positive_numbers_times_a_size() -> None:
    """However large or small the numbers of the decoder are; and their gradient."""
    torch.manual_seed(0)
    raw, log_size = 40 * torch.randn(50, G), torch.randn(50, 1)
    raw[0], raw[1, 0], raw[2] = -300, -300, 300
    logits, log_sum = of_any_sum(raw, log_size)
    log_rate = torch.log_softmax(logits.double(), dim=-1) + log_sum
    exact = raw.double()
    expected = log_size + torch.where(exact < -30, exact, softplus(exact).log())
    torch.testing.assert_close(log_rate, expected, rtol=1e-5, atol=1e-4)
    small = torch.randn(3, G, dtype=torch.float64, requires_grad=True)
    size = torch.zeros(3, 1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: sum(part.sum() for part in of_any_sum(10 * a, size)), small)
    raw.requires_grad_(True)
    sum(part.sum() for part in of_any_sum(raw, log_size)).backward()  # type: ignore[union-attr]
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("cls", [VAE, TOTALVI])
def test_the_likelihood_with_positive_numbers(cls: type[Model], sparse: bool) -> None:
    sizes = (G, P) if cls is TOTALVI else (G,)
    likelihood = {"reconstruction_loss_gene" if cls is TOTALVI else "reconstruction_loss": "nb"}
    model = made(cls, *sizes, scale_activation="softplus", use_observed_lib_size=True, **likelihood).eval()
    plain = made(cls, *sizes, use_observed_lib_size=True, **likelihood).eval()
    mb = minibatch(sparse)
    with torch.no_grad():
        z, log_size = model.variational(mb).z.loc, mb.totals.log()
        genes, softmax = (one.generative(z, log_size, mb).genes for one in (model, plain))
        raw = softmax.logits.compute() if hasattr(softmax.logits, "compute") else softmax.logits
        rate = log_size.exp() * softplus(raw)
        torch.testing.assert_close(genes.rate, rate)
        torch.testing.assert_close(genes.scale.sum(-1), torch.ones(N))
        nb = torch.distributions.NegativeBinomial(model.px_r.exp(), logits=rate.log() - model.px_r)
        expected = -nb.log_prob(minibatch().counts).sum(-1)
        torch.testing.assert_close(genes.nll(mb), expected, rtol=1e-4, atol=1e-4)


def test_what_makes_expected_counts_is_one_of_two() -> None:
    with pytest.raises(ValueError, match="scale_activation='exp' is not one of 'softmax', 'softplus'"):
        VAE(G, scale_activation="exp")  # type: ignore[arg-type]

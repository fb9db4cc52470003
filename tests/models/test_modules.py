"""The building blocks: shapes, names of parameters, where covariates enter, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from scvi.models.modules import (
    Decoder,
    DecoderSCVI,
    DecoderTOTALVI,
    Encoder,
    EncoderTOTALVI,
    FCLayers,
    LinearDecoderSCVI,
    MultiDecoder,
    MultiEncoder,
    identity,
    reparameterize_gaussian,
)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def codes(n: int, k: int) -> Tensor:
    return torch.randint(k, (n, 1))


def one_hot(index: Tensor, k: int) -> Tensor:
    return nn.functional.one_hot(index[:, 0], k).float()


# --- draws ------------------------------------------------------------------------------------------------------------


def test_reparameterize_gaussian() -> None:
    mu, var = torch.tensor([1.0, -2.0], requires_grad=True), torch.tensor([0.25, 4.0], requires_grad=True)
    draws = reparameterize_gaussian(mu.expand(20_000, 2), var.expand(20_000, 2))
    assert torch.allclose(draws.mean(0), mu, atol=0.05)
    assert torch.allclose(draws.var(0), var, rtol=0.05)
    draws.sum().backward()
    assert torch.allclose(mu.grad, torch.full((2,), 20_000.0))
    assert var.grad.isfinite().all()


def test_identity() -> None:
    x = torch.rand(3)
    assert identity(x) is x


# --- FCLayers ---------------------------------------------------------------------------------------------------------


def widths(layers: FCLayers) -> list[tuple[int, int]]:
    return [(layer[0].in_features, layer[0].out_features) for layer in layers.fc_layers]


@pytest.mark.parametrize("n_layers", [-1, 0, 1])
def test_one_layer_at_least(n_layers: int) -> None:
    assert widths(FCLayers(5, 3, n_layers=n_layers, n_hidden=8)) == [(5, 3)]


def test_widths_with_covariates_at_every_layer() -> None:
    layers = FCLayers(5, 3, n_cat_list=[4, 1, 0, 2], n_layers=3, n_hidden=8)
    assert widths(layers) == [(5 + 6, 8), (8 + 6, 8), (8 + 6, 3)]
    assert layers.n_cat_list == [4, 0, 0, 2]


def test_slots_keep_their_places() -> None:
    full = FCLayers(5, 3, n_layers=2).fc_layers
    assert [name for name, _ in full.named_children()] == ["Layer 0", "Layer 1"]
    assert [type(part) for part in full[0]] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout]
    bare = FCLayers(5, 3, dropout_rate=0, use_batch_norm=False, use_relu=False, bias=False)
    assert len(bare.fc_layers[0]) == 4
    assert [name for name, _ in bare.named_parameters()] == ["fc_layers.Layer 0.0.weight"]
    no_norm = FCLayers(5, 3, use_batch_norm=False)
    assert isinstance(no_norm.fc_layers[0][2], nn.ReLU)
    assert isinstance(no_norm.fc_layers[0][3], nn.Dropout)


def test_constants_of_batch_norm_and_dropout() -> None:
    norm, dropout = FCLayers(5, 3, dropout_rate=0.3).fc_layers[0][1:4:2]
    assert (norm.momentum, norm.eps, dropout.p) == (0.01, 0.001, 0.3)


def test_parameter_names() -> None:
    names = set(FCLayers(5, 3, n_layers=2).state_dict())
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {f"fc_layers.Layer {i}.0.{p}" for i in (0, 1) for p in ("weight", "bias")}
    assert names == expected | {f"fc_layers.Layer {i}.1.{p}" for i in (0, 1) for p in norm}


def by_hand(layers: FCLayers, x: Tensor, *extra: Tensor) -> Tensor:
    for layer in layers.fc_layers:
        for part in (lambda h: layer[0](torch.cat([h, *extra], dim=-1)), *layer[1:]):  # noqa: B023
            x = part(x)
    return x


def test_forward_concatenates_one_hot_codes() -> None:
    layers = FCLayers(5, 3, n_cat_list=[4, 1, 2], n_layers=2, n_hidden=8).eval()
    x, first, ignored, second = torch.randn(7, 5), codes(7, 4), codes(7, 1), codes(7, 2)
    expected = by_hand(layers, x, one_hot(first, 4), one_hot(second, 2))
    assert torch.equal(layers(x, first, ignored, second), expected)
    assert torch.equal(layers(x, one_hot(first, 4), None, second), expected)
    assert torch.equal(layers(x, first, None, second, codes(7, 9), None), expected)
    assert torch.equal(layers(x, first, None, second, instance_id=3), expected)
    assert torch.equal(layers(x, first.float(), None, second.int()), expected)


def test_forward_concatenates_continuous_covariates() -> None:
    layers = FCLayers(5, 3, n_cat_list=[2], n_layers=2, n_hidden=8, n_cont=2).eval()
    x, batch, cont = torch.randn(7, 5), codes(7, 2), torch.randn(7, 2)
    assert torch.equal(layers(x, batch, cont=cont), by_hand(layers, x, one_hot(batch, 2), cont))
    with pytest.raises(ValueError, match="2 continuous covariates"):
        layers(x, batch)


def test_missing_categories_are_refused() -> None:
    layers = FCLayers(5, 3, n_cat_list=[4, 2])
    x = torch.randn(7, 5)
    with pytest.raises(AssertionError, match=r"nb\. categorical args provided doesn't match init\. params\."):
        layers(x, codes(7, 4))
    with pytest.raises(AssertionError, match=r"cat not provided while n_cat != 0 in init\. params\."):
        layers(x, codes(7, 4), None)


def test_draws_share_the_covariates() -> None:
    layers = FCLayers(5, 3, n_cat_list=[4], n_layers=2, n_hidden=8, n_cont=1).eval()
    x, batch, cont = torch.randn(6, 7, 5), codes(7, 4), torch.randn(7, 1)
    together = layers(x, batch, cont=cont)
    assert together.shape == (6, 7, 3)
    for one, row in zip(x, together, strict=True):
        assert torch.allclose(layers(one, batch, cont=cont), row, atol=1e-6)


def test_batch_norm_takes_draws_one_at_a_time() -> None:
    layers = FCLayers(5, 3, dropout_rate=0)
    x = torch.randn(4, 7, 5) * torch.arange(1.0, 5.0)[:, None, None]
    out = layers(x)
    linear = layers.fc_layers[0][0]
    for one, row in zip(x, out, strict=True):
        normal = nn.functional.batch_norm(linear(one), None, None, training=True, eps=0.001)
        assert torch.allclose(normal.relu(), row, atol=1e-5)
    assert layers.fc_layers[0][1].num_batches_tracked == 4


# --- Encoder, Decoder -------------------------------------------------------------------------------------------------


def test_encoder() -> None:
    encoder = Encoder(6, 2, n_cat_list=[3], n_layers=2, n_hidden=8).eval()
    x, batch = torch.randn(5, 6), codes(5, 3)
    q_m, q_v, latent = encoder(x, batch)
    h = encoder.encoder(x, batch)
    # two heads are one matrix product, which rounds as its shape and the processor will have it
    assert torch.allclose(q_m, encoder.mean_encoder(h), rtol=1e-5, atol=1e-6)
    assert torch.allclose(q_v, encoder.var_encoder(h).exp() + 1e-4, rtol=1e-5, atol=1e-6)
    assert latent.shape == (5, 2)
    assert encoder.z_transformation is identity
    assert encoder.distribution == "normal"
    draws = encoder(x.repeat(4000, 1), batch.repeat(4000, 1))[2].view(4000, 5, 2)
    assert torch.allclose(draws.mean(0), q_m, atol=0.15)
    assert torch.allclose(draws.var(0), q_v, rtol=0.15)


def test_variance_has_a_floor() -> None:
    encoder = Encoder(6, 2)
    nn.init.constant_(encoder.var_encoder.bias, -100.0)
    nn.init.zeros_(encoder.var_encoder.weight)
    assert torch.allclose(encoder(torch.randn(5, 6))[1], torch.tensor(1e-4))


def test_logistic_normal_encoder() -> None:
    encoder = Encoder(6, 3, distribution="ln").eval()
    q_m, _, latent = encoder(torch.randn(5, 6))
    assert torch.allclose(latent.sum(-1), torch.ones(5))
    assert (latent > 0).all()
    assert not torch.allclose(q_m.sum(-1), torch.ones(5))
    assert torch.equal(encoder.z_transformation(q_m), torch.softmax(q_m, -1))
    with pytest.raises(ValueError, match=r"distribution='gumbel' is not one of 'normal', 'ln'"):
        Encoder(6, 3, distribution="gumbel")


def test_decoder() -> None:
    decoder = Decoder(4, 2, n_cat_list=[3], n_layers=2, n_hidden=8)
    assert all(isinstance(layer[3], nn.Identity) for layer in decoder.decoder.fc_layers)
    x, y = torch.randn(5, 4), codes(5, 3)
    p_m, p_v = decoder.eval()(x, y)
    h = decoder.decoder(x, y)
    assert torch.equal(p_m, decoder.mean_decoder(h))
    assert torch.equal(p_v, decoder.var_decoder(h).exp())


# --- decoders of counts -----------------------------------------------------------------------------------------------

LIBRARY = torch.tensor([[2.0], [3.0], [4.0], [8.0], [20.0]])


@pytest.mark.parametrize("dispersion", ["gene", "gene-batch", "gene-label", "gene-cell"])
def test_decoder_scvi(dispersion: str) -> None:
    decoder = DecoderSCVI(3, 6, n_cat_list=[2], n_layers=2, n_hidden=8).eval()
    z, batch = torch.randn(5, 3), codes(5, 2)
    scale, r, rate, dropout = decoder(dispersion, z, LIBRARY, batch)
    h = decoder.px_decoder(z, batch)
    assert torch.allclose(scale, torch.softmax(decoder.px_scale_decoder[0](h), -1))
    assert torch.allclose(scale, decoder.px_scale_decoder(h))
    assert torch.equal(rate, LIBRARY.exp() * scale)
    assert torch.equal(dropout, decoder.px_dropout_decoder(h))
    if dispersion == "gene-cell":
        assert torch.equal(r, decoder.px_r_decoder(h))
    else:
        assert r is None
    assert isinstance(decoder.px_scale_decoder[1], nn.Softmax)
    assert [layer[0].in_features for layer in decoder.px_decoder.fc_layers] == [3 + 2, 8 + 2]
    assert decoder.px_scale_decoder[0].in_features == 8


def test_decoder_scvi_with_draws() -> None:
    decoder = DecoderSCVI(3, 6, n_cat_list=[2], n_hidden=8).eval()
    z, batch = torch.randn(4, 5, 3), codes(5, 2)
    outputs = decoder("gene-cell", z, LIBRARY.expand(4, 5, 1), batch)
    for out, one in zip(outputs, decoder("gene-cell", z[2], LIBRARY, batch), strict=True):
        assert out.shape == (4, 5, 6)
        assert torch.allclose(out[2], one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("use_batch_norm", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_decoder(use_batch_norm: bool, bias: bool) -> None:
    decoder = LinearDecoderSCVI(3, 6, n_cat_list=[2], use_batch_norm=use_batch_norm, bias=bias).eval()
    for block in (decoder.factor_regressor, decoder.px_dropout_decoder):
        (layer,) = block.fc_layers
        assert (layer[0].in_features, layer[0].bias is not None) == (5, bias)
        assert isinstance(layer[1], nn.BatchNorm1d if use_batch_norm else nn.Identity)
        assert isinstance(layer[2], nn.Identity)
        assert isinstance(layer[3], nn.Identity)
    z, batch = torch.randn(5, 3), codes(5, 2)
    scale, r, rate, dropout = decoder("gene", z, LIBRARY, batch)
    assert torch.allclose(scale, torch.softmax(decoder.factor_regressor(z, batch), -1))
    assert r is None
    assert torch.equal(rate, LIBRARY.exp() * scale)
    assert torch.equal(dropout, decoder.px_dropout_decoder(z, batch))


def test_multi_encoder() -> None:
    encoder = MultiEncoder(2, [6, 4], 3, n_hidden=8, n_layers_individual=2, n_layers_shared=3).eval()
    assert [e.fc_layers[0][0].in_features for e in encoder.encoders] == [6, 4]
    assert [len(e.fc_layers) for e in (*encoder.encoders, encoder.encoder_shared)] == [2, 2, 3]
    for head, width in enumerate((6, 4)):
        x = torch.randn(5, width)
        q_m, q_v, latent = encoder(x, head)
        h = encoder.encoder_shared(encoder.encoders[head](x))
        assert torch.equal(q_m, encoder.mean_encoder(h))
        assert torch.equal(q_v, encoder.var_encoder(h).exp())
        assert latent.shape == (5, 3)
    with pytest.raises(ValueError, match="n_heads=2"):
        MultiEncoder(2, [6], 3)


@pytest.mark.parametrize(
    ("conditioned", "shared", "width"), [(1, 1, 16), (2, 0, 16), (0, 2, 16), (0, 0, 3)], ids=lambda v: str(v)
)
def test_multi_decoder(conditioned: int, shared: int, width: int) -> None:
    decoder = MultiDecoder(3, 6, 8, 16, conditioned, shared, n_cat_list=[2]).eval()
    z, batch = torch.randn(5, 3), codes(5, 2)
    scale, r, rate, dropout = decoder(z, 0, LIBRARY, "gene-cell", batch)
    h = z
    if conditioned:
        assert decoder.px_decoder_conditioned.fc_layers[-1][0].out_features == (8 if shared else 16)
        h = decoder.px_decoder_conditioned(h, batch)
    else:
        assert decoder.px_decoder_conditioned is None
    if shared:
        assert decoder.px_decoder_final.n_cat_list == []
        h = decoder.px_decoder_final(h)
    else:
        assert decoder.px_decoder_final is None
    assert decoder.px_dropout_decoder.in_features == width
    assert torch.equal(scale, decoder.px_scale_decoder(h))
    assert torch.equal(r, decoder.px_r_decoder(h))
    assert torch.equal(rate, LIBRARY.exp() * scale)
    assert torch.equal(dropout, decoder.px_dropout_decoder(h))
    assert decoder(z, 1, LIBRARY, "gene", batch)[1] is None
    assert torch.equal(decoder(z, 1, LIBRARY, "gene", batch)[0], scale)


# --- totalVI ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distribution", ["ln", "normal"])
def test_encoder_totalvi(distribution: str) -> None:
    encoder = EncoderTOTALVI(9, 3, n_cat_list=[2], n_hidden=8, distribution=distribution).eval()
    x, batch = torch.randn(5, 9), codes(5, 2)
    qz_m, qz_v, ql_m, ql_v, latent, untransformed = encoder(x, batch)
    assert qz_m.shape == qz_v.shape == latent["z"].shape == untransformed["z"].shape == (5, 3)
    assert ql_m.shape == ql_v.shape == latent["l"].shape == untransformed["l"].shape == (5, 1)
    assert (qz_v > 1e-4).all()
    assert (ql_v > 1e-4).all()
    z = untransformed["z"]
    assert torch.equal(latent["z"], torch.softmax(z, -1) if distribution == "ln" else z)
    assert torch.equal(latent["l"], untransformed["l"].exp())
    norms = [part for part in encoder.modules() if isinstance(part, nn.BatchNorm1d)]
    assert [(n.momentum, n.eps) for n in norms[-2:]] == [(0.1, 1e-5)] * 2
    drawn, before = encoder.reparameterize_transformation(qz_m, qz_v)
    assert torch.equal(drawn, encoder.z_transformation(before))


def test_encoder_totalvi_library_is_at_most_15() -> None:
    encoder = EncoderTOTALVI(9, 3).eval()
    nn.init.constant_(encoder.l_gene_mean_encoder.bias, 40.0)
    *_, ql_m, _, latent, untransformed = encoder(torch.randn(5, 9))
    assert (ql_m > 15).all()
    assert (untransformed["l"] == 15).all()
    assert torch.allclose(latent["l"], torch.tensor(math.exp(15)))


def test_decoder_totalvi() -> None:
    decoder = DecoderTOTALVI(3, 6, 4, n_cat_list=[2], n_hidden=8, n_layers=2, dropout_rate=0.2).eval()
    heads = (
        "px_scale_decoder",
        "py_back_mean_log_alpha",
        "py_back_mean_log_beta",
        "py_fore_scale_decoder",
        "px_dropout_decoder_gene",
        "py_background_decoder",
    )
    for name in heads:
        (layer,) = getattr(decoder, name).fc_layers
        assert layer[0].in_features == 8 + 3 + 2, name
        assert isinstance(layer[1], nn.Identity), name
        assert isinstance(layer[3], nn.Identity), name
    for name in ("px_decoder", "py_back_decoder", "py_fore_decoder", "sigmoid_decoder"):
        assert widths(getattr(decoder, name)) == [(3 + 2, 8), (8 + 2, 8)], name

    z, batch, library = torch.randn(5, 3), codes(5, 2), LIBRARY.exp()
    px, py, log_back = decoder(z, library, batch)
    assert set(px) == {"scale", "rate", "dropout"}
    assert set(py) == {"back_alpha", "back_beta", "rate_back", "fore_scale", "rate_fore", "mixing", "scale"}
    trunk = torch.cat([decoder.px_decoder(z, batch), z], -1)
    assert torch.allclose(px["scale"], torch.softmax(decoder.px_scale_decoder(trunk, batch), -1))
    assert torch.equal(px["rate"], library * px["scale"])
    assert px["dropout"].shape == (5, 6)
    assert torch.equal(py["rate_back"], log_back.exp())
    assert (py["fore_scale"] >= 1).all()  # 1 + 1e-8 in float32
    assert torch.equal(py["rate_fore"], py["rate_back"] * py["fore_scale"])
    foreground = torch.sigmoid(-py["mixing"]) * py["rate_fore"]
    assert torch.allclose(py["scale"], foreground / foreground.sum(-1, keepdim=True))

    again = decoder(z, library, batch)
    assert torch.equal(again[1]["back_alpha"], py["back_alpha"])
    assert not torch.equal(again[2], log_back)  # the background is drawn in eval mode, too
    draws = decoder(z.repeat(3000, 1), library.repeat(3000, 1), batch.repeat(3000, 1))[2].view(3000, 5, 4)
    assert torch.allclose(draws.mean(0), py["back_alpha"], atol=0.2)
    assert torch.allclose(draws.std(0), py["back_beta"], rtol=0.15)  # a standard deviation, not a variance

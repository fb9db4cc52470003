"""Fits in bfloat16: which precision 'auto' is, what is kept of it, and that such a fit goes on exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from anndata import AnnData

import scvi
from scvi.fit import checkpoint, fit
from scvi.fit.optimizer import ClippedAdam
from scvi.kernels import LowWeights
from small_cells import QUICK, make_adata

WIDE = {"n_hidden": 144, "n_layers": 2, "n_latent": 4, "seed": 0}
"""Hidden layers, first layer and heads of more weights than products in float32 are as fast for."""


@pytest.fixture(autouse=True)
def every_device_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """What bfloat16 computes is the same where it is slow."""
    monkeypatch.setattr("scvi.fit.devices.bf16_is_supported", lambda device: True)


@pytest.fixture(scope="module")
def cells() -> AnnData:
    adata = make_adata(n=150, g=160)
    scvi.SCVI.setup_anndata(adata, batch_key="batch")
    return adata


def with_units(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    monkeypatch.setattr("scvi.fit.devices.bf16_pays", lambda device: there)


def fitted(cells: AnnData, **arguments: object) -> scvi.SCVI:
    model = scvi.SCVI(cells, **WIDE)
    model.train(**{**QUICK, **arguments})
    return model


def same(first: scvi.SCVI, second: scvi.SCVI) -> bool:
    pairs = zip(first.module.state_dict().values(), second.module.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_auto_is_what_the_device_has_units_for(cells: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {precision: fitted(cells, precision=precision) for precision in ("float32", "bf16")}
    assert not same(*both.values())
    for there, precision in ((True, "bf16"), (False, "float32")):
        with_units(monkeypatch, there)
        model = fitted(cells, precision="auto")
        assert same(model, both[precision])
        assert model._fits[-1].get("precision", "float32") == precision  # a repeat is told which


def test_a_resumed_fit_in_bfloat16_is_an_uninterrupted_one(
    cells: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fitted(cells, precision="bf16")
    assert same(whole, fitted(cells, precision="bf16"))

    def crash(self: fit.Fit) -> bool:
        if self.loop.epoch == 2:
            raise RuntimeError("power cut")
        return end_epoch(self)

    end_epoch = fit.Fit.on_epoch_end
    monkeypatch.setattr(fit, "_STEPS_BETWEEN_SNAPSHOTS", 1)
    with_units(monkeypatch, True)
    with monkeypatch.context() as patch:
        patch.setattr(fit.Fit, "on_epoch_end", crash)
        with pytest.raises(RuntimeError, match="power cut"):
            fitted(cells, precision="auto", checkpoint_dir=tmp_path)
    assert checkpoint.precision_of_fit(tmp_path) == "bf16"
    with_units(monkeypatch, False)  # on another machine, which would have begun in float32
    resumed = fitted(cells, precision="auto", checkpoint_dir=tmp_path, resume=True)
    assert same(resumed, whole)
    assert resumed._fits[-1]["precision"] == "bf16"


def test_a_fit_that_began_in_bfloat16_is_refused_where_there_is_none(
    cells: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_units(monkeypatch, True)
    fitted(cells, precision="auto", checkpoint_dir=tmp_path)
    monkeypatch.setattr("scvi.fit.devices.bf16_is_supported", lambda device: False)
    with pytest.raises(ValueError, match="precision='bf16' is not supported by the device 'cpu'"):
        fitted(cells, precision="auto", checkpoint_dir=tmp_path, resume=True)
    with pytest.raises(ValueError, match="precision was 'bf16', is 'float32'"):
        fitted(cells, precision="float32", checkpoint_dir=tmp_path, resume=True)


def test_weights_that_a_callback_changes_are_those_of_the_next_step(cells: AnnData) -> None:
    """Also where torch does not see the change."""

    class Halve:
        def __init__(self, unseen: bool) -> None:
            self.unseen = unseen

        def on_epoch_end(self, training: object, _: object) -> None:
            for p in training.module.parameters():  # type: ignore[attr-defined]
                with torch.no_grad():
                    (p.data if self.unseen else p).mul_(0.5)

    seen, unseen = (fitted(cells, precision="bf16", callbacks=[Halve(unseen)]) for unseen in (False, True))
    assert same(seen, unseen)
    assert not same(seen, fitted(cells, precision="bf16"))


def test_a_fit_recovers_in_bfloat16(cells: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights go back, and their copies with them."""
    steps, take, make = [0], fit.Steps.take, fit.Fit.make_optimizer
    kept: list[LowWeights] = []

    def sometimes(self: fit.Steps, *args: object) -> bool:
        steps[0] += 1
        return steps[0] != 4 and take(self, *args)  # type: ignore[arg-type]

    def noted(self: fit.Fit) -> ClippedAdam:
        kept.append(self.objective.low)
        return make(self)

    monkeypatch.setattr(fit.Steps, "take", sometimes)
    monkeypatch.setattr(fit.Fit, "make_optimizer", noted)
    with pytest.warns(UserWarning, match="Recovered"):
        model = fitted(cells, precision="bf16")
    weights = list(model.module.parameters())
    large = [w for w, copy in zip(weights, kept[0].copies(weights), strict=True) if copy is not None]
    assert len(large) == 5  # two layers of the encoder, one of the decoder, two heads
    for w in large:
        assert torch.equal(kept[0].of(w), w.bfloat16())

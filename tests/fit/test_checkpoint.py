"""Checkpoint files: exact, replaced in one move, and never run."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from safetensors.torch import save_file
from torch import Tensor, nn

from scvi.cells.encode import encode
from scvi.cells.setup import declare
from scvi.fit import checkpoint
from scvi.fit.optimizer import ClippedAdam
from small_cells import make_adata

TENSORS = {"model/a": torch.arange(6.0).view(2, 3), "random/cpu": torch.arange(5, dtype=torch.uint8)}
STATE = {
    "identity": {"seed": 3, "lr": 0.1},
    "first_epoch": 3,
    "epochs_before": 0,
    "n_iter": 12,
    "steps_kept": 11,
    "kl_weight": 1.0,
    "lr_scale": 0.5,
    "recoveries": 1,
    "best_epoch": None,
    "stopping": [float("inf"), 0],
    "plateau": [1 / 3, 2],
    "history": {"elbo": [[0, 1.1], [1, 0.1 + 0.2]]},
}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) and first[name].dtype == second[name].dtype for name in first
    )


def test_round_trip(tmp_path: Path) -> None:
    checkpoint.write(tmp_path / "new" / "folder", TENSORS, STATE)
    tensors, state = checkpoint.read(tmp_path / "new" / "folder")
    assert same(tensors, TENSORS)
    assert state == STATE


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert checkpoint.read(tmp_path) is None
    assert checkpoint.read(tmp_path / "nowhere") is None


def test_tensors_that_share_memory(tmp_path: Path) -> None:
    weight = torch.arange(6.0)
    shared = {**TENSORS, "a": weight, "b": weight, "c": weight.view(2, 3).T}
    checkpoint.write(tmp_path, shared, STATE)
    tensors, _ = checkpoint.read(tmp_path)
    assert same(tensors, shared)


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.write(tmp_path, TENSORS, STATE)

    def half(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        path.write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_file", half)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.write(tmp_path, {}, {})
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.FILE_NAME]
    assert checkpoint.read(tmp_path)[1] == STATE


@pytest.mark.parametrize("length", [0, 1, 7, 8, 100, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, length: int) -> None:
    checkpoint.write(tmp_path, TENSORS, STATE)
    path = tmp_path / checkpoint.FILE_NAME
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"checkpoint.safetensors is no complete checkpoint.*remove it to start anew"):
        checkpoint.read(tmp_path)


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("harmed"),)


@pytest.mark.parametrize("kind", ["pickle", "torch", "json", "other tensors", "no state", "state that is no JSON"])
def test_a_foreign_file_is_refused_and_not_run(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / checkpoint.FILE_NAME
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Harmful()))
    elif kind == "torch":
        torch.save({"weights": Harmful()}, path)
    elif kind == "json":
        path.write_text(json.dumps(STATE))
    elif kind == "other tensors":
        save_file(TENSORS, path)
    elif kind == "no state":
        save_file(TENSORS, path, {"format": "scvi checkpoint 1"})
    else:
        save_file(TENSORS, path, {"format": "scvi checkpoint 1", "state": "{"})
    with pytest.raises(ValueError, match="no complete checkpoint"):
        checkpoint.read(tmp_path)
    assert not Path("harmed").exists()


@pytest.mark.parametrize("wrong", [*STATE, "seed", "random/cpu", "everything"])
def test_a_checkpoint_that_lacks_something_is_refused_by_name(tmp_path: Path, wrong: str) -> None:
    def write(tensors: dict[str, Tensor], state: Any) -> None:
        metadata = {"format": "scvi checkpoint 1", "state": json.dumps(state)}
        save_file(tensors, tmp_path / checkpoint.FILE_NAME, metadata)

    if wrong == "everything":
        write(TENSORS, [])
        message = "no mapping"
    elif wrong == "random/cpu":
        write({"model/a": TENSORS["model/a"]}, STATE)
        message = "it lacks, or holds in another form, random/"
    elif wrong == "seed":
        write(TENSORS, {**STATE, "identity": {"seed": "3"}})
        message = "in another form, seed"
    else:
        write(TENSORS, {name: value for name, value in STATE.items() if name != wrong})
        message = f"in another form, {wrong}"
    with pytest.raises(ValueError, match=rf"no complete checkpoint \(.*{message}\); remove it to start anew"):
        checkpoint.read(tmp_path)


@pytest.mark.parametrize("name", ["model/a", "best/a"])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, name: str) -> None:
    checkpoint.write(tmp_path, {**TENSORS, name: torch.tensor([0.0, torch.nan])}, STATE)
    with pytest.raises(
        ValueError, match=rf"no complete checkpoint \(its weights .*: 1 of 2 values of '{name}' are NaN"
    ):
        checkpoint.read(tmp_path)


def test_values_of_another_type_are_refused(tmp_path: Path) -> None:
    for name in STATE:
        checkpoint.write(tmp_path, TENSORS, {**STATE, name: "text"})
        with pytest.raises(ValueError, match=f"in another form, {name}"):
            checkpoint.read(tmp_path)


def test_names_under_a_prefix() -> None:
    flat = {**checkpoint.flatten("model", {"a/b": torch.ones(1)}), **checkpoint.flatten("best", {"a": torch.zeros(1)})}
    assert sorted(flat) == ["best/a", "model/a/b"]
    assert same(checkpoint.unflatten("model", flat), {"a/b": torch.ones(1)})
    assert same(checkpoint.unflatten("best", flat), {"a": torch.zeros(1)})
    assert checkpoint.unflatten("optimizer", flat) == {}


def test_an_optimiser_goes_on_exactly() -> None:
    def step(layer: nn.Linear, optimizer: ClippedAdam, seed: int) -> None:
        optimizer.forget_gradients()
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
        loss = layer(x).square().sum()
        loss.backward()
        optimizer.clipped_step(loss.detach())

    def make() -> tuple[nn.Linear, ClippedAdam]:
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        return layer, ClippedAdam(layer.parameters(), 0.1, 1e-8)

    layer, optimizer = make()
    for seed in range(3):
        step(layer, optimizer, seed)
    snapshot = checkpoint.Snapshot.of(layer, optimizer, 3)
    step(layer, optimizer, 3)

    again, its_optimizer = make()
    snapshot.restore(again, its_optimizer)
    step(again, its_optimizer, 3)
    assert same(again.state_dict(), layer.state_dict())
    assert same(its_optimizer.tensors(), optimizer.tensors())


def test_the_state_of_an_optimiser_is_what_torch_keeps() -> None:
    """So that checkpoints of earlier versions, whose optimiser was torch's, go on."""
    layer = nn.Linear(3, 2)
    theirs = torch.optim.Adam(layer.parameters(), fused=True)
    layer(torch.ones(1, 3)).sum().backward()
    theirs.step()
    state = theirs.state_dict()["state"]
    stored = {f"{i}.{name}": value for i, values in state.items() for name, value in values.items()}
    ours = ClippedAdam(layer.parameters(), 0.1, 1e-8)
    ours.load(stored)
    assert same(ours.tensors(), stored)


def test_the_state_of_other_parameters_is_refused() -> None:
    stored = ClippedAdam(nn.Linear(3, 2).parameters(), 0.1, 1e-8).tensors()
    for other in (nn.Linear(4, 2), nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), nn.Linear(3, 2, bias=False)):
        with pytest.raises(ValueError, match=r"of other parameters: [0-3]"):
            ClippedAdam(other.parameters(), 0.1, 1e-8).load(stored)


@pytest.mark.parametrize("changed", ["counts", "cells", "genes", "batch", "age", "size"])
def test_the_digest_of_data_sees_changes(changed: str) -> None:
    def digest(adata: AnnData) -> str:
        schema, *_ = declare(adata, batch_key="batch", continuous_covariate_keys=["age"], size_factor_key="size")
        return checkpoint.digest_of_data(encode(adata, schema))

    adata = make_adata()
    before = digest(adata)
    assert before == digest(make_adata())
    if changed == "counts":
        adata.X.data[0] += 1
    elif changed == "cells":
        adata.obs_names = adata.obs_names[::-1]
    elif changed == "genes":
        adata.var_names = adata.var_names[::-1]
    else:
        adata.obs[changed] = adata.obs[changed].to_numpy()[::-1]
    assert digest(adata) != before


def test_digests_keep_arrays_apart() -> None:
    a, b = np.array([1, 2]), np.array([3])
    assert checkpoint.digest(a, b) != checkpoint.digest(np.array([1, 2, 3]))
    assert checkpoint.digest(a, None) != checkpoint.digest(None, a)
    assert checkpoint.digest(a[::-1]) != checkpoint.digest(a)


def test_the_state_of_a_generator() -> None:
    first, second = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    torch.rand(7, generator=first)
    kept = checkpoint.random_state(first)
    expected = torch.rand(5, generator=first)
    checkpoint.set_random_state(kept, second)
    assert torch.equal(torch.rand(5, generator=second), expected)


def test_a_fit_that_goes_on_elsewhere_says_that_its_numbers_are_others(caplog: pytest.LogCaptureFixture) -> None:
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    checkpoint.set_random_state({"random/cuda": torch.zeros(16, dtype=torch.uint8)}, generator)
    assert torch.equal(generator.get_state(), before)
    assert "written on another device (cuda): on this one (cpu)" in caplog.text

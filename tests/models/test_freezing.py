"""A network made wider: old columns in their places, new ones the mean of the old, everything else refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from scvi.models.freezing import Freeze, scope_of, widen
from scvi.models.layers import FCLayers
from scvi.models.vae import VAE


class Net(nn.Module):
    """Two layers that see three covariates and a continuous one, and a table by category."""

    def __init__(self, n_cats: list[int]) -> None:
        super().__init__()
        self.encoder = FCLayers(5, 4, n_cats, n_layers=2, n_hidden=6, n_cont=1)
        self.table = nn.Parameter(torch.randn(3, n_cats[0]))
        self.register_buffer("prior", torch.randn(2, n_cats[0]))


def test_columns_keep_their_meaning_between_other_columns() -> None:
    old, new = Net([2, 1, 3]), Net([4, 2, 3])
    masks = widen(old, new)
    x, cont = torch.randn(7, 5), torch.randn(7, 1)
    codes = [torch.randint(2, (7, 1)), torch.zeros(7, 1, dtype=torch.long), torch.randint(3, (7, 1))]
    old.eval()
    new.eval()
    torch.testing.assert_close(new.encoder(x, *codes, cont=cont), old.encoder(x, *codes, cont=cont))
    first = "encoder.fc_layers.Layer 0.0.weight"
    assert set(masks) == {first, "encoder.fc_layers.Layer 1.0.weight", "table"}
    assert masks[first].nonzero()[:, 0].tolist() == [5 + 2, 5 + 3, 5 + 4 + 1]
    weight, before = new.state_dict()[first], old.state_dict()[first]
    torch.testing.assert_close(weight[:, 7], before[:, 5:7].mean(1))
    assert not weight[:, 9:11].any()
    assert masks["table"].tolist() == [False, False, True, True]
    for name in ("table", "prior"):
        was, is_now = getattr(old, name), getattr(new, name)
        assert torch.equal(is_now[:, :2], was)
        torch.testing.assert_close(is_now[:, 2:], was.mean(1, keepdim=True).expand(-1, 2))


def test_other_differences_are_refused() -> None:
    with pytest.raises(ValueError, match=r"different parts: .*l_encoder"):
        widen(VAE(5, 2), VAE(5, 2, use_observed_lib_size=True))
    with pytest.raises(ValueError, match=r"px_r of shape \(5,\) cannot be made one of shape \(4,\)"):
        widen(VAE(5, 2), VAE(4, 2))


def test_scopes_tell_what_they_hold() -> None:
    old, new = VAE(5, 2, encode_covariates=True), VAE(5, 3, encode_covariates=True)
    masks = widen(old, new)
    scope = scope_of(new, masks, Freeze())
    assert scope.reaches("encoder")
    assert scope.describe()["z_encoder.encoder.fc_layers.Layer 0.0.weight"] == "[7]"
    assert "decoder.px_decoder.fc_layers.Layer 0.1" in scope.resting
    everything = scope_of(new, masks, Freeze(dropout=True, nothing=True))
    assert everything.trained.keys() == dict(new.named_parameters()).keys()
    assert all("Layer 0.3" in name for name in everything.resting)
    blind = VAE(5, 3)
    assert not scope_of(blind, widen(VAE(5, 2), blind), Freeze()).reaches("encoder")


def test_a_classifier_is_a_part_of_its_own() -> None:
    class Labelled(VAE):
        def __init__(self, n_batch: int) -> None:
            super().__init__(5, n_batch)
            self.classifier = FCLayers(10, 3)

    old, new = Labelled(2), Labelled(3)
    masks = widen(old, new)
    assert not scope_of(new, masks, Freeze()).reaches("classifier")
    scope = scope_of(new, masks, Freeze(classifier=False))
    whole = {name for name, mask in scope.trained.items() if mask.dim() == 0}
    assert whole == {name for name in dict(new.named_parameters()) if name.startswith("classifier")}
    assert "classifier.fc_layers.Layer 0.1" not in scope.resting

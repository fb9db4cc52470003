"""Options of networks at the AnnData door: fitted, saved, minified, mapped onto; files from before they were there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anndata import AnnData
from sklearn.neighbors import KNeighborsClassifier

import scvi
from asking import ESTIMATORS, make, options_of, same, set_up
from scvi.estimators.base import Estimator
from small_cells import KEYS, QUICK, TINY, G, N, make_adata

CLASSES = [cls for cls in ESTIMATORS if hasattr(cls, "get_batch_representation")]
OPTIONS: dict[str, dict[str, Any]] = {
    "layer norm": {"use_layer_norm": "both", "use_batch_norm": "none", "encode_covariates": True},
    "both norms": {"use_layer_norm": "encoder", "use_batch_norm": "both"},
    "no norm": {"use_batch_norm": "none", "use_observed_lib_size": False},
    "shallow": {"deeply_inject_covariates": False, "n_layers": 2, "encode_covariates": True},
    "variances": {"var_activation": "softplus", "log_variational": False, "use_batch_norm": "decoder"},
}
OPTIONS |= {
    "embedding": {"batch_representation": "embedding", "encode_covariates": True},
    "wide embedding": {"batch_representation": "embedding", "batch_embedding_kwargs": {"embedding_dim": 7}},
    "positive numbers": {"scale_activation": "softplus", "use_observed_lib_size": False},
}
NEW = (
    "deeply_inject_covariates",
    "use_batch_norm",
    "use_layer_norm",
    "log_variational",
    "var_activation",
    "batch_representation",
    "batch_embedding_kwargs",
)
KEYS_WITHOUT_SIZES = {name: key for name, key in KEYS.items() if name != "size_factor_key"}


@pytest.fixture(scope="module", params=CLASSES, ids=lambda cls: cls.__name__)
def cls(request: pytest.FixtureRequest) -> type[Estimator]:
    return request.param


def known_to(cls: type[Estimator], options: dict[str, Any]) -> dict[str, Any]:
    """The linear decoder has no layer norm; three have frequencies in any case."""
    if "scale_activation" not in cls._defaults():
        options = {name: value for name, value in options.items() if name != "scale_activation"}
    if cls is scvi.LinearSCVI and options.get("use_layer_norm") == "both":
        return {**options, "use_layer_norm": "encoder"}
    return options


def fitted(cls: type[Estimator], **options: Any) -> Any:
    adata = make_adata()
    model = make(cls, adata, KEYS_WITHOUT_SIZES, **known_to(cls, options))
    model.train(**QUICK)
    return model


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_each_option_is_fitted_saved_and_kept_of_minified_cells(
    cls: type[Estimator], options: dict[str, Any], tmp_path: Path
) -> None:
    model = fitted(cls, **options)
    assert model.history["elbo_train"].iloc[-1, 0] < model.history["elbo_train"].iloc[0, 0]
    model.save(tmp_path / "model")
    loaded: Any = cls.load(tmp_path / "model", model.adata)
    assert loaded.options == model.options
    wanted = options_of(cls, known_to(cls, options))
    assert {name: loaded.options[name] for name in wanted} == wanted
    latent = model.get_latent_representation()
    assert np.array_equal(loaded.get_latent_representation(), latent)
    loaded.train(**QUICK)
    loaded = cls.load(tmp_path / "model", model.adata)
    loaded.minify_adata()
    np.testing.assert_allclose(loaded.get_latent_representation(), latent, rtol=1e-6)


def test_files_of_before_have_the_defaults(cls: type[Estimator], tmp_path: Path) -> None:
    model = fitted(cls)
    model.save(tmp_path / "model")
    file = tmp_path / "model" / "model.json"
    description = json.loads(file.read_text())
    former = [name for name in NEW if not (cls is scvi.LinearSCVI and name == "use_batch_norm")]
    assert set(former) <= set(description["options"])
    for name in former:
        del description["options"][name]
    file.write_text(json.dumps({**description, "format": 2}))
    loaded: Any = cls.load(tmp_path / "model", model.adata)
    assert loaded.options == model.options
    assert np.array_equal(loaded.get_latent_representation(), model.get_latent_representation())
    file.write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"missing or unknown options: .*var_activation"):
        cls.load(tmp_path / "model", model.adata)


def test_functions_are_saved_by_name(cls: type[Estimator], tmp_path: Path) -> None:
    model = fitted(cls, var_activation=torch.nn.functional.softplus)
    model.save(tmp_path / "model")
    loaded: Any = cls.load(tmp_path / "model", model.adata)
    assert loaded.options["var_activation"] == "softplus"
    assert np.array_equal(loaded.get_latent_representation(), model.get_latent_representation())


def test_what_no_file_could_hold_is_refused_before_the_fit(cls: type[Estimator]) -> None:
    with pytest.raises(ValueError, match="no function that a saved model could name: pass one of 'exp'"):
        make(cls, make_adata(), var_activation=lambda a: a.exp() + 1)


def test_size_factors_are_the_library_sizes_whatever_is_said_of_them(cls: type[Estimator], tmp_path: Path) -> None:
    adata = make_adata()
    set_up(cls, adata, batch_key="batch", size_factor_key="size")
    options = options_of(cls, {**TINY, "use_observed_lib_size": False})
    with pytest.warns(UserWarning, match="size_factor_key='size' gives them: the size factors are taken"):
        model: Any = cls(adata, **options)  # type: ignore[call-arg]
    model.train(**QUICK)
    sizes = model.get_latent_library_size()[:, 0] / adata.obs["size"].to_numpy()
    np.testing.assert_allclose(sizes, sizes[0], rtol=1e-5)
    same_model: Any = cls(adata, **{**options, "use_observed_lib_size": True})  # type: ignore[call-arg]
    same_model.train(**QUICK)
    assert same(model.module.state_dict(), same_model.module.state_dict())
    model.save(tmp_path / "model")
    loaded: Any = cls.load(tmp_path / "model", adata)  # without a warning
    assert np.array_equal(loaded.get_latent_library_size(), model.get_latent_library_size())


def test_what_stands_for_the_batches(cls: type[Estimator]) -> None:
    model = fitted(cls, batch_representation="embedding", batch_embedding_kwargs={"embedding_dim": np.int64(2)})
    codes = model.adata.obs["batch"].cat.codes.to_numpy()
    before = model.module.embeddings_dict["batch"].weight.detach().numpy().copy()
    assert before.shape == (3, 2)
    assert np.array_equal(model.get_batch_representation(), before[codes])
    assert np.array_equal(model.get_batch_representation(indices=[5, 1], batch_size=1), before[codes[[5, 1]]])
    model.train(**QUICK)
    assert (model.module.embeddings_dict["batch"].weight.detach().numpy() != before).all()
    if cls is not scvi.TOTALVI:
        model.minify_adata()
    assert model.get_batch_representation().shape == (N, 2)
    assert np.array_equal(fitted(cls).get_batch_representation(), np.eye(3)[codes])


def test_scanvi_takes_over_the_architecture_of_scvi() -> None:
    first = fitted(scvi.SCVI, **OPTIONS["layer norm"], n_layers=2)
    model = scvi.SCANVI.from_scvi_model(first, "Unknown", labels_key="cell_type", seed=0)
    assert model.options["use_layer_norm"] == "both"
    norms = [type(module) for module in model.module.modules()]
    assert torch.nn.BatchNorm1d not in norms
    model.train(**QUICK)
    assert model.predict(soft=True).shape == (N, 3)


def test_the_linear_model_says_how_many_factors_it_has() -> None:
    model = fitted(scvi.LinearSCVI, n_latent=4)
    assert model.n_latent == 4
    assert model.get_loadings().shape == (G, model.n_latent)


# ---- as scripts of scArches do it ------------------------------------------------------------------------------------


def halves(adata: AnnData, batch: str) -> tuple[AnnData, AnnData]:
    is_query = (adata.obs["batch"] == batch).to_numpy()
    return adata[~is_query].copy(), adata[is_query].copy()


@pytest.mark.slow
@pytest.mark.parametrize("cls_of_real_cells", [scvi.SCVI, scvi.SCANVI], ids=lambda cls: cls.__name__)
def test_real_cells_are_mapped_onto_a_reference_with_layer_norm(
    cls_of_real_cells: type[Any], mixology: AnnData
) -> None:
    """Four batches of five cell lines are fitted, the fifth is mapped."""
    cells, query = halves(mixology, "sc_dropseq")
    arches = {"use_layer_norm": "both", "use_batch_norm": "none", "encode_covariates": True, "n_layers": 2}
    labels = {"labels_key": "cell_type", "unlabeled_category": "Unknown"} if cls_of_real_cells is scvi.SCANVI else {}
    cls_of_real_cells.setup_anndata(cells, batch_key="batch", **labels)
    reference = cls_of_real_cells(cells, dropout_rate=0.2, seed=0, **arches)
    reference.train(max_epochs=30, seed=0, enable_progress_bar=False)
    expected = reference.get_latent_representation()
    query.obs["truth"], query.obs["cell_type"] = query.obs["cell_type"].astype(str), "Unknown"
    mapped = cls_of_real_cells.load_query_data(query, reference)
    mapped.train(max_epochs=30, seed=0, enable_progress_bar=False, weight_decay=0.0)
    latent = mapped.get_latent_representation(cells)
    np.testing.assert_allclose(latent, expected, atol=1e-5)
    vote = KNeighborsClassifier(15).fit(latent, cells.obs["cell_type"])
    assert vote.score(mapped.get_latent_representation(), query.obs["truth"]) >= 0.95
    if cls_of_real_cells is scvi.SCANVI:
        assert (mapped.predict() == query.obs["truth"].to_numpy()).mean() >= 0.95

"""Models of scvi-tools answer here what they answered there, and nothing of their files is run."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import scvi
from foreign_files import Foreign, answers_of_scvi, answers_of_totalvi, of_mudata, scvi_like, totalvi
from small_cells import make_adata

COVARIATES = {"categorical_covariate_keys": ["donor", "treated"], "continuous_covariate_keys": ["age", "score"]}


@torch.no_grad()
def answers(model: Any, adata: Any = None) -> dict[str, torch.Tensor]:
    """What the model says at the mean of q(z | x)."""
    mean, variance = map(torch.from_numpy, model.get_latent_representation(adata, return_dist=True))
    parts = []
    for mb in model._ask(adata, None, 64, needs_counts=False):
        q = model.module.latent(mb)
        parts.append(model.module.generative(q.z.loc, q.mean_size(mb), mb).genes)
    found = {"mean": mean, "variance": variance, "scale": torch.cat([genes.scale for genes in parts])}
    found["rate"] = torch.cat([genes.rate for genes in parts])
    if parts[0].dropout is not None:
        found["dropout"] = torch.cat([genes.dropout_logits for genes in parts])
    found["log_theta"] = torch.cat([genes.log_theta.expand_as(genes.scale) for genes in parts])
    return found


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], but: tuple[str, ...] = ()) -> None:
    for name, value in expected.items():
        if name in found and name not in but:
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)


@settings(max_examples=8, deadline=None)
@given(
    keys=st.fixed_dictionaries(
        {
            "batch_key": st.sampled_from([None, "batch", "treated"]),
            "labels_key": st.just("cell_type"),
            "categorical_covariate_keys": st.sampled_from([None, ["donor"], ["donor", "treated"]]),
            "continuous_covariate_keys": st.sampled_from([None, ["age"], ["age", "score"]]),
        }
    ),
    options=st.fixed_dictionaries(
        {
            "gene_likelihood": st.sampled_from(["zinb", "nb"]),
            "dispersion": st.sampled_from(["gene", "gene-batch", "gene-label", "gene-cell"]),
            "latent_distribution": st.sampled_from(["normal", "ln"]),
            "encode_covariates": st.booleans(),
            "deeply_inject_covariates": st.booleans(),
            "use_batch_norm": st.sampled_from(["both", "none"]),
            "use_layer_norm": st.sampled_from(["both", "none"]),
            "batch_representation": st.sampled_from(["one-hot", "embedding"]),
            "var_activation": st.none(),
        }
    ),
    n_layers=st.integers(1, 3),
)
def test_any_scvi_answers_as_there(keys, options, n_layers, tmp_path_factory):
    adata = make_adata(60)
    foreign = scvi_like(Foreign("SCVI", adata, options, keys, n_layers=n_layers))
    model = scvi.SCVI.load(foreign.write(tmp_path_factory.mktemp("model")), adata)
    but = ("mean",) if options["latent_distribution"] == "ln" else ()  # which is given as the mean on the simplex
    same(answers(model), answers_of_scvi(foreign), but)


def loaded(tmp_path: Path, kind: str = "SCVI", keys: Any = None, **options: Any) -> tuple[Foreign, Any]:
    adata = make_adata(60)
    keys = {"batch_key": "batch"} if keys is None else keys
    foreign = scvi_like(Foreign(kind, adata, options, keys))
    return foreign, getattr(scvi, kind).load(foreign.write(tmp_path / "model"), adata)


def test_what_was_declared_fitted_and_split_comes_along(tmp_path):
    foreign, model = loaded(tmp_path, keys={"batch_key": "batch", "labels_key": "cell_type", **COVARIATES})
    assert model.is_trained
    assert model.history["elbo_train"]["elbo_train"].tolist() == [3.0, 2.0, 1.5]
    assert model.history["elbo_train"].index.name == "epoch"
    assert model.train_indices.tolist() == list(range(58, -1, -1))
    assert model.validation_indices.tolist() == [59]
    assert model.schema.genes == tuple(foreign.adata.var_names)
    assert model.schema.categories == {
        "batch": ("b0", "b1", "b2"),
        "cell_type": ("t0", "t1", "t2"),
        "donor": ("0", "1", "2", "3"),
        "treated": ("False", "True"),
    }
    assert model.schema.total_extent is None
    assert model.schema.continuous_moments == ((0.0, 1.0), (0.0, 1.0))


@pytest.mark.parametrize("likelihood", ["zinb", "nb", "poisson"])
def test_size_factors_multiply_positive_numbers(likelihood, tmp_path):
    """Their decoder gives numbers of any sum then; the expected frequencies are these over their sum."""
    keys = {"batch_key": "batch", "size_factor_key": "size", **COVARIATES}
    foreign, model = loaded(tmp_path, keys=keys, gene_likelihood=likelihood)
    expected = answers_of_scvi(foreign)
    same(answers(model), expected)
    np.testing.assert_allclose(model.get_latent_library_size()[:, 0], foreign.adata.obs["size"], rtol=1e-5)
    rate, scale = (model.get_normalized_expression(library_size=size, seed=0) for size in ("latent", 1))
    np.testing.assert_allclose(scale.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(rate.div(rate.sum(axis=1), axis=0), scale, rtol=1e-4)
    total = (rate.sum(axis=1) / foreign.adata.obs["size"]).to_numpy()
    assert (total > 5).all()  # forty numbers of about ln 2, at draws
    scvi.convert(tmp_path / "model", tmp_path / "new")
    new = scvi.SCVI.load(tmp_path / "new", foreign.adata)
    assert new.options["scale_activation"] == "softplus"
    same(answers(new), expected)
    new.minify_adata()
    same(answers(new), expected)
    model.train(max_epochs=1, batch_size=32, seed=0, enable_progress_bar=False)
    assert np.isfinite(model.get_elbo())


def test_size_factors_of_what_has_none_there(tmp_path):
    foreign = scvi_like(Foreign("AUTOZI", make_adata(60), {}, {"size_factor_key": "size"}))
    with pytest.raises(ValueError, match=r"size_factor_key='size', of which scvi\.AUTOZI makes something else"):
        scvi.AUTOZI.load(foreign.write(tmp_path / "model"), foreign.adata)


def test_other_cells_are_mapped_by_gene_names_and_find_no_split(tmp_path):
    foreign, model = loaded(tmp_path)
    other = make_adata(60)[:20, ::-1].copy()
    same({"mean": answers(model, other)["mean"]}, {"mean": answers_of_scvi(foreign)["mean"][:20]})
    model = scvi.SCVI.load(tmp_path / "model", other)
    assert model.train_indices is None


def test_converted_and_saved_it_answers_the_same(tmp_path):
    foreign, model = loaded(tmp_path)
    scvi.convert(tmp_path / "model", tmp_path / "new")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"weights.safetensors", "model.json"}
    same(answers(scvi.SCVI.load(tmp_path / "new", foreign.adata)), answers(model))
    model.save(tmp_path / "saved", save_anndata=True)
    again = scvi.SCVI.load(tmp_path / "saved")
    same(answers(again), answers(model))
    assert again.train_indices.tolist() == model.train_indices.tolist()
    with pytest.raises(FileExistsError):
        scvi.convert(tmp_path / "model", tmp_path / "new")
    scvi.convert(tmp_path / "model", tmp_path / "new", overwrite=True)
    with pytest.raises(FileNotFoundError, match="holds no model of scvi-tools"):
        scvi.convert(tmp_path / "new", tmp_path / "newer")


def test_it_trains_on_and_maps_a_query(tmp_path):
    _, model = loaded(tmp_path, n_hidden=8)
    model.train(max_epochs=1, batch_size=32, seed=0, enable_progress_bar=False)
    query = make_adata(30, seed=1)
    query.obs["batch"] = "new"
    for reference in (model, tmp_path / "model"):
        with pytest.warns(UserWarning, match="encode_covariates=False"):
            mapped = scvi.SCVI.load_query_data(query, reference)
        assert mapped.schema.batch_names == ("b0", "b1", "b2", "new")


def test_files_with_a_prefix_and_cells_beside_them(tmp_path):
    adata = make_adata(60)
    foreign = scvi_like(Foreign("SCVI", adata, keys={"batch_key": "batch"}))
    foreign.write(tmp_path / "model", "my_")
    adata.write_h5ad(tmp_path / "model" / "my_adata.h5ad")
    same(answers(scvi.SCVI.load(tmp_path / "model", prefix="my_")), answers_of_scvi(foreign))
    scvi.convert(tmp_path / "model", tmp_path / "new", prefix="my_")
    same(answers(scvi.SCVI.load(tmp_path / "new")), answers_of_scvi(foreign))
    with pytest.raises(FileNotFoundError, match="prefix='my_'"):
        scvi.SCVI.load(tmp_path / "model")


def test_a_layer(tmp_path):
    adata = make_adata(60)
    foreign = scvi_like(Foreign("SCVI", adata.copy(), keys={"layer": "counts"}))
    adata.layers["counts"], adata.X = adata.X, None
    same(answers(scvi.SCVI.load(foreign.write(tmp_path / "model"), adata)), answers_of_scvi(foreign))


@pytest.mark.parametrize("batch_norm", ["both", "none"])
def test_linear_models_infer_the_library_size(batch_norm, tmp_path):
    adata = make_adata(60)
    foreign = scvi_like(Foreign("LinearSCVI", adata, {"gene_likelihood": "nb"}, {"batch_key": "batch"}))
    if batch_norm == "none":
        for name in [name for name in foreign.weights if name.startswith("decoder") and ".1." in name]:
            del foreign.weights[name]
    model = scvi.LinearSCVI.load(foreign.write(tmp_path / "model"), adata)
    same(answers(model), answers_of_scvi(foreign))
    size, _ = foreign.gaussian("l_encoder", foreign.counts().log1p(), foreign.one_hot()[:, :0])
    np.testing.assert_allclose(np.log(model.get_latent_library_size()), size, rtol=1e-4, atol=1e-5)
    means, variances = foreign.weights["library_log_means"], foreign.weights["library_log_vars"]
    prior = torch.stack([means[0], variances[0]], dim=1)
    np.testing.assert_allclose(model.schema.library_prior, prior)
    weights = foreign.weights["decoder.factor_regressor.fc_layers.Layer 0.0.weight"][:, :3]
    if batch_norm == "both":
        norm = "decoder.factor_regressor.fc_layers.Layer 0.1"
        deviation = (foreign.weights[f"{norm}.running_var"] + 0.001).sqrt()
        weights = weights * (foreign.weights[f"{norm}.weight"] / deviation)[:, None]
    np.testing.assert_allclose(model.get_loadings(), weights, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("is_linear", "sizes"), [(True, None), (False, None), (False, "size")])
def test_scanvi_predicts_as_there(is_linear, sizes, tmp_path):
    adata = make_adata(60)
    adata.obs["known"] = np.where(np.arange(60) % 3 == 0, "Alien", adata.obs["cell_type"])  # sorted it would come first
    keys = {"batch_key": "batch", "labels_key": "known", "size_factor_key": sizes}
    foreign = scvi_like(Foreign("SCANVI", adata, {"linear_classifier": is_linear}, keys, unlabeled="Alien"))
    if is_linear:
        foreign.linear("classifier.classifier.0", 3, 3)
    else:
        foreign.layers("classifier.classifier.0", 3, 8, 0)
        foreign.linear("classifier.classifier.1", 8, 3)
    foreign.encoder("encoder_z2_z1", 3, 3, 3, 1)
    foreign.layers("decoder_z1_z2.decoder", 3, 8, 3)
    for name in ("mean_decoder", "var_decoder"):
        foreign.linear(f"decoder_z1_z2.{name}", 8, 3)
    foreign.weights["y_prior"] = torch.full((1, 3), 1 / 3)
    model = scvi.SCANVI.load(foreign.write(tmp_path / "model"), adata)
    same(answers(model), answers_of_scvi(foreign))
    mean = answers_of_scvi(foreign)["mean"]
    hidden = mean if is_linear else foreign.through("classifier.classifier.0", mean, mean[:, :0])
    expected = torch.softmax(foreign.head(f"classifier.classifier.{0 if is_linear else 1}", hidden), dim=1)
    soft = model.predict(soft=True)
    assert soft.columns.tolist() == ["t0", "t1", "t2"]
    np.testing.assert_allclose(soft, expected, rtol=1e-4, atol=1e-6)
    assert model.schema.unlabeled_category == "Alien"
    np.testing.assert_array_equal(model._cells.data.labels < 0, adata.obs["known"] == "Alien")


def test_autozi_has_the_same_posteriors(tmp_path):
    adata = make_adata(60)
    foreign = scvi_like(Foreign("AUTOZI", adata, {"minimal_dropout": 0.02}, {"batch_key": "batch"}))
    for name in ("alpha", "beta"):
        foreign.weights[f"{name}_posterior_logit"] = foreign.draw(40)
        foreign.weights[f"{name}_prior_logit"] = torch.zeros(1)
    model = scvi.AUTOZI.load(foreign.write(tmp_path / "model"), adata)
    same(answers(model), answers_of_scvi(foreign), but=("dropout",))  # which the mixture changes
    for name, found in model.get_alphas_betas().items():
        np.testing.assert_allclose(found, torch.sigmoid(foreign.weights[f"{name}_logit"]), rtol=1e-5)
    assert model.options["minimal_dropout"] == 0.02


@pytest.mark.parametrize("keys", [{"batch_key": "batch", **COVARIATES}, {"batch_key": "batch"}, {}])
@pytest.mark.parametrize("has_efficiency", [True, False])
def test_totalvi_answers_as_there(keys, has_efficiency, tmp_path):
    """With the efficiency of batches the encoder sees relative counts, without it, as until 1.3, logarithms alone."""
    adata = make_adata(60)
    foreign = totalvi(Foreign("TOTALVI", adata, keys=keys), has_efficiency)
    model = scvi.TOTALVI.load(foreign.write(tmp_path / "model"), adata)
    expected = answers_of_totalvi(foreign)
    found = answers(model)
    same(found, {name: expected[name] for name in ("mean", "variance", "scale")})
    with torch.no_grad():
        (mb,) = model._ask(None, None, 64)
        q = model.module.latent(mb)
        proteins = model.module.generative(q.z.loc, q.mean_size(mb), mb).proteins
        prior = model.module.background_prior(mb)
    of_proteins = {"background": proteins.log_background.loc, "deviation": proteins.log_background.scale}
    of_proteins |= {"fore_scale": proteins.log_factor.exp(), "mixing": proteins.mixing, "prior": prior.loc}
    same(of_proteins, expected)
    assert model.schema.proteins.names == tuple(adata.obsm["proteins"].columns)
    scvi.convert(tmp_path / "model", tmp_path / "new")
    same(answers(scvi.TOTALVI.load(tmp_path / "new", adata)), found)


@pytest.mark.parametrize("elsewhere", [{}, {"batch": "adt"}, {"batch": None}], ids=["rna", "proteins", "mudata"])
@pytest.mark.parametrize("keys", [{"batch_key": "batch", **COVARIATES}, {"batch_key": "batch"}], ids=len)
def test_totalvi_of_a_mudata(keys, elsewhere, tmp_path):
    with mudata.set_options(pull_on_update=False):
        foreign = totalvi(Foreign("TOTALVI", make_adata(60), keys=keys), True)
        content, mdata = of_mudata(foreign, elsewhere)
        foreign.write(tmp_path / "model", "my_", content)
        model = scvi.TOTALVI.load(tmp_path / "model", mdata, prefix="my_")
        expected = {name: answers_of_totalvi(foreign)[name] for name in ("mean", "variance", "scale")}
        same(answers(model), expected)
        assert model.mdata is mdata
        assert model.train_indices.tolist() == list(range(58, -1, -1))
        mdata.write_h5mu(tmp_path / "model" / "my_mdata.h5mu")  # as that package saves it
        scvi.convert(tmp_path / "model", tmp_path / "new", prefix="my_")
        for again in (scvi.TOTALVI.load(tmp_path / "new"), scvi.TOTALVI.load(tmp_path / "model", prefix="my_")):
            assert isinstance(again.mdata, mudata.MuData)
            same(answers(again), expected)
            again.minify_mudata()
            same(answers(again), expected)


def test_a_mudata_that_was_minified_there(tmp_path):
    with mudata.set_options(pull_on_update=False):
        foreign = totalvi(Foreign("TOTALVI", make_adata(60), keys={"batch_key": "batch"}), True)
        content, mdata = of_mudata(foreign)
        foreign.write(tmp_path / "model", "", content)
        model = scvi.TOTALVI.load(tmp_path / "model", mdata)
        wanted = answers(model)
        mdata.obsm["X_latent_qzm"], mdata.obsm["X_latent_qzv"] = model.get_latent_representation(return_dist=True)
        mdata.obs["observed_lib_size"] = np.ravel(mdata.mod["gex"].X.sum(axis=1))
        mdata.uns["_scvi_adata_minify_type"] = "latent_posterior_parameters"
        for modality in mdata.mod.values():
            modality.X = sparse.csr_matrix(modality.shape, dtype=np.float32)
            modality.layers.clear()
        small = scvi.TOTALVI.load(tmp_path / "model", mdata)
        assert small.minified_data_type == "latent_posterior_parameters"
        same(answers(small), wanted)
        del mdata.obs["observed_lib_size"]
        with pytest.raises(ValueError, match="has no 'observed_lib_size'"):
            scvi.TOTALVI.load(tmp_path / "model", mdata)


def test_a_mudata_whose_modality_is_not_known_is_named(tmp_path):
    with mudata.set_options(pull_on_update=False):
        foreign = totalvi(Foreign("TOTALVI", make_adata(60), keys={"batch_key": "batch"}), False)
        content, mdata = of_mudata(foreign)
        foreign.write(tmp_path / "model", "", content)
        with pytest.raises(KeyError, match="'gex' is not a modality of mdata"):
            scvi.TOTALVI.load(tmp_path / "model", mudata.MuData({"rna": mdata.mod["gex"], "adt": mdata.mod["adt"]}))
        del content["attr_dict"]["registry_"]["field_registries"]["X"]["data_registry"]["mod_key"]
        with pytest.raises(ValueError, match="is not read: there is no 'mod_key'"):
            scvi.TOTALVI.load(foreign.write(tmp_path / "other", "", content), mdata)


def test_proteins_that_a_batch_did_not_measure(tmp_path):
    adata = make_adata(60)
    foreign = totalvi(Foreign("TOTALVI", adata, keys={"batch_key": "batch"}), True)
    content = foreign.content()
    state = content["attr_dict"]["registry_"]["field_registries"]["proteins"]["state_registry"]
    state["protein_batch_mask"] = {"1": np.array([True, False, True, True, False])}
    model = scvi.TOTALVI.load(foreign.write(tmp_path / "model", content=content), adata)
    assert model.schema.proteins.measured[0] == (True,) * 5
    assert model.schema.proteins.measured[1] == (True, False, True, True, False)


def test_totalvi_with_its_options_starts_and_trains():
    """These options are for any model: the background starts where the data say, whatever makes its deviation."""
    adata = make_adata(60)
    scvi.TOTALVI.setup_anndata(adata, "proteins", batch_key="batch")
    options = {"encoder_branches": False, "relative_counts": True, "use_observed_lib_size": False}
    models = [scvi.TOTALVI(adata, background_deviation=name, seed=0, **options) for name in ("exp", "softplus")]
    deviations = []
    for model in models:
        model.train(max_epochs=1, batch_size=64, plan_kwargs={"lr": 1e-12}, seed=0, enable_progress_bar=False)
        with torch.no_grad():
            decoder = model.module.decoder
            raw = decoder.py_back_mean_log_beta.fc_layers[0][0].bias
            deviations.append(decoder._deviation(raw))
    torch.testing.assert_close(deviations[0], deviations[1], rtol=1e-4, atol=1e-4)
    assert not any("z_encoder." in name for name in models[0].module.state_dict())


@pytest.mark.parametrize("beside", [True, False])
def test_minified_cells(beside, tmp_path):
    """Their posterior and totals are what the model answers with."""
    foreign = scvi_like(Foreign("SCVI", make_adata(60), keys={"batch_key": "batch"}))
    expected, total = answers_of_scvi(foreign), foreign.counts().sum(1)
    cells = foreign.adata.copy()
    cells.X = cells.X * 0
    cells.X.eliminate_zeros()
    cells.obs["observed_lib_size"] = total.numpy()
    cells.obsm["scvi_latent_qzm"] = expected["mean"].numpy()
    cells.obsm["X_latent_qzv"] = expected["variance"].numpy()
    cells.uns["_scvi_adata_minify_type"] = "latent_posterior_parameters"
    foreign.write(tmp_path / "model")
    if beside:
        cells.write_h5ad(tmp_path / "model" / "adata.h5ad")
    model = scvi.SCVI.load(tmp_path / "model", None if beside else cells)
    same(answers(model), expected)
    np.testing.assert_allclose(model.get_latent_library_size()[:, 0], total, rtol=1e-5)
    with pytest.raises(ValueError, match="minified"):
        model.get_elbo()
    model.save(tmp_path / "saved", save_anndata=True)
    same(answers(scvi.SCVI.load(tmp_path / "saved")), expected)
    del cells.obsm["X_latent_qzv"]
    with pytest.raises(ValueError, match="X_latent_qzv"):
        scvi.SCVI.load(tmp_path / "model", cells)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"use_layer_norm": "sideways"}, "use_layer_norm='sideways'"),
        ({"extra_payload": 3}, "extra_payload=3"),
        ({"use_observed_lib_size": False, "encode_covariates": True}, "infers the library size from covariates"),
    ],
)
def test_options_that_are_not_there_are_named(options, says, tmp_path):
    foreign = scvi_like(Foreign("SCVI", make_adata(60), options, {"batch_key": "batch"}))
    with pytest.raises(ValueError, match=says) as error:
        scvi.SCVI.load(foreign.write(tmp_path / "model"))
    assert str(tmp_path) in str(error.value)


def changed(tmp_path: Path, *keys: Any, value: Any) -> Path:
    """A file in which one entry is another."""
    foreign = scvi_like(Foreign("SCVI", make_adata(60), keys={"batch_key": "batch"}))
    content = foreign.content()
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    return foreign.write(tmp_path / "model", content=content)


REGISTRY = ("attr_dict", "registry_")
FIELDS = (*REGISTRY, "field_registries")


@pytest.mark.parametrize(
    ("keys", "value", "says"),
    [
        ((*REGISTRY, "model_name"), "CondSCVI", "CondSCVI"),
        ((*REGISTRY, "model_name"), "LinearSCVI", "scvi.LinearSCVI.load"),
        ((*REGISTRY, "setup_method_name"), "setup_mudata", "setup_mudata"),
        ((*FIELDS, "panel"), {"state_registry": {"categorical_mapping": [1]}}, "panel_key"),
        ((*FIELDS, "batch", "state_registry", "categorical_mapping"), ["b0", "b1"], "do not fit"),
        (("model_state_dict", "px_r"), torch.full((40,), torch.nan), "px_r"),
        (("model_state_dict", "px_r"), torch.zeros(39), "px_r"),
        (("attr_dict",), {}, "registry_"),
        (("attr_dict",), None, "model.pt"),
        (("var_names",), 3, "model.pt"),
    ],
)
def test_what_does_not_hold_together_is_named(keys, value, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        scvi.SCVI.load(changed(tmp_path, *keys, value=value))


class Malicious:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Strange:
    """Any class that is no part of data."""


CALLS: dict[str, Any] = {
    "os.system": lambda trace: Malicious(os.system, f"touch {trace}"),
    "open": lambda trace: Malicious(open, str(trace), "w"),
    "eval": lambda trace: Malicious(eval, f"open({str(trace)!r}, 'w')"),
    "getattr": lambda trace: Malicious(getattr, trace, "touch"),
    "torch.save": lambda trace: Malicious(torch.save, 1, str(trace)),
    "torch.load": lambda trace: Malicious(torch.load, str(trace)),
    "type": lambda trace: Malicious(type, "T", (), {}),
    "a class": lambda trace: Strange(),
    "pandas.read_pickle": lambda trace: Malicious(pd.read_pickle, str(trace)),
    "numpy.save": lambda trace: Malicious(np.save, str(trace), 1),
}
PLACES = [("model_state_dict", "px_r"), ("attr_dict", "history_", "elbo_train")]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("place", PLACES)
def test_a_malicious_file_runs_nothing(call, place, tmp_path):
    """Twenty variants: each is refused with the name of what it wanted, before anything has run."""
    trace = tmp_path / "trace"
    folder = changed(tmp_path, *place, value=CALLS[call](trace))
    for read in (scvi.SCVI.load, lambda path: scvi.convert(path, tmp_path / "out")):
        with pytest.raises(ValueError, match="no part of pandas or numpy data") as error:
            read(folder)
        assert "\n" not in str(error.value)
        assert "it names " in str(error.value)
    assert not trace.exists()
    assert not (tmp_path / "out").exists()


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


STORAGE = (
    b"(X\x07\x00\x00\x00storage" + named("torch", "FloatStorage") + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQ"
)
REBUILD = named("torch._utils", "_rebuild_tensor_v2")
ARCHIVES = {
    "more values than the storage": REBUILD + b"(" + STORAGE + b"K\x00(K\x05t(K\x01t\x89NtR.",
    "beyond the storage": REBUILD + b"(" + STORAGE + b"K\x02(K\x03t(K\x01t\x89NtR.",
    "a negative step": REBUILD + b"(" + STORAGE + b"K\x00(K\x03t(J\xff\xff\xff\xfft\x89NtR.",
    "a tensor of nothing": REBUILD + b"(NK\x00(K\x03t(K\x01t\x89NtR.",
    "no storage": b"X\x01\x00\x00\x00xQ.",
    "a type that is called": named("torch", "FloatStorage") + b"K\x04\x85R.",
    "a type that is changed": named("torch", "FloatStorage") + b"}X\x05\x00\x00\x00dtypeNsb.",
    "a gigabyte of nothing": named("builtins", "bytearray") + b"J\xff\xff\xff\x3f\x85R.",
    "bytes of a number": named("builtins", "bytes") + b"J\xff\xff\xff\x3f\x85R.",
    "no pickle": b"garbage",
}


def archive(path: Path, program: bytes, **options: Any) -> Path:
    path.mkdir(exist_ok=True)
    with zipfile.ZipFile(path / "model.pt", "w", **options) as file:
        file.writestr("model/data.pkl", b"\x80\x02" + program)
        file.writestr("model/data/0", np.zeros(4, np.float32).tobytes())
    return path


@pytest.mark.parametrize("what", ARCHIVES)
def test_an_archive_that_lies_is_refused(what, tmp_path):
    with pytest.raises(ValueError, match=r"model\.pt"):
        scvi.SCVI.load(archive(tmp_path / "model", ARCHIVES[what]))


def test_archives_of_other_kinds_are_refused(tmp_path):
    honest = pickle.dumps({"a": 1}, 2)[2:]
    with pytest.raises(ValueError, match="is compressed"):
        scvi.SCVI.load(archive(tmp_path / "model", honest, compression=zipfile.ZIP_DEFLATED))
    with pytest.raises(ValueError, match="attr_dict"):
        scvi.SCVI.load(archive(tmp_path / "model", honest))
    (tmp_path / "model" / "model.pt").write_bytes(b"no archive")
    with pytest.raises(ValueError, match="cannot be read as an archive of torch"):
        scvi.SCVI.load(tmp_path / "model")


def test_tensors_are_read_as_torch_wrote_them(tmp_path):
    from scvi.estimators.torch_archive import read_archive

    base = torch.arange(24.0).view(4, 6)
    tensors = {
        "whole": base,
        "part": base[1:3, ::2],
        "turned": base.T,
        "one": torch.tensor(3),
        "none": torch.empty(0, 3),
        "flags": torch.tensor([True, False]),
        "half": base.bfloat16(),
        "parameter": torch.nn.Parameter(base),
        "size": base.shape,
    }
    torch.save(tensors, tmp_path / "t.pt")
    read = read_archive(tmp_path / "t.pt")
    for name, value in tensors.items():
        assert read[name] == tuple(value) if name == "size" else torch.equal(read[name], value), name
        assert name == "size" or read[name].dtype == value.dtype


def test_a_model_of_this_package_goes_first(tmp_path):
    """A directory with both: the file of another package is not looked at."""
    foreign, model = loaded(tmp_path)
    model.save(tmp_path / "saved")
    (tmp_path / "saved" / "model.pt").write_bytes(b"whatever")
    same(answers(scvi.SCVI.load(tmp_path / "saved", foreign.adata)), answers(model))

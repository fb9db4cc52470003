"""GIMVI: what the common suite does not know of, two data sets and imputation."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy.stats import spearmanr

import scvi
from asking import M, ask, equal, questions, same, weights
from scvi import GIMVI
from scvi.fit import fit as fitting
from scvi.fit.ranks import ALONE
from small_cells import QUICK, G, N, make_adata

TINY: dict[str, Any] = {"n_hidden": 8, "n_latent": 3, "seed": 0}


def make_pair() -> tuple[AnnData, AnnData]:
    """Genes 0 to 39 in N cells of three batches; genes 30, 8 to 25 and 40 to 42, in that order, in M cells of two."""
    both = make_adata(N + M, G + 3)
    seq = both[:N, :G].copy()
    genes = [30, *range(8, 26), 40, 41, 42]
    spatial = both[N:, genes].copy()
    spatial.obs["batch"] = pd.Categorical(np.where(np.arange(M) % 2, "s0", "b1"))
    return seq, spatial


def setup(pair: tuple[AnnData, AnnData], **keys: Any) -> tuple[AnnData, AnnData]:
    for adata in pair:
        GIMVI.setup_anndata(adata, **{"batch_key": "batch", **keys})
    return pair


def make(**options: Any) -> GIMVI:
    return GIMVI(*setup(make_pair()), **{**TINY, **options})


@pytest.fixture(scope="module")
def fitted() -> GIMVI:
    """A fitted model that no test changes."""
    model = make()
    model.train(**QUICK)
    return model


# ---- set-up ----------------------------------------------------------------------------------------------------------


def test_the_data_are_only_read(tmp_path: Path) -> None:
    before = make_pair()
    model = make()
    model.train(**QUICK)
    for question in questions(GIMVI):
        ask(model, question)
    model.save(tmp_path / "model", save_anndata=True)
    for adata, original in zip((model.adata_seq, model.adata_spatial), before, strict=True):
        assert list(adata.uns) == ["_scvi"]
        assert list(adata.uns["_scvi"]) == ["GIMVI"]
        pd.testing.assert_frame_equal(adata.obs, original.obs)
        pd.testing.assert_frame_equal(adata.var, original.var)
        assert (adata.X != original.X).nnz == 0
        assert [*adata.obsm, *adata.layers, *adata.varm] == [*original.obsm, *original.layers, *original.varm]


def test_the_union_of_genes() -> None:
    model = make()
    seq, spatial = model.adata_seq, model.adata_spatial
    assert model.gene_names.tolist() == [*seq.var_names, "gene40", "gene41", "gene42"]
    assert model.gene_names[model.module.indices_mappings[1]].tolist() == spatial.var_names.tolist()
    assert "43 genes, 19 of them in both data sets" in repr(model)


def test_the_genes_of_the_decoder_start_at_their_frequencies() -> None:
    model = make(generative_distributions=["nb", "nb"])
    model._start([cells.data for cells in model._data_sets], [np.arange(N), np.arange(M)], ALONE)
    start = torch.softmax(model.module.decoder.px_scale_decoder[0].bias.detach()[:G], 0).numpy()
    x = model.adata_seq.X.toarray().astype(np.float64)
    np.testing.assert_allclose(start, x.mean(0) / x.mean(0).sum(), rtol=1e-4)
    theta = model.module.px_r.detach().numpy()
    assert theta.shape == (G + 3, 5)
    assert np.ptp(theta[:, :3], axis=1).max() == np.ptp(theta[:, 3:], axis=1).max() == 0
    assert np.array_equal(theta[:8, 0], theta[:8, 4])  # spatial cells lack these: as in the others


def test_setup_reads_what_it_is_told(tmp_path: Path) -> None:
    seq, spatial = make_pair()
    spatial.layers["counts"] = spatial.X.copy()
    spatial.X = np.log1p(spatial.X.toarray())
    GIMVI.setup_anndata(seq, labels_key="cell_type", mask_var="chosen")
    GIMVI.setup_anndata(spatial, batch_key="batch", labels_key="cell_type", layer="counts")
    model = GIMVI(seq, spatial, **TINY, dispersion="gene-label")
    assert model.module.px_r.shape == (G // 2 + 11 + 1, 3)  # of 22 spatial genes 11 are chosen in seq
    model.train(**QUICK)
    table = model.view_anndata_setup()
    assert table.loc["seq", "source"].tolist() == ["adata.X", "adata.obs['cell_type']"]
    assert table.loc["spatial", "source"].tolist() == [
        "adata.layers['counts']",
        "adata.obs['batch']",
        "adata.obs['cell_type']",
    ]
    model.save(tmp_path / "model")
    assert np.isfinite(GIMVI.load(tmp_path / "model", seq, spatial).get_elbo(seed=0)).all()


def test_labels_of_the_two_are_matched_by_name() -> None:
    seq, spatial = make_pair()
    seq = seq[seq.obs["cell_type"] != "t0"].copy()
    spatial = spatial[spatial.obs["cell_type"] != "t2"].copy()
    model = GIMVI(*setup((seq, spatial), labels_key="cell_type"), **TINY, dispersion="gene-label")
    data = model._data_sets[1].own("train")  # labels are t1, t2, t0
    assert np.array_equal(data.labels, np.where(spatial.obs["cell_type"] == "t0", 2, 0))
    assert set(data.batch) == {3, 4}


@pytest.mark.parametrize("options", [{"dispersion": d} for d in ("gene", "gene-cell")] + [{"n_layers_decoder": 2}])
def test_options_train(options: dict[str, Any]) -> None:
    model = make(**options)
    model.train(**QUICK)
    assert np.isfinite(model.get_elbo(seed=0)).all()


@pytest.mark.parametrize("names", [["poisson", "nb"], ["nb", "zinb"], ["zinb", "poisson"]])
@pytest.mark.parametrize("library", [[True, True], [False, False]])
def test_likelihoods_and_libraries_train(names: list[str], library: list[bool]) -> None:
    model = make(generative_distributions=names, model_library_size=library)
    model.train(**QUICK)
    assert np.isfinite(model.get_elbo(seed=0)).all()
    assert [encoder is not None for encoder in model.module.l_encoders] == library


# ---- training --------------------------------------------------------------------------------------------------------


def test_the_history_has_the_discriminator(fitted: GIMVI) -> None:
    names = ("elbo", "reconstruction_loss", "kl_local", "kl_global", "discriminator_loss", "discriminator_accuracy")
    assert {f"{name}_{part}" for name in names for part in ("train", "validation")} | {
        "train_loss_epoch",
        "train_loss_step",
        "validation_loss",
        "kl_weight",
        "lr",
    } == set(fitted.history)
    for part in ("train", "validation"):
        assert fitted.history[f"discriminator_accuracy_{part}"].iloc[:, 0].between(0, 1).all()


def test_a_fit_is_resumed_with_its_kappa_only(tmp_path: Path) -> None:
    make().train(**QUICK, checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match=r"belongs to another fit: kappa was 5.0, is 1.0"):
        make().train(**QUICK, kappa=1.0, checkpoint_dir=tmp_path, resume=True)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_leaves_a_usable_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(self: fitting.Fit) -> None:
        if self.loop.n_iter == 4:
            os.kill(os.getpid(), signal.SIGINT)
        end_step(self)

    end_step = fitting.Fit.on_iteration_end
    monkeypatch.setattr(fitting.Fit, "on_iteration_end", pressed)
    model = make()
    with pytest.warns(UserWarning, match="stopped at KL weight"):
        model.train(**{**QUICK, "max_epochs": 50})
    assert model.was_interrupted
    assert model.is_trained
    assert np.isfinite(model.get_imputed_values()[1]).all()


def test_a_loss_that_is_not_finite_is_recovered_from_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from scvi.models.likelihood import NB

    calls: list[int] = []

    def broken(self: NB, *args: Any) -> torch.Tensor:
        calls.append(1)
        return nll(self, *args) * (torch.nan if len(calls) in (3, 4, 5) else 1.0)

    nll = NB.nll
    monkeypatch.setattr(NB, "nll", broken)
    model = make()
    with pytest.warns(UserWarning, match=r"non-finite loss in epoch 1 \(data set 2: .*cells.*gene"):
        model.train(**{**QUICK, "batch_size": 16})
    assert np.isfinite(model.history["elbo_train"].to_numpy()).all()


def test_validation_cells_may_be_named() -> None:
    model = make()
    model.train(**QUICK, validation_indices=[[3, 1], np.arange(M) < 5])
    assert [sorted(cells) for cells in model.validation_indices] == [[1, 3], [0, 1, 2, 3, 4]]
    assert 3 not in model.train_indices[0]


def test_all_cells_may_be_trained_on() -> None:
    model = make()
    model.train(**QUICK, train_size=1.0)
    assert "elbo_validation" not in model.history
    assert "discriminator_accuracy_train" in model.history


def test_early_stopping_and_plan_kwargs() -> None:
    model = make()
    model.train(**{**QUICK, "max_epochs": 60}, early_stopping=True, early_stopping_patience=1, lr=0.05, kl_warmup=0.0)
    assert len(model.history["elbo_train"]) < 60
    model = make()
    model.train(**QUICK, plan_kwargs={"n_epochs_kl_warmup": None, "lr": 1e-3})
    assert (model.history["kl_weight"] == 1.0).all(axis=None)


# ---- questions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", ["get_latent_representation", "get_imputed_values"])
def test_other_cells_of_either_data_set(fitted: GIMVI, question: str) -> None:
    seq, spatial = make_pair()
    own, some = ask(fitted, question), [seq[5:25, ::-1].copy(), spatial[3:20, ::-1].copy()]
    for i, cells in enumerate((range(5, 25), range(3, 20))):
        answer = ask(fitted, question, adatas=[some[i] if i == j else None for j in range(2)])
        np.testing.assert_allclose(answer[i], own[i][cells], rtol=2e-4, atol=1e-6)
        assert np.array_equal(answer[1 - i], own[1 - i])
    assert "_scvi" not in {**some[0].uns, **some[1].uns}
    spatial.obs["batch"] = "s9"
    with pytest.raises(ValueError, match="s9"):
        ask(fitted, question, adatas=[None, spatial])


@pytest.mark.usefixtures("global_numbers")
def test_imputed_values_by_hand(fitted: GIMVI) -> None:
    module = fitted.module
    codes = [fitted.adata_seq.obs["batch"].cat.codes, 3 + fitted.adata_spatial.obs["batch"].cat.codes]
    for normalized, sample in ((True, module.sample_scale), (False, module.sample_rate)):
        for i, (adata, values) in enumerate(
            zip(
                (fitted.adata_seq, fitted.adata_spatial),
                fitted.get_imputed_values(normalized=normalized),
                strict=True,
            )
        ):
            x, batch = torch.from_numpy(adata.X.toarray()), torch.tensor(codes[i].to_numpy()[:, None].astype(np.int64))
            with torch.no_grad():
                expected = sample(x, i, batch, deterministic=True)
            np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)


def test_frequencies_sum_to_one_over_the_genes_of_the_data_set(fitted: GIMVI) -> None:
    for mode in (None, 0, 1):
        for i, values in enumerate(fitted.get_imputed_values(decode_mode=mode)):
            genes = fitted.module.indices_mappings[i if mode is None else mode]
            np.testing.assert_allclose(values[:, genes].sum(1), 1.0, rtol=1e-5)
    chosen = fitted.get_imputed_values(gene_list=["gene42", "gene3"])
    every = fitted.get_imputed_values()
    assert np.array_equal(chosen[1], every[1][:, [42, 3]])


def test_confusion(fitted: GIMVI) -> None:
    table = fitted.get_discriminator_confusion()
    assert list(table.index) == list(table.columns) == ["seq", "spatial"]
    np.testing.assert_allclose(table.sum(axis=1), 1.0, rtol=1e-5)


# ---- files -----------------------------------------------------------------------------------------------------------


def test_both_data_sets_are_saved_with_the_model(fitted: GIMVI, tmp_path: Path) -> None:
    fitted.save(tmp_path / "model", save_anndata=True)
    names = ["adata_seq.h5ad", "adata_spatial.h5ad", "model.json", "weights.safetensors"]
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == names
    loaded = GIMVI.load(tmp_path / "model")
    assert loaded.gene_names.tolist() == fitted.gene_names.tolist()
    for question in questions(GIMVI):
        assert equal(ask(loaded, question), ask(fitted, question))
    fitted.save(tmp_path / "model", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == names[2:]


def test_foreign_files_are_refused(fitted: GIMVI, tmp_path: Path, cells: AnnData) -> None:
    scvi.SCVI.setup_anndata(cells)
    scvi.SCVI(cells, **TINY).save(tmp_path / "scvi")
    with pytest.raises(ValueError, match=r"scvi.SCVI.load"):
        GIMVI.load(tmp_path / "scvi")
    fitted.save(tmp_path / "gimvi")
    with pytest.raises(ValueError, match=r"scvi.GIMVI.load"):
        scvi.SCVI.load(tmp_path / "gimvi")
    description = (tmp_path / "gimvi" / "model.json").read_text()
    (tmp_path / "gimvi" / "model.json").write_text(description.replace('"schema": [', '"schema": [1,'))
    with pytest.raises(ValueError, match="schema is not a list of 2"):
        GIMVI.load(tmp_path / "gimvi")


# ---- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generative_distributions": ["zinb"]}, "generative_distributions is a list of 1; it must be a list of two"),
        ({"generative_distributions": ["zinb", "nbb"]}, "'nbb' is not one of"),
        ({"model_library_size": True}, "model_library_size is True; it must be a list of two"),
        ({"model_library_size": [True, 2]}, "model_library_bools=2 is not True or False"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kappa": -1}, "kappa=-1 is not a number of at least 0"),
        ({"kappa": np.nan}, "kappa=nan"),
        ({"validation_indices": [0, 1, 2]}, "validation_indices is a list of 3; it must be"),
        ({"validation_indices": [[0], [0.5]]}, r"validation_indices\[1\] must be a list of cell positions"),
    ],
)
def test_bad_arguments_of_train_are_refused_before_anything_is_trained(arguments: dict[str, Any], message: str) -> None:
    model = make()
    before = weights(model)
    with pytest.raises(ValueError, match=message):
        model.train(**{**QUICK, **arguments})
    assert same(weights(model), before)
    assert not model.is_trained


def test_data_sets_that_do_not_belong_together_are_refused() -> None:
    seq, spatial = make_pair()
    spatial.var_names = [f"ENSG{i}" for i in range(spatial.n_vars)]
    with pytest.raises(ValueError, match=r"no gene in common.*'gene0' and 'ENSG0'"):
        GIMVI(*setup((seq, spatial)))


def test_bad_questions_are_refused(fitted: GIMVI) -> None:
    with pytest.raises(ValueError, match="adatas is a list of 3; it must be a list of two"):
        fitted.get_imputed_values(adatas=[fitted.adata_seq] * 3)
    with pytest.raises(ValueError, match="decode_mode=2 is not one of"):
        fitted.get_imputed_values(decode_mode=2)
    with pytest.raises(ValueError, match="gene_list has 'gene99'"):
        fitted.get_imputed_values(gene_list=["gene99"])
    with pytest.raises(ValueError, match="normalized='yes'"):
        fitted.get_imputed_values(normalized="yes")


def test_counts_that_changed_are_refused() -> None:
    model = make()
    model.train(**QUICK)
    model.adata_spatial.X = model.adata_spatial.X * 2
    with pytest.raises(ValueError, match="has changed since the model was made"):
        model.get_imputed_values()


# ---- quality on real cells -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_hidden_genes_of_another_technology_are_imputed(mixology: AnnData) -> None:
    """Cells of five lines by CEL-seq2; by Drop-seq without 60 of 300 genes, which are imputed.

    The true mean of each cell line in the CEL-seq2 cells, an oracle that knows the lines, reaches a median Spearman
    correlation of .42 with the hidden frequencies, and 20 neighbours in the other genes .47.
    """
    x = mixology.X.toarray().astype(np.float64)
    variable = np.sort(np.argsort(-x.var(axis=0))[:300])
    cells = mixology[:, variable].copy()
    seq = cells[cells.obs["protocol"] == "CEL-seq2"].copy()
    whole = cells[cells.obs["protocol"] == "Drop-seq"].copy()
    seen = np.sort(np.random.RandomState(0).choice(300, 240, replace=False))
    hidden = np.setdiff1d(np.arange(300), seen)
    spatial = whole[:, seen].copy()
    GIMVI.setup_anndata(seq)
    GIMVI.setup_anndata(spatial)
    model = GIMVI(seq, spatial, seed=0)
    model.train(seed=0, enable_progress_bar=False)
    _, imputed = model.get_imputed_values(gene_list=list(whole.var_names[hidden]))
    truth = whole.X.toarray()[:, hidden] / spatial.X.sum(axis=1).reshape(-1, 1)
    correlations = [spearmanr(imputed[:, j], np.asarray(truth)[:, j])[0] for j in range(len(hidden))]
    assert np.median(correlations) > 0.38
    assert model.history["discriminator_accuracy_validation"].iloc[-1, 0] < 0.9  # of three seeds .68 to .86
    from sklearn.neighbors import KNeighborsClassifier

    latent_seq, latent_spatial = model.get_latent_representation()
    neighbours = KNeighborsClassifier(15).fit(latent_seq, seq.obs["cell_type"])
    assert neighbours.score(latent_spatial, whole.obs["cell_type"]) > 0.8


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("is_copy", [False, True])
def test_one_data_set_may_be_asked_about_alone(fitted: GIMVI, number: int, is_copy: bool) -> None:
    assert fitted.adatas == [fitted.adata_seq, fitted.adata_spatial]
    adata = fitted.adatas[number].copy() if is_copy else fitted.adatas[number]
    for question in ("get_latent_representation", "get_imputed_values", "get_elbo"):
        (found,), both = getattr(fitted, question)([adata], seed=0), getattr(fitted, question)(seed=0)
        assert np.shape(found) == np.shape(both[number])
    (found,) = fitted.get_latent_representation([adata])
    np.testing.assert_array_equal(found, fitted.get_latent_representation()[number])
    confusion = fitted.get_discriminator_confusion([adata])
    pd.testing.assert_frame_equal(confusion, fitted.get_discriminator_confusion().iloc[[number]])

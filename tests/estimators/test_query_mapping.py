"""Mapping cells of new batches onto a fitted reference.

What holds: the weights that were there before, and with them the answers about the cells of the reference, stay as they
are; the new ones train; genes and categories are matched by name.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from sklearn.neighbors import KNeighborsClassifier

import scvi
from asking import ESTIMATORS, options_of, same, set_up
from scvi.estimators.base import Estimator
from scvi.fit import fit as fitting
from small_cells import QUICK, TINY, G, make_adata

MAPPED = [cls for cls in ESTIMATORS if hasattr(cls, "load_query_data")]
# All cells have a label, so that the labelled ones are of every batch.
LABELS = {scvi.SCANVI: {"unlabeled_category": "Unknown"}}

VARIANTS: dict[str, dict[str, Any]] = {
    "seen by the encoder": {"encode_covariates": True},
    "not seen by the encoder": {},
    "by batch": {"encode_covariates": True, "dispersion": "gene-batch"},
    "inferred library": {"encode_covariates": True, "use_observed_lib_size": False},
    "two layers": {"encode_covariates": True, "n_layers": 2, "latent_distribution": "ln"},
    "layer norm": {"encode_covariates": True, "use_layer_norm": "both", "use_batch_norm": "none", "n_layers": 2},
    "embedding": {"encode_covariates": True, "batch_representation": "embedding"},
    "embedding for the decoder": {"batch_representation": "embedding", "n_layers": 2},
    "shallow": {"encode_covariates": True, "deeply_inject_covariates": False, "n_layers": 2},
}
SEES = {"encode_covariates": True}


@pytest.fixture(scope="module", params=MAPPED, ids=lambda cls: cls.__name__)
def cls(request: pytest.FixtureRequest) -> type[Estimator]:
    return request.param


def cells_of(*batches: str) -> AnnData:
    cells = make_adata()
    return cells[cells.obs["batch"].isin(batches)].copy()


def query_cells() -> AnnData:
    return cells_of("b2")


def make_reference(cls: type[Estimator], cells: AnnData | None = None, setup: Any = None, **options: Any) -> Any:
    model = make(cls, cells_of("b0", "b1") if cells is None else cells, setup, **options)
    model.train(**QUICK)
    return model


def make(cls: type[Estimator], cells: AnnData, setup: Any = None, **options: Any) -> Any:
    set_up(cls, cells, **{**LABELS.get(cls, {}), **({"batch_key": "batch"} if setup is None else setup)})
    if cls is scvi.LinearSCVI and "use_layer_norm" in options:  # its decoder is linear
        options["use_layer_norm"] = "encoder"
    return cls(cells, **options_of(cls, {**TINY, **options}))


@pytest.fixture(scope="module")
def reference(cls: type[Estimator]) -> Any:
    """A fitted model of two batches, whose encoder sees them; no test changes it."""
    return make_reference(cls, **SEES)


def load(cls: type[Estimator], cells: AnnData, reference: Any, **options: Any) -> Any:
    """A mapped model; a warning that the encoder sees no batch is due where it does not, and nowhere else."""
    blind = not reference.options["encode_covariates"]
    with pytest.warns(UserWarning, match="encode_covariates=False") if blind else nullcontext():
        return cls.load_query_data(cells, reference, **options)


def state(model: Any) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in model.module.state_dict().items()}


def old_part(model: Any) -> dict[str, torch.Tensor]:
    """All weights and moments but for the new columns."""
    trained = model._scope.trained
    return {name: places(t, ~trained[name]) if name in trained else t for name, t in state(model).items()}


def new_part(model: Any) -> dict[str, torch.Tensor]:
    whole = state(model)
    return {name: places(whole[name], mask) for name, mask in model._scope.trained.items()}


def places(weights: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Columns, or of an embedding rows."""
    return weights[mask[:, 0]] if mask.dim() == 2 else weights[..., mask]


def is_unused(model: Any, name: str) -> bool:
    """Weights of dropout logits get no gradient under a likelihood without dropout."""
    return "px_dropout" in name and not model.module.likelihood.has_dropout


def answers(model: Any, cells: AnnData) -> list[np.ndarray]:
    expression = model.get_normalized_expression(cells, n_samples=2, seed=0, return_numpy=True)
    return [
        *model.get_latent_representation(cells, return_dist=True),
        *(expression if isinstance(expression, tuple) else [expression]),
        model.get_elbo(cells, return_mean=False, seed=0),
    ]


def first_layer(model: Any) -> str:
    """Name of the weights that read the counts; the covariates' are its last columns."""
    return next(name for name, _ in model.module.named_parameters() if "encoder.fc_layers.Layer 0.0.weight" in name)


# ---- the reference stays as it is ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_the_reference_is_unchanged(cls: type[Estimator], options: dict[str, Any]) -> None:
    reference = make_reference(cls, **options)
    cells, before = reference.adata, state(reference)
    expected = answers(reference, cells)
    mapped = load(cls, query_cells(), reference)
    widened = old_part(mapped), new_part(mapped)
    assert same(widened[0], before)
    for found, wanted in zip(answers(mapped, cells), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    mapped.train(**QUICK, weight_decay=0.1)
    assert same(old_part(mapped), widened[0])
    for name, columns in new_part(mapped).items():
        assert torch.equal(columns, widened[1][name]) == is_unused(mapped, name), name
    for found, wanted in zip(answers(mapped, cells), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert same(state(reference), before)
    assert answers(reference, cells)[0].tolist() == expected[0].tolist()
    wanting = [[p.requires_grad for p in model.module.parameters()] for model in (mapped, reference)]
    assert wanting[0] == wanting[1]


def test_the_query_is_fitted(cls: type[Estimator], reference: Any) -> None:
    mapped = load(cls, query_cells(), reference)
    assert mapped.is_trained  # it may be asked at once
    assert mapped.history == {}
    before, latent = mapped.get_elbo(seed=0), mapped.get_latent_representation()
    mapped.train(**{**QUICK, "max_epochs": 30})
    assert mapped.get_elbo(seed=0) > before + 0.2
    assert np.abs(mapped.get_latent_representation() - latent).max() > 1e-3
    assert mapped.history["elbo_train"].index.tolist() == list(range(30))
    assert mapped.schema.batch_names == ("b0", "b1", "b2")
    assert np.isfinite(
        mapped.get_normalized_expression(cells_of("b0"), transform_batch="b2", return_numpy=True)[0]
    ).all()


def test_a_new_batch_starts_as_the_average_of_the_old_ones(cls: type[Estimator]) -> None:
    reference = make_reference(cls, **SEES, dispersion="gene-batch")
    mapped, old = load(cls, query_cells(), reference), state(reference)
    assert "px_r" in new_part(mapped)
    for name, columns in new_part(mapped).items():
        place = int(mapped._scope.trained[name].nonzero())
        torch.testing.assert_close(columns, old[name][..., place - 2 : place].mean(-1, keepdim=True))


def test_an_embedding_gets_rows(cls: type[Estimator], tmp_path: Path) -> None:
    options = {**SEES, "batch_representation": "embedding"}
    for first in (["b0", "b1"], ["b0"]):
        reference = make_reference(cls, cells_of(*first), **options)
        mapped = load(cls, query_cells(), reference)
        rows = mapped.module.embeddings_dict["batch"].weight.detach().clone()
        assert torch.equal(rows[: len(first)], reference.module.embeddings_dict["batch"].weight)
        torch.testing.assert_close(rows[len(first)], rows[: len(first)].mean(0))
        mapped.save(tmp_path / "-".join(first))
        latent = mapped.get_latent_representation()
        mapped.train(**QUICK)
        assert (mapped.get_batch_representation() != rows[-1].numpy()).all()
        assert np.abs(mapped.get_latent_representation() - latent).max() > 1e-4
        loaded: Any = cls.load(tmp_path / "-".join(first), query_cells())
        loaded.train(**QUICK)
        assert same(state(loaded), state(mapped))


def test_the_only_batch_of_a_reference_gets_columns_that_change_nothing(cls: type[Estimator]) -> None:
    cells = cells_of("b0")
    reference = make_reference(cls, cells, **SEES)
    expected = reference.get_latent_representation()
    mapped = load(cls, cells_of("b1", "b2"), reference)
    mapped.train(**QUICK)
    np.testing.assert_allclose(mapped.get_latent_representation(cells), expected, rtol=1e-5, atol=1e-5)
    widths = {mask.sum().item() for mask in mapped._scope.trained.values()}
    assert widths == {2}
    before, after = (state(model)[first_layer(model)] for model in (reference, mapped))
    assert after.shape[1] == before.shape[1] + 3
    first_new = mapped._scope.trained[first_layer(mapped)].nonzero()[0, 0]
    assert not after[:, first_new - 1].any()


def test_new_categories_of_covariates(cls: type[Estimator]) -> None:
    setup = {
        "batch_key": "batch",
        "categorical_covariate_keys": ["donor", "treated"],
        "continuous_covariate_keys": ["age"],
    }
    cells, query = cells_of("b0", "b1"), query_cells()
    query.obs["donor"] = np.where(np.arange(query.n_obs) % 2, "3", "77")
    reference = make_reference(cls, cells, setup, **SEES)
    expected = answers(reference, cells)
    mapped = load(cls, query, reference)
    assert mapped.schema.categories["donor"] == ("0", "1", "2", "3", "77")
    assert mapped.schema.categories["treated"] == reference.schema.categories["treated"]
    assert mapped.schema.continuous_moments == reference.schema.continuous_moments
    assert int(mapped._scope.trained[first_layer(mapped)].sum()) == 2  # the third batch, the fifth donor
    before = old_part(mapped)
    mapped.train(**QUICK)
    assert same(old_part(mapped), before)
    for found, wanted in zip(answers(mapped, cells), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_library_priors_of_new_batches_are_those_of_the_query(cls: type[Estimator]) -> None:
    reference, query = make_reference(cls, **SEES, use_observed_lib_size=False), query_cells()
    query.X = query.X * 3
    mapped = load(cls, query, reference)
    logs = np.log(np.asarray(query.X.sum(1)).ravel())
    assert mapped.schema.library_prior[:2] == reference.schema.library_prior
    assert mapped.schema.library_prior[2] == pytest.approx((logs.mean(), logs.var()), rel=1e-4)


def test_a_mapped_model_is_a_reference_for_the_next_query(cls: type[Estimator]) -> None:
    cells, second = cells_of("b0"), cells_of("b1")
    reference = make_reference(cls, cells, **SEES)
    once = load(cls, second, reference)
    once.train(**QUICK)
    expected = [once.get_latent_representation(part) for part in (cells, second)]
    twice = load(cls, query_cells(), once)
    twice.train(**QUICK)
    assert twice.schema.batch_names == ("b0", "b1", "b2")
    for part, wanted in zip((cells, second), expected, strict=True):
        np.testing.assert_allclose(twice.get_latent_representation(part), wanted, rtol=1e-5, atol=1e-5)


# ---- what may train --------------------------------------------------------------------------------------------------


def names_of(model: Any, part: str, layer: str) -> set[str]:
    """Of the parameters and moments of the first layers, or of batch norm, in the encoders or the decoders."""
    norms = {name for name, module in model.module.named_modules() if isinstance(module, torch.nn.BatchNorm1d)}
    return {
        name
        for name in model.module.state_dict()
        if part in name.split(".")[0].split("_")
        and ("Layer 0.0" in name if layer == "first" else name.rpartition(".")[0] in norms)
    }


@pytest.mark.parametrize(
    ("option", "part", "layer"),
    [
        ("freeze_expression", "encoder", "first"),
        ("freeze_decoder_first_layer", "decoder", "first"),
        ("freeze_batchnorm_encoder", "encoder", "norm"),
        ("freeze_batchnorm_decoder", "decoder", "norm"),
    ],
)
def test_what_is_thawed_trains_and_nothing_else(
    cls: type[Estimator], reference: Any, option: str, part: str, layer: str
) -> None:
    mapped = load(cls, query_cells(), reference, **{option: False})
    before, new = state(mapped), {name: mask for name, mask in mapped._scope.trained.items() if mask.dim()}
    thawed = names_of(mapped, part, layer)
    mapped.train(**QUICK)
    after = state(mapped)
    assert thawed
    for name, t in before.items():
        if name not in thawed or is_unused(mapped, name):
            kept = (..., ~new[name]) if name in new else ...
            assert torch.equal(t[kept], after[name][kept]), name
        else:
            assert not torch.equal(t, after[name]), name


def test_everything_may_train(cls: type[Estimator], reference: Any) -> None:
    mapped = load(cls, query_cells(), reference, unfrozen=True)
    before = state(mapped)
    mapped.train(**QUICK)
    moved = [name for name, t in state(mapped).items() if not torch.equal(t, before[name])]
    assert {first_layer(mapped), "px_r"} <= set(moved)
    assert any("running_mean" in name for name in moved)
    load_known(cls, cells_of("b0"), reference, unfrozen=True).train(**QUICK)


def load_known(cls: type[Estimator], cells: AnnData, reference: Any, **options: Any) -> Any:
    """A query of batches that the reference knows."""
    with nullcontext() if options else pytest.warns(UserWarning, match="does not know: training fits the weights of"):
        return cls.load_query_data(cells, reference, **options)


def test_dropout_may_be_left_out(cls: type[Estimator], reference: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    step = fitting.Fit.on_iteration_begin

    def look(self: fitting.Fit) -> None:
        seen.append(any(m.training for m in self.model.modules() if isinstance(m, torch.nn.Dropout)))
        assert not any(m.training for m in self.model.modules() if isinstance(m, torch.nn.BatchNorm1d))
        step(self)

    monkeypatch.setattr(fitting.Fit, "on_iteration_begin", look)
    for freeze_dropout in (False, True):
        load(cls, query_cells(), reference, freeze_dropout=freeze_dropout).train(**QUICK)
        assert set(seen) == {not freeze_dropout}
        seen.clear()


def test_where_there_is_nothing_to_train(cls: type[Estimator]) -> None:
    cells = cells_of("b0")
    reference = make_reference(cls, cells_of("b0"), **SEES)
    with pytest.warns(UserWarning, match="there is nothing to train"):
        mapped = cls.load_query_data(cells, reference)
    np.testing.assert_array_equal(mapped.get_latent_representation(), reference.get_latent_representation(cells))
    with pytest.raises(ValueError, match=r"nothing to train.*unfrozen=True"):
        mapped.train(**QUICK)


KNOWN: dict[str, dict[str, Any]] = {
    "batch": {},
    "table by batch": {"dispersion": "gene-batch"},
    "embedding": {"batch_representation": "embedding"},
}


@pytest.mark.parametrize("options", KNOWN.values(), ids=KNOWN)
@pytest.mark.parametrize("covariates", [[], ["donor", "treated"]], ids=["", "covariates"])
def test_a_query_of_known_batches_trains_their_weights(
    cls: type[Estimator], options: dict[str, Any], covariates: list[str]
) -> None:
    """And those of its categories; nothing else moves, so that what is said of other batches stays."""
    setup = {"batch_key": "batch", "categorical_covariate_keys": covariates}
    reference = make_reference(cls, make_adata(), setup, **SEES, **options)
    query, others = cells_of("b0"), cells_of("b1", "b2")
    query = query[query.obs["donor"].isin([0, 1])].copy()
    mapped = load_known(cls, query, reference)
    np.testing.assert_array_equal(mapped.get_latent_representation(), reference.get_latent_representation(query))
    before, trained = state(mapped), mapped._scope.trained
    assert {name: t.shape for name, t in before.items()} == {name: t.shape for name, t in state(reference).items()}
    mapped.train(**QUICK)
    moved = 0
    for name, after in state(mapped).items():
        mask = trained.get(name, torch.zeros(after.shape[-1:] if after.dim() else (1,), dtype=torch.bool))
        assert (
            torch.equal(places(after, ~mask), places(before[name], ~mask))
            if name in trained
            else torch.equal(after, before[name])
        ), name
        moved += name in trained and not torch.equal(after, before[name])
    assert moved
    if not covariates:
        for found, expected in zip(
            mapped.get_latent_representation(others, return_dist=True),
            reference.get_latent_representation(others, return_dist=True),
            strict=True,
        ):
            np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(mapped.get_latent_representation(), reference.get_latent_representation(query))


# ---- fits, files -----------------------------------------------------------------------------------------------------


def test_files(cls: type[Estimator], reference: Any, tmp_path: Path) -> None:
    reference.save(tmp_path / "reference", save_anndata=True)
    query = query_cells()
    mapped, from_file = load(cls, query, reference), cls.load_query_data(query, tmp_path / "reference")
    assert same(state(from_file), state(mapped))
    from_file.save(tmp_path / "mapped")
    loaded = cls.load(tmp_path / "mapped", query)
    for model in (mapped, loaded):
        model.train(**QUICK)
    assert same(state(loaded), state(mapped))
    assert same(old_part(loaded), old_part(from_file))
    assert loaded._scope.describe() == mapped._scope.describe()


def test_seeds_and_resuming(
    cls: type[Estimator], reference: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, again = (load(cls, query_cells(), reference) for _ in range(2))
    whole.train(**QUICK)
    again.train(**QUICK)
    assert same(state(again), state(whole))

    def crash(self: fitting.Fit) -> bool:
        if self.loop.epoch == 2:
            raise RuntimeError("power cut")
        return end_epoch(self)

    end_epoch = fitting.Fit.on_epoch_end
    monkeypatch.setattr(fitting, "_STEPS_BETWEEN_SNAPSHOTS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(fitting.Fit, "on_epoch_end", crash)
        with pytest.raises(RuntimeError, match="power cut"):
            load(cls, query_cells(), reference).train(**QUICK, checkpoint_dir=tmp_path)
    resumed = load(cls, query_cells(), reference)
    resumed.train(**QUICK, checkpoint_dir=tmp_path, resume=True)
    assert same(state(resumed), state(whole))
    other = load(cls, query_cells(), reference, freeze_expression=False)
    with pytest.raises(ValueError, match="belongs to another fit"):
        other.train(**QUICK, checkpoint_dir=tmp_path, resume=True)


def test_other_references_are_refused(cls: type[Estimator], reference: Any, tmp_path: Path) -> None:
    query, other = query_cells(), next(one for one in MAPPED if one is not cls)
    with pytest.raises(TypeError, match=rf"reference_model is a {cls.__name__}; pass a {other.__name__} model"):
        other.load_query_data(query, reference)
    reference.save(tmp_path / "reference")
    with pytest.raises(ValueError, match=rf"holds a {cls.__name__} model"):
        other.load_query_data(query, tmp_path / "reference")
    with pytest.raises(FileNotFoundError, match="no saved model"):
        cls.load_query_data(query, tmp_path)
    with pytest.raises(RuntimeError, match="not trained"):
        cls.load_query_data(query, make(cls, cells_of("b0", "b1")))
    with pytest.raises(ValueError, match="freeze_dropout='yes'"):
        cls.load_query_data(query, reference, freeze_dropout="yes")
    with pytest.raises(TypeError, match=r"pass an anndata\.AnnData"):
        cls.load_query_data("cells.h5ad", reference)


# ---- genes and categories --------------------------------------------------------------------------------------------


def test_order_of_genes_and_further_genes_do_not_matter(cls: type[Estimator], reference: Any) -> None:
    query, further = query_cells(), make_adata(n=50, g=5)
    further.obs_names, further.var_names = query.obs_names, [f"new{i}" for i in range(5)]
    wider = anndata.concat([query, further], axis=1, merge="first")
    wider = wider[:, np.random.default_rng(0).permutation(wider.n_vars)].copy()
    plain, mapped = load(cls, query, reference), load(cls, wider, reference)
    assert mapped.adata is wider
    assert same(state(plain), state(mapped))
    for found, expected in zip(answers(mapped, wider), answers(plain, query), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    mapped.train(**QUICK)
    assert "_scvi" not in wider.uns


def test_missing_genes_are_zeros(cls: type[Estimator], reference: Any) -> None:
    query = query_cells()
    zeroed, narrow = query.copy(), query[:, 4:].copy()
    zeroed.X = zeroed.X.multiply(np.arange(G) >= 4).tocsr()
    before = narrow.copy()
    with pytest.warns(UserWarning, match=rf"36 of the {G} genes of the reference \(90\.0%\).*zeros: 'gene0', 'gene1'"):
        mapped = cls.load_query_data(narrow, reference)
    expected = load(cls, zeroed, reference)
    assert mapped.schema == expected.schema
    assert mapped.adata.var_names.tolist() == list(reference.schema.genes)
    for model in (mapped, expected):
        model.train(**QUICK)
    assert same(state(mapped), state(expected))
    assert (narrow.X != before.X).nnz == 0
    assert narrow.shape == before.shape


def test_too_few_genes_are_refused(cls: type[Estimator], reference: Any) -> None:
    narrow = query_cells()[:, :12].copy()
    with pytest.raises(ValueError, match=rf"12 of the {G} genes of the reference \(30\.0%\), at least 50% are needed"):
        cls.load_query_data(narrow, reference)
    with pytest.warns(UserWarning, match=r"\(30\.0%\)"):
        cls.load_query_data(narrow, reference, min_genes_found=0.3)
    renamed = query_cells()
    renamed.var_names = [f"ENSG{i:06}" for i in range(G)]
    with pytest.raises(ValueError, match=r"0 of the 40 genes.*symbols or identifiers"):
        cls.load_query_data(renamed, reference, min_genes_found=1e-9)
    for share in (0, 1.5, "half"):
        with pytest.raises(ValueError, match=f"min_genes_found={share!r} is not a share"):
            cls.load_query_data(renamed, reference, min_genes_found=share)


@pytest.mark.parametrize("layout", ["sparse", "dense", "backed"])
def test_preparing(cls: type[Estimator], reference: Any, layout: str, tmp_path: Path) -> None:
    query = query_cells()
    order = np.random.default_rng(0).permutation(np.arange(3, G))
    given = query[:, order].copy()
    given.obsm["X_pca"], given.layers["double"] = np.ones((50, 2)), given.X * 2
    if layout == "dense":
        given.X = given.X.toarray()
    if layout == "backed":
        given.write_h5ad(tmp_path / "query.h5ad")
        given = anndata.read_h5ad(tmp_path / "query.h5ad", backed="r")
    with pytest.warns(UserWarning, match="37 of the 40 genes"):
        prepared = cls.prepare_query_anndata(given, reference, inplace=False)
    assert prepared.var_names.tolist() == list(reference.schema.genes)
    expected = query.X.toarray()
    expected[:, :3] = 0
    for values, wanted in ((prepared.X, expected), (prepared.layers["double"], 2 * expected)):
        np.testing.assert_array_equal(values.toarray() if hasattr(values, "toarray") else values, wanted)
    pd.testing.assert_frame_equal(prepared.obs, given.obs)
    assert prepared.obsm["X_pca"].shape == (50, 2)
    assert prepared.var["chosen"].isna().sum() == 3
    assert given.n_vars == G - 3
    assert same(state(load(cls, prepared, reference)), state(load(cls, query, reference)))
    if layout == "backed":
        with pytest.warns(UserWarning), pytest.raises(ValueError, match="open on disk"):  # noqa: PT030
            cls.prepare_query_anndata(given, reference, inplace=True)
        given.file.close()


def test_preparing_in_place_and_names_of_genes(cls: type[Estimator], reference: Any, tmp_path: Path) -> None:
    given = query_cells()[:, 4:].copy()
    with pytest.warns(UserWarning, match="36 of the 40 genes"):
        assert cls.prepare_query_anndata(given, reference) is None
    assert given.var_names.tolist() == list(reference.schema.genes)
    load(cls, given, reference)
    reference.save(tmp_path / "reference")
    names = cls.prepare_query_anndata(given, tmp_path / "reference", return_reference_var_names=True)
    assert names.tolist() == list(reference.schema.genes)


def test_the_query_may_become_what_the_model_reads(cls: type[Estimator], reference: Any) -> None:
    """Scripts pass `inplace_subset_query_vars`; the query is left alone otherwise."""
    order = np.random.default_rng(0).permutation(np.arange(3, G))
    given, same_cells = query_cells()[:, order].copy(), query_cells()[:, order].copy()
    with pytest.warns(UserWarning, match="37 of the 40 genes"):
        model = cls.load_query_data(given, reference, inplace_subset_query_vars=True)
    assert given.var_names.tolist() == list(reference.schema.genes)
    assert model.adata is given
    with pytest.warns(UserWarning, match="37 of the 40 genes"):
        other = cls.load_query_data(same_cells, reference)
    assert same_cells.n_vars == G - 3
    assert np.array_equal(model.get_latent_representation(), other.get_latent_representation())


def test_columns_that_the_reference_reads_are_needed(cls: type[Estimator], reference: Any) -> None:
    query = query_cells()
    del query.obs["batch"]
    with pytest.raises(ValueError, match="batch_key='batch' is not a column"):
        cls.load_query_data(query, reference)
    logged = query_cells()
    logged.X = logged.X.log1p()
    with pytest.raises(ValueError, match="non-integer"):
        cls.load_query_data(logged, reference)
    empty = query_cells()
    empty.X = empty.X * 0
    with pytest.raises(ValueError, match="every count"), pytest.warns(UserWarning):  # noqa: PT030
        cls.load_query_data(empty, reference)


def test_unknown_labels(cls: type[Estimator]) -> None:
    """They are refused where the model reads them, and not looked at elsewhere."""
    setup, query = {"batch_key": "batch", "labels_key": "cell_type"}, query_cells()
    query.obs["cell_type"] = "t9"
    reference = make_reference(cls, setup=setup, **SEES)
    if not cls._reads_labels(reference.options):
        load(cls, query, reference)
    by_label = make_reference(cls, setup=setup, **SEES, dispersion="gene-label")
    with pytest.raises(
        ValueError, match=r"labels_key='cell_type' holds categories that the model has never seen: 't9'"
    ):
        cls.load_query_data(query, by_label)


def test_a_reference_without_batches(cls: type[Estimator]) -> None:
    reference = make_reference(cls, setup={"labels_key": "cell_type"}, **SEES)
    with pytest.warns(UserWarning, match="there is nothing to train"):
        mapped = cls.load_query_data(query_cells(), reference)
    assert np.isfinite(mapped.get_elbo())


# ---- real cells ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("batch", ["sc_dropseq", "sc_celseq2_5cl_p3"])
@pytest.mark.parametrize("real", [scvi.SCVI, scvi.LinearSCVI], ids=lambda cls: cls.__name__)
def test_real_cells_find_their_cell_line(real: type[Estimator], mixology: AnnData, batch: str) -> None:
    """Four batches are fitted, the fifth is mapped. All five were 1.000 right when this was measured."""
    is_query = (mixology.obs["batch"] == batch).to_numpy()
    cells, query = mixology[~is_query].copy(), mixology[is_query].copy()
    real.setup_anndata(cells, batch_key="batch")
    reference: Any = real(cells, encode_covariates=True, seed=0)
    reference.train(max_epochs=30, seed=0, enable_progress_bar=False)
    expected = reference.get_latent_representation()
    mapped = load(real, query, reference)
    before = mapped.get_elbo(seed=0)
    mapped.train(max_epochs=30, seed=0, enable_progress_bar=False)
    latent = mapped.get_latent_representation(cells)
    np.testing.assert_allclose(latent, expected, atol=1e-5)
    vote = KNeighborsClassifier(15).fit(latent, cells.obs["cell_type"])
    assert vote.score(mapped.get_latent_representation(), query.obs["cell_type"]) >= 0.95
    assert mapped.get_elbo(seed=0) > before + 20


@pytest.mark.parametrize("freeze_classifier", [True, False])
def test_labels_of_a_query(freeze_classifier: bool) -> None:
    """The classifier is the reference's unless it is told to learn; the query's labels may be missing altogether."""
    reference = make_reference(scvi.SCANVI, **SEES)
    cells, query = reference.adata, query_cells()
    expected = reference.predict(cells, soft=True)
    unlabelled = query.copy()
    del unlabelled.obs["cell_type"]
    mapped = load(scvi.SCANVI, unlabelled, reference)
    mapped.train(**QUICK, n_samples_per_label=5)
    assert "classification_loss_train" not in mapped.history
    np.testing.assert_allclose(mapped.predict(cells, soft=True), expected, atol=1e-5)
    mapped = load(scvi.SCANVI, query, reference, freeze_classifier=freeze_classifier)
    before = state(mapped)
    mapped.train(**QUICK)
    moved = {name.split(".")[0] for name, t in state(mapped).items() if not torch.equal(t, before[name])}
    learned = set() if freeze_classifier else {"classifier"}
    assert moved - ({"temperature"} if learned else set()) == {"z_encoder", "decoder"} | learned
    assert np.allclose(mapped.predict(cells, soft=True), expected, atol=1e-5) == freeze_classifier
    probabilities = mapped.predict(soft=True)
    mapped.minify_adata()
    np.testing.assert_allclose(mapped.predict(soft=True), probabilities, rtol=1e-5)

"""One small object of each class of 2020, and what their methods and functions are called with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from name_tables import NEEDED
from scvi import dataset, inference, models
from scvi._settings import DispatchingFormatter
from scvi.dataset.dataset import CellMeasurement, GeneExpressionDataset
from scvi.inference.annotation import AnnotationPosterior
from scvi.inference.jvae_trainer import JPosterior
from scvi.inference.trainer import EarlyStopping
from scvi.models import modules
from scvi.models.distributions import NegativeBinomial, ZeroInflatedNegativeBinomial
from small_cells import make_adata

N, G, P, K, C, D = 60, 20, 4, 2, 3, 4
"""Cells, genes, proteins, batches, labels and latent dimensions."""
QUIET: dict[str, Any] = {"show_progbar": False, "use_cuda": False}


def cells(n: int = N, g: int = G, seed: int = 0) -> GeneExpressionDataset:
    """Counts of genes and proteins in two batches with three types of cells, and what is made of them."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % C
    counts = rng.poisson(rng.gamma(1.0, 4.0, (C, g))[labels]) + (np.arange(g) == 0)
    proteins = CellMeasurement(
        "protein_expression", rng.poisson(20, (n, P)), "protein_names", [f"protein{i}" for i in range(P)]
    )
    found = GeneExpressionDataset()
    genes = [f"Gene{i}" for i in range(g)]
    found.populate_from_data(counts, [proteins], np.arange(n) // C % K, labels, genes, ["a", "b", "c"])
    found.corrupt()
    found.normalize()
    return found


# ---- objects ---------------------------------------------------------------------------------------------------------


class OwnTrainer(inference.Trainer):
    """As a user of 2020 wrote one."""

    def __init__(self, model: Any, gene_dataset: GeneExpressionDataset, **options: Any) -> None:
        super().__init__(model, gene_dataset, **options)
        self.everything = self.create_posterior()

    @property
    def posteriors_loop(self) -> list[str]:
        return ["everything"]

    def loss(self, tensors: list[Tensor]) -> Tensor:
        reconstruction, kl, _ = self.model(*tensors)
        return (reconstruction + kl).mean()


def semi_supervised(name: str) -> Any:
    return getattr(inference, name)(made("SCANVI"), cells(), n_labelled_samples_per_class=4, **QUIET)


SMALL: dict[str, Any] = {"n_batch": K, "n_labels": C, "n_hidden": 8, "n_latent": D}
GROUPS: dict[str, Any] = {"labels_groups": [0, 0, 1], "use_labels_groups": True}
CORRELATED: dict[str, Any] = {"n_cells_cluster": 10, "n_genes_high": 5, "n_clusters": 2}
MADE: dict[str, Callable[[], Any]] = {
    "GeneExpressionDataset": cells,
    "SyntheticDatasetCorr": lambda: dataset.SyntheticDatasetCorr(**CORRELATED),
    "ZISyntheticDatasetCorr": lambda: dataset.ZISyntheticDatasetCorr(**CORRELATED),
    "VAE": lambda: models.VAE(G, **SMALL),
    "LDVAE": lambda: models.LDVAE(G, **SMALL),
    "AutoZIVAE": lambda: models.AutoZIVAE(G, **SMALL),
    "VAEC": lambda: models.VAEC(G, **SMALL),
    "SCANVI": lambda: models.SCANVI(G, **SMALL, **GROUPS),
    "TOTALVI": lambda: models.TOTALVI(G, P, **SMALL),
    "JVAE": lambda: models.JVAE([G, G], G, [slice(None)] * 2, ["zinb", "nb"], [True, False], D, n_batch=K),
    "Classifier": lambda: models.Classifier(G, 8, C),
    "FCLayers": lambda: modules.FCLayers(G, 8),
    "Encoder": lambda: modules.Encoder(G, D),
    "Decoder": lambda: modules.Decoder(G, D),
    "DecoderSCVI": lambda: modules.DecoderSCVI(D, G),
    "LinearDecoderSCVI": lambda: modules.LinearDecoderSCVI(D, G),
    "MultiEncoder": lambda: modules.MultiEncoder(2, [G, G], D),
    "MultiDecoder": lambda: modules.MultiDecoder(D, G),
    "DecoderTOTALVI": lambda: modules.DecoderTOTALVI(D, G, P),
    "EncoderTOTALVI": lambda: modules.EncoderTOTALVI(G + P, D),
    "NegativeBinomial": lambda: NegativeBinomial(mu=ONES, theta=ONES),
    "ZeroInflatedNegativeBinomial": lambda: ZeroInflatedNegativeBinomial(mu=ONES, theta=ONES, zi_logits=-ONES),
    "Trainer": lambda: OwnTrainer(made("VAE"), cells(), **QUIET),
    "UnsupervisedTrainer": lambda: inference.UnsupervisedTrainer(made("VAE"), cells(), **QUIET),
    "AdapterTrainer": lambda: inference.AdapterTrainer(made("VAE"), cells(), made("Posterior"), frequency=1),
    "ClassifierTrainer": lambda: inference.ClassifierTrainer(made("Classifier"), cells(), **QUIET),
    **{
        name: partial(semi_supervised, name)
        for name in ("SemiSupervisedTrainer", "JointSemiSupervisedTrainer", "AlternateSemiSupervisedTrainer")
    },
    "JVAETrainer": lambda: inference.JVAETrainer(
        made("JVAE"), models.Classifier(D, 8, 2, logits=True), [cells(), cells(seed=1)], **QUIET
    ),
    "TotalTrainer": lambda: inference.TotalTrainer(
        made("TOTALVI"), cells(), discriminator=models.Classifier(D, 8, K, logits=True), **QUIET
    ),
    "EarlyStopping": lambda: EarlyStopping("elbo", "elbo"),
    "Posterior": lambda: inference.Posterior(made("VAE"), cells(), use_cuda=False),
    "AnnotationPosterior": lambda: AnnotationPosterior(made("SCANVI"), cells(), use_cuda=False),
    "JPosterior": lambda: JPosterior(made("JVAE"), cells(), mode=0, use_cuda=False),
    "TotalPosterior": lambda: inference.TotalPosterior(made("TOTALVI"), cells(), use_cuda=False),
    "DispatchingFormatter": lambda: DispatchingFormatter(logging.Formatter("%(message)s")),
}


def made(name: str) -> Any:
    """An object of a class; networks have weights of one seed, and are as they are asked."""
    torch.manual_seed(0)
    found = MADE[name]()
    return found.eval() if isinstance(found, nn.Module) else found


@cache
def trained(name: str) -> Any:
    """A trainer after an epoch."""
    trainer = made(name)
    trainer.train(**({"n_path": 1} if name == "AdapterTrainer" else {}), n_epochs=1)
    return trainer


# ---- arguments -------------------------------------------------------------------------------------------------------

DATA = cells()
X = torch.as_tensor(DATA.X[:9].astype(np.float32))
ONES, COLUMN = torch.ones(9, G), torch.zeros(9, 1)
BATCH, LABEL = (torch.as_tensor(codes[:9].astype(np.int64)) for codes in (DATA.batch_indices, DATA.labels))
PROTEINS = torch.as_tensor(DATA.protein_expression[:9].astype(np.float32))
LATENT = torch.randn(9, D, generator=torch.Generator().manual_seed(0))
POINTS, CLASSES, IS_FIRST = LATENT.numpy(), np.arange(9) % C, np.arange(N) < 9

VALUES: dict[str, Any] = {
    # cells of a network
    "x": X, "data": X, "batch_index": BATCH, "y": LABEL, "label": LABEL, "mode": 0, "z": LATENT, "head_id": 0,
    "dataset_id": 0, "local_l_mean": COLUMN, "local_l_var": COLUMN + 1, "local_l_mean_gene": COLUMN,
    "local_l_var_gene": COLUMN + 1, "library": COLUMN, "library_gene": COLUMN + 1, "dispersion": "gene",
    # parameters of distributions
    "px_rate": ONES, "px_r": ONES, "px_dropout": ONES, "mu": ONES, "var": ONES, "theta": ONES, "pi": ONES, "mu_1": ONES,
    "mu_2": 2 * ONES, "theta_1": ONES, "theta_2": ONES, "alpha": ONES[0], "beta": ONES[0],
    "bernoulli_params": ONES[0] / 2, "value": ONES,
    # helpers of networks
    "obj": [X], "func": torch.exp, "index": LABEL, "n_cat": C, "y_dim": C, "input": ONES, "dim": -1,
    # trainers and posteriors
    "scalar": 1.0, "idx": np.arange(5), "data_loader_kwargs": {"batch_size": 7}, "tensors": [X],
    "indices": np.arange(4), "latent": POINTS,
    "latent_space": np.random.default_rng(0).random((60, 2)), "batches": np.arange(60) % 2,
    "X1": POINTS, "X2": POINTS + 0.1, "original": ONES.numpy(), "imputed": (ONES + X).numpy(), "real_latent1": POINTS,
    "real_latent2": POINTS, "normed_gene_exp_1": ONES.numpy(), "data_train": POINTS, "labels_train": CLASSES,
    "data_test": POINTS, "labels_test": CLASSES, "y_pred": CLASSES,
    "selection": IS_FIRST, "arr1": ONES.numpy(), "arr2": X.numpy(), "ary": POINTS[:, 0], "samples": POINTS,
    # data sets
    "ad": make_adata(30), "adata": make_adata(), "original_categories": np.array([3, 5, 3]), "arrays": [np.ones(2)] * 2,
    "attribute_name": "protein_expression", "version_name": "first", "values_to_keep": [0, 1], "on": "labels",
    "idx1": IS_FIRST, "idx2": ~IS_FIRST, "subset_genes": np.arange(5), "first_genes": ["Gene3"], "genes": ["Gene3"],
    "cell_types": ["a", "b"], "new_cell_type_name": "d", "cell_types_dict": {"a": "d"}, "new_order": ["c", "b", "a"],
    "subset_cells": np.arange(30),
    # the session
    "record": logging.makeLogRecord({"msg": "said"}), "level": "WARNING",
}  # fmt: skip
"""By name of the argument."""


def minibatches(name: str) -> Any:
    """Of one step of a trainer."""
    return next(iter(trained(name).data_loaders_loop()))


def nearest_neighbours() -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(3).fit(POINTS, CLASSES)


def saved(folder: Path) -> str:
    made("Posterior").save_posterior(str(folder / "posterior"))
    return str(folder / "posterior")


def decoded_of_totalvi() -> dict[str, Any]:
    found = made("TOTALVI").inference(X, PROTEINS, BATCH, LABEL)
    return {name: found[name] for name in ("px_", "py_")}


OF_A_NAME: dict[str, Callable[[Path], dict[str, Any]]] = {
    "GeneExpressionDataset.populate_from_data": lambda _: {"X": DATA.X},
    "GeneExpressionDataset.populate_from_per_batch_list": lambda _: {"Xs": [DATA.X[:30], DATA.X[30:]]},
    "GeneExpressionDataset.populate_from_per_label_list": lambda _: {"Xs": [DATA.X[:30], DATA.X[30:]]},
    "GeneExpressionDataset.populate_from_datasets": lambda _: {"gene_datasets_list": [cells(), cells(seed=1)]},
    "GeneExpressionDataset.initialize_cell_attribute": lambda _: {"attribute_name": "age", "attribute": np.ones(N)},
    "GeneExpressionDataset.initialize_gene_attribute": lambda _: {"attribute_name": "kind", "attribute": np.ones(G)},
    "GeneExpressionDataset.initialize_cell_measurement": lambda _: {
        "measurement": CellMeasurement("peaks", np.ones((N, 2)), "peak_names", ["p0", "p1"])
    },
    "GeneExpressionDataset.initialize_mapped_attribute": lambda _: {
        "source_attribute_name": "labels", "mapping_name": "colours", "mapping_values": ["red", "green", "blue"],
    },
    "GeneExpressionDataset.collate_fn_base": lambda _: {
        "attributes_and_types": {"X": np.float32, "labels": np.int64}, "batch": np.arange(5),
    },
    "GeneExpressionDataset.filter_genes_by_attribute": lambda _: {"values_to_keep": ["Gene1"], "on": "gene_names"},
    "GeneExpressionDataset.subsample_genes": lambda _: {"new_n_genes": 10},
    "CellMeasurement": lambda _: {
        "name": "peaks", "data": np.ones((N, 2)), "columns_attr_name": "peak_names", "columns": ["p0", "p1"],
    },
    "SyntheticDatasetCorr.mask": lambda _: {"data": np.ones((5, 5))},
    "ZISyntheticDatasetCorr.mask": lambda _: {"data": np.ones_like(made("ZISyntheticDatasetCorr").exprs_param)},
    "extract_data_from_anndata": lambda _: {"ctype_label": "cell_type"},
    "seurat_v3_highly_variable_genes": lambda _: {"n_top_genes": 10},
    "compute_library_size": lambda _: {"data": DATA.X},
    "check_nonnegative_integers": lambda _: {"X": DATA.X},
    "broadcast_labels": lambda _: {"y": None, "o": (LATENT,), "n_broadcast": C},
    "TOTALVI.": lambda _: {"y": PROTEINS},
    "TOTALVI.get_reconstruction_loss": lambda _: decoded_of_totalvi(),
    "EncoderTOTALVI.forward": lambda _: {"data": torch.cat([X, PROTEINS], 1)},
    "auto_tune_scvi_model": lambda folder: {
        "exp_key": "called", "gene_dataset": cells(), "max_evals": 1, "parallel": False, "save_path": str(folder),
        "train_func_specific_kwargs": {"n_epochs": 1}, "metric_kwargs": {"n_mc_samples": 2},
    },
    "configure_asynchronous_logging": lambda _: {"logging_queue": SimpleQueue()},
    "compute_elbo": lambda _: {"vae": made("VAE"), "posterior": made("Posterior")},
    "compute_reconstruction_error": lambda _: {"vae": made("VAE"), "posterior": made("Posterior")},
    "compute_marginal_log_likelihood_scvi": lambda _: {"vae": made("VAE"), "posterior": made("Posterior")},
    "compute_marginal_log_likelihood_autozi": lambda _: {
        "autozivae": made("AutoZIVAE"), "posterior": made("Posterior"), "n_samples_mc": 3,
    },
    "UnsupervisedTrainer.loss": lambda _: {"tensors": minibatches("UnsupervisedTrainer")[0]},
    "Trainer.on_training_loop": lambda _: {"tensors_list": minibatches("Trainer")},
    "Trainer.register_posterior": lambda _: {"name": "further", "value": made("Posterior")},
    "Trainer.train": lambda _: {"n_epochs": 1},
    "AdapterTrainer.train": lambda _: {"n_path": 1, "n_epochs": 1},
    "ClassifierTrainer.loss": lambda _: {"tensors_labelled": minibatches("ClassifierTrainer")[0]},
    "SemiSupervisedTrainer.loss": lambda _: dict(
        zip(("tensors_all", "tensors_labelled"), minibatches("SemiSupervisedTrainer"), strict=True)
    ),
    "AlternateSemiSupervisedTrainer.loss": lambda _: {
        "all_tensor": minibatches("AlternateSemiSupervisedTrainer")[0]
    },
    "JVAETrainer.on_training_loop": lambda _: {"tensors_list": minibatches("JVAETrainer")},
    "JVAETrainer.loss": lambda _: {"tensors": minibatches("JVAETrainer")},
    "JVAETrainer.loss_discriminator": lambda _: {"latent_tensors": [LATENT, LATENT]},
    "TotalTrainer.train": lambda _: {"n_epochs": 1},
    "TotalTrainer.loss": lambda _: {"tensors": minibatches("TotalTrainer")[0]},
    "TotalTrainer.on_training_loop": lambda _: {"tensors_list": minibatches("TotalTrainer")},
    "TotalTrainer.loss_discriminator": lambda _: {"z": LATENT, "batch_index": BATCH},
    "AnnotationPosterior.nn_latentspace": lambda _: {"posterior": made("AnnotationPosterior")},
    "compute_predictions": lambda _: {"model": made("SCANVI"), "data_loader": made("AnnotationPosterior")},
    "compute_accuracy": lambda _: {"vae": made("SCANVI"), "data_loader": made("AnnotationPosterior")},
    "compute_accuracy_tuple": lambda _: {"y": CLASSES},
    "compute_accuracy_svc": lambda _: {"param_grid": [{"C": [1]}]},
    "compute_accuracy_rf": lambda _: {"param_grid": [{"n_estimators": [3]}]},
    "compute_accuracy_classifier": lambda _: {"clf": nearest_neighbours()},
    "unsupervised_clustering_accuracy": lambda _: {"y": CLASSES},
    "knn_purity": lambda _: {"label": CLASSES, "n_neighbors": 2},
    "nn_overlap": lambda _: {"k": 3},
    "Posterior.save_posterior": lambda folder: {"dir_path": str(folder / "saved")},
    "Posterior.marginal_ll": lambda _: {"n_mc_samples": 3},
    "Posterior.imputation_benchmark": lambda folder: {"n_samples": 2, "show_plot": False, "save_path": str(folder)},
    "Posterior.within_cluster_degenes": lambda _: {"states": np.arange(N) % 2 == 0, "min_cells": 3, "n_samples": 20},
    "Posterior.one_vs_all_degenes": lambda _: {"min_cells": 3, "n_samples": 20},
    "save_cluster_xlsx": lambda folder: {
        "filepath": str(folder / "genes.xlsx"), "de_results": [pd.DataFrame(POINTS)], "cluster_names": ["a"],
    },
    "load_posterior": lambda folder: {"dir_path": saved(folder), "model": made("VAE"), "use_cuda": False},
    "TotalPosterior.compute_elbo": lambda _: {"vae": made("TOTALVI")},
    "TotalPosterior.compute_reconstruction_error": lambda _: {"vae": made("TOTALVI")},
    "TotalPosterior.marginal_ll": lambda _: {"n_mc_samples": 3},
}  # fmt: skip
"""By name, or the beginning of several: arguments that are others there, or that may be left out."""
OF_A_CELL = ("batch_index", "y", "label", "mode")
"""What methods of networks are told of a cell, also where they need not be."""


def given(name: str, there: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The arguments of a call, of those that there are with their defaults."""
    ways: Iterator[Callable[[Path], dict[str, Any]] | None] = map(OF_A_NAME.get, (name.partition(".")[0] + ".", name))
    own = {argument: value for way in ways if way is not None for argument, value in way(folder).items()}
    told = OF_A_CELL if isinstance(MADE.get(name.partition(".")[0], lambda: None)(), nn.Module) else ()
    wanted = [argument for argument, default in there.items() if default is NEEDED or argument in told]
    return {**{argument: VALUES[argument] for argument in wanted if argument not in own}, **own}

"""Files as scvi-tools writes them, and its networks in plain operations on a state dict: what models of it must answer.

Shapes: n cells, g genes, d latent. Random weights; batch norm in evaluation.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from mudata import MuData
from torch import Tensor
from torch.nn.functional import layer_norm, softplus

Weights = dict[str, Tensor]


@dataclass
class Foreign:
    """A model of scvi-tools of some cells."""

    kind: str
    adata: AnnData
    options: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)  # of its setup_anndata
    n_hidden: int = 8
    n_latent: int = 3
    n_layers: int = 1
    unlabeled: str | None = None
    weights: Weights = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.rng = torch.Generator().manual_seed(0)
        self.options = {"n_hidden": self.n_hidden, "n_latent": self.n_latent, "n_layers": self.n_layers, **self.options}

    # ---- what cells say ----------------------------------------------------------------------------------------------

    def mapping(self, key: str) -> np.ndarray:
        """Categories of a column as scvi-tools numbers them, the unlabelled one last."""
        values = self.adata.obs[key]
        names = list(values.astype("category").cat.categories)
        if key == self.keys.get("labels_key") and self.unlabeled is not None:
            names = [name for name in names if name != self.unlabeled] + [self.unlabeled]
        return np.array(names)

    def codes(self, key: str | None) -> tuple[Tensor, int]:
        """(n,) codes of a column, and how many there are."""
        if key is None:
            return torch.zeros(self.adata.n_obs, dtype=torch.int64), 1
        names = self.mapping(key).tolist()
        return torch.tensor([names.index(value) for value in self.adata.obs[key]]), len(names)

    def one_hot(self) -> Tensor:
        """(n, .) columns of batch and categorical covariates that have more than one value."""
        batch_key = None if self.is_embedded else self.keys.get("batch_key")
        keys = [batch_key, *(self.keys.get("categorical_covariate_keys") or [])]
        pairs = [self.codes(key) for key in keys]
        columns = [torch.nn.functional.one_hot(codes, n).float() for codes, n in pairs if n > 1]
        return torch.cat([torch.zeros(self.adata.n_obs, 0), *columns], dim=1)

    @property
    def is_embedded(self) -> bool:
        return self.options.get("batch_representation") == "embedding"

    def continuous(self) -> Tensor:
        """(n, .) continuous covariates as they are, and the embedding of the batch."""
        keys = self.keys.get("continuous_covariate_keys") or []
        values = self.adata.obs[keys].to_numpy(dtype=np.float32) if keys else np.zeros((self.adata.n_obs, 0), "f")
        if not self.is_embedded:
            return torch.from_numpy(values)
        codes, n_batch = self.codes(self.keys.get("batch_key"))
        table = self.weights.setdefault("embeddings_dict.batch.weight", self.draw(n_batch, 5))
        return torch.cat([torch.from_numpy(values), table[codes]], dim=1)

    def counts(self) -> Tensor:
        """(n, g)"""
        return torch.from_numpy(self.adata.X.toarray())

    # ---- weights -----------------------------------------------------------------------------------------------------

    def draw(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.rng) / 4

    def linear(self, name: str, n_in: int, n_out: int, bias: bool = True) -> None:
        self.weights[f"{name}.weight"] = self.draw(n_out, n_in)
        if bias:
            self.weights[f"{name}.bias"] = self.draw(n_out)

    def batch_norm(self, name: str, n: int) -> None:
        self.weights |= {f"{name}.weight": self.draw(n) + 1, f"{name}.bias": self.draw(n)}
        self.weights |= {f"{name}.running_mean": self.draw(n), f"{name}.running_var": self.draw(n).exp()}
        self.weights[f"{name}.num_batches_tracked"] = torch.tensor(3)

    def layers(self, name: str, n_in: int, n_out: int, beside: int, n_layers: int = 1, **parts: bool) -> None:
        """Layers of which each sees further columns, as `beside` says how many."""
        deep = self.options.get("deeply_inject_covariates", True)
        for i in range(n_layers):
            more = beside if deep or i == 0 else 0
            width = n_out if i == n_layers - 1 else self.n_hidden
            inputs = n_in if i == 0 else self.n_hidden
            self.linear(f"{name}.fc_layers.Layer {i}.0", inputs + more, width, parts.get("bias", True))
            if parts.get("norm", self.options.get("use_batch_norm", "both") == "both"):
                self.batch_norm(f"{name}.fc_layers.Layer {i}.1", width)

    def through(self, name: str, x: Tensor, beside: Tensor, relu: bool = True) -> Tensor:
        """What these layers make of x, in evaluation."""
        w, i = self.weights, 0
        while f"{name}.fc_layers.Layer {i}.0.weight" in w:
            layer = f"{name}.fc_layers.Layer {i}"
            seen = torch.cat([x, beside], dim=1) if i == 0 or self.options.get("deeply_inject_covariates", True) else x
            x = torch.nn.functional.linear(seen, w[f"{layer}.0.weight"], w.get(f"{layer}.0.bias"))
            if f"{layer}.1.weight" in w:
                deviation = (w[f"{layer}.1.running_var"] + 0.001).sqrt()
                x = (x - w[f"{layer}.1.running_mean"]) / deviation * w[f"{layer}.1.weight"] + w[f"{layer}.1.bias"]
            if self.options.get("use_layer_norm", "none") == "both":
                x = layer_norm(x, x.shape[1:])
            x = torch.relu(x) if relu else x
            i += 1
        return x

    def head(self, name: str, h: Tensor) -> Tensor:
        return torch.nn.functional.linear(h, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def gaussian(self, name: str, x: Tensor, beside: Tensor, floor: float = 1e-4) -> tuple[Tensor, Tensor]:
        """Mean and variance of an encoder."""
        h = self.through(f"{name}.encoder", x, beside)
        return self.head(f"{name}.mean_encoder", h), self.head(f"{name}.var_encoder", h).exp() + floor

    def encoder(self, name: str, n_in: int, n_out: int, beside: int, n_layers: int) -> None:
        self.layers(f"{name}.encoder", n_in, self.n_hidden, beside, n_layers)
        for part in ("mean_encoder", "var_encoder"):
            self.linear(f"{name}.{part}", self.n_hidden, n_out)

    # ---- files -------------------------------------------------------------------------------------------------------

    def registry(self) -> dict[str, Any]:
        fields: Any = defaultdict(dict)
        layer = self.keys.get("layer")
        fields["X"] = {
            "data_registry": {"attr_name": "X" if layer is None else "layers", "attr_key": layer},
            "state_registry": {"n_obs": self.adata.n_obs, "n_vars": self.adata.n_vars},
            "summary_stats": {"n_vars": self.adata.n_vars, "n_cells": self.adata.n_obs},
        }
        for name, argument in (("batch", "batch_key"), ("labels", "labels_key")):
            key = self.keys.get(argument)
            mapping = np.array([0]) if key is None else self.mapping(key)
            state = {"categorical_mapping": mapping, "original_key": f"_scvi_{name}" if key is None else key}
            if name == "labels" and self.unlabeled is not None:
                state["unlabeled_category"] = self.unlabeled
            fields[name] = {
                "data_registry": {"attr_name": "obs", "attr_key": f"_scvi_{name}"},
                "state_registry": state,
                "summary_stats": {f"n_{name}": len(mapping)},
            }
        further = self.keys.get("categorical_covariate_keys") or []
        fields["extra_categorical_covs"] = {
            "data_registry": {"attr_name": "obsm", "attr_key": "_scvi_extra_categorical_covs"} if further else {},
            "state_registry": {"mappings": {key: self.mapping(key) for key in further}, "field_keys": further}
            if further
            else {},
            "summary_stats": {"n_extra_categorical_covs": len(further)},
        }
        numbers = self.keys.get("continuous_covariate_keys") or []
        fields["extra_continuous_covs"] = {
            "data_registry": {"attr_name": "obsm", "attr_key": "_scvi_extra_continuous_covs"} if numbers else {},
            "state_registry": {"columns": np.array(numbers, dtype=object)} if numbers else {},
            "summary_stats": {"n_extra_continuous_covs": len(numbers)},
        }
        if self.kind == "TOTALVI":
            names = list(self.adata.obsm["proteins"].columns)
            fields["proteins"] = {
                "data_registry": {"attr_name": "obsm", "attr_key": "proteins"},
                "state_registry": {"column_names": names},
                "summary_stats": {"n_proteins": len(names)},
            }
        sizes = self.keys.get("size_factor_key")
        place = {} if sizes is None else {"attr_name": "obs", "attr_key": sizes}
        fields["size_factor"] = {"data_registry": place, "state_registry": {}, "summary_stats": {}}
        return {
            "scvi_version": "1.4.2",
            "model_name": self.kind,
            "setup_args": dict(self.keys),
            "field_registries": fields,
            "setup_method_name": "setup_anndata",
        }

    def content(self) -> dict[str, Any]:
        """What the file holds."""
        n = self.adata.n_obs
        epochs = pd.Index(range(3), name="epoch")
        explicit = {k: v for k, v in self.options.items() if k in ("n_hidden", "n_latent", "n_layers")}
        further = {k: v for k, v in self.options.items() if k not in explicit}
        return {
            "model_state_dict": {**self.weights, "pyro_param_store": {"params": {}, "constraints": {}}},
            "var_names": self.adata.var_names.to_numpy().astype(object),
            "attr_dict": {
                "init_params_": {"non_kwargs": explicit, "kwargs": {"model_kwargs": further}},
                "registry_": self.registry(),
                "history_": {"elbo_train": pd.DataFrame({"elbo_train": [3.0, 2.0, 1.5]}, index=epochs, dtype=object)},
                "is_trained_": True,
                "train_indices_": np.arange(n - 1)[::-1].copy(),
                "validation_indices_": np.array([n - 1]),
                "test_indices_": np.array([], dtype=np.int64),
            },
        }

    def write(self, folder: Path, prefix: str = "", content: dict[str, Any] | None = None) -> Path:
        folder.mkdir(exist_ok=True)
        torch.save(self.content() if content is None else content, folder / f"{prefix}model.pt")
        return folder


def scvi_like(foreign: Foreign) -> Foreign:
    """Gives it the weights of SCVI, or of a model that builds upon it."""
    g, d, beside = foreign.adata.n_vars, foreign.n_latent, foreign.one_hot().shape[1]
    n_cont = foreign.continuous().shape[1]
    seen = foreign.options.get("encode_covariates", False)
    observed = foreign.options.get("use_observed_lib_size", foreign.kind != "LinearSCVI")
    n_batch = foreign.codes(foreign.keys.get("batch_key"))[1]
    columns = {"gene-batch": (n_batch,), "gene-label": (foreign.codes(foreign.keys.get("labels_key"))[1],)}
    dispersion = foreign.options.get("dispersion", "gene")
    if dispersion != "gene-cell":
        foreign.weights["px_r"] = foreign.draw(g, *columns.get(dispersion, ()))
    inputs, columns_seen = g + n_cont * seen, beside * seen
    foreign.encoder("z_encoder", inputs, d, columns_seen, foreign.n_layers)
    foreign.encoder("l_encoder", inputs, 1, columns_seen, 1)
    if not observed:
        foreign.weights["library_log_means"] = foreign.draw(1, n_batch) + 5
        foreign.weights["library_log_vars"] = foreign.draw(1, n_batch).exp()
    if foreign.kind == "LinearSCVI":
        for name in ("decoder.factor_regressor", "decoder.px_dropout_decoder"):
            foreign.layers(name, d, g, beside, bias=False)
        return foreign
    foreign.layers("decoder.px_decoder", d + n_cont, foreign.n_hidden, beside, foreign.n_layers)
    for name in ("px_scale_decoder.0", "px_r_decoder", "px_dropout_decoder"):
        foreign.linear(f"decoder.{name}", foreign.n_hidden, g)
    return foreign


HEADS = {
    "px_scale_decoder": "px_decoder",
    "py_back_mean_log_alpha": "py_back_decoder",
    "py_back_mean_log_beta": "py_back_decoder",
    "py_fore_scale_decoder": "py_fore_decoder",
    "px_dropout_decoder_gene": "sigmoid_decoder",
    "py_background_decoder": "sigmoid_decoder",
}
"""Of the decoder of totalVI, and the network each of them stands on."""


def totalvi(foreign: Foreign, has_efficiency: bool) -> Foreign:
    """Gives it the weights of TOTALVI."""
    g, p, d = foreign.adata.n_vars, foreign.adata.obsm["proteins"].shape[1], foreign.n_latent
    beside, n_cont = foreign.one_hot().shape[1], foreign.continuous().shape[1]
    n_batch = foreign.codes(foreign.keys.get("batch_key"))[1]
    foreign.options = {"n_latent": d, "n_hidden": foreign.n_hidden}
    foreign.layers("encoder.encoder", g + p + n_cont, foreign.n_hidden, beside, 2)
    foreign.layers("encoder.l_gene_encoder", g + p + n_cont, foreign.n_hidden, beside)
    for name, width in (("z", d), ("l_gene", 1)):
        for part in ("mean", "var"):
            foreign.linear(f"encoder.{name}_{part}_encoder", foreign.n_hidden, width)
    for head, trunk in HEADS.items():
        if f"decoder.{trunk}.fc_layers.Layer 0.0.weight" not in foreign.weights:
            foreign.layers(f"decoder.{trunk}", d + n_cont, foreign.n_hidden, beside)
        n_out = g if head.startswith("px") else p
        foreign.layers(f"decoder.{head}", foreign.n_hidden + d + n_cont, n_out, beside, norm=False)
    for name in ("background_pro_alpha", "background_pro_log_beta"):
        foreign.weights[name] = foreign.draw(p, n_batch)
    foreign.weights |= {"px_r": foreign.draw(g), "py_r": foreign.draw(p)}
    if has_efficiency:
        foreign.weights["log_per_batch_efficiency"] = foreign.draw(p, n_batch)
    return foreign


def of_mudata(foreign: Foreign, elsewhere: dict[str, str | None] | None = None) -> tuple[dict[str, Any], MuData]:
    """What the file holds of a TOTALVI of the same cells as a MuData with modalities "gex" and "adt", and that MuData.

    Parameters
    ----------
    elsewhere
        Fields whose column is in the `obs` of another modality than that of the RNA, or of the MuData (None).
    """
    content, adata = foreign.content(), foreign.adata
    table, rna = adata.obsm["proteins"], adata.copy()
    del rna.obsm["proteins"]
    adt = AnnData(np.zeros(table.shape, np.float32), pd.DataFrame(index=table.index), pd.DataFrame(index=table.columns))
    adt.layers["raw"] = table.to_numpy(np.float32)
    mdata = MuData({"gex": rna, "adt": adt})
    registry = content["attr_dict"]["registry_"]
    registry["setup_method_name"], fields = "setup_mudata", registry["field_registries"]
    places: dict[str, str | None] = dict.fromkeys(("X", "batch", "extra_categorical_covs"), "gex")
    for name, place in {**places, "extra_continuous_covs": "gex", "proteins": "adt", **(elsewhere or {})}.items():
        if place is not None:
            fields[name]["data_registry"]["mod_key"] = place
    fields["X"]["state_registry"]["column_names"] = adata.var_names.to_numpy().astype(object)
    fields["proteins"]["data_registry"] |= {"attr_name": "layers", "attr_key": "raw"}
    content["var_names"] = {name: modality.var_names.to_numpy().astype(object) for name, modality in mdata.mod.items()}
    for name, place in (elsewhere or {}).items():
        column = registry["setup_args"][f"{name}_key"]
        (mdata if place is None else mdata.mod[place]).obs[column] = rna.obs.pop(column)
    return content, mdata


def answers_of_totalvi(foreign: Foreign) -> dict[str, Tensor]:
    """What it says at the mean of q(z | x); the background is that of the rates, times the efficiency of the batch."""
    w, codes, cont = foreign.weights, foreign.one_hot(), foreign.continuous()
    efficiency = w.get("log_per_batch_efficiency")
    seen = []
    for counts in (foreign.counts(), torch.tensor(foreign.adata.obsm["proteins"].to_numpy(dtype=np.float32))):
        relative = counts / (1 + counts.mean(1, keepdim=True))
        seen.append((counts if efficiency is None else relative).log1p())
    h = foreign.through("encoder.encoder", torch.cat([*seen, cont], dim=1), codes)
    mean = foreign.head("encoder.z_mean_encoder", h)
    inputs = torch.cat([mean, cont], dim=1)

    def said(head: str) -> Tensor:
        below = foreign.through(f"decoder.{HEADS[head]}", inputs, codes)
        return foreign.through(f"decoder.{head}", torch.cat([below, inputs], dim=1), codes, relu=False)

    batch = foreign.codes(foreign.keys.get("batch_key"))[0]
    more = 0 if efficiency is None else efficiency.T[batch]
    return {
        "mean": mean,
        "variance": foreign.head("encoder.z_var_encoder", h).exp() + 1e-4,
        "scale": torch.softmax(said("px_scale_decoder"), dim=1),
        "background": said("py_back_mean_log_alpha") + more,
        "deviation": softplus(said("py_back_mean_log_beta")) + 1e-8,
        "fore_scale": torch.relu(said("py_fore_scale_decoder")) + 1 + 1e-8,
        "mixing": said("py_background_decoder"),
        "prior": w["background_pro_alpha"].T[batch] + more,
    }


def answers_of_scvi(foreign: Foreign) -> dict[str, Tensor]:
    """Mean and variance of q(z | x), frequencies and dropout logits at that mean, and log dispersions (n, g)."""
    x, cont, codes = foreign.counts().log1p(), foreign.continuous(), foreign.one_hot()
    seen = foreign.options.get("encode_covariates", False)
    inputs, beside = (torch.cat([x, cont], dim=1), codes) if seen else (x, codes[:, :0])
    mean, variance = foreign.gaussian("z_encoder", inputs, beside)
    z = torch.softmax(mean, dim=1) if foreign.options.get("latent_distribution") == "ln" else mean
    if foreign.kind == "LinearSCVI":
        logits = foreign.through("decoder.factor_regressor", z, codes, relu=False)
        return {"mean": mean, "variance": variance, "scale": torch.softmax(logits, dim=1)}
    h = foreign.through("decoder.px_decoder", torch.cat([z, cont], dim=1), codes)
    found = {"mean": mean, "variance": variance}
    numbers, sizes = foreign.head("decoder.px_scale_decoder.0", h), foreign.keys.get("size_factor_key")
    found["scale"] = torch.softmax(numbers, dim=1)
    if sizes is not None:  # positive numbers, which are no frequencies
        positive = softplus(numbers)
        found["rate"] = torch.from_numpy(foreign.adata.obs[[sizes]].to_numpy(dtype=np.float32)) * positive
        found["scale"] = positive / positive.sum(1, keepdim=True)
    found["dropout"] = foreign.head("decoder.px_dropout_decoder", h)
    dispersion, px_r = foreign.options.get("dispersion", "gene"), foreign.weights.get("px_r")
    if dispersion == "gene-cell":
        found["log_theta"] = foreign.head("decoder.px_r_decoder", h)
    elif dispersion == "gene":
        found["log_theta"] = px_r.expand(len(x), -1)
    else:
        key = foreign.keys["batch_key" if dispersion == "gene-batch" else "labels_key"]
        found["log_theta"] = px_r.T[foreign.codes(key)[0]]
    return found

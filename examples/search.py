"""Search for the arguments with which scVI explains cells best that it has not seen, and what the search is worth.

Needs the extra [tune]. Run it again with a folder of its own in place of the temporary one, and it goes on.
"""

from tempfile import TemporaryDirectory

import scvi

adata = scvi.demo.load()[::4, :500].copy()  # a few cells and genes, so that this takes seconds
scvi.SCVI.setup_anndata(adata, batch_key="batch")

# A list has choices, a pair is a range, anything else is held fixed. Of the constructor and of train, by name.
space = {
    "n_latent": (5, 15),
    "n_hidden": [64, 128],
    "gene_likelihood": ["zinb", "nb"],
    "lr": (1e-3, 1e-2, "log"),
    "max_epochs": 10,
}

with TemporaryDirectory() as folder:
    found = scvi.tune.search(scvi.SCVI, adata, space=space, metric="marginal_ll", n_trials=6, output=folder, seed=0)

    print(found.trials[["state", "value", "n_latent", "n_hidden", "gene_likelihood", "lr"]].round(4).to_string())
    gain = found.best_value - found.trials["value"].iloc[0]  # the first trial has the defaults
    print(f"\nbest: trial {found.best_trial}, {gain:.1f} nats per cell better than the defaults")
    print(f"scvi.SCVI(adata, {', '.join(f'{name}={value!r}' for name, value in found.best_model_args.items())})")
    print(f"model.train({', '.join(f'{name}={value!r}' for name, value in found.best_train_args.items())})")

    latent = found.model.get_latent_representation()  # the model was fitted anew, to all cells
    print(f"latent space of the best model: {latent.shape[0]} cells x {latent.shape[1]}")

"""A custom objective and a data set of a search of 2020, in a module, so that other processes can import them."""

from __future__ import annotations

from typing import Any

import numpy as np

from objects_2020 import cells
from scvi.dataset.dataset import DownloadableDataset
from scvi.inference import SemiSupervisedTrainer
from scvi.models import SCANVI


def objective_of_scanvi(space: dict[str, Any], is_best_training: bool = False, **kwargs: Any) -> Any:
    """Inaccuracy of SCANVI on cells whose labels are hidden, with what it is fitted to; the trainer at the end."""
    dataset = kwargs["dataset"]
    model = SCANVI(dataset.nb_genes, dataset.n_batches, dataset.n_labels, **space["model_tunable_kwargs"])
    trainer = SemiSupervisedTrainer(model, dataset, use_cuda=False, show_progbar=False)
    known = np.arange(len(dataset)) % 2 == 0
    trainer.labelled_set = trainer.create_posterior(indices=known)
    trainer.unlabelled_set = trainer.create_posterior(indices=~known)
    trainer.train(kwargs["n_epochs"], **space["train_func_tunable_kwargs"])
    if is_best_training:
        return trainer
    return {"loss": 1 - trainer.unlabelled_set.accuracy(), "n_labelled": int(known.sum())}


class DrawnCells(DownloadableDataset):
    """Cells that are drawn when the data set is populated."""

    def __init__(self, delayed_populating: bool = False) -> None:
        super().__init__(None, [], delayed_populating=delayed_populating)

    def populate(self) -> None:
        drawn = cells()
        self.populate_from_data(drawn.X, batch_indices=drawn.batch_indices, labels=drawn.labels)

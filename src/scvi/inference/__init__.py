"""Fitting a model and asking it questions, under the names of 2020."""

from scvi.inference.annotation import (
    AlternateSemiSupervisedTrainer,
    ClassifierTrainer,
    JointSemiSupervisedTrainer,
    SemiSupervisedTrainer,
)
from scvi.inference.inference import AdapterTrainer, UnsupervisedTrainer
from scvi.inference.jvae_trainer import JVAETrainer
from scvi.inference.posterior import Posterior
from scvi.inference.posterior_utils import load_posterior
from scvi.inference.total_inference import TotalPosterior, TotalTrainer
from scvi.inference.trainer import Trainer

__all__ = [
    "AdapterTrainer",
    "AlternateSemiSupervisedTrainer",
    "ClassifierTrainer",
    "JVAETrainer",
    "JointSemiSupervisedTrainer",
    "Posterior",
    "SemiSupervisedTrainer",
    "TotalPosterior",
    "TotalTrainer",
    "Trainer",
    "UnsupervisedTrainer",
    "load_posterior",
]

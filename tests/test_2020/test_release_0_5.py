"""Arguments of release 0.5 that 0.6 had not: another name for one that it has, or an error that says what to pass."""

import inspect

import pytest

from scvi.dataset import SyntheticDataset
from scvi.inference import JVAETrainer, Posterior, TotalTrainer
from scvi.models import JVAE, LDVAE, TOTALVI, VAE, Classifier
from scvi.models.modules import LinearDecoderSCVI

QUIET = {"use_cuda": False, "show_progbar": False}


@pytest.fixture(scope="module")
def cells():
    return SyntheticDataset(batch_size=15, nb_genes=6, n_proteins=3)


def depth(network):
    return len(network.fc_layers)


def test_the_number_of_layers_under_its_former_name():
    assert depth(LDVAE(6, n_layers=3).z_encoder.encoder) == 3
    both = TOTALVI(6, 3, n_layers=3)
    assert depth(both.encoder.encoder) == depth(both.decoder.px_decoder) == 3
    assert depth(LDVAE(6, 0, 0, 8, 2, 3).z_encoder.encoder) == 3  # by its place
    for make, name in (
        (lambda **n: LDVAE(6, **n), "n_layers_encoder"),
        (lambda **n: TOTALVI(6, 3, **n), "n_layers_decoder"),
    ):
        with pytest.raises(TypeError, match=f"n_layers=3 is {name} under its name of release 0.5, and {name}=2"):
            make(n_layers=3, **{name: 2})


@pytest.mark.parametrize("name", ["n_layers", "n_hidden"])
def test_the_linear_decoder_has_no_layers(name):
    with pytest.raises(TypeError, match=rf"'{name}' was an argument in release 0\.5 .*use_batch_norm and bias"):
        LinearDecoderSCVI(2, 6, [2], **{name: 1})


@pytest.mark.parametrize(("values", "name"), [((1, 128), "use_batch_norm=1"), ((True, 128), "bias=128")])
def test_nor_by_their_places(values, name):
    """Where 0.5 had numbers of layers and of hidden units there are flags."""
    with pytest.raises(ValueError, match=f"{name} is not True or False"):
        LinearDecoderSCVI(2, 6, [2], *values)


def test_a_draw_of_the_latent_space(cells):
    with pytest.raises(TypeError, match=r"'sample' was an argument in release 0\.5 .* pass give_mean, its opposite"):
        Posterior(VAE(6, n_batch=2), cells).get_latent(sample=True)


def test_the_warm_up_of_the_background(cells):
    with pytest.raises(TypeError, match="n_epochs_kl_warmup is the warm-up of the background"):
        TotalTrainer(TOTALVI(6, 3, n_batch=2), cells, n_epochs_back_kl_warmup=200, **QUIET)


def test_the_learning_rate_of_the_generator(cells):
    model = JVAE([6], 6, [slice(None)], ["zinb"], [True], n_batch=2)
    trainer = JVAETrainer(model, Classifier(10, 8, 1, logits=True), [cells], **QUIET)
    with pytest.raises(
        TypeError, match=r"'lr_g' was an argument in release 0\.5 .* the learning rate of the model is lr"
    ):
        trainer.train(n_epochs=1, lr_d=1e-3, lr_g=1e-3)
    assert trainer.n_iter == 0
    trainer.train(n_epochs=1, lr=1e-3, lr_d=1e-3)


def test_signatures_are_those_of_0_6():
    assert list(inspect.signature(Posterior.get_latent).parameters) == ["self", "give_mean"]
    assert "n_epochs_back_kl_warmup" not in inspect.signature(TotalTrainer).parameters
    assert Posterior.get_latent.__doc__.startswith("Where the model places each cell")

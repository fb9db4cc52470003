"""What to do about a doubt, where it would be a change: advice looks at what a model and its fit were told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scvi.cells.schema import Schema
from scvi.estimators.base import Estimator
from scvi.estimators.train import course_of
from scvi.fit.plan import AdversarialPlan, Plan, chosen_batch_size

_GO_ON = "a further train() goes on from here"
LONGER = f"train longer: {_GO_ON}, a larger max_epochs begins anew"


@dataclass(frozen=True)
class Done:
    """What was done already.

    Attributes
    ----------
    options
        Of the model, by name.
    schema
        How its cells are read.
    call
        What the last `train` was told beside its defaults.
    longer
        How to train for longer; empty where losses have become flat, and it would change nothing.
    keeps_best
        Whether the fit went back to the weights that are best for validation cells.
    reads_labels
        Whether the model was told the labels.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    schema: Schema = field(default_factory=Schema)
    call: Mapping[str, Any] = field(default_factory=dict)
    longer: str = LONGER
    keeps_best: bool = False
    reads_labels: bool = False

    @classmethod
    def by(cls, model: Estimator) -> Done:
        """What a model says of itself."""
        call = model._fits[-1] if model._fits else {}
        by_loss = call.get("early_stopping_monitor", Plan.early_stopping_monitor) == Plan.early_stopping_monitor
        says_length = "max_epochs" in call or "early_stopping" in call
        by_default = bool(model._fits) and "keep_best" in model._adapts and not says_length
        return cls(
            model.options,
            model._data_sets[0].schema,
            call,
            _longer(model, call),
            by_loss and (by_default or bool(call.get("early_stopping"))),
            model._reads_labels(model.options),
        )

    def of(self, schema: Schema, number: int) -> Done:
        """The same for one of two data sets."""
        likelihoods = self.options["generative_distributions"]
        return replace(self, schema=schema, options={**self.options, "gene_likelihood": likelihoods[number]})

    @property
    def is_of_two(self) -> bool:
        """Whether the model is one of two data sets."""
        return "generative_distributions" in self.options

    @property
    def likelihood_option(self) -> str:
        """What the class calls the likelihood of genes."""
        return "generative_distributions" if self.is_of_two else "gene_likelihood"


def _longer(model: Estimator, call: Mapping[str, Any]) -> str:
    """How to train for longer than the last fit."""
    n_epochs = len(next((table for name, table in model.history.items() if name == "elbo_train"), ()))
    if model.was_interrupted:
        return f"the fit was interrupted: {_GO_ON}"
    if "max_steps" in call:
        return f"train longer: {_GO_ON}, max_steps above {call['max_steps']} begins anew"
    if call.get("early_stopping") and len(model._fits) == 1 and n_epochs < _planned(model, call):
        monitor = call.get("early_stopping_monitor", Plan.early_stopping_monitor)
        return (
            f"early stopping ended the fit after {n_epochs} epochs, as {monitor} got no better: a larger max_epochs "
            "changes nothing, a larger early_stopping_patience does"
        )
    if "preset" in call:
        return f"train longer: {_GO_ON}, train() without preset={call['preset']!r} begins anew"
    return f"train longer: {_GO_ON}, max_epochs above {n_epochs} begins anew" if n_epochs else LONGER


def _planned(model: Estimator, call: Mapping[str, Any]) -> int:
    """Epochs that a fit with early stopping would have had."""
    n_cells = max((len(part.positions) for part in model._train_cells or ()), default=1)
    batch_size = call.get("batch_size") or chosen_batch_size(n_cells)
    told = {name: call.get(name) for name in ("early_stopping", "preset", "max_epochs")}
    return int(told["max_epochs"] or course_of(model, told)(n_cells, batch_size, None).max_epochs)


def for_full_weight(done: Done) -> str:
    """Where the weight of the KL divergence is not 1 at the end."""
    told = done.call.get("plan_kwargs")
    if isinstance(told, Mapping) and "max_kl_weight" in told:
        return f"leave max_kl_weight={told['max_kl_weight']!r} out of plan_kwargs"
    return "train on until the weight is 1: kl_warmup is the share of the planned steps over which it rises"


def against_overfitting(done: Done, best_epoch: int) -> str:
    """Where training cells are explained and others are not."""
    if done.keeps_best:
        return (
            "the fit went back to the weights that were best for validation cells already: a larger weight_decay or a "
            "smaller n_hidden leave less to learn by heart; of few validation cells the loss is uncertain"
        )
    if done.call.get("early_stopping"):
        monitor = done.call["early_stopping_monitor"]
        return f"let early stopping follow early_stopping_monitor='elbo_validation', not {monitor!r}"
    return f"stop where validation cells are explained best: train(early_stopping=True), or max_epochs={best_epoch}"


def against_underfitting(done: Done) -> str:
    """Where a coarse clustering explains as much."""
    return f"{_either(done.longer, *_room(done))}; if that does not help, look at the verdict on counts"


def other_noise(done: Done, what: str, is_wider: bool) -> str:
    """Where counts vary less than the likelihood says (`is_wider`), or more."""
    is_protein, given = what.endswith("proteins"), done.options.get("gene_likelihood")
    if is_wider:
        narrower = f"{done.likelihood_option} 'nb' in place of 'zinb'" if given == "zinb" and not is_protein else ""
        to_try = _either(done.longer, narrower, "find out whether they are counts")
        return f"the likelihood is wider than the counts: {to_try}"
    others = {"poisson": "'nb' or 'zinb'", "nb": "'zinb'"}.get("" if is_protein else str(given))
    option, each = ("protein_dispersion", "protein") if is_protein else ("gene_dispersion", "gene")
    option = option if option in done.options else "dispersion"
    by_batch = done.schema.n_batch > 1 and done.options.get(option) == each and (is_protein or given != "poisson")
    changes = [f"{done.likelihood_option} {others} in place of {given!r}"] if others else []
    changes += [f"{option}='{each}-batch'"] if by_batch else []
    nothing = f"no option makes it wider, look at the worst {what}, for few may be behind it"
    return f"the likelihood may be too narrow: {_either(*changes, nothing=nothing)}"


def other_zeros(done: Done, what: str) -> str:
    """Where there are more zeros, or fewer, than are drawn."""
    given = None if what.endswith("proteins") else done.options.get("gene_likelihood")
    others = " and ".join(repr(name) for name in ("nb", "zinb") if name != given)
    compare = f"compare {done.likelihood_option} {others} with {given!r}, which this fit has, by elbo_validation"
    return _either(
        compare if given else "", done.longer, nothing=f"no option is about these zeros: look at the worst {what}"
    )


def more_mixing(done: Done, is_of_data_sets: bool) -> str:
    """Where neighbourhoods are of one batch, or of one of two data sets."""
    if is_of_data_sets:
        change = f"train with a kappa above {done.call.get('kappa', AdversarialPlan.kappa):g}"
    elif done.is_of_two or done.schema.categorical_covariate_keys:
        change = ""
    else:
        change = "give what else differs technically as categorical_covariate_keys"
    return (
        "where they share no cell types, this is as it should be (a report shows mixing by cell type); where they do: "
        f"{_either(done.longer, change, nothing='no option is left that is not in force')}"
    )


def for_residuals(done: Done, group: str, is_batch: bool) -> str:
    """Where genes differ between groups from what is expected."""
    schema = done.schema
    labels = (schema.labels_key,) if done.reads_labels else ()
    if is_batch or group in (*schema.categorical_covariate_keys, *labels):
        return f"the model was told {group!r} and has not learnt what it does: {_either(done.longer, *_room(done))}"
    place = "batch_key or as a covariate" if schema.batch_key is None else "a covariate, beside the batch_key"
    return (
        f"the latent states do not carry all that differs by {group!r}: give it as {place} if it is technical; if it "
        "is not, do not look for these genes in the latent space"
    )


def _room(done: Done) -> list[str]:
    """How a model can hold more."""
    return [f"{name} above {done.options[name]}" for name in ("n_latent", "n_hidden") if name in done.options]


def _either(*changes: str, nothing: str = "nothing is left to change") -> str:
    """Changes to try, or what there is to say where none is left."""
    return ", or ".join(change for change in changes if change) or nothing

"""What the numbers of a check mean, in plain words: one verdict each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import pandas as pd

from scvi.cells.categories import reads_as_unknown
from scvi.estimators import advice as what_to_do
from scvi.estimators.advice import Done
from scvi.queries.checks import BatchInformation, Classifier, Convergence, Explained, HeldOut, Mixing
from scvi.queries.predictive_checks import Predictive

Level = Literal["good", "doubtful", "bad"]
_LEVELS: tuple[Level, ...] = ("bad", "doubtful", "good")

FEW_COUNTS = 0.1  # mean count of a gene below which its variance says little
CLEAR_FOLD = 0.5  # log2: a residual that matters, a factor of 1.4
_NAMED = 5  # genes in a sentence
_MEAN_DISTANCE = np.sqrt(2 / np.pi)  # from 0, of a Normal with standard deviation 1
_CELLS_OF_SQUARES = 50
_NOTHING = Done()  # is known of what was done
_SMALL_CROSS_ENTROPY = 0.01  # nats, of which a fall matters to no label
_OF_A_MEDIAN = np.sqrt(np.pi / 2)  # standard error of a median of Normal numbers, in those of their mean


@dataclass(frozen=True)
class Verdict:
    """What one check found.

    Attributes
    ----------
    name
        What was checked.
    level
        'good', 'doubtful' or 'bad'.
    says
        A sentence with the figures.
    advice
        What to do; empty where all is good.
    """

    name: str
    level: Level
    says: str
    advice: str = ""


@dataclass(frozen=True)
class FitCheck:
    """What is good of a fit and what is not; ``print`` shows it.

    Attributes
    ----------
    verdicts
        The most doubtful first.
    skipped
        Why a check was not made, by its name.
    predictive
        Counts beside drawn counts, by modality ('genes', 'proteins').
    residuals
        For the batch and each group that was asked about a table of genes, see
        :meth:`scvi.queries.residuals.GroupResiduals.result`.
    """

    verdicts: tuple[Verdict, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    predictive: Mapping[str, Predictive] = field(default_factory=dict)
    residuals: Mapping[str, pd.DataFrame] = field(default_factory=dict)

    @property
    def level(self) -> Level:
        """That of the worst verdict."""
        return self.verdicts[0].level if self.verdicts else "good"

    def __getitem__(self, name: str) -> Verdict:
        """The verdict of this name."""
        for verdict in self.verdicts:
            if verdict.name == name:
                return verdict
        why = f": {self.skipped[name]}" if name in self.skipped else ""
        raise KeyError(f"there is no verdict {name!r}{why}; there are {[verdict.name for verdict in self.verdicts]}")

    def to_frame(self) -> pd.DataFrame:
        """A row for each verdict: 'level', 'says' and 'advice', by 'name'."""
        rows = [(verdict.name, verdict.level, verdict.says, verdict.advice) for verdict in self.verdicts]
        return pd.DataFrame(rows, columns=["name", "level", "says", "advice"]).set_index("name")

    def __str__(self) -> str:
        numbers = {level: sum(verdict.level == level for verdict in self.verdicts) for level in _LEVELS}
        lines = [f"this fit is {self.level}: " + ", ".join(f"{number} {level}" for level, number in numbers.items())]
        for verdict in self.verdicts:
            lines.append(f"{verdict.level:8}  {verdict.name}: {verdict.says}")
            lines += [f"{'':8}  -> {verdict.advice}"] if verdict.advice else []
        lines += [f"not made  {name}: {why}" for name, why in self.skipped.items()]
        return "\n".join(lines)


def together(parts: Iterable[FitCheck]) -> FitCheck:
    """Several checks as one, the most doubtful verdict first."""
    parts = list(parts)
    every = (verdict for part in parts for verdict in part.verdicts)
    return FitCheck(
        tuple(sorted(every, key=lambda verdict: _LEVELS.index(verdict.level))),
        {name: why for part in parts for name, why in part.skipped.items()},
        {name: found for part in parts for name, found in part.predictive.items()},
        {name: found for part in parts for name, found in part.residuals.items()},
    )


def renamed(found: FitCheck, prefix: str) -> FitCheck:
    """A check whose names begin with the name of a data set."""
    return FitCheck(
        tuple(replace(verdict, name=f"{prefix}{verdict.name}") for verdict in found.verdicts),
        {f"{prefix}{name}": why for name, why in found.skipped.items()},
        {f"{prefix}{name}": part for name, part in found.predictive.items()},
        {f"{prefix}{name}": table for name, table in found.residuals.items()},
    )


def graded(value: float, doubtful_from: float, bad_from: float = np.inf) -> Level:
    """The level of a number that is better the smaller it is."""
    if value >= bad_from:
        return "bad"
    return "doubtful" if value >= doubtful_from else "good"


def _verdict(name: str, level: Level, says: str, advice: str) -> Verdict:
    return Verdict(name, level, says, "" if level == "good" else advice)


# ---- the course of the fit -------------------------------------------------------------------------------------------


def of_convergence(found: Convergence, done: Done = _NOTHING) -> Verdict:
    """Whether the loss was still falling."""
    if found.epochs == 1:
        says = "the fit has one epoch, which shows no course of the loss"
        return Verdict("convergence", "doubtful", says, done.longer)
    # a loss of thousands of nats that still falls by one or two has converged, however little it fell before
    matters = found.last_fall > 1e-3 * abs(found.last_loss)
    level = graded(found.last_share if matters else 0.0, 0.1, 0.3)
    says = (
        f"in {found.epochs} epochs the training loss fell by {found.fall:.1f} nats per cell to {found.last_loss:.1f}, "
        f"{100 * found.last_share:.0f} % of it in the last fifth of them (of training or validation cells, whichever "
        "is less)"
    )
    return _verdict("convergence", level, says, done.longer)


def of_classifier(found: Classifier, done: Done = _NOTHING) -> Verdict:
    """Whether the classifier was still learning."""
    loss = found.loss
    is_moving = graded(loss.last_share if loss.last_fall > _SMALL_CROSS_ENTROPY else 0.0, 0.1, 0.3)
    says = (
        f"in {loss.epochs} epochs the cross-entropy of labelled training cells fell by {loss.fall:.2f} nats to "
        f"{loss.last_loss:.2f}, {100 * loss.last_share:.0f} % of it in the last fifth of them"
    )
    if found.accuracy is not None and found.gain is not None:
        says += (
            f"; {100 * found.accuracy:.0f} % of labelled validation cells are right, before the last fifth it was "
            f"{100 * (found.accuracy - found.gain):.0f} %"
        )
        is_moving = min(is_moving, graded(abs(found.gain), 0.05), key=_LEVELS.index)
    return _verdict("classifier", "doubtful" if loss.epochs == 1 else is_moving, says, done.longer)


def of_labels(sizes: Mapping[str, int], done: Done) -> Verdict:
    """Whether a label reads as if it were none; `sizes` are numbers of cells by label, '' of those without one."""
    odd = [name for name in sizes if name and reads_as_unknown(name)]
    key, declared = done.schema.labels_key, done.schema.unlabeled_category
    if not odd:
        return Verdict("labels", "good", f"none of the labels in obs[{key!r}] reads as if it were not known")
    named = " and ".join(f"{name!r} ({sizes[name]:,} cells)" for name in odd)
    says = (
        f"{named} reads as if the label were not known, beside unlabeled_category={declared!r}: the classifier learns "
        "it as a cell type, and accuracy and trust count it as one"
    )
    if sizes.get(""):
        mapped = f"adata.obs[{key!r}].astype(str).replace({dict.fromkeys(odd, declared)!r})"
        advice = f"unless it is a cell type, set adata.obs[{key!r}] = {mapped}, set up again and fit again"
    else:
        advice = f"unless it is a cell type, set up with unlabeled_category={odd[0]!r} and fit again"
    return Verdict("labels", "doubtful", says, advice)


def of_warmup(kl_weight: float, done: Done = _NOTHING) -> Verdict:
    """Whether the KL weight was full at the end."""
    return _verdict(
        "warm-up",
        graded(abs(1 - kl_weight), 1e-6),
        f"the weight of the KL divergence ended at {kl_weight:.2g}",
        what_to_do.for_full_weight(done),
    )


def of_overfitting(found: HeldOut, done: Done = _NOTHING) -> Verdict:
    """Whether validation cells were explained better before."""
    says = (
        f"the loss of validation cells is {found.now:.1f} nats per cell, at its best it was {found.best:.1f} "
        f"(epoch {found.best_epoch}); that of training cells was {found.train:.1f} in the last epoch"
    )
    advice = what_to_do.against_overfitting(done, found.best_epoch)
    return _verdict("over-fitting", graded(found.rise, 0.1), says, advice)


def of_underfitting(found: Explained, done: Done = _NOTHING) -> Verdict:
    """Whether a coarse clustering explains as much."""
    says = (
        f"the model explains {100 * found.model:.0f} % of how cells differ in the median gene (deviance beyond library "
        f"size and batch), the means of 8 clusters of principal components {100 * found.clusters:.0f} %"
    )
    shortfall = found.clusters - found.model
    if found.clusters < 0.01 and shortfall < 0.02:
        return Verdict("under-fitting", "good", f"{says}: there is little to explain")
    level = graded(shortfall / max(found.clusters, 0.01), -0.1, 0.2)
    return _verdict("under-fitting", level, says, what_to_do.against_underfitting(done))


# ---- counts beside draws ---------------------------------------------------------------------------------------------


def of_counts(found: Predictive, spread_of_totals: float, done: Done = _NOTHING) -> Verdict:
    """Whether these are counts at all."""
    smallest, drawn = found.cells["smallest"], found.cells["smallest_drawn"]
    excess = float((smallest > drawn).mean() - (smallest < drawn).mean())
    says = (
        f"the smallest count in a cell is {smallest.median():g} in the median, in draws of the model {drawn.median():g}"
    )
    if excess >= 0.1:
        says += f"; it is larger in {100 * (smallest > drawn).mean():.0f} % of the cells: there are gaps between values"
    advice = (
        "give the model raw counts: setup_anndata(layer=...) says where they are, this fit has read "
        f"{done.schema.counts_name}; logarithms, normalised and scaled values are none, even if they are rounded"
    )
    level = graded(excess, 0.1, 0.5)
    if level == "good" and spread_of_totals < 0.02:
        says = f"the totals of all cells are the same but for {100 * spread_of_totals:.1f} %, as of normalised values"
        level = "doubtful"
    return _verdict("counts", level, says, advice)


def of_variation(found: Predictive, what: str, done: Done = _NOTHING) -> Verdict:
    """Whether features vary as much as in draws: coefficients of variation, and squares around the expectation."""
    clear = found.features[found.features["mean"] >= FEW_COUNTS]
    off = np.abs(np.log2(clear["cv"] / clear["cv_drawn"])).median() if len(clear) else 0.0
    spread = clear["spread"].median() if len(clear) else 1.0
    of_cells = np.abs(np.log2(found.cells["cv"] / found.cells["cv_drawn"])).median()
    says = (
        f"coefficients of variation differ from those of draws by a factor of {2**off:.2f} in the median "
        f"{what.rstrip('s')} and of {2**of_cells:.2f} in the median cell; counts are scattered around what is expected "
        f"of them {spread:.2f} times as much as draws"
    )
    advice = what_to_do.other_noise(done, what, bool(spread <= 1))
    levels = [graded(float(off), 0.25, 1.0), graded(abs(float(np.log2(spread))), 1.0, 2.0)]
    return _verdict(f"variation of {what}", min(levels, key=_LEVELS.index), says, advice)


def of_zeros(found: Predictive, what: str, done: Done = _NOTHING) -> Verdict:
    """Whether there are as many zeros."""
    zeros, drawn, n = (found.features[name] for name in ("zeros", "zeros_drawn", "n_cells"))
    off = float(np.abs(zeros - drawn).mean())
    by_chance = float((_MEAN_DISTANCE * np.sqrt((zeros * (1 - zeros) + drawn * (1 - drawn)) / n.clip(lower=1))).mean())
    beyond_chance = float(np.sqrt(max(off**2 - by_chance**2, 0.0)))
    says = (
        f"{100 * zeros.mean():.1f} % of the counts are 0, {100 * drawn.mean():.1f} % of the draws; "
        f"the shares of a {what.rstrip('s')} are {100 * off:.1f} points apart on average, by chance up to "
        f"{100 * by_chance:.1f}"
    )
    return _verdict(f"zeros of {what}", graded(beyond_chance, 0.04, 0.15), says, what_to_do.other_zeros(done, what))


def of_intervals(found: Predictive, what: str) -> Verdict:
    """Whether intervals hold what they promise."""
    pairs = [(level, covered) for level, covered in found.intervals["covered"].items()]
    off = max(abs(covered - level) for level, covered in pairs)
    says = "intervals of the model hold " + ", ".join(
        f"{100 * covered:.0f} % ({100 * level:.0f} %)" for level, covered in pairs
    )
    return _verdict(
        f"intervals of {what}",
        graded(off, 0.12, 0.25),
        f"{says} of the counts (of what they should)",
        "do not rely on its uncertainty: too few counts inside mean too little noise in the likelihood, too many "
        "over-fitting, or values that are no counts",
    )


def by_misfit(found: Predictive) -> pd.DataFrame:
    """The features with enough counts in enough cells, the worst fitted first.

    'off' is how far (log2) their scatter around what is expected, beside that of draws, is at least from that of the
    median feature, up or down: where all are off alike, the verdict on variation says so. It is the median over tenths
    of the cells less two of its standard errors, or 0: a cell with very many counts, or one such draw, is in one tenth.
    """
    mean, n_cells = found.features["mean"], found.features["n_cells"]
    # squares of Poisson counts, summed over fewer cells, are twice as large as others by chance
    is_clear = ((mean >= FEW_COUNTS) & (n_cells * mean >= _CELLS_OF_SQUARES * (1 + 2 * mean))).to_numpy()
    clear = found.features[is_clear]
    if not len(clear):
        return clear.assign(off=0.0)
    spread = np.nan_to_num(np.log2(np.clip(found.spreads[:, is_clear], 1e-6, 1e6)))
    spread -= np.median(spread, axis=1, keepdims=True)
    middle = np.median(spread, axis=0)
    error = _OF_A_MEDIAN * spread.std(axis=0, ddof=1) / np.sqrt(len(spread))
    off = np.maximum(np.abs(middle) - 2 * error, 0.0)
    return clear.assign(off=off).iloc[np.lexsort((-np.abs(middle), -off))]


def of_worst(found: Predictive, what: str) -> Verdict:
    """Which features are fitted worst."""
    clear = by_misfit(found)
    share = float((clear["off"] > 1).mean()) if len(clear) else 0.0
    worst = ", ".join(f"{name} ({spread:.2g})" for name, spread in clear["spread"].head(_NAMED).items())
    says = (
        f"{100 * share:.0f} % of {len(clear)} {what} (mean at least {FEW_COUNTS}, in enough cells) are scattered "
        "around what is expected of them, beside draws, for certain at least twice or at most half as much as others; "
        f"furthest {worst or 'none'}"
    )
    advice = f"look at these {what}: few cells with very many counts, doublets, or a state that the model did not learn"
    return _verdict(f"worst {what}", graded(share, 0.25), says, advice)


# ---- batches and groups ----------------------------------------------------------------------------------------------


def of_batch(found: BatchInformation) -> Verdict:
    """Whether the batch says anything at all."""
    says = (
        f"the batch explains {100 * found.explained:.2f} % of the variance of a gene, shuffled batches "
        f"{100 * found.shuffled:.2f} % ({found.z:.1f} of their standard deviations away); {found.n_genes} genes differ "
        "more than any by chance"
    )
    if found.differ:
        return Verdict("batch column", "good", says)
    if found.would_be_seen:
        says += ": the batches do not differ, and it would be seen if each had a third less of a tenth of the genes"
        level: Level = "bad"
    else:
        says += ": no difference is seen, in counts that are too few to see any but a large one"
        level = "doubtful"
    advice = (
        "is the batch column right? It may be shuffled, or of other cells; ask check(groupby=...) about other columns. "
        "If it is right, there is nothing to correct: leave batch_key out"
    )
    return _verdict("batch column", level, says, advice)


def of_mixing(found: Mixing, done: Done = _NOTHING, name: str = "batch mixing") -> Verdict:
    """Whether the latent space mixes the batches."""
    says = f"neighbourhoods in the latent space are mixed {100 * found.latent:.0f} % as well as with shuffled batches"
    level = graded(1 - found.latent, 0.4)
    if found.components is not None:
        says += f", among principal components {100 * found.components:.0f} %"
        if found.latent - found.components >= 0.3 * (1 - found.components):
            level = "good"  # much of what could be mixed was
        if found.latent < 0.7 * found.components:
            level = "bad"
    return _verdict(name, level, says, what_to_do.more_mixing(done, name != "batch mixing"))


def of_residuals(
    found: pd.DataFrame, of_draws: pd.DataFrame, group: str, is_batch: bool, done: Done = _NOTHING
) -> Verdict:
    """Which genes differ between groups, or batches, beside what the model expects."""
    tested = found["p_adjusted"].notna()
    differ = found[depends(found)]
    share, by_chance = (len(part) / max(int(tested.sum()), 1) for part in (differ, of_draws[depends(of_draws)]))
    first = differ.sort_values("p_value", kind="stable").head(_NAMED)
    folds = zip(first.index, first["log2_fold"], first["group"], strict=True)
    named = ", ".join(f"{name} ({2**fold:.1f} times in {where})" for name, fold, where in folds)
    says = (
        f"{100 * share:.1f} % of {int(tested.sum())} genes with enough counts ({100 * by_chance:.1f} % in draws) "
        f"differ from what the model expects in a group of {group!r}, by a factor of {2**CLEAR_FOLD:.1f} or more"
        + (f": {named}" if named else "")
    )
    advice = what_to_do.for_residuals(done, group, is_batch)
    return _verdict(f"residuals by {group}", graded(share - by_chance, 0.05), says, advice)


def depends(residuals: pd.DataFrame) -> np.ndarray:
    """(g,) which genes differ clearly, and not by chance."""
    return ((residuals["p_adjusted"] < 0.05) & (residuals["log2_fold"].abs() >= CLEAR_FOLD)).to_numpy()

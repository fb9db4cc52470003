"""Can a fit be trusted? The numbers of a check, gathered, and the verdicts on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from scvi._checks import check_integer
from scvi._random import generator_of, resolve_seed
from scvi.cells.cell_data import CellData
from scvi.cells.checks import as_text
from scvi.cells.checks import found as there
from scvi.cells.schema import Schema
from scvi.estimators import verdicts
from scvi.estimators.advice import Done
from scvi.estimators.base import Estimator
from scvi.estimators.cells import Indices
from scvi.estimators.verdicts import FitCheck, Verdict
from scvi.minibatch import Minibatch
from scvi.models.base import Model
from scvi.queries import checks, latent, likelihood
from scvi.queries.predictive_checks import Predictive, PredictiveSums, beside_draws, ranked_features
from scvi.queries.residuals import GroupResiduals

_FEWEST_CELLS, _MOST_GROUPS, _MOST_VALIDATED = 30, 100, 1000


def check(
    self: Estimator,
    adata: AnnData | None = None,
    indices: Indices = None,
    groupby: str | Sequence[str] | None = None,
    n_cells: int = 2000,
    batch_size: int | None = None,
    *,
    seed: int | None = None,
) -> FitCheck:
    """Says in plain words what is good of the fit and what is not, and what to do.

    Looked at are the course of the losses, counts beside counts that the model draws for the same cells, what it
    explains beside a coarse clustering, whether the batches differ at all and are mixed, and of which genes the
    residuals depend on the batch or on a column of ``adata.obs``. Everything is held against what draws of the model,
    shuffled cells or a simple method would give: see `docs/checks.md`.

    >>> print(model.check(groupby="cell_type"))

    Parameters
    ----------
    groupby
        Column of ``adata.obs``, or several: do the residuals of genes depend on it? Cells without a value are left out.
    n_cells
        Cells to draw, at most: time and memory grow with their number.

    Returns
    -------
    FitCheck
        Its `verdicts`, the most doubtful first; ``to_frame()`` makes a table of them. `predictive` and `residuals` have
        the numbers gene by gene.
    """
    seed = resolve_seed(seed)
    data, positions = self._choose(adata, indices)
    positions = drawn_cells(positions, n_cells, seed)
    columns = self.adata if adata is None else adata
    groups = group_codes(columns.obs, groupby, positions)  # type: ignore[union-attr]  # there is one, or no positions
    course, done = of_course(self, _loss_now(self, batch_size, seed) if adata is None else None)
    cells = DrawnCells(
        self.module,
        lambda: self._minibatches(data, positions, batch_size),
        data.batch[positions],
        self.schema,
        seed,
        done,
    )
    return verdicts.together([course, _of_labels(self, data, done), of_cells(cells, groups)])


def check_of_two(
    self: Estimator,
    groupby: str | Sequence[str] | None = None,
    n_cells: int = 2000,
    batch_size: int | None = None,
    *,
    seed: int | None = None,
) -> FitCheck:
    """Says in plain words what is good of the fit and what is not, and what to do; see :meth:`scvi.SCVI.check`.

    Verdicts on one of the two data sets begin with 'seq' or 'spatial'; 'data set mixing' is about the two together.

    Parameters
    ----------
    groupby
        Column of ``obs``, or several, that both data sets have.
    n_cells
        Cells to draw of each data set, at most.
    """
    self._require_trained()
    seed = resolve_seed(seed)
    course, done = of_course(self, None)
    parts, states = [course], []
    for number, name in enumerate(("seq", "spatial")):
        own = self._data_sets[number]
        data, positions = own.choose(None, None)
        positions = drawn_cells(positions, n_cells, seed)
        groups = group_codes(own.adata.obs, groupby, positions)  # type: ignore[union-attr]
        cells = DrawnCells(
            self.module,
            partial(_numbered, self, data, positions, batch_size, number),
            data.batch[positions] - own.batches.start,
            own.schema,
            seed,
            done.of(own.schema, number),
        )
        states.append(latent.latent(cells.model, cells.minibatches(), generator=cells.generator()))
        parts.append(verdicts.renamed(of_cells(cells, groups), f"{name} "))
    data_set = np.repeat([0, 1], [len(part) for part in states])
    mixed = checks.mixing(np.concatenate(states), None, data_set, np.random.default_rng([seed, 2]))
    parts.append(FitCheck((verdicts.of_mixing(mixed, done, "data set mixing"),)))
    return verdicts.together(parts)


def _of_labels(self: Estimator, data: CellData, done: Done) -> FitCheck:
    """Of a model that knows of cells without a label, whether others seem to have none."""
    if self.schema.unlabeled_category is None:
        return FitCheck(())
    names = np.array([*self.schema.label_names, ""], dtype=object)  # cells without a label have the code -1
    return FitCheck((verdicts.of_labels(pd.Series(names[data.labels]).value_counts().to_dict(), done),))


def _numbered(
    self: Estimator, data: CellData, positions: np.ndarray, batch_size: int | None, number: int
) -> Iterator[Minibatch]:
    """Cells of one of several data sets."""
    return (replace(mb, dataset=number) for mb in self._minibatches(data, positions, batch_size))


def drawn_cells(positions: np.ndarray, n_cells: int, seed: int) -> np.ndarray:
    """So many of the cells at most, in their order."""
    check_integer("n_cells", n_cells, _FEWEST_CELLS)
    if len(positions) < _FEWEST_CELLS:
        raise ValueError(f"a check needs {_FEWEST_CELLS} cells at least, got {len(positions)}")
    if len(positions) <= n_cells:
        return positions
    return positions[np.sort(np.random.default_rng([seed, 1]).choice(len(positions), n_cells, replace=False))]


def group_codes(
    obs: pd.DataFrame, groupby: str | Sequence[str] | None, positions: np.ndarray
) -> dict[str, tuple[np.ndarray, list[str]]]:
    """By column (n,) codes of the groups of these cells, -1 without a value, and the names of the groups."""
    groups = {}
    keys = [groupby] if isinstance(groupby, str) else groupby or ()
    if not isinstance(keys, Sequence):
        raise TypeError(f"groupby={groupby!r} is not the name of a column of adata.obs, nor a list of such names")
    for key in keys:
        codes, names = pd.factorize(there(obs, "groupby", key, "a column of adata.obs").iloc[positions], sort=True)
        if not 2 <= len(names) <= _MOST_GROUPS:
            raise ValueError(
                f"groupby={key!r} has {len(names)} different values in {len(positions)} cells; groups are 2 to "
                f"{_MOST_GROUPS}"
            )
        groups[key] = codes, as_text("groupby", key, names)
    return groups


def _loss_now(self: Estimator, batch_size: int | None, seed: int) -> float | None:
    """Of the validation cells: early stopping may have gone back to better weights than the last."""
    positions = self.validation_indices
    if positions is None or len(positions) == 0:
        return None
    minibatches = self._ask(None, positions[:_MOST_VALIDATED], batch_size)
    return loss_of(self.module, minibatches, seed)


def loss_of(model: Model, minibatches: Iterable[Minibatch], seed: int) -> float:
    """Mean negative ELBO of cells, in nats."""
    generator = generator_of(seed, next(model.parameters()).device)
    return -float(likelihood.elbo(model, minibatches, generator).mean(dtype=np.float64))


def of_course(self: Estimator, loss_now: float | None) -> tuple[FitCheck, Done]:
    """What the losses of a fit say, and what was done, by which other verdicts are advised."""
    history, done = self.history, Done.by(self)
    numbers = {
        "convergence": (checks.convergence(history), verdicts.of_convergence, "the losses of the fit are not known"),
        "warm-up": (checks.kl_weight(history), verdicts.of_warmup, "the KL weights of the fit are not known"),
        "classifier": (checks.classifier(history), verdicts.of_classifier, ""),
        "over-fitting": (checks.held_out(history, loss_now), verdicts.of_overfitting, "no validation cells are known"),
    }
    said = {name: say(found, done) for name, (found, say, _) in numbers.items() if found is not None}  # type: ignore[operator]
    skipped = {name: why for name, (found, _, why) in numbers.items() if found is None and why}
    is_flat = "convergence" in said and said["convergence"].level == "good"
    return FitCheck(tuple(said.values()), skipped), replace(done, longer="") if is_flat else done


# ---- cells -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DrawnCells:
    """The cells of a check.

    Attributes
    ----------
    minibatches
        Gives them, as often as it is called.
    batch
        (n,) codes of batches of the `schema`.
    done
        What advice need not say.
    """

    model: Model
    minibatches: Callable[[], Iterable[Minibatch]]
    batch: np.ndarray
    schema: Schema
    seed: int
    done: Done

    def generator(self) -> torch.Generator:
        """Of posterior draws."""
        return generator_of(self.seed, next(self.model.parameters()).device)

    def rng(self) -> np.random.Generator:
        """Of shuffles."""
        return np.random.default_rng([self.seed, 2])


def of_cells(cells: DrawnCells, groups: Mapping[str, tuple[np.ndarray, list[str]]]) -> FitCheck:
    """What the counts of cells say of a fit."""
    counts = checks.as_csr(cells.minibatches())
    genes = checks.clear_genes(counts)
    components = checks.principal_components(counts, genes)
    alone = checks.within_batches(components, cells.batch)
    explained = checks.explained(cells.model, cells.minibatches(), counts, genes, cells.batch, alone)
    of_batch, skipped = _batch_verdicts(cells, counts, components)

    present, codes = np.unique(cells.batch, return_inverse=True)
    batch_key = cells.schema.batch_key or "batch"
    if len(present) > 1:
        groups = {batch_key: (codes, [cells.schema.batch_names[code] for code in present]), **groups}
    by_modality, residuals, of_draws = _beside(cells, counts, groups)
    done = cells.done
    of_counts = [verdicts.of_counts(by_modality["genes"], checks.spread_of_totals(counts), done)]
    for what, found in by_modality.items():
        of_counts += [verdicts.of_variation(found, what, done), verdicts.of_zeros(found, what, done)]
        of_counts += [verdicts.of_intervals(found, what), verdicts.of_worst(found, what)]
    of_groups = [
        verdicts.of_residuals(residuals[name], of_draws[name], name, name == batch_key, done) for name in groups
    ]
    all_of_them = [*of_counts, verdicts.of_underfitting(explained, done), *of_batch, *of_groups]
    return FitCheck(tuple(all_of_them), skipped, by_modality, residuals)


def _batch_verdicts(
    cells: DrawnCells, counts: sparse.csr_array, components: np.ndarray
) -> tuple[list[Verdict], dict[str, str]]:
    """Whether batches differ in the counts, and whether they are mixed in the latent space."""
    present, codes = np.unique(cells.batch, return_inverse=True)
    if len(present) == 1:
        return [], dict.fromkeys(("batch column", "batch mixing"), "the cells are of one batch")
    where = latent.latent(cells.model, cells.minibatches(), generator=cells.generator())
    return [
        verdicts.of_batch(checks.batch_information(counts, codes, cells.rng())),
        verdicts.of_mixing(checks.mixing(where, components, codes, cells.rng()), cells.done),
    ], {}


def _beside(
    cells: DrawnCells, counts: sparse.csr_array, groups: Mapping[str, tuple[np.ndarray, list[str]]]
) -> tuple[dict[str, Predictive], dict[str, pd.DataFrame], dict[str, pd.DataFrame]]:
    """Counts beside draws by modality, and of genes the residuals by group, and those of draws."""
    names: dict[str, Sequence[str]] = {"genes": cells.schema.genes}
    if cells.schema.proteins is not None:
        names["proteins"] = cells.schema.proteins.names
    by_group = {name: GroupResiduals(*group) for name, group in groups.items()}
    result = {}
    for what, features in names.items():
        ranked = ranked_features(counts.mean(axis=0)) if what == "genes" else np.arange(len(features))
        sums = PredictiveSums()
        for block in beside_draws(cells.model, cells.minibatches(), what, ranked, cells.generator()):
            sums.add(block)
            for group in by_group.values() if what == "genes" else ():
                group.add(block)
        found = sums.result()
        result[what] = replace(found, features=found.features.set_axis(list(features)))
    index = list(cells.schema.genes)
    residuals = {name: group.result().set_axis(index) for name, group in by_group.items()}
    return result, residuals, {name: group.of_draws().set_axis(index) for name, group in by_group.items()}

"""Tests of differential expression on cells of which it is known which genes differ, beside Wilcoxon's and the t-test.

    python benchmarks/differential.py --data FOLDER [--parts a,b,c,d] [--seeds 5] [--fits 1]

(a) Cells of one type in two halves at random, of at most 400 cells; the counts of a fifth of the genes with a mean
above .1 are thinned binomially in one of them or the other, by 0.4 to 2 log2 units. Library sizes are those after
thinning. Among these genes: false discovery rate (FDR) and power of adjusted p < .05, average precision (AP) of the
p-values, and the slope of the fold changes on the truth. (b) The same, the groups being 80 and 20 % of one batch and
20 and 80 % of another; in the first sets batches differ, in the last they hardly do. (c) Types of pbmc3k against
published contrasts of sorted cells: area under the ROC curve (AUC) of the p-values for genes with adjusted p < .05
there, and Spearman's correlation of fold changes. (d) kang_ifnb, stimulated against control, for each type: the same,
for genes of the published list of the type among all, and the correlation over the list.

In the first `--fits` seeds of (a) and (b), and in (c) and (d), a model is fitted, too: AP or AUC of its `proba_de`
and of `p_residual`, FDR of the latter, and its fold changes (`lfc_median`).
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from common import DEFAULT_DATA, load_average, machine, read, table
from scipy import sparse, stats
from sklearn.metrics import average_precision_score, roc_auc_score

from scvi import SCVI
from scvi.queries.count_sums import PoolSums
from scvi.queries.score_test import score_test

MOST_CELLS, LEAST_MEAN, HIT, HALVINGS = 400, 0.1, 0.2, (0.4, 2.0)
BALANCED = [
    ("zeisel_cortex", "cell_type", "pyramidal CA1", "tissue"),
    ("zeisel_cortex", "cell_type", "oligodendrocytes", "tissue"),
    ("kang_ifnb_labelled", "cell_type", "CD14+ Monocytes", "sample"),
    ("kang_ifnb_labelled", "cell_type", "CD4 T cells", "sample"),
    ("pbmc_cite_10k_5k", "protein_gate", "CD14 Mono", "batch"),
    ("pbmc_cite_10k_5k", "protein_gate", "CD8 T", "batch"),
    ("sln_day2", "cell_type", "Mature B cells", "hashtag"),
]
DIFFERING = [
    (*BALANCED[2], "ctrl101", "stim101"),
    ("sc_mixology", "cell_type", "H1975", "batch", "sc_celseq2", "sc_dropseq"),
    ("starmap_mpfc", "cell_type", "eL6-1", "batch", "batch_0", "batch_1"),
    ("starmap_mpfc", "cell_type", "eL6-1", "batch", "batch_0", "batch_2"),
    ("starmap_mpfc", "cell_type", "eL6-1", "batch", "batch_1", "batch_2"),
    (*BALANCED[2], "ctrl101", "ctrl107"),
    (*BALANCED[3], "ctrl101", "stim101"),
]
ALIKE = [
    (*BALANCED[3], "ctrl101", "ctrl107"),
    (*BALANCED[6], "Spleen", "Lymph_Node"),
    ("sln_day2", "cell_type", "CD4 T cells", "hashtag", "Spleen", "Lymph_Node"),
]
CONTRASTS = [("CD8 T", ("Naive CD4 T", "Memory CD4 T"), "CD"), ("DC", ("B",), "BDC"), ("DC", ("B",), "BDC2")]


@dataclass(frozen=True, eq=False)
class Known:
    """Two groups of cells and the true log2 fold change (g,) of the first over the second; NaN: not asked about."""

    adata: AnnData
    is_first: np.ndarray
    truth: np.ndarray

    @property
    def asked(self) -> np.ndarray:
        return np.isfinite(self.truth)


# ---- cells -----------------------------------------------------------------------------------------------------------


def thinned(adata: AnnData, column: str, kind: str, key: str, *batches: str, seed: int) -> Known:
    """Cells of one type in two groups, balanced or, with two batches, unbalanced over them."""
    rng = np.random.default_rng(seed)
    is_kind, batch = ((adata.obs[column] == kind).to_numpy(), adata.obs[key].astype(str).to_numpy())
    if batches:
        groups: list[list[np.ndarray]] = [[], []]
        for first, name in enumerate(batches):
            rows = rng.permutation(np.flatnonzero(is_kind & (batch == name)))
            parts = np.split(rows, [round(0.8 * len(rows))])
            groups[first].append(parts[0])
            groups[1 - first].append(parts[1])
        sides = [rng.permutation(np.concatenate(group)) for group in groups]
    else:
        rows = rng.permutation(np.flatnonzero(is_kind))
        sides = [rows[: len(rows) // 2], rows[len(rows) // 2 :]]
    sides = [side[:MOST_CELLS] for side in sides]
    cells = adata[np.concatenate(sides)]
    is_first = np.repeat([True, False], [len(side) for side in sides])

    x = cells.X.toarray()
    expressed = np.flatnonzero(x.mean(axis=0) > LEAST_MEAN)
    truth = np.where(x.mean(axis=0) > LEAST_MEAN, 0.0, np.nan)
    for gene in rng.choice(expressed, round(HIT * len(expressed)), replace=False):
        by, in_first = rng.uniform(*HALVINGS), rng.random() < 0.5
        side = is_first == in_first
        x[side, gene] = rng.binomial(x[side, gene], 2**-by)
        truth[gene] = -by if in_first else by
    obs = pd.DataFrame({"group": np.where(is_first, "first", "second"), "batch": batch[np.concatenate(sides)]})
    obs.index = [f"cell{i}" for i in range(len(obs))]
    return Known(AnnData(sparse.csr_matrix(x, dtype=np.float32), obs=obs, var=cells.var[[]].copy()), is_first, truth)


# ---- answers: p-values and log2 fold changes, (g,) each --------------------------------------------------------------

Answer = tuple[np.ndarray, np.ndarray]


def logged(known: Known) -> tuple[np.ndarray, np.ndarray]:
    """log1p of counts per ten thousand of both groups."""
    x = known.adata.X.toarray().astype(np.float64)
    x = np.log1p(1e4 * x / np.maximum(x.sum(axis=1, keepdims=True), 1))
    return x[known.is_first], x[~known.is_first]


def log_ratio(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.log2((np.expm1(first.mean(axis=0)) + 1e-9) / (np.expm1(second.mean(axis=0)) + 1e-9))


def wilcoxon(known: Known) -> Answer:
    first, second = logged(known)
    return np.nan_to_num(stats.mannwhitneyu(first, second, method="asymptotic").pvalue, nan=1), log_ratio(first, second)


def t_test(known: Known) -> Answer:
    first, second = logged(known)
    with warnings.catch_warnings(action="ignore"):
        p = stats.ttest_ind(first, second, equal_var=False).pvalue
    return np.nan_to_num(p, nan=1), log_ratio(first, second)


def of_counts(known: Known) -> Answer:
    """The columns `p_value` and `lfc_data`, which need no fit."""
    x = known.adata.X
    sums = PoolSums(np.where(known.is_first, 0, 1), pd.factorize(known.adata.obs["batch"])[0])
    sums.add(np.arange(x.shape[0]), x, np.asarray(x.sum(axis=1)))
    tested = score_test(sums.of((0,), (1,))[0])
    return np.nan_to_num(tested.p, nan=1), np.nan_to_num(tested.lfc)


def of_model(known: Known, max_epochs: int) -> dict[str, Answer]:
    """`1 - proba_de` and `lfc_median`; `p_residual` and `lfc_residual`; `p_value` and `lfc_data` of one table."""
    SCVI.setup_anndata(known.adata, batch_key="batch")
    model = SCVI(known.adata, seed=0)
    model.train(max_epochs=max_epochs, seed=0, enable_progress_bar=False)
    found = model.differential_expression(groupby="group", group1="first", group2="second", seed=0)
    found = found.loc[known.adata.var_names]
    return {
        "model": (1 - found["proba_de"].to_numpy(), found["lfc_median"].to_numpy()),
        "residual": (np.nan_to_num(found["p_residual"], nan=1), np.nan_to_num(found["lfc_residual"])),
        "counts": (np.nan_to_num(found["p_value"], nan=1), np.nan_to_num(found["lfc_data"])),
    }


# ---- (a), (b) --------------------------------------------------------------------------------------------------------


def rates(known: Known, answer: Answer) -> dict[str, float]:
    p, lfc = (values[known.asked] for values in answer)
    truth = known.truth[known.asked]
    called, differs = stats.false_discovery_control(p) < 0.05, truth != 0
    return {
        "FDR": (called & ~differs).sum() / max(called.sum(), 1),
        "power": (called & differs).sum() / differs.sum(),
        "AP": average_precision_score(differs, ranked(p)),
        "slope": np.polyfit(truth, lfc, 1)[0],
    }


def ranked(p: np.ndarray) -> np.ndarray:
    return -np.log(np.maximum(p, 1e-300))


TESTS: dict[str, Callable[[Known], Answer]] = {"Wilcoxon": wilcoxon, "t-test": t_test, "counts": of_counts}
HEADER = ["set", *(f"{name} {what}" for name in TESTS for what in ("FDR", "power", "AP")), "slope"]
OF_FITS = ["model AP", "residual FDR", "residual AP"]


def one_set(folder: Path, place: Sequence[str], seeds: int, fits: int, max_epochs: int) -> tuple[str, list[float]]:
    adata = read(folder, place[0])
    found: dict[str, list[dict[str, float]]] = {name: [] for name in (*TESTS, "model", "residual")}
    for seed in range(seeds):
        known = thinned(adata, *place[1:], seed=seed)
        for name, test in TESTS.items():
            found[name].append(rates(known, test(known)))
        if seed < fits:
            answers = of_model(known, max_epochs)
            for name in ("model", "residual"):
                found[name].append(rates(known, answers[name]))

    def mean(name: str, what: str) -> float:
        return float(np.mean([one[what] for one in found[name]])) if found[name] else np.nan

    values = [mean(name, what) for name in TESTS for what in ("FDR", "power", "AP")] + [mean("counts", "slope")]
    values += [mean("model", "AP"), mean("residual", "FDR"), mean("residual", "AP")]
    return " ".join([place[0].split("_")[0], place[2], *place[4:]]), values


def thinning(folder: Path, places: Sequence[Sequence[str]], arguments: argparse.Namespace) -> None:
    rows = []
    for place in places:
        name, values = one_set(folder, place, arguments.seeds, arguments.fits, arguments.max_epochs)
        rows.append((name, values))
        print(f"  {name}: done at {time.strftime('%H:%M:%S')}", flush=True)
    rows.append(("mean", np.mean([values for _, values in rows], axis=0).tolist()))
    shown = [[name, *(f"{value:.3f}" for value in values)] for name, values in rows]
    print("\n" + table([*HEADER, *OF_FITS], shown))


# ---- (c), (d) --------------------------------------------------------------------------------------------------------


def compared(known: Known, hits: np.ndarray, published: np.ndarray, asked: np.ndarray, max_epochs: int) -> list[float]:
    """AUC of each way for the hits among the asked genes, and correlations over those with a published fold change."""
    answers = {"Wilcoxon": wilcoxon(known), "t-test": t_test(known), **of_model(known, max_epochs)}
    of = np.isfinite(published)
    areas = [
        roc_auc_score(hits[asked], ranked(answers[name][0][asked]))
        for name in ("Wilcoxon", "t-test", "counts", "model", "residual")
    ]
    correlations = [
        stats.spearmanr(answers[name][1][of], published[of])[0] for name in ("Wilcoxon", "counts", "model", "residual")
    ]
    return [*areas, *correlations]


OF_REFERENCES = [
    *(f"AUC {name}" for name in ("Wilcoxon", "t-test", "counts", "model", "residual")),
    *(f"rho {name}" for name in ("means", "counts", "model", "residual")),
]


def show(rows: list[tuple[str, list[float]]]) -> None:
    rows.append(("mean", np.mean([values for _, values in rows], axis=0).tolist()))
    print("\n" + table(["contrast", *OF_REFERENCES], [[name, *(f"{v:.3f}" for v in values)] for name, values in rows]))


def sorted_cells(folder: Path, arguments: argparse.Namespace) -> None:
    published = pd.read_csv(folder / "pbmc_bulk_de_reference.csv.gz").drop_duplicates("GS").set_index("GS")
    adata = read(folder, "pbmc3k")
    published = published.reindex(adata.var_names)
    rows = []
    for first, second, columns in CONTRASTS:
        cells = adata[adata.obs["cell_type"].isin([first, *second])]
        known = of_groups(cells, (cells.obs["cell_type"] == first).to_numpy(), np.full(cells.n_obs, "one"))
        hits = (published[f"{columns}_adj.P.Val"] < 0.05).to_numpy()
        changes = published[f"{columns}_logFC"].to_numpy()
        rows.append(
            (
                f"{first} vs {second[-1]} ({columns})",
                compared(known, hits, changes, np.isfinite(changes), arguments.max_epochs),
            )
        )
    show(rows)


def stimulated_cells(folder: Path, arguments: argparse.Namespace) -> None:
    published = pd.read_csv(folder / "kang_ifnb_de_reference.csv.gz")
    adata = read(folder, "kang_ifnb_labelled")
    adata.var_names = [name.split("_ENSG")[0] for name in adata.var_names]
    adata.var_names_make_unique()
    rows = []
    for kind in adata.obs["cell_type"].unique():
        of_kind = published[published["cell_type"] == kind].drop_duplicates("gene").set_index("gene")
        of_kind = of_kind.reindex(adata.var_names)
        cells = adata[adata.obs["cell_type"] == kind]
        known = of_groups(
            cells, (cells.obs["condition"] == "stim").to_numpy(), cells.obs["donor"].astype(str).to_numpy()
        )
        hits, changes = ((of_kind["padj"] < 0.05).to_numpy(), of_kind["log2FoldChange"].to_numpy())
        asked = np.ones(len(hits), dtype=bool)
        rows.append((f"kang {kind}", compared(known, hits, changes, asked, arguments.max_epochs)))
    show(rows)


def of_groups(cells: AnnData, is_first: np.ndarray, batch: np.ndarray) -> Known:
    obs = pd.DataFrame({"group": np.where(is_first, "first", "second"), "batch": batch}, index=cells.obs_names)
    adata = AnnData(sparse.csr_matrix(cells.X, dtype=np.float32), obs=obs, var=cells.var[[]].copy())
    return Known(adata, is_first, np.zeros(cells.n_vars))


PARTS: dict[str, Callable[[Path, Any], None]] = {
    "a": lambda folder, arguments: thinning(folder, BALANCED, arguments),
    "b": lambda folder, arguments: [thinning(folder, places, arguments) for places in (DIFFERING, ALIKE)],
    "c": sorted_cells,
    "d": stimulated_cells,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--parts", default="a,b,c,d")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--fits", type=int, default=1, help="seeds of (a) and (b) in which a model is fitted")
    parser.add_argument("--max-epochs", type=int, default=100)
    arguments = parser.parse_args()
    print(f"{machine()}; load {load_average()}; data: {arguments.data}; {arguments.seeds} seeds")
    for part in arguments.parts.split(","):
        start = time.perf_counter()
        print(f"\n({part})")
        PARTS[part](arguments.data, arguments)
        print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()

"""Merging, filtering and remapping against a reference that keeps one dictionary for each cell."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scvi.cells.library_prior import VARIANCE_FLOOR
from scvi.dataset import AnnDatasetFromAnnData, CellMeasurement, GeneExpressionDataset

GENES, TYPES, PROTEINS = "abcde", "xyz", "pqr"


@dataclass
class Reference:
    """The same as a data set, one cell after the other."""

    genes: list[str]
    types: list[str]  # names by code
    proteins: list[str]
    cells: list[dict[str, Any]] = field(default_factory=list)

    def remap(self) -> None:
        for key in ("batch", "label"):
            used = sorted({cell[key] for cell in self.cells})
            if key == "label":
                self.types = [self.types[code] for code in used]
            for cell in self.cells:
                cell[key] = used.index(cell[key])

    def keep_genes(self, genes: list[str]) -> None:
        kept = [cell for cell in self.cells if any(cell["counts"][gene] for gene in genes)]
        if not genes or not kept:
            raise ValueError
        self.genes, self.cells = genes, kept

    def keep_cells(self, wanted: list[bool]) -> None:
        if not any(wanted):
            raise ValueError
        self.cells = [cell for cell, keep in zip(self.cells, wanted, strict=True) if keep]

    def total(self, cell: dict[str, Any]) -> int:
        return sum(cell["counts"][gene] for gene in self.genes)


def merged(parts: list[Reference], shared: bool, intersection: bool) -> Reference:
    genes = [gene for gene in parts[0].genes if all(gene in part.genes for part in parts)]
    each = [set(part.proteins) for part in parts]
    proteins = sorted(set.intersection(*each) if intersection else set.union(*each))
    whole = Reference(genes, [], proteins)
    batches = 0
    for part in parts:
        part.remap()
        start = len(whole.types)
        for name in part.types:
            if not shared or name not in whole.types:
                whole.types.append(name)
        for cell in part.cells:
            label = whole.types.index(part.types[cell["label"]]) if shared else start + cell["label"]
            values = {name: cell["proteins"].get(name, 0) for name in proteins}
            whole.cells.append({**cell, "batch": batches + cell["batch"], "label": label, "proteins": values})
        batches += 1 + max(cell["batch"] for cell in part.cells)
    return whole


def check(dataset: GeneExpressionDataset, reference: Reference) -> None:
    cells = reference.cells
    X = dataset.X.toarray() if sp.issparse(dataset.X) else dataset.X
    assert X.tolist() == [[cell["counts"][gene] for gene in reference.genes] for cell in cells]
    assert dataset.gene_names.tolist() == reference.genes
    assert dataset.batch_indices.ravel().tolist() == [cell["batch"] for cell in cells]
    assert dataset.labels.ravel().tolist() == [cell["label"] for cell in cells]
    assert dataset.cell_types.tolist() == reference.types
    assert dataset.n_batches == len({cell["batch"] for cell in cells})
    assert dataset.n_labels == len({cell["label"] for cell in cells})
    assert dataset.day.ravel().tolist() == [cell["day"] for cell in cells]
    assert dataset.protein_names.tolist() == reference.proteins
    proteins = dataset.protein.toarray() if sp.issparse(dataset.protein) else dataset.protein
    assert proteins.tolist() == [[cell["proteins"][name] for name in reference.proteins] for cell in cells]
    for batch, mask in zip(
        sorted({cell["batch"] for cell in cells}), dataset.get_batch_mask_cell_measurement("protein"), strict=True
    ):
        mine = [cell for cell in cells if cell["batch"] == batch]
        assert mask.tolist() == [any(cell["proteins"][name] for cell in mine) for name in reference.proteins]
        logs = np.log([max(reference.total(cell), 1) for cell in mine])
        rows = dataset.batch_indices.ravel() == batch
        np.testing.assert_allclose(dataset.local_means[rows], logs.mean(), rtol=1e-5, atol=1e-6)
        variance = logs.var() if len(mine) > 1 else VARIANCE_FLOOR
        np.testing.assert_allclose(dataset.local_vars[rows], variance, rtol=1e-4, atol=1e-6)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[GeneExpressionDataset, Reference]:
    """A data set and its reference; codes have gaps, and names that do not occur."""
    genes = ["a", *draw(st.lists(st.sampled_from(GENES[1:]), unique=True))]
    genes = draw(st.permutations(genes))
    proteins = draw(st.permutations(["p", *draw(st.lists(st.sampled_from(PROTEINS[1:]), unique=True))]))
    types = draw(st.permutations(TYPES))
    n = draw(st.integers(1, 5))
    codes = st.lists(st.integers(0, 2), min_size=n, max_size=n)
    X = draw(arrays(np.int64, (n, len(genes)), elements=st.integers(0, 3)))
    X[:, genes.index("a")] += 1
    batches, labels, days = draw(codes), draw(codes), draw(codes)
    values = draw(arrays(np.int64, (n, len(proteins)), elements=st.integers(0, 2)))
    dataset = GeneExpressionDataset()
    layout = draw(st.sampled_from([np.asarray, sp.csr_matrix, sp.csc_array]))
    dataset.populate_from_data(
        layout(X),
        Ys=[
            CellMeasurement(
                "protein", draw(st.sampled_from([np.asarray, sp.csr_matrix]))(values), "protein_names", proteins
            )
        ],
        batch_indices=batches,
        labels=labels,
        gene_names=genes,
        cell_types=types,
        cell_attributes_dict={"day": np.reshape(days, draw(st.sampled_from([(n,), (n, 1)])))},
        remap_attributes=False,
    )
    reference = Reference(list(genes), list(types), list(proteins))
    for i in range(n):
        counts = dict(zip(genes, X[i].tolist(), strict=True))
        measured = dict(zip(proteins, values[i].tolist(), strict=True))
        cell = {"counts": counts, "batch": batches[i], "label": labels[i], "day": days[i], "proteins": measured}
        reference.cells.append(cell)
    return dataset, reference


def one_step(draw: Any, dataset: GeneExpressionDataset, ref: Reference) -> None:
    """One method of the data set, and by hand what it means."""
    what = draw(st.sampled_from(["cells", "genes", "counts", "total", "types", "merge", "order", "remap", "reorder"]))
    if what == "cells":
        chosen = draw(st.lists(st.integers(0, len(ref.cells) - 1), min_size=1, max_size=6))
        ref.cells = [dict(ref.cells[i]) for i in chosen]
        dataset.update_cells(chosen)
    elif what == "genes":
        chosen = draw(st.sets(st.sampled_from(GENES)))
        both(
            lambda: ref.keep_genes([g for g in ref.genes if g in chosen]),
            lambda: dataset.filter_genes_by_attribute(list(chosen)),
        )
    elif what == "counts":
        least, per_batch = draw(st.integers(0, 6)), draw(st.booleans())
        groups = [{cell["batch"]} for cell in ref.cells] if per_batch else [{cell["batch"] for cell in ref.cells}]
        sums = {
            gene: min(sum(c["counts"][gene] for c in ref.cells if c["batch"] in group) for group in groups)
            for gene in ref.genes
        }
        both(
            lambda: ref.keep_genes([gene for gene in ref.genes if sums[gene] >= least]),
            lambda: dataset.filter_genes_by_count(least, per_batch=per_batch),
        )
    elif what == "total":
        least = draw(st.integers(0, 8))
        both(
            lambda: ref.keep_cells([ref.total(c) >= least for c in ref.cells]),
            lambda: dataset.filter_cells_by_count(least),
        )
    elif what == "types":
        chosen = draw(st.lists(st.sampled_from(ref.types), unique=True))
        both(
            lambda: ref.keep_cells([ref.types[cell["label"]] in chosen for cell in ref.cells]),
            lambda: dataset.filter_cell_types(chosen),
        )
    elif what == "merge":
        chosen = draw(st.lists(st.sampled_from(ref.types), unique=True, min_size=1))
        new = draw(st.sampled_from(["x", "new"]))
        gone = [name in chosen or name == new for name in ref.types]
        for cell in ref.cells:
            cell["label"] = len(ref.types) if gone[cell["label"]] else cell["label"]
        ref.types = [name + "#merged" * is_gone for name, is_gone in zip(ref.types, gone, strict=True)] + [new]
        dataset.merge_cell_types(chosen, new)
    elif what == "order":
        first = draw(st.permutations(range(len(ref.types))))[: draw(st.integers(0, 3))]
        order = [*first, *(code for code in range(len(ref.types)) if code not in first)]
        ref.types = [ref.types[code] for code in order]
        for cell in ref.cells:
            cell["label"] = order.index(cell["label"])
        dataset.reorder_cell_types(np.array(first, dtype=int))
    elif what == "remap":
        ref.remap()
        dataset.remap_categorical_attributes()
    else:
        first, drop = draw(st.lists(st.sampled_from(ref.genes), unique=True, min_size=1)), draw(st.booleans())
        ref.genes = first + [gene for gene in ref.genes if gene not in first and not drop]
        dataset.reorder_genes(first, drop_omitted_genes=drop)


def both(reference: Any, dataset: Any) -> None:
    """Both do it, or both refuse it; what is refused has changed nothing."""
    try:
        reference()
    except ValueError:
        with pytest.raises(ValueError, match="would be left"):
            dataset()
    else:
        dataset()


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_merging_filtering_and_remapping(data: st.DataObject) -> None:
    parts = data.draw(st.lists(pairs(), min_size=1, max_size=3))
    shared, intersection = data.draw(st.booleans()), data.draw(st.booleans())
    dataset = GeneExpressionDataset()
    dataset.populate_from_datasets(
        [part for part, _ in parts], shared_labels=shared, cell_measurement_intersection={"protein": intersection}
    )
    for part, reference in parts:
        check(part, reference)  # as they were
    assert sp.issparse(dataset.X) == any(sp.issparse(part.X) for part, _ in parts)
    whole = merged([reference for _, reference in parts], shared, intersection)
    check(dataset, whole)
    for _ in range(data.draw(st.integers(0, 6))):
        one_step(data.draw, dataset, whole)
        check(dataset, whole)
    if all(whole.total(cell) for cell in whole.cells):
        whole.remap()
        again = AnnDatasetFromAnnData(dataset.to_anndata())
        check(again, whole)
        assert repr(again) == repr(dataset)
        assert again.day.shape == dataset.day.shape

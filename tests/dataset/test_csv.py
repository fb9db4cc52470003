"""The data sets of 2020 from text tables."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

import formats
from scvi.dataset import BreastCancerDataset, CsvDataset, MouseOBDataset
from web import serving

X = formats.counts()
N, G = X.shape
CELLS, GENES = formats.barcodes(N), formats.names(G)[1]
TABLE = formats.table(X.T.toarray(), GENES, CELLS)


def test_csv_dataset_from_its_url(tmp_path):
    empty = np.vstack([X.toarray(), np.zeros((1, G), int)])  # a last cell without counts
    content = gzip.compress(formats.table(empty.T, GENES, [*CELLS, "empty"]))
    with serving(files={"/GSE.csv.gz": content}) as web:
        dataset = CsvDataset("cells.csv.gz", str(tmp_path), f"{web.url}/GSE.csv.gz", compression="gzip")
    np.testing.assert_array_equal(dataset.X, X.toarray())
    assert dataset.gene_names.tolist() == GENES
    assert dataset.n_batches == dataset.n_labels == 1


def test_csv_dataset_with_labels_batches_and_fewer_genes(tmp_path):
    types = np.array(["T", "B", "NK"])[np.arange(N) % 3]
    (tmp_path / "c.csv").write_bytes(TABLE)
    (tmp_path / "labels.csv").write_bytes(formats.table(types[::-1, None], CELLS[::-1], ["type"]))  # found by name
    (tmp_path / "batches.csv").write_bytes(formats.table(np.arange(N)[:, None] % 2 + 5, range(N), ["batch"]))
    options = {"save_path": str(tmp_path), "labels_file": "labels.csv", "batch_ids_file": "batches.csv"}
    dataset = CsvDataset("c.csv", **options)
    assert dataset.cell_types.tolist() == ["B", "NK", "T"]
    np.testing.assert_array_equal(dataset.cell_types[dataset.labels.ravel()], types)
    np.testing.assert_array_equal(dataset.batch_indices.ravel(), np.arange(N) % 2)
    assert CsvDataset("c.csv", subset_genes=[3, 1], **options).gene_names.tolist() == [GENES[3], GENES[1]]
    assert CsvDataset("c.csv", new_n_genes=5, **options).nb_genes == 5
    assert CsvDataset("c.csv", new_n_genes=500, **options).nb_genes == G
    (tmp_path / "labels.csv").write_bytes(formats.table(types[:5, None], CELLS[:5], ["type"]))
    with pytest.raises(ValueError, match="5 lines for 30 cells"):
        CsvDataset("c.csv", **options)


def test_delayed_populating(tmp_path):
    (tmp_path / "c.csv").write_bytes(TABLE)
    dataset = CsvDataset("c.csv", str(tmp_path), delayed_populating=True)
    assert dataset.X is None
    dataset.populate()
    assert dataset.X.shape == (N, G)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(BreastCancerDataset, "Layer2_BC_count_matrix-1.tsv"), (MouseOBDataset, "Rep11_MOB_count_matrix-1.tsv")],
)
def test_spatial_transcriptomics(kind, name, tmp_path):
    spots = [f"{17 + i}.907x{4 + i}.967" for i in range(N)]
    (tmp_path / name).write_bytes(formats.table(X.toarray(), spots, GENES, sep="\t"))
    dataset = kind(str(tmp_path))
    np.testing.assert_array_equal(dataset.X, X.toarray())
    assert dataset.gene_names.tolist() == GENES

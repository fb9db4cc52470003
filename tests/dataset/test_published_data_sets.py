"""The data sets of 2020, from small files in their formats; none is downloaded."""

from __future__ import annotations

import pickle
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.special import logit

import published_files as files
from published_files import GENES, IDS, N, X
from scvi.data import published_brain
from scvi.dataset import (
    BrainLargeDataset,
    BrainSmallDataset,
    CbmcDataset,
    CiteSeqDataset,
    CortexDataset,
    FrontalCortexDropseqDataset,
    HematoDataset,
    PbmcDataset,
    PreFrontalCortexStarmapDataset,
    PurifiedPBMCDataset,
    RetinaDataset,
    SeqfishDataset,
    SeqFishPlusDataset,
    SmfishDataset,
    SyntheticDataset,
    SyntheticDatasetCorr,
    SyntheticRandomDataset,
    ZISyntheticDatasetCorr,
)
from scvi.inference import UnsupervisedTrainer
from scvi.models import VAE


def test_cortex(tmp_path):
    written = files.cortex(tmp_path)
    dataset = CortexDataset(str(tmp_path), total_genes=None)
    np.testing.assert_array_equal(dataset.X, X.toarray())
    assert dataset.gene_names.tolist() == GENES
    assert dataset.cell_types.tolist() == sorted(set(written["types"]))
    np.testing.assert_array_equal(dataset.cell_types[dataset.labels.ravel()], written["types"])
    assert dataset.precise_labels.tolist() == written["subtypes"]


def test_cortex_genes_to_keep_come_first_then_the_most_variable(tmp_path):
    files.cortex(tmp_path)
    dataset = CortexDataset(str(tmp_path), genes_to_keep=["Gene7", "Gene2"], total_genes=6)
    deviations = pd.Series(X.toarray().std(axis=0), index=GENES).drop(["Gene7", "Gene2"])
    by_deviation = deviations.sort_values(ascending=False, kind="stable").index[:4].tolist()
    assert dataset.gene_names.tolist() == ["Gene7", "Gene2", *by_deviation]
    expected = X.toarray()[:, [GENES.index(gene) for gene in dataset.gene_names]]
    np.testing.assert_array_equal(dataset.X, expected)
    dataset = CortexDataset(str(tmp_path), genes_to_keep=["Gene7"], total_genes=None)
    assert dataset.gene_names.tolist() == ["Gene7"]
    with pytest.raises(KeyError, match="no genes \\['Nix'\\]"):
        CortexDataset(str(tmp_path), genes_to_keep=["Nix"])
    with pytest.raises(ValueError, match="total_genes=1 is less"):
        CortexDataset(str(tmp_path), genes_to_keep=["Gene7", "Gene2"], total_genes=1)


@pytest.mark.parametrize("cells_at_once", [7, 100_000])
def test_brain_large(cells_at_once, tmp_path, monkeypatch):
    monkeypatch.setattr(published_brain, "_VALUES_AT_ONCE", 60)
    files.brain_large(tmp_path)
    dataset = BrainLargeDataset(
        save_path=str(tmp_path), sample_size_gene_var=10, nb_genes_to_keep=5, loading_batch_size=cells_at_once
    )
    genes = np.argsort(-X[:10].toarray().var(axis=0), kind="stable")[:5]
    expected = X.toarray()[:, genes]
    kept = expected.sum(axis=1) > 0
    np.testing.assert_array_equal(dataset.X.toarray(), expected[kept])
    assert dataset.gene_names.tolist() == [IDS[gene] for gene in genes]
    limited = BrainLargeDataset(
        save_path=str(tmp_path), sample_size_gene_var=10, nb_genes_to_keep=5, max_cells_to_keep=13
    )
    np.testing.assert_array_equal(limited.X.toarray(), expected[:13][kept[:13]])
    assert limited.n_cells_to_keep == 13


def test_brain_large_without_names_of_genes(tmp_path, caplog):
    files.brain_large(tmp_path)
    with h5py.File(tmp_path / "brain_large.h5", "a") as file:
        del file["mm10/genes"], file["mm10/gene_names"], file["mm10/barcodes"]
    dataset = BrainLargeDataset(save_path=str(tmp_path), nb_genes_to_keep=5)
    genes = np.argsort(-X.toarray().var(axis=0), kind="stable")[:5]
    np.testing.assert_array_equal(dataset.X.toarray(), X.toarray()[:, genes])
    assert dataset.gene_names is None
    assert dataset.subset_genes.tolist() == genes.tolist()
    assert "brain_large.h5 has no names of genes" in caplog.text
    dataset.update_genes([3, 1])
    assert dataset.subset_genes.tolist() == genes[[3, 1]].tolist()


def test_brain_small(tmp_path):
    written = files.brain_small(tmp_path)
    dataset = BrainSmallDataset(str(tmp_path), delayed_populating=True)
    assert dataset.X is None
    dataset.populate()
    assert (written["counts"] != dataset.X).nnz == 0
    np.testing.assert_array_equal(dataset.labels.ravel(), written["clusters"].to_numpy() - 1)
    np.testing.assert_array_equal(dataset.raw_qc, written["metrics"].to_numpy())
    assert dataset.qc_names.tolist() == ["num_umi", "num_reads", "mapped"]
    assert (tmp_path / "neuron_9k" / "filtered_gene_bc_matrices").exists()
    metadata = {"clusters": written["clusters"].iloc[:5], "raw_qc": written["metrics"]}
    (tmp_path / "brain_small_metadata.pickle").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ValueError, match="lacks 35 of the 40 cells"):
        BrainSmallDataset(str(tmp_path))


def test_brain_small_in_two_folders_leaves_nothing_extracted(tmp_path):
    files.brain_small(tmp_path)
    (tmp_path / "10X").mkdir()
    (tmp_path / "neuron_9k").rename(tmp_path / "10X" / "neuron_9k")
    BrainSmallDataset(str(tmp_path), save_path_10X=str(tmp_path / "10X"), remove_extracted_data=True)
    assert [path.name for path in (tmp_path / "10X" / "neuron_9k").iterdir()] == ["filtered_gene_bc_matrices.tar.gz"]


def test_pbmc(tmp_path):
    written = files.pbmc(tmp_path)
    dataset = PbmcDataset(str(tmp_path), remove_extracted_data=True)
    first, second = (written[run] for run in ("first", "second"))
    cells = [(0, i) for i in range(5, N)] + [(0, 1)] + [(1, i) for i in range(3, N)]
    rows = [i for i, name in enumerate(written["kept"]) if not name.endswith("11")]
    assert len(rows) == len(cells)
    genes = [2, 5, 7]
    expected = np.stack([written["counts"][run][[cell]].toarray()[0, genes] for run, cell in cells])
    nonempty = expected.sum(axis=1) > 0
    np.testing.assert_array_equal(dataset.X.toarray(), expected[nonempty])
    np.testing.assert_array_equal(dataset.batch_indices.ravel(), np.array([run for run, _ in cells])[nonempty])
    barcodes = [(first, second)[run][cell] for run, cell in cells]
    assert dataset.barcodes.ravel().tolist() == np.array(barcodes)[nonempty].tolist()
    assert dataset.cell_types.tolist() == written["names"][:3]
    np.testing.assert_array_equal(dataset.labels.ravel(), np.array(rows)[nonempty] % 3)
    np.testing.assert_array_equal(dataset.qc[:, 0], 2.0 * np.array(rows)[nonempty])
    assert dataset.qc_names.tolist() == ["num_umi", "num_reads"]
    assert dataset.design[0].tolist() == ["a", str(rows[0])]
    assert dataset.gene_names.tolist() == [IDS[gene] for gene in genes]
    assert dataset.de_metadata["GS"].tolist() == ["b", "c", "a"]
    dataset.subsample_genes(subset_genes=[2])
    assert dataset.de_metadata["GS"].tolist() == ["a"]


def test_pbmc_with_other_metadata(tmp_path):
    files.pbmc(tmp_path)
    metadata = pickle.loads((tmp_path / "pbmc_metadata.pickle").read_bytes())
    metadata["barcodes"].index = [f"{i}-1" for i in range(len(metadata["barcodes"]))]
    (tmp_path / "pbmc_metadata.pickle").write_bytes(pickle.dumps(metadata))
    dataset = PbmcDataset(str(tmp_path), delayed_populating=True)
    with pytest.raises(ValueError, match="none of the barcodes"):
        dataset.populate()
    assert dataset.X is None  # the counts were read, and are not left behind
    del metadata["clusters"]
    (tmp_path / "pbmc_metadata.pickle").write_bytes(pickle.dumps(metadata))
    with pytest.raises(ValueError, match=r"has no \['clusters'\]"):
        PbmcDataset(str(tmp_path))


@pytest.mark.parametrize("delayed", [False, True])
def test_purified_pbmc(delayed, tmp_path):
    files.purified(tmp_path)
    dataset = PurifiedPBMCDataset(str(tmp_path), delayed_populating=delayed)
    if delayed:
        dataset.populate()
    assert dataset.cell_types.tolist() == list(files.PURIFIED)
    assert dataset.n_batches == dataset.n_labels == 10
    assert dataset.nb_cells == 10 * N
    dataset = PurifiedPBMCDataset(str(tmp_path), subset_datasets=list(range(6)))
    assert dataset.cell_types.tolist() == list(files.PURIFIED[:6])
    with pytest.raises(ValueError, match="position 10; there are 10"):
        PurifiedPBMCDataset(str(tmp_path), subset_datasets=[0, 10])


@pytest.mark.parametrize("name", ["cbmc", "pbmc", "cd8"])
def test_cite_seq(name, tmp_path):
    written = files.cite_seq(tmp_path, name)
    dataset = CbmcDataset(str(tmp_path)) if name == "cbmc" else CiteSeqDataset(name, str(tmp_path))
    human = X[:, :9].toarray()
    kept = human.sum(axis=1) > 0
    np.testing.assert_array_equal(dataset.X, human[kept])
    assert dataset.gene_names.tolist() == GENES[:9]
    np.testing.assert_array_equal(dataset.protein_expression, written["adt"].T[kept])
    np.testing.assert_allclose(dataset.protein_expression_clr, written["clr"].T[kept])
    assert dataset.protein_names.tolist() == dataset.protein_names_clr.tolist() == written["proteins"]


def test_a_cite_seq_that_is_none(tmp_path):
    with pytest.raises(KeyError, match="'cbmd'"):
        CiteSeqDataset("cbmd", str(tmp_path))


def test_hemato(tmp_path):
    written = files.hemato(tmp_path)
    dataset = HematoDataset(str(tmp_path))
    cells = [i for i in range(4, N) if written["libraries"][i] != "basal_bm1"]
    expected = X.toarray()[np.ix_(cells, [8, 1, 4])]
    nonempty = expected.sum(axis=1) > 0
    np.testing.assert_array_equal(dataset.X, expected[nonempty])
    assert dataset.gene_names.tolist() == written["genes"]
    spring = written["spring"].loc[[f"c{i}" for i in cells]]
    np.testing.assert_allclose(dataset.x_coord, spring["x_spring"].to_numpy()[nonempty])
    p = spring[["Pr_Gr", "Pr_Er"]].to_numpy()
    inner = [column[(column > 0) & (column < 1)] for column in p.T]
    clipped = [np.clip(column, part.min(), part.max()) for column, part in zip(p.T, inner, strict=True)]
    np.testing.assert_allclose(dataset.fate_score, (logit(clipped[0]) - logit(clipped[1]))[nonempty])
    assert np.isfinite(dataset.fate_score).all()
    assert (dataset.labels == 0).all()
    assert len(dataset.cell_types_levels) == 7
    assert dataset.meta["cell_id"].tolist() == np.array([f"c{i}" for i in cells])[nonempty].tolist()
    dataset.update_cells([1, 0])
    assert len(dataset.meta) == 2
    assert (tmp_path / "bBM.spring_and_pba.csv").exists()


def test_seqfish(tmp_path):
    files.seqfish(tmp_path)
    dataset = SeqfishDataset(str(tmp_path))
    np.testing.assert_array_equal(dataset.X, X.toarray())
    assert dataset.gene_names.tolist() == GENES


@pytest.mark.parametrize("region", ["subventricular cortex", "olfactory bulb"])
def test_seqfishplus(region, tmp_path):
    written = files.seqfishplus(tmp_path)
    dataset = SeqFishPlusDataset(region, str(tmp_path))
    np.testing.assert_array_equal(dataset.X, X.toarray())
    assert dataset.gene_names.tolist() == GENES
    np.testing.assert_array_equal(dataset.coords, written["places"])
    assert list(dataset.axis) == ["x", "y"]
    assert dataset.field_of_view.ravel().tolist() == (np.arange(N) % 5).tolist()
    assert ("region" in dataset.cell_attribute_names) == (region == "subventricular cortex")
    with pytest.raises(ValueError, match="tissue_region='liver'"):
        SeqFishPlusDataset("liver", str(tmp_path))  # type: ignore[arg-type]


def test_random_synthetic(tmp_path):
    written = files.random_metadata(tmp_path)
    state = np.random.get_state()[1].copy()
    dataset = SyntheticRandomDataset(save_path=str(tmp_path))
    assert (np.random.get_state()[1] == state).all()
    np.testing.assert_array_equal(dataset.X, written["counts"])
    assert dataset.n_labels == 3
    assert "ydata" in dataset.simlr_metadata
    with pytest.raises(ValueError, match="were drawn"):
        SyntheticRandomDataset(dropout=0.9, save_path=str(tmp_path))


@pytest.mark.parametrize(("overlap", "n_genes"), [(0, 75), (5, 65)])
def test_correlated_synthetic(overlap, n_genes):
    dataset = SyntheticDatasetCorr(n_cells_cluster=200, n_overlap=overlap)
    assert dataset.X.shape == (600, n_genes)
    assert dataset.n_genes_total == n_genes
    np.testing.assert_allclose(dataset.exprs_param.sum(axis=2), 50.0)
    assert dataset.is_highly_exp.sum(axis=2).tolist() == [[25] * 600]
    np.testing.assert_allclose(dataset.poisson_zero, np.exp(-dataset.exprs_param))
    for label in range(3):
        cells = dataset.labels.ravel() == label
        np.testing.assert_allclose(dataset.X[cells].mean(axis=0), dataset.exprs_param[0, cells][0], atol=0.35)
    assert (SyntheticDatasetCorr(n_overlap=overlap).X == dataset.X).all()


def test_zero_inflated_synthetic():
    plain = SyntheticDatasetCorr(n_clusters=8, n_genes_high=15)
    dataset = ZISyntheticDatasetCorr(
        dropout_coef_high=0.2, dropout_coef_low=0.1, lam_dropout_low=0.5, n_clusters=8, n_genes_high=15
    )
    assert (dataset.X == 0).mean() > max((plain.X == 0).mean(), 0.2)
    high = dataset.is_highly_exp
    np.testing.assert_allclose(dataset.p_dropout[high], 0.2)
    np.testing.assert_allclose(dataset.p_dropout[~high], 0.1 * np.exp(-0.5 * dataset.exprs_param[~high] ** 2))
    assert dataset.is_technical[high].mean() == pytest.approx(0.2, abs=0.01)
    for probabilities in (dataset.probas_zero_bio_tech_high, dataset.probas_zero_bio_tech_low):
        assert probabilities.shape == (2, 2)
        assert probabilities.sum() == pytest.approx(1)
    assert dataset.probas_zero_bio_tech_high[:, 1].sum() == pytest.approx(0.2)
    with pytest.raises(ValueError, match="dropout_coef_low=1"):
        ZISyntheticDatasetCorr(dropout_coef_low=1)


def test_a_file_that_is_not_there_names_url_and_path(tmp_path, monkeypatch):
    def refused(url, filename, save_path):
        raise ConnectionError(f"{url} could not be downloaded; place it at {Path(save_path) / filename}")

    monkeypatch.setattr("scvi.dataset.dataset.download_file", refused)
    with pytest.raises(ConnectionError, match=f"retina.loom could not be .* {tmp_path / 'retina.loom'}"):
        RetinaDataset(str(tmp_path))


DATA_SETS = {
    "cortex": (files.cortex, lambda folder: CortexDataset(folder, total_genes=10)),
    "brain large": (files.brain_large, lambda folder: BrainLargeDataset(save_path=folder)),
    "brain small": (files.brain_small, BrainSmallDataset),
    "pbmc": (files.pbmc, PbmcDataset),
    "cbmc": (files.cite_seq, CbmcDataset),
    "hemato": (files.hemato, HematoDataset),
    "retina": (files.looms, RetinaDataset),
    "starmap": (files.looms, PreFrontalCortexStarmapDataset),
    "dropseq": (files.looms, FrontalCortexDropseqDataset),
    "smfish": (files.looms, SmfishDataset),
    "seqfish": (files.seqfish, SeqfishDataset),
    "seqfishplus": (files.seqfishplus, lambda folder: SeqFishPlusDataset(save_path=folder)),
    "random": (files.random_metadata, lambda folder: SyntheticRandomDataset(save_path=folder)),
    "synthetic": (None, lambda folder: SyntheticDataset(batch_size=20)),
    "correlated": (None, lambda folder: SyntheticDatasetCorr(n_cells_cluster=20)),
    "zero-inflated": (None, lambda folder: ZISyntheticDatasetCorr(n_cells_cluster=20)),
}


SPARSE = {"brain large", "brain small", "pbmc"}
"""Those whose counts were sparse in 2020."""
NOT_FROM_FILES = {"random", "synthetic", "correlated", "zero-inflated"}


@pytest.mark.parametrize("name", DATA_SETS)
def test_every_data_set_trains_and_becomes_an_anndata(name, tmp_path):
    write, make = DATA_SETS[name]
    if write is not None:
        write(tmp_path)
    dataset = make(str(tmp_path))
    model = VAE(dataset.nb_genes, n_batch=dataset.n_batches, n_labels=dataset.n_labels, n_hidden=8)
    trainer = UnsupervisedTrainer(model, dataset, train_size=0.5)
    trainer.train(n_epochs=1)
    adata = dataset.to_anndata()
    assert adata.shape == (dataset.nb_cells, dataset.nb_genes)
    adata.write_h5ad(tmp_path / "out.h5ad")
    assert sp.issparse(dataset.X) == (name in SPARSE)


@pytest.mark.parametrize("name", [name for name in DATA_SETS if name not in {*SPARSE, *NOT_FROM_FILES}])
def test_large_data_sets_stay_sparse(name, tmp_path, monkeypatch):
    write, make = DATA_SETS[name]
    write(tmp_path)
    small = make(str(tmp_path))
    monkeypatch.setattr("scvi.dataset.arrays.LARGEST_ARRAY", 1)
    large = make(str(tmp_path))
    assert isinstance(large.X, sp.csr_matrix)
    assert repr(large) == repr(small)
    np.testing.assert_array_equal(large.X.toarray(), small.X)
    np.testing.assert_array_equal(large.local_means, small.local_means)

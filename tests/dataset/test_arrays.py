from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from scvi.dataset.arrays import _drawn_positive
from scvi.dataset.dataset import (
    check_nonnegative_integers,
    compute_library_size,
    concatenate_arrays,
    remap_categories,
)


def test_remap_categories() -> None:
    codes, n, mappings = remap_categories([2, 2, 3], mappings_dict={"cell_types": ["0", "1", "2", "3"]})
    assert codes.tolist() == [0, 0, 1]
    assert codes.dtype == np.uint16
    assert n == 2
    assert mappings["cell_types"].tolist() == ["2", "3"]
    codes, n = remap_categories(np.array([[5], [1], [5]]))
    assert codes.tolist() == [[1], [0], [1]]
    assert n == 2


def test_remap_categories_with_a_mapping() -> None:
    codes, n = remap_categories([2, 3, 2], mapping_from=[2, 3, 7], mapping_to=[1, 1, 0])
    assert codes.tolist() == [1, 1, 1]
    assert n == 1
    codes, n, mappings = remap_categories(
        [2, 2, 3], mapping_from=[2, 3, 0], mapping_to=[1, 0, 2], mappings_dict={"names": ["a", "b", "c", "d"]}
    )
    assert codes.tolist() == [1, 1, 0]
    assert mappings["names"].tolist() == ["d", "c", "a"]  # absent categories are mapped too
    with pytest.raises(ValueError, match=r"mapping_from lacks the categories \[3\]"):
        remap_categories([2, 3], mapping_from=[2], mapping_to=[0])
    with pytest.raises(ValueError, match="mapping_from has 2 entries and mapping_to 1"):
        remap_categories([2, 3], mapping_from=[2, 3], mapping_to=[0])
    with pytest.raises(ValueError, match="names has 3 values, but the category 3 occurs"):
        remap_categories([2, 3], mappings_dict={"names": ["a", "b", "c"]})
    with pytest.raises(ValueError, match="categories go up to 65536; codes go up to 65535"):
        remap_categories(np.arange(2**16 + 1))


def test_compute_library_size() -> None:
    X = np.array([[1, 2], [3, 4], [5, 6]])
    for data in (X, sp.csr_matrix(X)):
        mean, variance = compute_library_size(data)
        assert mean.shape == variance.shape == (1, 1)
        assert mean.dtype == variance.dtype == np.float32
        np.testing.assert_allclose(mean, np.log(X.sum(1)).mean(), rtol=1e-6)
        np.testing.assert_allclose(variance, np.log(X.sum(1)).var(), rtol=1e-6)


def test_concatenate_arrays() -> None:
    full = np.arange(6).reshape(2, 3)
    assert isinstance(concatenate_arrays([full, full]), np.ndarray)
    mixed = concatenate_arrays([full, sp.csc_matrix(full)])
    assert mixed.format == "csr"
    np.testing.assert_array_equal(mixed.toarray(), np.concatenate([full, full]))


def test_check_nonnegative_integers() -> None:
    good = np.array([[0.0, 2.0]])
    for bad in (-1.0, 0.5, np.nan, np.inf):
        wrong = np.array([[0.0, bad]])
        for layout in (np.asarray, sp.csr_matrix, sp.csc_array):
            assert check_nonnegative_integers(layout(good))
            assert not check_nonnegative_integers(layout(wrong))


def test_the_normal_limit_of_the_hypergeometric() -> None:
    rng = np.random.default_rng(0)
    draws = [_drawn_positive(10**8, 10**9, 10**7, rng) for _ in range(2000)]
    np.testing.assert_allclose(np.mean(draws), 10**6, rtol=1e-3)
    np.testing.assert_allclose(np.var(draws), 10**6 * 0.9 * 0.99, rtol=0.15)
    assert _drawn_positive(10**9, 10**9, 10**7, rng) == 10**7

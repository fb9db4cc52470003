from __future__ import annotations

import numpy as np
import pytest

from scvi.queries.evaluation import Joined, joined


@pytest.mark.parametrize("shape", [(), (5,), (2, 3)])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_the_parts_in_their_order(shape: tuple[int, ...], dtype: type) -> None:
    rng = np.random.default_rng(0)
    for n_parts in (1, 2, 40):
        parts = [rng.poisson(5, (int(n), *shape)).astype(dtype) for n in rng.integers(0, 30, n_parts)]
        result = joined(iter(parts))
        assert result.dtype == dtype
        np.testing.assert_array_equal(result, np.concatenate(parts))


def test_parts_are_copied_also_where_they_are_not_contiguous() -> None:
    part = np.arange(12.0).reshape(3, 4).T
    result = Joined()
    result.add(part)
    part[:] = 0
    np.testing.assert_array_equal(result.array(), np.arange(12.0).reshape(3, 4).T)


def test_nothing_to_join() -> None:
    with pytest.raises(ValueError, match="no part was added"):
        Joined().array()

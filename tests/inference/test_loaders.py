from itertools import islice

import pytest
import torch

from grids import each_of
from scvi.inference import Posterior
from scvi.inference.loaders import endless, fold_tail, split_sizes


class Loader:
    """Minibatches as a posterior yields them, without the data."""

    def __init__(self, n, batch_size):
        self.n, self.batch_size, self.data_loader = n, batch_size, self

    def __iter__(self):
        for rows in torch.arange(self.n).split(self.batch_size):
            yield [rows[:, None].float(), rows]


@each_of(n=range(2, 30), batch_size=range(2, 9))
def test_every_cell_is_seen_once_and_none_alone(n, batch_size):
    sizes = []
    seen = []
    for x, rows in fold_tail(Loader(n, batch_size)):
        assert torch.equal(x[:, 0].long(), rows)
        sizes.append(len(rows))
        seen.append(rows)
    assert torch.equal(torch.cat(seen), torch.arange(n))
    assert min(sizes) >= 2
    if n >= batch_size:
        assert all(batch_size / 2 <= size < 1.5 * batch_size + 1 for size in sizes)
        assert all(size == batch_size for size in sizes[:-1])


def test_the_second_pass_of_an_endless_loader_has_another_order(vae, dataset):
    posterior = Posterior(vae, dataset, shuffle=True, data_loader_kwargs={"batch_size": 20})
    tensors = list(islice(endless(posterior), 6))
    first, second = (torch.cat([x for x, *_ in part]) for part in (tensors[:3], tensors[3:]))
    assert not torch.equal(first, second)
    assert torch.equal(first.sum(0), second.sum(0))


@pytest.mark.parametrize(
    ("n", "train_size", "test_size", "expected"),
    [
        (101, 0.8, None, (80, 21)),
        (101, None, 0.25, (75, 26)),
        (101, 0.5, 0.25, (50, 26)),
        (100, 30, None, (30, 70)),
        (100, 30, 10, (30, 10)),
        (100, 30, 0.5, (30, 50)),
        (100, 1.0, None, (100, 0)),
        (100, 1.0, 0.1, (100, 0)),
        (1, 1.0, None, (1, 0)),
    ],
)
def test_split_sizes(n, train_size, test_size, expected):
    assert split_sizes(n, train_size, test_size) == expected


@pytest.mark.parametrize(
    ("train_size", "test_size"),
    [(1.5, None), (0.0, None), (-0.1, None), (0.9, 0.2), (101, None), (None, None), (0.001, 0.5)],
)
def test_impossible_splits_are_refused(train_size, test_size):
    with pytest.raises(ValueError, match=f"Choice of train_size={train_size} and test_size={test_size} not understood"):
        split_sizes(100, train_size, test_size)

"""Products with many seeds at once, forward and reverse, against dense Jacobians."""

import pytest
import torch

from torchjac._evaluate.compressed import Passes, join_products, split_seeds
from torchjac._evaluate.memory import Budget
from torchjac._evaluate.options import Options
from torchjac._evaluate.progress import Progress
from torchjac._evaluate.sweep import Chunks
from torchjac._inputs.signature import bind

METHODS = ["vmap", "loop", "vmap, math attention"]
X, Y = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0, 5.0], dtype=torch.float64)
# d(x0 y, x1 sum(y)) by (x, y), by hand
J = torch.tensor(
    [[3, 0, 1, 0, 0], [4, 0, 0, 1, 0], [5, 0, 0, 0, 1], [0, 12, 2, 2, 2]], dtype=torch.float64
)


def func(x, y):
    return x[0] * y, x[1] * y.sum()


def begin(**options):
    signature = bind("test", func, (X, Y))
    likes = [torch.empty(3, dtype=torch.float64), torch.empty((), dtype=torch.float64)]
    return Passes.begin(signature, likes, Options(**options))


def chunks(size=None):
    budget = Budget("test", chunk_size=size)
    return Chunks(budget, 0, size is None, torch.device("cpu"), Progress(shown=False))


def rows_of(matrix):
    return lambda start, stop: matrix[start:stop]


@pytest.mark.parametrize("size", [None, 1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_columns_by_forward_mode(method, size):
    seeds = torch.randn(3, 5, dtype=torch.float64).float().double()
    made = begin().push(rows_of(seeds), 3, chunks(size), method)
    torch.testing.assert_close(made, seeds @ J.T)


@pytest.mark.parametrize("size", [None, 1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_rows_by_reverse_mode(method, size):
    seeds = torch.randn(3, 4, dtype=torch.float64)
    made = begin().pull(rows_of(seeds), 3, chunks(size), method)
    torch.testing.assert_close(made.double(), seeds @ J, rtol=1e-6, atol=1e-6)


def test_no_seeds_make_an_empty_product():
    assert begin().push(rows_of(torch.empty(0, 5)), 0, chunks(), "vmap").shape == (0, 4)


def test_rows_keep_their_graph_if_asked():
    y = Y.clone().requires_grad_()
    signature = bind("test", lambda y: y**3, y)
    passes = Passes.begin(signature, [y], Options(create_graph=True))
    made = passes.pull(rows_of(torch.ones(1, 3, dtype=torch.float64)), 1, chunks(), "vmap")
    (second,) = torch.autograd.grad(made.sum(), y)
    torch.testing.assert_close(second, 6 * Y)


def test_all_passes_see_the_same_random_numbers():
    x = torch.ones(50)
    signature = bind("test", lambda x: torch.nn.functional.dropout(x) * x, x)
    passes = Passes.begin(signature, [x], Options())
    value = passes.evaluate(keep_graph=False).tensors[0]
    twice = torch.ones(2, 50)
    pushed = passes.push(rows_of(twice), 2, chunks(1), "vmap")
    pulled = passes.pull(rows_of(twice), 2, chunks(1), "vmap")
    assert torch.equal(pushed, (2 * value).expand(2, 50))
    assert torch.equal(pulled, pushed)


def test_the_value_is_computed_once():
    calls = []
    signature = bind("test", lambda x: calls.append(1) or x * 2, X)
    passes = Passes.begin(signature, [X], Options())
    passes.evaluate(keep_graph=True)
    passes.evaluate(keep_graph=False)
    passes.pull(rows_of(torch.ones(1, 2)), 1, chunks(), "vmap")
    assert len(calls) == 1


def test_seeds_are_cut_by_tensor():
    parts = split_seeds(torch.arange(10.0).view(2, 5), [torch.empty(2), torch.empty(3, 1)])
    assert [part.tolist() for part in parts] == [
        [[0, 1], [5, 6]],
        [[[2], [3], [4]], [[7], [8], [9]]],
    ]


def test_products_are_joined_with_zeros_for_what_is_missing():
    likes = [torch.empty(2), torch.empty(1)]
    joined = join_products([torch.ones(2, 2), None], likes, 2, torch.empty(0))
    assert joined.tolist() == [[1, 1, 0], [1, 1, 0]]

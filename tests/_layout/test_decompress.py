"""Compressed values back to entries: every kind, device and dtype, and its derivatives."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests._coloring import matrices
from torchjac._coloring.orders import ORDERS
from torchjac._coloring.select import color_pattern
from torchjac._layout.decompress import decompressor, depth, substituted
from torchjac._layout.slices import Slices
from torchjac._pattern.pattern import SparsityPattern

ANY = settings(deadline=None, max_examples=40, derandomize=True, database=None)
KINDS = [
    ("column", False),
    ("row", False),
    ("star", False),
    ("acyclic", True),
    ("bidirectional", False),
    ("bidirectional", True),
]


def colored(pattern, kind, substitution=False, **options):
    two_sided = kind == "bidirectional"
    return color_pattern(pattern, kind, substitution=substitution and two_sided, **options)


def entries(pattern, kind, dtype=torch.float64, seed=0):
    """Random values of the entries, equal in both triangles for the symmetric kinds."""
    numbers = np.random.default_rng(seed).standard_normal(pattern.shape)
    if kind in ("star", "acyclic"):
        numbers = numbers + numbers.T
    return torch.from_numpy(numbers[pattern.rows, pattern.indices]).to(dtype)


def compressed(coloring, values):
    """J S and Sᵀ J by dense products."""
    pattern = coloring.pattern
    places = (
        torch.from_numpy(pattern.rows.astype(int)),
        torch.from_numpy(pattern.indices.astype(int)),
    )
    dense = torch.zeros(pattern.shape, dtype=values.dtype).index_put(places, values)
    columns, rows = (
        seeds(dtype=values.dtype) for seeds in (coloring.column_seeds, coloring.row_seeds)
    )
    return columns @ dense.T, rows @ dense


def check(pattern, kind, substitution=False, **options):
    coloring = colored(pattern, kind, substitution, **options)
    values = entries(pattern, kind)
    found = decompressor(coloring)(*compressed(coloring, values))
    # Substitution adds and subtracts; everything else is copied.
    tolerance = 1e-12 if coloring.substitution else 0
    torch.testing.assert_close(found, values, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("kind", "substitution"), [pair for pair in KINDS if pair[0] not in ("star", "acyclic")]
)
@given(pattern=matrices.patterns(), order=st.sampled_from(ORDERS))
@ANY
def test_any_matrix_is_recovered(kind, substitution, pattern, order):
    check(pattern, kind, substitution, orders=(order,))


@pytest.mark.parametrize("kind", ["star", "acyclic"])
@given(pattern=matrices.symmetric_patterns(), order=st.sampled_from(ORDERS))
@ANY
def test_any_symmetric_matrix_is_recovered(kind, pattern, order):
    check(pattern, kind, orders=(order,))


def sample(kind):
    return matrices.grid(4) if kind in ("star", "acyclic") else matrices.random(9, 7, 3)


@pytest.mark.parametrize(("kind", "substitution"), KINDS)
def test_it_is_differentiable_twice(kind, substitution):
    coloring = colored(sample(kind), kind, substitution)
    given_ = [
        t.detach().requires_grad_() for t in compressed(coloring, entries(coloring.pattern, kind))
    ]
    recover = decompressor(coloring)
    assert torch.autograd.gradcheck(recover, given_)
    assert torch.autograd.gradgradcheck(lambda a, b: recover(a, b).sin(), given_)


@pytest.mark.parametrize(("kind", "substitution"), KINDS)
def test_forward_mode_and_vmap_go_through_it(kind, substitution):
    coloring = colored(sample(kind), kind, substitution)
    values = entries(coloring.pattern, kind)
    parts = compressed(coloring, values)
    recover = decompressor(coloring)
    value, tangent = torch.func.jvp(recover, parts, parts)
    torch.testing.assert_close(tangent, value)
    batch = tuple(torch.stack([part, 2 * part]) for part in parts)
    torch.testing.assert_close(torch.func.vmap(recover)(*batch), torch.stack([values, 2 * values]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex128])
@pytest.mark.parametrize(("kind", "substitution"), KINDS)
def test_the_dtype_stays(kind, substitution, dtype):
    coloring = colored(sample(kind), kind, substitution)
    values = entries(coloring.pattern, kind, dtype)
    found = decompressor(coloring)(*compressed(coloring, values))
    assert found.dtype == dtype
    torch.testing.assert_close(found, values)


def test_columns_by_hand():
    coloring = color_pattern(matrices.band(4, 1))
    assert coloring.column_colors.tolist() == [0, 1, 2, 0]
    # Entry (i, j) is 10 i + j + 11, summed over columns 0 and 3 for color 0.
    columns = torch.tensor([[11.0, 21, 34, 44], [12, 22, 32, 0], [0, 23, 33, 43]])
    found = decompressor(coloring)(columns).tolist()
    assert found == [11, 12, 21, 22, 23, 32, 33, 34, 43, 44]


def test_substitution_by_hand():
    """A path 0 - 1 - 2 - 3 in two colors: each end is read, the middle is what is left over."""
    path = matrices.band(4, 1)
    coloring = replace(
        color_pattern(path, "acyclic"), column_colors=np.array([0, 1, 0, 1], np.int32)
    )
    diagonal, edges = [1.0, 2, 3, 4], [10.0, 20, 30]
    # Color 0 sums columns 0 and 2, color 1 columns 1 and 3.
    columns = torch.tensor([[1.0, 10 + 20, 3, 30], [10, 2, 20 + 30, 4]])
    found = decompressor(coloring)(columns).tolist()
    assert found[0::3] == diagonal
    assert found[1::3] == edges
    assert found[2::3] == edges


def test_a_long_path_is_solved_in_few_steps_and_accurately():
    n = 20_000
    coloring = color_pattern(matrices.band(n, 1), "acyclic")
    assert coloring.num_colors == 2
    recover = decompressor(coloring)
    assert len(recover.counts) == 14
    values = torch.from_numpy(np.random.default_rng(0).standard_normal(2 * n - 1))
    diagonal, edges = values[:n], values[n:]
    parity = torch.arange(n) % 2
    near = torch.zeros(n, dtype=torch.float64)
    near[:-1] += edges
    near[1:] += edges
    columns = torch.stack([torch.where(parity == c, diagonal, near) for c in (0, 1)])
    found = recover(columns)
    torch.testing.assert_close(found[0::3], diagonal, rtol=0, atol=0)
    torch.testing.assert_close(found[1::3], edges, rtol=0, atol=1e-11)
    torch.testing.assert_close(found[2::3], edges, rtol=0, atol=1e-11)


def test_depth_by_hand():
    assert depth(np.array([2, 2, 3, -1, -1])).tolist() == [2, 2, 1, 0, 0]


def test_a_sum_of_children_is_taken_from_their_parent():
    # 0 and 1 are the children of 2, which is the child of 3.
    solved = substituted(torch.tensor([1.0, 2, 10, 100]), torch.tensor([2, 2, 3]), (3, 2))
    assert solved.tolist() == [1, 2, 7, 93]


def test_a_side_without_colors_may_be_left_out():
    coloring = color_pattern(matrices.band(5, 1), "bidirectional")
    assert coloring.num_row_colors == 0
    values = entries(coloring.pattern, "column")
    columns, rows = compressed(coloring, values)
    recover = decompressor(coloring)
    assert torch.equal(recover(columns), values)
    assert torch.equal(recover(columns, rows), values)


@pytest.mark.parametrize("kind", ["column", "row", "star", "acyclic", "bidirectional"])
def test_an_empty_matrix_has_no_values(kind):
    coloring = color_pattern(matrices.SparsityPattern.from_coo((3, 3), [], []), kind)
    none = torch.empty(0, 3, dtype=torch.float64)
    assert decompressor(coloring)(none, none).shape == (0,)
    assert decompressor(coloring)(none).dtype == torch.float64
    assert decompressor(coloring)().shape == (0,)


def test_index_tensors_move_to_a_device_once():
    recover = decompressor(color_pattern(matrices.grid(4), "acyclic"))
    columns = torch.empty(recover.column_shape, device="meta")
    assert recover(columns).device.type == "meta"
    assert recover._on(torch.device("meta")) is recover._on(torch.device("meta"))
    assert recover._on(torch.device("cpu")) is recover.places


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
@pytest.mark.parametrize(("kind", "substitution"), KINDS)
def test_values_stay_on_an_accelerator(kind, substitution):
    coloring = colored(sample(kind), kind, substitution)
    values = entries(coloring.pattern, kind)
    found = decompressor(coloring)(*(part.cuda() for part in compressed(coloring, values)))
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), values)


def test_a_decompressor_can_be_pickled():
    coloring = color_pattern(matrices.grid(4), "acyclic")
    values = entries(coloring.pattern, "acyclic")
    recover = pickle.loads(pickle.dumps(decompressor(coloring)))
    torch.testing.assert_close(recover(compressed(coloring, values)[0]), values)


@pytest.mark.parametrize("kind", ["column", "row"])
@pytest.mark.parametrize(
    "dense",
    [np.ones((4, 3)), np.ones((1, 5)), np.kron(np.eye(3), np.ones((2, 4)))],
    ids=["full", "one row", "blocks"],
)
def test_full_parts_are_read_without_index_tensors(dense, kind):
    pattern = SparsityPattern.from_dense(dense)
    coloring = color_pattern(pattern, kind)
    recover = decompressor(coloring)
    matrix = torch.arange(1.0, dense.size + 1).view(dense.shape) * torch.from_numpy(dense).float()
    seeds = coloring.column_seeds if kind == "column" else coloring.row_seeds
    stack = seeds(0, coloring.num_colors, dtype=torch.float32, device=torch.device("cpu"))
    product = stack @ matrix.T if kind == "column" else stack @ matrix
    found = recover(columns=product) if kind == "column" else recover(rows=product)
    assert isinstance(recover.places.read, Slices)
    assert recover.places.to(torch.device("cpu")) == recover.places
    assert found.tolist() == matrix[matrix != 0].tolist()

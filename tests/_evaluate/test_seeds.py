"""Seeds are rows of the identity, made a chunk at a time."""

import pytest
import torch

import torchjac
from torchjac._evaluate.seeds import basis, joint_basis, rows_of_samples, seed_count

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex128]
SHAPES = [(), (1,), (4,), (2, 3), (2, 1, 3)]


class TestBasis:
    """Seeds of one tensor."""

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("shape", SHAPES)
    def test_all_seeds_are_the_identity(self, shape, dtype):
        like = torch.empty(shape, dtype=dtype)

        seeds = basis(like, 0, like.numel())

        assert seeds.shape == (like.numel(), *shape)
        assert seeds.dtype == dtype
        assert torch.equal(seeds.reshape(like.numel(), -1), torch.eye(like.numel(), dtype=dtype))

    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("size", [1, 2, 3, 5])
    def test_chunks_put_together_are_the_identity(self, shape, size):
        like = torch.empty(shape)
        n = like.numel()

        parts = [basis(like, start, min(start + size, n)) for start in range(0, n, size)]

        assert torch.equal(torch.cat(parts).reshape(n, n), torch.eye(n))

    def test_a_chunk_from_the_middle(self):
        assert basis(torch.zeros(4), 1, 3).tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]

    @pytest.mark.parametrize("shape", [(0,), (3, 0)])
    def test_an_empty_tensor_has_no_seeds(self, shape):
        assert basis(torch.empty(shape), 0, 0).shape == (0, *shape)

    def test_no_seeds_of_a_tensor_that_has_some(self):
        assert basis(torch.empty(2, 3), 2, 2).shape == (0, 2, 3)

    def test_a_strided_tensor_is_counted_in_the_order_of_its_indices(self):
        like = torch.empty(3, 2).t()

        assert basis(like, 1, 2).tolist() == [[[0, 1, 0], [0, 0, 0]]]

    def test_seeds_of_a_tensor_with_a_graph_have_none(self):
        like = torch.ones(3, requires_grad=True) * 2

        assert not basis(like, 0, 3).requires_grad
        assert not basis(like, 0, 1, dim=0).requires_grad


class TestSamples:
    """Seeds that all samples share."""

    def test_every_sample_gets_the_same_seed(self):
        seeds = basis(torch.zeros(2, 3), 0, 3, dim=0)

        assert seeds.shape == (3, 2, 3)
        assert torch.equal(seeds[:, 0], torch.eye(3))
        assert torch.equal(seeds[:, 1], torch.eye(3))

    def test_samples_along_a_later_axis(self):
        seeds = basis(torch.zeros(3, 2), 1, 3, dim=1)

        assert seeds.tolist() == [[[0, 0], [1, 1], [0, 0]], [[0, 0], [0, 0], [1, 1]]]

    def test_samples_share_memory(self):
        one = basis(torch.zeros(1, 7), 0, 7, dim=0)
        many = basis(torch.zeros(1000, 7), 0, 7, dim=0)

        assert many.untyped_storage().nbytes() == one.untyped_storage().nbytes()

    @pytest.mark.parametrize(
        ("shape", "dim", "count"),
        [((5, 3), None, 15), ((5, 3), 0, 3), ((5, 3), 1, 5), ((), None, 1), ((4, 0), 0, 0)],
    )
    def test_one_sample_needs_as_many_seeds_as_it_has_elements(self, shape, dim, count):
        assert seed_count(torch.zeros(shape), dim) == count

    def test_a_batch_without_samples_has_an_empty_result(self):
        assert torchjac.batch_jacobian(torch.sin, torch.zeros(0, 3)).shape == (0, 3, 3)

    def test_rows_of_samples_puts_samples_first(self):
        tensor = torch.arange(12).reshape(2, 3, 2)

        assert rows_of_samples(tensor, 1).tolist() == [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]


class TestJointBasis:
    """Seeds of several tensors, one after the other."""

    @pytest.mark.parametrize("size", [1, 2, 3, 4, 100])
    def test_chunks_put_together_are_the_identity(self, size):
        tensors = [torch.empty(2), torch.empty(()), torch.empty(0), torch.empty(2, 2)]
        n = 7

        chunks = [joint_basis(tensors, i, min(i + size, n)) for i in range(0, n, size)]

        rows = [torch.cat([p.reshape(p.shape[0], -1) for p in chunk], dim=1) for chunk in chunks]
        assert torch.equal(torch.cat(rows), torch.eye(n))

    def test_each_part_has_the_shape_and_dtype_of_its_tensor(self):
        tensors = [torch.empty(2, 1), torch.empty(3, dtype=torch.float64)]

        parts = joint_basis(tensors, 0, 4)

        assert [p.shape for p in parts] == [(4, 2, 1), (4, 3)]
        assert [p.dtype for p in parts] == [torch.float32, torch.float64]

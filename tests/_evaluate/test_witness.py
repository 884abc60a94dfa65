"""A witness confirms what is right up to rounding, and nothing else."""

import pytest
import torch
from torch import nn

import torchjac
from torchjac._evaluate.seeds import BatchDims
from torchjac._evaluate.tape import record
from torchjac._evaluate.witness import close, random_like
from torchjac._evaluate.witness import testify as take_witness
from torchjac._inputs.signature import bind
from torchjac.errors import MixedSamplesError

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def witness_of(func, inputs):
    return take_witness(record(bind("jacobian", func, inputs), create_graph=False))


def point(dtype=torch.float64):
    return torch.tensor([0.5, -1.25, 2.0], dtype=dtype)


class TestWhole:
    """Of a whole Jacobian."""

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_the_jacobian_is_confirmed(self, dtype):
        x = point(dtype)

        assert witness_of(lambda x: x**2, x).agrees([[torch.diag(2 * x)]])

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("index", [(0, 0), (1, 2), (2, 1)])
    def test_one_wrong_entry_is_not(self, index, dtype):
        x = point(dtype)
        wrong = torch.diag(2 * x)
        wrong[index] += 1 if torch.finfo(dtype).bits > 16 else 10

        assert not witness_of(lambda x: x**2, x).agrees([[wrong]])

    def test_a_transpose_is_not(self):
        matrix = torch.arange(9.0, dtype=torch.float64).reshape(3, 3)
        witness = witness_of(lambda x: matrix @ x, point())

        assert witness.agrees([[matrix]])
        assert not witness.agrees([[matrix.T]])

    def test_every_output_and_input_counts(self):
        x, y = point(), point() + 1
        witness = witness_of(lambda x, y: (x * y, y**2), (x, y))

        def blocks():
            return [[torch.diag(y), torch.diag(x)], [None, torch.diag(2 * y)]]

        assert witness.agrees(blocks())
        for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
            wrong = blocks()
            wrong[i][j] = torch.ones(3, 3, dtype=torch.float64)
            assert not witness.agrees(wrong)

    def test_a_block_that_is_missing_is_zero(self):
        witness = witness_of(lambda x: x.detach() * 2, point())

        assert witness.agrees([[None]])
        assert witness.agrees([[torch.zeros(3, 3, dtype=torch.float64)]])
        assert not witness.agrees([[torch.eye(3, dtype=torch.float64)]])

    def test_a_block_that_is_missing_where_there_is_a_derivative_is_wrong(self):
        witness = witness_of(lambda x: x * 2, point())

        assert not witness.agrees([[None]])
        assert not witness.agrees([[torch.zeros(3, 3, dtype=torch.float64)]])

    def test_scalars_and_empty_tensors(self):
        scalar = torch.tensor(3.0)

        assert witness_of(lambda x: x**2, scalar).agrees([[torch.tensor(6.0)]])
        assert witness_of(lambda x: x**2, torch.ones(0)).agrees([[torch.ones(0, 0)]])

    def test_it_has_no_graph(self):
        witness = witness_of(lambda x: x**3, point())

        products = [product for _, group in witness.groups for product in group]
        assert [product.requires_grad for product in products] == [False]

    def test_entries_that_are_not_finite_are_left_out(self):
        x = torch.tensor([0.0, 4.0], dtype=torch.float64)
        jacobian = torch.diag(0.5 / x.sqrt())

        assert jacobian.isinf().any()
        assert witness_of(torch.sqrt, x).agrees([[jacobian]])

    def test_nan_that_spread_along_columns_is_not_that_along_rows(self):
        x = torch.tensor([-1.0, 4.0], dtype=torch.float64)
        by_rows = torch.tensor([[torch.nan, 0.0], [torch.nan, 0.25]], dtype=torch.float64)
        witness = witness_of(torch.sqrt, x)

        assert witness.agrees([[by_rows]])
        assert not witness.agrees([[by_rows.T]])

    def test_rounding_around_an_output_that_is_zero_is_allowed_for(self):
        x = torch.tensor([-4.827], dtype=torch.float64)

        witness = witness_of(lambda x: (x - x) * (1 + 1e-13) + 1e-14 * (x + 4.827), x)

        assert witness.agrees([[torch.zeros(1, 1, dtype=torch.float64)]])
        assert not witness.agrees([[torch.full((1, 1), 1e-9, dtype=torch.float64)]])

    def test_it_draws_from_no_generator_of_the_users(self):
        before = torch.get_rng_state()

        witness_of(lambda x: x**2, point())

        assert torch.equal(before, torch.get_rng_state())

    @pytest.mark.parametrize("dtype", [*DTYPES, torch.complex128])
    def test_its_numbers_are_random_and_always_the_same(self, dtype):
        tensors = [torch.zeros(50, dtype=dtype), torch.zeros(5, 10, dtype=dtype)]

        first, second = random_like(tensors)
        again = random_like(tensors)

        assert torch.equal(first, again[0])
        assert torch.equal(second, again[1])
        assert (first.dtype, second.shape) == (dtype, (5, 10))
        assert len(set(first.tolist())) > 25
        assert not torch.equal(first, second.flatten())


class TestClose:
    """Rounding and no more."""

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_rounding_is_allowed_for(self, dtype):
        a = torch.linspace(1, 2, 100, dtype=dtype)

        assert close(a, a * (1 + torch.finfo(dtype).eps))

    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_difference_of_a_half_is_not(self, dtype):
        a = torch.linspace(1, 2, 100, dtype=dtype)

        assert not close(a, a * 1.5)
        assert not close(a, torch.zeros_like(a))
        assert not close(torch.zeros_like(a), a)

    def test_the_coarser_precision_counts(self):
        a = torch.linspace(1, 2, 100, dtype=torch.float64)

        assert close(a, a.float())
        assert close(a.float(), a)

    def test_zeros_are_close(self):
        assert close(torch.zeros(3), torch.zeros(3))
        assert close(torch.zeros(0), torch.zeros(0))


class TestSamples:
    """Of a Jacobian per sample."""

    def test_blocks_of_independent_samples_are_confirmed(self):
        x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)

        assert witness_of(lambda x: x**2, x).agrees([[torch.diag_embed(2 * x)]], BatchDims(0, 0))

    def test_samples_along_other_axes(self):
        x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(3, 2)
        witness = witness_of(lambda x: (x**2).T, x)

        assert witness.agrees([[torch.diag_embed(2 * x.T)]], BatchDims(1, 0))

    def test_samples_that_mix_are_not_confirmed(self):
        x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)
        witness = witness_of(lambda x: x * x.sum(0), x)
        own = torch.diag_embed(x.sum(0) + x)  # what a sample has from itself alone

        assert not witness.agrees([[own]], BatchDims(0, 0))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    @pytest.mark.parametrize(
        "func",
        [
            lambda x: x.softmax(1).sum(1, keepdim=True),
            lambda x: nn.functional.layer_norm(x, x.shape[1:]).sum(1, keepdim=True),
            lambda x: nn.functional.normalize(x, dim=1).norm(dim=1, keepdim=True),
        ],
        ids=["softmax", "layer_norm", "normalize"],
    )
    def test_rounding_is_not_taken_for_mixing(self, func, dtype):
        # The derivative is zero but for rounding, so that no relative difference means anything.
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(4, 5, dtype=torch.float64, generator=generator).to(dtype)

        result = torchjac.batch_jacobian(func, x)

        torch.testing.assert_close(result, torch.zeros(4, 1, 5, dtype=dtype))

    @pytest.mark.parametrize("width", [6, 200])
    @pytest.mark.parametrize("how", ["autocast", "float32 inside", "bfloat16 inside"])
    def test_less_precision_inside_is_not_taken_for_mixing(self, how, width):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, width))
        x = torch.randn(5, 8)
        if how == "autocast":

            def func(x):
                with torch.autocast("cpu", torch.bfloat16):
                    return model(x).float()

        else:
            inner = torch.float32 if how == "float32 inside" else torch.bfloat16
            model, x = model.to(inner), x.double()

            def func(x):
                return model(x.to(inner)).double()

        result = torchjac.batch_jacobian(func, x)

        whole = torch.autograd.functional.jacobian(func, x)
        expected = torch.stack([whole[b, :, b] for b in range(5)])
        torch.testing.assert_close(result, expected, rtol=0.1, atol=0.05)

    def test_a_little_mixing_is_found_out(self):
        x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)

        with pytest.raises(MixedSamplesError, match="output 0 of sample 0 depends on input 0"):
            torchjac.batch_jacobian(lambda x: x + 1e-6 * x.sum(), x)

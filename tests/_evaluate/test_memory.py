"""A Jacobian stays within the result and the budget, by two independent measurements."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch

import torchjac
from torchjac._evaluate.memory import (
    GIB,
    MIB,
    Budget,
    MemoryMeter,
    bound_of_seed,
    free_bytes,
    human,
    is_negligible,
    is_out_of_memory,
    result_bytes,
)
from torchjac._evaluate.seeds import BatchDims, seed_count
from torchjac.errors import MemoryBudgetError, MemoryBudgetWarning

CPU = torch.device("cpu")
KIB = 2**10
N, WIDTH = 256, 256
RESULT = N * N * 4


def expensive(x):
    """256 inputs and outputs with 65536 numbers in between: each seed takes hundreds of KiB."""
    frequencies = torch.linspace(0.1, 1, WIDTH)
    waves = (x[:, None] * frequencies).sin()
    return waves.sum(1) + waves.cos().sum(0)


def expensive_energy(x):
    return (expensive(x) ** 2).sum()


def point():
    return torch.linspace(-1, 1, N)


def peak_of(compute):
    with MemoryMeter() as meter:
        result = compute()
    return meter.peak_bytes, result


class TestMeter:
    """Counting storages, on sequences of operations small enough to count by hand."""

    def test_nothing_is_counted_where_nothing_is_made(self):
        with MemoryMeter() as meter:
            pass

        assert (meter.peak_bytes, meter.live_bytes()) == (0, 0)

    def test_tensors_that_live_together_add_up(self):
        with MemoryMeter() as meter:
            a = torch.zeros(100, dtype=torch.float32)
            b = torch.zeros(10, dtype=torch.float64)

        assert (meter.peak_bytes, meter.live_bytes()) == (480, 480)
        assert a.numel() + b.numel() == 110

    def test_tensors_that_live_one_after_the_other_do_not(self):
        with MemoryMeter() as meter:
            for _ in range(5):
                torch.zeros(100)

        assert meter.peak_bytes == 400
        assert meter.live_bytes() == 0

    def test_the_peak_stays_after_what_made_it_is_gone(self):
        with MemoryMeter() as meter:
            big = torch.zeros(1000)
            del big
            small = torch.zeros(10)

        assert meter.peak_bytes == 4000
        assert meter.live_bytes() == 4 * small.numel()

    def test_a_temporary_of_a_chain_of_ops_is_counted_while_it_lives(self):
        x = torch.ones(100)
        with MemoryMeter() as meter:
            y = (x * 2) + 1  # the product and the sum are there at once, then the product goes

        assert meter.peak_bytes == 800
        assert meter.live_bytes() == 4 * y.numel()

    def test_views_are_not_counted_twice(self):
        with MemoryMeter() as meter:
            a = torch.zeros(10, 10)
            views = [a.t(), a[2:5], a.reshape(-1), a.expand(3, 10, 10), a.detach()]

        assert meter.peak_bytes == 400
        assert len(views) == 5

    def test_a_storage_lives_as_long_as_a_view_of_it(self):
        with MemoryMeter() as meter:
            view = torch.zeros(100)[:1]
            other = torch.zeros(1)

        assert meter.live_bytes() == 404
        assert view.numel() + other.numel() == 2

    def test_an_expanded_tensor_counts_what_it_stores(self):
        with MemoryMeter() as meter:
            a = torch.ones(1).expand(1000)

        assert meter.peak_bytes == 4
        assert a.shape == (1000,)

    def test_writing_in_place_makes_nothing(self):
        with MemoryMeter() as meter:
            a = torch.zeros(100)
            a.add_(1).mul_(2)
            a[3] = 5

        assert meter.live_bytes() == 400
        assert meter.peak_bytes <= 408  # the 5 is a tensor for a moment
        assert a[3] == 5

    def test_what_was_there_before_is_not_counted(self):
        before = torch.zeros(1000)
        with MemoryMeter() as meter:
            view = before.view(10, 100)
            before.add_(1)
            flat = before.reshape(-1)

        assert meter.peak_bytes == 0
        assert view.numel() == flat.numel()

    def test_every_output_of_an_op_is_counted(self):
        x = torch.arange(10.0)
        with MemoryMeter() as meter:
            values, indices = x.sort()

        assert meter.peak_bytes >= 40 + 80
        assert values.dtype != indices.dtype

    def test_a_backward_pass_is_counted(self):
        x = torch.ones(1000, requires_grad=True)
        y = x.sin().sum()
        with MemoryMeter() as meter:
            (grad,) = torch.autograd.grad(y, x)

        assert meter.peak_bytes >= 4000
        assert grad.shape == (1000,)

    def test_batched_ops_are_counted_with_their_batch(self):
        x = torch.ones(50, 20)
        with MemoryMeter() as meter:
            y = torch.vmap(torch.sin)(x)

        assert meter.peak_bytes == 4000
        assert y.shape == (50, 20)

    def test_a_sparse_tensor_does_no_harm(self):
        with MemoryMeter() as meter:
            sparse = torch.eye(4).to_sparse()

        assert meter.peak_bytes >= 64
        assert sparse.is_sparse

    def test_meters_nest(self):
        with MemoryMeter() as outer:
            a = torch.zeros(10)
            with MemoryMeter() as inner:
                b = torch.zeros(20)

        assert inner.peak_bytes == 80
        assert outer.peak_bytes == 120
        assert a.numel() + b.numel() == 30

    def test_a_meter_is_left_by_an_error_and_counts_no_more(self):
        meter = MemoryMeter()
        with pytest.raises(KeyError), meter:
            raise KeyError
        after = torch.zeros(1000)

        assert meter.peak_bytes == 0
        assert after.numel() == 1000


class TestSizes:
    """Bytes that are known beforehand."""

    @pytest.mark.parametrize(
        ("dtype", "size"), [(torch.float32, 4), (torch.float64, 8), (torch.float16, 2)]
    )
    def test_a_result_has_the_dtype_of_the_inputs(self, dtype, size):
        x = torch.zeros(3, 5, dtype=dtype)

        assert result_bytes([torch.zeros(7)], [x]) == 7 * 15 * size

    def test_results_add_up_over_outputs_and_inputs(self):
        outputs = [torch.zeros(2), torch.zeros(3, 4)]
        leaves = [torch.zeros(5), torch.zeros(6, dtype=torch.float64)]

        assert result_bytes(outputs, leaves) == 14 * (5 * 4 + 6 * 8)

    def test_samples_share_no_block(self):
        output, x = torch.zeros(10, 3), torch.zeros(10, 4)

        assert result_bytes([output], [x], BatchDims(0, 0)) == 10 * 3 * 4 * 4

    def test_an_empty_result_takes_nothing(self):
        assert result_bytes([torch.zeros(0)], [torch.zeros(5)]) == 0

    @pytest.mark.parametrize(
        ("size", "text"),
        [
            (GIB, "1.00 GiB"),
            (5 * GIB // 2, "2.50 GiB"),
            (MIB, "1.00 MiB"),
            (512 * KIB, "512.00 KiB"),
            (1023, "1023 B"),
        ],
    )
    def test_sizes_read_well(self, size, text):
        assert human(size) == text

    def test_some_memory_is_free_and_no_more_than_there_is(self):
        psutil = pytest.importorskip("psutil")

        assert 0 < free_bytes(CPU) <= psutil.virtual_memory().total


def negligible(output, x, batch=None):
    seeds = seed_count(output, None if batch is None else batch.outputs)
    bound = bound_of_seed(2**62, [output], [x])
    return is_negligible(seeds, bound, result_bytes([output], [x], batch))


class TestNegligible:
    """What is worth measuring."""

    def test_a_tutorial_function_is_negligible(self):
        x = torch.ones(10, requires_grad=True)

        assert negligible(x.sin(), x)

    def test_a_wide_graph_under_a_small_result_is_not(self):
        x = point().requires_grad_()
        output = expensive(x)

        assert result_bytes([output], [x]) == RESULT
        assert not negligible(output, x)

    def test_a_large_result_is_not_whatever_the_graph(self):
        x = torch.ones(10_000, requires_grad=True)

        assert not negligible(x * 2, x)

    def test_one_seed_of_a_wide_graph_is_negligible_where_256_are_not(self):
        x = point().requires_grad_()

        assert negligible(expensive(x).sum(), x)

    def test_samples_are_seeded_together(self):
        x = torch.ones(20_000, 3, requires_grad=True)
        output = x.sin()

        assert negligible(output, x, BatchDims(0, 0))
        assert not negligible(output, x)

    def test_an_output_without_a_graph_is_negligible(self):
        assert negligible(torch.ones(3), torch.ones(3, requires_grad=True))

    def test_without_a_graph_to_ask_only_a_single_seed_is(self):
        assert is_negligible(1, None, 8)
        assert not is_negligible(2, None, 8)


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), True),
        (RuntimeError("Trying to backward through the graph a second time"), False),
        (ValueError("can't allocate memory"), False),
        (MemoryBudgetError("the Jacobian needs 8 GiB"), False),
    ],
)
def test_a_lack_of_memory_is_told_from_other_errors(error, answer):
    assert is_out_of_memory(error) is answer


class TestBudget:
    """What `memory=` means."""

    def test_bytes_are_what_a_pass_may_take_beside_the_result(self):
        assert Budget("jacobian", 1000).pass_bytes(400, CPU) == 1000

    def test_what_the_graph_holds_is_taken_off(self):
        assert Budget("jacobian", 1000, held_bytes=300).pass_bytes(400, CPU) == 700

    def test_a_pass_may_always_take_something(self):
        assert Budget("jacobian", 1000, held_bytes=5000).pass_bytes(1, CPU) >= 1

    def test_a_fraction_is_of_the_free_memory(self, monkeypatch):
        monkeypatch.setattr("torchjac._evaluate.memory.free_bytes", lambda device: 1_000_000)

        allowed = Budget("jacobian", 0.25).pass_bytes(0, CPU)

        assert allowed == 250_000

    def test_the_default_leaves_some_memory_free(self, monkeypatch):
        monkeypatch.setattr("torchjac._evaluate.memory.free_bytes", lambda device: 1_000_000)

        allowed = Budget("jacobian").pass_bytes(100_000, CPU)

        assert 100_000 < allowed <= 900_000

    @pytest.mark.parametrize("memory", [999, 0.0999, None])
    def test_a_result_that_does_not_fit_is_refused(self, monkeypatch, memory):
        monkeypatch.setattr("torchjac._evaluate.memory.free_bytes", lambda device: 1001)

        with pytest.raises(MemoryBudgetError):
            Budget("jacobian", memory).pass_bytes(1000, CPU)


class TestRefusal:
    """A result that is larger than the budget."""

    def test_the_error_names_the_call_the_size_the_budget_and_the_ways_out(self):
        calls = []

        def func(x):
            calls.append(x)
            return x**2

        message = (
            r"^jacobian: the Jacobian needs 95\.37 MiB, more than the memory budget of 30\.00 MiB\."
        )
        with pytest.raises(MemoryBudgetError, match=message) as caught:
            torchjac.jacobian(func, torch.ones(5000), memory=30 * MIB)

        for way in ("`memory=`", "`wrt=`", "batch_jacobian", "jvp", "vjp"):
            assert way in str(caught.value)
        assert len(calls) <= 1

    def test_the_error_is_a_memory_error(self):
        with pytest.raises(MemoryError):
            torchjac.jacobian(lambda x: x**2, torch.ones(5000), memory=MIB)

    def test_no_pass_is_made(self):
        passes = []

        class Counted(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                return x * 2

            @staticmethod
            def backward(ctx, grad):
                passes.append(grad.shape)
                return grad * 2

        with pytest.raises(MemoryBudgetError):
            torchjac.jacobian(
                Counted.apply, torch.ones(5000), memory=30 * MIB, strategy="reverse-mode"
            )

        assert passes == []

    @pytest.mark.parametrize("options", [{}, {"chunk_size": 7}, {"vectorize": False}], ids=str)
    @pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
    @pytest.mark.parametrize("memory", [39_999, 1000, 1])
    def test_a_small_budget_binds_as_a_large_one_does(self, memory, strategy, options):
        # 100 × 100 numbers of 4 bytes are 40000 bytes.
        with pytest.raises(MemoryBudgetError, match="memory budget"):
            torchjac.jacobian(
                lambda x: x**2, torch.ones(100), memory=memory, strategy=strategy, **options
            )

    @pytest.mark.parametrize("options", [{}, {"chunk_size": 100}], ids=str)
    def test_a_large_result_is_refused_whatever_the_chunks(self, options):
        with pytest.raises(MemoryBudgetError, match=r"95\.37 MiB"):
            torchjac.jacobian(lambda x: x**2, torch.ones(5000), memory=30 * MIB, **options)

    def test_hessians_are_refused_under_their_name(self):
        with pytest.raises(MemoryBudgetError, match=r"^hessian: the \w+ needs 95\.37 MiB"):
            torchjac.hessian(lambda x: (x**3).sum(), torch.ones(5000), memory=30 * MIB)

    def test_batches_are_refused_by_the_size_of_their_blocks(self):
        x = torch.ones(100, 300)

        with pytest.raises(MemoryBudgetError, match=r"^batch_jacobian: .* needs 34\.33 MiB"):
            torchjac.batch_jacobian(lambda x: x**2, x, memory=10 * MIB)

    def test_tensors_already_computed_are_refused(self):
        x = torch.ones(5000, requires_grad=True)

        with pytest.raises(MemoryBudgetError, match=r"^jacobian_of: .* needs 95\.37 MiB"):
            torchjac.jacobian_of(x**2, x, memory=30 * MIB)

    def test_a_fraction_of_the_free_memory_refuses_too(self):
        with pytest.raises(MemoryBudgetError, match="memory budget"):
            torchjac.jacobian(lambda x: x**2, torch.ones(5000), memory=1e-9)

    def test_a_result_that_fits_exactly_is_computed(self):
        result = torchjac.jacobian(lambda x: x**2, torch.ones(100), memory=10**6)

        assert torch.equal(result, 2 * torch.eye(100))

    @pytest.mark.parametrize(
        "memory", [0, -1, 0.0, -0.5, 1.5, True, "1 GiB", float("nan")], ids=repr
    )
    def test_what_is_no_budget_is_refused(self, memory):
        with pytest.raises(ValueError, match="jacobian: `memory` must be a number of bytes"):
            torchjac.jacobian(lambda x: x**2, torch.ones(3), memory=memory)


class TestPeak:
    """Peak memory, measured around the call."""

    def test_pytorch_without_chunks_needs_ten_times_the_result_and_more(self):
        peak, _ = peak_of(lambda: torch.func.jacrev(expensive)(point()))

        assert peak >= 10 * RESULT
        assert peak >= 64 * MIB

    @pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
    @pytest.mark.parametrize("budget", [6 * MIB, 12 * MIB, 30 * MIB])
    def test_a_jacobian_takes_its_result_and_the_budget(self, budget, strategy):
        peak, result = peak_of(
            lambda: torchjac.jacobian(expensive, point(), memory=budget, strategy=strategy)
        )

        assert peak <= RESULT + budget
        torch.testing.assert_close(result, torch.func.jacrev(expensive)(point()))

    @pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
    def test_a_hessian_takes_its_result_and_the_budget(self, strategy):
        budget = 16 * MIB

        peak, result = peak_of(
            lambda: torchjac.hessian(
                expensive_energy, point(), memory=budget, outer_jacobian_strategy=strategy
            )
        )

        assert peak <= RESULT + budget
        reference = torch.func.hessian(expensive_energy)(point())
        torch.testing.assert_close(result, reference, rtol=1e-3, atol=1e-2)

    def test_samples_take_their_result_and_the_budget(self):
        weight = torch.linspace(-1, 1, 16 * 4096).reshape(16, 4096)
        back = torch.linspace(-1, 1, 4096 * 64).reshape(4096, 64)
        x = torch.linspace(-1, 1, 64 * 16).reshape(64, 16)
        budget, result = 16 * MIB, 64 * 64 * 16 * 4

        peak, _ = peak_of(
            lambda: torchjac.batch_jacobian(
                lambda x: torch.tanh(x @ weight) @ back, x, memory=budget, strategy="reverse-mode"
            )
        )

        assert peak <= result + budget

    def test_a_loop_takes_its_result_and_the_budget(self):
        budget = 8 * MIB

        peak, _ = peak_of(
            lambda: torchjac.jacobian(expensive, point(), memory=budget, vectorize=False)
        )

        assert peak <= RESULT + budget

    def test_tensors_already_computed_take_their_result_and_the_budget(self):
        x = point().requires_grad_()
        output = expensive(x)
        budget = 8 * MIB

        peak, result = peak_of(lambda: torchjac.jacobian_of(output, x, memory=budget))

        assert peak <= RESULT + budget
        torch.testing.assert_close(result, torch.func.jacrev(expensive)(point()))

    @pytest.mark.parametrize("order", ["cheap first", "dear first"])
    def test_an_output_that_costs_more_than_another_keeps_to_the_budget(self, order):
        budget = 8 * MIB

        def func(x):
            pair = (2 * x, expensive(x))
            return pair if order == "cheap first" else pair[::-1]

        peak, _ = peak_of(
            lambda: torchjac.jacobian(func, point(), memory=budget, strategy="reverse-mode")
        )

        assert peak <= 2 * RESULT + budget

    def test_several_inputs_keep_to_the_budget_in_forward_mode(self):
        budget = 12 * MIB
        x = point()

        peak, blocks = peak_of(
            lambda: torchjac.jacobian(
                lambda x, y: expensive(x * y), (x, x), memory=budget, strategy="forward-mode"
            )
        )

        assert peak <= 2 * RESULT + budget
        torch.testing.assert_close(blocks[0], blocks[1])

    @pytest.mark.parametrize("budget", [2 * MIB, 4 * MIB])
    def test_a_small_problem_keeps_to_a_small_budget(self, budget):
        # Everything at once would need some 20 MiB, which no machine minds but this budget does.
        x = torch.linspace(-1, 1, 32)
        frequencies = torch.linspace(0.1, 1, 1024)

        def func(x):
            return (x[:, None] * frequencies).sin().cos().sum(1)

        peak, _ = peak_of(
            lambda: torchjac.jacobian(func, x, memory=budget, strategy="reverse-mode")
        )

        assert peak <= 32 * 32 * 4 + budget

    def test_a_larger_budget_takes_fewer_passes(self):
        with torchjac.record() as runs:
            for budget in (6 * MIB, 12 * MIB, 30 * MIB):
                torchjac.jacobian(expensive, point(), memory=budget)

        passes = [run.passes for run in runs]
        assert passes[0] > passes[1] > passes[2] > 1
        chunks = [run.chunk_size for run in runs]
        assert chunks[0] < chunks[1] < chunks[2]

    def test_a_fraction_of_what_is_free_sizes_the_chunks(self, monkeypatch):
        monkeypatch.setattr("torchjac._evaluate.memory.free_bytes", lambda device: 50 * MIB)

        with torchjac.record() as runs:
            for fraction in (0.2, 0.6):
                torchjac.jacobian(expensive, point(), memory=fraction)

        assert runs[0].passes > 2 * runs[1].passes
        assert runs[0].chunk_size * runs[0].seed_bytes <= 10 * MIB
        assert runs[1].chunk_size * runs[1].seed_bytes <= 30 * MIB

    def test_memory_that_is_nearly_full_makes_small_chunks_by_default(self, monkeypatch):
        monkeypatch.setattr("torchjac._evaluate.memory.free_bytes", lambda device: 20 * MIB)

        peak, _ = peak_of(lambda: torchjac.jacobian(expensive, point()))

        assert peak <= RESULT + 20 * MIB

    @pytest.mark.parametrize("chunk_size", [1, 10, 100, 1000])
    def test_chunk_size_overrides_the_budget(self, chunk_size):
        with torchjac.record() as runs:
            torchjac.jacobian(expensive, point(), memory=2 * MIB, chunk_size=chunk_size)

        assert runs[0].chunk_size == min(chunk_size, N)
        assert runs[0].passes == -(-N // chunk_size)

    @pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
    @pytest.mark.parametrize("chunk_size", [1, 3, 64])
    def test_chunks_do_not_change_a_hessian(self, chunk_size, strategy):
        x = torch.linspace(-1, 1, 10, dtype=torch.float64)

        def func(x):
            return (x.sin().sum() ** 2) * x.prod()

        with torchjac.record() as runs:
            result = torchjac.hessian(
                func, x, chunk_size=chunk_size, outer_jacobian_strategy=strategy
            )

        assert runs[0].chunk_size == min(chunk_size, 10)
        torch.testing.assert_close(result, torch.autograd.functional.hessian(func, x))

    def test_the_bytes_of_a_seed_are_reported(self):
        with torchjac.record() as runs:
            torchjac.jacobian(expensive, point(), memory=12 * MIB)

        one_gradient = N * WIDTH * 4
        assert one_gradient <= runs[0].seed_bytes <= 8 * one_gradient
        assert runs[0].result_bytes == RESULT


class TestOneSeed:
    """A seed that alone is larger than the budget."""

    @pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
    def test_it_is_warned_of_and_computed(self, strategy):
        with (
            torchjac.record() as runs,
            pytest.warns(MemoryBudgetWarning, match="^jacobian: one seed needs") as caught,
        ):
            result = torchjac.jacobian(expensive, point(), memory=RESULT + KIB, strategy=strategy)

        assert runs[0].chunk_size == 1
        assert runs[0].method == "vmap"
        assert len(caught) == 1
        torch.testing.assert_close(result, torch.func.jacrev(expensive)(point()))

    def test_weights_that_are_there_already_are_not_charged_to_the_seed(self):
        weight = torch.zeros(2000, 2000)  # 15 MiB that were there before
        x = torch.ones(2000)

        with torchjac.record() as runs:
            torchjac.jacobian(lambda x: torch.tanh(weight @ x), x, memory=30 * MIB)

        assert runs[0].seed_bytes < MIB

    def test_the_warning_points_at_the_callers_line(self):
        with pytest.warns(MemoryBudgetWarning) as caught:
            torchjac.jacobian(expensive, point(), memory=RESULT + KIB)

        assert {warning.filename for warning in caught} == {__file__}

    def test_as_an_error_it_reaches_the_user(self):
        with pytest.raises(MemoryBudgetWarning, match="one seed needs"):
            torchjac.jacobian(expensive, point(), memory=RESULT + KIB)


class Picky(torch.autograd.Function):
    """Twice its argument; refuses batches that are larger than the device is."""

    limit = 4
    error: type[Exception] = torch.OutOfMemoryError
    sizes: list[int] = []  # noqa: RUF012 - emptied before each test

    @staticmethod
    def forward(x):
        return x * 2

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return Picky.apply(grad)

    @staticmethod
    def jvp(ctx, tangent):
        return Picky.apply(tangent)

    @staticmethod
    def vmap(info, in_dims, x):
        Picky.sizes.append(info.batch_size)
        if info.batch_size > Picky.limit:
            raise Picky.error("can't allocate memory: tried to allocate 8.00 GiB")
        return x * 2, in_dims[0]


@pytest.fixture(params=[torch.OutOfMemoryError, RuntimeError, MemoryError])
def picky(request):
    Picky.error, Picky.limit, Picky.sizes = request.param, 4, []
    return Picky


class TestDeviceOutOfMemory:
    """Errors from the device, in the midst of a pass."""

    @pytest.mark.parametrize("options", [{}, {"chunk_size": 10}, {"vectorize": True}], ids=str)
    @pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
    def test_the_chunk_is_halved_and_the_answer_right(self, picky, strategy, options):
        with torchjac.record() as runs:
            result = torchjac.jacobian(picky.apply, torch.ones(10), strategy=strategy, **options)

        assert torch.equal(result, 2 * torch.eye(10))
        assert runs[0].method == "vmap"
        assert runs[0].refusals == ()
        assert 1 < runs[0].chunk_size <= 4
        assert max(picky.sizes) > 4

    def test_samples(self, picky):
        with torchjac.record() as runs:
            result = torchjac.batch_jacobian(picky.apply, torch.ones(3, 10))

        assert torch.equal(result, 2 * torch.eye(10).expand(3, 10, 10))
        assert 1 < runs[0].chunk_size <= 4

    def test_tensors_already_computed(self, picky):
        x = torch.linspace(-1, 1, 10, requires_grad=True)

        result = torchjac.jacobian_of(picky.apply(x).sin(), x)

        torch.testing.assert_close(result, torch.diag(2 * (2 * x.detach()).cos()))

    def test_hessians(self, picky):
        result = torchjac.hessian(lambda x: (picky.apply(x) ** 2).sum(), torch.ones(10))

        assert torch.equal(result, 8 * torch.eye(10))

    def test_differentiable_results(self, picky):
        x = torch.linspace(0.5, 1, 10, requires_grad=True)

        result = torchjac.jacobian(lambda x: picky.apply(x) ** 2, x, create_graph=True)
        (grad,) = torch.autograd.grad(result.sum(), x)

        torch.testing.assert_close(result, torch.diag(8 * x))
        torch.testing.assert_close(grad, torch.full((10,), 8.0))

    def test_a_device_without_room_for_one_seed_is_the_users_error(self, picky):
        picky.limit = 0

        with pytest.raises(picky.error, match="tried to allocate"):
            torchjac.jacobian(picky.apply, torch.ones(10))

    def test_vmap_still_works_after_a_device_had_no_room(self, picky):
        picky.limit = 0
        with pytest.raises(picky.error):
            torchjac.jacobian(picky.apply, torch.ones(10))

        assert torch.vmap(torch.sin)(torch.zeros(3)).tolist() == [0, 0, 0]
        assert torchjac.jacobian(torch.sin, torch.zeros(2)).tolist() == [[1, 0], [0, 1]]


MEASURE = """
    import sys
    from pathlib import Path

    import psutil
    import torch

    import torchjac

    torch.set_num_threads(1)

    def make(n, width):
        def func(x):
            waves = (x[:, None] * torch.linspace(0.1, 1, width)).sin()
            return waves.sum(1) + waves.cos().sum(0).reshape(2, n).sum(0)

        return func, torch.linspace(-1, 1, n)

    def run(n, width, way, budget):
        func, x = make(n, width)
        if way == "jacrev":
            return torch.func.jacrev(func)(x)
        if way == "hessian":
            return torchjac.hessian(lambda x: (func(x) ** 2).sum(), x, memory=budget)
        return torchjac.jacobian(func, x, memory=budget, strategy=way)

    way, budget = sys.argv[1], int(sys.argv[2])
    run(8, 16, way, budget)  # what PyTorch allocates once and for all
    before = psutil.Process().memory_info().rss
    result = run(256, 512, way, budget)
    status = Path("/proc/self/status").read_text().split()
    after = int(status[status.index("VmHWM:") + 1]) * 1024
    print(after - before, result.numel() * result.element_size())
"""


def resident_growth(way, budget, **environment):
    """Growth of the peak of resident memory over a call, and the bytes of its result."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(MEASURE), way, str(budget)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    growth, result = map(int, done.stdout.split())
    return growth, result


@pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="needs the peak memory that Linux keeps"
)
class TestResidentMemory:
    """Peak memory as the operating system sees it."""

    @pytest.mark.slow
    def test_pytorch_without_chunks_grows_by_ten_times_the_result_and_more(self):
        growth, result = resident_growth("jacrev", 0)

        assert growth >= 10 * result
        assert growth >= 128 * MIB

    @pytest.mark.parametrize(
        "way",
        [
            "reverse-mode",
            pytest.param("forward-mode", marks=pytest.mark.slow),
            pytest.param("hessian", marks=pytest.mark.slow),
        ],
    )
    def test_growth_is_within_result_and_budget(self, way):
        budget = 32 * MIB

        # The allocator of glibc keeps freed blocks of up to 32 MiB unless told not to.
        growth, result = resident_growth(way, budget, MALLOC_MMAP_THRESHOLD_="131072")

        assert growth <= result + budget

    @pytest.mark.slow
    def test_growth_is_within_result_and_a_large_budget_with_any_allocator(self):
        budget = 192 * MIB

        growth, result = resident_growth("reverse-mode", budget)

        assert growth <= result + budget

"""All seeds are run, in chunks that fit, and each row lands in its place."""

import pytest
import torch

from torchjac._evaluate.memory import Budget
from torchjac._evaluate.progress import Progress
from torchjac._evaluate.sweep import Chunks, sweep
from torchjac.errors import MemoryBudgetWarning

CPU = torch.device("cpu")
KIB = 2**10


class Counter(Progress):
    """A progress bar that remembers."""

    def __init__(self):
        super().__init__(shown=False)
        self.steps = []

    def advance(self, count):
        self.steps.append(count)


def chunks_for(memory=None, chunk_size=None, *, negligible=False, result_bytes=0, progress=None):
    budget = Budget("jacobian", memory, chunk_size)
    return Chunks(budget, result_bytes, negligible, CPU, progress or Counter())


def rows(start, stop):
    """Row r of target 0 is (r, r), of target 1 is (2r,)."""
    numbers = torch.arange(start, stop, dtype=torch.float64)
    return [numbers[:, None].repeat(1, 2), 2 * numbers[:, None]]


def expected(total):
    numbers = torch.arange(total, dtype=torch.float64)
    return [numbers[:, None].repeat(1, 2), 2 * numbers[:, None]]


class Recorded:
    """A pass that remembers the seeds that it was asked for."""

    def __init__(self, run):
        self.run = run
        self.calls = []

    def __call__(self, start, stop):
        self.calls.append((start, stop))
        return self.run(start, stop)

    @property
    def sizes(self):
        return [stop - start for start, stop in self.calls]


def hungry(bytes_a_seed):
    """A pass that holds so many bytes for each seed, besides its small answer."""

    def run(start, stop):
        held = torch.zeros(stop - start, bytes_a_seed, dtype=torch.uint8)
        return [held[:, :1].double()]

    return Recorded(run)


@pytest.fixture
def garbage_in_new_memory():
    """Memory that nobody wrote to holds NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


class TestRows:
    """What is computed."""

    @pytest.mark.parametrize("differentiable", [True, False])
    @pytest.mark.parametrize("chunk_size", [1, 2, 3, 7, 10, 11, 1000])
    def test_rows_are_complete_and_in_order(self, chunk_size, differentiable):
        run = Recorded(rows)

        result = sweep(10, run, chunks_for(chunk_size=chunk_size), differentiable=differentiable)

        assert [torch.equal(a, b) for a, b in zip(result, expected(10), strict=True)] == [True] * 2
        assert sum(run.sizes) == 10
        assert max(run.sizes) == min(chunk_size, 10)

    def test_measured_rows_are_complete_and_in_order(self):
        result = sweep(100, rows, chunks_for(memory=KIB), differentiable=False)

        assert torch.equal(result[0], expected(100)[0])
        assert torch.equal(result[1], expected(100)[1])

    @pytest.mark.parametrize("chunk_size", [1, 2, 10])
    def test_a_target_without_a_path_stays_none(self, chunk_size):
        def run(start, stop):
            return [rows(start, stop)[0], None]

        for differentiable in (True, False):
            result = sweep(4, run, chunks_for(chunk_size=chunk_size), differentiable=differentiable)

            assert torch.equal(result[0], expected(4)[0])
            assert result[1] is None

    @pytest.mark.parametrize("differentiable", [True, False])
    @pytest.mark.parametrize("chunk_size", [1, 2])
    def test_a_path_that_opens_in_a_later_chunk_is_not_lost(self, chunk_size, differentiable):
        def run(start, stop):
            return [None if start < 4 else rows(start, stop)[0]]

        (result,) = sweep(6, run, chunks_for(chunk_size=chunk_size), differentiable=differentiable)

        assert result is not None
        assert result.tolist() == [[0, 0]] * 4 + [[4, 4], [5, 5]]

    @pytest.mark.parametrize("differentiable", [True, False])
    @pytest.mark.parametrize("chunk_size", [1, 2])
    @pytest.mark.usefixtures("garbage_in_new_memory")
    def test_a_path_that_closes_in_a_later_chunk_leaves_zeros(self, chunk_size, differentiable):
        def run(start, stop):
            return [None if start >= 2 else 1 + rows(start, stop)[0]]

        (result,) = sweep(6, run, chunks_for(chunk_size=chunk_size), differentiable=differentiable)

        assert result.tolist() == [[1, 1], [2, 2]] + [[0, 0]] * 4

    def test_no_seeds_are_one_empty_pass(self):
        (result,) = sweep(
            0, Recorded(lambda a, b: [torch.ones(b - a, 3)]), chunks_for(), differentiable=False
        )

        assert result.shape == (0, 3)

    def test_a_plain_result_has_no_graph(self):
        x = torch.ones(2, requires_grad=True)

        def run(start, stop):
            return [x.expand(stop - start, 2) * 3]

        for chunk_size in (1, 4):
            (result,) = sweep(4, run, chunks_for(chunk_size=chunk_size), differentiable=False)
            assert not result.requires_grad

    def test_a_differentiable_result_keeps_its_graph(self):
        x = torch.ones(2, requires_grad=True)

        def run(start, stop):
            return [x.expand(stop - start, 2) ** 3]

        for chunk_size in (1, 3, 4):
            (result,) = sweep(4, run, chunks_for(chunk_size=chunk_size), differentiable=True)
            (grad,) = torch.autograd.grad(result.sum(), x)
            assert grad.tolist() == [12, 12]

    def test_rows_that_share_memory_are_given_their_own(self):
        row = torch.ones(1, 3)

        (result,) = sweep(
            4,
            lambda a, b: [row.expand(b - a, 3)],
            chunks_for(negligible=True),
            differentiable=False,
        )
        result[0] = 5

        assert result.tolist() == [[5] * 3] + [[1] * 3] * 3
        assert row.tolist() == [[1] * 3]

    @pytest.mark.parametrize("chunk_size", [1, 4])
    def test_targets_that_share_memory_are_given_their_own(self, chunk_size):
        def run(start, stop):
            piece = torch.ones(stop - start, 3)
            return [piece, piece]

        first, second = sweep(4, run, chunks_for(chunk_size=chunk_size), differentiable=False)
        first.fill_(5)

        assert second.tolist() == [[1] * 3] * 4


class TestSizes:
    """How many seeds a pass takes."""

    @pytest.mark.parametrize(
        ("chunk_size", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (99, [5])]
    )
    def test_chunk_size_overrides_everything(self, chunk_size, sizes):
        run = hungry(KIB)

        sweep(5, run, chunks_for(memory=1, chunk_size=chunk_size), differentiable=False)

        assert run.sizes == sizes

    def test_what_is_negligible_goes_in_one_pass(self):
        run = hungry(1)

        sweep(1000, run, chunks_for(negligible=True), differentiable=False)

        assert run.sizes == [1000]

    def test_the_first_pass_is_a_probe_of_one_seed(self):
        run = hungry(KIB)

        sweep(100, run, chunks_for(memory=64 * KIB), differentiable=False)

        assert run.sizes[0] == 1

    @pytest.mark.parametrize("memory", [8 * KIB, 32 * KIB, 128 * KIB])
    def test_chunks_fill_the_budget_and_do_not_exceed_it(self, memory):
        run = hungry(KIB)

        sweep(1000, run, chunks_for(memory=memory), differentiable=False)

        assert max(run.sizes) * KIB <= memory
        assert max(run.sizes) * KIB >= memory / 2

    def test_passes_after_the_probes_are_of_one_size(self):
        run = hungry(2 * KIB)  # of 1000 seeds 997 are left, 63 of which would fit

        sweep(1000, run, chunks_for(memory=160 * KIB), differentiable=False)

        assert run.sizes == [1, 2, *[63] * 5, *[62] * 11]
        assert sum(run.sizes) == 1000

    def test_twice_the_budget_means_about_half_the_passes(self):
        few, many = hungry(KIB), hungry(KIB)

        sweep(2000, many, chunks_for(memory=50 * KIB), differentiable=False)
        sweep(2000, few, chunks_for(memory=100 * KIB), differentiable=False)

        assert len(few.sizes) < 0.6 * len(many.sizes)

    def test_a_large_first_seed_makes_small_passes(self):
        run = hungry(100 * KIB)

        sweep(10, run, chunks_for(memory=150 * KIB), differentiable=False)

        assert run.sizes == [1] * 10

    def test_the_accounts_are_kept(self):
        chunks = chunks_for(chunk_size=4)

        sweep(10, rows, chunks, differentiable=False)

        assert (chunks.passes, chunks.largest) == (3, 4)

    def test_the_measured_bytes_of_a_seed_are_kept(self):
        chunks = chunks_for(memory=64 * KIB)

        sweep(1000, hungry(KIB), chunks, differentiable=False)

        assert KIB <= chunks.seed_bytes <= 2 * KIB

    @pytest.mark.parametrize("chunk_size", [None, 1, 3, 10])
    def test_progress_advances_by_every_seed_once(self, chunk_size):
        progress = Counter()

        sweep(
            10,
            rows,
            chunks_for(memory=KIB, chunk_size=chunk_size, progress=progress),
            differentiable=False,
        )

        assert sum(progress.steps) == 10


class TestBudget:
    """What does not fit."""

    def test_one_seed_larger_than_the_budget_is_warned_of_once_and_goes_on(self):
        run = hungry(100 * KIB)

        with pytest.warns(MemoryBudgetWarning, match=r"one seed needs 100\.\d\d KiB") as caught:
            (result,) = sweep(5, run, chunks_for(memory=10 * KIB), differentiable=False)

        assert len(caught) == 1
        assert run.sizes == [1] * 5
        assert result.shape == (5, 1)

    def test_a_result_that_fitted_is_not_refused_once_part_of_it_is_there(self, monkeypatch):
        # Free memory shrinks by what was written: at the end it is less than the result.
        free = iter([1000 * KIB, 950 * KIB, 700 * KIB, 500 * KIB] + [400 * KIB] * 100)
        monkeypatch.setattr("torchjac._evaluate.memory.free_bytes", lambda device: next(free))
        run = hungry(20 * KIB)

        (result,) = sweep(
            100, run, chunks_for(memory=0.7, result_bytes=600 * KIB), differentiable=False
        )

        assert sum(run.sizes) == 100
        assert result.shape == (100, 1)


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
    MemoryError(),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda e: type(e).__name__)
class TestOutOfMemory:
    """The device says no."""

    @pytest.mark.parametrize("differentiable", [True, False])
    @pytest.mark.parametrize("limit", [1, 2, 3, 5])
    def test_chunks_are_halved_until_they_fit_and_no_row_is_lost(
        self, error, limit, differentiable
    ):
        def run(start, stop):
            if stop - start > limit:
                raise error
            return rows(start, stop)

        counted = Recorded(run)
        result = sweep(10, counted, chunks_for(negligible=True), differentiable=differentiable)

        assert torch.equal(result[0], expected(10)[0])
        assert torch.equal(result[1], expected(10)[1])
        assert counted.sizes[:2] == [10, 5]

    def test_later_passes_do_not_grow_again(self, error):
        def run(start, stop):
            if stop - start > 3:
                raise error
            return rows(start, stop)

        counted = Recorded(run)
        sweep(20, counted, chunks_for(chunk_size=8), differentiable=False)

        assert counted.sizes == [8, 4] + [2] * 10

    def test_passes_that_failed_are_not_counted(self, error):
        def run(start, stop):
            if stop - start > 2:
                raise error
            return rows(start, stop)

        chunks = chunks_for(chunk_size=4)
        sweep(4, run, chunks, differentiable=False)

        assert (chunks.passes, chunks.largest) == (2, 2)
        assert sum(chunks.progress.steps) == 4

    def test_one_seed_that_does_not_fit_is_the_users_error(self, error):
        def run(start, stop):
            raise error

        with pytest.raises(type(error)) as caught:
            sweep(4, run, chunks_for(negligible=True), differentiable=False)

        assert caught.value is error


def test_another_error_is_not_taken_for_a_lack_of_memory():
    def run(start, stop):
        raise RuntimeError("no batching rule")

    counted = Recorded(run)
    with pytest.raises(RuntimeError, match="no batching rule"):
        sweep(8, counted, chunks_for(negligible=True), differentiable=False)

    assert counted.sizes == [8]


class TestSettledSizes:
    """What a plan keeps for its later sweeps."""

    def test_one_pass_needs_no_size(self):
        chunks = chunks_for(negligible=True)
        sweep(6, rows, chunks, differentiable=False)
        assert chunks.settled(6) is None

    def test_the_measured_pass_of_two_is_no_measure(self):
        chunks = chunks_for()
        sweep(6, hungry(5 * 1024 * KIB), chunks, differentiable=False)
        assert chunks.largest == 2
        assert chunks.settled(6) == 1

    def test_what_is_affordable_is_kept(self):
        chunks = chunks_for()
        sweep(40, hungry(1024 * KIB), chunks, differentiable=False)
        assert 2 < chunks.settled(40) <= 8

    def test_no_more_than_there_are(self):
        chunks = chunks_for()
        sweep(4, hungry(KIB), chunks, differentiable=False)
        assert chunks.settled(4) == 4

"""The ladder takes the first way that holds, keeps the reasons, and hides no error."""

import threading
import warnings

import pytest
import torch

import torchjac
from torchjac import _torch
from torchjac._evaluate import ladder
from torchjac._evaluate.ladder import LOOP, PARTLY, VMAP, Rung, batchings, climb_down
from torchjac.errors import (
    ChangedShapeError,
    MemoryBudgetError,
    MemoryBudgetWarning,
)


def failing(mode, method, error):
    def attempt():
        raise error

    return Rung(mode, method, attempt)


def unreachable():
    raise AssertionError("no rung below the one that held may be tried")


class TestDescent:
    """Which rung is taken."""

    def test_the_first_rung_that_holds_is_taken_and_no_other_tried(self):
        first = Rung("reverse-mode", "vmap", lambda: 42)

        rung, result, refusals = climb_down([first, Rung("reverse-mode", "loop", unreachable)])

        assert rung is first
        assert result == 42
        assert refusals == ()

    def test_what_failed_above_is_kept_in_order_with_its_reason(self):
        rungs = [
            failing("forward-mode", "vmap", RuntimeError("no batching rule")),
            failing("forward-mode", "loop", NotImplementedError("no forward rule")),
            Rung("reverse-mode", "vmap", lambda: "answer"),
            Rung("reverse-mode", "loop", unreachable),
        ]

        rung, result, refusals = climb_down(rungs)

        assert rung.name == "reverse-mode/vmap"
        assert result == "answer"
        assert [(r.method, r.reason) for r in refusals] == [
            ("forward-mode/vmap", "no batching rule"),
            ("forward-mode/loop", "no forward rule"),
        ]

    def test_a_result_that_is_falsy_holds(self):
        rung, result, _ = climb_down([Rung("a", "b", list), Rung("a", "c", unreachable)])

        assert rung.method == "b"
        assert result == []

    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (RuntimeError("one\ntwo\nthree"), "one"),
            (RuntimeError("\n  indented\nmore"), "indented"),
            (RuntimeError(""), "RuntimeError"),
            (ValueError(), "ValueError"),
            (RuntimeError("x" * 1000), "x" * 160),
        ],
    )
    def test_a_reason_is_one_short_line(self, error, reason):
        _, _, refusals = climb_down([failing("a", "b", error), Rung("a", "c", lambda: 0)])

        assert refusals[0].reason == reason


class TestErrors:
    """What the user must see."""

    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_the_error_of_the_last_rung_is_the_users(self, count):
        errors = [KeyError(f"rung {i}") for i in range(count)]

        with pytest.raises(KeyError) as caught:
            climb_down([failing("a", str(i), error) for i, error in enumerate(errors)])

        assert caught.value is errors[-1]

    @pytest.mark.parametrize(
        "error",
        [ChangedShapeError("shape"), MemoryBudgetError("budget")],
        ids=lambda error: type(error).__name__,
    )
    def test_an_error_that_no_other_way_would_mend_stops_the_descent(self, error):
        with pytest.raises(type(error)) as caught:
            climb_down([failing("a", "b", error), Rung("a", "c", unreachable)])

        assert caught.value is error

    @pytest.mark.parametrize(
        "error",
        [
            torch.OutOfMemoryError("CUDA out of memory"),
            MemoryError("no room"),
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"
            ),
        ],
    )
    def test_a_device_out_of_memory_stops_the_descent(self, error):
        with pytest.raises(type(error)) as caught:
            climb_down([failing("a", "b", error), Rung("a", "c", unreachable)])

        assert caught.value is error

    @pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
    def test_an_interrupt_is_not_taken_for_a_refusal(self, error):
        with pytest.raises(type(error)):
            climb_down([failing("a", "b", error), Rung("a", "c", unreachable)])

    def test_a_warning_that_the_user_made_an_error_is_not_taken_for_a_refusal(self):
        def attempt():
            warnings.warn("one seed is too much", MemoryBudgetWarning, stacklevel=1)

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(MemoryBudgetWarning, match="one seed"):
                climb_down([Rung("a", "b", attempt), Rung("a", "c", unreachable)])

    @pytest.mark.parametrize("mistake", ["None.shape", "len(1)", "[][0]", "{}['a']", "never"])
    def test_a_mistake_of_our_own_is_not_taken_for_a_refusal(self, mistake):
        with pytest.raises((AttributeError, TypeError, LookupError, NameError)):
            climb_down([raising_in(ladder, mistake), Rung("a", "c", unreachable)])

    @pytest.mark.parametrize("place", [pytest, _torch], ids=["elsewhere", "adapter"])
    @pytest.mark.parametrize("mistake", ["None.shape", "len(1)", "[][0]"])
    def test_the_same_from_elsewhere_is_a_refusal(self, mistake, place):
        rungs = [raising_in(place, mistake), Rung("a", "c", lambda: "answer")]

        assert climb_down(rungs)[1] == "answer"


def raising_in(module, expression):
    code = compile(expression, module.__file__, "eval")
    return Rung("a", "b", lambda: eval(code))


class TestBatchings:
    """Which ways there are to run seeds."""

    @pytest.mark.parametrize(
        ("stackings", "methods"),
        [((True, False), [VMAP, PARTLY, LOOP]), ((True,), [VMAP, PARTLY]), ((False,), [LOOP])],
    )
    def test_ways_in_order(self, stackings, methods):
        rungs = batchings("reverse-mode", stackings, lambda stacked: stacked)

        assert [rung.method for rung in rungs] == methods
        assert [rung.attempt() for rung in rungs] == [method != LOOP for method in methods]

    def test_one_by_one_only_where_a_batching_rule_is_missing(self):
        tried = []

        def compute(stacked):
            tried.append(stacked)
            raise RuntimeError("something else")

        with pytest.raises(RuntimeError, match="something else"):
            climb_down(batchings("reverse-mode", (True, False), compute))
        assert tried == [True, False]

    def test_the_error_of_the_last_rung_that_may_be_tried_is_the_users(self):
        def compute(stacked):
            raise RuntimeError("something else")

        with pytest.raises(RuntimeError, match="something else"):
            climb_down(batchings("reverse-mode", (True,), compute))

    def test_the_switch_of_pytorch_is_as_it_was(self):
        def compute(stacked):
            raise RuntimeError("hit the vmap fallback")

        before = _torch._functorch._is_vmap_fallback_enabled()
        with pytest.raises(RuntimeError):
            climb_down(batchings("reverse-mode", (True,), compute))
        assert _torch._functorch._is_vmap_fallback_enabled() == before


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_threads_leave_the_switch_for_ops_one_by_one_as_it_was():
    def jacobians():
        for _ in range(20):
            torchjac.jacobian(lambda x: x.exp().sin(), torch.ones(3), vectorize=True)

    threads = [threading.Thread(target=jacobians) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = torch.func.jacrev(lambda x: x.unfold(0, 2, 1))(torch.ones(3))
    assert rows.sum() == 4

"""What was done can be read off: fields, text, nesting, threads, errors."""

import asyncio
import dataclasses
import threading

import pytest
import torch

import torchjac
from torchjac import Evaluation
from torchjac._evaluate.report import Refusal, is_listened_to, publish


def evaluation(**changes):
    fields = {
        "api": "jacobian",
        "mode": "reverse-mode",
        "method": "vmap",
        "why": "asked for",
        "seeds": 30,
        "passes": 3,
        "chunk_size": 12,
        "seed_bytes": 0,
        "result_bytes": 3 * 2**20,
    }
    return Evaluation(**{**fields, **changes})


class TestEvaluation:
    """The value."""

    def test_text_is_short_lines_with_every_number(self):
        assert str(evaluation()).splitlines() == [
            "jacobian: reverse-mode, vmap: asked for",
            "  seeds 30, passes 3, at most 12 a pass",
            "  result 3.00 MiB",
        ]

    def test_text_has_the_bytes_of_a_seed_where_they_were_measured(self):
        text = str(evaluation(seed_bytes=2 * 2**30))

        assert "  result 3.00 MiB, 2.00 GiB a seed" in text.splitlines()

    def test_text_lists_what_was_refused(self):
        refusals = (Refusal("forward-mode/vmap", "no rule"), Refusal("forward-mode/loop", "nor so"))

        lines = str(evaluation(refusals=refusals)).splitlines()

        assert lines[-2:] == ["  not forward-mode/vmap: no rule", "  not forward-mode/loop: nor so"]

    def test_it_cannot_be_changed(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            evaluation().passes = 4

    def test_equal_fields_are_equal_reports(self):
        assert evaluation() == evaluation()
        assert evaluation() != evaluation(passes=4)
        assert len({evaluation(), evaluation(), evaluation(passes=4)}) == 2


class TestFields:
    """What a call writes into it."""

    def test_reverse_mode(self):
        x = torch.ones(4, dtype=torch.float64)

        with torchjac.record() as runs:
            torchjac.jacobian(lambda x: x[:3] ** 2, x)

        assert len(runs) == 1
        (run,) = runs
        assert (run.api, run.mode, run.method) == ("jacobian", "reverse-mode", "vmap")
        assert (run.seeds, run.passes, run.chunk_size) == (3, 1, 3)
        assert run.result_bytes == 3 * 4 * 8
        assert run.refusals == ()

    def test_chunks(self):
        with torchjac.record() as runs:
            torchjac.jacobian(lambda x: x**2, torch.ones(10), chunk_size=4)

        assert (runs[0].seeds, runs[0].passes, runs[0].chunk_size) == (10, 3, 4)

    def test_several_outputs_and_inputs(self):
        x, y = torch.ones(2), torch.ones(3)

        with torchjac.record() as runs:
            torchjac.jacobian(lambda x, y: (x * 2, y * x.sum()), (x, y))
            torchjac.jacobian(lambda x, y: (x * 2, y * x.sum()), (x, y), strategy="forward-mode")

        assert [run.seeds for run in runs] == [5, 5]
        assert [run.result_bytes for run in runs] == [5 * 5 * 4] * 2

    @pytest.mark.parametrize(
        ("call", "api"),
        [
            (lambda x: torchjac.jacobian(torch.sin, x), "jacobian"),
            (lambda x: torchjac.value_and_jacobian(torch.sin, x), "value_and_jacobian"),
            (lambda x: torchjac.batch_jacobian(torch.sin, x[None]), "batch_jacobian"),
            (lambda x: torchjac.hessian(lambda x: x.sin().sum(), x), "hessian"),
            (lambda x: torchjac.gradient(lambda x: x.sin().sum(), x), "gradient"),
        ],
    )
    def test_the_public_call_is_named(self, call, api):
        with torchjac.record() as runs:
            call(torch.ones(3))

        assert [run.api for run in runs] == [api]
        assert str(runs[0]).startswith(f"{api}: ")

    def test_tensors_already_computed(self):
        x = torch.ones(3, requires_grad=True)

        with torchjac.record() as runs:
            torchjac.jacobian_of(x**2, x)

        assert [(run.api, run.seeds, run.passes) for run in runs] == [("jacobian_of", 3, 1)]


class TestRecord:
    """The block."""

    def test_reports_come_in_order(self):
        with torchjac.record() as runs:
            for n in (2, 5, 3):
                torchjac.jacobian(torch.sin, torch.ones(n))

        assert [run.seeds for run in runs] == [2, 5, 3]

    def test_a_list_can_be_read_within_the_block(self):
        with torchjac.record() as runs:
            assert runs == []
            torchjac.jacobian(torch.sin, torch.ones(2))
            assert len(runs) == 1

    def test_nothing_is_added_after_the_block(self):
        with torchjac.record() as runs:
            pass
        torchjac.jacobian(torch.sin, torch.ones(2))

        assert runs == []
        assert not is_listened_to()

    def test_an_outer_block_hears_what_an_inner_one_does(self):
        with torchjac.record() as outer:
            torchjac.jacobian(torch.sin, torch.ones(1))
            with torchjac.record() as inner:
                torchjac.jacobian(torch.sin, torch.ones(2))
            torchjac.jacobian(torch.sin, torch.ones(3))

        assert [run.seeds for run in outer] == [1, 2, 3]
        assert [run.seeds for run in inner] == [2]

    def test_a_jacobian_within_a_jacobian_is_heard_first(self):
        def func(x):
            return x * torchjac.jacobian(torch.sin, torch.ones(2)).sum()

        with torchjac.record() as runs:
            torchjac.jacobian(func, torch.ones(3))

        assert [run.seeds for run in runs] == [2, 3]

    def test_an_error_ends_the_blocks_and_keeps_their_lists(self):
        heard = []

        def fail_within_two_blocks():
            with torchjac.record() as outer:
                heard.append(outer)
                torchjac.jacobian(torch.sin, torch.ones(1))
                with torchjac.record() as inner:
                    heard.append(inner)
                    torchjac.jacobian(torch.sin, torch.ones(2))
                    raise KeyError

        with pytest.raises(KeyError):
            fail_within_two_blocks()

        assert [[run.seeds for run in runs] for runs in heard] == [[1, 2], [2]]
        assert not is_listened_to()

    def test_a_call_that_fails_reports_nothing(self):
        def func(x):
            raise KeyError

        with torchjac.record() as runs:
            with pytest.raises(KeyError):
                torchjac.jacobian(func, torch.ones(2))
            torchjac.jacobian(torch.sin, torch.ones(3))

        assert [run.seeds for run in runs] == [3]

    def test_being_listened_to_changes_no_number(self):
        x = torch.linspace(-1, 1, 5, dtype=torch.float64)

        def func(x):
            return (x.sin() * x.sum()).cumsum(0)

        alone = torchjac.jacobian(func, x)
        with torchjac.record():
            heard = torchjac.jacobian(func, x)

        assert torch.equal(alone, heard)

    def test_publishing_reaches_every_listener_with_the_refusals(self):
        refusals = (Refusal("reverse-mode/vmap", "no rule"),)

        with torchjac.record() as outer, torchjac.record() as inner:
            publish(evaluation(), refusals)

        assert outer == inner == [evaluation(refusals=refusals)]

    def test_publishing_to_nobody_is_nothing(self):
        publish(evaluation(), ())

        assert not is_listened_to()


class TestEveryCall:
    """Calls other than `jacobian` are heard too."""

    @pytest.mark.parametrize(
        ("call", "seeds"),
        [
            (torchjac.diagonal, 3),
            (torchjac.trace, 3),
            (torchjac.divergence, 3),
        ],
        ids=lambda value: getattr(value, "__name__", None),
    )
    @pytest.mark.parametrize("chunk_size", [None, 2])
    def test_diagonals(self, call, seeds, chunk_size):
        with torchjac.record() as runs:
            call(torch.sin, torch.ones(3), chunk_size=chunk_size)

        (run,) = runs
        assert (run.api, run.mode, run.method) == (call.__name__, "reverse-mode", "vmap")
        assert (run.seeds, run.passes) == (seeds, 1 if chunk_size is None else 2)
        assert run.result_bytes == 12

    def test_a_diagonal_of_samples_counts_those_of_one(self):
        with torchjac.record() as runs:
            torchjac.diagonal(torch.sin, torch.ones(5, 3), batch_dim=0)

        assert [run.seeds for run in runs] == [3]

    def test_a_laplacian_is_heard_once_for_each_component(self):
        with torchjac.record() as runs:
            torchjac.laplacian(lambda x: torch.stack([(x**3).sum(), x.prod()]), torch.ones(3))

        assert [(run.api, run.seeds) for run in runs] == [("laplacian", 3)] * 2

    @pytest.mark.parametrize("size", [3, 40])
    def test_columns_of_the_drop_in(self, size):
        x = torch.linspace(-1, 1, size)
        alone = torchjac.functional.jacobian(torch.sin, x, vectorize=True, strategy="forward-mode")

        with torchjac.record() as runs:
            heard = torchjac.functional.jacobian(
                torch.sin, x, vectorize=True, strategy="forward-mode"
            )

        (run,) = runs
        assert (run.api, run.mode) == ("functional.jacobian", "forward-mode")
        assert (run.seeds, run.why) == (size, "asked for")
        assert torch.equal(alone, heard)


class TestThreads:
    """Each thread and each task hears itself."""

    def test_a_thread_is_not_heard_by_another(self):
        heard = {}

        def work(n):
            with torchjac.record() as runs:
                for _ in range(5):
                    torchjac.jacobian(torch.sin, torch.ones(n))
            heard[n] = [run.seeds for run in runs]

        with torchjac.record() as outer:
            threads = [threading.Thread(target=work, args=(n,)) for n in range(2, 6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        assert outer == []
        assert heard == {n: [n] * 5 for n in range(2, 6)}

    def test_a_task_is_not_heard_by_another(self):
        async def work(n):
            with torchjac.record() as runs:
                for _ in range(3):
                    torchjac.jacobian(torch.sin, torch.ones(n))
                    await asyncio.sleep(0)
            return [run.seeds for run in runs]

        async def both():
            return await asyncio.gather(work(2), work(3))

        assert asyncio.run(both()) == [[2] * 3, [3] * 3]

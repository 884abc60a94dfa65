"""The progress bar: off unless asked for, counted in seeds, and closed whatever happens."""

import builtins
import sys
import types

import pytest
import torch
from torch.autograd import Function

import torchjac
from torchjac._evaluate.progress import Progress
from torchjac.errors import FallbackWarning, MissingExtraError


class FakeBar:
    """Stands in for `rich.progress.Progress`, and remembers."""

    made: list["FakeBar"] = []  # noqa: RUF012 - emptied by the fixture

    def __init__(self, **options):
        self.options = options
        self.state = "new"
        self.tasks = {}
        self.history = []
        FakeBar.made.append(self)

    def start(self):
        self.state = "running"

    def stop(self):
        self.state = "stopped"

    def add_task(self, label, total):
        assert self.state == "running"
        task = len(self.history)
        self.history.append(label)
        self.tasks[task] = {"label": label, "total": total, "done": 0}
        return task

    def remove_task(self, task):
        del self.tasks[task]

    def advance(self, task, count):
        assert self.state == "running"
        self.tasks[task]["done"] += count


@pytest.fixture
def bars(monkeypatch):
    FakeBar.made = []
    package, module = types.ModuleType("rich"), types.ModuleType("rich.progress")
    module.Progress = FakeBar
    package.progress = module
    monkeypatch.setitem(sys.modules, "rich", package)
    monkeypatch.setitem(sys.modules, "rich.progress", module)
    return FakeBar.made


@pytest.fixture
def no_rich(monkeypatch):
    real = builtins.__import__

    def import_(name, *args, **kwargs):
        if name.split(".")[0] == "rich":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", import_)


class NotBatched(Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return torch.from_numpy(2 * grad.numpy())


CALLS = {
    "jacobian": lambda **o: torchjac.jacobian(torch.sin, torch.ones(7), **o),
    "value_and_jacobian": lambda **o: torchjac.value_and_jacobian(torch.sin, torch.ones(7), **o),
    "batch_jacobian": lambda **o: torchjac.batch_jacobian(torch.sin, torch.ones(3, 7), **o),
    "hessian": lambda **o: torchjac.hessian(lambda x: x.sin().sum(), torch.ones(7), **o),
    "jacobian_of": lambda **o: _jacobian_of(**o),
}
every_call = pytest.mark.parametrize("name", CALLS)


def _jacobian_of(**options):
    x = torch.ones(7, requires_grad=True)
    return torchjac.jacobian_of(x.sin(), x, **options)


class TestShown:
    """With `rich`."""

    @pytest.mark.parametrize("chunk_size", [None, 1, 3])
    @every_call
    def test_a_bar_advances_to_its_total_and_is_closed(self, bars, name, chunk_size):
        CALLS[name](progress=True, chunk_size=chunk_size)

        assert len(bars) == 1
        (bar,) = bars
        assert bar.state == "stopped"
        assert list(bar.tasks.values()) == [{"label": name, "total": 7, "done": 7}]

    @pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
    def test_the_total_is_the_number_of_seeds(self, bars, strategy):
        torchjac.jacobian(
            lambda x, y: (x.sum() * y, x),
            (torch.ones(4), torch.ones(2)),
            progress=True,
            strategy=strategy,
        )

        (task,) = bars[0].tasks.values()
        assert task["total"] == task["done"] == 6

    def test_a_fallback_starts_anew(self, bars):
        with pytest.warns(FallbackWarning):
            torchjac.jacobian(NotBatched.apply, torch.ones(5), progress=True)

        (bar,) = bars
        assert list(bar.tasks.values()) == [{"label": "jacobian", "total": 5, "done": 5}]
        assert len(bar.history) == 2

    def test_a_loop_advances_seed_by_seed(self, bars, monkeypatch):
        steps = []
        advance = FakeBar.advance
        monkeypatch.setattr(
            FakeBar, "advance", lambda self, task, n: (steps.append(n), advance(self, task, n))
        )

        torchjac.jacobian(torch.sin, torch.ones(5), progress=True, vectorize=False)

        assert steps == [1] * 5
        assert bars[0].state == "stopped"

    def test_the_bar_is_closed_after_an_error(self, bars):
        class Fails(NotBatched):
            @staticmethod
            def backward(ctx, grad):
                raise KeyError("backward")

        with pytest.raises(KeyError):
            torchjac.jacobian(Fails.apply, torch.ones(3), progress=True)

        assert [bar.state for bar in bars] == ["stopped"]

    def test_the_bar_leaves_no_trace_on_the_screen(self, bars):
        torchjac.jacobian(torch.sin, torch.ones(2), progress=True)

        assert bars[0].options == {"transient": True}

    @every_call
    def test_the_answer_is_that_without_a_bar(self, bars, name):
        shown, plain = CALLS[name](progress=True), CALLS[name]()

        for a, b in zip(
            shown if isinstance(shown, tuple) else (shown,),
            plain if isinstance(plain, tuple) else (plain,),
            strict=True,
        ):
            torch.testing.assert_close(a, b)

    @every_call
    def test_no_bar_is_shown_unless_asked_for(self, bars, name):
        CALLS[name]()

        assert bars == []


class TestMissing:
    """Without `rich`."""

    @every_call
    def test_the_error_names_the_command_that_installs_it(self, no_rich, name):
        with pytest.raises(MissingExtraError, match=r"pip install 'torchjac\[rich\]'"):
            CALLS[name](progress=True)

    def test_the_error_is_an_import_error(self, no_rich):
        with pytest.raises(ImportError, match="progress=True needs the package `rich`"):
            torchjac.jacobian(torch.sin, torch.ones(2), progress=True)

    @every_call
    def test_nothing_is_missed_where_no_bar_is_asked_for(self, no_rich, name):
        result = CALLS[name]()

        assert result is not None

    def test_the_error_comes_before_the_work(self, no_rich):
        calls = []

        def func(x):
            calls.append(1)
            return x * 2

        with pytest.raises(MissingExtraError):
            torchjac.jacobian(func, torch.ones(2), progress=True)

        assert calls == []


class TestHidden:
    """A bar that is not shown takes every call and does nothing."""

    def test_it_counts_for_nobody(self, no_rich):
        with Progress(shown=False, label="jacobian") as progress:
            progress.expect(3)
            progress.advance(2)
            progress.expect(4)

        assert progress is not None

"""The process of torchjac and PyTorch: what a contender that fails leaves behind."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.func import jacfwd, jacrev, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from benchmarks import ours, torch_side, torch_ways
from benchmarks.answers import Reference
from benchmarks.contender import Contender, as_it_is
from benchmarks.model import EAGER, FAILED, INDUCTOR, PLAN, REPLAY, TORCHJAC, TRYING
from benchmarks.problems import Problem
from benchmarks.request import Asked, Request

X = torch.tensor([1.0, 2.0])
PROBLEM = Problem("tutorial/square", "jacobian", "2 -> 2", lambda x: x**2, (X,))
REFERENCE = Reference(torch.diag(2 * X).double(), (2, 2))


def right() -> torch.Tensor:
    return torch.diag(2 * X)


def compared(
    calls: dict[str, Callable[[], Any]],
    monkeypatch: pytest.MonkeyPatch,
    library: str = "by hand",
    **limits: str,
) -> tuple[torch_side.Field, list[dict[str, Any]]]:
    """What becomes of contenders, and what is told meanwhile."""
    told: list[dict[str, Any]] = []

    def contenders(_: Problem) -> Iterator[Contender]:
        return (Contender(library, way, as_it_is(call)) for way, call in calls.items())

    monkeypatch.setattr(ours, "contenders", lambda _: iter(()))
    monkeypatch.setattr(torch_ways, "contenders", contenders)
    monkeypatch.setattr(torch_side, "tell", told.append)
    asked = Asked(PROBLEM.name, (), "float32", "", without=limits)
    row = torch_side.Comparison(PROBLEM, REFERENCE, Request((asked,)), asked)
    for contenders_of_turn in row.by_turn():
        row.compare(contenders_of_turn)
    return row.found, told


def test_an_error_of_one_costs_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    found, told = compared({"bad": lambda: 1 / 0, "good": right}, monkeypatch)
    assert [contender.way for contender, _ in found.able] == ["good"]
    assert found.absent == {"by hand: bad": "ZeroDivisionError: division by zero"}
    assert told == [{TRYING: "by hand: bad"}, {TRYING: "by hand: good"}]


def test_few_turns_are_taken_and_the_plan_as_it_comes_is_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ways = (EAGER, REPLAY, INDUCTOR, PLAN, "jacobian")
    own = [Contender(TORCHJAC, way, as_it_is(right)) for way in ways]
    other = [Contender("by hand", EAGER, as_it_is(right))]
    monkeypatch.setattr(ours, "contenders", lambda _: iter(own))
    monkeypatch.setattr(torch_ways, "contenders", lambda _: iter(other))
    asked = Asked(PROBLEM.name, (), "float32", "")
    turns = {
        kind: torch_side.Comparison(
            replace(PROBLEM, kind=kind), REFERENCE, Request((asked,)), asked
        ).by_turn()
        for kind in ("sparse", "jacobian")
    }
    eager, replay, inductor, plan, jacobian = own
    assert turns["sparse"] == ([eager, replay], [inductor, jacobian, *other], [plan])
    assert turns["jacobian"] == ([], [eager, replay, inductor, jacobian, *other], [plan])


def test_an_error_of_torchjac_is_told_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    _, told = compared({"bad": lambda: 1 / 0}, monkeypatch, TORCHJAC)
    assert told[-1][FAILED] == "tutorial/square, torchjac: bad"


def test_a_wrong_answer_is_refused_and_who_broke_a_process_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = {"wrong": lambda: 2 * right(), "deadly": right}
    found, _ = compared(calls, monkeypatch, **{"by hand: deadly": "signal 9"})
    assert not found.able
    assert "an entry differs" in found.wrong["by hand: wrong"]
    assert found.absent == {"by hand: deadly": "signal 9"}


def test_a_transform_that_breaks_off_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """In single precision, forward mode cannot multiply samples by a number of Python's."""

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([2.0 * x[0], x[1]]) @ torch.stack([x, x])

    batch = torch.ones(3, 2)
    calls = {
        "vmap(jacfwd), compiled": lambda: torch.compile(vmap(jacfwd(scaled)))(batch),
        "good": right,
    }
    found, _ = compared(calls, monkeypatch)
    assert len(found.absent) == 1
    assert len(found.able) == 1
    assert make_fx(vmap(jacrev(scaled)))(batch) is not None


def test_a_process_in_which_nothing_works_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_side, "is_sound", lambda: False)
    with pytest.raises(torch_side.BrokenError, match="division by zero"):
        compared({"bad": lambda: 1 / 0}, monkeypatch)

"""A process that dies costs the contender that it died of, and nothing that comes after."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import sides
from benchmarks.model import ASDEX, FAILED, PLAN, ROW, TORCHJAC, TRYING, Row
from benchmarks.request import Asked, Request
from benchmarks.sides import Sides
from tests.benchmarks.results import measured, row

FIRST = Asked("arrow", (10,), "float64", "a.npz")
SECOND = Asked("arrow", (20,), "float64", "b.npz")
OWN, JACREV = f"{TORCHJAC}: {PLAN}", "torch.func: jacrev"
DEATH = "its process was ended by signal 9"
NO_PEERS = {peer.library: "not installed" for peer in sides.ALL_PEERS}

Process = Callable[[Asked, Callable[[dict[str, Any]], None]], str]


def solved(
    processes: Mapping[str, Process], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> tuple[dict[int, Row], Sides]:
    """What becomes of two problems where processes, by a part of their module's name, do this.

    A process is called for each problem, says what there is to say, and returns what it dies of.
    """

    def listen(command: Sequence[str], *rest: Any) -> str:
        process = next(run for name, run in processes.items() if name in command[2])
        for asked in Request.read(Path(command[3])).asked:
            if why := process(asked, rest[-1]):
                return why
        return ""

    monkeypatch.setattr(sides, "listen", listen)
    absent = {k: why for k, why in NO_PEERS.items() if k not in processes}
    run = Sides(tmp_path, absent, lambda _: None)
    return run.solve(Request((FIRST, SECOND))), run


def answer(asked: Asked, hear: Callable[[dict[str, Any]], None]) -> str:
    """A row with all contenders that are not left out."""
    absent = dict(asked.without)
    hear({ROW: asdict(replace(row(asked.title, [measured(TORCHJAC, PLAN, 1.0)]), absent=absent))})
    return ""


def test_a_process_that_dies_of_a_contender_goes_on_without_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def process(asked: Asked, hear: Callable[[dict[str, Any]], None]) -> str:
        hear({TRYING: OWN})
        if asked.title == FIRST.title and JACREV not in asked.without:
            hear({TRYING: JACREV})
            return DEATH
        return answer(asked, hear)

    rows, run = solved({"torch_side": process}, monkeypatch, tmp_path)
    assert [rows[k].name for k in range(2)] == [FIRST.title, SECOND.title]
    assert rows[0].absent[JACREV] == DEATH
    assert JACREV not in rows[1].absent
    assert run.failures == [f"{FIRST.title}, {JACREV}: {DEATH}"]


def test_a_problem_that_kills_the_process_by_itself_is_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def process(asked: Asked, hear: Callable[[dict[str, Any]], None]) -> str:
        hear({TRYING: ""})
        return DEATH if asked.title == FIRST.title else answer(asked, hear)

    rows, run = solved({"torch_side": process}, monkeypatch, tmp_path)
    assert {k: found.name for k, found in rows.items()} == {1: SECOND.title}
    assert run.failures == [f"{FIRST.title}, as a whole: {DEATH}"]


def test_a_contender_that_kills_the_process_though_left_out_costs_the_problem(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def process(asked: Asked, hear: Callable[[dict[str, Any]], None]) -> str:
        hear({TRYING: OWN})
        return DEATH

    rows, run = solved({"torch_side": process}, monkeypatch, tmp_path)
    assert not rows
    assert len(run.failures) == 4


def test_what_torchjac_could_not_do_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def process(asked: Asked, hear: Callable[[dict[str, Any]], None]) -> str:
        hear({FAILED: OWN, "why": "an error"})
        return answer(asked, hear)

    _, run = solved({"torch_side": process}, monkeypatch, tmp_path)
    assert run.failures == [f"{OWN}: an error"] * 2


def test_a_peer_that_dies_of_a_problem_goes_on_with_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def peer(asked: Asked, hear: Callable[[dict[str, Any]], None]) -> str:
        if asked.title == FIRST.title:
            return DEATH
        hear(asdict(measured(ASDEX, "jit", 2.0)))
        return ""

    rows, run = solved({"torch_side": answer, ASDEX: peer}, monkeypatch, tmp_path)
    assert rows[0].absent[ASDEX] == DEATH
    assert rows[1].find(ASDEX) is not None
    assert run.failures == [f"{FIRST.title}, {ASDEX}: {DEATH}"]

"""What processes are asked, and what the command line means."""

from pathlib import Path

import pytest

from benchmarks import workloads
from benchmarks.__main__ import DOCS, PARTS, parse, wanted
from benchmarks.model import FUNC, HAND, PLAN, REFILL, TORCHJAC
from benchmarks.request import Asked, Request
from benchmarks.turns import Turns


def test_a_request_is_read_as_it_was_written(tmp_path: Path) -> None:
    asked = (
        Asked("brusselator", (32,), "float64", "a.npz", only=("asdex",)),
        Asked("robot/1", (), "float32", "b.npz", without={"torch.func: jacfwd": "it breaks"}),
    )
    request = Request(asked, quick=True, cpu_time=True, turns=Turns("a file"))
    request.write(tmp_path / "request.json")
    assert Request.read(tmp_path / "request.json") == request


def test_a_problem_goes_by_its_name_and_sizes() -> None:
    assert Asked("bundle", (2, 3, 6), "float64", "").title == "bundle(2, 3, 6)"
    assert Asked("robot/1", (), "float32", "").title == "robot/1"


def test_little_time_leaves_out_the_mode_that_the_sizes_speak_against() -> None:
    quick, full = Request((), quick=True), Request(())
    wide = ("jacobian", (3, 1000))
    assert not quick.left_out("robot/1", FUNC, "jacrev, compiled", *wide)
    assert quick.left_out("robot/1", FUNC, "jacfwd, compiled", *wide)
    assert not quick.left_out("robot/1", FUNC, "jacfwd", *wide)
    assert not full.left_out("robot/1", FUNC, "jacfwd, compiled", *wide)


def test_little_time_leaves_out_large_dense_answers_but_never_the_plan() -> None:
    quick, name = Request((), quick=True), "arrow(1000)"
    assert not quick.left_out(name, FUNC, "jacrev", "sparse", (1000, 1000))
    assert quick.left_out(name, FUNC, "jacrev", "sparse", (2000, 1000))
    assert not quick.left_out(name, TORCHJAC, PLAN, "sparse", (2000, 1000))
    assert not quick.left_out("plain", FUNC, "jacrev", "jacobian", (2000, 1000))


def test_little_time_refills_only_where_entries_are_constant() -> None:
    quick, shape = Request((), quick=True), (10, 10)
    assert not quick.left_out("allen_cahn(10)", TORCHJAC, REFILL, "sparse", shape)
    assert quick.left_out("arrow(10)", TORCHJAC, REFILL, "sparse", shape)
    assert quick.left_out("brusselator(10)", TORCHJAC, REFILL, "sparse", shape)


def test_little_time_compiles_one_program_once() -> None:
    quick, full, of_samples = Request((), quick=True), Request(()), ("samples", (3, 6))
    twice = "vmap(jacrev), compiled"
    assert quick.left_out("robot/512", HAND, twice, *of_samples)
    assert not quick.left_out("robot/512", HAND, f"make_fx of {twice}", *of_samples)
    assert not quick.left_out("batch/32", HAND, twice, *of_samples)
    assert not full.left_out("robot/512", HAND, twice, *of_samples)


def test_little_time_compiles_the_derivative_and_not_the_function() -> None:
    assert not Request((), quick=True).compiles_function
    assert Request(()).compiles_function


def test_every_workload_is_asked_for_once_in_each_precision() -> None:
    asked = list(workloads.rows(workloads.FAMILIES, quick=False))
    assert len({(one.title, one.dtype) for one in asked}) == len(asked)
    assert len({one.file for one in asked}) == len(asked)
    assert {one.name.partition("/")[0] for one in asked} == set(workloads.FAMILIES)


def test_problems_are_dealt_out_the_dearest_first() -> None:
    names = ("plain", "arrow", "ntk", "tokens", "block")
    asked = [Asked(name, (), "float32", "") for name in names]
    assert workloads.dealt(asked, 2) == [[4, 0, 3], [2, 1]]
    assert workloads.dealt(asked, 1) == [[4, 2, 0, 1, 3]]


def test_what_is_dearest_is_asked_for() -> None:
    assert {one.name for one in workloads.rows(workloads.FAMILIES, True)} > set(workloads.DEAREST)


def test_the_short_form_has_every_family() -> None:
    asked = workloads.rows(workloads.FAMILIES, quick=True)
    assert {one.name.partition("/")[0] for one in asked} == set(workloads.FAMILIES)


def test_groups_stand_for_their_parts() -> None:
    assert wanted([], quick=False) == list(PARTS)
    assert wanted(["sparse"], quick=False) == list(workloads.SPARSE_FAMILIES)
    assert wanted(["robot", "dense"], quick=False).count("robot") == 1


@pytest.mark.parametrize("part", ["memory", "scaling", "classifier"])
def test_the_short_form_measures_what_takes_long_only_if_asked(part) -> None:
    assert part not in wanted([], quick=True)
    assert part in wanted([], quick=False)
    assert wanted([part], quick=True) == [part]


def test_a_page_is_written_by_default_only_of_everything() -> None:
    assert parse([]).output == DOCS
    assert parse(["robot", "--quick"]).output is None


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["robt"])
    assert "no such benchmark: robt" in capsys.readouterr().err

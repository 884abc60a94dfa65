"""The NIST example: its parser, its models and all fits against the certified values."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import torchjac

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "nist_strd.py"


def _load_example() -> ModuleType:
    # The examples are scripts outside of any package, hence by path.
    spec = importlib.util.spec_from_file_location("torchjac_example_nist_strd", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


nist = _load_example()
PROBLEMS = {problem.name: problem for problem in nist.problems()}
every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)


def _sixth_order_differences(function, b):
    """The Jacobian by central differences with an error of the order of the step to the sixth."""
    columns = []
    for j in range(len(b)):
        step = torch.zeros_like(b)
        step[j] = 1e-4 * b[j].abs()
        near, mid, far = (function(b + k * step) - function(b - k * step) for k in (1, 2, 3))
        columns.append((45 * near - 9 * mid + far) / (60 * step[j]))
    return torch.stack(columns, dim=1)


def test_every_file_has_a_model_and_every_model_a_file():
    assert PROBLEMS.keys() == nist.MODELS.keys()
    assert len(PROBLEMS) == 27


def test_parser_reads_the_header_and_certified_values():
    misra = PROBLEMS["Misra1a"]
    assert (misra.difficulty, misra.model_class) == ("Lower", "Exponential")
    assert [start.tolist() for start in misra.starts] == [[500, 0.0001], [250, 0.0005]]
    assert misra.parameters.tolist() == [2.3894212918e02, 5.5015643181e-04]
    assert misra.deviations.tolist() == [2.7070075241e00, 7.2668688436e-06]
    assert (misra.rss, misra.residual_deviation, misra.dof) == (
        1.2455138894e-01,
        1.0187876330e-01,
        12,
    )
    assert len(misra.x) == len(misra.y) == 14
    assert (misra.y[0].item(), misra.x[0].item()) == (10.07, 77.6)
    assert (misra.y[-1].item(), misra.x[-1].item()) == (81.78, 760.0)


def test_parser_reads_a_class_with_a_remark_and_negative_starts():
    hahn = PROBLEMS["Hahn1"]
    assert (hahn.difficulty, hahn.model_class) == ("Average", "Rational")
    assert hahn.starts[1].tolist() == [1, -0.1, 0.005, -1e-6, -0.005, 1e-4, -1e-7]
    assert (len(hahn.parameters), len(hahn.y), hahn.dof) == (7, 236, 229)
    assert hahn.parameters[6].item() == -1.2314450199e-07


def test_parser_reads_two_predictors():
    nelson = PROBLEMS["Nelson"]
    assert nelson.x.shape == (128, 2)
    assert nelson.y[4].item() == 15.5
    assert nelson.x[4].tolist() == [1.0, 225.0]
    assert nelson.starts[1].tolist() == [2.5, 5e-9, -0.05]


def test_parser_keeps_all_digits_of_the_nearly_exact_data():
    lanczos = PROBLEMS["Lanczos1"]
    assert lanczos.y[1].item() == 2.044333373291
    assert lanczos.rss == 1.4307867721e-25


def test_parser_rejects_other_text(tmp_path):
    path = tmp_path / "other.dat"
    path.write_text("not a data set\n")
    with pytest.raises(ValueError, match="not a NIST StRD"):
        nist.load(path)


def test_parser_rejects_a_truncated_file(tmp_path):
    path = tmp_path / "truncated.dat"
    complete = (nist.DATA / "Misra1a.dat").read_text()
    path.write_text("".join(complete.splitlines(keepends=True)[:-2]))
    with pytest.raises(ValueError, match="missing"):
        nist.load(path)


@every_problem
def test_certified_numbers_are_consistent(problem):
    dof = len(problem.y) - len(problem.parameters)
    assert math.sqrt(problem.rss / dof) == pytest.approx(problem.residual_deviation, rel=1e-10)
    if problem.name == "Rat43":
        assert (dof, problem.dof) == (11, 9)  # a misprint in the file
    else:
        assert dof == problem.dof


@every_problem
def test_model_attains_the_certified_residual_sum_of_squares(problem):
    rss = problem.residuals(problem.parameters).square().sum().item()
    # The certified parameters are rounded to 11 digits; for Lanczos1 that alone is more than rss.
    rounding = (
        torchjac.jacobian(problem.residuals, problem.parameters) * problem.parameters
    ).norm()
    slack = (1e-10 * rounding.item()) ** 2 / problem.rss
    assert rss == pytest.approx(problem.rss, rel=1e-9 + slack + 2 * 10 ** -problem.attainable_lre())


@every_problem
@pytest.mark.parametrize("point", ["certified", "start 2"])
def test_jacobian_agrees_with_differences(problem, point):
    b = problem.parameters if point == "certified" else problem.starts[1]
    jacobian = torchjac.jacobian(problem.residuals, b)
    expected = _sixth_order_differences(problem.residuals, b)
    assert jacobian.shape == (len(problem.y), len(b))
    error = (jacobian - expected).abs().amax(dim=0)
    assert (error <= 1e-8 * expected.abs().amax(dim=0)).all()


@every_problem
@pytest.mark.parametrize("start", [1, 2])
def test_fit_reaches_the_certified_values(problem, start):
    result = nist.fit(problem, start)
    digits = nist.score(problem, result)
    assert digits.parameters >= 9
    # Rounding the data to doubles leaves Lanczos1, and no other, with less.
    assert digits.deviations >= min(9, problem.attainable_lre())
    assert digits.rss >= min(9, problem.attainable_lre() - math.log10(2))
    assert nist.passes(problem, digits)
    assert result.evaluations >= result.jacobians > 0


def test_only_one_problem_is_limited_by_rounding():
    limited = [name for name, p in PROBLEMS.items() if p.attainable_lre() < nist.MIN_LRE]
    assert limited == ["Lanczos1"]


def test_log_relative_error():
    assert nist.log_relative_error(1.0, 1.0) == 11
    assert nist.log_relative_error(1.001, 1.0) == pytest.approx(3)
    assert nist.log_relative_error(torch.tensor([1.0, 2.2]), torch.tensor([1.0, 2.0])) == (
        pytest.approx(1, abs=1e-6)
    )
    assert nist.log_relative_error(math.nan, 1.0) == 0
    assert nist.log_relative_error(5.0, 1.0) == 0


def test_main_prints_the_table_and_reports_success(capsys, monkeypatch):
    few = (PROBLEMS["Misra1a"], PROBLEMS["Lanczos1"])
    monkeypatch.setattr(nist, "problems", lambda: few)
    assert nist.main() == 0
    out = capsys.readouterr().out
    assert "Misra1a" in out
    assert "0 of 4 fits failed" in out


def test_main_reports_failure(capsys, monkeypatch):
    monkeypatch.setattr(nist, "problems", lambda: (PROBLEMS["Misra1a"],))
    monkeypatch.setattr(nist, "MIN_LRE", 12.0)  # more digits than there are
    monkeypatch.setattr(nist.Problem, "attainable_lre", lambda self: math.inf)
    assert nist.main() == 1
    assert "2 of 2 fits failed" in capsys.readouterr().out

"""Nonlinear regression on the NIST Statistical Reference Datasets with torchjac Jacobians.

The data sets (https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml) are 27 least-squares
problems with certified answers of 11 digits, each with a start far from the solution and one near
to it.  Every problem goes through the same path: MINPACK's Levenberg-Marquardt, as wrapped by
``scipy.optimize.least_squares``, then a few Gauss-Newton steps.  Both take the Jacobian of the
residuals from ``torchjac.jacobian``.

Run ``python examples/nist_strd.py``.  The table gives log relative errors (LRE), that is the
number of correct digits; the exit code is 1 if a fit misses the certified values.
"""

import math
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import least_squares
from torch import Tensor

import torchjac

DATA = Path(__file__).resolve().parent / "data" / "nist_strd"
MAX_LRE = 11.0  # the certified values are printed with 11 digits
MIN_LRE = 4.0  # fewer correct digits than this count as a failure
HUGE = 1e100  # stands for overflow at trial points; its square is still finite

ModelFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Model:
    """A regression function ``(b, x) -> y`` and the transform that its response goes through."""

    function: ModelFunction
    response: Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Problem:
    """One data file: the observations, the two starts and the certified values."""

    name: str
    difficulty: str
    model_class: str
    x: Tensor  # [n], or [n, k] for k > 1 predictors
    y: Tensor
    starts: tuple[Tensor, Tensor]
    parameters: Tensor
    deviations: Tensor
    rss: float
    residual_deviation: float
    dof: int  # as printed in the file; Rat43 says 9 where its own numbers need 15 - 4 = 11

    def residuals(self, b: Tensor) -> Tensor:
        """Returns model minus response at the parameters ``b``."""
        model = MODELS[self.name]
        return model.function(b, self.x) - model.response(self.y)

    def attainable_lre(self) -> float:
        """Returns the digits of a standard deviation that double precision can promise.

        Rounding ``y`` to a double moves it by up to ``eps/2 * |y|``, and rounding the value of the
        model moves that by as much again, so that the residual vector is known only to within
        ``eps * ||y||``.  A standard deviation is proportional to the norm of the residuals and so
        inherits the relative error ``eps * ||y|| / ||r||``.  This leaves plenty unless the fit is
        nearly perfect, as it is for Lanczos1, generated to 14 digits: there even exact arithmetic
        on the rounded data gets only the first 3 digits of the certified sum of squares.
        """
        norm = MODELS[self.name].response(self.y).norm().item()
        return -math.log10(torch.finfo(self.y.dtype).eps * norm / math.sqrt(self.rss))


@dataclass(frozen=True, eq=False)
class Fit:
    """The outcome of one fit and what it cost."""

    parameters: Tensor
    deviations: Tensor
    rss: float
    evaluations: int
    jacobians: int


@dataclass(frozen=True)
class Score:
    """Log relative errors of one fit against the certified values."""

    parameters: float
    deviations: float
    rss: float


MODELS: dict[str, Model] = {}


def _model(
    *names: str, response: Callable[[Tensor], Tensor] = torch.clone
) -> Callable[[ModelFunction], ModelFunction]:
    """Registers the decorated function as the model of the named data sets."""

    def register(function: ModelFunction) -> ModelFunction:
        MODELS.update({name: Model(function, response) for name in names})
        return function

    return register


@_model("Misra1a", "BoxBOD")
def saturation(b: Tensor, x: Tensor) -> Tensor:
    """Exponential approach to a limit."""
    return b[0] * (1 - torch.exp(-b[1] * x))


@_model("Misra1b")
def misra1b(b: Tensor, x: Tensor) -> Tensor:
    """Adsorption, inverse square law."""
    return b[0] * (1 - (1 + b[1] * x / 2) ** -2)


@_model("Misra1c")
def misra1c(b: Tensor, x: Tensor) -> Tensor:
    """Adsorption, inverse square root law."""
    return b[0] * (1 - (1 + 2 * b[1] * x) ** -0.5)


@_model("Misra1d")
def misra1d(b: Tensor, x: Tensor) -> Tensor:
    """Adsorption, hyperbolic law."""
    return b[0] * b[1] * x / (1 + b[1] * x)


@_model("Chwirut1", "Chwirut2")
def chwirut(b: Tensor, x: Tensor) -> Tensor:
    """Exponential decay over a line."""
    return torch.exp(-b[0] * x) / (b[1] + b[2] * x)


@_model("Lanczos1", "Lanczos2", "Lanczos3")
def lanczos(b: Tensor, x: Tensor) -> Tensor:
    """Sum of three decaying exponentials."""
    return b[0] * torch.exp(-b[1] * x) + b[2] * torch.exp(-b[3] * x) + b[4] * torch.exp(-b[5] * x)


@_model("Gauss1", "Gauss2", "Gauss3")
def gauss(b: Tensor, x: Tensor) -> Tensor:
    """Two Gaussian peaks on an exponential baseline."""
    first = b[2] * torch.exp(-(((x - b[3]) / b[4]) ** 2))
    second = b[5] * torch.exp(-(((x - b[6]) / b[7]) ** 2))
    return b[0] * torch.exp(-b[1] * x) + first + second


@_model("DanWood")
def danwood(b: Tensor, x: Tensor) -> Tensor:
    """Power law."""
    return b[0] * x ** b[1]


@_model("Kirby2")
def kirby2(b: Tensor, x: Tensor) -> Tensor:
    """Quadratic over quadratic."""
    return (b[0] + x * (b[1] + x * b[2])) / (1 + x * (b[3] + x * b[4]))


@_model("Hahn1", "Thurber")
def cubic_ratio(b: Tensor, x: Tensor) -> Tensor:
    """Cubic over cubic."""
    numerator = b[0] + x * (b[1] + x * (b[2] + x * b[3]))
    return numerator / (1 + x * (b[4] + x * (b[5] + x * b[6])))


@_model("Nelson", response=torch.log)
def nelson(b: Tensor, x: Tensor) -> Tensor:
    """Degradation over time and temperature, of the logarithm of the response."""
    return b[0] - b[1] * x[:, 0] * torch.exp(-b[2] * x[:, 1])


@_model("MGH09")
def mgh09(b: Tensor, x: Tensor) -> Tensor:
    """Enzyme reaction, a quadratic over a quadratic."""
    return b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3])


@_model("MGH10")
def mgh10(b: Tensor, x: Tensor) -> Tensor:
    """Resistance of a thermistor."""
    return b[0] * torch.exp(b[1] / (x + b[2]))


@_model("MGH17")
def mgh17(b: Tensor, x: Tensor) -> Tensor:
    """Two decaying exponentials and a constant."""
    return b[0] + b[1] * torch.exp(-x * b[3]) + b[2] * torch.exp(-x * b[4])


@_model("ENSO")
def enso(b: Tensor, x: Tensor) -> Tensor:
    """Annual cycle and two cycles of unknown period."""
    t = 2 * math.pi * x
    annual = b[1] * torch.cos(t / 12) + b[2] * torch.sin(t / 12)
    slow = b[4] * torch.cos(t / b[3]) + b[5] * torch.sin(t / b[3])
    fast = b[7] * torch.cos(t / b[6]) + b[8] * torch.sin(t / b[6])
    return b[0] + annual + slow + fast


@_model("Roszman1")
def roszman1(b: Tensor, x: Tensor) -> Tensor:
    """Line and arc tangent."""
    return b[0] - b[1] * x - torch.atan(b[2] / (x - b[3])) / math.pi


@_model("Bennett5")
def bennett5(b: Tensor, x: Tensor) -> Tensor:
    """Shifted power law."""
    return b[0] * (b[1] + x) ** (-1 / b[2])


@_model("Eckerle4")
def eckerle4(b: Tensor, x: Tensor) -> Tensor:
    """Gaussian peak."""
    return b[0] / b[1] * torch.exp(-0.5 * ((x - b[2]) / b[1]) ** 2)


@_model("Rat42")
def rat42(b: Tensor, x: Tensor) -> Tensor:
    """Logistic growth."""
    return b[0] / (1 + torch.exp(b[1] - b[2] * x))


@_model("Rat43")
def rat43(b: Tensor, x: Tensor) -> Tensor:
    """Generalised logistic growth."""
    return b[0] / (1 + torch.exp(b[1] - b[2] * x)) ** (1 / b[3])


def _find(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    if match is None:
        raise ValueError(f"not a NIST StRD nonlinear regression file: no match for {pattern!r}")
    return match.group(1).strip()


def load(path: Path) -> Problem:
    """Parses a data file of the NIST nonlinear regression archive.

    Args:
        path: The ``.dat`` file.

    Returns:
        The problem, its numbers in double precision.

    Raises:
        ValueError: If the file does not have the expected entries.
    """
    text = path.read_text(encoding="ascii")
    lines = text.splitlines()
    # The header says which lines (counted from 1) hold the observations.
    first = int(_find(r"^\s*Data\s+\(lines\s+(\d+)\s+to", text))
    last = int(_find(r"^\s*Data\s+\(lines\s+\d+\s+to\s+(\d+)", text))
    rows = [[float(word) for word in line.split()] for line in lines[first - 1 : last]]
    # "b1 = start1 start2 certified deviation"; the formula of the model has no such line.
    number = r"\s+([-+.\dEe]+)"
    entries = re.findall(rf"^\s*b\d+\s*={number * 4}\s*$", text, re.MULTILINE)
    if not entries or len(rows) != int(_find(r"Number of Observations:\s*(\d+)", text)):
        raise ValueError(f"{path}: parameters or observations are missing")
    data = torch.tensor(rows, dtype=torch.float64)
    columns = torch.tensor([[float(word) for word in e] for e in entries], dtype=torch.float64)
    start1, start2, parameters, deviations = columns.unbind(1)
    return Problem(
        name=_find(r"^Dataset Name:\s*(\S+)", text),
        difficulty=_find(r"^\s*(\w+) Level of Difficulty", text),
        model_class=_find(r"^Model:\s*(.*) Class", text),
        x=data[:, 1:].squeeze(1),
        y=data[:, 0],
        starts=(start1, start2),
        parameters=parameters,
        deviations=deviations,
        rss=float(_find(r"^Residual Sum of Squares:\s*(\S+)", text)),
        residual_deviation=float(_find(r"^Residual Standard Deviation:\s*(\S+)", text)),
        dof=int(_find(r"^Degrees of Freedom:\s*(\d+)", text)),
    )


def problems() -> tuple[Problem, ...]:
    """Returns all problems, in the order of their names."""
    return tuple(load(path) for path in sorted(DATA.glob("*.dat")))


class _Counted:
    """Residuals and Jacobian of a problem, counting their evaluations."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.evaluations = 0
        self.jacobians = 0

    def residuals(self, b: Tensor) -> Tensor:
        """Returns the residuals, with overflow turned into huge but finite numbers."""
        self.evaluations += 1
        with torch.no_grad():
            r = self.problem.residuals(b)
        # MINPACK takes a huge residual for a failed step and shortens it; NaN would mislead it.
        return torch.nan_to_num(r, HUGE, HUGE, -HUGE).clamp(-HUGE, HUGE)

    def jacobian(self, b: Tensor) -> Tensor:
        """Returns the Jacobian [n, p]; where an intermediate overflowed the model is flat."""
        self.jacobians += 1
        return torch.nan_to_num(torchjac.jacobian(self.problem.residuals, b), 0.0, 0.0, 0.0)


def _scaled_qr(jacobian: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns Q, R and the column norms, where Q R is the Jacobian with columns of norm one."""
    norms = jacobian.norm(dim=0)
    q, r = torch.linalg.qr(jacobian / norms)
    return q, r, norms


def _polish(counted: _Counted, b: Tensor, max_steps: int = 50) -> Tensor:
    """Takes Gauss-Newton steps as long as they shrink.

    Levenberg-Marquardt stops when the sum of squares stands still, which is at half of the digits
    because the sum is flat at its minimum.  The projection of the residuals on the columns of the
    Jacobian crosses zero there and leads to the other half.  The first projection must already be
    small against the residuals (the relative offset criterion of Bates and Watts).
    """
    offset = 1e-3 * counted.residuals(b).norm()
    for _ in range(max_steps):
        q, r, norms = _scaled_qr(counted.jacobian(b))
        projection = q.T @ counted.residuals(b)
        if not projection.norm() < offset:  # also ends on NaN
            break
        offset = projection.norm()
        b = b - torch.linalg.solve_triangular(r, projection[:, None], upper=True)[:, 0] / norms
    return b


def fit(problem: Problem, start: int) -> Fit:
    """Fits the model from one of the two starts.

    Args:
        problem: The problem; its certified values are not used.
        start: 1 or 2.

    Returns:
        The estimates, their standard deviations and the number of evaluations.
    """
    counted = _Counted(problem)

    def residuals(b: np.ndarray) -> np.ndarray:
        return counted.residuals(torch.tensor(b)).numpy()

    def jacobian(b: np.ndarray) -> np.ndarray:
        return counted.jacobian(torch.tensor(b)).numpy()

    b0 = problem.starts[start - 1].numpy()
    tight = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "max_nfev": 5000}
    found = least_squares(residuals, b0, jacobian, method="lm", x_scale="jac", **tight)
    b = _polish(counted, torch.tensor(found.x))
    rss = counted.residuals(b).square().sum().item()
    # With J = Q R diag(norms), the root of diag((J^T J)^-1) is the row norms of R^-1 over norms;
    # forming J^T J would square the condition number.
    _, r, norms = _scaled_qr(counted.jacobian(b))
    inverse = torch.linalg.solve_triangular(r, torch.eye(len(b), dtype=b.dtype), upper=True)
    deviations = inverse.norm(dim=1) / norms * math.sqrt(rss / (len(problem.y) - len(b)))
    return Fit(b, deviations, rss, counted.evaluations, counted.jacobians)


def log_relative_error(estimate: Tensor | float, certified: Tensor | float) -> float:
    """Returns the least number of correct digits, between 0 and 11; 0 for NaN."""
    exact = torch.as_tensor(certified, dtype=torch.float64)
    error = torch.as_tensor(estimate, dtype=torch.float64) - exact
    worst = (error.abs() / exact.abs()).max().item()
    if not worst < 1:
        return 0.0
    return MAX_LRE if worst == 0 else min(MAX_LRE, -math.log10(worst))


def score(problem: Problem, result: Fit) -> Score:
    """Compares a fit with the certified values."""
    return Score(
        parameters=log_relative_error(result.parameters, problem.parameters),
        deviations=log_relative_error(result.deviations, problem.deviations),
        rss=log_relative_error(result.rss, problem.rss),
    )


def passes(problem: Problem, digits: Score) -> bool:
    """Says whether a fit has the required digits, or all that double precision allows."""
    return digits.parameters >= MIN_LRE and digits.deviations >= min(
        MIN_LRE, problem.attainable_lre()
    )


def _table_row(problem: Problem, fits: list[Fit], scores: list[Score]) -> str:
    row = f"{problem.name:<9} {problem.difficulty:<8} {len(problem.parameters):>2} "
    row += f"{len(problem.y):>4}"
    for result, digits in zip(fits, scores, strict=True):
        mark = " " if min(digits.parameters, digits.deviations) >= MIN_LRE else "*"
        mark = mark if passes(problem, digits) else "!"
        row += f" | {digits.parameters:5.1f} {digits.deviations:5.1f}{mark}{digits.rss:5.1f}"
        row += f" {result.evaluations:>5} {result.jacobians:>5}"
    return row


def main() -> int:
    """Fits every problem from both starts, prints the table and returns the exit code."""
    begin = time.perf_counter()
    print("LRE = correct digits (at most 11) of parameters, their standard deviations (sd) and the")
    print("residual sum of squares (rss); f, J = evaluations of residuals and Jacobian\n")
    print(f"{'':26} | {'start 1':<29} | start 2")
    print(f"{'problem':<9} {'level':<8} {'p':>2} {'n':>4}" + " |  par.    sd   rss     f     J" * 2)
    print("-" * 26 + ("-+-" + "-" * 29) * 2)
    scored: list[tuple[Problem, Score]] = []
    for problem in problems():
        fits = [fit(problem, start) for start in (1, 2)]
        scores = [score(problem, result) for result in fits]
        scored += [(problem, digits) for digits in scores]
        print(_table_row(problem, fits, scores), flush=True)
    print("\n* all that rounding the data to double precision can promise; ! failed")
    failed = sum(not passes(problem, digits) for problem, digits in scored)
    worst = []
    for key in ("parameters", "deviations", "rss"):
        lre, name = min((getattr(digits, key), problem.name) for problem, digits in scored)
        worst.append(f"{key} {lre:.1f} ({name})")
    elapsed = time.perf_counter() - begin
    print(f"{failed} of {len(scored)} fits failed; worst LRE: {', '.join(worst)}; {elapsed:.1f} s")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())

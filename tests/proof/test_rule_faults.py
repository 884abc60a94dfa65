"""A fault planted in one rule at a time: no plan may give wrong numbers for it.

Each rule is read by a small function. Its terms are spoilt in every way that applies, and a plan is
made: it must raise, or give the right numbers all the same, where it was made and elsewhere. What
shows only where a certain element is the largest, say, must be found there by `check=True`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import torchjac
from tests._evaluate.direct.emitted import backward, dense_jacobian
from tests.corpus.test_op_db import EXTRA_SAMPLES, OPS, Case, case_of, samples_of
from tests.corpus.test_op_db_patterns import other_point
from tests.proof.faults import FAULTS, applicable, faulty
from tests.proof.linear_operations import SAMPLES, numbers, squares_through
from tests.proof.rule_origins import ORIGINS
from torchjac._inputs.signature import Signature
from torchjac._linearize.linearize import linearize
from torchjac._linearize.program import LinearProgram
from torchjac._local.registry import _RULES, Rule, Terms, known_ops
from torchjac.errors import PatternError

pytestmark = pytest.mark.filterwarnings("ignore")

RTOL = 1e-6
RULES = {str(op): op for op in known_ops()}
# PyTorch decomposes these, or the program is simplified, before any rule is asked.
NEVER_SEEN = {
    "aten.alias",
    "aten.avg_pool1d",
    "aten.chunk",
    "aten.coalesce",
    "aten.contiguous",
    "aten.detach",
    "aten.diag",
    "aten.ger",
    "aten.imag",
    "aten.infinitely_differentiable_gelu_backward",
    "aten.lu_solve",
    "aten.outer",
    "aten.real",
    "aten.reshape",
    "aten.resolve_conj",
    "aten.resolve_neg",
    "aten.tensor_split",
    "aten.to",
    "aten.unsafe_chunk",
}
ELSEWHERE = {  # kernels of other devices
    "aten._scaled_dot_product_cudnn_attention_backward",
    "aten._scaled_dot_product_efficient_attention_backward",
    "aten._scaled_dot_product_flash_attention_backward",
    "aten._scaled_dot_product_fused_attention_overrideable_backward",
    "aten.cudnn_batch_norm_backward",
    "aten.miopen_batch_norm_backward",
}
NAMES = [*ORIGINS, *SAMPLES]
QUICK = [
    "aten._softmax_backward_data",
    "aten.addmv",
    "aten.cat",
    "aten.constant_pad_nd",
    "aten.convolution",
    "aten.convolution_backward",
    "aten.cumsum",
    "aten.index_add",
    "aten.linalg_solve_triangular",
    "aten.max_pool2d_with_indices_backward",
    "aten.mm",
    "aten.roll",
    "aten.scatter_add",
    "aten.slice_backward",
    "aten.sum",
    "aten.upsample_linear1d",
    "pointwise",
]


class Problem(NamedTuple):
    """A function, and points with its dense Jacobian there; the plan is made at the first."""

    function: Callable[..., Any]
    points: Sequence[tuple[tuple[Tensor, ...], Tensor]]
    direction: str

    def plan(self) -> torchjac.Plan:
        return torchjac.plan(self.function, self.points[0][0], backend="replay", flat=True)

    def is_right(self, plan: torchjac.Plan) -> bool:
        """Whether the plan gives the right numbers, or says that it does not."""
        return all(self._is_right_at(plan, *point) for point in self.points)

    def _is_right_at(
        self, plan: torchjac.Plan, inputs: tuple[Tensor, ...], expected: Tensor
    ) -> bool:
        scale = float(expected.abs().nan_to_num(0, 0, 0).max()) if expected.numel() else 0.0
        close = {"rtol": RTOL, "atol": RTOL * max(scale, 1.0), "equal_nan": True}
        if torch.allclose(plan(inputs).to_dense(), expected, **close):
            return True
        try:
            checked = plan(inputs, check=True)
        except PatternError:
            return True
        return torch.allclose(checked.to_dense(), expected, **close)


def problem_of(name: str) -> Problem:
    if name in SAMPLES:
        sample = SAMPLES[name]
        function = squares_through(sample.apply)
        inputs = [(numbers(*sample.shape, seed=seed),) for seed in (1, 2)]
        points = [(x, dense_jacobian(function, x)) for x in inputs]
        return Problem(function, points, "jvp")
    origin = ORIGINS[name]
    op = OPS[origin.name]
    samples = [*EXTRA_SAMPLES.get(origin.name, list)(), *samples_of(op)]
    case = case_of(op, samples[origin.sample])
    assert case is not None
    inputs = [case.inputs, other_point(case, 4), other_point(case, 2)]
    return Problem(case.function, list(with_jacobians(case, inputs)), origin.direction)


def with_jacobians(
    case: Case, inputs: Iterable[tuple[Tensor, ...]]
) -> Iterable[tuple[tuple[Tensor, ...], Tensor]]:
    """Those points at which the function has a derivative."""
    for x in inputs:
        try:
            found = dense_jacobian(case.function, x)
        except (RuntimeError, ValueError, IndexError):  # outside of its domain
            continue
        if x is case.inputs or not bool(found.isnan().any()):
            yield x, found


@pytest.fixture
def read_program(monkeypatch):
    """Say which of the two programs of a function is read."""

    def choose(direction: str) -> None:
        def linearized(
            signature: Signature, *, live: bool
        ) -> tuple[LinearProgram, tuple[Tensor, ...]]:
            program, outputs = linearize(signature, live=live)
            if direction == "vjp" and program.direction == "jvp":
                program = backward(signature)
            return program, outputs

        monkeypatch.setattr("torchjac._pattern.detect.linearize", linearized)

    return choose


def listening(rule: Rule, said: list[Terms]) -> Rule:
    """The rule, and what it said."""

    def asked(call: Any) -> Any:
        terms = rule(call)
        if terms is not NotImplemented:
            said.extend(terms.values() if isinstance(terms, Mapping) else [terms])
        return terms

    return asked


def assert_no_fault_passes(name: str, monkeypatch: pytest.MonkeyPatch, problem: Problem) -> None:
    op, said = RULES[name], list[Terms]()
    right = _RULES[op]
    monkeypatch.setitem(_RULES, op, listening(right, said))
    assert problem.is_right(problem.plan())
    faults = list(applicable(said))
    assert faults, f"the rule of {name} was not asked"
    caught = []
    for fault in faults:
        monkeypatch.setitem(_RULES, op, faulty(right, FAULTS[fault]))
        try:
            plan = problem.plan()
        except Exception:
            caught.append(fault)
            continue
        assert problem.is_right(plan), f"{name}: {fault}"
    assert caught, f"{name}: none of {faults} made a difference"


@pytest.mark.parametrize("name", QUICK)
def test_faults_in_some_rules(name, monkeypatch, read_program) -> None:
    problem = problem_of(name)
    read_program(problem.direction)
    assert_no_fault_passes(name, monkeypatch, problem)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_faults_in_every_rule(name, monkeypatch, read_program) -> None:
    problem = problem_of(name)
    read_program(problem.direction)
    assert_no_fault_passes(name, monkeypatch, problem)


def test_nine_of_ten_rules_are_put_to_the_test() -> None:
    possible = set(RULES) - NEVER_SEEN - ELSEWHERE
    assert set(NAMES) <= possible
    assert len(NAMES) >= 0.9 * len(possible)


def test_the_table_of_what_no_rule_is_asked_for_is_true() -> None:
    assert set(RULES) >= NEVER_SEEN | ELSEWHERE
    assert set(QUICK) <= set(NAMES)

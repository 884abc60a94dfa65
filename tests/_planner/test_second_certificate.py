"""Certificates of Laplacians: planted faults are found, and rounding is none."""

from unittest import mock

import pytest
import torch

import torchjac
from torchjac._evaluate.direct import byproducts, collapsed
from torchjac._evaluate.direct.bilinear import second_order
from torchjac._inputs.signature import bind
from torchjac._linearize.linearize import linearize
from torchjac._planner import laplacian as planner
from torchjac._planner import second_certificate
from torchjac._planner.second_certificate import fault_of
from torchjac.errors import FallbackWarning

X = torch.linspace(-1, 1, 6, dtype=torch.float64)


def chained(x):
    return (x[1:] * x[:-1]).sin().sum() + (x**3).sum()


def verdict(func, x, seeds, run=None):
    signature = bind("plan_laplacian", func, x)
    program, (like,) = linearize(signature)
    second = second_order(signature, program)

    def sums(point):
        with torch.no_grad():
            return collapsed.collapsed(second, point, seeds, like)

    eps = torch.finfo(x.dtype).eps
    return fault_of(second, run or sums, seeds, signature, like, eps)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_right_one_has_no_fault(dtype):
    seeds = torch.eye(6, dtype=dtype)
    assert verdict(chained, X.to(dtype), seeds) == ""


def test_coordinates_that_mix_but_share_a_seed():
    assert verdict(chained, X, torch.ones(1, 6).double()) == "coordinates that share a seed mix"


def test_a_single_pair_that_mixes_where_x_is_zero():
    def func(x):
        return (x[0] * x[1]) ** 2 + x[2:].pow(3).sum()

    x = torch.tensor([0.0, 0.0, 1.0, 2.0]).double()
    assert verdict(func, x, torch.ones(1, 4).double()) == "coordinates that share a seed mix"


def test_a_program_that_gives_another_sum():
    fault = verdict(chained, X, torch.eye(6).double(), run=lambda x: chained(x) * 2)
    assert fault == "coordinates that share a seed mix"


def test_a_program_that_is_right_at_x_alone():
    true = torchjac.laplacian(chained, X)
    fault = verdict(chained, X, torch.eye(6).double(), run=lambda _: true)
    assert fault == "coordinates that share a seed mix"


def test_what_is_hidden_from_double_backward():
    fault = verdict(lambda x: (x.detach() * x**3).sum(), X, torch.eye(6).double())
    assert fault == "its second derivatives are not those of double backward"


def test_nothing_finite_certifies_nothing():
    nothing = torch.tensor(torch.nan).double(), torch.tensor(torch.nan).double()
    with mock.patch.object(second_certificate, "_by_double_backward", return_value=nothing):
        fault = verdict(chained, X, torch.eye(6).double())
    assert fault.startswith("its second derivatives are not finite")


def test_means_that_do_not_move_are_noticed():
    norm = torch.nn.LayerNorm(6).double()
    with (
        mock.patch.dict(byproducts._RULES, clear=True),
        pytest.warns(FallbackWarning, match="not those of double backward"),
    ):
        plan = torchjac.plan_laplacian(norm, X)
    torch.testing.assert_close(plan(X), torchjac.laplacian(norm, X))


def test_sums_that_are_taken_too_early_are_noticed():
    # Where second derivatives meet first ones, each seed needs its own.
    with (
        mock.patch.object(collapsed, "_kept_apart", return_value=frozenset()),
        pytest.warns(FallbackWarning, match="there is no program"),
    ):
        plan = torchjac.plan_laplacian(lambda x: x.cumprod(0), X)
    torch.testing.assert_close(plan(X), torchjac.laplacian(lambda x: x.cumprod(0), X))


def test_a_factor_that_is_wrong_is_noticed():
    with mock.patch.object(collapsed, "_close", return_value=True):
        # A conjugate is no multiplication.
        fault = verdict(lambda x: torch.fft.rfft(x**3).abs(), X[:3], torch.eye(3).double())
    assert fault == "its second derivatives are not those of double backward"


def test_a_step_that_fails_is_told():
    with (
        mock.patch.object(planner, "second_order", side_effect=KeyError("width")),
        pytest.warns(FallbackWarning, match="of this function: KeyError: 'width'"),
    ):
        plan = torchjac.plan_laplacian(torch.sin, X)
    torch.testing.assert_close(plan(X), -X.sin())


def test_without_a_pattern_there_is_a_seed_for_each_axis():
    with mock.patch.object(planner, "gradient_signature", side_effect=RuntimeError("no gradient")):
        plan = torchjac.plan_laplacian(torch.sin, X)
    assert plan.seeds == 6
    assert plan.pattern is None
    assert "no pattern was found" in str(plan)
    torch.testing.assert_close(plan(X), -X.sin())


def test_memory_that_ran_out_is_no_reason_for_passes():
    with (
        mock.patch.object(planner, "second_order", side_effect=MemoryError),
        pytest.raises(MemoryError),
    ):
        torchjac.plan_laplacian(torch.sin, X)

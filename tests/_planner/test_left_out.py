"""A step that makes a Jacobian faster and fails is left out, and that is said; the answer stays."""

import re

import pytest
import torch

import torchjac
from torchjac._evaluate.direct import emit, runner, written
from torchjac._planner import programs
from torchjac.errors import FallbackWarning

X = torch.linspace(0.1, 1.0, 12, dtype=torch.float64)
REPORT = r"The answer is the same, the time may not be\. Please report it\."
# The functions behind the steps that a program goes through, and what people are told.
STEPS = {
    "shortened": "what changes nothing",
    "without_repetitions": "what changes nothing",
    "without_repeated_factors": "repeated factors",
    "reassociated": "the order of products",
    "unrolled": "narrow axes",
    "with_numbers": "numbers for constants",
    "light": "light constants",
}


def chain(x):
    return x[1:] ** 2 * x[:-1]


def expected(x):
    return (
        torch.diag(2 * x[1:] * x[:-1], 1)[:-1]
        + torch.eye(11, 12, dtype=x.dtype) * ((x[1:] ** 2)[:, None])
    )


def failing(error):
    def step(*args, **kwargs):
        raise error

    return step


def planned(match, **options):
    """A plan, and a warning among those that it gave."""
    with pytest.warns(FallbackWarning) as caught:
        plan = torchjac.plan(chain, X, **options)
    assert any(re.search(match, str(w.message)) for w in caught)
    return plan


def says(plan, *texts):
    shown = str(plan)
    return all(text in shown for text in texts)


@pytest.mark.parametrize("step", STEPS)
def test_a_program_does_without_a_step_that_fails(monkeypatch, step):
    monkeypatch.setattr(written, step, failing(KeyError("width")))
    told = rf"^plan: .* left out: {STEPS[step]} \(KeyError: 'width'\).*\. {REPORT}"
    plan = planned(told, backend="replay")
    assert plan.method == "direct, replay"
    assert says(plan, f"left out      {STEPS[step]} (KeyError: 'width'), which failed")
    assert torch.equal(plan(X + 1).to_dense(), expected(X + 1))


def test_steps_that_fail_with_an_error_of_pytorch_are_left_out_too(monkeypatch):
    monkeypatch.setattr(written, "reassociated", failing(RuntimeError("shape '[2]' is invalid\n.")))
    plan = planned("the order of products", backend="replay")
    assert says(plan, "left out      the order of products (RuntimeError: shape '[2]' is invalid)")


def test_all_that_was_left_out_is_told(monkeypatch):
    monkeypatch.setattr(written, "reassociated", failing(KeyError(1)))
    monkeypatch.setattr(written, "unrolled", failing(IndexError("two")))
    plan = planned("the order of products .*; narrow axes", backend="replay")
    assert says(plan, "the order of products (KeyError: 1)", "narrow axes (IndexError: two)")


def test_it_is_told_once(monkeypatch, recwarn):
    monkeypatch.setattr(written, "unrolled", failing(KeyError(1)))
    plan = planned("narrow axes", backend="replay")
    plan(X)
    plan(X, create_graph=True)
    assert not recwarn


def test_the_text_of_the_candidates_names_it(monkeypatch):
    monkeypatch.setattr(written, "unrolled", failing(KeyError(1)))
    plan = planned("narrow axes", backend="replay")
    assert plan.candidates[0].note == "without narrow axes (KeyError: 1)"


@pytest.mark.parametrize("error", [MemoryError("no room"), UserWarning("an error for who asked")])
def test_other_errors_are_not_hidden(monkeypatch, error):
    monkeypatch.setattr(written, "reassociated", failing(error))
    with pytest.raises(type(error), match=str(error)):
        torchjac.plan(chain, X, backend="replay")


def test_nobody_is_kept_from_stopping(monkeypatch):
    monkeypatch.setattr(written, "reassociated", failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        torchjac.plan(chain, X, backend="replay")


def test_errors_of_the_function_are_its_own():
    def wrong(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        torchjac.plan(wrong, X)


def test_passes_take_the_place_of_a_program_that_cannot_be_emitted(monkeypatch):
    monkeypatch.setattr(emit, "assemble", failing(AssertionError("places")))
    plan = planned(r"left out: direct, emission \(AssertionError: places\)")
    assert says(plan, "emission failed: AssertionError: places")
    assert torch.equal(plan(X + 1).to_dense(), expected(X + 1))


def test_so_they_do_if_the_program_was_asked_for(monkeypatch):
    monkeypatch.setattr(emit, "assemble", failing(TypeError("places")))
    told = r"left out: direct, emission \(TypeError: places\)"
    plan = planned(told, backend="replay")
    assert torch.equal(plan(X + 1).to_dense(), expected(X + 1))


def test_passes_take_the_place_of_a_program_that_cannot_run(monkeypatch):
    monkeypatch.setattr(runner, "replayed", lambda *_: failing(IndexError("dim")))
    plan = planned(r"left out: direct, replay, its first run \(IndexError: dim\)")
    assert says(plan, "its first run failed: IndexError: dim")
    assert torch.equal(plan(X + 1).to_dense(), expected(X + 1))


def test_direct_evaluation_takes_the_place_of_a_chain(monkeypatch):
    monkeypatch.setattr(programs, "choose_bracket", failing(KeyError("cut")))
    plan = planned(r"left out: chain, the search for waists \(KeyError: 'cut'\)", backend="replay")
    assert plan.method == "direct, replay"
    assert says(plan, "the search for waists failed: KeyError: 'cut'")
    assert torch.equal(plan(X + 1).to_dense(), expected(X + 1))


def test_a_part_of_a_chain_that_fails_leaves_the_other_way(monkeypatch):
    emitted = programs.emit_bracket

    def without_chains(bracket, *rest):
        if not bracket.is_plain:
            raise KeyError("cut")
        return emitted(bracket, *rest)

    x = torch.linspace(0.001, 0.01, 60, dtype=torch.float64)
    monkeypatch.setattr(programs, "emit_bracket", without_chains)
    with pytest.warns(FallbackWarning, match=r"emission \(KeyError: 'cut'\)"):
        plan = torchjac.plan(narrow, x, backend="replay")
    assert plan.method == "direct, replay"
    assert says(plan, "emission failed: KeyError: 'cut'")
    assert torch.allclose(plan(x).to_dense(), torchjac.jacobian(narrow, x))


def narrow(x):
    """Sixty numbers through two."""
    weights = torch.linspace(-1.0, 1.0, 120, dtype=x.dtype).reshape(2, 60)
    return ((weights @ x).tanh() @ weights.cos()).sin()


def test_a_mistake_of_the_compilation_is_told(monkeypatch):
    monkeypatch.setattr(runner, "compiled", lambda *_: runner.strides_of(None))
    plan = planned(r"left out: direct, inductor, compilation \(TypeError", tune=True)
    assert says(plan, "compilation failed: TypeError")
    assert plan.method != "direct, inductor"


def test_results_are_refilled_whole_where_a_part_cannot_be_written(monkeypatch):
    plan = torchjac.plan(lambda x: x**2 + 3 * x.flip(0), X, backend="replay")
    out = plan(X)
    monkeypatch.setattr(runner, "storing", failing(KeyError("targets")))
    told = r"a program that writes only what depends on x \(KeyError: 'targets'\)"
    with pytest.warns(FallbackWarning, match=told):
        plan(X + 1, out=out)
    plan(X + 2, out=out)
    assert torch.equal(out.to_dense(), torch.diag(2 * (X + 2)) + 3 * torch.eye(12).flip(0))

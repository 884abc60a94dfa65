"""Tests of the tests: every checker must fail on a fault that was planted for it to find."""

import warnings

import pytest
import torch

import torchjac
from torchjac import functional
from torchjac._api import check as check_module
from torchjac._evaluate import blocks, differences, forward, reverse, seeds
from torchjac._evaluate.seeds import BatchDims
from torchjac._evaluate.tape import record
from torchjac._evaluate.witness import testify as take_witness
from torchjac._inputs.signature import bind
from torchjac.errors import DisagreementWarning, FallbackWarning

X = torch.tensor([0.3, 0.7, 1.1], dtype=torch.float64)


def field(x):
    return torch.stack([x[0] * x[1], x[1].sin() * x[2], x[0].exp(), x.prod()])


def two_fields(x, y):
    """Outputs of one shape, inputs of one shape: what is easiest to swap."""
    return x.sin() * y, (x * y).cos() + y**2


def agrees_with_differences(jacobian, func, inputs):
    """What every test against differences asks: is this the Jacobian, as far as they reach?"""
    expected = torchjac.finite_difference(func, inputs)
    pairs = [(jacobian, expected)]
    if isinstance(inputs, tuple):
        pairs = [
            pair
            for ours, theirs in zip(jacobian, expected, strict=True)
            for pair in zip(ours, theirs, strict=True)
        ]
    return all(torch.allclose(ours, theirs, rtol=1e-6, atol=1e-7) for ours, theirs in pairs)


# -- Faults in the seeds -----------------------------------------------------------------------


def shifted_basis(like, start, stop, dim=None):
    """The right seeds, each in the place of its neighbour."""
    return seeds.basis(like, start, stop, dim).roll(1, 0)


def scaled_basis(like, start, stop, dim=None):
    return 1.001 * seeds.basis(like, start, stop, dim)


def incomplete_basis(like, start, stop, dim=None):
    """The first seed is missing."""
    made = seeds.basis(like, start, stop, dim).clone()
    made[0] = 0
    return made


FAULTY_SEEDS = {"shifted": shifted_basis, "scaled": scaled_basis, "incomplete": incomplete_basis}
every_fault = pytest.mark.parametrize("fault", FAULTY_SEEDS.values(), ids=FAULTY_SEEDS)


def test_without_a_fault_differences_agree():
    for strategy in ("reverse-mode", "forward-mode"):
        result = torchjac.jacobian(field, X, strategy=strategy)
        assert agrees_with_differences(result, field, X)


@every_fault
def test_differences_find_faulty_rows(monkeypatch, fault):
    monkeypatch.setattr("torchjac._evaluate.reverse.basis", fault)

    result = torchjac.jacobian(field, X, strategy="reverse-mode")

    assert not agrees_with_differences(result, field, X)


@every_fault
def test_differences_find_faulty_columns_where_nothing_else_looks(monkeypatch, fault):
    # The drop-in has no second opinion: it gives what was asked for.
    monkeypatch.setattr("torchjac._evaluate.forward.basis", fault)
    monkeypatch.setattr("torchjac._evaluate.outright.FEW_SEEDS", 0)

    result = functional.jacobian(field, X, strategy="forward-mode", vectorize=True)

    assert not agrees_with_differences(result, field, X)


@every_fault
def test_the_witness_finds_faulty_columns_that_were_asked_for(monkeypatch, fault):
    monkeypatch.setattr("torchjac._evaluate.forward.basis", fault)

    with pytest.warns(DisagreementWarning, match="forward and reverse mode disagree"):
        result = torchjac.jacobian(field, X, strategy="forward-mode")

    assert agrees_with_differences(result, field, X)


class Own(torch.autograd.Function):
    """The identity with derivative rules of its own, which somebody has to vouch for."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent

    @staticmethod
    def jvp(ctx, tangent):
        return tangent.clone()


def tall(x):
    return Own.apply((torch.outer(torch.arange(20, dtype=x.dtype), x) + x.prod()).sin().flatten())


def test_tall_functions_go_by_columns_without_a_warning():
    with torchjac.record() as runs:
        result = torchjac.jacobian(tall, X)

    assert runs[-1].mode == "forward-mode"
    assert agrees_with_differences(result, tall, X)


@every_fault
def test_the_witness_finds_faulty_columns_and_rows_replace_them(monkeypatch, fault):
    monkeypatch.setattr("torchjac._evaluate.forward.basis", fault)

    with pytest.warns(DisagreementWarning, match="forward and reverse mode disagree"):
        result = torchjac.jacobian(tall, X)

    assert agrees_with_differences(result, tall, X)


class NoForward(torch.autograd.Function):
    """The identity without a forward rule, so that columns come by a second backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, cotangent):
        return cotangent


def tall_without_forward(x):
    return NoForward.apply(tall(x))


@pytest.mark.filterwarnings("ignore::torchjac.errors.FallbackWarning")
def test_columns_without_a_forward_rule_come_by_double_backward():
    with torchjac.record() as runs:
        result = torchjac.jacobian(tall_without_forward, X)

    assert [run.mode for run in runs] == ["double-backward"]
    assert agrees_with_differences(result, tall_without_forward, X)


@every_fault
def test_the_witness_finds_faulty_columns_by_double_backward(monkeypatch, fault):
    monkeypatch.setattr("torchjac._evaluate.double_backward.basis", fault)

    refusal = "double-backward/vmap: the derivative of the backward pass is not the Jacobian"
    with pytest.warns(FallbackWarning, match=refusal):
        result = torchjac.jacobian(tall_without_forward, X)

    assert agrees_with_differences(result, tall_without_forward, X)


def sample_by_sample_agrees(result, func, samples):
    """`agrees_with_differences` for every sample of one input and one output."""
    return all(
        agrees_with_differences(block, lambda x: func(x[None])[0], sample)
        for sample, block in zip(samples, result, strict=True)
    )


def the_witness_agrees(result, func, samples):
    """What `batch_jacobian` asks before it hands anything out; on no fault in the tape itself."""
    tape = record(bind("batch_jacobian", func, samples), create_graph=False)
    made = [[result]] if isinstance(result, torch.Tensor) else result
    return take_witness(tape).agrees(made, BatchDims(0, 0))


def weighed_sines(x):
    return x.sin() * x.sum(1, keepdim=True)


SAMPLES = torch.stack([X, 2 * X])


@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
def test_the_witness_of_samples_confirms_what_has_no_fault(strategy):
    result = torchjac.batch_jacobian(weighed_sines, SAMPLES, strategy=strategy)

    assert the_witness_agrees(result, weighed_sines, SAMPLES)
    assert sample_by_sample_agrees(result, weighed_sines, SAMPLES)


@every_fault
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_the_witness_of_samples_finds_faulty_rows(monkeypatch, fault, chunk_size):
    monkeypatch.setattr("torchjac._evaluate.reverse.basis", fault)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = torchjac.batch_jacobian(
            weighed_sines, SAMPLES, strategy="reverse-mode", chunk_size=chunk_size
        )

    # Found out and mended by single passes, or left as it is for the witness to contradict.
    mended = [w.category for w in caught] == [DisagreementWarning]
    assert the_witness_agrees(result, weighed_sines, SAMPLES) == mended
    assert sample_by_sample_agrees(result, weighed_sines, SAMPLES) == mended


@every_fault
def test_the_witness_of_samples_finds_faulty_columns_and_rows_replace_them(monkeypatch, fault):
    monkeypatch.setattr("torchjac._evaluate.forward.basis", fault)

    with pytest.warns(DisagreementWarning, match="forward and reverse mode disagree"):
        result = torchjac.batch_jacobian(weighed_sines, SAMPLES, strategy="forward-mode")

    assert sample_by_sample_agrees(result, weighed_sines, SAMPLES)


# -- Faults in where blocks go -----------------------------------------------------------------


def test_two_fields_agree_without_a_fault():
    x, y = X, X.flip(0)

    assert agrees_with_differences(torchjac.jacobian(two_fields, (x, y)), two_fields, (x, y))


@pytest.mark.parametrize("axis", ["outputs", "inputs"])
def test_differences_find_swapped_blocks(monkeypatch, axis):
    swap_blocks(monkeypatch, "torchjac._evaluate.work.reverse", axis)
    x, y = X, X.flip(0)

    result = torchjac.jacobian(two_fields, (x, y), strategy="reverse-mode", chunk_size=2)

    assert not agrees_with_differences(result, two_fields, (x, y))


@pytest.mark.parametrize("axis", ["outputs", "inputs"])
def test_the_witness_finds_swapped_blocks_that_were_asked_for(monkeypatch, axis):
    swap_blocks(monkeypatch, "torchjac._evaluate.work.forward", axis)
    x, y = X, X.flip(0)

    with pytest.warns(DisagreementWarning, match="forward and reverse mode disagree"):
        result = torchjac.jacobian(two_fields, (x, y), strategy="forward-mode", chunk_size=2)

    assert agrees_with_differences(result, two_fields, (x, y))


def swap_blocks(monkeypatch, target, axis):
    original = {"reverse": reverse.reverse, "forward": forward.forward}[target.rsplit(".", 1)[1]]

    def swapped(*args, **kwargs):
        made = original(*args, **kwargs)
        return made[::-1] if axis == "outputs" else [row[::-1] for row in made]

    monkeypatch.setattr(target, swapped)


def two_tall_fields(x, y):
    return tall(x) * y.sum(), tall(y) + x.sum()


@pytest.mark.parametrize("axis", ["outputs", "inputs"])
def test_the_witness_finds_swapped_blocks(monkeypatch, axis):
    swap_blocks(monkeypatch, "torchjac._evaluate.work.forward", axis)
    x, y = X, X.flip(0)

    with pytest.warns(DisagreementWarning, match="forward and reverse mode disagree"):
        result = torchjac.jacobian(two_tall_fields, (x, y))

    assert agrees_with_differences(result, two_tall_fields, (x, y))


@pytest.mark.parametrize("axis", ["outputs", "inputs"])
def test_the_witness_of_samples_finds_swapped_blocks(monkeypatch, axis):
    x, y = SAMPLES, torch.stack([X.flip(0), X])
    right = torchjac.batch_jacobian(two_fields, (x, y), strategy="reverse-mode", chunk_size=2)
    swap_blocks(monkeypatch, "torchjac._evaluate.work.reverse", axis)

    wrong = torchjac.batch_jacobian(two_fields, (x, y), strategy="reverse-mode", chunk_size=2)

    assert the_witness_agrees(right, two_fields, (x, y))
    assert not the_witness_agrees(wrong, two_fields, (x, y))


def test_the_witness_finds_a_block_that_was_lost(monkeypatch):
    original = forward.forward

    def losing(*args, **kwargs):
        return [[None, row[1]] for row in original(*args, **kwargs)]

    monkeypatch.setattr("torchjac._evaluate.work.forward", losing)
    x, y = X, X.flip(0)

    with pytest.warns(DisagreementWarning, match="forward and reverse mode disagree"):
        result = torchjac.jacobian(two_tall_fields, (x, y))

    assert agrees_with_differences(result, two_tall_fields, (x, y))


def test_the_witness_finds_one_wrong_entry(monkeypatch):
    original = forward.forward

    def one_wrong(*args, **kwargs):
        wrong = original(*args, **kwargs)[0][0].clone()
        wrong[13, 2] += 1e-6
        return [[wrong]]

    monkeypatch.setattr("torchjac._evaluate.work.forward", one_wrong)

    with pytest.warns(DisagreementWarning, match="forward and reverse mode disagree"):
        result = torchjac.jacobian(tall, X)

    assert agrees_with_differences(result, tall, X)


def transpose_blocks(monkeypatch, module, name):
    original = getattr(blocks, name)

    def transposed(part, output, x, batch=None):
        block = original(part, output, x, batch)
        return None if block is None else block.mT

    monkeypatch.setattr(f"torchjac._evaluate.{module}.{name}", transposed)


def samplewise(x):
    return x.sin() * x.cumsum(1)


def test_the_witness_of_samples_finds_transposed_rows(monkeypatch):
    transpose_blocks(monkeypatch, "reverse", "rows_to_block")

    result = torchjac.batch_jacobian(samplewise, SAMPLES, strategy="reverse-mode", chunk_size=2)

    assert not the_witness_agrees(result, samplewise, SAMPLES)
    assert not sample_by_sample_agrees(result, samplewise, SAMPLES)


def test_the_witness_of_samples_finds_transposed_columns_and_rows_replace_them(monkeypatch):
    transpose_blocks(monkeypatch, "forward", "columns_to_block")

    with pytest.warns(DisagreementWarning, match="forward and reverse mode disagree"):
        result = torchjac.batch_jacobian(samplewise, SAMPLES, strategy="forward-mode")

    assert sample_by_sample_agrees(result, samplewise, SAMPLES)


def test_the_witness_of_samples_finds_samples_in_the_wrong_order(monkeypatch):
    original = reverse.reverse

    def rolled(*args, **kwargs):
        return [[block.roll(1, 0) for block in row] for row in original(*args, **kwargs)]

    monkeypatch.setattr("torchjac._evaluate.work.reverse", rolled)
    samples = torch.stack([X, 2 * X, 3 * X])

    result = torchjac.batch_jacobian(torch.sin, samples, strategy="reverse-mode", chunk_size=2)

    assert not the_witness_agrees(result, torch.sin, samples)
    assert not sample_by_sample_agrees(result, torch.sin, samples)


def test_the_witness_turns_down_a_small_problem_that_was_done_at_once(monkeypatch):
    # Then the rows are computed once more, another way.
    transpose_blocks(monkeypatch, "witness", "rows_to_block")

    result = torchjac.batch_jacobian(samplewise, SAMPLES)

    assert sample_by_sample_agrees(result, samplewise, SAMPLES)


class WronglyBatched(torch.autograd.Function):
    """(g, x) -> 2 x g with a batching rule that says 3 x g."""

    @staticmethod
    def forward(g, x):
        return 2 * x * g

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, h):
        g, x = ctx.saved_tensors
        return 2 * x * h, 2 * g * h

    @staticmethod
    def vmap(info, in_dims, g, x):
        return 3 * x * g, 0


class WronglyBatchedSquare(torch.autograd.Function):
    """x -> x^2 whose backward pass is right for one seed and wrong for several."""

    @staticmethod
    def forward(x):
        return x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        return WronglyBatched.apply(g, *ctx.saved_tensors)


def test_the_witness_of_samples_finds_a_wrong_batching_rule():
    with pytest.warns(DisagreementWarning, match="batched backward passes disagree"):
        result = torchjac.batch_jacobian(WronglyBatchedSquare.apply, SAMPLES)

    torch.testing.assert_close(result, torch.diag_embed(2 * SAMPLES))


# -- Faults in derivative rules ----------------------------------------------------------------


def cube(backward=lambda x, g: 3 * x**2 * g, jvp=lambda x, t: 3 * x**2 * t):
    """x^3 with the derivative rules that are given."""

    class Cube(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x**3

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)
            ctx.save_for_forward(*inputs)

        @staticmethod
        def backward(ctx, cotangent):
            return backward(*ctx.saved_tensors, cotangent)

        @staticmethod
        def jvp(ctx, tangent):
            return jvp(*ctx.saved_tensors, tangent)

    return Cube.apply


WRONG_RULES = {
    "factor": lambda x, v: 2 * x**2 * v,
    "sign": lambda x, v: -3 * x**2 * v,
    "power": lambda x, v: 3 * x * v,
    "zero": lambda x, v: torch.zeros_like(v),
    "value instead of point": lambda x, v: 3 * (x**3) ** 2 * v,
    "one part in a million": lambda x, v: 3 * (1 + 1e-6) * x**2 * v,
    "neighbour": lambda x, v: 3 * x**2 * v.roll(1),
    "mixed": lambda x, v: 3 * x**2 * v + 1e-3 * v.sum(),
}
every_wrong_rule = pytest.mark.parametrize("rule", WRONG_RULES.values(), ids=WRONG_RULES)


def test_right_rules_pass_every_checker():
    assert torchjac.check(cube(), X)
    assert agrees_with_differences(torchjac.jacobian(cube(), X), cube(), X)


@every_wrong_rule
def test_check_finds_a_wrong_backward(rule):
    report = torchjac.check(cube(backward=rule), X)

    assert not report
    assert "backward is wrong" in report.cause


@every_wrong_rule
def test_check_finds_a_wrong_jvp(rule):
    report = torchjac.check(cube(jvp=rule), X)

    assert not report
    assert "jvp" in report.cause


@every_wrong_rule
def test_check_finds_rules_that_are_wrong_alike(rule):
    assert not torchjac.check(cube(backward=rule, jvp=rule), X)


@pytest.mark.parametrize("name", [n for n in WRONG_RULES if n != "one part in a million"])
def test_differences_find_a_wrong_backward(name):
    func = cube(backward=WRONG_RULES[name])

    assert not agrees_with_differences(torchjac.jacobian(func, X), func, X)


@every_wrong_rule
def test_the_witness_finds_a_wrong_jvp(rule):
    func = cube(jvp=rule)

    with pytest.warns(DisagreementWarning, match="forward and reverse mode disagree"):
        result = torchjac.jacobian(lambda x: func(x.repeat(20)), X)

    assert agrees_with_differences(result, lambda x: func(x.repeat(20)), X)


def test_the_calculus_is_found_wrong_by_a_wrong_backward():
    right, wrong = cube(), cube(backward=WRONG_RULES["factor"])

    assert torchjac.divergence(right, X).item() == pytest.approx(3 * float((X**2).sum()))
    assert torchjac.divergence(wrong, X).item() != pytest.approx(3 * float((X**2).sum()))


# -- Faults in the differences themselves ------------------------------------------------------


def doubled(quotients):
    def twice(*args):
        column = quotients(*args)
        return lambda *step: [2 * entries for entries in column(*step)]

    return twice


@pytest.mark.parametrize("method", ["forward", "central", "complex"])
def test_wrong_differences_do_not_confirm_a_right_jacobian(monkeypatch, method):
    expected = torch.autograd.functional.jacobian(field, X)
    before = torchjac.finite_difference(field, X, method)
    monkeypatch.setattr(differences, "_quotients", doubled(differences._quotients))

    after = torchjac.finite_difference(field, X, method)

    assert torch.allclose(before, expected, atol=1e-6)
    assert not torch.allclose(after, expected, atol=1e-6)


def test_check_does_not_pass_on_wrong_differences(monkeypatch):
    # A step that the quotient does not know of.
    original = check_module._by_difference

    def wrong(*args):
        measured = original(*args)
        return measured._replace(value=1.01 * measured.value)

    monkeypatch.setattr("torchjac._api.check._by_difference", wrong)

    assert not torchjac.check(field, X)


@pytest.mark.parametrize("target", ["_by_reverse", "_by_forward"])
def test_check_does_not_pass_on_a_wrong_product(monkeypatch, target):
    original = getattr(check_module, target)

    def wrong(*args):
        result = original(*args)
        return 1.01 * result if isinstance(result, float) else (1.01 * result[0], result[1])

    monkeypatch.setattr(f"torchjac._api.check.{target}", wrong)

    assert not torchjac.check(field, X)


# -- The random directions of the checkers -----------------------------------------------------


def test_directions_of_outputs_and_inputs_of_one_shape_are_not_the_same():
    # With u = v a skew error cannot be seen: u·(A u) is 0 for every skew A.
    skew = torch.tensor([[0.0, 1.0, -2.0], [-1.0, 0.0, 3.0], [2.0, -3.0, 0.0]]).double()

    def hides_a_rotation(x):
        return x.sin() + skew @ x.detach()

    assert not torchjac.check(hides_a_rotation, X)


def test_directions_of_two_outputs_of_one_shape_are_not_the_same():
    # With one u for both, what is hidden in one and taken off the other cannot be seen.
    def hides_in_opposite_ways(x):
        return x.sin() + x.detach(), x.cos() - x.detach()

    assert not torchjac.check(hides_in_opposite_ways, X)


def test_directions_of_two_inputs_of_one_shape_are_not_the_same():
    def hides_a_difference(x, y):
        return x * y + x.detach() - y.detach()

    assert not torchjac.check(hides_a_difference, (X, X.flip(0)))

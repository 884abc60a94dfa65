"""layout="blocks": the blocks along the diagonal as a stack, equal to those of the dense result."""

import pytest
import torch

import torchjac
from torchjac.errors import LayoutError, PlanMismatchError

BATCH = torch.linspace(-1.0, 2.0, 12, dtype=torch.float64).reshape(4, 3)
OTHER = BATCH.flip(0) * 0.7 + 0.1
WEIGHTS = torch.linspace(-0.5, 0.8, 15, dtype=torch.float64).reshape(3, 5)


def network(x):
    """Samples along the first axis: (..., 3) to (..., 5)."""
    return torch.tanh(x @ WEIGHTS.to(x.dtype)).square()


def mixing(x):
    """Tokens along the last axis: (4, t) to (4, t)."""
    return torch.tanh(x.flip(0).cumsum(0)) * x


def energy(x):
    return (network(x) ** 2).sum()


def by_sample(func, x):
    """[B, m, n] of a function of samples, one by one."""
    return torch.stack([torchjac.jacobian(func, s).reshape(-1, s.numel()) for s in x])


# --- Shapes and numbers ---------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("backend", ["eager", "replay"])
def test_a_batch_gives_one_block_a_sample(backend, dtype):
    plan = torchjac.plan(network, BATCH.to(dtype), layout="blocks", backend=backend)
    result = plan(OTHER.to(dtype))
    assert (result.shape, result.layout, result.dtype) == ((4, 5, 3), torch.strided, dtype)
    torch.testing.assert_close(result, by_sample(network, OTHER.to(dtype)))


def test_axes_that_are_not_the_first_are_moved_to_the_front():
    result = torchjac.plan(mixing, BATCH, layout="blocks")(OTHER)
    expected = torchjac.jacobian(mixing, OTHER).diagonal(dim1=1, dim2=3).permute(2, 0, 1)
    assert result.shape == (3, 4, 4)
    torch.testing.assert_close(result, expected)
    assert result.is_contiguous()


def test_several_axes_are_one():
    x = torch.linspace(0.0, 1.0, 24, dtype=torch.float64).reshape(2, 4, 3)
    result = torchjac.plan(network, x, layout="blocks")(x + 0.5)
    torch.testing.assert_close(result, by_sample(network, x.reshape(8, 3) + 0.5))


def test_an_axis_of_the_output_may_be_another_one_of_the_input():
    result = torchjac.plan(lambda x: network(x).T, BATCH, layout="blocks")(OTHER)
    torch.testing.assert_close(result, by_sample(network, OTHER))


def test_elementwise_functions_have_blocks_of_one():
    result = torchjac.plan(torch.sin, BATCH, layout="blocks")(OTHER)
    torch.testing.assert_close(result, OTHER.cos().reshape(12, 1, 1))


def test_axes_that_change_places_have_blocks_of_one():
    result = torchjac.plan(lambda x: x.T.sin(), BATCH, layout="blocks")(OTHER)
    torch.testing.assert_close(result, OTHER.T.cos().reshape(12, 1, 1))


def test_flat_functions_have_blocks_along_the_diagonal():
    flat = torchjac.plan(lambda x: network(x.view(4, 3)).view(-1), BATCH.view(-1), layout="blocks")
    torch.testing.assert_close(flat(OTHER.reshape(-1)), by_sample(network, OTHER))


def test_a_flat_result_has_blocks_too():
    result = torchjac.plan(network, BATCH, layout="blocks", flat=True)(OTHER)
    torch.testing.assert_close(result, by_sample(network, OTHER))


def test_blocks_may_hold_zeros():
    def lower(x):
        return torch.tril(torch.ones(3, 3, dtype=x.dtype)).matmul(x[..., None])[..., 0] ** 2

    result = torchjac.plan(lower, BATCH, layout="blocks")(OTHER)
    torch.testing.assert_close(result, by_sample(lower, OTHER))


def test_a_batch_of_one_is_a_batch():
    result = torchjac.plan(network, BATCH[:1], layout="blocks")(OTHER[:1])
    torch.testing.assert_close(result, by_sample(network, OTHER[:1]))


def test_an_empty_batch_has_no_blocks():
    result = torchjac.plan(network, BATCH[:0], layout="blocks")(BATCH[:0])
    assert result.shape == (0, 5, 3)


def test_what_depends_on_nothing_is_zero():
    result = torchjac.plan(lambda x, y: (network(x), y.sin()), (BATCH, BATCH), layout="blocks")(
        (OTHER, OTHER)
    )
    assert result[0][1].shape == (4, 5, 3)
    assert result[1][0].shape == (4, 3, 3)
    assert not result[0][1].any()


def test_transposed_inputs_are_read_by_their_shape():
    x = OTHER.T.contiguous().T
    result = torchjac.plan(network, x, layout="blocks")(x)
    torch.testing.assert_close(result, by_sample(network, OTHER))


def test_a_stack_becomes_the_matrix_again():
    blocks = torchjac.plan(network, BATCH, layout="blocks")(OTHER)
    matrix = torchjac.plan(network, BATCH)(OTHER).to_dense()
    torch.testing.assert_close(torch.block_diag(*blocks), matrix)


# --- Nested ---------------------------------------------------------------------------


def test_outputs_and_inputs_are_nested_as_in_a_jacobian():
    scale = torch.linspace(0.5, 1.5, 4, dtype=torch.float64)

    def model(inputs):
        x, s = inputs["x"], inputs["s"]
        return {"a": network(x) * s[:, None], "b": s**2}

    result = torchjac.plan(model, {"x": BATCH, "s": scale}, layout="blocks")(
        {"x": OTHER, "s": scale}
    )
    expected = by_sample(network, OTHER) * scale[:, None, None]
    torch.testing.assert_close(result["a"]["x"], expected)
    torch.testing.assert_close(result["a"]["s"], network(OTHER)[:, :, None])
    torch.testing.assert_close(result["b"]["s"], (2 * scale).reshape(4, 1, 1))
    assert result["b"]["x"].shape == (4, 1, 3)


def test_inputs_of_two_dtypes_have_blocks_of_two_dtypes():
    plan = torchjac.plan(lambda x, y: x * y, (BATCH, BATCH.float()), layout="blocks")
    by_x, by_y = plan((OTHER, OTHER.float()))
    assert (by_x.dtype, by_y.dtype) == (torch.float64, torch.float32)
    torch.testing.assert_close(by_x, OTHER.float().double().reshape(12, 1, 1))


def test_weights_shared_by_all_samples_stay_apart_along_their_outputs():
    result = torchjac.plan(lambda w: OTHER @ w, WEIGHTS, layout="blocks")(WEIGHTS)
    torch.testing.assert_close(result, OTHER.expand(5, 4, 3))


# --- Used again -----------------------------------------------------------------------


@pytest.mark.parametrize("func", [network, mixing, torch.sin])
def test_an_earlier_result_is_filled_again(func):
    plan = torchjac.plan(func, BATCH, layout="blocks")
    out = plan(BATCH)
    assert plan(OTHER, out=out) is out
    torch.testing.assert_close(out, plan(OTHER))


def test_results_are_not_written_to_by_later_calls():
    plan = torchjac.plan(network, BATCH, layout="blocks")
    first = plan(BATCH)
    kept = first.clone()
    plan(OTHER).zero_()
    assert torch.equal(first, kept)
    assert torch.equal(plan(BATCH), kept)


def half_constant(x):
    """Blocks of which one column does not depend on x."""
    return torch.stack([2 * x[:, 0] + x[:, 1] ** 2, 3 * x[:, 0] - x[:, 1].sin()], 1)


WRITES = {
    "nothing": lambda out: None,
    "in place": lambda out: out.fill_(7.0),
    "through numpy": lambda out: out.numpy().fill(7.0),
    "through a view": lambda out: out[-1].fill_(7.0),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize(
    ("layout", "count"),
    [("blocks", 4), (torch.strided, 4), (torch.strided, 1)],
    ids=["blocks", "mostly zeros", "full"],
)
def test_an_earlier_result_is_filled_whatever_was_done_to_it(layout, count, write):
    first = BATCH[:count, :2]
    plan = torchjac.plan(half_constant, first, layout=layout, backend="replay")
    out = plan(first)
    write(out)
    x = first + 0.5
    torch.testing.assert_close(plan(x, out=out), plan(x))
    torch.testing.assert_close(plan(x + 1, out=out), plan(x + 1))


def test_a_result_turned_in_place_is_no_result_any_more():
    plan = torchjac.plan(half_constant, BATCH[:, :2], layout="blocks", backend="replay")
    out = plan(BATCH[:, :2])
    out.transpose_(1, 2)
    with pytest.raises(PlanMismatchError, match="places of the entries: DIFFERS"):
        plan(OTHER[:, :2], out=out)


def test_constant_results_are_not_written_to_by_later_calls():
    plan = torchjac.plan(lambda x: x @ WEIGHTS, BATCH, layout="blocks")
    plan(BATCH).zero_()
    torch.testing.assert_close(plan(OTHER), WEIGHTS.T.expand(4, 5, 3))


def test_a_tensor_of_another_shape_is_not_filled():
    plan = torchjac.plan(network, BATCH, layout="blocks")
    with pytest.raises(PlanMismatchError, match="shape: planned"):
        plan(OTHER, out=torch.zeros(4, 3, 5, dtype=torch.float64))


def test_the_value_comes_along():
    value, result = torchjac.plan(network, BATCH, layout="blocks").value_and_jacobian(OTHER)
    torch.testing.assert_close(value, network(OTHER))
    torch.testing.assert_close(result, by_sample(network, OTHER))


@pytest.mark.parametrize("func", [network, mixing])
def test_results_are_differentiable(func):
    x = OTHER.clone().requires_grad_()
    result = torchjac.plan(func, BATCH, layout="blocks")(x, create_graph=True)
    y = OTHER.clone().requires_grad_()
    dense = torchjac.jacobian(func, y, create_graph=True)
    (ours,) = torch.autograd.grad(result.square().sum(), x)
    (theirs,) = torch.autograd.grad(dense.square().sum(), y)
    torch.testing.assert_close(ours, theirs)


def test_plans_are_saved_and_loaded(tmp_path):
    plan = torchjac.plan(network, BATCH, layout="blocks")
    plan.save(tmp_path / "plan.npz")
    loaded = torchjac.Plan.load(tmp_path / "plan.npz", network, BATCH)
    torch.testing.assert_close(loaded(OTHER), plan(OTHER))


def test_a_plan_tells_the_shape_of_its_blocks():
    assert "blocks, (4, 5, 3)" in str(torchjac.plan(network, BATCH, layout="blocks"))


# --- Hessians, and results in one shot ------------------------------------------------


def test_hessians_of_samples_are_blocks():
    result = torchjac.plan(energy, BATCH, order=2, layout="blocks")(OTHER)
    expected = torch.stack([torchjac.hessian(energy, s) for s in OTHER])
    torch.testing.assert_close(result, expected)


def test_hessians_in_one_shot_are_blocks():
    expected = torch.stack([torchjac.hessian(energy, s) for s in OTHER])
    torch.testing.assert_close(torchjac.hessian(energy, OTHER, layout="blocks"), expected)


def test_jacobians_in_one_shot_are_blocks():
    result = torchjac.jacobian(network, OTHER, layout="blocks")
    torch.testing.assert_close(result, by_sample(network, OTHER))


def test_value_and_blocks_in_one_shot():
    value, result = torchjac.value_and_jacobian(network, OTHER, layout="blocks")
    torch.testing.assert_close(value, network(OTHER))
    torch.testing.assert_close(result, by_sample(network, OTHER))


# --- Refused --------------------------------------------------------------------------


@pytest.mark.parametrize("flat", [False, True])
def test_samples_that_mix_are_refused(flat):
    with pytest.raises(LayoutError, match="entries that lie in no blocks"):
        torchjac.plan(lambda x: x.softmax(0).cumsum(1), BATCH, layout="blocks", flat=flat)


def test_the_output_and_the_input_that_mix_are_named():
    with pytest.raises(LayoutError, match=r"output 1 by input 0, shapes \(5,\) and \(4, 3\)"):
        torchjac.jacobian(lambda x: (network(x), network(x).sum(0)), BATCH, layout="blocks")

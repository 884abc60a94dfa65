"""`batch_jacobian`: per-sample Jacobians in few passes, and mixed samples refused by name."""

import copy
import functools
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import torchjac
from torchjac.errors import (
    ArgumentError,
    ArgumentTypeError,
    FallbackWarning,
    IndependenceWarning,
    MemoryBudgetError,
    MixedSamplesError,
    ShapeError,
    TorchjacError,
    TorchjacWarning,
)

STRATEGIES = ("auto", "reverse-mode", "forward-mode")
every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
every_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["f64", "f32"])


def random(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


def one_by_one(one, *inputs):
    """The Jacobian of every sample by PyTorch, each alone."""
    rows = [torch.autograd.functional.jacobian(one, sample) for sample in zip(*inputs, strict=True)]
    return [torch.stack(column) for column in zip(*rows, strict=True)]


def weights(*shape, dtype=torch.float64):
    return random(*shape, dtype=dtype, seed=7) / 2


# -- Values ------------------------------------------------------------------------------------


@every_dtype
@every_strategy
@pytest.mark.parametrize("chunk_size", [None, 1, 2, 100])
def test_equals_vmapped_jacrev(dtype, strategy, chunk_size):
    weight = weights(3, 4, dtype=dtype)
    x = random(5, 3, dtype=dtype)

    result = torchjac.batch_jacobian(
        lambda batch: torch.tanh(batch @ weight), x, strategy=strategy, chunk_size=chunk_size
    )

    expected = torch.func.vmap(torch.func.jacrev(lambda sample: torch.tanh(sample @ weight)))(x)
    assert result.shape == (5, 4, 3)
    torch.testing.assert_close(result, expected)


def test_hand_written_values():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)

    result = torchjac.batch_jacobian(lambda b: torch.stack([b[:, 0] * b[:, 1], b[:, 0]], 1), x)

    assert result.tolist() == [[[2.0, 1.0], [1.0, 0.0]], [[4.0, 3.0], [1.0, 0.0]]]


@every_strategy
@pytest.mark.parametrize("in_dim", [0, 1, 2])
@pytest.mark.parametrize("out_dim", [0, 1, 2])
def test_samples_may_lie_along_any_axes(strategy, in_dim, out_dim):
    left, right = weights(2, 3), weights(4, 5)
    samples = random(6, 3, 4)

    def one(sample):
        return torch.tanh(left @ sample @ right)

    def whole(batch):
        return torch.tanh(left @ batch.movedim(in_dim, 0) @ right).movedim(0, out_dim)

    result = torchjac.batch_jacobian(
        whole, samples.movedim(0, in_dim), in_dim=in_dim, out_dim=out_dim, strategy=strategy
    )

    torch.testing.assert_close(result, torch.func.vmap(torch.func.jacrev(one))(samples))


def test_axes_of_equal_length_are_not_confused():
    samples = random(3, 3, 3)
    weight = weights(3, 3)

    def whole(batch):  # samples along axis 1, and along axis 2 of the output
        return torch.sin(torch.einsum("ibj,jk->ikb", batch, weight))

    result = torchjac.batch_jacobian(whole, samples.movedim(0, 1), in_dim=1, out_dim=2)

    expected = torch.func.vmap(torch.func.jacrev(lambda s: torch.sin(s @ weight)))(samples)
    torch.testing.assert_close(result, expected)


def test_samples_without_axes_of_their_own():
    x = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)

    assert torchjac.batch_jacobian(lambda b: b**3, x).tolist() == [0.0, 3.0, 12.0]


@every_strategy
def test_several_inputs_and_outputs_nest_as_in_jacobian(strategy):
    a, b = random(4, 3), random(4, 2, seed=1)

    def whole(a, b):
        return torch.tanh(a) * b.sum(1, keepdim=True), (a.sum(1) * b[:, 0]).sin()

    def one(a, b):
        return torch.tanh(a) * b.sum(), (a.sum() * b[0]).sin()

    result = torchjac.batch_jacobian(whole, (a, b), strategy=strategy)

    expected = torch.func.vmap(torch.func.jacrev(one, argnums=(0, 1)))(a, b)
    assert [block.shape for row in result for block in row] == [
        (4, 3, 3),
        (4, 3, 2),
        (4, 3),
        (4, 2),
    ]
    torch.testing.assert_close(result, expected)


def test_trees_in_and_out():
    inputs = {"a": random(4, 3), "b": [random(4, 2, seed=1)]}

    def whole(tree):
        return {"y": tree["a"].sin(), "z": (tree["a"][:, :2] * tree["b"][0], tree["b"][0].exp())}

    result = torchjac.batch_jacobian(whole, inputs)

    cos, b = torch.diag_embed(inputs["a"].cos()), inputs["b"][0]
    torch.testing.assert_close(result["y"]["a"], cos)
    torch.testing.assert_close(result["y"]["b"][0], torch.zeros(4, 3, 2, dtype=torch.float64))
    product = torch.zeros(4, 2, 3, dtype=torch.float64)
    product[:, :, :2] = torch.diag_embed(b)
    torch.testing.assert_close(result["z"][0]["a"], product)
    torch.testing.assert_close(result["z"][0]["b"][0], torch.diag_embed(inputs["a"][:, :2]))
    torch.testing.assert_close(result["z"][1]["a"], torch.zeros(4, 2, 3, dtype=torch.float64))
    torch.testing.assert_close(result["z"][1]["b"][0], torch.diag_embed(b.exp()))


@pytest.mark.parametrize("wrt", ["x", 0, ("x",), [0]])
def test_inputs_left_out_by_wrt_need_no_axis_of_samples(wrt):
    x, scale = random(4, 3), torch.tensor(2.0, dtype=torch.float64)

    result = torchjac.batch_jacobian(lambda x, scale: scale * x**2, (x, scale), wrt=wrt)

    block = result if isinstance(wrt, str | int) else result[0]
    torch.testing.assert_close(block, torch.diag_embed(4 * x))


def test_wrt_of_the_second_input():
    a, b = random(4, 3), random(4, 2, seed=1)

    result = torchjac.batch_jacobian(lambda a, b: a.sum(1, keepdim=True) * b, (a, b), wrt="b")

    eye = torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(result, a.sum(1).reshape(4, 1, 1) * eye)


def test_keyword_arguments_are_bound_by_a_partial():
    x = random(4, 3)

    def whole(x, *, power):
        return x**power

    result = torchjac.batch_jacobian(functools.partial(whole, power=3), x)

    torch.testing.assert_close(result, torch.diag_embed(3 * x**2))


def test_has_aux_hands_the_second_value_through():
    x = random(4, 3)

    result, aux = torchjac.batch_jacobian(lambda x: (x.sin(), {"step": 3}), x, has_aux=True)

    torch.testing.assert_close(result, torch.diag_embed(x.cos()))
    assert aux == {"step": 3}


def test_one_sample():
    x = random(1, 3)

    torch.testing.assert_close(torchjac.batch_jacobian(torch.sin, x), torch.diag_embed(x.cos()))


@every_strategy
def test_a_mixing_function_of_one_sample_is_right(strategy):
    x = random(1, 3)

    result = torchjac.batch_jacobian(lambda x: x * x.mean(0), x, strategy=strategy)

    torch.testing.assert_close(result, torch.diag_embed(2 * x))


@every_strategy
def test_no_samples(strategy):
    result = torchjac.batch_jacobian(
        lambda x: x[:, :2].exp(), torch.zeros(0, 3, dtype=torch.float64), strategy=strategy
    )

    assert result.shape == (0, 2, 3)
    assert result.dtype == torch.float64


@pytest.mark.parametrize("shape", [(4, 0), (4, 2, 0)])
def test_samples_without_elements(shape):
    result = torchjac.batch_jacobian(lambda x: x.sin(), torch.zeros(shape))

    assert result.shape == shape + shape[1:]


def test_an_output_that_reaches_one_input_only():
    a, b = random(4, 3), random(4, 2, seed=1)

    first, second = torchjac.batch_jacobian(lambda a, b: a.sin(), (a, b))

    torch.testing.assert_close(first, torch.diag_embed(a.cos()))
    assert torch.equal(second, torch.zeros(4, 3, 2, dtype=torch.float64))


@every_strategy
def test_the_identity(strategy):
    result = torchjac.batch_jacobian(lambda x: x, random(4, 3), strategy=strategy)

    assert torch.equal(result, torch.eye(3, dtype=torch.float64).expand(4, 3, 3))


def test_inputs_are_left_as_they_are():
    x = random(4, 3).requires_grad_()
    before = x.detach().clone()

    torchjac.batch_jacobian(lambda batch: batch.mul_(2).sin(), x)

    assert torch.equal(x, before)
    assert x.grad is None


def test_blocks_have_the_dtype_of_their_input():
    a, b = random(4, 3, dtype=torch.float32), random(4, 3)

    first, second = torchjac.batch_jacobian(lambda a, b: a.double() * b, (a, b))

    assert (first.dtype, second.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(first, torch.diag_embed(b).float())
    torch.testing.assert_close(second, torch.diag_embed(a.double()))


def test_works_under_no_grad_and_inference_mode():
    x = random(4, 3)

    with torch.no_grad():
        first = torchjac.batch_jacobian(torch.sin, x)
    with torch.inference_mode():
        second = torchjac.batch_jacobian(torch.sin, random(4, 3))

    torch.testing.assert_close(first, torch.diag_embed(x.cos()))
    torch.testing.assert_close(second.clone(), torch.diag_embed(x.cos()))


# -- Images and the order of axes --------------------------------------------------------------


def classifier():
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 2 * 3, 5),
    ).double()
    net(random(16, 2, 4, 6, seed=5))  # running statistics that are not 0 and 1
    return net.eval()


def test_classifier_of_images():
    net, images = classifier(), random(3, 2, 4, 6)

    result = torchjac.batch_jacobian(net, images)

    (expected,) = one_by_one(lambda image: net(image[None])[0], images)
    assert result.shape == (3, 5, 2, 4, 6)
    torch.testing.assert_close(result, expected)


def test_classes_can_come_last():
    net, images = classifier(), random(3, 2, 4, 6)

    result = torchjac.batch_jacobian(net, images, axes=(0, 2, 3, 4, 1))

    (expected,) = one_by_one(lambda image: net(image[None])[0], images)
    assert result.shape == (3, 2, 4, 6, 5)
    torch.testing.assert_close(result, expected.movedim(1, -1))


def test_axes_can_put_the_batch_anywhere():
    x = random(4, 3)

    result = torchjac.batch_jacobian(lambda x: x[:, :2] ** 2, x, axes=(2, 0, 1))

    expected = torch.zeros(4, 2, 3, dtype=torch.float64)
    expected[:, :, :2] = torch.diag_embed(2 * x[:, :2])
    torch.testing.assert_close(result, expected.permute(2, 0, 1))


@pytest.mark.parametrize("axes", [(0, 1), (0, 1, 1), (0, 1, 3), (0, 1, 2, 3), ()])
def test_axes_that_are_no_permutation_are_refused(axes):
    with pytest.raises(
        ArgumentError, match=r"batch_jacobian: `axes` must be a permutation of the 3"
    ):
        torchjac.batch_jacobian(torch.sin, random(4, 3), axes=axes)


@pytest.mark.parametrize("axes", [3, "abc", (0, "1", 2)])
def test_axes_that_are_no_numbers_are_refused_as_arguments(axes):
    with pytest.raises(TorchjacError, match="`axes` must be"):
        torchjac.batch_jacobian(torch.sin, random(4, 3), axes=axes)


# -- Cost --------------------------------------------------------------------------------------


def recorded(*args, **kwargs):
    with torchjac.record() as runs:
        torchjac.batch_jacobian(*args, **kwargs)
    (run,) = runs
    return run


def test_seeds_are_those_of_one_sample():
    run = recorded(lambda x: x[:, :2].sin(), random(50, 6))

    assert (run.api, run.mode, run.method) == ("batch_jacobian", "reverse-mode", "vmap")
    assert (run.seeds, run.passes) == (2, 1)


def test_few_inputs_and_many_outputs_go_by_columns():
    run = recorded(lambda x: (x[:, :1] * torch.arange(100.0)).sin(), random(7, 2))

    assert (run.mode, run.seeds, run.passes) == ("forward-mode", 2, 1)


@pytest.mark.parametrize(("chunk_size", "passes"), [(1, 5), (2, 3), (5, 1), (9, 1)])
@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
def test_chunks_cut_the_seeds_of_one_sample(chunk_size, passes, strategy):
    run = recorded(torch.sin, random(8, 5), chunk_size=chunk_size, strategy=strategy)

    assert (run.seeds, run.passes) == (5, passes)
    assert run.chunk_size == min(chunk_size, 5)


@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
def test_vectorize_false_runs_one_seed_at_a_time(strategy):
    x = random(4, 3)

    result = torchjac.batch_jacobian(torch.sin, x, vectorize=False, strategy=strategy)

    torch.testing.assert_close(result, torch.diag_embed(x.cos()))
    assert recorded(torch.sin, x, vectorize=False, strategy=strategy).method == "loop"


def test_the_function_runs_once_in_reverse_mode():
    calls = []

    def whole(x):
        calls.append(x.shape)
        return x.sin()

    torchjac.batch_jacobian(whole, random(8, 5), strategy="reverse-mode")

    assert calls == [(8, 5)]


def test_a_result_above_the_budget_is_refused_with_its_size():
    x = torch.zeros(64, 300)

    with pytest.raises(MemoryBudgetError, match=r"batch_jacobian: the Jacobian needs 21\.97 MiB"):
        torchjac.batch_jacobian(torch.sin, x, memory=2**20)


def test_a_small_result_above_a_smaller_budget_is_refused_too():
    with pytest.raises(MemoryBudgetError, match="batch_jacobian: the Jacobian needs"):
        torchjac.batch_jacobian(torch.sin, torch.zeros(4, 3), memory=100)


# -- Differentiable results --------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
@pytest.mark.parametrize("chunk_size", [None, 2])
def test_create_graph_makes_the_result_differentiable(strategy, chunk_size):
    x = random(4, 3).requires_grad_()

    result = torchjac.batch_jacobian(
        lambda b: b**3, x, create_graph=True, strategy=strategy, chunk_size=chunk_size
    )
    (gradient,) = torch.autograd.grad(result.sum(), x)

    torch.testing.assert_close(gradient, 6 * x.detach())


@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
def test_create_graph_reaches_the_parameters_of_a_module(strategy):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = random(5, 3)

    ours = torchjac.batch_jacobian(net, x, create_graph=True, strategy=strategy)
    theirs = torch.func.vmap(torch.func.jacrev(net))(x)

    parameters = list(net.parameters())[:3]  # the last bias has no part in the Jacobian
    for mine, other in zip(
        torch.autograd.grad(ours.square().sum(), parameters),
        torch.autograd.grad(theirs.square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


@every_strategy
def test_create_graph_is_right_through_layer_norm(strategy):
    # The derivative of PyTorch's forward rule of layer norm is wrong (torch 2.13).
    x = random(5, 3).requires_grad_()
    net = nn.Sequential(nn.LayerNorm(3), nn.Linear(3, 40), nn.Tanh()).double()

    ours = torchjac.batch_jacobian(net, x, create_graph=True, strategy=strategy)
    theirs = torch.func.vmap(torch.func.jacrev(net))(x)

    torch.testing.assert_close(
        torch.autograd.grad(ours.square().sum(), x), torch.autograd.grad(theirs.square().sum(), x)
    )


def test_without_create_graph_the_result_has_no_history():
    x = random(4, 3).requires_grad_()

    assert not torchjac.batch_jacobian(torch.sin, x).requires_grad


# -- Ways round what PyTorch cannot batch ------------------------------------------------------


class NumpySine(torch.autograd.Function):
    """Its backward pass leaves PyTorch, so that it cannot be batched."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, cotangent):
        (x,) = ctx.saved_tensors
        return torch.from_numpy(cotangent.numpy() * np.cos(x.detach().numpy()))


def test_what_cannot_be_batched_runs_on_copies_of_the_batch():
    x = random(4, 3)

    with (
        torchjac.record() as runs,
        pytest.warns(FallbackWarning, match="batch_jacobian: computed by reverse-mode/replicated"),
    ):
        result = torchjac.batch_jacobian(lambda b: NumpySine.apply(b.exp()), x)

    torch.testing.assert_close(result, torch.diag_embed(x.exp().cos() * x.exp()))
    assert runs[-1].method == "replicated batch"
    assert runs[-1].refusals[0].method == "reverse-mode/vmap"


@pytest.mark.parametrize(("in_dim", "out_dim"), [(0, 1), (1, 0), (1, 1)])
def test_copies_of_the_batch_respect_the_axes(in_dim, out_dim):
    samples = random(4, 3)

    def whole(batch):
        return NumpySine.apply(batch.movedim(in_dim, 0)).movedim(0, out_dim)

    with pytest.warns(FallbackWarning, match="replicated batch"):
        result = torchjac.batch_jacobian(
            whole, samples.movedim(0, in_dim), in_dim=in_dim, out_dim=out_dim
        )

    torch.testing.assert_close(result, torch.diag_embed(samples.cos()))


def test_a_function_that_draws_numbers_is_not_run_on_copies():
    x = random(4, 3)

    with (
        torchjac.record() as runs,
        pytest.warns(FallbackWarning, match="computed by reverse-mode/loop"),
    ):
        result = torchjac.batch_jacobian(lambda b: NumpySine.apply(b) * torch.rand(4, 3), x)

    assert runs[-1].method == "loop"
    assert torch.count_nonzero(result - torch.diag_embed(result.diagonal(dim1=1, dim2=2))) == 0


FIXED = {
    "divided by the number of samples": lambda b: NumpySine.apply(b) / len(b),
    "weighed by position": lambda b: NumpySine.apply(b) * (1 + torch.arange(len(b))[:, None]),
    "cut to a fixed number": lambda b: NumpySine.apply(b)[:4],
    "weighed by constants": lambda b: NumpySine.apply(b) * (1 + torch.arange(4)[:, None]),
}


@pytest.mark.parametrize("name", FIXED)
def test_functions_that_know_their_batch_are_looped_over(name):
    # Samples do not mix; but copies of the batch are not treated as the batch is.
    x = random(4, 3)

    with pytest.warns(FallbackWarning, match="computed by reverse-mode/loop"):
        result = torchjac.batch_jacobian(FIXED[name], x)

    factor = {
        "divided by the number of samples": torch.full((4, 1), 0.25),
        "cut to a fixed number": torch.ones(4, 1),
    }.get(name, 1 + torch.arange(4.0)[:, None])
    torch.testing.assert_close(result, torch.diag_embed(x.cos() * factor))


def test_vectorize_true_raises_where_nothing_can_be_batched():
    # Random numbers rule out copies of the batch.
    with pytest.raises(RuntimeError, match="storage"):
        torchjac.batch_jacobian(
            lambda b: NumpySine.apply(b) * torch.rand(4, 3), random(4, 3), vectorize=True
        )


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_networks_with_the_batch_first(cell, strategy):
    torch.manual_seed(0)
    net = cell(3, 2, batch_first=True).double()
    x = random(4, 5, 3)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how PyTorch batches these differs between cells
        result = torchjac.batch_jacobian(lambda batch: net(batch)[0], x, strategy=strategy)

    (expected,) = one_by_one(lambda sample: net(sample[None])[0][0], x)
    assert result.shape == (4, 5, 2, 5, 3)
    torch.testing.assert_close(result, expected)


def test_recurrent_network_with_the_sequence_first():
    torch.manual_seed(0)
    net = nn.LSTM(3, 2).double()
    x = random(5, 4, 3)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = torchjac.batch_jacobian(lambda b: net(b)[0], x, in_dim=1, out_dim=1)

    (expected,) = one_by_one(lambda sample: net(sample[:, None])[0][:, 0], x.movedim(1, 0))
    torch.testing.assert_close(result, expected)


def test_words_of_pytorch_on_slow_batching_do_not_reach_the_user():
    net = nn.LSTM(3, 2, batch_first=True).double()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = torchjac.batch_jacobian(lambda batch: net(batch)[0], random(4, 5, 3))

    assert result.shape == (4, 5, 2, 5, 3)
    assert all(issubclass(warning.category, TorchjacWarning) for warning in caught)


def test_sequence_first_taken_for_batch_first_is_refused():
    torch.manual_seed(0)
    net = nn.LSTM(3, 2).double()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(MixedSamplesError, match="wrong `in_dim` or `out_dim`"):
            torchjac.batch_jacobian(lambda batch: net(batch)[0], random(5, 4, 3))


@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
@pytest.mark.parametrize("chunk_size", [None, 1])
def test_dropout_is_one_mask_per_call(strategy, chunk_size):
    x = torch.ones(6, 5, dtype=torch.float64)

    torch.manual_seed(4)
    result = torchjac.batch_jacobian(nn.Dropout(0.5), x, strategy=strategy, chunk_size=chunk_size)
    torch.manual_seed(4)
    mask = nn.functional.dropout(x, 0.5)

    torch.testing.assert_close(result, torch.diag_embed(mask))


# -- Functions that mix samples ----------------------------------------------------------------

MIXING = {
    "mean": lambda x: x - x.mean(0),
    "cumulative sum": lambda x: x.cumsum(0),
    "roll": lambda x: x.roll(1, 0),
    "flip": lambda x: x.flip(0),
    "sort": lambda x: x.sort(0).values,
    "softmax over the batch": lambda x: x.softmax(0),
    "attention": lambda x: torch.softmax(x @ x.T, -1) @ x,
    "reshape": lambda x: x.reshape(x.shape[1], x.shape[0]).T.sin(),
    "first sample": lambda x: x * x[:1],
    "product of all": lambda x: x * x.prod(),
    "weak": lambda x: x + 1e-6 * x.mean(0),
}


@every_strategy
@pytest.mark.parametrize("name", MIXING)
def test_mixed_samples_are_refused(name, strategy):
    x = random(4, 3)

    with pytest.raises(MixedSamplesError, match=r"output 0 of sample \d depends on input 0 of"):
        torchjac.batch_jacobian(MIXING[name], x, strategy=strategy)


@pytest.mark.parametrize("layer", [nn.MultiheadAttention(4, 2).double()])
def test_attention_over_the_batch_is_refused(layer):
    with pytest.raises(MixedSamplesError, match="wrong `in_dim` or `out_dim`"):
        torchjac.batch_jacobian(lambda x: layer(x, x, x)[0], random(3, 5, 4))


def test_attention_over_the_sequence_is_not():
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(4, 2).double()
    x = random(5, 3, 4)

    result = torchjac.batch_jacobian(lambda x: layer(x, x, x)[0], x, in_dim=1, out_dim=1)

    (expected,) = one_by_one(
        lambda s: layer(s[:, None], s[:, None], s[:, None])[0][:, 0], x.movedim(1, 0)
    )
    torch.testing.assert_close(result, expected)


def test_the_message_names_samples_and_input():
    def whole(a, b):
        moved = b.clone()
        moved[2] = b[2] + b[0]
        return a * moved

    with pytest.raises(
        MixedSamplesError, match="output 0 of sample 2 depends on input 1 of sample 0"
    ):
        torchjac.batch_jacobian(whole, (random(4, 3), random(4, 3, seed=1)))


def test_the_message_names_the_output():
    with pytest.raises(MixedSamplesError, match="output 1 of sample 0 depends on input 0"):
        torchjac.batch_jacobian(lambda x: (x.sin(), x - x.mean(0)), random(4, 3))


def test_the_error_points_at_jacobian():
    with pytest.raises(MixedSamplesError, match=r"cross terms use `torchjac\.jacobian`"):
        torchjac.batch_jacobian(MIXING["mean"], random(4, 3))


@every_strategy
@pytest.mark.parametrize("norm", [nn.BatchNorm1d(3), nn.BatchNorm1d(3, affine=False)])
def test_batch_norm_in_training_mode_is_refused(norm, strategy):
    net = copy.deepcopy(norm).double()

    with pytest.raises(
        MixedSamplesError, match=r"training mode \(BatchNorm1d\).*Call \.eval\(\) on the module"
    ):
        torchjac.batch_jacobian(net, random(8, 3), strategy=strategy)


def test_batch_norm_of_images_is_named_by_its_place():
    net = classifier().train()

    with pytest.raises(MixedSamplesError, match=r"training mode \(1\)"):
        torchjac.batch_jacobian(net, random(3, 2, 4, 6))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3).double()

    def forward(self, x):
        return self.norm(x)

    def encode(self, x):
        return self.norm(x).sin()


def test_batch_norm_inside_a_closure_is_named():
    net = Encoder()

    with pytest.raises(MixedSamplesError, match=r"training mode \(net\.norm\)"):
        torchjac.batch_jacobian(lambda x: net(x) * 2, random(8, 3))


def test_batch_norm_behind_a_method_is_named():
    with pytest.raises(MixedSamplesError, match=r"training mode \(.*norm\)"):
        torchjac.batch_jacobian(Encoder().encode, random(8, 3))


def test_batch_norm_behind_a_partial_is_named():
    with pytest.raises(MixedSamplesError, match=r"training mode \(.*norm\)"):
        torchjac.batch_jacobian(functools.partial(Encoder()), random(8, 3))


def test_batch_norm_without_running_statistics_is_not_told_to_call_eval():
    net = nn.BatchNorm1d(3, track_running_stats=False).double().eval()

    with pytest.raises(MixedSamplesError, match="BatchNorm1d") as caught:
        torchjac.batch_jacobian(net, random(8, 3))

    assert "track_running_stats" in str(caught.value)
    assert "Call .eval()" not in str(caught.value)


@every_strategy
def test_mixing_that_cancels_between_outputs_is_refused(strategy):
    # The sum of the outputs does not mix; each of them does.
    def centred_and_mean(x):
        return x - x.mean(0), x.mean(0).expand_as(x)

    with pytest.raises(MixedSamplesError):
        torchjac.batch_jacobian(centred_and_mean, random(4, 3), strategy=strategy)


@every_dtype
def test_a_sample_with_a_large_derivative_does_not_hide_the_mixing_of_others(dtype):
    x = torch.tensor([[0.0], [1.0], [40.0]], dtype=dtype)

    with pytest.raises(MixedSamplesError):
        torchjac.batch_jacobian(lambda x: x.exp() + x.mean(0), x)


def test_an_output_with_a_large_derivative_does_not_hide_the_mixing_of_another():
    with pytest.raises(MixedSamplesError):
        torchjac.batch_jacobian(lambda x: (1e14 * x, x - x.mean(0)), random(4, 3))


def test_rounding_is_not_taken_for_mixing():
    # Exact in each sample; the large terms cancel, and leave rounding errors of some percent.
    x = torch.linspace(0, 1, 6).reshape(3, 2)

    result = torchjac.batch_jacobian(lambda x: (x * 1e5 + x.sin()) - x * 1e5, x)

    torch.testing.assert_close(result, torch.diag_embed(x.cos()), rtol=0, atol=0.05)


def test_mixing_in_half_precision_is_refused():
    x = random(64, 4, dtype=torch.bfloat16)

    with pytest.raises(MixedSamplesError):
        torchjac.batch_jacobian(lambda x: x - x.mean(0), x)


UNMIXED = {
    "batch norm in evaluation mode": nn.BatchNorm1d(6).eval(),
    "layer norm": nn.LayerNorm(5),
    "group norm": nn.GroupNorm(2, 6),
    "instance norm": nn.InstanceNorm1d(6),
    "softmax of a sample": nn.Softmax(-1),
    "convolution": nn.Conv1d(6, 3, 3),
    "pooling": nn.MaxPool1d(2),
    "attention of a sample": nn.TransformerEncoderLayer(5, 1, 8, 0.0, batch_first=True),
}


@every_strategy
@pytest.mark.parametrize("name", UNMIXED)
def test_layers_that_keep_samples_apart_are_not_refused(name, strategy):
    torch.manual_seed(0)
    layer = copy.deepcopy(UNMIXED[name]).double()
    x = random(4, 6, 5)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FallbackWarning)  # fused attention has no forward rule
        result = torchjac.batch_jacobian(layer, x, strategy=strategy)

    (expected,) = one_by_one(lambda sample: layer(sample[None])[0], x)
    torch.testing.assert_close(result, expected)


def test_statistics_held_constant_by_detach_are_not_mixing():
    x = random(4, 3)

    result = torchjac.batch_jacobian(lambda x: x - x.detach().mean(0), x)

    torch.testing.assert_close(result, torch.eye(3, dtype=torch.float64).expand(4, 3, 3))


def test_an_infinite_derivative_in_one_sample_is_no_mixing():
    x = torch.tensor([[0.0], [4.0]], dtype=torch.float64)

    assert torchjac.batch_jacobian(torch.sqrt, x).flatten().tolist() == [float("inf"), 0.25]


# -- Errors ------------------------------------------------------------------------------------


def test_inputs_with_different_numbers_of_samples():
    with pytest.raises(
        ShapeError, match=r"batch_jacobian: input 1 has 5 samples along axis in_dim=0, expected 4"
    ):
        torchjac.batch_jacobian(lambda a, b: a * b.sum(), (random(4, 3), random(5, 3)))


def test_outputs_with_another_number_of_samples():
    with pytest.raises(
        ShapeError, match=r"output 0 has 3 samples along axis out_dim=0, expected 4.*\(3, 4\)"
    ):
        torchjac.batch_jacobian(lambda x: x.T.contiguous(), random(4, 3))


def test_a_missing_axis_of_an_input():
    with pytest.raises(ShapeError, match=r"input 0 has no axis in_dim=2.*got shape \(4, 3\)"):
        torchjac.batch_jacobian(torch.sin, random(4, 3), in_dim=2)


def test_a_missing_axis_of_an_output():
    with pytest.raises(ShapeError, match=r"output 0 has no axis out_dim=0.*got shape \(\)"):
        torchjac.batch_jacobian(torch.sum, random(4, 3))


@pytest.mark.parametrize("name", ["in_dim", "out_dim"])
@pytest.mark.parametrize("value", [-1, True, 0.0, None, "0"])
def test_axes_of_samples_must_be_numbers(name, value):
    with pytest.raises(
        ArgumentError, match=f"batch_jacobian: `{name}` must be an axis number 0, 1"
    ):
        torchjac.batch_jacobian(torch.sin, random(4, 3), **{name: value})


def test_parameters_belong_to_no_sample():
    net = nn.Linear(3, 2)

    with pytest.raises(
        ArgumentTypeError, match=r"`wrt` cannot be a module: its parameters have no"
    ):
        torchjac.batch_jacobian(net, torch.zeros(4, 3), wrt=net)


def test_integer_inputs_are_refused():
    with pytest.raises(ArgumentTypeError, match=r"batch_jacobian: `inputs` has dtype torch\.int64"):
        torchjac.batch_jacobian(torch.sin, torch.arange(6).reshape(3, 2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "fastest"}, "`strategy` must be one of"),
        ({"chunk_size": 0}, "`chunk_size` must be a positive integer"),
        ({"memory": 2.0}, "`memory` must be a number of bytes"),
        ({"vectorize": "yes"}, "`vectorize` must be one of"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ArgumentError, match=f"batch_jacobian: {message}"):
        torchjac.batch_jacobian(torch.sin, random(4, 3), **options)


def test_complex_inputs_are_not_told_of_an_option_that_is_missing_here():
    with pytest.raises(ArgumentTypeError, match="batch_jacobian: `inputs` is complex") as caught:
        torchjac.batch_jacobian(torch.sin, torch.ones(4, 3, dtype=torch.complex128))

    assert "holomorphic=True" not in str(caught.value)


scale = torch.ones(2, 3, dtype=torch.float64)


def test_an_attribute_named_as_the_input_is_not_taken_for_it():
    class Holder:
        scale = 2.0

    holder = Holder()

    result = torchjac.batch_jacobian(lambda x: x * holder.scale, scale)  # and no ClosureWarning

    torch.testing.assert_close(result, torch.diag_embed(2 * scale))


def test_the_argument_of_a_module_has_its_name():
    net = nn.Linear(3, 2).double()

    result = torchjac.batch_jacobian(net, random(4, 3), wrt="input")

    torch.testing.assert_close(result, net.weight.detach().expand(4, 2, 3))


def test_a_detached_output_is_warned_of():
    x = random(4, 3)

    with pytest.warns(IndependenceWarning, match="output 0 of `func` carries no derivative"):
        result = torchjac.batch_jacobian(lambda x: x.detach().sin(), x)

    assert torch.equal(result, torch.zeros(4, 3, 3, dtype=torch.float64))


def test_inside_vmap_it_is_right_or_refused_clearly():
    x = random(2, 4, 3)

    refusal = ""
    try:
        result = torch.func.vmap(lambda batch: torchjac.batch_jacobian(torch.sin, batch))(x)
    except TorchjacError as error:
        refusal = str(error)

    if refusal:
        assert refusal.startswith("batch_jacobian: ")
    else:
        torch.testing.assert_close(result, torch.diag_embed(x.cos()))

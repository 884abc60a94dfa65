"""Patterns of whole functions: what autograd really does, and nothing left behind."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops import associative_scan, scan, while_loop
from torch._higher_order_ops import map as map_over
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import torchjac
from torchjac._inputs.signature import bind
from torchjac._pattern.detect import Detection, detect

# PyTorch warns of operations in beta.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

Function = Callable[..., Any]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def randn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype)


def found(f: Function, *inputs: Tensor) -> Detection:
    """Detect a pattern and see that nothing is left behind."""
    before = [x.clone() for x in inputs]
    state = torch.get_rng_state()
    detection = detect(bind("test", f, inputs if len(inputs) > 1 else inputs[0]))
    assert torch.equal(torch.get_rng_state(), state)
    for x, old in zip(inputs, before, strict=True):
        assert torch.equal(x, old)
        assert is_untouched(x)
    return detection


def is_untouched(tensor: Tensor) -> bool:
    return not hasattr(tensor, "_torchjac_number") and tensor.grad_fn is None


def matrix(detection: Detection) -> np.ndarray:
    """The pattern as a dense matrix of truth values."""
    pattern = detection.pattern
    truth = np.zeros(pattern.shape, bool)
    truth[pattern.rows, pattern.indices] = True
    return truth


def dense(f: Function, *inputs: Tensor) -> np.ndarray:
    """Where the Jacobian is not zero at one point or another."""
    points = [inputs, *[tuple(torch.randn_like(x) for x in inputs) for _ in range(2)]]
    return np.any([nonzeros(f, point) for point in points], axis=0)


def nonzeros(f: Function, inputs: Sequence[Tensor]) -> np.ndarray:
    def flat(*leaves: Tensor) -> Tensor:
        torch.manual_seed(0)
        outputs = f(*leaves)
        outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
        return torch.cat([y.reshape(-1) for y in outputs])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        blocks = torch.autograd.functional.jacobian(flat, tuple(inputs))
    return (torch.cat([b.reshape(len(b), -1) for b in blocks], 1) != 0).numpy()


def check(f: Function, *inputs: Tensor, like: Function | None = None) -> Detection:
    """The pattern is that of the dense Jacobians, of `f` itself or of a simpler function."""
    detection = found(f, *inputs)
    assert not detection.opaque_ops
    assert np.array_equal(matrix(detection), dense(like or f, *inputs))
    return detection


def holds(f: Function, *inputs: Tensor) -> Detection:
    """The pattern holds every nonzero of the dense Jacobians."""
    detection = found(f, *inputs)
    assert not (dense(f, *inputs) & ~matrix(detection)).any()
    return detection


# --- Control flow -----------------------------------------------------------------------


def test_cond_on_x_follows_the_branch_taken():
    def f(x):
        return torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cumsum(0), (x,))

    up, down = found(f, torch.ones(3)), found(f, -torch.ones(3))
    assert matrix(up).tolist() == np.eye(3, dtype=bool).tolist()
    assert matrix(down).tolist() == np.tri(3, dtype=bool).tolist()


def test_cond_on_x_is_a_guard():
    def f(x):
        return torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))

    assert found(f, torch.ones(3)).program.reads == (True,)


def test_cond_on_a_constant():
    def f(x):
        return torch.cond(torch.tensor(False), torch.sin, lambda x: x.flip(0), (x,))

    check(f, randn(3), like=lambda x: x.flip(0))


def test_cond_inside_cond():
    def inner(x):
        return torch.cond(x.sum() > -1e9, lambda x: x.roll(1), lambda x: x * 1, (x,))

    def f(x):
        return torch.cond(x.sum() < 1e9, inner, lambda x: x * 1, (x,))

    check(f, randn(3), like=lambda x: x.roll(1))


def test_cond_inside_vmap_joins_the_branches():
    def f(x):
        return torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cumsum(0), (x,))

    expected = np.kron(np.eye(2), np.tri(3))
    assert matrix(found(torch.vmap(f), randn(2, 3))).tolist() == expected.tolist()


def test_while_loop():
    def step(i, y):
        return i + 1, y.roll(1) * y

    def f(x):
        return while_loop(lambda i, _: i < 2, step, (torch.tensor(0), x))[1]

    check(f, randn(5), like=lambda x: step(0, step(0, x)[1])[1])


def test_while_loop_without_a_step():
    def f(x):
        return while_loop(lambda y: y.sum() > 1e9, lambda y: (y.cumsum(0),), (x,))[0]

    check(f, randn(3), like=lambda x: x)


def test_scan_along_an_axis_backwards():
    def combine(carry, y):
        return carry * y, carry + y

    def f(x):
        return scan(combine, torch.ones(2, dtype=x.dtype), x, dim=1, reverse=True)

    def loop(x):
        carry, rows = torch.ones(2, dtype=x.dtype), []
        for k in reversed(range(4)):
            carry, row = combine(carry, x[:, k])
            rows.insert(0, row)
        return carry, torch.stack(rows, 1)

    check(f, randn(2, 4), like=loop)


def test_map_keeps_the_samples_apart():
    check(lambda x: map_over(lambda y: y.cumsum(0), x), randn(3, 2), like=lambda x: x.cumsum(1))


def test_associative_scan():
    def f(x):
        return associative_scan(torch.mul, x, 0, combine_mode="generic")

    check(f, randn(4, 2))


# --- Checkpoints and transforms inside --------------------------------------------------


def test_checkpoint():
    def f(x):
        return checkpoint(lambda y: y.sin().cumsum(0), x, use_reentrant=False)

    check(f, randn(4))


def test_gradient_of_each_sample():
    check(torch.vmap(torch.func.grad(lambda row: (row**3).sum() * row[0])), randn(3, 2))


def test_jvp_inside():
    check(lambda x: torch.func.jvp(lambda y: y.sin() * y.roll(1), (x,), (x,))[1], randn(4))


def test_jacobian_inside():
    check(lambda x: torch.func.jacrev(torch.sin)(x).sum(0), randn(3))


def test_autograd_inside():
    def f(x):
        with torch.enable_grad():
            y = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad((y**3).sum(), y)
        return gradient + x.roll(1)

    assert matrix(found(f, randn(3))).tolist() == np.eye(3)[[2, 0, 1]].tolist()


# --- Custom functions -------------------------------------------------------------------


class RoundStraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, g):
        return g


class Cubed(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * 3 * x**2

    @staticmethod
    def jvp(ctx, t):
        (x,) = ctx.saved_tensors
        return t * 3 * x**2


class Mistaken(torch.autograd.Function):
    """Its backward pass is not that of its forward pass; PyTorch's answer is the former."""

    @staticmethod
    def forward(ctx, x):
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        return g.flip(0)


class Disagreeing(Mistaken):
    """Its two modes differ; the backward one counts."""

    @staticmethod
    def jvp(ctx, t):
        return t.roll(1)


class OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(np.cumsum(x.detach().numpy()))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return torch.from_numpy(np.cumsum(g.numpy()[::-1])[::-1].copy())


@pytest.mark.parametrize("kind", [RoundStraightThrough, Cubed, Mistaken, Disagreeing])
def test_custom_function(kind):
    check(lambda x: kind.apply(x) * 2, randn(3))


def test_custom_function_through_numpy_is_no_constant():
    detection = holds(OnceDifferentiable.apply, randn(3))
    assert detection.opaque_ops == ("outside PyTorch",)


class ThroughMemory(torch.autograd.Function):
    """Its gradient is written where only NumPy sees it."""

    @staticmethod
    def forward(ctx, x):
        return x.sin()

    @staticmethod
    def backward(ctx, g):
        out = torch.zeros_like(g)
        out.numpy()[:] = np.asarray(g)[::-1]
        return out * 2


def test_memory_written_outside_is_no_constant():
    detection = holds(ThroughMemory.apply, randn(3))
    assert detection.opaque_ops == ("outside PyTorch",)


def test_a_number_read_from_the_gradient_is_no_constant():
    class Scaled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.sum()

        @staticmethod
        def backward(ctx, g):
            return torch.tensor([1.0, 2.0], dtype=g.dtype).mul(g.item())

    detection = found(Scaled.apply, randn(2))
    assert detection.pattern.nnz == 2


# --- What is constant -------------------------------------------------------------------


def test_detach():
    check(lambda x: x.sum().detach() * x, randn(3))


def test_no_grad_inside():
    def f(x):
        with torch.no_grad():
            scale = x.cumsum(0)
        return scale * x

    check(f, randn(3))


def test_dropout_counts_as_dependent():
    detection = found(lambda x: F.dropout(x, 0.5) + 0 * x, torch.ones(20))
    assert detection.pattern.nnz == 20


def test_zeros_of_a_constant_drop_out():
    mask = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
    check(lambda x: x * mask, randn(3))


# --- Writes -----------------------------------------------------------------------------


def test_index_assignment():
    def f(x):
        y = torch.zeros(5, dtype=x.dtype)
        y[1:4] = x
        y[0] = x[2] * x[1]
        return y

    check(f, randn(3))


def test_write_through_a_view():
    def f(x):
        y = torch.zeros(2, 3, dtype=x.dtype)
        row = y[1]
        row.copy_(x)
        row.mul_(x[0])
        return y

    check(f, randn(3))


def test_write_into_a_copy_of_the_input():
    def f(x):
        y = x.clone()
        y[:2] *= y[1:3].clone()
        return y

    check(f, randn(4))


def test_write_into_the_input_by_a_view():
    def f(x):
        x[0].mul_(x[1].sum())
        return x * 2

    detection = found(f, randn(2, 2))
    assert matrix(detection).tolist() == [
        [True, False, True, True],
        [False, True, True, True],
        [False, False, True, False],
        [False, False, False, True],
    ]


def test_a_constant_that_is_written_later_is_read_as_it_was():
    def f(x):
        scale = torch.ones(3, dtype=x.dtype)
        y = x * scale.clone()
        scale.zero_()
        return y + x.roll(1) * scale

    check(f, randn(3))


def test_write_to_a_buffer_of_the_closure():
    buffer = torch.ones(3, dtype=torch.float64)

    def f(x):
        y = x.roll(1) * buffer.clone()
        buffer.mul_(0)
        return y

    detection = found(f, randn(3))
    assert detection.pattern.nnz == 3
    assert buffer.tolist() == [1.0, 1.0, 1.0]
    assert is_untouched(buffer)


def test_write_of_x_to_a_buffer_of_the_closure():
    buffer = torch.ones(3, dtype=torch.float64)

    def f(x):
        buffer[:2] = x[1:]
        return buffer * 2

    detection = found(f, randn(3))
    assert matrix(detection).tolist() == [
        [False, True, False],
        [False, False, True],
        [False, False, False],
    ]
    assert buffer.tolist() == [1.0, 1.0, 1.0]
    assert is_untouched(buffer)
    assert not buffer.requires_grad


# --- Modules ----------------------------------------------------------------------------


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def check_module(module: nn.Module, f: Function, *inputs: Tensor) -> Detection:
    """A module, whose parameters and buffers stay as they are."""
    before = state_of(module)
    detection = holds(f, *inputs)
    module.load_state_dict(before)
    detect(bind("test", f, inputs[0]))
    for name, tensor in module.state_dict(keep_vars=True).items():
        assert torch.equal(tensor, before[name]), name
        assert is_untouched(tensor)
    return detection


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_network_is_causal(kind):
    module = kind(2, 3, dtype=torch.float64)
    detection = check_module(module, lambda x: module(x)[0], randn(4, 2, 2))
    expected = np.kron(np.tri(4, dtype=bool), np.kron(np.eye(2, dtype=bool), np.ones((3, 2), bool)))
    assert np.array_equal(matrix(detection), expected)


def test_bidirectional_network_keeps_the_batch_apart():
    module = nn.LSTM(2, 2, num_layers=2, bidirectional=True, dtype=torch.float64)
    detection = check_module(module, lambda x: module(x)[0], randn(3, 2, 2))
    assert detection.pattern.nnz == 3 * 3 * 2 * 4 * 2


@pytest.mark.parametrize("train", [True, False])
def test_multihead_attention_keeps_the_batch_apart(train):
    module = nn.MultiheadAttention(4, 2, batch_first=True, dtype=torch.float64).train(train)
    detection = check_module(module, lambda x: module(x, x, x)[0], randn(2, 3, 4))
    assert np.array_equal(matrix(detection), np.kron(np.eye(2), np.ones((12, 12))))


@pytest.mark.parametrize("train", [True, False])
def test_transformer_layer_keeps_the_batch_apart(train):
    module = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dtype=torch.float64)
    module.train(train)
    detection = check_module(module, module, randn(2, 3, 4))
    assert np.array_equal(matrix(detection), np.kron(np.eye(2), np.ones((12, 12))))


@pytest.mark.parametrize(("train", "nnz"), [(True, 2 * 6 * 6), (False, 12)])
def test_batch_norm(train, nnz):
    module = nn.BatchNorm1d(2, dtype=torch.float64).train(train)
    detection = check_module(module, module, randn(2, 2, 3))
    assert detection.pattern.nnz == nnz


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_parametrized_layer(norm):
    module = norm(nn.Linear(3, 2, dtype=torch.float64))
    detection = check_module(module, module, randn(2, 3))
    assert np.array_equal(matrix(detection), np.kron(np.eye(2), np.ones((2, 3))))


# --- Kinds of tensors -------------------------------------------------------------------

EDGES = torch.tensor([[0, 1, 2, 2], [1, 2, 0, 2]])


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_constant_sparse_matrix(layout):
    matrix = torch.sparse_coo_tensor(EDGES, torch.ones(4, dtype=torch.float64), (3, 3))
    matrix = matrix.coalesce() if layout == torch.sparse_coo else matrix.to_sparse_csr()
    check(lambda x: torch.sparse.mm(matrix, x.sin()), randn(3, 2))
    check(lambda x: matrix @ x, randn(3))
    assert not hasattr(matrix, "_torchjac_number")


def test_mixed_precision():
    check(lambda x: x.float().sin().double() * x.roll(1), randn(4))


def test_float32_input_of_a_float64_function():
    detection = found(lambda x: x.double().sin(), randn(4, dtype=torch.float32))
    assert matrix(detection).tolist() == np.eye(4).tolist()


def test_complex_intermediate():
    check(lambda x: torch.fft.fft(x, dim=-1).conj().abs(), randn(2, 3))


def test_the_input_itself():
    check(lambda x: x, randn(3))


def test_the_input_and_a_constant():
    detection = found(lambda x: (x, torch.ones(2, dtype=x.dtype)), randn(3))
    assert matrix(detection).tolist() == np.eye(5, 3).tolist()


def test_constant_alone():
    assert found(lambda _: torch.ones(2), randn(3)).pattern.shape == (2, 3)


def test_scalars():
    check(lambda x: x.sin(), torch.tensor(0.5, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0)])
def test_empty_input(shape):
    detection = found(lambda x: x.sum(-1) * 2, torch.zeros(shape))
    assert detection.pattern.nnz == 0


def test_several_inputs_and_outputs():
    check(lambda x, y: (x * y.sum(), y.flip(0)), randn(2), randn(3))


def test_inputs_as_a_dictionary():
    x = {"a": randn(2), "b": randn(2)}
    detection = detect(bind("test", lambda d: d["a"] * d["b"], x))
    assert matrix(detection).tolist() == np.tile(np.eye(2), 2).tolist()


def test_nothing_is_left_on_constants_of_the_closure():
    weight = randn(3, 3).requires_grad_()
    found(lambda x: x @ weight, randn(3))
    assert not hasattr(weight, "_torchjac_number")
    assert weight.grad is None


def test_a_function_that_raises_leaves_nothing():
    weight = randn(3)

    def f(x):
        raise ValueError(f"mine {(x * weight).shape}")

    with pytest.raises(ValueError, match="mine"):
        detect(bind("test", f, randn(3)))
    assert not hasattr(weight, "_torchjac_number")
    assert torchjac.jacobian(lambda x: x * weight, randn(3)).shape == (3, 3)


def test_zeros_that_pytorch_keeps_without_memory():
    # Inside of a dispatch mode PyTorch 2.13 crashes on a product with them.
    x = torch.randn(4, dtype=torch.float64)
    found = detect(bind("test", lambda x: torch.ldexp(x, torch.arange(4)), x))
    assert (found.direction, found.pattern.nnz) == ("jvp", 4)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[x.argmax()] * x,
        lambda x: x[x.argmax() :].sum() * x,
        lambda x: x.narrow(0, x.argmax(), 1) * x,
        lambda x: x.select(0, x.argmax()) * x,
        lambda x: x.view(1, 3)[0, x.argmax()] * x,
    ],
)
def test_numbers_that_pytorch_takes_out_of_tensors_are_read(function):
    x = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)
    assert detect(bind("test", function, x)).program.reads == (1,)


def test_an_index_written_to_is_read():
    def function(x):
        y = torch.zeros_like(x)
        y[x.argmax()] = x[0] * x[1]
        return y

    x = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)
    assert detect(bind("test", function, x)).program.reads == (1,)


def test_constants_that_pytorch_reads_are_no_branches():
    number, x = torch.tensor(1), torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)
    assert detect(bind("test", lambda x: x[number] * x, x)).program.reads == ()


MASK = torch.tensor([True, False, True])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[MASK] * x[0],
        lambda x: x.masked_select(MASK) * x[0],
        lambda x: torch.masked_select(x, mask=MASK) * x[0],
        lambda x: x[torch.nonzero(MASK)] * x[0],
        lambda x: x[torch.where(MASK)] * x[0],
        lambda x: x.repeat_interleave(torch.tensor([2, 0, 1])) * x[0],
        lambda x: x.clone().index_put_((~MASK,), x[1] * x[~MASK]),
    ],
)
def test_sizes_that_constants_decide_are_no_branches(function):
    x = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)
    assert detect(bind("test", function, x)).program.reads == ()


def _early_view(x):
    mask = torch.zeros(3, dtype=torch.bool)
    view = mask[:]
    mask.copy_(x > 1.5)
    return x[view] * x[0]


def _borrowed(x):
    mask = torch.from_numpy(np.from_dlpack(x.detach()) > 1.5)
    return x[mask] * x[0]


def _in_a_transform(x):
    return torch.func.vmap(lambda y: x[x > 1.5] * y)(x).sum(0)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[x > 1.5] * x[0],
        lambda x: x.masked_select(x > 1.5) * x[0],
        lambda x: x[torch.nonzero(x > 1.5)] * x[0],
        lambda x: x[torch.where(x > 1.5)] * x[0],
        lambda x: x.repeat_interleave((x > 1.5).long()) * x[0],
        lambda x: torch.repeat_interleave((x > 1.5).long()) * x[0],
        lambda x: x[torch.rand(3) < 2] * x[0],
        _early_view,
        _borrowed,
        _in_a_transform,
    ],
)
def test_sizes_that_anything_else_decides_are_branches(function):
    x = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)
    assert detect(bind("test", function, x)).program.reads != ()


def test_what_is_read_in_order_to_read_counts_once():
    x = torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)
    assert detect(bind("test", lambda x: x * x.sum().item(), x)).program.reads == ("6.0",)

"""Gram matrices and tangent kernels against the dense Jacobians that they are made of."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torchjac
from torchjac import errors, gram, ntk
from torchjac._evaluate import streams
from torchjac._evaluate.kernel import factors, places
from torchjac._evaluate.memory import MemoryMeter

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5}


def off(ours: Tensor, true: Tensor) -> float:
    """Relative difference, infinite where shapes or dtypes differ."""
    if ours.shape != true.shape or ours.dtype != true.dtype:
        return float("inf")
    return float((ours.detach() - true.detach()).norm() / true.detach().norm().clamp_min(1e-30))


def dense(output: Any, leaves: list[Tensor]) -> Tensor:
    """The Jacobian row by row, everything raveled."""
    rows = []
    for value in torch.cat(
        [t.reshape(-1) for t in ([output] if isinstance(output, Tensor) else output)]
    ):
        grads = torch.autograd.grad(value, leaves, retain_graph=True, allow_unused=True)
        parts = [
            torch.zeros_like(x) if g is None else g for g, x in zip(grads, leaves, strict=True)
        ]
        rows.append(torch.cat([part.to_dense().reshape(-1) for part in parts]))
    return torch.stack(rows)


# gram


def wide(x: Tensor) -> Tensor:
    return (x.sin().cumsum(0) * x.sum())[:3]


def tall(x: Tensor) -> Tensor:
    return torch.outer(torch.linspace(0, 1, 7, dtype=x.dtype), x).exp() * x.prod()


def several(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return x @ y, (x * 2).sum(), y.T.tanh()


def turned(x: Tensor) -> Tensor:
    return x.flip(0) ** 2


FUNCTIONS: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "wide": (wide, (torch.linspace(-1, 1, 5, dtype=torch.float64),)),
    "tall": (tall, (torch.tensor([0.5, -0.3, 0.7], dtype=torch.float64),)),
    "several": (
        several,
        (
            torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3),
            torch.linspace(0, 1, 6, dtype=torch.float64).reshape(3, 2),
        ),
    ),
    "not contiguous": (turned, (torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3).T,)),
    "scalar": (torch.square, (torch.tensor(3.0, dtype=torch.float64),)),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "at once": {},
    "one seed": {"chunk_size": 1},
    "two seeds": {"chunk_size": 2},
    "one chunk": {"chunk_size": 100},
    "budget": {"memory": 10**7},
    "differentiable": {"create_graph": True},
}
WAYS = {"inputs": 2, "outputs": 3}


def weights_for(size: int, dtype: torch.dtype) -> list[tuple[Any, Tensor]]:
    """What a user may give, and the matrix that it stands for."""
    torch.manual_seed(1)
    diagonal, matrix = torch.rand(size, dtype=dtype), torch.randn(size, size, dtype=dtype)
    both = matrix + matrix.T
    return [
        (None, torch.eye(size, dtype=dtype)),
        (diagonal, torch.diag(diagonal)),
        (matrix, matrix),
        (lambda v: both @ v, both),
    ]


def reference(func: Callable[..., Any], inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    output = func(*leaves)
    flat = [output] if isinstance(output, Tensor) else output
    return dense(output, leaves), torch.cat([t.detach().reshape(-1) for t in flat])


def given(inputs: tuple[Tensor, ...]) -> Any:
    return inputs[0] if len(inputs) == 1 else inputs


@pytest.mark.parametrize("over", ["inputs", "outputs"])
@pytest.mark.parametrize(
    ("options", "dtype"),
    [*((name, torch.float64) for name in OPTIONS), ("at once", torch.float32)],
)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gram_is_the_product_of_the_dense_jacobian(name, options, dtype, over):
    func, inputs = FUNCTIONS[name]
    inputs = tuple(x.to(dtype) for x in inputs)
    jacobian, value = reference(func, inputs)
    side = jacobian if over == "inputs" else jacobian.T
    for weight, matrix in weights_for(side.shape[0], dtype):
        ours, gradient = gram(
            func, given(inputs), over=over, weight=weight, residual=lambda y: y, **OPTIONS[options]
        )
        assert off(ours, side.T @ matrix @ side) < TOLERANCE[dtype]
        assert off(gradient, jacobian.T @ value) < 10 * TOLERANCE[dtype]


@pytest.mark.parametrize("chunk_size", [2, 100])
@pytest.mark.parametrize(
    ("over", "way"), [(o, w) for o, count in WAYS.items() for w in range(count)]
)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_way_to_stream_gives_the_same(name, over, way, chunk_size, monkeypatch):
    func, inputs = FUNCTIONS[name]
    jacobian, value = reference(func, inputs)
    side = jacobian if over == "inputs" else jacobian.T
    ways = streams.Streams._ways

    def only_this(self: streams.Streams) -> list[streams.Way]:
        known = ways(self)
        return [w._replace(cost=0.0 if k == way else 9.0) for k, w in enumerate(known)]

    monkeypatch.setattr(streams.Streams, "_ways", only_this)
    for weight, matrix in weights_for(side.shape[0], torch.float64):
        ours, gradient = gram(
            func,
            given(inputs),
            over=over,
            weight=weight,
            residual=lambda y: y,
            chunk_size=chunk_size,
        )
        assert off(ours, side.T @ matrix @ side) < 1e-12
        assert off(gradient, jacobian.T @ value) < 1e-12


def test_the_jacobian_is_never_held():
    weight = torch.linspace(-1, 1, 3000 * 20).reshape(3000, 20).sin()
    x = torch.linspace(0, 1, 20)
    with MemoryMeter() as meter, torchjac.record() as runs:
        ours = gram(lambda x: (weight @ x).tanh(), x, over="inputs", chunk_size=50)
    assert off(ours, gram(lambda x: (weight @ x).tanh(), x)) < 1e-5
    assert runs[0].chunk_size <= 50
    assert runs[0].result_bytes == 20 * 20 * 4
    assert meter.peak_bytes < 20 * 3000 * 4 * 8  # a pass of a seed holds what the function does


@pytest.mark.parametrize("options", [{}, {"create_graph": True, "memory": 2**20}])
def test_a_matrix_that_cannot_fit_is_refused_before_any_pass(options):
    with pytest.raises(errors.MemoryBudgetError, match="gram: the matrix needs"):
        gram(lambda x: x.sum(), torch.ones(2**20), **options)


def test_a_sum_over_rows_takes_one_sweep_for_matrix_and_gradient():
    calls = []

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x**2

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, g):
            calls.append(1)
            return 2 * ctx.saved_tensors[0] * g

        generate_vmap_rule = True

    x = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    gram(lambda x: Counted.apply(x)[:2], x, chunk_size=1, residual=lambda y: y)
    assert len(calls) == 3  # two rows, and the product that they are compared with


def test_gauss_newton_step_of_a_linear_model_is_the_least_squares_solution():
    torch.manual_seed(0)
    design, data = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    start = torch.zeros(3, dtype=torch.float64)
    matrix, gradient = gram(lambda p: design @ p - data, start, residual=lambda r: r)
    step = torch.linalg.solve(matrix, -gradient)
    assert off(step, torch.linalg.lstsq(design, data[:, None]).solution[:, 0]) < 1e-12


def test_error_propagation_of_a_product_and_a_sum():
    variances = torch.tensor([0.01, 0.04])
    point = torch.tensor([2.0, 3.0])
    ours = gram(lambda x: torch.stack([x.prod(), x.sum()]), point, over="outputs", weight=variances)
    # d(xy) = 3 dx + 2 dy, d(x+y) = dx + dy
    assert off(ours, torch.tensor([[0.25, 0.11], [0.11, 0.05]])) < 1e-6


def test_a_residual_may_be_a_tree_of_tensors():
    x = torch.tensor([1.0, 2.0])
    _, gradient = gram(
        lambda x: {"a": x**2, "b": x.sum()}, x, residual={"a": torch.ones(2), "b": torch.ones(())}
    )
    assert gradient.tolist() == [3.0, 5.0]


def test_parameters_of_a_module_are_raveled_in_their_order():
    torch.manual_seed(0)
    layer = nn.Linear(2, 2)
    x = torch.tensor([[1.0, 2.0]])
    jacobian = dense(layer(x), list(layer.parameters()))
    assert off(gram(layer, x, wrt=layer), (jacobian.T @ jacobian).detach()) < 1e-6


def test_named_arguments_and_aux():
    matrix, aux = gram(
        lambda x, y: (x * y, "told"), (torch.ones(2), torch.full((2,), 3.0)), wrt="x", has_aux=True
    )
    assert matrix.tolist() == [[9.0, 0.0], [0.0, 9.0]]
    assert aux == "told"


def test_gram_differentiates():
    x = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    gram(lambda x: x**2, x, create_graph=True).trace().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [8.0, 16.0]  # of 4 x^2


def test_gram_inside_vmap():
    points = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    ours = torch.vmap(lambda x: gram(lambda x: x**2, x))(points)
    assert off(ours, torch.diag_embed(4 * points**2)) == 0.0


def test_a_wrong_forward_rule_is_found_out():
    from tests.mistaken import WrongJvp

    x = torch.ones(2, dtype=torch.float64)
    with pytest.warns(errors.DisagreementWarning, match="forward and reverse mode disagree"):
        ours = gram(lambda x: WrongJvp.apply(x).repeat(20), x, chunk_size=2)
    assert ours.tolist() == [[80.0, 0.0], [0.0, 80.0]]


def test_without_a_forward_rule_rows_are_paired():
    class NoForward(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x**2

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, g):
            return 2 * ctx.saved_tensors[0] * g

    x = torch.linspace(1, 2, 5, dtype=torch.float64)
    with pytest.warns(errors.FallbackWarning, match="gram: computed by reverse-mode/vmap"):
        ours = gram(NoForward.apply, x, over="outputs", chunk_size=2)
    assert off(ours, torch.diag(4 * x**2)) < 1e-12


def test_an_infinite_slope_stays_in_its_row():
    def func(x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:1].sqrt(), x * 3

    ours = gram(func, torch.zeros(1), over="outputs", chunk_size=1)
    assert ours[1, 1] == 9.0
    assert ours[0, 0] == torch.inf


def test_outputs_without_a_derivative_are_warned_of():
    with pytest.warns(errors.IndependenceWarning, match="gram: output 1 of `func`"):
        ours = gram(lambda x: (x, torch.ones(1)), torch.ones(2), over="outputs", chunk_size=1)
    assert ours.tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("options", [{}, {"chunk_size": 1}])
@pytest.mark.parametrize("over", ["inputs", "outputs"])
def test_inputs_and_outputs_without_elements(over, options):
    size = {"inputs": 0, "outputs": 2}[over]
    ours = gram(lambda x: x.sum() + torch.ones(2), torch.ones(0), over=over, **options)
    assert ours.tolist() == torch.zeros(size, size).tolist()
    size = {"inputs": 3, "outputs": 0}[over]
    ours, gradient = gram(
        lambda x: x[:0], torch.ones(3), over=over, residual=lambda y: y, **options
    )
    assert ours.tolist() == torch.zeros(size, size).tolist()
    assert gradient.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("options", [{}, {"chunk_size": 1}])
def test_weights_and_residuals_with_a_graph_leave_none(options):
    weight, residual = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    x = torch.tensor([1.0, 2.0])
    for matrix in (weight, torch.diag(weight), lambda v: weight[:, None] * v):
        ours, gradient = gram(lambda x: x**2, x, weight=matrix, residual=residual, **options)
        assert ours.tolist() == [[4.0, 0.0], [0.0, 16.0]]
        assert not (ours.requires_grad)
        assert not (gradient.requires_grad)


def test_the_derivative_of_a_weight():
    weight = torch.ones(2, requires_grad=True)
    x = torch.tensor([1.0, 2.0])
    gram(lambda x: x**2, x, weight=weight, create_graph=True).trace().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [4.0, 16.0]


@pytest.mark.parametrize("over", ["inputs", "outputs"])
def test_one_dropout_mask_for_all_passes(over):
    x = torch.linspace(1, 2, 6, dtype=torch.float64)

    def func(x: Tensor) -> Tensor:
        return F.dropout(x**2, 0.5).repeat(20)

    torch.manual_seed(3)
    ours = gram(func, x, over=over, chunk_size=2)
    torch.manual_seed(3)
    jacobian = torchjac.jacobian(func, x)
    side = jacobian if over == "inputs" else jacobian.T
    assert off(ours, side.T @ side) < 1e-12


@pytest.mark.parametrize("over", ["inputs", "outputs"])
def test_fused_attention_is_replaced(over):
    x = torch.linspace(-1, 1, 24).reshape(1, 1, 3, 8).sin()

    def func(x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x).sum(-1)

    with pytest.warns(errors.FallbackWarning, match="math attention"):
        ours = gram(func, x, over=over, chunk_size=2)
    jacobian, _ = reference(func, (x,))
    side = jacobian if over == "inputs" else jacobian.T
    assert off(ours, side.T @ side) < 1e-5


# ntk


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Embedding(7, 5)
        self.decode = nn.Linear(5, 7, bias=False)
        self.decode.weight = self.code.weight

    def forward(self, words: Tensor) -> Tensor:
        return self.decode(torch.tanh(self.code(words))).sum(1)


class Transposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.code(x)) @ self.code.weight


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.layer(x)))


class Decaying(nn.Module):
    """Uses a weight outside of its layer as well."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).tanh() + (self.layer.weight**2).sum()


class Functional(nn.Module):
    """Uses the weight of a layer that is never called, and a bias that is not the bias."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.layer.weight, self.layer.bias * 2).tanh() * self.layer.bias


class Elementwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, 5, 4))
        self.scale = nn.Parameter(torch.randn(4))
        self.factor = nn.Parameter(torch.randn(()))
        self.rows = nn.Parameter(torch.randn(5, 1))
        self.norm = nn.RMSNorm(4)

    def forward(self, x: Tensor) -> Tensor:
        return (self.norm((x + self.place) * self.scale).tanh() * self.factor * self.rows).sum(1)


class Images(nn.Module):
    """Writes in place after its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, (3, 2), padding=(1, 0), stride=(2, 1), groups=2)
        self.batch, self.group = nn.BatchNorm2d(4), nn.GroupNorm(2, 4)
        self.relu, self.out = nn.ReLU(inplace=True), nn.Linear(4, 3)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.relu(self.group(self.batch(self.relu(self.conv(x))))).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=batch_first)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        if self.batch_first:
            return self.block(x).mean(1)
        return self.block(x.transpose(0, 1)).mean(0)


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 2)
        self.first.weight.requires_grad_(False)
        self.second.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


class Unrecorded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.first(x)
        return self.second(x)


def mlp(*ends: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3), *ends)


def conv1() -> nn.Module:
    first, second = nn.Conv1d(4, 4, 3, padding="same", dilation=2), nn.Conv1d(4, 3, 2, stride=2)
    return nn.Sequential(first, nn.Tanh(), second, nn.Flatten())


def up() -> nn.Module:
    return nn.Sequential(nn.ConvTranspose1d(4, 2, 2, stride=2), nn.Tanh(), nn.Flatten())


def bilinear() -> nn.Module:
    return nn.Bilinear(4, 4, 2)


Make = Callable[[], nn.Module]
FLAT, ROWS, IMAGES = (4,), (5, 4), (2, 5, 4)
MODULES: dict[str, tuple[Make, tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 3), FLAT),
    "without bias": (lambda: nn.Linear(4, 3, bias=False), FLAT),
    "mlp": (mlp, FLAT),
    "one number": (lambda: mlp(nn.Linear(3, 1), nn.Flatten(0)), FLAT),
    "rows": (mlp, ROWS),
    "norm": (lambda: mlp(nn.LayerNorm(3), nn.Tanh()), ROWS),
    "norm of two axes": (lambda: nn.Sequential(nn.LayerNorm(ROWS), nn.Tanh()), ROWS),
    "prelu": (lambda: mlp(nn.PReLU()), FLAT),
    "conv 1d": (conv1, (4, 5)),
    "conv 1d transposed": (up, (4, 3)),
    "images": (Images, IMAGES),
    "conv 3d": (lambda: nn.Sequential(nn.Conv3d(2, 2, 2), nn.Flatten()), (2, 3, 2, 3)),
    "twice": (Twice, FLAT),
    "transposed": (Transposed, FLAT),
    "decaying": (Decaying, FLAT),
    "functional": (Functional, FLAT),
    "elementwise": (Elementwise, ROWS),
    "attention": (lambda: Attention(True), ROWS),
    "attention, batch second": (lambda: Attention(False), ROWS),
    "frozen": (Frozen, FLAT),
    "unrecorded": (Unrecorded, FLAT),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), FLAT),
    "words": (lambda: nn.Sequential(nn.Embedding(7, 4, padding_idx=2), mlp(), nn.Flatten()), ()),
    "tied words": (Tied, ()),
    "bilinear": (bilinear, FLAT),
}
SLOW = "ignore::torchjac.errors.FallbackWarning"


def samples(name: str, count: int, dtype: torch.dtype, seed: int) -> Any:
    shape = MODULES[name][1]
    generator = torch.Generator().manual_seed(seed)
    if not shape:
        return torch.randint(7, (count, 5), generator=generator)
    x = torch.randn(count, *shape, dtype=torch.float64, generator=generator).to(dtype)
    return (x, x.sin()) if name == "bilinear" else x


def module_of(name: str, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return MODULES[name][0]().to(dtype)


def rows_of(func: Callable[..., Tensor], module: nn.Module, x: Any) -> tuple[Tensor, torch.Size]:
    """Dense Jacobians of samples, (samples, outputs, parameters), and the shape of an output."""
    output = func(*x) if isinstance(x, tuple) else func(x)
    trained = [p for p in module.parameters() if p.requires_grad]
    return dense(output, trained).unflatten(0, (len(output), -1)), output.shape[1:]


def kernel(module: nn.Module, x1: Any, x2: Any, compute: str = "full") -> Tensor:
    (ours, shape), (theirs, _) = (rows_of(module, module, x) for x in (x1, x2))
    full = torch.einsum("aip,bjp->abij", ours, theirs)
    if compute == "trace":
        return torch.einsum("abii->ab", full)
    if compute == "diagonal":
        return torch.einsum("abii->abi", full).reshape(*full.shape[:2], *shape)
    return full.reshape(*full.shape[:2], *shape, *shape)


@pytest.mark.filterwarnings(SLOW)
@pytest.mark.parametrize(
    ("dtype", "compute"),
    [
        (torch.float64, "full"),
        (torch.float64, "diagonal"),
        (torch.float64, "trace"),
        (torch.float32, "full"),
    ],
)
@pytest.mark.parametrize("name", MODULES)
def test_ntk_is_the_product_of_dense_jacobians(name, dtype, compute):
    module = module_of(name, dtype)
    x1, x2 = samples(name, 4, dtype, 0), samples(name, 3, dtype, 1)
    assert off(ntk(module, x1, compute=compute), kernel(module, x1, x1, compute)) < TOLERANCE[dtype]
    ours = ntk(module, x1, x2, compute=compute)
    assert off(ours, kernel(module, x1, x2, compute)) < TOLERANCE[dtype]
    assert not ours.requires_grad


@pytest.mark.filterwarnings(SLOW)
@pytest.mark.parametrize(("first", "second"), [(1, 3), (3, 1), (5, None)])
@pytest.mark.parametrize("name", ["mlp", "rows", "images", "tied words", "decaying"])
def test_blocks_of_samples_give_the_same(name, first, second):
    module, dtype = module_of(name, torch.float64), torch.float64
    x1 = samples(name, first, dtype, 0)
    x2 = None if second is None else samples(name, second, dtype, 1)
    expected = kernel(module, x1, x1 if x2 is None else x2)
    for chunk_size in (1, 2):
        assert off(ntk(module, x1, x2, chunk_size=chunk_size), expected) < 1e-12
    assert off(ntk(module, x1, x2, memory=10**6), expected) < 1e-12


@pytest.mark.parametrize("compute", ["full", "diagonal", "trace"])
@pytest.mark.parametrize("name", ["rows", "images", "words", "twice"])
@pytest.mark.parametrize("pairs_first", [True, False])
def test_both_orders_of_a_contraction_give_the_same(name, compute, pairs_first, monkeypatch):
    monkeypatch.setattr(factors, "_costs", lambda *_: (0, 1) if pairs_first else (1, 0))
    monkeypatch.setattr(factors, "PAIRS", 64)
    monkeypatch.setattr(factors, "SUMS", 64)
    module = module_of(name, torch.float64)
    x1, x2 = (samples(name, count, torch.float64, count) for count in (4, 3))
    ours = ntk(module, x1, x2, compute=compute)
    assert off(ours, kernel(module, x1, x2, compute)) < 1e-12


def ways_of(name: str) -> torchjac.Evaluation:
    with torchjac.record() as runs:
        ntk(module_of(name, torch.float64), samples(name, 3, torch.float64, 0))
    return runs[0]


def test_layers_are_seen_in_what_is_recorded():
    told = ways_of("attention")
    assert told.method == "structure of layers"
    assert "block.self_attn.in_proj_weight, block.self_attn.in_proj_bias" in told.why
    assert told.refusals == ()


def test_a_weight_used_elsewhere_too_is_multiplied_out():
    told = ways_of("decaying")
    assert told.method == "structure of layers and single samples"
    assert told.why == "from layers: layer.bias; from single samples: layer.weight"
    assert [(r.method, r.reason) for r in told.refusals] == [
        ("layer of layer.weight", "used in PowBackward0, which no rule knows")
    ]


@pytest.mark.parametrize("name", ["rows", "twice", "tied words", "transposed", "images", "words"])
def test_structure_serves_every_parameter(name):
    assert ways_of(name).method == "structure of layers"


PLANTED = {
    "inputs": ("rows", ("AddmmBackward0", 2), lambda place: {"inputs": place.inputs.flip(0)}),
    "orientation": ("mlp", ("AddmmBackward0", 2), lambda place: {"inputs": place.inputs * 2}),
    "patches": ("images", ("ConvolutionBackward0", 1), lambda place: {"inputs": place.inputs + 1}),
    "scaling": ("norm", ("NativeLayerNormBackward0", 1), lambda place: {"factors": None}),
    "classes": ("words", ("EmbeddingBackward0", 0), lambda place: {"inputs": place.inputs.flip(0)}),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_wrong_structure_is_found_out_and_not_used(fault):
    from dataclasses import replace

    name, key, change = PLANTED[fault]
    rule = places._RULES[key]

    def wrong(use: Any, parameter: Tensor) -> Any:
        place = rule(use, parameter)
        return replace(place, **change(place))  # pyright: ignore[reportArgumentType]

    module, x = module_of(name, torch.float64), samples(name, 3, torch.float64, 0)
    with mock.patch.dict(places._RULES, {key: wrong}), torchjac.record() as runs:
        ours = ntk(module, x)
    assert off(ours, kernel(module, x, x)) < 1e-12
    assert "a backward pass" in runs[0].refusals[0].reason


def test_a_function_that_calls_the_module():
    module = module_of("mlp", torch.float64)
    x = samples("mlp", 3, torch.float64, 0)
    ours = ntk(lambda x: module(x * 2).sin(), x, wrt=module)
    rows, _ = rows_of(lambda x: module(x * 2).sin(), module, x)
    assert off(ours, torch.einsum("aip,bjp->abij", rows, rows)) < 1e-12


def test_running_statistics_stay_as_they_are():
    module = module_of("images", torch.float64)
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    ntk(module, samples("images", 3, torch.float64, 0))
    assert all(torch.equal(before[name], buffer) for name, buffer in module.named_buffers())
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_grad_mode_of_the_caller_does_not_matter(context):
    module = module_of("mlp", torch.float64)
    x = samples("mlp", 3, torch.float64, 0)
    expected = kernel(module, x, x)
    with context():
        ours = ntk(module, x)
    assert off(ours.clone(), expected) < 1e-12


def test_samples_that_are_not_contiguous():
    module = module_of("mlp", torch.float64)
    x = torch.randn(4, 3, dtype=torch.float64).T
    assert off(ntk(module, x), kernel(module, x, x)) < 1e-12


def test_a_sample_with_nan_spoils_no_other():
    module = module_of("mlp", torch.float64)
    x = samples("mlp", 3, torch.float64, 0)
    spoiled = x.clone()
    spoiled[1, 0] = torch.nan
    ours, others = ntk(module, spoiled), torch.tensor([0, 2])
    assert off(ours[others][:, others], ntk(module, x)[others][:, others]) < 1e-12
    assert ours[1].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    module = module_of("norm", dtype)
    ours = ntk(module, samples("norm", 3, dtype, 0))
    wide = module.double()
    x = samples("norm", 3, dtype, 0).double()
    assert ours.dtype == dtype
    assert off(ours.double(), kernel(wide, x, x)) < 0.05


def test_deep_networks_with_large_and_small_inputs():
    torch.manual_seed(0)
    layers = [part for _ in range(8) for part in (nn.Linear(16, 16), nn.LayerNorm(16), nn.ReLU())]
    module = nn.Sequential(*layers, nn.Linear(16, 2))
    for scale in (1e-6, 1.0, 1e5):
        x = scale * torch.randn(4, 16)
        with torchjac.record() as runs:
            ours = ntk(module, x)
        assert runs[0].method == "structure of layers"
        assert off(ours, kernel(module, x, x)) < 1e-4


def test_inputs_that_require_gradients():
    module = module_of("prelu", torch.float64)
    x = samples("prelu", 3, torch.float64, 0).requires_grad_()
    with pytest.warns(errors.FallbackWarning):
        ours = ntk(module, x)
    assert not ours.requires_grad
    assert x.grad is None


def test_a_module_that_takes_a_dict():
    module = module_of("mlp", torch.float64)
    x = samples("mlp", 3, torch.float64, 0)
    assert off(ntk(lambda d: module(d["x"]), {"x": x}, wrt=module), kernel(module, x, x)) < 1e-12


def test_checkpointed_layers_are_seen():
    from torch.utils.checkpoint import checkpoint

    module = module_of("mlp", torch.float64)
    x = samples("mlp", 3, torch.float64, 0)
    with torchjac.record() as runs:
        ours = ntk(lambda x: checkpoint(module, x, use_reentrant=False), x, wrt=module)
    assert off(ours, kernel(module, x, x)) < 1e-12
    assert runs[0].method == "structure of layers"


def test_no_samples():
    module = module_of("mlp", torch.float64)
    x = samples("mlp", 3, torch.float64, 0)
    assert ntk(module, x, x[:0]).shape == (3, 0, 3, 3)
    assert ntk(module, x[:0], compute="trace").shape == (0, 0)


def test_a_mean_over_the_batch_without_a_derivative_mixes_samples_too():
    module = module_of("mlp", torch.float64)
    with pytest.raises(errors.MixedSamplesError, match="among others"):
        ntk(
            lambda x: module(x - x.mean(0)),
            samples("mlp", 3, torch.float64, 0),
            wrt=module,
        )


def test_a_derivative_that_mixes_samples_is_refused():
    class Shared(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, g):
            return g - g.mean(0)

    module = module_of("mlp", torch.float64)
    with pytest.raises(errors.MixedSamplesError, match="derivative"):
        ntk(lambda x: Shared.apply(module(x)), samples("mlp", 3, torch.float64, 0), wrt=module)


def test_a_kernel_fits_its_budget():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 4))
    x = torch.randn(24, 3, 8, 8)
    budget = 400_000
    with MemoryMeter() as meter, torchjac.record() as runs:
        ours = ntk(module, x, memory=budget)
    assert runs[0].chunk_size < 24
    assert meter.peak_bytes <= budget + ours.nbytes  # beside the result, as everywhere
    assert off(ours, ntk(module, x)) < 1e-5

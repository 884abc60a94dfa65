"""Random small programs: every way to a derivative against differences, and against each other."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import torchjac
from torchjac import func, functional
from torchjac.errors import IndependenceWarning

STRATEGIES = ("auto", "reverse-mode", "forward-mode")
CHUNK_SIZES = (None, 1, 2, 5)
MAX_NUMEL = 24
LARGE = 20.0

# PyTorch's own words on ops that it batches slowly, in its transforms too.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")

# -- The grammar -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One statement: which values it takes, and what it does to them."""

    text: str
    operands: tuple[int, ...]
    apply: Callable[..., Tensor]


@dataclass(frozen=True)
class Program:
    """Statements over a list of values, the first of which are the inputs; all is smooth."""

    inputs: tuple[Tensor, ...]
    input_spec: Any
    steps: tuple[Step, ...]
    outputs: tuple[int, ...]
    output_spec: Any

    def __repr__(self):
        shapes = ", ".join(f"v{k} {tuple(x.shape)}" for k, x in enumerate(self.inputs))
        lines = [f"inputs {shapes} as {pytree.treespec_pprint(self.input_spec)}"]
        for k, step in enumerate(self.steps, len(self.inputs)):
            operands = ", ".join(f"v{i}" for i in step.operands)
            lines.append(f"v{k} = {step.text}({operands})")
        names = ", ".join(f"v{i}" for i in self.outputs)
        lines.append(f"return {names} as {pytree.treespec_pprint(self.output_spec)}")
        return "\n".join(lines)

    def _repr_pretty_(self, printer, cycle):
        printer.text(repr(self))

    def flat(self, *inputs):
        """Flat tensors in, a tuple of tensors out."""
        values = list(inputs)
        for step in self.steps:
            values.append(step.apply(*(values[i] for i in step.operands)))
        return tuple(values[i] for i in self.outputs)

    def scalar(self, *inputs):
        """One number that depends on every output in a curved way."""
        parts = [
            (y.reshape(-1) * torch.linspace(0.5, 1.5, y.numel(), dtype=y.dtype)).sum()
            for y in self.flat(*inputs)
        ]
        return sum((k + 1) * torch.sin(part / 4) for k, part in enumerate(parts))

    def __call__(self, *args):
        """Trees in and out, as the user of the library would write it."""
        outputs = self.flat(*pytree.tree_leaves(args))
        return pytree.tree_unflatten(outputs, self.output_spec)

    @property
    def arguments(self):
        """The inputs as handed to `jacobian`."""
        return pytree.tree_unflatten(self.inputs, self.input_spec)

    def nested(self, blocks):
        """Blocks nested as the library promises: outputs outside, inputs inside."""
        rows = [pytree.tree_unflatten(row, self.input_spec) for row in blocks]
        return pytree.tree_unflatten(rows, self.output_spec)


def constant(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator) / 2


POINTWISE = {
    "sin": torch.sin,
    "tanh": torch.tanh,
    "exp_half": lambda a: torch.exp(a / 2),
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "square": lambda a: a * a,
    "cube": lambda a: a**3,
    "atan": torch.atan,
    "log1p_square": lambda a: torch.log1p(a * a),
    "sqrt_square": lambda a: torch.sqrt(1 + a * a),
    "reciprocal": lambda a: 1 / (2 + a * a),
    "gelu": F.gelu,
    "erf": torch.erf,
    "negate": lambda a: -a,
    "double": lambda a: 2 * a,
    "to_float_and_back": lambda a: (a * 1.5).clone(),
    "polar": lambda a: torch.view_as_real(torch.exp(1j * a)),
    "checked_branch": lambda a: a.sin() if a.dim() > 1 else a.cos(),
}

PAIRS = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": lambda a, b: a / (2 + b * b),
    "hypot": lambda a, b: torch.sqrt(1 + a * a + b * b),
    "atan2": lambda a, b: torch.atan2(a, 3 + b * b),
    "addcmul": lambda a, b: torch.addcmul(a, a, b, value=0.5),
    "lerp": lambda a, b: torch.lerp(*torch.broadcast_tensors(a, b), 0.3),
    "logaddexp": torch.logaddexp,
    "where": lambda a, b: (
        torch.where(torch.arange((a + b).shape[-1] or 1) % 2 == 0, a, b) if (a + b).dim() else a * b
    ),
}

REDUCTIONS = {
    "sum": lambda a, d, k: a.sum(d, keepdim=k),
    "mean": lambda a, d, k: a.mean(d, keepdim=k),
    "logsumexp": lambda a, d, k: a.logsumexp(d, keepdim=k),
    "prod": lambda a, d, k: torch.tanh(a).prod(d, keepdim=k),
    "var": lambda a, d, k: a.var(d, unbiased=False, keepdim=k),
    "norm": lambda a, d, k: (1 + (a * a).sum(d, keepdim=k)).sqrt(),
    "vector_norm": lambda a, d, k: torch.linalg.vector_norm(a * a + 1, 3, d, keepdim=k),
}

# Without logcumsumexp, whose second derivative by PyTorch is wrong where a cotangent is zero.
SCANS = {
    "cumsum": lambda a, d: a.cumsum(d),
    "cumprod": lambda a, d: torch.cos(a).cumprod(d),
    "softmax": lambda a, d: a.softmax(d),
    "log_softmax": lambda a, d: a.log_softmax(d),
    "flip": lambda a, d: a.flip(d),
    "roll": lambda a, d: a.roll(1, d),
    "diff": lambda a, d: a.diff(dim=d, prepend=a.narrow(d, 0, 1)),
    "glu_like": lambda a, d: a * a.sum(d, keepdim=True).sigmoid(),
    "normalize": lambda a, d: F.normalize(a + 2, dim=d),
}


def draw_pointwise(draw, values):
    k = draw(st.integers(0, len(values) - 1))
    name = draw(st.sampled_from(sorted(POINTWISE)))
    return Step(name, (k,), POINTWISE[name])


def draw_pair(draw, values):
    i = draw(st.integers(0, len(values) - 1))
    j = draw(st.integers(0, len(values) - 1))
    try:
        shape = torch.broadcast_shapes(values[i].shape, values[j].shape)
    except RuntimeError:
        return None
    if math.prod(shape) > MAX_NUMEL:
        return None
    name = draw(st.sampled_from(sorted(PAIRS)))
    return Step(name, (i, j), PAIRS[name])


def draw_with_axis(draw, values):
    candidates = [k for k, v in enumerate(values) if v.dim()]
    if not candidates:
        return None
    k = draw(st.sampled_from(candidates))
    d = draw(st.integers(-values[k].dim(), values[k].dim() - 1))
    if draw(st.booleans()):
        name, keep = draw(st.sampled_from(sorted(REDUCTIONS))), draw(st.booleans())
        return Step(f"{name}[{d}, {keep}]", (k,), lambda a: REDUCTIONS[name](a, d, keep))
    name = draw(st.sampled_from(sorted(SCANS)))
    return Step(f"{name}[{d}]", (k,), lambda a: SCANS[name](a, d))


def draw_movement(draw, values):
    candidates = [k for k, v in enumerate(values) if v.dim()]
    if not candidates:
        return None
    k = draw(st.sampled_from(candidates))
    n, size = values[k].dim(), values[k].shape[-1]
    order = tuple(draw(st.permutations(range(n))))
    index = draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=4))
    kinds = {
        f"permute{order}": lambda a: a.permute(order),
        "flatten": lambda a: a.flatten(),
        "unsqueeze": lambda a: a.unsqueeze(order[0]),
        "last_to_front": lambda a: a.movedim(-1, 0).contiguous(),
        f"index{index}": lambda a: a[..., index],
        f"index_select{index}": lambda a: a.index_select(-1, torch.tensor(index)),
        "first": lambda a: a[..., 0],
        "every_other": lambda a: a[..., ::2],
        "narrow": lambda a: a.narrow(-1, size - 1, 1),
        "mask": lambda a: a * (torch.arange(size) % 2 == 0),
        "take_masked": lambda a: a[..., torch.arange(size) % 2 == 0],
        "gather": lambda a: a.gather(-1, torch.zeros_like(a, dtype=torch.long)),
        "pad": lambda a: F.pad(a, (1, 0)),
        "expand": lambda a: a.unsqueeze(0).expand(2, *a.shape),
        "repeat": lambda a: a.repeat(2, *[1] * (n - 1)),
        "tril": lambda a: a.tril() if n > 1 else a.diag(),
        "diagonal": lambda a: a.diagonal(0, 0, 1) if n > 1 else a,
        "unfold": lambda a: a.unfold(-1, 1, 1),
        "as_strided_view": lambda a: a.contiguous().view(-1).view(a.shape),
        "chunked": lambda a: a.chunk(2, -1)[0],
        "unbound": lambda a: torch.stack(a.unbind(-1)[::-1], -1),
    }
    name = draw(st.sampled_from(sorted(kinds)))
    return Step(name, (k,), kinds[name])


def draw_product(draw, values):
    candidates = [k for k, v in enumerate(values) if v.dim()]
    if not candidates:
        return None
    k = draw(st.sampled_from(candidates))
    shape = values[k].shape
    matrix = constant(draw(st.integers(0, 9)), shape[-1], draw(st.integers(1, 3)))
    kinds = {
        "matmul": lambda a: a @ matrix,
        "linear": lambda a: F.linear(a, matrix.mT, matrix.sum(0)),
        "einsum": lambda a: torch.einsum("...i,ij->j...", a, matrix),
        "tensordot": lambda a: torch.tensordot(a, matrix, dims=([-1], [0])),
        "outer": lambda a: a.flatten()[:3, None] * a.flatten()[None, :3],
        "layer_norm": lambda a: F.layer_norm(a, a.shape[-1:], eps=0.5),
        "convolution": lambda a: F.conv1d(a.reshape(1, 1, -1), matrix[None, :1, :1], padding=1),
        "fourier": lambda a: torch.view_as_real(torch.fft.rfft(a)),
    }
    if len(shape) > 1:
        kinds["gram"] = lambda a: a @ a.mT
        eye = torch.eye(shape[-2], dtype=torch.float64)
        small = lambda a: torch.tanh(a @ a.mT) / 4 + 3 * eye  # noqa: E731
        kinds["inverse"] = lambda a: torch.linalg.inv(small(a))
        kinds["solve"] = lambda a: torch.linalg.solve(small(a), a)
        kinds["logdet"] = lambda a: torch.logdet(small(a))
        kinds["cholesky"] = lambda a: torch.linalg.cholesky(a @ a.mT + 2 * eye)
        kinds["attention"] = lambda a: torch.softmax(a @ a.mT, -1) @ a
    name = draw(st.sampled_from(sorted(kinds)))
    return Step(name, (k,), kinds[name])


def draw_joined(draw, values):
    i = draw(st.integers(0, len(values) - 1))
    alike = [j for j, v in enumerate(values) if v.shape == values[i].shape]
    j = draw(st.sampled_from(alike))
    if 2 * values[i].numel() > MAX_NUMEL:
        return None
    if values[i].dim() and draw(st.booleans()):
        d = draw(st.integers(0, values[i].dim() - 1))
        return Step(f"cat[{d}]", (i, j), lambda a, b: torch.cat([a, b], d))
    return Step("stack", (i, j), lambda a, b: torch.stack([a, b.sin()], -1))


def doubled_start(a):
    copy = a.clone()
    copy[..., 0] = 2 * a[..., -1] * a[..., 0]
    return copy


def through_a_view(a):
    copy = a * 1.0
    copy.select(-1, 0).mul_(3).sin_()
    return copy


def scattered(a):
    index = torch.arange(a.shape[-1]) // 2
    return torch.zeros_like(a).index_add(-1, index, a * a)


def draw_in_place(draw, values):
    candidates = [k for k, v in enumerate(values) if v.dim()]
    if not candidates:
        return None
    k = draw(st.sampled_from(candidates))
    kinds = {"doubled_start": doubled_start, "through_a_view": through_a_view, "scatter": scattered}
    name = draw(st.sampled_from(sorted(kinds)))
    return Step(name, (k,), kinds[name])


KINDS = (
    draw_pointwise,
    draw_pair,
    draw_with_axis,
    draw_movement,
    draw_product,
    draw_joined,
    draw_in_place,
)


@st.composite
def trees(draw, count):
    """A tree with `count` leaves, numbered in flattening order."""
    leaves = list(range(count))
    kinds = {
        "tuple": tuple(leaves),
        "list": leaves,
        "dict": {f"k{i}": i for i in leaves},
        "nested": {"a": (leaves[0],), "b": [{"c": i} for i in leaves[1:]]},
        "pair": [tuple(leaves[:1]), tuple(leaves[1:])],
    }
    if count == 1:
        kinds["bare"] = 0
    return pytree.tree_flatten(kinds[draw(st.sampled_from(sorted(kinds)))])[1]


@st.composite
def programs(draw, max_inputs=3, max_steps=6):
    shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)
    count = draw(st.integers(1, max_inputs))
    seed = draw(st.integers(0, 99))
    inputs = tuple(constant(seed + 100 * k, *draw(shapes)) for k in range(count))
    values, steps = list(inputs), []
    for _ in range(draw(st.integers(1, max_steps))):
        step = draw(st.sampled_from(KINDS))(draw, values) or draw_pointwise(draw, values)
        value = step.apply(*(values[i] for i in step.operands))
        if value.numel() > MAX_NUMEL:
            continue
        steps.append(step)
        values.append(value)
        if value.abs().max() > LARGE:  # differences of large numbers are inaccurate
            steps.append(Step("tanh", (len(values) - 1,), torch.tanh))
            values.append(torch.tanh(value))
    last = len(values) - 1
    others = draw(st.lists(st.integers(0, last), max_size=2))
    outputs = (last, *others)
    return Program(inputs, draw(trees(count)), tuple(steps), outputs, draw(trees(len(outputs))))


# -- The slow independent answer ---------------------------------------------------------------


def differences(flat, inputs, h=1e-3):
    """blocks[i][j] by central differences, extrapolated: an error of order h^4."""
    inputs = [x.detach() for x in inputs]
    outputs = flat(*inputs)
    blocks = [[y.new_zeros(y.shape + x.shape) for x in inputs] for y in outputs]

    def central(j, c, h):
        ends = []
        for signed in (h, -h):
            moved = [x.clone() for x in inputs]
            moved[j].view(-1)[c] += signed
            ends.append(flat(*moved))
        return [(a - b) / (2 * h) for a, b in zip(*ends, strict=True)]

    for j, x in enumerate(inputs):
        for c in range(x.numel()):
            for i, (coarse, fine) in enumerate(
                zip(central(j, c, h), central(j, c, h / 2), strict=True)
            ):
                blocks[i][j].view(*outputs[i].shape, -1)[..., c] = (4 * fine - coarse) / 3
    return blocks


def assert_same(actual, expected):
    """Same tree, shapes and numbers, up to what differences reach."""
    assert pytree.tree_structure(actual) == pytree.tree_structure(expected)
    for ours, theirs in zip(pytree.tree_leaves(actual), pytree.tree_leaves(expected), strict=True):
        size = 1 + float(theirs.abs().max()) if theirs.numel() else 1.0
        torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-6, atol=1e-7 * size)


# -- Jacobians ---------------------------------------------------------------------------------


@given(program=programs())
def test_jacobian_equals_differences_for_every_strategy_and_chunk(program):
    expected = program.nested(differences(program.flat, program.inputs))

    for strategy in STRATEGIES:
        for chunk_size in CHUNK_SIZES:
            result = torchjac.jacobian(
                program, program.arguments, strategy=strategy, chunk_size=chunk_size
            )
            assert_same(result, expected)


@given(program=programs(), vectorize=st.booleans(), strategy=st.sampled_from(STRATEGIES))
def test_single_passes_equal_batched_ones(program, vectorize, strategy):
    result = torchjac.jacobian(program, program.arguments, vectorize=vectorize, strategy=strategy)

    assert_same(result, program.nested(differences(program.flat, program.inputs)))


@given(program=programs(), strategy=st.sampled_from(STRATEGIES))
def test_the_value_comes_with_the_jacobian(program, strategy):
    value, result = torchjac.value_and_jacobian(program, program.arguments, strategy=strategy)

    assert_same(value, pytree.tree_unflatten(program.flat(*program.inputs), program.output_spec))
    assert_same(result, program.nested(differences(program.flat, program.inputs)))


@given(program=programs(), chunk_size=st.sampled_from(CHUNK_SIZES))
def test_the_drop_ins_agree(program, chunk_size):
    expected = tuple(map(tuple, differences(program.flat, program.inputs)))
    numbers = tuple(range(len(program.inputs)))

    assert_same(functional.jacobian(program.flat, program.inputs), expected)
    assert_same(
        functional.jacobian(program.flat, program.inputs, vectorize=True, strategy="forward-mode"),
        expected,
    )
    assert_same(
        func.jacrev(program.flat, numbers, chunk_size=chunk_size)(*program.inputs), expected
    )
    assert_same(
        func.jacfwd(program.flat, numbers, chunk_size=chunk_size)(*program.inputs), expected
    )


@given(program=programs(), chunk_size=st.sampled_from(CHUNK_SIZES))
def test_jacobian_of_tensors_already_computed(program, chunk_size):
    leaves = [x.clone().requires_grad_() for x in program.inputs]
    outputs = program.flat(*leaves)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IndependenceWarning)  # programs may leave inputs unused
        result = torchjac.jacobian_of(outputs, leaves, chunk_size=chunk_size)

    assert_same(result, tuple(differences(program.flat, program.inputs)))


@given(program=programs(), data=st.data())
def test_wrt_picks_columns(program, data):
    numbers = data.draw(st.lists(st.integers(0, len(program.inputs) - 1), min_size=1, unique=True))
    blocks = differences(program.flat, program.inputs)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IndependenceWarning)  # what is named may be unused
        result = torchjac.jacobian(program.flat, program.inputs, wrt=numbers)

    assert_same(result, tuple(tuple(row[j] for j in numbers) for row in blocks))


@given(program=programs(), strategy=st.sampled_from(STRATEGIES))
def test_a_differentiable_jacobian_has_the_right_derivative(program, strategy):
    leaves = [x.clone().requires_grad_() for x in program.inputs]

    def curved(*inputs):
        return sum((y * y).sum() for y in functional_blocks(*inputs))

    def functional_blocks(*inputs):
        numbers = tuple(range(len(inputs)))
        rows = torch.func.jacrev(program.flat, numbers)(*inputs)
        return [block for row in rows for block in row]

    rows = torchjac.jacobian(program.flat, tuple(leaves), create_graph=True, strategy=strategy)
    total = sum((block * block).sum() for row in rows for block in row)
    if not total.requires_grad:  # a linear program
        total = total + 0 * sum(leaf.sum() for leaf in leaves)
    gradients = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)

    expected = differences(lambda *x: (curved(*x),), program.inputs)[0]
    assert_same(list(gradients), expected)


@given(program=programs(), size=st.integers(1, 3), chunk_size=st.sampled_from(CHUNK_SIZES))
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_samples_of_a_batch_equal_each_alone(strategy, program, size, chunk_size):
    batches = tuple(torch.stack([x + 0.3 * b for b in range(size)]) for x in program.inputs)
    alone = [differences(program.flat, [batch[b] for batch in batches]) for b in range(size)]
    expected = tuple(
        tuple(torch.stack([blocks[i][j] for blocks in alone]) for j in range(len(batches)))
        for i in range(len(program.outputs))
    )

    result = torchjac.batch_jacobian(
        torch.vmap(program.flat), batches, strategy=strategy, chunk_size=chunk_size
    )

    assert_same(result, expected)


@given(program=programs(), data=st.data())
def test_samples_lie_along_any_axis(program, data):
    in_dim = data.draw(st.integers(0, min(x.dim() for x in program.inputs)))
    outputs = program.flat(*program.inputs)
    out_dim = data.draw(st.integers(0, min(y.dim() for y in outputs)))
    batches = tuple(torch.stack([x, x + 0.3, x - 0.2], in_dim) for x in program.inputs)

    result = torchjac.batch_jacobian(
        torch.vmap(program.flat, in_dims=in_dim, out_dims=out_dim),
        batches,
        in_dim=in_dim,
        out_dim=out_dim,
    )

    numbers = tuple(range(len(batches)))
    assert_same(
        result, torch.func.vmap(torch.func.jacrev(program.flat, numbers), in_dims=in_dim)(*batches)
    )


@given(program=programs(), data=st.data())
def test_mixed_samples_are_refused(program, data):
    size = data.draw(st.integers(2, 4))
    batches = tuple(torch.stack([x + 0.3 * b for b in range(size)]) for x in program.inputs)
    source = data.draw(st.integers(0, size - 1))

    def mixing(*batches):
        outputs = torch.vmap(program.flat)(*batches)
        leak = sum(batch[source].sum() for batch in batches)
        return tuple(y + leak for y in outputs)

    with pytest.raises(torchjac.errors.MixedSamplesError):
        torchjac.batch_jacobian(mixing, batches)


# -- Second derivatives ------------------------------------------------------------------------


@given(program=programs(), chunk_size=st.sampled_from(CHUNK_SIZES))
def test_hessian_is_symmetric_and_equals_differences_of_the_gradient(program, chunk_size):
    numbers = tuple(range(len(program.inputs)))
    expected = differences(torch.func.grad(program.scalar, numbers), program.inputs)

    for strategy in STRATEGIES:
        result = torchjac.hessian(
            program.scalar,
            program.inputs,
            outer_jacobian_strategy=strategy,
            chunk_size=chunk_size,
        )
        assert_same(result, tuple(map(tuple, expected)))
        for i in numbers:
            for j in numbers:
                n = program.inputs[i].numel()
                block, mirrored = result[i][j].reshape(n, -1), result[j][i].reshape(-1, n)
                torch.testing.assert_close(block, mirrored.T, rtol=1e-9, atol=1e-9)


@given(program=programs())
def test_the_drop_in_hessians_agree(program):
    numbers = tuple(range(len(program.inputs)))
    expected = torch.func.hessian(program.scalar, numbers)(*program.inputs)

    assert_same(functional.hessian(program.scalar, program.inputs), expected)
    assert_same(func.hessian(program.scalar, numbers)(*program.inputs), expected)
    assert_same(torchjac.hessian(program.scalar, program.inputs), expected)


@given(program=programs())
def test_gradient_is_the_jacobian_of_a_scalar(program):
    (expected,) = differences(lambda *x: (program.scalar(*x),), program.inputs)

    assert_same(torchjac.gradient(program.scalar, program.inputs), tuple(expected))
    assert_same(torchjac.jacobian(program.scalar, program.inputs), tuple(expected))


# -- Calculus, differences and the check -------------------------------------------------------


@given(program=programs(max_inputs=1), chunk_size=st.sampled_from(CHUNK_SIZES))
def test_diagonals_and_traces_are_those_of_the_jacobian(program, chunk_size):
    (x,) = program.inputs

    def field(x):
        return x.sin() * program.scalar(x) + x.flip(tuple(range(x.dim())))

    n = x.numel()
    full = differences(lambda x: (field(x),), [x])[0][0].reshape(n, n)

    assert_same(torchjac.diagonal(field, x, chunk_size=chunk_size), full.diagonal().view(x.shape))
    assert_same(torchjac.divergence(field, x, chunk_size=chunk_size), full.trace())


# Writing in place to a tangent of zeros is beyond forward mode over forward mode.
@pytest.mark.filterwarnings("ignore::torchjac.errors.FallbackWarning")
@given(program=programs(max_inputs=1), chunk_size=st.sampled_from(CHUNK_SIZES))
def test_the_laplacian_is_the_trace_of_the_hessian(program, chunk_size):
    (x,) = program.inputs
    n = x.numel()

    def several(x):
        return torch.stack([program.scalar(x), program.scalar(2 * x)])

    hessian = differences(lambda x: (torch.func.jacrev(several)(x),), [x])[0][0]

    expected = hessian.reshape(2, n, n).diagonal(dim1=1, dim2=2).sum(-1)
    assert_same(torchjac.laplacian(several, x, chunk_size=chunk_size), expected)
    assert_same(torchjac.laplacian(program.scalar, x, chunk_size=chunk_size), expected[0])


@given(program=programs(), method=st.sampled_from(["forward", "central"]))
def test_finite_differences_reach_their_accuracy(program, method):
    expected = program.nested(differences(program.flat, program.inputs))

    result = torchjac.finite_difference(program, program.arguments, method)

    assert pytree.tree_structure(result) == pytree.tree_structure(expected)
    allowed = {"forward": 1e-4, "central": 1e-6}[method]
    for ours, theirs in zip(pytree.tree_leaves(result), pytree.tree_leaves(expected), strict=True):
        size = 1 + float(theirs.abs().max())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=allowed * size)


@given(program=programs())
def test_check_agrees_with_smooth_functions(program):
    report = torchjac.check(program, program.arguments)

    assert report, str(report)


@given(program=programs(), seed=st.integers(0, 9))
def test_check_finds_a_hidden_dependence(program, seed):
    def hiding(*args):
        outputs = program(*args)
        hidden = sum(
            (x.detach() * constant(seed, *x.shape)).sum() for x in pytree.tree_leaves(args)
        )
        return pytree.tree_map(lambda y: y + hidden, outputs)

    report = torchjac.check(hiding, program.arguments)

    assert not report, str(report)

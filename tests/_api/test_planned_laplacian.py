"""`plan_laplacian` against second derivatives by reverse mode over reverse mode."""

import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import torchjac
from torchjac.errors import ArgumentTypeError, BranchWarning, FallbackWarning, PlanMismatchError


def points(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def of(module):
    """A module with weights of its own, in double precision."""
    torch.manual_seed(1)
    made = module()
    for part in made.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    return made.double().requires_grad_(False)


def perceptron(activation, inputs=3, outputs=2):
    return of(
        lambda: nn.Sequential(
            nn.Linear(inputs, 5), activation, nn.Linear(5, 6), activation, nn.Linear(6, outputs)
        )
    )


def by_double_backward(func, x):
    """One backward pass for each output and each axis."""
    with sdpa_kernel(SDPBackend.MATH):
        leaf = x.detach().clone().requires_grad_()
        y = func(leaf.clone())
        found = torch.zeros(y.numel(), dtype=y.dtype)
        for o, element in enumerate(y.reshape(-1)):
            gradient = derivative(element, leaf).reshape(-1)
            diagonal = [derivative(g, leaf).reshape(-1)[i] for i, g in enumerate(gradient)]
            found[o] = sum(diagonal)
    return found.reshape(y.shape)


def derivative(y, x):
    if not y.requires_grad:
        return torch.zeros_like(x)
    (found,) = torch.autograd.grad(
        y, x, create_graph=True, allow_unused=True, materialize_grads=True
    )
    return found


class Cubed(torch.autograd.Function):
    """x^3 with a backward pass of its own, and no forward rule."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * g * x**2


def filled(x):
    result = torch.zeros(3, dtype=x.dtype)
    result[0] = x[0] * x[1]
    result[1:] = x[2:4] ** 3
    return result


def nested(x):
    return torch.einsum("ij,jk,ki->i", x, x, x)


LINE, MATRIX, BATCH, TOKENS = points(5), points(3, 3), points(4, 3), points(2, 3, 4)
MIXED = points(3, 3, seed=5)
SQUARE = MIXED @ MIXED.mT + torch.eye(3).double()
# Where second derivatives are not zero everywhere.
FUNCTIONS = {
    **{
        f"perceptron with {type(activation).__name__}": (perceptron(activation), BATCH)
        for activation in (
            nn.Tanh(), nn.SiLU(), nn.GELU(), nn.GELU("tanh"), nn.Softplus(), nn.Sigmoid(),
            nn.ELU(), nn.Mish(), nn.Softsign(), nn.LogSigmoid(),
        )
    },
    "product": (lambda x: x.prod(-1), BATCH),
    "cumulative sum": (lambda x: x.cumsum(-1) ** 3, BATCH),
    "cumulative product": (lambda x: x.cumprod(-1), BATCH),
    "softmax": (lambda x: x.softmax(-1), BATCH),
    "log_softmax": (lambda x: x.log_softmax(-1), BATCH),
    "logsumexp": (lambda x: x.logsumexp(-1), BATCH),
    "layer norm": (of(lambda: nn.LayerNorm(4)), TOKENS),
    "batch norm in evaluation": (of(lambda: nn.BatchNorm1d(3).eval()), BATCH.sin()),
    "instance norm": (of(lambda: nn.InstanceNorm1d(3)), TOKENS),
    "group norm": (of(lambda: nn.GroupNorm(2, 4)), TOKENS.mT.contiguous()),
    "attention": (
        lambda x: F.scaled_dot_product_attention(x[:, None], x[:, None].sin(), x[:, None]),
        TOKENS,
    ),
    "causal attention": (
        lambda x: F.scaled_dot_product_attention(*[x[:, None]] * 3, is_causal=True),
        TOKENS,
    ),
    "transformer": (
        of(lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True, norm_first=True)),
        TOKENS[:1],
    ),
    "convolution": (lambda x: F.conv1d(x, MIXED[None]).sin(), points(2, 3, 5)),
    "transposed convolution": (
        lambda x: F.conv_transpose1d(x, MIXED[None].mT[0, :, None]).sin(),
        points(2, 3, 4),
    ),
    "convolution by itself": (lambda x: F.conv1d(x, x[:1, :, :2]), points(1, 2, 4)),
    "quotient": (lambda x: x[0] / (1 + x[1:] ** 2), LINE),
    "norm": (lambda x: x.norm(dim=-1), BATCH),
    "normalized": (lambda x: F.normalize(x, dim=-1), BATCH),
    "gathered": (lambda x: x[[0, 2, 2]] * x[[1, 1, 0]] ** 2, LINE),
    "added by index": (
        lambda x: torch.zeros(3).double().index_add(0, torch.tensor([0, 1, 2, 0, 1]), x**3),
        LINE,
    ),
    "matrix used three times": (lambda x: x @ x.mT @ x, MATRIX),
    "einsum of three": (nested, MATRIX),
    "outer product": (lambda x: torch.outer(x, x.sin()), LINE),
    "determinant": (torch.det, MATRIX),
    "logarithm of a determinant": (lambda x: torch.linalg.slogdet(x)[1], MATRIX),
    "linear system": (lambda x: torch.linalg.solve(x, x[0]), MATRIX),
    "system with a constant matrix": (lambda x: torch.linalg.solve(SQUARE, x**3), points(3)),
    "inverse": (torch.inverse, SQUARE),
    "cholesky": (lambda x: torch.linalg.cholesky(x @ x.mT + SQUARE), MATRIX),
    "eigenvalues": (lambda x: torch.linalg.eigvalsh(x + x.mT), MATRIX),
    "spectrum": (lambda x: torch.fft.rfft(x**3).abs(), LINE),
    "complex numbers inside": (lambda x: torch.complex(x, x**2).abs(), LINE),
    "own backward pass": (lambda x: Cubed.apply(x) * x, LINE),
    "largest": (lambda x: x.max() ** 3 * x, LINE),
    "sorted": (lambda x: x.sort()[0] ** 3 * x, LINE),
    "pooled": (lambda x: F.max_pool1d(x[None, None], 2) ** 3, LINE),
    "chosen": (lambda x: torch.where(x > 0, x**3, x**2), LINE),
    "written in place": (filled, LINE),
    "rolled": (lambda x: x.roll(1) * x + x.roll(-1) ** 3, LINE),
    "recurrent": (of(lambda: nn.GRUCell(3, 3)), BATCH),
    "power": (lambda x: (x.abs() + 1) ** x, LINE),
    "variance": (lambda x: x.var(-1) * x.std(-1), BATCH),
    "cross entropy": (lambda x: F.cross_entropy(x, torch.tensor([0, 1, 2, 0])), BATCH),
    "scalar": (lambda x: x**3, points()),
    "one element": (torch.sin, points(1)),
    "transposed": (perceptron(nn.Tanh()), points(3, 4).mT),
    "expanded": (perceptron(nn.Tanh()), points(1, 3).expand(4, 3)),
    "every other": (torch.sin, points(10)[::2]),
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_program_gives_the_trace_of_each_hessian(name):
    func, x = FUNCTIONS[name]
    with sdpa_kernel(SDPBackend.MATH):
        plan = torchjac.plan_laplacian(func, x)
    assert plan.method == "collapsed forward mode, replay"
    for point in (x, 0.9 * x + 0.05):
        torch.testing.assert_close(plan(point), by_double_backward(func, point))


@pytest.mark.parametrize(
    "func", [lambda x: 2 * x + 1, lambda x: x.sum() * torch.ones(2), lambda x: torch.ones(3),
             lambda x: x[0] * x[1:], torch.zeros_like],
)  # fmt: skip
def test_without_second_derivatives_on_the_diagonal_there_are_no_seeds(func):
    x = points(4)
    plan = torchjac.plan_laplacian(func, x)
    assert plan.seeds == 0
    assert plan(x + 1).equal(torch.zeros_like(func(x)))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_no_points_and_points_without_axes(shape):
    plan = torchjac.plan_laplacian(lambda x: (x**3).sum(-1), torch.zeros(shape))
    assert plan(torch.zeros(shape)).equal(torch.zeros(shape[0]))


def test_single_precision():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 64), nn.SiLU(), nn.LayerNorm(64), nn.Linear(64, 1))
    x = points(20, 10, dtype=torch.float32)
    result = torchjac.plan_laplacian(net, x)(x)
    assert result.dtype == torch.float32
    expected = torchjac.laplacian(net.double(), x.double(), batch_dim=0)
    torch.testing.assert_close(result.double(), expected, rtol=1e-4, atol=1e-5)


def test_samples_share_seeds():
    net = perceptron(nn.Tanh(), inputs=7)
    assert torchjac.plan_laplacian(net, points(50, 7)).seeds == 7


def test_a_chain_of_ten_thousand_takes_two_seeds():
    def rosenbrock(x):
        return ((1 - x[:-1]) ** 2 + 100 * (x[1:] - x[:-1] ** 2) ** 2).sum()

    x = torch.linspace(-1, 1, 10_000, dtype=torch.float64)
    plan = torchjac.plan_laplacian(rosenbrock, x)
    expected = (2 + 1200 * x[:-1] ** 2 - 400 * x[1:]).sum() + 200 * 9_999
    assert plan.seeds == 2
    torch.testing.assert_close(plan(x), expected)


def test_a_function_of_each_element_takes_one_seed():
    x = points(3, 100)
    plan = torchjac.plan_laplacian(lambda x: x.sin().exp(), x)
    assert plan.seeds == 1
    torch.testing.assert_close(plan(x), x.sin().exp() * (x.cos() ** 2 - x.sin()))


def test_a_large_dense_hessian_without_a_pattern_to_color():
    weights = points(4, 600)
    x = points(600, seed=2)
    plan = torchjac.plan_laplacian(lambda x: (weights @ x / 20).tanh().sum(), x)
    inner = (weights @ x / 20).tanh()
    expected = (-2 * inner * (1 - inner**2) * (weights / 20).square().sum(1)).sum()
    assert plan.seeds == 600
    torch.testing.assert_close(plan(x), expected)


def test_the_result_of_a_compiled_plan():
    net, x = perceptron(nn.GELU(), outputs=1), points(6, 3)
    plan = torchjac.plan_laplacian(net, x, backend="inductor")
    assert plan.method.endswith("inductor")
    torch.testing.assert_close(plan(x / 2), by_double_backward(net, x / 2))


def test_tuning_tells_both_times():
    plan = torchjac.plan_laplacian(torch.sin, points(3), tune=True)
    text = str(plan)
    assert "timed         replay: " in text
    assert "timed         inductor: " in text
    torch.testing.assert_close(plan(points(3)), -points(3).sin())


def test_passes_where_they_are_asked_for():
    net, x = perceptron(nn.Tanh()), points(4, 3)
    plan = torchjac.plan_laplacian(net, x, backend="eager")
    assert plan.method == "passes"
    assert "none: passes were asked for" in str(plan)
    torch.testing.assert_close(plan(x), by_double_backward(net, x))


# -- Functions that a program would not do for ------------------------------------------------


def fallen_back(func, x, reason):
    with pytest.warns(FallbackWarning, match=reason):
        plan = torchjac.plan_laplacian(func, x)
    assert plan.method == "passes"
    return plan


class Forgetful(Cubed):
    """x^3, whose first derivative hides from autograd that it depends on x."""

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 3 * g * x.detach() ** 2


def without_gradients(x):
    with torch.no_grad():
        return x**2


HIDING = {
    "constant factor": lambda x: x.detach() ** 2 * x**3,
    "straight through": lambda x: (x + (x.round() - x).detach()) ** 3,
    "no gradients": lambda x: x**3 * without_gradients(x),
}


@pytest.mark.parametrize("name", HIDING)
def test_what_is_hidden_from_derivatives_is_hidden_from_the_program(name):
    func, x = HIDING[name], points(5)
    plan = torchjac.plan_laplacian(func, x)
    assert plan.method == "collapsed forward mode, replay"
    torch.testing.assert_close(plan(x / 2), by_double_backward(func, x / 2))


def test_what_is_hidden_from_second_derivatives_alone_is_noticed():
    def func(x):
        return Forgetful.apply(x) * x

    x = points(5)
    plan = fallen_back(func, x, "its second derivatives are not those of double backward")
    torch.testing.assert_close(plan(x), by_double_backward(func, x))


def test_a_wrong_second_derivative_of_a_rule_is_noticed():
    x = points(2, 2) / 3
    plan = fallen_back(torch.matrix_exp, x, "its second derivatives are not those of")
    torch.testing.assert_close(plan(x), by_double_backward(torch.matrix_exp, x))


def test_a_function_with_branches():
    def func(x):
        return (x**3).sum() if x.sum() > 0 else (x**2).sum()

    plan = fallen_back(func, torch.ones(3), "it reads values")
    assert (plan(torch.ones(3)).item(), plan(-torch.ones(3)).item()) == (18.0, 6.0)


def test_a_function_that_draws_random_numbers():
    plan = fallen_back(lambda x: x**2 * torch.rand(3), torch.ones(3), "it draws random numbers")
    torch.manual_seed(0)
    result = plan(torch.ones(3))
    torch.manual_seed(0)
    torch.testing.assert_close(result, 2 * torch.rand(3))


class Slotted:
    """Holds a number where nobody can see it change."""

    __slots__ = ("read",)

    def __init__(self):
        self.read = iter([])

    def __call__(self, x):
        return x**3 + len(list(self.read))


def test_a_function_that_nobody_can_watch():
    plan = fallen_back(Slotted(), points(3), "nobody can watch what it reads")
    torch.testing.assert_close(plan(points(3)), 6 * points(3))
    trusted = torchjac.plan_laplacian(Slotted(), points(3), backend="replay")
    assert trusted.method == "collapsed forward mode, replay"
    torch.testing.assert_close(trusted(points(3)), 6 * points(3))


def test_batch_norm_in_training_mixes_samples_and_keeps_count():
    norm = nn.BatchNorm1d(3).double()
    plan = fallen_back(norm, BATCH, "changes buffers")
    torch.testing.assert_close(plan(BATCH), by_double_backward(norm, BATCH))


def test_memory_read_by_its_place():
    plan = fallen_back(
        lambda x: torch.as_strided(x, (3,), (1,)) ** 3, points(5), "it reads memory by its place"
    )
    torch.testing.assert_close(plan(points(5)), 6 * points(5)[:3])


def test_low_precision():
    x = points(4, dtype=torch.bfloat16)
    plan = fallen_back(lambda x: x**3, x, "its precision is too low")
    torch.testing.assert_close(plan(x), 6 * x)


def test_more_seeds_than_there_is_memory_for():
    x = points(2000)
    with pytest.warns(FallbackWarning, match="2,000 seeds take more memory than may be used"):
        plan = torchjac.plan_laplacian(lambda x: x.sum().sin(), x, memory=10**6)
    torch.testing.assert_close(plan(x), -2000 * x.sum().sin())


def test_samples_go_together_by_passes_too():
    net, x = perceptron(nn.Tanh()), points(30, 3)
    plan = torchjac.plan_laplacian(net, x, backend="eager")
    with torchjac.record() as runs:
        result = plan(x)
    assert [run.seeds for run in runs] == [3, 3]
    torch.testing.assert_close(result, torchjac.laplacian(net, x, batch_dim=0))


def test_samples_that_mix_on_another_branch():
    def func(x):
        y = x**3 if x.sum() > 0 else x**3 * x.mean()
        return y.sum(1)

    x = BATCH.abs()
    plan = fallen_back(func, x, "it reads values")
    assert "never mix" in str(plan)
    for point in (x, -x):
        torch.testing.assert_close(plan(point), by_double_backward(func, point))


def test_samples_that_mix_once_the_function_has_changed():
    held = {"mixes": False}

    def func(x):
        return (x**3).sum(1) * (x.mean() if held["mixes"] else 1)

    plan = torchjac.plan_laplacian(func, BATCH)
    held["mixes"] = True
    with pytest.warns(BranchWarning):
        torch.testing.assert_close(plan(BATCH), by_double_backward(func, BATCH))
    torch.testing.assert_close(plan(BATCH), by_double_backward(func, BATCH))


def test_an_output_of_another_shape_once_the_function_has_changed():
    held = {"is_long": True}

    def func(x):
        return (x**3).sum(1) if held["is_long"] else (x**3).sum()

    plan = torchjac.plan_laplacian(func, BATCH)
    held["is_long"] = False
    with pytest.warns(BranchWarning):
        torch.testing.assert_close(plan(BATCH), 6 * BATCH.sum())


def test_samples_along_different_axes_of_input_and_output():
    net, x = perceptron(nn.Tanh()), points(4, 3)
    plan = torchjac.plan_laplacian(lambda x: net(x).mT, x, backend="eager")
    torch.testing.assert_close(plan(x), by_double_backward(net, x).mT)


# -- Calls -------------------------------------------------------------------------------------


def test_weights_that_have_changed_are_noticed():
    net, x = perceptron(nn.Tanh()), points(4, 3)
    plan = torchjac.plan_laplacian(net, x)
    for k in range(3):
        net[0].weight.data.mul_(1.1)
        if k == 0:
            with pytest.warns(BranchWarning, match="what the function holds has changed"):
                result = plan(x)
        else:
            result = plan(x)
        torch.testing.assert_close(result, by_double_backward(net, x))


def test_weights_that_stay_get_a_program_again():
    net, x = perceptron(nn.Tanh()), points(4, 3)
    plan = torchjac.plan_laplacian(net, x)
    net[0].weight.data.mul_(1.1)
    with pytest.warns(BranchWarning, match="found"):
        plan(x)
    with torchjac.record() as runs:
        results = [plan(x) for _ in range(2)]
    assert [(run.api, run.mode, run.method) for run in runs] == [
        ("plan_laplacian", "direct", "replay")
    ] * 2
    for result in results:
        torch.testing.assert_close(result, by_double_backward(net, x))


def test_a_training_step_through_the_residual():
    net, x = perceptron(nn.Tanh(), outputs=1).requires_grad_(True), points(8, 3)
    plan = torchjac.plan_laplacian(net, x)
    plan(x, create_graph=True).square().mean().backward()
    ours = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    torchjac.laplacian(net, x, batch_dim=0, create_graph=True).square().mean().backward()
    theirs = [p.grad for p in net.parameters() if p.grad is not None]
    assert len(ours) == len(theirs) > 0
    torch.testing.assert_close(ours, theirs)


def test_results_have_no_history_that_nobody_asked_for():
    x = points(3).requires_grad_()
    plan = torchjac.plan_laplacian(torch.sin, x)
    assert not plan(x).requires_grad
    assert not plan(nn.Parameter(points(3))).requires_grad


def test_a_batch_of_calls():
    x = points(2, 3)
    plan = torchjac.plan_laplacian(torch.sin, x[0])
    torch.testing.assert_close(torch.func.vmap(plan)(x), -x.sin())


@pytest.mark.parametrize("bad", [points(4), points(3).float()])
def test_inputs_of_another_kind(bad):
    plan = torchjac.plan_laplacian(torch.sin, points(3))
    with pytest.raises(PlanMismatchError, match=r"(?s)^plan_laplacian: .*DIFFERS"):
        plan(bad)


def test_inputs_that_are_no_tensor():
    plan = torchjac.plan_laplacian(torch.sin, points(3))
    with pytest.raises(ArgumentTypeError, match="must be one Tensor"):
        plan([1.0, 2.0, 3.0])


def test_inside_inference_mode():
    with torch.inference_mode():
        plan = torchjac.plan_laplacian(torch.sin, points(3))
        result = plan(points(3))
    torch.testing.assert_close(result, -points(3).sin())


def test_a_pickled_plan_finds_its_program_anew():
    plan = pickle.loads(pickle.dumps(torchjac.plan_laplacian(torch.sin, points(3))))
    assert "anew at the next call" in str(plan)
    torch.testing.assert_close(plan(points(3)), -points(3).sin())
    assert plan.method == "collapsed forward mode, replay"


def test_what_a_plan_says():
    plan = torchjac.plan_laplacian(perceptron(nn.Tanh()), points(4, 3))
    text = str(plan)
    assert repr(plan) == "LaplacianPlan([4, 3], method='collapsed forward mode, replay')"
    assert "seeds         3 for 12 axes" in text
    assert "output axis 0 and input axis 0 never mix" in text
    assert "certified     by double backward" in text
    assert "prepared in   trace" in text
    assert plan._repr_html_().startswith("<pre>Plan of a Laplacian")
    assert plan.pattern is not None
    assert plan.pattern.nnz == 36

"""The problems: what is differentiated, where, and what is asked of the result.

Weights and inputs are drawn in float32 from fixed seeds and then cast: the same function can be had
in float32, to be measured, and in float64, to say how accurate an answer is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.arm import ARM
from torchjac.testing import scenario


@dataclass(frozen=True)
class Problem:
    """One function and the derivative that is wanted of it.

    Attributes:
        name: Family and case, "tutorial/mm(A, x)".
        kind: "sparse", "jacobian", "samples" (the Jacobian of each sample of a batch),
            "laplacian", "hessian" or "ntk" (J J^T by the weights of a module).
        size: What goes in and out, for people.
        func: The function of all of `inputs`, or of the whole batch; for "ntk" the module.
        inputs: Its arguments.
        sample: The function of one sample, for kinds that have samples.
        order: 2 if a sparse derivative is a Hessian.
        rows: Rows to measure of a loop over all of them, the rest extrapolated; None: all.
        skipped: Contenders that stand no chance, and why.
    """

    name: str
    kind: str
    size: str
    func: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    sample: Callable[[Tensor], Tensor] | None = None
    order: int = 1
    rows: int | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """What the name begins with."""
        return self.name.partition("/")[0].partition("(")[0]

    @property
    def x(self) -> Tensor:
        """The only argument."""
        (x,) = self.inputs
        return x

    @property
    def given(self) -> Any:
        """The only argument, or all of them."""
        return self.inputs[0] if len(self.inputs) == 1 else self.inputs

    @property
    def one(self) -> Callable[[Tensor], Tensor]:
        """The function of one sample."""
        if self.sample is None:
            raise ValueError(f"{self.name} has no samples")
        return self.sample


def sparse(name: str, sizes: tuple[int, ...], dtype: torch.dtype) -> Problem:
    """A sparse problem of `torchjac.testing`."""
    known = scenario(name, *sizes)
    x = known.x(dtype)
    what = "Hessian" if known.hessian else "Jacobian"
    size = f"{x.numel():,} unknowns, {what}"
    return Problem(known.name, "sparse", size, known.function, (x,), order=1 + known.hessian)


def _normal(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype)


def _module(build: Callable[[], nn.Module], dtype: torch.dtype) -> nn.Module:
    """The module as PyTorch initialises it, its weights without gradients of their own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return build().to(dtype).requires_grad_(False).eval()


def _perceptron(*widths: int) -> nn.Module:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def tutorial(dtype: torch.dtype) -> Iterator[Problem]:
    """The small functions that tutorials begin with: what a call costs."""
    a, x = _normal(2, 2, seed=2, dtype=dtype), _normal(2, 2, seed=3, dtype=dtype)
    scalars = tuple(torch.tensor(v, dtype=dtype) for v in (3.0, 4.0, 5.0))
    rows = _normal(4, 4, seed=4, dtype=dtype)

    def three(x1: Tensor, x2: Tensor, x3: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x1 + x2, x3 * x1, x2**3

    def case(name: str, size: str, func: Callable[..., Any], inputs: tuple[Tensor, ...]) -> Problem:
        return Problem(f"tutorial/{name}", "jacobian", size, func, inputs)

    yield case("mm(A, x)", "2x2 -> 2x2", lambda x: torch.mm(a, x), (x,))
    yield case("mm(x, x)", "2x2 -> 2x2", lambda x: torch.mm(x, x), (x,))
    yield case("three scalars", "3 scalars -> 3 scalars", three, scalars)
    yield case("exp sum", "4x4 -> 4", lambda x: x.exp().sum(dim=1), (rows,))


def classifier(dtype: torch.dtype) -> Iterator[Problem]:
    """A convolutional classifier of images, per sample: few outputs, many inputs."""
    net = _module(
        lambda: nn.Sequential(
            nn.Conv2d(3, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 8 * 8, 10),
        ),
        dtype,
    )
    x = _normal(64, 3, 32, 32, seed=5, dtype=dtype)
    size = "3x32x32 -> 10, 64 samples, 60,362 weights"
    problem = _of_samples("classifier", size, net, x)
    columns = "3,072 columns of every sample, some 20 GB"
    forward = "vmap(jacfwd)"
    names = (forward, f"{forward}, compiled", f"make_fx of {forward}, compiled")
    yield replace(problem, rows=10, skipped={f"by hand: {name}": columns for name in names})


def decoder(dtype: torch.dtype) -> Iterator[Problem]:
    """A decoder of images, one sample: few inputs, many outputs."""
    net = _module(
        lambda: nn.Sequential(
            nn.Linear(32, 128 * 8 * 8),
            nn.ReLU(),
            nn.Unflatten(-1, (128, 8, 8)),
            nn.ConvTranspose2d(128, 64, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 3, 4, stride=2, padding=1),
            nn.Tanh(),
        ),
        dtype,
    )
    x = _normal(32, seed=6, dtype=dtype)
    size = "32 -> 3x64x64"
    vectorized = "torch.autograd.functional: jacobian, vectorize=True"
    skipped = {vectorized: "12,288 rows at once, some 10 GB"}
    yield Problem("decoder", "jacobian", size, net, (x,), rows=128, skipped=skipped)


def waist(dtype: torch.dtype) -> Iterator[Problem]:
    """Perceptrons that are narrow somewhere: the Jacobian is a product of thin factors."""
    for widths in (
        (1000, 10, 1000),
        (1000, 256, 10, 256, 1000),
        (784, 512, 256, 32, 256, 512, 784),
    ):
        net = _module(lambda widths=widths: _perceptron(*widths), dtype)
        x = _normal(widths[0], seed=14, dtype=dtype)
        size = "-".join(map(str, widths))
        yield Problem(f"waist/{size}", "jacobian", size, net, (x,))


def batch(dtype: torch.dtype, samples: int = 32) -> Iterator[Problem]:
    """A perceptron on a batch."""
    net = _module(lambda: _perceptron(64, 256, 256, 10), dtype)
    x = _normal(samples, 64, seed=7, dtype=dtype)
    name = f"batch/{samples}"
    yield _of_samples(name, f"64-256-256-10, {samples} samples given whole", net, x)


def tokens(dtype: torch.dtype) -> Iterator[Problem]:
    """The same perceptron for each token of a sequence."""
    net = _module(lambda: _perceptron(64, 128, 64), dtype)
    x = _normal(32, 64, seed=15, dtype=dtype)
    yield _of_samples("tokens", "64-128-64, 32 tokens given whole", net, x)


class _Block(nn.Module):
    """A transformer block, normalised before attention and before its perceptron."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.split, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (T, D) to tokens (T, D)."""
        parts = self.split(self.first(x)).chunk(3, -1)
        query, key, value = [p.unflatten(-1, (self.heads, -1)).transpose(0, 1) for p in parts]
        seen = scaled_dot_product_attention(query, key, value)
        x = x + self.join(seen.transpose(0, 1).flatten(1))
        return x + self.inner(self.second(x))


def block(dtype: torch.dtype) -> Iterator[Problem]:
    """A transformer block: tokens mix in attention and nowhere else."""
    net = _module(lambda: _Block(64, 4), dtype)
    x = _normal(16, 64, seed=16, dtype=dtype)
    yield Problem("block", "jacobian", "16 tokens of 64, 4 heads", net, (x,))


def plain(dtype: torch.dtype) -> Iterator[Problem]:
    """A square perceptron: no structure at all."""
    net = _module(lambda: _perceptron(1000, 1000, 1000, 1000), dtype)
    x = _normal(1000, seed=8, dtype=dtype)
    yield Problem("plain", "jacobian", "1000-1000-1000-1000", net, (x,))


def arm_position(q: Tensor, links: Sequence[Any] = ARM) -> Tensor:
    """Position of the hand of an arm, shape (..., 3), for joint angles of shape (..., 6).

    The product of one Denavit-Hartenberg matrix per joint, each from scalars. PyTorch 2.13 cannot
    multiply tangents of samples in single precision by a number of Python's: who wants forward mode
    under `vmap` gives the links as tensors.
    """
    pose: Tensor | None = None
    for joint, (twist, length, offset) in enumerate(links):
        cos, sin = torch.cos(q[..., joint]), torch.sin(q[..., joint])
        zero, one = torch.zeros_like(cos), torch.ones_like(cos)
        ca, sa = 1.0 - abs(twist), 1.0 * twist
        entries = [cos, -sin * ca, sin * sa, length * cos]
        entries += [sin, cos * ca, -cos * sa, length * sin]
        entries += [zero, sa * one, ca * one, offset * one]
        entries += [zero, zero, zero, one]
        link = torch.stack(entries, -1).unflatten(-1, (4, 4))
        pose = link if pose is None else pose @ link
    if pose is None:
        raise ValueError("an arm has a joint")
    return pose[..., :3, 3]


def robot(dtype: torch.dtype) -> Iterator[Problem]:
    """An arm with six joints in scalar code: many tiny ops."""
    one = _normal(6, seed=9, dtype=dtype)
    many = _normal(512, 6, seed=9, dtype=dtype)
    yield Problem("robot/1", "jacobian", "6 angles -> 3", arm_position, (one,))
    several = _of_samples("robot/512", "6 angles -> 3, 512 samples", arm_position, many)
    links = [link.unbind() for link in torch.tensor(ARM, dtype=dtype)]
    yield replace(several, sample=partial(arm_position, links=links), rows=48)


def laplacian(dtype: torch.dtype) -> Iterator[Problem]:
    """The Laplacian of a perceptron at 256 points."""
    for d in (3, 50):
        net = _module(lambda d=d: _perceptron(d, 64, 64, 1), dtype)
        x = _normal(256, d, seed=10, dtype=dtype)
        yield Problem(
            f"laplacian/{d}",
            "laplacian",
            f"{d}-64-64-1, 256 samples",
            net,
            (x,),
            sample=lambda x, net=net: net(x).squeeze(),
        )


def hessian(dtype: torch.dtype) -> Iterator[Problem]:
    """The Hessian of the loss of a perceptron by its 200 weights."""
    x, y = _normal(64, 6, seed=11, dtype=dtype), _normal(64, 3, seed=12, dtype=dtype)
    weights = 0.5 * _normal(200, seed=13, dtype=dtype)

    def loss(weights: Tensor) -> Tensor:
        inner, bias, outer = weights.split([120, 20, 60])
        hidden = torch.tanh(x @ inner.view(20, 6).T + bias)
        return ((hidden @ outer.view(3, 20).T - y) ** 2).mean()

    yield Problem("hessian", "hessian", "200 weights, 64 samples", loss, (weights,))


def ntk(dtype: torch.dtype) -> Iterator[Problem]:
    """The empirical neural tangent kernel of a perceptron on 64 samples."""
    net = _module(lambda: _perceptron(784, 256, 256, 10), dtype).requires_grad_()
    x = _normal(64, 784, seed=17, dtype=dtype)
    yield Problem("ntk", "ntk", "784-256-256-10, 64 samples: (64, 64, 10, 10)", net, (x,))


def _of_samples(name: str, size: str, func: Callable[[Tensor], Tensor], x: Tensor) -> Problem:
    def one(x: Tensor) -> Tensor:
        return func(x.unsqueeze(0)).squeeze(0)

    return Problem(name, "samples", size, func, (x,), one)


DENSE: dict[str, Callable[[torch.dtype], Iterator[Problem]]] = {
    "tutorial": tutorial,
    "waist": waist,
    "plain": plain,
    "batch": batch,
    "tokens": tokens,
    "block": block,
    "decoder": decoder,
    "classifier": classifier,
    "robot": robot,
    "ntk": ntk,
    "laplacian": laplacian,
    "hessian": hessian,
}


def dense(name: str, dtype: torch.dtype) -> Problem:
    """A problem that is not sparse.

    Args:
        name: "plain", "waist/1000-10-1000", "batch/32".
        dtype: Precision of weights and inputs.

    Returns:
        The problem.

    Raises:
        ValueError: There is none of that name.
    """
    family, _, case = name.partition("/")
    found = batch(dtype, int(case)) if family == "batch" else DENSE[family](dtype)
    for problem in found:
        if problem.name == name:
            return problem
    raise ValueError(f"no problem is called {name}")

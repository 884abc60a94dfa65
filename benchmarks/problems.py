"""The problems: what is differentiated, where, and what is asked of the result.

Weights and inputs are drawn in float32 from fixed seeds and then cast: the same function can be had
in float32, to be measured, and in float64, to say how accurate an answer is.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Problem:
    """One function and the derivative that is wanted of it.

    Attributes:
        name: Group and case, "tutorial/mm(A, x)".
        kind: "jacobian", "samples" (the Jacobian of each sample of a batch), "laplacian" or
            "hessian".
        size: What goes in and out, for people.
        func: The function of all of `inputs`, or of the whole batch.
        inputs: Its arguments.
        sample: The function of one sample, for kinds that have samples.
        target: What the project promises: "small", "large", or nothing.
        rows: Rows to measure of a loop over all of them, the rest extrapolated; None: all.
        skipped: Contenders that stand no chance, and why.
    """

    name: str
    kind: str
    size: str
    func: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    sample: Callable[[Tensor], Tensor] | None = None
    target: str = ""
    rows: int | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """The name that the command line knows it by."""
        return self.name.partition("/")[0]

    @property
    def x(self) -> Tensor:
        """The only argument."""
        (x,) = self.inputs
        return x

    @property
    def one(self) -> Callable[[Tensor], Tensor]:
        """The function of one sample."""
        if self.sample is None:
            raise ValueError(f"{self.name} has no samples")
        return self.sample


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
        return Problem(f"tutorial/{name}", "jacobian", size, func, inputs, target="small")

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
    problem = _of_samples("classifier", size, net, x, target="large")
    skipped = {"vmap(jacfwd)": "3072 columns of every sample, some 20 GB"}
    yield replace(problem, rows=10, skipped=skipped)


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
    skipped = {"functional.jacobian vectorize=True": "12288 rows at once, some 10 GB"}
    yield Problem("decoder", "jacobian", size, net, (x,), target="large", rows=128, skipped=skipped)


def batch(dtype: torch.dtype) -> Iterator[Problem]:
    """A perceptron on a batch, per sample."""
    net = _module(lambda: _perceptron(64, 256, 256, 10), dtype)
    x = _normal(32, 64, seed=7, dtype=dtype)
    yield _of_samples("batch", "64-256-256-10, 32 samples", net, x, target="large")


def plain(dtype: torch.dtype) -> Iterator[Problem]:
    """A square perceptron: no structure at all."""
    net = _module(lambda: _perceptron(1000, 1000, 1000, 1000), dtype)
    x = _normal(1000, seed=8, dtype=dtype)
    yield Problem("plain", "jacobian", "1000-1000-1000-1000", net, (x,), target="large")


# Link twists in units of pi/2, link lengths and offsets in metres, of an arm with six joints.
ARM = (
    (1, 0.0, 0.4),
    (0, 0.43, 0.0),
    (1, 0.02, 0.15),
    (-1, 0.0, 0.43),
    (1, 0.0, 0.0),
    (0, 0.0, 0.1),
)


def arm_position(q: Tensor) -> Tensor:
    """Position of the hand of an arm, shape (..., 3), for joint angles of shape (..., 6).

    The product of one Denavit-Hartenberg matrix per joint, each from scalars.
    """
    pose: Tensor | None = None
    for joint, (twist, length, offset) in enumerate(ARM):
        cos, sin = torch.cos(q[..., joint]), torch.sin(q[..., joint])
        zero, one = torch.zeros_like(cos), torch.ones_like(cos)
        ca, sa = float(twist == 0), float(twist)
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
    skipped = {"functional.jacobian per sample": "512 times what robot/1 shows"}
    yield replace(several, sample=arm_position, rows=48, skipped=skipped)


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


def _of_samples(
    name: str, size: str, func: Callable[[Tensor], Tensor], x: Tensor, target: str = ""
) -> Problem:
    def one(x: Tensor) -> Tensor:
        return func(x.unsqueeze(0)).squeeze(0)

    return Problem(name, "samples", size, func, (x,), one, target)


GROUPS: dict[str, Callable[[torch.dtype], Iterator[Problem]]] = {
    "tutorial": tutorial,
    "classifier": classifier,
    "decoder": decoder,
    "batch": batch,
    "plain": plain,
    "robot": robot,
    "laplacian": laplacian,
    "hessian": hessian,
}


def build(group: str, dtype: torch.dtype) -> list[Problem]:
    """The problems of a group.

    Args:
        group: A key of `GROUPS`.
        dtype: Precision of weights and inputs.

    Returns:
        One problem or several.
    """
    return list(GROUPS[group](dtype))

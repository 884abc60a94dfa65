"""The verdict on a Laplacian: held against double backward, and against other signs.

Two things can be wrong with it. The second derivatives may not be those of the function, because a
forward rule of PyTorch has a wrong derivative (of determinants or solves, say): v^T H v, for a
random v and a random sum of the outputs, shows that against reverse mode over reverse mode. And
coordinates that share a seed may mix after all: then the answer changes with the signs that the
seeds have in each place.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from torchjac._evaluate.direct.bilinear import SecondOrder
from torchjac._evaluate.direct.collapsed import collapsed
from torchjac._inputs.signature import Signature
from torchjac._planner.certificate import agree, floor_of
from torchjac._planner.elsewhere import moved

# Vectors, and choices of signs, that are tried at each point: one wrong pair of coordinates passes
# by every other choice.
VECTORS, SIGNS = 2, 3
# Rounding of v^T H v: in units of the precision, and at most; multiples of v show more of it.
ROUNDING_UNITS, ROUNDING_CAP, FLOOR_UNITS = 1e4, 1e-2, 100.0
MULTIPLES, NOISE = (3.0, 5.0), 10.0
# Below this precision rounding hides what is looked for.
COARSEST = 1e-4

Run = Callable[[Tensor], Tensor]


def fault_of(
    second: SecondOrder, run: Run, seeds: Tensor, signature: Signature, like: Tensor, eps: float
) -> str:
    """What is wrong with a Laplacian, at x and at another point.

    Args:
        second: The second derivatives that it was made of.
        run: From x to the Laplacian.
        seeds: Whose products add up to it, shape (k, *S).
        signature: The function, and where.
        like: A tensor like its output.
        eps: Coarsest precision in the function.

    Returns:
        In words; empty if nothing is.
    """
    if eps > COARSEST:
        return "its precision is too low to certify second derivatives"
    (x,) = signature.leaves
    certified = False
    for k, point in enumerate([x.detach(), *_elsewhere(second, x)]):
        try:
            known = _is_of_function(second, signature, point, like, eps)
            total = run(point)
        except Exception:
            if k == 0:
                raise
            continue  # outside of its domain, whatever it says there
        if known is None:
            continue
        if not known:
            return "its second derivatives are not those of double backward"
        if not _keeps_with_signs(second, point, seeds, total, like, eps):
            return "coordinates that share a seed mix"
        certified = True
    return (
        "" if certified else "its second derivatives are not finite here, and cannot be certified"
    )


def _elsewhere(second: SecondOrder, x: Tensor) -> list[Tensor]:
    # Indices made of x may be out of range there, which ends a process that uses CUDA.
    return [] if x.is_cuda and second.program.integers else moved([x], shuffled=False)


def _is_of_function(
    second: SecondOrder, signature: Signature, x: Tensor, like: Tensor, eps: float
) -> bool | None:
    """Whether random products of second order are those of the function; None if none is finite."""
    generator = torch.Generator().manual_seed(11)

    def draw(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)

    # Several vectors at once: what is summed too early shows only then.
    u, vectors = draw(like), torch.stack([draw(x) for _ in range(VECTORS)])
    with torch.no_grad():
        parts = (u * collapsed(second, x, vectors, like)).double()
    found, size = parts.sum(), parts.abs().sum()
    true, true_size = _by_double_backward(signature, x, u, vectors)
    if not bool(true.isfinite() & true_size.isfinite()):
        return None
    others = [_by_double_backward(signature, x, u, m * vectors)[0] / m**2 for m in MULTIPLES]
    noise = torch.stack([(other - true).abs() for other in others]).max()
    size = torch.maximum(size, true_size)
    allowed = min(ROUNDING_UNITS * eps, ROUNDING_CAP) * size
    allowed = torch.maximum(allowed, torch.minimum(NOISE * noise, ROUNDING_CAP * size))
    floor = FLOOR_UNITS * eps * floor_of([like], [x]) * vectors.abs().sum()
    return bool((found - true).abs() <= allowed + floor)


def _by_double_backward(
    signature: Signature, x: Tensor, u: Tensor, vectors: Tensor
) -> tuple[Tensor, Tensor]:
    """The sum of v^T H v of the outputs weighed by u, and the sum of its parts' sizes."""
    parts = []
    with torch.enable_grad():
        leaf = x.detach().clone().requires_grad_()
        y = signature.replay([leaf.clone()]).tensors[0]
        gradient = _gradient(y, leaf, u, create_graph=True)
        for v in vectors:
            parts.append((_gradient(gradient, leaf, v) * v).detach().double())
    products = torch.stack(parts)
    return products.sum(), products.abs().sum()


def _gradient(y: Tensor, x: Tensor, seed: Tensor, *, create_graph: bool = False) -> Tensor:
    if not y.requires_grad:
        return torch.zeros_like(x)
    (found,) = torch.autograd.grad(
        y,
        x,
        seed,
        create_graph=create_graph,
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return found


def _keeps_with_signs(
    second: SecondOrder, x: Tensor, seeds: Tensor, total: Tensor, like: Tensor, eps: float
) -> bool:
    """Whether the sum stays what it is when coordinates are turned round."""
    generator = torch.Generator().manual_seed(12)
    floor = floor_of([like], [x])
    for _ in range(SIGNS):
        signs = torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1
        with torch.no_grad():
            again = collapsed(second, x, seeds * signs, like)
        if not agree(total, again, eps, floor):
            return False
    return True

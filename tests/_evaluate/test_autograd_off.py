"""Where autograd records nothing, zeros are no answer."""

import threading

import pytest
import torch

import torchjac
from torchjac.errors import AutogradOffError

X = torch.linspace(0.1, 1.0, 6, dtype=torch.float64)


def neighbors(x):
    return x[1:] * x[:-1]


def cubes(x):
    return (x**3).sum()


CALLS = {
    "jacobian": lambda: torchjac.jacobian(neighbors, X),
    "forward": lambda: torchjac.jacobian(neighbors, X, strategy="forward-mode"),
    "samples": lambda: torchjac.batch_jacobian(torch.sin, X[:, None]),
    "gradient": lambda: torchjac.gradient(cubes, X),
    "hessian": lambda: torchjac.hessian(cubes, X),
    "laplacian": lambda: torchjac.laplacian(cubes, X),
    "divergence": lambda: torchjac.divergence(torch.sin, X),
    "gram": lambda: torchjac.gram(neighbors, X),
    "plan": lambda: torchjac.plan(neighbors, X),
    "check": lambda: torchjac.check(neighbors, X),
}
PLANS = {
    "rows": torchjac.plan(neighbors, X, strategy="reverse-mode"),
    "hessian": torchjac.plan(cubes, X, order=2, backend="eager"),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_refuses(name) -> None:
    with torch._C._AutoDispatchBelowAutograd(), pytest.raises(AutogradOffError, match="autograd"):
        CALLS[name]()
    CALLS[name]()


@pytest.mark.parametrize("name", PLANS)
def test_passes_of_a_plan_refuse(name) -> None:
    expected = PLANS[name](X).to_dense()
    with torch._C._AutoDispatchBelowAutograd(), pytest.raises(AutogradOffError, match="autograd"):
        PLANS[name](X)
    assert torch.equal(PLANS[name](X).to_dense(), expected)


def test_a_program_needs_no_autograd() -> None:
    plan = torchjac.plan(neighbors, X, backend="replay")
    with torch._C._AutoDispatchBelowAutograd():
        found = plan(2 * X)
    torch.testing.assert_close(found.to_dense(), torchjac.jacobian(neighbors, 2 * X))


def test_another_thread_still_computes() -> None:
    found = []
    thread = threading.Thread(target=lambda: found.append(torchjac.jacobian(neighbors, X)))
    with torch._C._AutoDispatchBelowAutograd():
        thread.start()
        thread.join()
    torch.testing.assert_close(found[0], torch.func.jacrev(neighbors)(X))

"""Results of a plan lead to no graph unless that was asked for."""

import pytest
import torch

import torchjac

NET = torch.nn.Linear(4, 4).double()
SCALE = torch.nn.Parameter(torch.linspace(1.0, 2.0, 4, dtype=torch.float64))
FUNCTIONS = {
    "linear": lambda x: NET(x) ** 2,
    "scaled": lambda x: x**3 * SCALE,
    "product": lambda x: x**2 @ NET.weight,
    "constant": lambda x: x * SCALE,
}
LAYOUTS = [torch.strided, torch.sparse_csr, torch.sparse_coo]


def stored(result):
    return result if result.layout is torch.strided else result.values()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("backend", ["eager", "replay", "inductor"])
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_weights_that_require_gradients_leave_none(name, backend, layout) -> None:
    here = torch.linspace(0.1, 1.0, 8, dtype=torch.float64).reshape(2, 4)
    plan = torchjac.plan(FUNCTIONS[name], here, backend=backend, layout=layout)
    found = plan(here)
    assert not found.requires_grad
    again = plan(2 * here.requires_grad_(), out=found)
    assert again is found
    assert not found.requires_grad
    expected = torch.func.jacrev(FUNCTIONS[name])(2 * here.detach())
    torch.testing.assert_close(found.to_dense().reshape(8, 8), expected.detach().reshape(8, 8))
    assert stored(found).numpy().dtype == "float64"


def test_tensors_beside_that_require_gradients_leave_none() -> None:
    x, scale = torch.ones(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    plan = torchjac.plan(lambda scale, x: scale * x**2, (scale, x), wrt=1, backend="replay")
    assert not plan((2 * scale.requires_grad_(), x)).requires_grad

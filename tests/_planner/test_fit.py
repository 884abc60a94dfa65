"""What a plan was made for, and inputs that are not like it."""

import pytest
import torch

from torchjac._planner.fit import fit_of
from torchjac.errors import PlanMismatchError

X, Y = torch.zeros(2), torch.zeros(3, 1, dtype=torch.float64)


def refused(planned, given):
    def leaves(inputs):
        return [t for t in torch.utils._pytree.tree_leaves(inputs) if isinstance(t, torch.Tensor)]

    with pytest.raises(PlanMismatchError) as caught:
        fit_of(planned, leaves(planned)).refuse("plan", given, leaves(given))
    return str(caught.value).splitlines()[1:]


@pytest.mark.parametrize("inputs", [X, (X, Y), {"a": X, "b": [Y, 3]}])
def test_inputs_of_the_same_kind_match(inputs):
    other = torch.utils._pytree.tree_map(
        lambda t: t + 1 if isinstance(t, torch.Tensor) else t, inputs
    )
    assert fit_of(inputs, [X]).matches(other, [X])


def test_a_shape_that_differs():
    assert refused((X, Y), (X, Y[:2])) == [
        "  tree of the inputs: TreeSpec(tuple, None, [*, *]), matches",
        "  input 0: float32 [2] on cpu, matches",
        "  input 1: planned float64 [3, 1] on cpu, given float64 [2, 1] on cpu, DIFFERS",
    ]


def test_a_dtype_that_differs():
    assert refused(X, X.double())[1:] == [
        "  input: planned float32 [2] on cpu, given float64 [2] on cpu, DIFFERS"
    ]


def test_a_device_that_differs():
    assert refused(X, X.to("meta"))[1:] == [
        "  input: planned float32 [2] on cpu, given float32 [2] on meta, DIFFERS"
    ]


def test_a_tree_that_differs():
    (line,) = refused({"a": X}, {"b": X})
    assert line.startswith("  tree of the inputs: planned TreeSpec(dict, ['a']")
    assert line.endswith("DIFFERS")


def test_a_type_that_differs():
    assert refused([X, 1], [X, 1.0])[2] == "  input 1: planned int, given float, DIFFERS"


def test_other_parameters():
    fit = fit_of(X, [X, Y])
    with pytest.raises(PlanMismatchError, match=r"differentiated 1: planned .* DIFFERS"):
        fit.refuse("plan", X, [X, Y.float()])


def test_another_number_of_parameters():
    fit = fit_of(X, [X, Y])
    with pytest.raises(PlanMismatchError, match="number of differentiated tensors: planned 2"):
        fit.refuse("plan", X, [X])

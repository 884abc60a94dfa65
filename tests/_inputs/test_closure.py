"""Whether a function holds the very tensor that it is differentiated at."""

from functools import partial, wraps

import pytest
import torch

from torchjac._inputs.closure import held_inputs, reachable

POINT = torch.ones(2)
T = torch.ones(2)


def over(tensor):
    return lambda x: x * tensor


def reads_global(x):
    return x * POINT


def takes_transpose(x):
    return x.T


def test_a_closure_cell_is_seen():
    x = torch.ones(2)
    assert held_inputs(over(x), [x]) == ["tensor"]


def test_a_global_is_seen():
    assert held_inputs(reads_global, [POINT]) == ["POINT"]


def test_a_default_is_seen():
    def func(y, scale=POINT):
        return y * scale

    assert held_inputs(func, [POINT]) == ["a default"]


def test_a_keyword_only_default_is_seen():
    def func(y, *, scale=POINT):
        return y * scale

    assert len(held_inputs(func, [POINT])) == 1


def test_what_a_partial_binds_is_seen():
    x = torch.ones(2)
    assert held_inputs(partial(torch.mul, x), [x]) == ["argument 0 of partial"]
    assert held_inputs(partial(torch.add, alpha=2, other=x), [x]) == ["other"]


def test_the_function_inside_a_partial_is_looked_at():
    x = torch.ones(2)
    assert held_inputs(partial(over(x)), [x]) == ["tensor"]
    assert held_inputs(partial(partial(over(x))), [x]) == ["tensor"]


def test_a_method_is_looked_at():
    class Model:
        def energy(self, x):
            return x * POINT

    assert held_inputs(Model().energy, [POINT]) == ["POINT"]


def test_each_place_is_named_once():
    x, y = torch.ones(2), torch.ones(2)

    def func(a, b=y):
        return a * x * b

    assert held_inputs(func, [x, y]) == ["x", "a default"]


def test_a_copy_is_another_tensor():
    x = torch.ones(2)
    assert held_inputs(over(x.detach().clone()), [x]) == []


def test_equal_tensors_are_not_the_same_tensor():
    x = torch.ones(2)
    assert held_inputs(over(torch.ones(2)), [x]) == []


def test_an_attribute_that_shares_its_name_with_a_global_is_not_the_global():
    assert held_inputs(takes_transpose, [T]) == []


def test_a_cell_that_is_not_filled_yet_is_passed_over():
    def make():
        def func(x):
            return x * later

        found = held_inputs(func, [POINT])
        later = POINT
        return found, held_inputs(func, [later])

    assert make() == ([], ["later"])


@pytest.mark.parametrize("func", [torch.sin, torch.nn.ReLU(), len, int])
def test_what_is_no_python_function_holds_nothing(func):
    assert held_inputs(func, [POINT]) == []


def test_values_are_reached_with_their_names():
    x = torch.ones(2)

    @wraps(torch.sin)
    def func(a, b=3):
        return a * x * POINT

    names = [name for name, _ in reachable(func)]
    assert {"x", "POINT", "a default"} <= set(names)

"""Changes of what a function can read are seen, or the state says that it is incomplete."""

import functools
import math
import operator
import os
import sys
import time
import types
from collections import UserDict, namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from torchjac._inputs.state import state_of

SCALE = 1.0
Pair = namedtuple("Pair", "first second")


class Rates(namedtuple("Rates", "k")):
    __slots__ = ()

    def rate(self):
        return self.k * SCALE


@dataclass
class Settings:
    dt: float = 0.1


class Number(float):
    pass


class Scaled(UserDict):
    factor = 1.0


class Grid:
    spacing = 0.5

    def __init__(self):
        self.values = torch.zeros(3)

    def step(self, x):
        return x * self.spacing + self.values


def is_seen(func, change):
    before = state_of(func)
    assert before.is_complete
    assert before.still_holds(func)
    change()
    return not before.still_holds(func)


def rebind_cell(values):
    def func(x):
        return x * values[0]

    return func


def test_nothing_changed():
    grid = Grid()
    assert state_of(grid.step).still_holds(grid.step)


@pytest.mark.parametrize(
    "write",
    [
        lambda t: t.add_(1),
        lambda t: t.data.add_(1),
        lambda t: t.detach().numpy().__setitem__(0, 5.0),
        lambda t: setattr(t, "data", torch.ones(3)),
        lambda t: setattr(t, "scale", 2.0),
        lambda t: torch.from_dlpack(t).fill_(3.0),
        lambda t: t.requires_grad_(),
    ],
)
def test_writes_to_a_tensor(write):
    tensor = torch.zeros(3)
    assert is_seen(lambda x: x * tensor, lambda: write(tensor))


def test_a_square_tensor_that_is_transposed_where_it_lies():
    tensor = torch.arange(4.0).view(2, 2)
    assert is_seen(lambda x: tensor @ x, lambda: setattr(tensor, "data", tensor.data.t()))


def test_a_dict_that_was_empty():
    known = {}
    assert is_seen(lambda x: x * len(known), lambda: known.update(a=1))


def test_an_array_that_is_held():
    array = np.zeros(3)
    assert is_seen(lambda x: x * torch.from_numpy(array), lambda: array.__setitem__(0, 1.0))


def test_an_array_behind_a_tensor():
    array = np.zeros(3)
    tensor = torch.from_numpy(array)
    assert is_seen(lambda x: x * tensor, lambda: array.__setitem__(0, 1.0))


@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_csc, torch.sparse_coo])
@pytest.mark.filterwarnings("ignore:Sparse")
def test_values_of_a_sparse_matrix(layout):
    matrix = torch.eye(3).to_sparse(layout=layout)
    values = matrix._values() if layout is torch.sparse_coo else matrix.values()
    assert is_seen(lambda x: matrix @ x, lambda: values.data.mul_(2))


def test_a_gradient_that_is_read_is_not_understood():
    weight = torch.ones(3, requires_grad=True)
    weight.grad = torch.ones(3)
    assert not state_of(lambda x: x * weight.grad).is_complete
    assert state_of(lambda x: x * weight).is_complete


def test_attributes_of_objects_and_classes(monkeypatch):
    grid = Grid()
    assert is_seen(grid.step, lambda: setattr(grid, "values", torch.ones(3)))
    assert is_seen(grid.step, lambda: monkeypatch.setattr(Grid, "spacing", 1.0))
    assert is_seen(grid.step, lambda: monkeypatch.setattr(Grid, "step", lambda _, x: x))


def test_an_attribute_under_another_name():
    place = types.SimpleNamespace(a=1.0)
    grid = Grid()
    grid.place = place.a
    assert is_seen(grid.step, lambda: (delattr(grid, "place"), setattr(grid, "other", 1.0)))


def test_the_class_of_an_object():
    class Finer(Grid):
        pass

    grid = Grid()
    assert is_seen(grid.step, lambda: setattr(grid, "__class__", Finer))


def test_a_dataclass():
    settings = Settings()
    assert is_seen(lambda x: x * settings.dt, lambda: setattr(settings, "dt", 0.2))


def test_methods_of_a_named_tuple_read_globals(monkeypatch):
    rates = Rates(2.0)
    assert is_seen(lambda x: rates.rate() * x, lambda: monkeypatch.setitem(globals(), "SCALE", 2.0))


def test_functions_that_are_called(monkeypatch):
    def inner(x):
        return x * SCALE

    assert is_seen(lambda x: inner(x), lambda: monkeypatch.setitem(globals(), "SCALE", 2.0))


def test_attributes_defaults_and_code_of_a_function():
    def inner(x, k=1.0):
        return x * k

    func = lambda x: inner(x)  # noqa: E731
    assert is_seen(func, lambda: setattr(inner, "count", 1))
    assert is_seen(func, lambda: setattr(inner, "__defaults__", (2.0,)))
    assert is_seen(func, lambda: setattr(inner, "__code__", (lambda x, k=1.0: x).__code__))


def test_a_function_in_place_of_another_that_died():
    space = {"__name__": "somewhere"}
    exec("def inner(x): return x", space)
    exec("def func(x): return inner(x)", space)

    def change():
        del space["inner"]
        exec("def inner(x): return x + x", space)

    assert is_seen(space["func"], change)


def test_functions_that_pretend_to_be_of_a_library(monkeypatch):
    @functools.wraps(nn.functional.relu)
    def mine(x):
        return x * SCALE

    assert is_seen(mine, lambda: monkeypatch.setitem(globals(), "SCALE", 2.0))


def test_what_library_functions_close_over():
    weight = torch.zeros(3)
    func = torch.func.grad(functools.partial(lambda w, x: (w * x).sum(), weight))
    assert is_seen(func, lambda: weight.data.add_(1))


def test_arguments_of_a_partial():
    func = functools.partial(lambda x, k: x * k, k=1.0)
    assert is_seen(func, lambda: func.keywords.update(k=2.0))


@pytest.mark.parametrize("method", ["get", "__getitem__"])
def test_owners_of_builtin_methods(method):
    table = {"k": 1.0}
    read = getattr(table, method)
    assert is_seen(lambda x: x * read("k"), lambda: table.update(k=2.0))


def test_one_list_in_place_of_another():
    low, high = [1.0], [2.0]
    holder = [low, high, low]
    assert is_seen(rebind_cell(holder), lambda: holder.__setitem__(2, high))


def test_kinds_of_containers():
    holder = [[0, 1]]
    assert is_seen(rebind_cell(holder), lambda: holder.__setitem__(0, (0, 1)))
    assert is_seen(rebind_cell(holder), lambda: holder.__setitem__(0, slice(0, 1)))


def test_default_dtype_and_device():
    before = state_of(torch.sin)
    torch.set_default_dtype(torch.float64)
    try:
        assert not before.still_holds(torch.sin)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        assert not before.still_holds(torch.sin)
    assert before.still_holds(torch.sin)


def test_autocast_is_not_understood():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not state_of(torch.sin).is_complete


def imports_inside(x):
    import json

    return x * len(json.__name__)


def opens_a_file(x):
    with open("scale") as file:
        return x * float(file.read())


def cached():
    return torch.ones(3)


@pytest.mark.parametrize(
    "func",
    [
        imports_inside,
        opens_a_file,
        lambda x: x * globals()["SCALE"],
        lambda x: x * eval("SCALE"),
        lambda x: x * np.random.default_rng().random(),
        lambda x: x * float(os.environ["SCALE"]),
        lambda x: x * vars(sys)["maxsize"],
        functools.partial(lambda now, x: x * now(), time.perf_counter),
        functools.partial(operator.mul, Number(1.0)),
        functools.partial(lambda table, x: x * table["k"], Scaled(k=1.0)),
        functools.partial(lambda made, x: x * made(), functools.lru_cache(cached)),
        functools.partial(lambda numbers, x: x * next(numbers), iter([1.0, 2.0])),
        functools.partial(lambda f, x: x * f(2.0), np.frompyfunc(lambda a: a, 1, 1)),
    ],
)
def test_what_is_not_understood(func):
    assert not state_of(func).is_complete


def test_what_is_understood():
    def func(x):
        import math

        return torch.where(x > 0, x * math.pi, np.sqrt(2.0) * x) + Pair(1, 2).first

    assert state_of(func).is_complete
    assert state_of(math.sin).is_complete


def test_tensors_that_are_differentiated_do_not_count():
    net = nn.Linear(3, 3)
    parameters = list(net.parameters())
    before = state_of(net, parameters)
    with torch.no_grad():
        net.weight.add_(1)
    assert before.still_holds(net, parameters)


def double(module, _, output):
    return 2 * output


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.train(),
        lambda net: net[0].weight.data.add_(1),
        lambda net: net[1].running_mean.numpy().__setitem__(0, 1.0),
        lambda net: net.__setitem__(0, nn.Linear(3, 3)),
        lambda net: net[0].register_forward_hook(double),
        lambda net: nn.utils.parametrize.register_parametrization(net[0], "weight", Doubled()),
        lambda net: setattr(net[0], "forward", lambda x: x),
        lambda net: net.load_state_dict({k: v + 1 for k, v in net.state_dict().items()}),
    ],
)
def test_modules(change):
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()
    assert is_seen(net, lambda: change(net))


def test_hooks_of_all_modules():
    net = nn.Linear(3, 3)
    handle = nn.modules.module.register_module_forward_hook(double)
    try:
        assert not state_of(net).is_complete
    finally:
        handle.remove()
    assert state_of(net).is_complete


def test_weights_that_are_nan_are_still_the_same():
    weight = torch.full((4,), torch.nan)
    func = lambda x: x * weight  # noqa: E731
    before = state_of(func)
    assert before.still_holds(func)
    weight.data[0] = 1.0
    assert not before.still_holds(func)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bool])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_one_element_of_a_slice_written_without_a_trace(dtype, count):
    base = torch.ones(20, dtype=dtype)
    part = base[3 : 3 + count]
    assert is_seen(lambda x: x * part, lambda: base.data.__setitem__(2 + count, 0))


def test_the_sign_of_a_zero():
    weight = torch.zeros(2, dtype=torch.float64)
    assert is_seen(lambda x: x / weight, lambda: weight.data.neg_())


def test_a_tensor_that_was_resized_where_it_lies():
    weight = torch.zeros(8)
    assert is_seen(lambda x: x * weight.sum(), lambda: weight.resize_(4))


def test_conjugates_and_columns():
    weight = torch.ones(2, 2, dtype=torch.complex64).conj()
    column = torch.ones(4, 4)[:, 1]
    assert is_seen(lambda x: x * weight, lambda: weight.data.mul_(2))
    assert is_seen(lambda x: x * column, lambda: column.data.mul_(2))


def test_notes_of_the_compiler_are_no_change():
    weight = torch.ones(3)
    func = lambda x: x * weight  # noqa: E731
    before = state_of(func)
    weight._dynamo_static_input_type = "unguarded"
    assert before.still_holds(func)
    weight.scale = 2.0
    assert not before.still_holds(func)
    again = state_of(func)
    weight.scale = 3.0
    assert not again.still_holds(func)

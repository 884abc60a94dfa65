"""Names of the places in a tree, and the parts of a tree at those places."""

from collections import OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch.utils import _pytree as pytree

from torchjac._inputs.trees import leaves_with_paths, parameter_names, parse_path, subtree

Pair = namedtuple("Pair", ["first", "second"])


@dataclass
class Pose:
    place: int
    angle: int


pytree.register_dataclass(Pose)


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (5, [((), 5)]),
        ([5, 6], [(("0",), 5), (("1",), 6)]),
        ((5, (6,)), [(("0",), 5), (("1", "0"), 6)]),
        ({"a": 5, "b": 6}, [(("a",), 5), (("b",), 6)]),
        ({3: 5}, [(("3",), 5)]),
        ({"a.b": 5}, [(("a.b",), 5)]),
        (Pair(5, [6]), [(("first",), 5), (("second", "0"), 6)]),
        (Pose(5, 6), [(("place",), 5), (("angle",), 6)]),
        (OrderedDict(z=5, a=6), [(("z",), 5), (("a",), 6)]),
        (defaultdict(list, z=5), [(("z",), 5)]),
        (
            {"net": [{"w": 5}, Pair(6, 7)]},
            [(("net", "0", "w"), 5), (("net", "1", "first"), 6), (("net", "1", "second"), 7)],
        ),
        ({}, []),
    ],
)
def test_leaves_come_with_the_keys_that_lead_to_them(tree, expected):
    assert leaves_with_paths(tree) == expected


def test_leaves_come_in_the_order_of_flattening():
    tree = {"b": [1, {"x": 2}], "a": (3, Pair(4, 5))}
    assert [leaf for _, leaf in leaves_with_paths(tree)] == pytree.tree_leaves(tree)


def test_none_is_a_leaf_like_any_other():
    assert leaves_with_paths({"a": None}) == [(("a",), None)]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ((), {"net": [{"w": 5}, Pair(6, 7)]}),
        (("net",), [{"w": 5}, Pair(6, 7)]),
        (("net", "0"), {"w": 5}),
        (("net", "0", "w"), 5),
        (("net", "1"), Pair(6, 7)),
        (("net", "1", "second"), 7),
    ],
)
def test_a_path_leads_to_its_part_of_the_tree(path, expected):
    assert subtree({"net": [{"w": 5}, Pair(6, 7)]}, path) == expected


def test_a_path_leads_into_a_registered_dataclass():
    assert subtree({"pose": Pose(5, [6, 7])}, ("pose", "angle", "1")) == 7


def test_a_path_tells_equal_parts_apart():
    shared = [1, 2]
    assert subtree({"a": shared, "b": [shared, 3]}, ("b", "0")) is shared


def test_a_path_that_leads_nowhere_is_a_key_error():
    with pytest.raises(KeyError):
        subtree({"a": [1]}, ("a", "7"))


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("a", ("a",)),
        ("a.b", ("a", "b")),
        ("a[0].b", ("a", "0", "b")),
        ("a[0][1]", ("a", "0", "1")),
        ("['a'][0].b", ("a", "0", "b")),
        ("['a.b'][0].c", ("a.b", "0", "c")),
        ('["a"]["b"]', ("a", "b")),
        ("a['b'].c", ("a", "b", "c")),
        (".a", ("a",)),
        ("[3]", ("3",)),
    ],
)
def test_brackets_and_dots_are_two_ways_to_write_a_path(selector, expected):
    assert parse_path(selector) == expected


def test_parameters_go_by_their_names():
    def func(x, y=1, *, z=2):
        return x

    assert parameter_names(func, 2) == ["x", "y"]


def test_only_as_many_names_as_arguments():
    assert parameter_names(lambda x, y, z: x, 2) == ["x", "y"]


def test_starred_parameters_go_by_their_numbers():
    assert parameter_names(lambda x, *rest: x, 3) == ["x", "1", "2"]


def test_what_a_partial_binds_is_no_parameter():
    def func(scale, x, y, shift=0.0):
        return x

    assert parameter_names(partial(func, 2.0, shift=1.0), 2) == ["x", "y"]


def test_a_bound_method_has_no_self():
    class Model:
        def energy(self, position, charge):
            return position

    assert parameter_names(Model().energy, 2) == ["position", "charge"]


def test_a_callable_object_is_read_at_its_call():
    class Model:
        def __call__(self, position, charge):
            return position

    assert parameter_names(Model(), 2) == ["position", "charge"]


def test_builtins_without_a_signature_have_numbers():
    assert parameter_names(torch.mul, 2) == ["0", "1"]


def test_a_module_is_read_at_its_forward():
    class Model(torch.nn.Module):
        def forward(self, position, charge):
            return position

    assert parameter_names(Model(), 2) == ["position", "charge"]

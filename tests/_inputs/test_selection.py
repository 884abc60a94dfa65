"""What `wrt=` and the tree of `inputs` select, and the tree of the answer."""

from collections import namedtuple
from functools import partial

import pytest
import torch

import torchjac
from torchjac._inputs.selection import as_arguments, select
from torchjac.errors import ArgumentError, ArgumentTypeError

Pair = namedtuple("Pair", ["first", "second"])


class Tagged(tuple):
    """A tuple by another name."""


def two(x, y):
    return x * y


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (5, (5,)),
        ((5, 6), (5, 6)),
        ([5, 6], ([5, 6],)),
        ({"a": 5}, ({"a": 5},)),
        (Pair(5, 6), (Pair(5, 6),)),
        (Tagged((5, 6)), (Tagged((5, 6)),)),
        (((5, 6), 7), ((5, 6), 7)),
    ],
)
def test_a_plain_tuple_is_several_arguments_and_all_else_is_one(inputs, expected):
    assert as_arguments(inputs) == expected


@pytest.mark.parametrize(
    ("wrt", "leaves"),
    [
        (None, (5, 6)),
        (0, (5,)),
        (1, (6,)),
        (-1, (6,)),
        (-2, (5,)),
        ("x", (5,)),
        ("y", (6,)),
        ("0", (5,)),
        ((0,), (5,)),
        ((1, 0), (6, 5)),
        ([-1, "x"], (6, 5)),
    ],
)
def test_arguments_are_selected_by_number_and_by_name_in_the_order_named(wrt, leaves):
    assert select("f", two, (5, 6), wrt).leaves == leaves


@pytest.mark.parametrize(
    ("wrt", "leaves"),
    [
        ("params", (5, 6, 7)),
        ("params.net", (5, 6)),
        ("net", (5, 6)),
        ("net.0", (5,)),
        ("net[1]", (6,)),
        ("['net'][1]", (6,)),
        ('params["pair"].first', (7,)),
        ("pair.first", (7,)),
        ("0.pair", (7,)),
        (["pair.first", "net[0]"], (7, 5)),
    ],
)
def test_parts_of_a_single_argument_are_selected_by_path(wrt, leaves):
    inputs = {"net": [5, 6], "pair": Pair(7, [])}
    assert select("f", lambda params: params, inputs, wrt).leaves == leaves


@pytest.mark.parametrize(
    ("wrt", "leaves"), [("x.a", (5,)), ("1.b[0]", (7,)), (["y.b", "x"], (7, 5, 6))]
)
def test_parts_of_several_arguments_are_selected_under_the_name_of_the_argument(wrt, leaves):
    assert select("f", two, ({"a": 5, "c": 6}, {"b": [7]}), wrt).leaves == leaves


def test_a_key_with_a_dot_is_one_key():
    assert select("f", lambda p: p, {"a.b": 5, "c": 6}, "a.b").leaves == (5,)


def test_brackets_tell_a_key_with_a_dot_from_two_keys():
    inputs = {"a.b": 5, "a": {"b": 6}}
    assert select("f", lambda p: p, inputs, "['a']['b']").leaves == (6,)
    assert select("f", lambda p: p, inputs, "['a.b']").leaves == (5,)


def test_a_path_with_two_meanings_is_refused():
    inputs = {"a.b": 5, "a": {"b": 6}}
    with pytest.raises(ArgumentError, match=r"`wrt`.*'a\.b'"):
        select("f", lambda p: p, inputs, "a.b")


def test_keys_that_are_numbers_are_selected_by_their_digits():
    assert select("f", lambda p: p, {7: 5, 8: 6}, "8").leaves == (6,)


def test_filling_replaces_the_selected_leaves_alone():
    chosen = select("f", two, ({"a": 5, "c": 6}, [7]), "x.c")
    assert chosen.fill([60]) == ({"a": 5, "c": 60}, [7])


def test_filling_goes_by_the_order_of_selection():
    chosen = select("f", two, (5, 6), ("y", "x"))
    assert chosen.fill(["new y", "new x"]) == ("new x", "new y")


@pytest.mark.parametrize(
    ("wrt", "nested"),
    [
        (None, ({"a": 1, "c": 2}, [3])),
        ("x", {"a": 1, "c": 2}),
        ("x.c", 1),
        (("x",), ({"a": 1, "c": 2},)),
        (("y", "x.a"), ([1], 2)),
        ([1, 0], ([1], {"a": 2, "c": 3})),
    ],
)
def test_the_answer_is_nested_as_what_was_named(wrt, nested):
    chosen = select("f", two, ({"a": 5, "c": 6}, [7]), wrt)
    assert chosen.nest([1, 2, 3][: len(chosen.leaves)]) == nested


@pytest.mark.parametrize("inputs", [[5, 6], {"a": 5, "b": 6}, Pair(5, 6)])
def test_one_argument_is_nested_without_a_tuple_around_it(inputs):
    nested = select("f", lambda p: p, inputs, None).nest([1, 2])
    assert type(nested) is type(inputs)
    assert list(nested.values() if isinstance(nested, dict) else nested) == [1, 2]


@pytest.mark.parametrize("wrt", [(0, 0), (0, -2), ("x", 0), ("x", "x.a"), ["x.a", "x['a']"]])
def test_naming_a_leaf_twice_is_refused(wrt):
    with pytest.raises(ArgumentError, match="more than once"):
        select("f", two, ({"a": 5}, 6), wrt)


@pytest.mark.parametrize("wrt", [2, -3, (0, 2)])
def test_a_number_out_of_range_is_refused(wrt):
    with pytest.raises(ArgumentError, match="but there are 2"):
        select("f", two, (5, 6), wrt)


@pytest.mark.parametrize("wrt", ["z", "x.b", "", "x.a.q", ["x", "nope"], "2"])
def test_a_name_that_is_not_there_is_refused_with_those_that_are(wrt):
    with pytest.raises(ArgumentError, match=r"neither .* there are: .*x.*x\.a.*y"):
        select("f", two, ({"a": 5}, 6), wrt)


@pytest.mark.parametrize("wrt", [1.0, {0, 1}, [None], [0.5], torch.ones(1), [torch.ones(1)], two])
def test_other_types_are_refused(wrt):
    with pytest.raises(ArgumentTypeError, match="`wrt` must be an argument number"):
        select("f", two, (5, 6), wrt)


@pytest.mark.parametrize("wrt", [True, False, [True], (0, True)])
def test_truth_values_are_not_argument_numbers(wrt):
    with pytest.raises(ArgumentTypeError, match="`wrt` must be an argument number"):
        select("f", two, (5, 6), wrt)


@pytest.mark.parametrize("wrt", [(), []])
def test_naming_nothing_is_refused(wrt):
    with pytest.raises(ArgumentError, match="must name at least one input"):
        select("f", two, (5, 6), wrt)


@pytest.mark.parametrize("inputs", [(), [], {}, ({}, [])])
def test_inputs_without_leaves_are_refused(inputs):
    with pytest.raises(ArgumentError, match="`inputs` holds no tensor"):
        select("f", lambda *args: args, inputs, None)


def test_the_names_of_a_partial_are_those_it_leaves_open():
    def func(scale, x, y):
        return scale * x * y

    x, y = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    jac = torchjac.jacobian(partial(func, 10.0), (x, y), wrt="y")
    assert torch.equal(jac, torch.diag(10 * x))


def test_the_arguments_of_a_module_go_by_the_names_of_its_forward():
    class Product(torch.nn.Module):
        def forward(self, state, action):
            return state * action

    state, action = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    jac = torchjac.jacobian(Product(), (state, action), wrt="action")
    assert torch.equal(jac, torch.diag(state))

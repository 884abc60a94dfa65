"""Checks of arguments and outputs: what they let through and what they refuse."""

import pytest
import torch
from torch import nn

from torchjac._inputs import checks
from torchjac.errors import ArgumentError, ArgumentTypeError, LayoutError

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COMPLEX = (torch.complex64, torch.complex128)
DISCRETE = (torch.bool, torch.uint8, torch.int8, torch.int32, torch.int64)


class Callable:
    def __call__(self, x):
        return x


@pytest.mark.parametrize("func", [lambda x: x, torch.sin, nn.ReLU(), Callable(), Callable])
def test_everything_that_can_be_called_is_a_function(func):
    assert checks.check_callable("f", func) is None


@pytest.mark.parametrize("func", [torch.ones(1), 1.0, None, "sin", (torch.sin,)])
def test_what_cannot_be_called_is_refused(func):
    with pytest.raises(ArgumentTypeError, match="`func` must be callable"):
        checks.check_callable("f", func)


@pytest.mark.parametrize("value", ["auto", "reverse-mode", "forward-mode"])
def test_the_strategies_are_let_through(value):
    assert checks.check_choice("f", "strategy", value, checks.STRATEGIES) is None


@pytest.mark.parametrize("value", ["Auto", "reverse", "", None, 0, ["auto"]])
def test_any_other_strategy_is_refused(value):
    with pytest.raises(ArgumentError, match="`strategy` must be one of 'auto'"):
        checks.check_choice("f", "strategy", value, checks.STRATEGIES)


@pytest.mark.parametrize("size", [None, 1, 2, 10**9])
def test_positive_chunk_sizes_are_let_through(size):
    assert checks.check_chunk_size("f", size) is None


@pytest.mark.parametrize("size", [0, -1, True, False, 1.0, "2", torch.tensor(2)])
def test_other_chunk_sizes_are_refused(size):
    with pytest.raises(ArgumentError, match="`chunk_size` must be a positive integer"):
        checks.check_chunk_size("f", size)


@pytest.mark.parametrize("memory", [None, 1, 2**40, 1e-6, 0.5, 1.0])
def test_bytes_and_fractions_are_memory(memory):
    assert checks.check_memory("f", memory) is None


@pytest.mark.parametrize(
    "memory", [0, -1, 0.0, -0.5, 1.5, float("nan"), float("inf"), True, "1GB", (1,)]
)
def test_anything_else_is_no_memory(memory):
    with pytest.raises(ArgumentError, match="`memory` must be a number of bytes"):
        checks.check_memory("f", memory)


@pytest.mark.parametrize(
    "layout",
    [torch.strided, torch.sparse_coo, torch.sparse_csr, torch.sparse_csc, torch.sparse_bsr],
)
def test_layouts_with_an_engine_are_let_through(layout):
    assert checks.check_layout("f", layout) is None


def test_a_layout_without_an_engine_is_refused():
    with pytest.raises(LayoutError, match=r"`layout` must be one of .* got torch\.sparse_bsc"):
        checks.check_layout("f", torch.sparse_bsc)


@pytest.mark.parametrize("layout", ["csr", None, torch.float64])
def test_what_is_no_layout_is_refused(layout):
    with pytest.raises(ArgumentTypeError, match=r"`layout` must be a torch\.layout"):
        checks.check_layout("f", layout)


@pytest.mark.parametrize("dtype", FLOATING)
def test_floating_point_inputs_are_let_through(dtype):
    assert checks.check_leaf("f", "input 0", torch.ones(2, dtype=dtype), False) is None


@pytest.mark.parametrize("dtype", COMPLEX)
def test_complex_inputs_are_for_holomorphic_functions(dtype):
    leaf = torch.ones(2, dtype=dtype)
    assert checks.check_leaf("f", "input 0", leaf, True) is None
    with pytest.raises(ArgumentTypeError, match="is complex"):
        checks.check_leaf("f", "input 0", leaf, False)


@pytest.mark.parametrize("dtype", FLOATING)
def test_real_inputs_are_not_for_holomorphic_functions(dtype):
    with pytest.raises(ArgumentTypeError, match="expects complex inputs"):
        checks.check_leaf("f", "input 0", torch.ones(2, dtype=dtype), True)


@pytest.mark.parametrize("holomorphic", [False, True])
@pytest.mark.parametrize("dtype", DISCRETE)
def test_integers_have_no_derivative(dtype, holomorphic):
    with pytest.raises(ArgumentTypeError, match="only floating-point tensors have a derivative"):
        checks.check_leaf("f", "input 0", torch.ones(2).to(dtype), holomorphic)


@pytest.mark.parametrize("leaf", [1.0, None, "x", object()])
def test_inputs_that_are_no_tensors_are_refused(leaf):
    with pytest.raises(ArgumentTypeError, match="must be a Tensor"):
        checks.check_leaf("f", "input 0", leaf, False)


@pytest.mark.parametrize("dtype", FLOATING)
def test_floating_point_outputs_are_let_through(dtype):
    assert checks.check_output("f", "output 0", torch.ones(2, dtype=dtype), False) is None


@pytest.mark.parametrize("dtype", COMPLEX)
def test_complex_outputs_are_for_holomorphic_functions(dtype):
    output = torch.ones(2, dtype=dtype)
    assert checks.check_output("f", "output 0", output, True) is None
    with pytest.raises(ArgumentTypeError, match="is complex"):
        checks.check_output("f", "output 0", output, False)


def test_a_real_output_of_a_holomorphic_function_is_refused():
    with pytest.raises(ArgumentTypeError, match="not holomorphic unless it is constant"):
        checks.check_output("f", "output 0", torch.ones(2), True)


@pytest.mark.parametrize("holomorphic", [False, True])
@pytest.mark.parametrize("dtype", DISCRETE)
def test_outputs_that_are_integers_have_no_derivative(dtype, holomorphic):
    with pytest.raises(ArgumentTypeError, match="which has no derivative"):
        checks.check_output("f", "output 0", torch.ones(2).to(dtype), holomorphic)


@pytest.mark.parametrize("output", [1.0, None, "x"])
def test_outputs_that_are_no_tensors_are_refused(output):
    with pytest.raises(ArgumentTypeError, match="must be a Tensor"):
        checks.check_output("f", "output 0", output, False)

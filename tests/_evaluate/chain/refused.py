"""Programs that cannot be transposed, taken apart or multiplied: a call, the error, its message.

A plan prints them beside the candidate that is left out. `tests/test_messages.py` runs them.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch.nn import functional as F

from torchjac._evaluate.chain.bracket import plain_bracket
from torchjac._evaluate.chain.cuts import nested_cuts
from torchjac._evaluate.chain.emit import Multiplication
from torchjac._evaluate.chain.stretch import TANGENT, Stretch
from torchjac._evaluate.direct.transport import TooManyDerivativesError
from torchjac._inputs.signature import bind
from torchjac._linearize.linearize import linearize
from torchjac._linearize.program import LinearProgram, Node
from torchjac._linearize.transpose import transposed

Refusal = tuple[Callable[[], object], type[Exception], str]

X = torch.linspace(1, 2, 4, dtype=torch.float64)
WEIGHTS = torch.linspace(1, 2, 8, dtype=torch.float64).reshape(4, 2)


def program_of(function: Callable[[torch.Tensor], torch.Tensor]) -> LinearProgram:
    return linearize(bind("test", function, X))[0]


def random() -> object:
    return transposed(program_of(lambda x: F.dropout(x, 0.5)), [X])


def complex_vectors() -> object:
    program = program_of(torch.sin)
    values = [v._replace(dtype=torch.complex128) for v in program.values]
    return transposed(replace(program, values=tuple(values)), [X])


def without_backward() -> object:
    program = program_of(torch.sin)
    gamma = torch.ops.aten.igamma.default
    nodes = [replace(n, op=gamma) if n in program.linear_nodes else n for n in program.nodes]
    return transposed(replace(program, nodes=tuple(nodes)), [X])


def square() -> object:
    program = program_of(lambda x: 2 * x)
    (node,) = program.nodes
    product = Node(torch.ops.aten.mul.Tensor, (node.args[0], node.args[0]), {}, node.outputs)
    return transposed(replace(program, nodes=(product,)), [X])


def by_place() -> object:
    program = program_of(lambda x: (2 * x).as_strided((2,), (1,)))
    values = [
        v._replace(strides=(2,)) if v.strides == (1,) and n not in program.tangents else v
        for n, v in enumerate(program.values)
    ]
    return transposed(replace(program, values=tuple(values)), [X])


def too_large() -> object:
    program = program_of(lambda x: torch.tanh(x @ WEIGHTS) @ WEIGHTS.T)
    bracket = plain_bracket(program)
    (middle,) = nested_cuts(program, 1)
    bracket = replace(bracket, cuts=(bracket.cuts[0], middle, bracket.cuts[1]))
    root = Stretch(0, 2, TANGENT, Stretch(0, 1, TANGENT), Stretch(1, 2, TANGENT))
    multiplication = Multiplication(bracket, [X], [root], "global")
    with torch.no_grad():
        return multiplication.run(root, [X], lambda _: False, 15)


REFUSED: list[Refusal] = [
    (random, NotImplementedError, "no transposed program: aten.bernoulli cannot be run again"),
    (complex_vectors, NotImplementedError, "no transposed program: its vectors are not real"),
    (
        without_backward,
        NotImplementedError,
        "no transposed program: the derivative for 'igamma: input'",
    ),
    (
        square,
        NotImplementedError,
        "no transposed program: an operation is not linear in a tangent",
    ),
    (
        by_place,
        NotImplementedError,
        "no transposed program: aten.as_strided reads memory that lies otherwise",
    ),
    (too_large, TooManyDerivativesError, "derivatives in a product"),
]

"""Factors that are kept: their product is the Jacobian, and they are smaller."""

import pytest
import torch

from tests._evaluate.chain.test_emit import CASES, perceptron, residual, weights
from tests._evaluate.direct.emitted import backward, dense_jacobian, sizes_of
from torchjac._evaluate.chain.bracket import Bracket, choose_bracket, plain_bracket
from torchjac._evaluate.chain.cuts import nested_cuts, width
from torchjac._evaluate.chain.emit import emit_factors
from torchjac._evaluate.chain.relation import Reading
from torchjac._evaluate.chain.segment import segment
from torchjac._evaluate.chain.stretch import ADJOINT, TANGENT, Stretch
from torchjac._inputs.signature import bind
from torchjac._linearize.expand import expanded
from torchjac._pattern.detect import detect

A, B = weights(40, 3), weights(3, 50, seed=1)


def narrow(x):
    return torch.sin(torch.tanh(x @ A) @ B)


def factors_of(function, x, elsewhere, direction="", bracket=None):
    """Dense factors, from last to first."""
    signature = bind("test", function, x)
    found = detect(signature)
    program = backward(signature) if direction == "vjp" else found.program
    if bracket is None:
        bracket = choose_bracket(program, signature.leaves, found.pattern)
    sizes = sizes_of(signature, bracket.program.direction)
    made = emit_factors(bracket, signature.leaves, sizes, found.pattern, signature.leaves[0])
    with torch.no_grad():
        return [
            p.to_torch(e.whole.one_by_one.graph(elsewhere), layout=torch.sparse_csr).to_dense()
            for e, p in made
        ]


@pytest.mark.parametrize("direction", ["", "vjp"])
def test_a_waist_splits_the_jacobian(direction) -> None:
    x = weights(40, seed=3)
    parts = factors_of(narrow, x, x + 0.1, direction)
    assert [tuple(part.shape) for part in parts] == [(50, 3), (3, 40)]
    torch.testing.assert_close(parts[0] @ parts[1], dense_jacobian(narrow, x + 0.1))


@pytest.mark.parametrize(
    ("direction", "way"), [("", ADJOINT), ("vjp", TANGENT)], ids=["jvp-adjoint", "vjp-tangent"]
)
@pytest.mark.parametrize("function", CASES, ids=lambda f: f.__name__)
def test_factors_at_every_cut(function, way, direction) -> None:
    x = CASES[function]
    signature = bind("test", function, x)
    found = detect(signature)
    program = backward(signature) if direction == "vjp" else found.program
    bracket = cut_everywhere(program, signature.leaves, way)
    parts = factors_of(function, x, x - 0.1, direction, bracket)
    product = parts[0] if len(parts) == 1 else torch.linalg.multi_dot(parts)
    torch.testing.assert_close(product, dense_jacobian(function, x - 0.1), rtol=1e-9, atol=1e-11)


def cut_everywhere(program, leaves, way) -> Bracket:
    program = expanded(program, leaves)
    ends = program.tangents, tuple(dict.fromkeys([n for n in program.outputs if n is not None]))
    cuts = (ends[0], *nested_cuts(program, 3), ends[1])
    parts = [segment(program, cuts[k], cuts[k + 1]) for k in range(len(cuts) - 1)]
    factors = tuple(
        (Stretch(k, k + 1, way), Reading(part, "global").relation) for k, part in enumerate(parts)
    )
    widths = tuple(width(program, cut) for cut in cuts)
    return Bracket(program, cuts, widths, Stretch(0, len(parts), TANGENT), factors, None, None)


def test_without_a_waist_the_jacobian_is_the_factor() -> None:
    def square(x):
        return torch.tanh(x @ weights(6, 6))

    x = weights(6)
    (part,) = factors_of(square, x, x)
    torch.testing.assert_close(part, dense_jacobian(square, x))


def test_a_plain_bracket_has_one_factor() -> None:
    signature = bind("test", perceptron, weights(7))
    bracket = plain_bracket(detect(signature).program)
    assert bracket.is_plain
    (part,) = factors_of(perceptron, weights(7), weights(7), bracket=bracket)
    torch.testing.assert_close(part, dense_jacobian(perceptron, weights(7)))


def test_a_residual_connection_leaves_no_waist() -> None:
    signature = bind("test", residual, weights(7))
    found = detect(signature)
    assert not choose_bracket(found.program, signature.leaves, found.pattern).factors

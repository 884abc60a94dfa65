"""Which order is chosen: by entries, not by widths."""

import pytest
import torch

from tests._evaluate.chain.test_cuts import perceptron
from tests._evaluate.direct.emitted import backward
from torchjac._evaluate.chain import parts
from torchjac._evaluate.chain.bracket import choose_bracket, rival_of
from torchjac._evaluate.chain.stretch import TANGENT
from torchjac._inputs.signature import bind
from torchjac._pattern.detect import detect
from torchjac.testing import scenario


def bracket_of(function, x, direction: str = ""):
    signature = bind("test", function, x)
    found = detect(signature)
    program = backward(signature) if direction == "vjp" else found.program
    return choose_bracket(program, signature.leaves, found.pattern)


def test_short_rows_are_not_searched() -> None:
    problem = scenario("burgers", 50)
    bracket = bracket_of(problem.function, problem.x())
    assert bracket.is_plain
    assert bracket.multiplications is None


@pytest.mark.parametrize("direction", ["", "vjp"])
def test_a_waist_is_multiplied_over(direction) -> None:
    bracket = bracket_of(perceptron(400, 200, 3, 200, 400), torch.rand(400), direction)
    assert bracket.root.factor is not None
    assert bracket.widths == (400, 200, 3, 200, 400)
    assert [(stretch.start, stretch.stop) for stretch, _ in bracket.factors] == [(0, 2), (2, 4)]


def test_each_side_of_a_waist_is_had_from_the_waist() -> None:
    bracket = bracket_of(perceptron(400, 200, 4, 200, 400), torch.rand(400))
    assert str(bracket).startswith("(J4 · J3) · (J2 J1 by adjoints), through 400-200-4-200-400: ")


@pytest.mark.parametrize("direction", ["", "vjp"])
def test_few_outputs_are_pulled_back(direction) -> None:
    bracket = bracket_of(perceptron(200, 100, 2), torch.rand(200), direction)
    assert bracket.is_transposed is (direction == "")
    assert bracket.is_plain is (direction == "vjp")


def test_tokens_are_not_multiplied_as_one_matrix() -> None:
    net = perceptron(40, 80, 40)
    assert bracket_of(net, torch.rand(8, 40)).multiplications < 8 * 40 * 80 * 40 * 1.5


def test_a_part_without_an_adjoint_is_named(monkeypatch) -> None:
    def refuse(*_):
        raise NotImplementedError("no transposed program: none today")

    monkeypatch.setattr(parts, "transposed", refuse)
    bracket = bracket_of(perceptron(60, 3, 50), torch.rand(60))
    assert all(stretch.direction == TANGENT for stretch in bracket.root.parts)
    assert bracket.refused == tuple(
        f"J{k} by tangents only: no transposed program: none today" for k in (1, 2)
    )
    assert str(bracket).endswith(bracket.refused[-1])


def test_printed() -> None:
    text = str(bracket_of(perceptron(300, 3, 200), torch.rand(300)))
    assert text == ("J2 J1 by adjoints, through 300-3-200: 2.4e+05 multiplications, 7.6e+05 bytes")


def attention(x: torch.Tensor) -> torch.Tensor:
    weights = torch.softmax(x @ WIDE @ x.T, -1)
    return (weights @ x @ WIDE).tanh() @ WIDE


WIDE = torch.eye(40) + 0.01


@pytest.mark.parametrize("direction", ["", "vjp"])
def test_products_of_what_varies_have_a_rival(direction) -> None:
    bracket = bracket_of(attention, torch.rand(9, 40), direction)
    rival = rival_of(bracket)
    assert rival is not None
    assert rival.is_transposed is (direction == "")
    assert rival.is_plain is (direction == "vjp")
    assert rival.multiplications is None


def test_products_with_constants_have_no_rival() -> None:
    bracket = bracket_of(perceptron(400, 200, 3, 200, 400), torch.rand(400))
    assert rival_of(bracket) is None


def test_a_part_without_an_adjoint_has_no_rival(monkeypatch) -> None:
    def refuse(*_):
        raise NotImplementedError("no transposed program: none today")

    monkeypatch.setattr(parts, "transposed", refuse)
    assert rival_of(bracket_of(attention, torch.rand(9, 40))) is None

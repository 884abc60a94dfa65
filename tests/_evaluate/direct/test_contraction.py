"""Networks are written out with the numbers of `torch.einsum`, and in a cheap order."""

import random
from math import prod

import pytest
import torch

from torchjac._evaluate.direct.contraction import contracted
from torchjac._evaluate.direct.network import Factor, Label, Term
from torchjac._evaluate.direct.spread import Builder
from torchjac._evaluate.direct.written import graph_of
from torchjac._linearize.program import Node, Ref, Value

aten = torch.ops.aten


def written(equation: str, tensors: list[torch.Tensor], scale: float = 1.0):
    """The operations of an einsum, and its result by them."""
    inner, outer = equation.split("->")
    names = inner.split(",")
    pairs = zip(inner.replace(",", ""), [n for t in tensors for n in t.shape], strict=True)
    sizes = dict(pairs)
    labels = {c: Label(n) for c, n in sizes.items()}
    factors = [
        Factor(Ref(k), tuple([(labels[c],) if sizes[c] > 1 else () for c in name]))
        for k, name in enumerate(names)
    ]
    axes = tuple([(labels[c],) if sizes[c] > 1 else () for c in outer])
    values = [Value(tuple(t.shape), t.dtype) for t in tensors]
    builder = Builder(values, {})
    result = contracted(builder, Term(tuple(factors), axes, scale))
    graph = graph_of(builder.nodes, builder.constants, range(len(tensors)), result.number)
    return builder, graph(*tensors)


def multiplications(builder: Builder) -> int:
    def of(node: Node) -> int:
        one, other = [builder.shape(ref) for ref in node.args[:2]]
        return prod(one) * other[-1]

    products = [node for node in builder.nodes if node.op in (aten.mm.default, aten.bmm.default)]
    return sum(map(of, products))


def random_tensors(*shapes, dtype=torch.float64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("ij,jk->ik", [(5, 6), (6, 7)]),
        ("ij,jk->ki", [(5, 6), (6, 7)]),
        ("ij,kj->", [(5, 6), (7, 6)]),
        ("ij->", [(5, 6)]),
        ("ij->ji", [(5, 6)]),
        ("i,j->ij", [(5,), (6,)]),
        ("i,j->ji", [(5,), (6,)]),
        ("i,i->i", [(5,), (5,)]),
        ("i,i->", [(5,), (5,)]),
        ("bij,bjk->bik", [(3, 5, 6), (3, 6, 7)]),
        ("bij,bjk->ibk", [(3, 5, 6), (3, 6, 7)]),
        ("tsh,trhc->rtsc", [(3, 5, 2), (3, 6, 2, 7)]),
        ("rhts,thc->rtsc", [(6, 2, 3, 5), (3, 2, 7)]),
        ("trhd,tsh,hdc->rtsc", [(3, 6, 2, 4), (3, 5, 2), (2, 4, 7)]),
        ("ab,bc,cd,da->", [(3, 4), (4, 5), (5, 6), (6, 3)]),
        ("ab,bc,cd,de,ef,fg->ag", [(3, 4), (4, 5), (5, 6), (6, 3), (3, 4), (4, 2)]),
        ("ab,ab,ab->b", [(3, 4), (3, 4), (3, 4)]),
        ("ab,cd->adbc", [(3, 4), (5, 2)]),
        ("ab,b,bc->ac", [(1, 4), (4,), (4, 1)]),
    ],
)
@pytest.mark.parametrize("scale", [1.0, -2.5])
def test_as_einsum(equation, shapes, scale):
    tensors = random_tensors(*shapes)
    _, found = written(equation, tensors, scale)
    torch.testing.assert_close(found, scale * torch.einsum(equation, *tensors))


@pytest.mark.parametrize("seed", range(60))
def test_random_networks(seed):
    rng = random.Random(seed)
    sizes = {c: rng.choice([1, 2, 3, 5]) for c in "abcdefg"}
    names = ["".join(rng.sample("abcdefg", rng.randint(0, 4))) for _ in range(rng.randint(1, 5))]
    used = sorted(set("".join(names)))
    outer = "".join(rng.sample(used, rng.randint(0, len(used))))
    tensors = random_tensors(*[[sizes[c] for c in name] for name in names])
    equation = f"{','.join(names)}->{outer}"
    _, found = written(equation, tensors)
    torch.testing.assert_close(found, torch.einsum(equation, *tensors))


def test_small_products_come_first():
    tensors = random_tensors((16, 4, 8), (16, 32, 4), (4, 8, 16))  # t h d, t s h, h d c
    builder, _ = written("thd,tsh,hdc->tsc", tensors)
    assert multiplications(builder) == 16 * 4 * 8 * 16 + 16 * 32 * 4 * 16


def test_no_matrix_products_without_rows():
    builder, _ = written("ij,j->i", random_tensors((5, 6), (6,)))
    assert [node.op for node in builder.nodes][-1] is aten.sum.dim_IntList


def test_numbers_multiply_the_smallest():
    builder, _ = written("ij,jk->ik", random_tensors((5, 2), (2, 7)), 3.0)
    (scaled,) = [node for node in builder.nodes if node.op is aten.mul.Scalar]
    assert builder.shape(scaled.args[0]) == (5, 2)


def test_constants_are_multiplied_at_once():
    generator = torch.Generator().manual_seed(0)
    one, other = [torch.randn(3, 3, generator=generator) for _ in range(2)]
    label, middle, last = Label(3), Label(3), Label(3)
    factors = Factor(Ref(0), ((label,), (middle,))), Factor(Ref(1), ((middle,), (last,)))
    builder = Builder([Value((3, 3), torch.float32)] * 2, {0: one, 1: other})
    result = contracted(builder, Term(factors, ((label,), (last,))))
    assert builder.nodes == []
    torch.testing.assert_close(builder.constants[result.number], one @ other)

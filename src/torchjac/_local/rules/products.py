"""Matrix products: a tangent contracted with a coefficient."""

import torch

from torchjac._linearize.program import Ref
from torchjac._local.algebra import Contract, Scale, Term
from torchjac._local.call import Call
from torchjac._local.registry import Terms, rule

aten = torch.ops.aten
# Letters of the two factors and of the product.
_PRODUCTS = {
    aten.mm: ("ik", "kj", "ij"),
    aten.bmm: ("bik", "bkj", "bij"),
    aten.mv: ("ik", "k", "i"),
    aten.dot: ("k", "k", ""),
    aten.vdot: ("k", "k", ""),
    aten.ger: ("i", "j", "ij"),
    aten.outer: ("i", "j", "ij"),
    aten.addmm: ("ik", "kj", "ij"),
    aten.baddbmm: ("bik", "bkj", "bij"),
    aten.addmv: ("ik", "k", "i"),
    aten.addr: ("i", "j", "ij"),
}
# Names of the two factors, where a third argument is added.
_ADDED = {
    aten.addmm: ("mat1", "mat2"),
    aten.baddbmm: ("batch1", "batch2"),
    aten.addmv: ("mat", "vec"),
    aten.addr: ("vec1", "vec2"),
}


@rule(*_PRODUCTS)
def product(call: Call) -> Terms:
    """A product of matrices or vectors, one of them the tangent.

    mm(t, c)  ->  t: Contract("ik,kj->ij", c)
    mm(c, t)  ->  t: Contract("kj,ik->ij", c)
    """
    packet = call.node.op.overloadpacket
    left, right, out = _PRODUCTS[packet]
    names = _ADDED.get(packet)
    if names is None:
        a, b = call.node.args[:2]
        return contraction(call, a, b, left, right, out)
    a, b = (call[name] for name in names)
    terms = [] if call["alpha"] == 0 else contraction(call, a, b, left, right, out)
    added = call["self"]
    if call.is_tangent(added) and call["beta"] != 0:
        terms = [*terms, Term(added, [Scale(call.out_shape())])]
    return terms


def contraction(call: Call, a: Ref, b: Ref, left: str, right: str, out: str) -> list[Term]:
    """The terms of a sum of products.

    Args:
        call: The operation.
        a: One factor.
        b: The other factor.
        left: Letters of the one.
        right: Letters of the other.
        out: Letters of the result.

    Returns:
        One term for each factor that is a tangent.
    """
    terms: list[Term] = []
    for tangent, factor, mine, its in ((a, b, left, right), (b, a, right, left)):
        if call.is_tangent(tangent):
            known = None if call.is_tangent(factor) else call.factor(factor)
            contract = Contract(f"{mine},{its}->{out}", factor, call.shape(factor), known)
            terms.append(Term(tangent, [contract]))
    return terms

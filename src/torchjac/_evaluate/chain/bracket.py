"""In which order the parts of a Jacobian are multiplied, and which way each is computed.

A Jacobian that passes through p - 1 cuts is a product of p local ones. Dynamic programming over all
stretches between two cuts finds the cheapest bracket, where a stretch is had by one of three moves:
the tangent of what lies before it, pushed on; the adjoint of what lies behind it, pulled back; or
the product of two stretches that were computed by themselves. Costs count entries, not widths: for
a network of tokens a local Jacobian has as many slices as one token has numbers.

Source: generalised dense Jacobian chain products, Griewank & Naumann (2003), "Accumulating
Jacobians as chained sparse matrix products", Mathematical Programming 95; Naumann (2020), "Sparse
Jacobian chain products", arXiv:2003.05755.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from torchjac._evaluate.chain.cuts import Cut, nested_cuts, width
from torchjac._evaluate.chain.parts import read_parts
from torchjac._evaluate.chain.relation import Relation
from torchjac._evaluate.chain.search import Search
from torchjac._evaluate.chain.stretch import ADJOINT, TANGENT, Stretch
from torchjac._evaluate.chain.work import Work
from torchjac._linearize.expand import expanded
from torchjac._linearize.program import LinearProgram
from torchjac._pattern.pattern import SparsityPattern

# More cuts are seldom of use, and take time to find.
MOST_CUTS = 7
# With rows this short nothing is to be gained.
SHORT_ROWS = 32


@dataclass(frozen=True, eq=False)
class Bracket:
    """The order in which a Jacobian is multiplied together.

    Attributes:
        program: What is cut: the linear program, fused operations in it taken apart.
        cuts: Numbers of the tensors of each cut, from the tangents to the results.
        widths: Elements of each cut.
        root: How the Jacobian is had.
        factors: How the factors are had that hold it with the fewest entries, first to last, each
            with the pattern of the one cut by the other; none if they would be the whole.
        multiplications: Predicted, numbers multiplied and added; None where nobody counted.
        bytes: Predicted, read and written; likewise.
        refused: Parts that have no adjoint, and why.
    """

    program: LinearProgram = field(repr=False)
    cuts: tuple[Cut, ...]
    widths: tuple[int, ...]
    root: Stretch
    factors: tuple[tuple[Stretch, Relation], ...]
    multiplications: float | None
    bytes: float | None
    refused: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Whether it is direct evaluation of the program as it is."""
        return self.root == Stretch(0, len(self.cuts) - 1, TANGENT)

    @property
    def is_transposed(self) -> bool:
        """Whether it is direct evaluation of the transposed program."""
        return self.root == Stretch(0, len(self.cuts) - 1, ADJOINT)

    @property
    def places(self) -> tuple[int | None, ...]:
        """Place of each result of the program in the last cut, None for one that is zero."""
        last = self.cuts[-1]
        return tuple([None if n is None else last.index(n) for n in self.program.outputs])

    def __str__(self) -> str:
        text = f"{self.root}, through {'-'.join([str(w) for w in self.widths])}"
        if self.multiplications is not None and self.bytes is not None:
            text += f": {self.multiplications:.2g} multiplications, {self.bytes:.2g} bytes"
        return "; ".join([text, *self.refused])


def choose_bracket(
    program: LinearProgram,
    primals: Sequence[Tensor],
    pattern: SparsityPattern | None,
    scope: str = "global",
    *,
    most_cuts: int = MOST_CUTS,
) -> Bracket:
    """The cheapest order to multiply a Jacobian together.

    Args:
        program: The linear program.
        primals: x, where it was traced.
        pattern: Of the Jacobian, None if nobody knows it.
        scope: As the pattern was detected.
        most_cuts: How many cuts are looked at.

    Returns:
        The bracket. Where rows are short it is that of plain tangents, without a search.
    """
    if pattern is not None and _longest_row(pattern, program.direction) <= SHORT_ROWS:
        return plain_bracket(program)
    program = expanded(program, primals)
    ends = _ends(program)
    cuts = [ends[0], *nested_cuts(program, most_cuts), ends[1]]
    parts, refused = read_parts(program, cuts, primals, scope)
    search = Search(parts, primals[0].element_size())
    root, cost = search.best(rows_first=ADJOINT if program.direction == "jvp" else TANGENT)
    widths = tuple([width(program, cut) for cut in cuts])
    factors = search.factors()
    factors = factors if len(factors) > 1 else ()
    return Bracket(
        program,
        tuple(cuts),
        widths,
        root,
        factors,
        cost.multiplications,
        cost.bytes,
        refused,
    )


def rival_of(bracket: Bracket) -> Bracket | None:
    """Rows through the whole program, where these may cost far less than is predicted.

    A product of two tensors that both depend on x, as in attention, turns each derivative into many
    that share a factor. Predictions count each of them; a program leaves the factor aside until the
    end. So which way is better shows when both are written.

    Args:
        bracket: The one of the least predicted cost.

    Returns:
        The other, or None if there is no such product, or it is no other.
    """
    program, is_forward = bracket.program, bracket.program.direction == "jvp"
    root = Stretch(0, len(bracket.cuts) - 1, ADJOINT if is_forward else TANGENT)
    if bracket.is_plain or bracket.is_transposed or (is_forward and bracket.refused):
        return None
    known = program.linear.union(program.constants)
    nodes = program.linear_nodes
    if all([known.issuperset(nodes[place].inputs) for place in Work(program).mixing]):
        return None
    return replace(bracket, root=root, multiplications=None, bytes=None)


def _longest_row(pattern: SparsityPattern, direction: str) -> int:
    counts = pattern.row_counts if direction == "jvp" else pattern.column_counts
    return int(counts.max(initial=0))


def _ends(program: LinearProgram) -> tuple[Cut, Cut]:
    """The tangents, and the results, each once."""
    return program.tangents, tuple(dict.fromkeys([n for n in program.outputs if n is not None]))


def plain_bracket(program: LinearProgram) -> Bracket:
    """Direct evaluation of a program as it is, without cuts.

    Args:
        program: The linear program.

    Returns:
        The bracket.
    """
    ends, root = _ends(program), Stretch(0, 1, TANGENT)
    widths = width(program, ends[0]), width(program, ends[1])
    return Bracket(program, ends, widths, root, (), None, None)

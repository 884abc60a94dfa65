"""What is known of a Jacobian before it is computed: the values between the stages of a plan."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchjac._coloring.coloring import Coloring
from torchjac._evaluate.direct.runner import Direct
from torchjac._inputs.checks import Layout
from torchjac._inputs.storage import is_part
from torchjac._layout.arrange import Arrangement
from torchjac._layout.decompress import Decompressor
from torchjac._layout.mosaic import Mosaic, mosaic_of
from torchjac._linearize.cost import Cost
from torchjac._pattern.pattern import SparsityPattern

SYMMETRIC = ("star", "acyclic")


@dataclass(frozen=True)
class Request:
    """What a user asked of a plan.

    Attributes:
        api: The public function, for messages.
        order: 1 for the Jacobian, 2 for the Hessian.
        layout: Layout of the result, or "blocks".
        blocksize: Of BSR blocks, None to choose.
        flat: One matrix over everything raveled.
        scope: "global" or "local".
        strategy: "auto", "forward-mode" or "reverse-mode".
        chunk_size: Seeds per pass.
        memory: What may be used.
        on_branch: "retrace" or "raise".
        vectorize: As in `jacobian`.
        progress: Show a progress bar.
        backend: What may run: "eager" (passes), "replay", "inductor", "cudagraphs", or "auto" for
            the cheapest.
        uses: How many evaluations are expected, None if that is unknown: then nothing is compiled.
        tune: Make all that may be the fastest, and time it.
    """

    api: str = "plan"
    order: int = 1
    layout: Layout = torch.sparse_csr
    blocksize: tuple[int, int] | None = None
    flat: bool = False
    scope: str = "global"
    strategy: str = "auto"
    chunk_size: int | None = None
    memory: int | float | None = None
    on_branch: str = "retrace"
    vectorize: bool | None = None
    progress: bool = False
    backend: str = "eager"
    uses: int | None = None
    tune: bool = False

    @property
    def asks_for_passes(self) -> bool:
        """Whether the user has said something of how passes shall be made."""
        return (self.strategy, self.chunk_size, self.vectorize) != ("auto", None, None)


@dataclass(frozen=True)
class Candidate:
    """A way to compute, and what it would cost.

    Attributes:
        name: What it does.
        seeds: Products that it takes.
        bytes: Of the result, and of the products or intermediate tensors that it is read from.
        predicted_s: Seconds of one evaluation, from times that were taken where there are any.
        note: The kind of coloring, or why it is out of the question.
        is_chosen: Whether the plan takes it.
        once_s: Seconds that making it has cost, or would cost, beside what all candidates share.
        cost: Traffic, work and launches of one evaluation, None where they are not known.
    """

    name: str
    seeds: int
    bytes: int
    predicted_s: float
    note: str = ""
    is_chosen: bool = False
    once_s: float = 0.0
    cost: Cost | None = None


@dataclass(frozen=True)
class Found:
    """What looking at the function gave, besides the pattern.

    Attributes:
        source: "detected", "given" or "loaded".
        scope: For which inputs the pattern holds: "global" or "local".
        direction: Whether the jvp or the vjp was traced.
        opaque_ops: Operations without a rule, taken as dense.
        dense_ops: Operations at which the pattern was all but dense.
        reads: What the function read out of tensors: its branch.
        constant_entries: Entries that do not depend on the inputs, None if nobody looked.
        trace_s: Seconds that tracing took.
        pattern_s: Seconds that the pattern took.
    """

    source: str
    scope: str
    direction: str = ""
    opaque_ops: tuple[str, ...] = ()
    dense_ops: tuple[str, ...] = ()
    reads: tuple[Any, ...] = ()
    constant_entries: int | None = None
    trace_s: float = 0.0
    pattern_s: float = 0.0


class Side(NamedTuple):
    """Products that are taken: sums of columns by forward mode, or of rows by reverse mode.

    Attributes:
        mode: "forward-mode" or "reverse-mode".
        method: "vmap", "loop" or the like.
        seeds: How many of them.
        chunk_size: Seeds per pass, None for all at once.
    """

    mode: str
    method: str
    seeds: int
    chunk_size: int | None = None


@dataclass(frozen=True, eq=False)
class Scheme:
    """How all entries are had from a few products.

    Attributes:
        coloring: Which columns and rows share one.
        sides: The products.
        decompressor: Reads the entries from them.
    """

    coloring: Coloring
    sides: tuple[Side, ...]
    decompressor: Decompressor


@dataclass(frozen=True, eq=False)
class Structure:
    """All that a plan knows of one branch of a function.

    Attributes:
        pattern: Entries that can be nonzero, over everything raveled.
        found: How it was found.
        outputs: What the function returns, tensors without numbers.
        tree: Their tree.
        dtypes: Of the columns of the result: one for each input, or one if the result is flat.
        arrangements: For each output and input, where the entries go; one of one if `flat`.
        eps: Coarsest precision in the function.
        floor: Size of the value of the function over that of its inputs: rounding may leave
            entries of so many units of the precision.
        is_stateful: Whether it draws random numbers or moves buffers: evaluated apart.
        methods: How PyTorch can do each mode.
        scheme: How the entries are computed, None where there can be none.
        candidates: What there was to choose from.
        coloring_s: Seconds that coloring took.
        constant: The entries, if none of them depends on the inputs.
        direct: The program that computes them without passes, if it is used.
        emit_s: Seconds that it took to make.
        strides: Of the inputs, if the function reads memory by its place, as `as_strided` does.
        is_live: Whether all this holds for any numbers in the tensors beside those that are
            differentiated, which are inputs of the program too.
    """

    pattern: SparsityPattern
    found: Found
    outputs: tuple[Tensor, ...]
    tree: Any
    dtypes: tuple[torch.dtype, ...]
    arrangements: Sequence[Sequence[Arrangement]]
    eps: float
    floor: float
    is_stateful: bool
    methods: Mapping[str, str]
    scheme: Scheme | None = None
    candidates: tuple[Candidate, ...] = ()
    coloring_s: float = 0.0
    constant: Tensor | None = None
    direct: Direct | None = None
    emit_s: float = 0.0
    strides: tuple[tuple[int, ...], ...] | None = None
    is_live: bool = False

    def taken(self, leaves: Sequence[Tensor], beside: Sequence[Tensor]) -> Sequence[Tensor]:
        """What the program takes of the tensors of a call: x, and those beside it if they vary."""
        return (*leaves, *beside) if self.is_live and beside else leaves

    @cached_property
    def mosaic(self) -> Mosaic | None:
        """How entries are cut into dense blocks, if that is all there is to do."""
        places = [where for row in self.arrangements for where in row]
        return mosaic_of(places) if len(places) > 1 and len(set(self.dtypes)) == 1 else None

    @property
    def needs_passes(self) -> bool:
        """Whether entries can only be had by passes through the function."""
        return self.direct is None and self.constant is None and self.scheme is not None

    @property
    def prepared_s(self) -> float:
        """Seconds that all of this took to find and to make."""
        return self.found.trace_s + self.found.pattern_s + self.coloring_s + self.emit_s

    def lies_alike(self, leaves: Sequence[Tensor]) -> bool:
        """Whether all that is read of the inputs lies where it did, and nothing beside it."""
        if self.strides is None:
            return True
        return not any(map(is_part, leaves)) and self.strides == tuple([x.stride() for x in leaves])

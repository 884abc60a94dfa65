"""Emit one plain tensor program from x to the nonzeros of the Jacobian."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from torchjac._evaluate.direct.assemble import Assembly, assemble
from torchjac._evaluate.direct.placed import Part
from torchjac._evaluate.direct.rows import Places
from torchjac._evaluate.direct.transport import TooManyDerivativesError
from torchjac._evaluate.direct.written import Written
from torchjac._linearize.program import LinearProgram
from torchjac._linearize.record import Recorder, TooMuchError, WrittenToError
from torchjac._linearize.simplify import trimmed
from torchjac._linearize.without_writes import without_writes
from torchjac._pattern.pattern import SparsityPattern

aten = torch.ops.aten
# More derivatives of one tensor than this many times the nonzeros, or than this in all, and
# compressed passes are better; fewer than the least are always carried.
MOST_TIMES, MOST_DERIVATIVES, FEW_DERIVATIVES = 32, 2**26, 2**20
# A longer program takes longer to run than passes do.
MOST_OPERATIONS = 4000

IsConstant = Callable[[Tensor], bool]
Results = Sequence[Sequence[Part] | None]


@dataclass(frozen=True, eq=False)
class DirectProgram:
    """A program without derivatives: the nonzeros of J as a function of x.

    Attributes:
        whole: Takes the inputs, returns the nonzeros in CSR order.
        varying: Takes the inputs, returns those nonzeros that depend on them; None if none does.
        targets: Places of these among the nonzeros, rising; None if they are all.
        nonzero_bytes: Size of the nonzeros.
    """

    whole: Written
    varying: Written | None
    targets: Tensor | slice | None
    nonzero_bytes: int


def emit_carried(
    carried: Callable[[Sequence[Tensor], IsConstant, int], Results],
    primals: Sequence[Tensor],
    sizes: Sequence[int],
    pattern: SparsityPattern,
    like: Tensor,
    *,
    transposed: bool,
    most_bytes: float = inf,
) -> DirectProgram:
    """Emit the program of a Jacobian whose derivatives are carried in any way.

    Args:
        carried: Takes the inputs, what tells whether a tensor is the same at every x, and the
            most derivatives of one tensor; returns the blocks of each result.
        primals: x, where the program was traced.
        sizes: Numbers of elements of the results.
        pattern: Of the Jacobian.
        like: A tensor with the dtype and device of the nonzeros.
        transposed: Whether the results are those of a transposed program, its inputs rows.
        most_bytes: What large tensors may take at one time.

    Returns:
        The program.

    Raises:
        TooManyDerivativesError: It would hold too much.
    """
    room = min(MOST_DERIVATIVES, max(FEW_DERIVATIVES, MOST_TIMES * pattern.nnz))

    def assembled(inputs: Sequence[Tensor], is_constant: IsConstant) -> Assembly:
        results = carried(inputs, is_constant, room)
        return assemble(
            results, sizes, pattern, like, transposed=transposed, is_constant=is_constant
        )

    return emit_recorded(
        assembled, primals, pattern.nnz * like.element_size(), like.device, most_bytes
    )


def emit_recorded(
    assembled: Callable[[Sequence[Tensor], IsConstant], Assembly],
    primals: Sequence[Tensor],
    nonzero_bytes: int,
    device: torch.device,
    most_bytes: float = inf,
) -> DirectProgram:
    """Emit the program of whatever computes the nonzeros of a Jacobian.

    Args:
        assembled: Takes the inputs, and what tells whether a tensor is the same at every x;
            returns the nonzeros.
        primals: x, where it is recorded.
        nonzero_bytes: Size of the nonzeros.
        device: Where they are.
        most_bytes: What large tensors may take at one time.

    Returns:
        The program.

    Raises:
        TooManyDerivativesError: It would hold too much.
    """
    try:
        recorded, targets = _recorded(assembled, primals, most_bytes, is_lean=True)
    except WrittenToError:  # some batching rules of PyTorch work in place
        recorded, targets = _recorded(assembled, primals, most_bytes, is_lean=False)
    outputs = recorded.outputs
    whole = Written.of(recorded, 0, device)
    part = None if outputs[1] is None else whole
    if part is not None and outputs[1] != outputs[0]:
        part = Written.of(recorded, 1, device)
    where = None if targets is None else as_slice(targets)
    if where is None and targets is not None:
        where = torch.from_numpy(targets.astype(np.int64)).to(device)
    return DirectProgram(whole, part, where, nonzero_bytes)


def as_slice(places: NDArray[np.int64]) -> slice | None:
    """Places at equal steps as a slice, which is written to faster.

    Args:
        places: Rising numbers.

    Returns:
        The slice, or None if the steps differ.

    >>> as_slice(np.array([1, 4, 7]))
    slice(1, 8, 3)
    """
    steps = np.diff(places)
    if not len(steps) or not (steps == steps[0]).all():
        return None
    return slice(int(places[0]), int(places[-1]) + 1, int(steps[0]))


def _recorded(
    assembled: Callable[[Sequence[Tensor], IsConstant], Assembly],
    primals: Sequence[Tensor],
    most_bytes: float,
    *,
    is_lean: bool,
) -> tuple[LinearProgram, Places | None]:
    """What is recorded, as a program that writes to no tensor, linear in nothing."""
    recorder = Recorder(is_lean=is_lean, most=MOST_OPERATIONS, most_bytes=most_bytes)
    try:
        with torch.no_grad(), recorder:
            inputs = [x.detach().clone() for x in primals]
            numbers = recorder.enter(inputs)
            nonzeros, varying, targets = assembled(inputs, recorder.is_constant)
            outputs = recorder.leave([nonzeros, varying])
    except TooMuchError as error:
        raise TooManyDerivativesError(str(error)) from None
    program = LinearProgram(
        tuple(recorder.nodes),
        tuple(recorder.values),
        numbers,
        (),
        outputs,
        recorder.constants,
        recorder.integers,
        frozenset(),
        "jvp",
    )
    if recorder.mutates:
        program = without_writes(program, inputs, ())
    nodes, outputs = trimmed(program.nodes, program.values, program.constants, program.outputs)
    return replace(program, nodes=tuple(nodes), outputs=outputs), targets

"""A plan at work: which branch this is, what can be trusted, and the entries."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from threading import RLock
from time import perf_counter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchjac._evaluate.attention import with_math_attention
from torchjac._evaluate.compressed import Passes
from torchjac._evaluate.direct.runner import Direct
from torchjac._evaluate.ladder import LOOP
from torchjac._evaluate.options import Options
from torchjac._inputs.signature import Outputs, Signature
from torchjac._inputs.warn import warn
from torchjac._linearize.reads import Reads
from torchjac._planner.apply import (
    Entries,
    find_suspects,
    planned_chunks,
    take_entries,
    tell,
    tell_direct,
)
from torchjac._planner.call import Call, World, others_of
from torchjac._planner.certificate import confirm
from torchjac._planner.fit import Fit
from torchjac._planner.prepare import Given, Prepared, prepare, rows_scheme
from torchjac._planner.probe import REVERSE, random_vector, run
from torchjac._planner.programs import without_program
from torchjac._planner.renewal import Renewal, is_same_world
from torchjac._planner.smooth import Verdicts, lacks_derivatives, other_sources
from torchjac._planner.structure import Request, Scheme, Structure
from torchjac.errors import BranchError, BranchWarning, PlanMismatchError

# Branches that are kept ready; a function that reads another number each time has no end of them.
MOST_BRANCHES = 16


class Known(NamedTuple):
    """A structure, and what it was found in; None in another process."""

    structure: Structure
    world: World | None


def settled(request: Request, given: Given, world: World) -> Request:
    """The request, without a program where passes were asked for or nobody can watch `func`."""
    is_fixed = request.asks_for_passes or given != Given() or not world.is_complete
    if request.backend == "auto" and is_fixed:
        return replace(request, backend="eager")
    return request


class Answer(NamedTuple):
    """What a call of a plan found: where the entries go, the entries, and the value.

    A value that was not asked for may be one of tensors without numbers.
    """

    structure: Structure
    signature: Signature
    values: Tensor
    outputs: Outputs


class Ready(NamedTuple):
    """An emitted program that may be trusted, and where to run it.

    Of the signature, which may be that of an earlier call, only the trees count. `inputs` are those
    of the program. `is_lone` says that there are no trees: one tensor is differentiated by another.
    """

    structure: Structure
    signature: Signature
    inputs: Sequence[Tensor]
    program: Direct
    is_lone: bool


@dataclass(eq=False)
class Core:
    """What a plan holds.

    Attributes:
        call: The function.
        request: What the user asked for.
        given: A pattern or coloring that the user brought.
        fit: What the inputs must be like.
        known: The branch that the plan was made for.
        branches: Other branches, by what the function reads there.
        lock: Held while any of these change.
        row_schemes: For each branch the scheme for results that can be differentiated.
        smooth: For each branch whether its program can give such results.
        plain: The signature of a call with nothing but tensors, which is the same each time.
        is_lone: Whether a result for such inputs is no tree, if the output is none.
        renewal: Whether a plan for what the function holds now pays by now.
    """

    call: Call
    request: Request
    given: Given
    fit: Fit
    known: Known
    branches: dict[tuple[Any, ...], Known] = field(default_factory=dict)
    lock: Any = field(default_factory=RLock)
    row_schemes: dict[Structure, Scheme | None] = field(default_factory=dict)
    smooth: Verdicts = field(default_factory=Verdicts)
    plain: Signature | None = None
    is_lone: bool = False
    renewal: Renewal = field(default_factory=Renewal)

    @property
    def main(self) -> Structure:
        """What is known of the branch that the plan was made for."""
        return self.known.structure

    def __getstate__(self) -> dict[str, Any]:
        """Without the lock, and without trust: what the function reads elsewhere is not known."""
        # An emitted program stays here too: it holds numbers of what the function reads.
        known = Known(without_program(self.main), None)
        kept = dict(self.__dict__, known=known, branches={}, row_schemes={}, smooth=Verdicts())
        return dict(kept, lock=None, plain=None, renewal=Renewal())

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore."""
        self.__dict__.update(state, lock=RLock())

    def answer(self, inputs: Any, *, create_graph: bool, check: bool, with_value: bool) -> Answer:
        """Compute the entries.

        Args:
            inputs: Where.
            create_graph: Make them differentiable.
            check: Certify them.
            with_value: Evaluate the function as well.

        Returns:
            The answer.

        Raises:
            PlanMismatchError: The inputs are not like those that the plan was made for.
            BranchError: The function took another branch, and may not.
            PatternError: A certificate failed.
        """
        began = perf_counter()
        signature = self.call.bind(self.request.api, inputs)
        self.fit.refuse(self.request.api, inputs, signature.leaves)
        if create_graph:
            signature = with_math_attention(signature)
        options = Options(create_graph, vectorize=self.request.vectorize, quiet=True)
        first = self.known
        passes = Passes.begin(signature, first.structure.outputs, options)
        is_called = with_value or self._has_effects(first, inputs, signature)
        reads = self._evaluate(first.structure, passes, is_called)
        known = self._branch(first, reads)
        structure = known.structure if known else first.structure
        entries = None
        fits = self._has_shapes_of(structure, passes) and structure.lies_alike(signature.leaves)
        if fits and (known or not create_graph):
            passes.likes = structure.outputs
            trusted = known is not None and self._is_trusted(known, inputs, signature)
            world = None if known is None else known.world
            entries = self._entries(structure, passes, world, trusted=trusted, check=check)
            if entries is not None and structure.direct is not None and not trusted:
                self._renew(inputs, passes, perf_counter() - began)
        if entries is None:
            structure, passes, entries = self._remade(inputs, passes, reads)
        value = passes.value or Outputs(structure.outputs, structure.tree, None)
        return Answer(structure, signature, entries.values, value)

    def direct(self, inputs: Any) -> Ready | None:
        """The emitted program, where there is one that belongs to the function as it is now.

        Args:
            inputs: Where the Jacobian is wanted.

        Returns:
            The program and x.
        """
        structure, world = self.known
        if structure.direct is None or world is None:
            return None
        is_module = isinstance(self.call.wrt, torch.nn.Module)
        plain = None if is_module else self.fit.plain(inputs)
        others: Sequence[Any] = ()
        if plain is not None and self.plain is not None:
            signature, (leaves, beside) = self.plain, plain
        else:
            signature = self.call.bind(self.request.api, inputs)
            leaves, beside = signature.leaves, signature.beside
            self.fit.refuse(self.request.api, inputs, leaves)
            if plain is not None:
                self.plain = signature._replace(leaves=(), beside=())
                self.is_lone = len(leaves) == 1 and signature.nest(leaves) is leaves[0]
            else:
                others = others_of(inputs, (*leaves, *beside))
        watched = None if structure.is_live else beside
        if not structure.lies_alike(leaves):
            return None
        if not self.call.is_in(world, others, watched, leaves):
            return None
        is_lone = plain is not None and structure.tree is None and self.is_lone
        given = structure.taken(leaves, beside)
        return Ready(structure, signature, given, structure.direct, is_lone)

    def _evaluate(self, main: Structure, passes: Passes, with_value: bool) -> tuple[Any, ...]:
        """Evaluate the function, where that is called for, and hear what it reads."""
        options = passes.options
        sides = () if main.scheme is None else main.scheme.sides
        passed = any(side.mode == REVERSE for side in sides) and main.direct is None
        back = options.create_graph or passed
        if not main.found.reads:
            if back or with_value:
                passes.evaluate(keep_graph=back or self.call.order == 2)
            return ()
        with Reads() as reads:
            passes.evaluate(keep_graph=back or self.call.order == 2)
        return reads.values

    def _has_effects(self, first: Known, inputs: Any, signature: Signature) -> bool:
        """Whether buffers moved before, or there are some and the function is another one now."""
        if first.structure.is_stateful or not self.call.has_buffers:
            return first.structure.is_stateful
        return not self._is_trusted(first, inputs, signature)

    def _branch(self, first: Known, reads: tuple[Any, ...]) -> Known | None:
        planned = first.structure.found.reads
        if reads == planned:
            return first
        if self.request.on_branch == "raise":
            raise BranchError(
                f"{self.request.api}: the function took another branch than the one that the plan "
                f"was made for: it read {_shown(reads)} from tensors, planned were "
                f'{_shown(planned)}. Use on_branch="retrace" to plan each branch.'
            )
        with self.lock:
            return self.branches.get(reads)

    def _has_shapes_of(self, structure: Structure, passes: Passes) -> bool:
        if passes.value is None:
            return True
        planned = [tuple(y.shape) for y in structure.outputs]
        given = [tuple(y.shape) for y in passes.value.tensors]
        if planned != given and not structure.found.reads:
            raise PlanMismatchError(
                f"{self.request.api}: `func` returned shapes {given}, and the plan was made for "
                f"{planned}. Make another plan."
            )
        return planned == given

    def _is_trusted(self, known: Known, inputs: Any, signature: Signature) -> bool:
        """Whether the structure is that of the function as it is now."""
        structure, world = known
        if world is None or structure.found.scope == "local":
            return False
        # Who asks for a program by its name trusts what cannot be seen.
        if not (world.is_complete or structure.direct is not None):
            return False
        return is_same_world(self.call, structure, world, inputs, signature)

    def _entries(
        self,
        structure: Structure,
        passes: Passes,
        world: World | None,
        *,
        trusted: bool,
        check: bool,
    ) -> Entries | None:
        """The entries, None where the structure turns out to be that of another function."""
        scheme = self._scheme(structure, passes)
        if scheme is None:
            leaf = passes.signature.leaves[0]
            return Entries(torch.empty(0, dtype=leaf.dtype, device=leaf.device), ())
        shared = other_sources(passes) if passes.options.create_graph else []
        if structure.constant is not None and not shared and _still_constant(structure, passes):
            return Entries(structure.constant.clone(), ())
        trusted = trusted and structure.constant is None
        device = passes.signature.leaves[0].device
        chunks = [planned_chunks(side, self.request, device) for side in scheme.sides]
        if structure.direct is not None and trusted and not shared:

            def by_passes() -> Tensor:
                return take_entries(scheme, passes, chunks, certified=False).values

            values = self.smooth.entries(self.request, structure, passes, by_passes)
            if values is not None:
                tell_direct(self.request.api, structure.direct)
                entries = Entries(values, ())
                return self._certified(structure, passes, entries) if check else entries
        entries = take_entries(scheme, passes, chunks, certified=check or not trusted)
        size = next((c.bytes for c in structure.candidates if c.is_chosen), 0)
        tell(self.request.api, scheme.sides, chunks, size, "planned")
        if self.given.pattern is None and world is not None:
            shared = [source for source in shared if not world.expects_gradients_of(source)]
        if shared and lacks_derivatives(self.request, structure, passes, shared, entries.values):
            return None
        if not (check or not trusted):
            return entries
        return self._certified(structure, passes, entries, trusted=trusted)

    def _certified(
        self, structure: Structure, passes: Passes, entries: Entries, *, trusted: bool = True
    ) -> Entries | None:
        """The entries after a certificate, None if they are those of another function."""
        if not entries.proofs:
            entries = entries._replace(proofs=(_proof(structure, passes),))
        rows, columns = find_suspects(structure, entries)
        if not len(rows) + len(columns):
            return entries
        if not trusted and self.given.pattern is None:
            return None
        confirm(self.request.api, structure, passes, entries, (rows, columns))
        return entries

    def _scheme(self, structure: Structure, passes: Passes) -> Scheme | None:
        if not passes.options.create_graph:
            return structure.scheme
        with self.lock:
            if structure not in self.row_schemes:
                self.row_schemes[structure] = rows_scheme(structure, passes)
            return self.row_schemes[structure]

    def _renew(self, inputs: Any, passes: Passes, seconds: float) -> None:
        """Plan again for what the function holds now, if that has lasted long enough to pay."""
        known = self.known
        if known.world is None or passes.options.create_graph:
            return
        with self.lock, passes.state.replayed():
            signature = passes.signature._replace(call=passes.signature.recall)
            world = self.renewal.world_if_due(
                self.call, known.structure, inputs, passes.signature, seconds
            )
            if world is not None and self.known is known:
                request = settled(self.request, self.given, world)
                made = prepare(signature, request, passes.options, self.given, None)
                self._begin_anew(Known(made.structure, world))

    def _begin_anew(self, known: Known) -> None:
        self.known = known
        self.branches.clear()
        self.row_schemes.clear()
        self.smooth = Verdicts()

    def _remade(self, inputs: Any, passes: Passes, reads: tuple[Any, ...]) -> Prepared:
        """Plan again, for this branch or for what the function holds now."""
        warn(
            f"{self.request.api}: the function is not the one that was planned for: it took "
            "another branch, or what it holds has changed. This was planned anew and is kept; if "
            "it happens often, make a plan for each case.",
            BranchWarning,
        )
        request, given = self.request, self.given
        if passes.options.create_graph:
            request = replace(request, strategy=REVERSE)
            given = given if request.order == 2 else given._replace(coloring=None)
        with self.lock, passes.state.replayed():
            # Before, for a function that changes what it reads shall never be trusted.
            world = self.call.world(inputs, passes.signature)
            request = settled(request, given, world)
            signature = passes.signature
            if passes.value is not None:  # buffers have moved as they do in a call
                signature = signature._replace(call=signature.recall)
            made = prepare(signature, request, passes.options, given, None)
            is_stateful = self.main.is_stateful or self.call.has_buffers
            structure = replace(made.structure, is_stateful=is_stateful)
            if reads == self.main.found.reads:
                self._begin_anew(Known(structure, world))
            else:
                while len(self.branches) >= MOST_BRANCHES:
                    oldest = self.branches.pop(next(iter(self.branches)))
                    self.row_schemes.pop(oldest.structure, None)
                    self.smooth.forget(oldest.structure)
                self.branches[reads] = Known(structure, world)
        made.passes.value = made.passes.value or made.passes.evaluate(keep_graph=True)
        return made._replace(structure=structure)


def _proof(structure: Structure, passes: Passes) -> tuple[str, Tensor, Tensor]:
    """One random product, in a mode that the function has."""
    mode = REVERSE if REVERSE in structure.methods else next(iter(structure.methods))
    if structure.scheme is not None and structure.scheme.sides:
        mode = structure.scheme.sides[0].mode
    vector = random_vector(passes, mode)
    product = run(passes, mode, LOOP, vector[None])[0]
    return mode, vector, product


def _still_constant(structure: Structure, passes: Passes) -> bool:
    """Whether one product is still that of the entries, which were computed once."""
    # A coefficient that the function holds may have been changed since, which only the function
    # itself can tell; one product costs less than all of them.
    if structure.constant is None:
        return False
    kept = Entries(structure.constant, (_proof(structure, passes),))
    rows, columns = find_suspects(structure, kept)
    return not len(rows) + len(columns)


def _shown(reads: Sequence[Any], most: int = 8) -> str:
    text = ", ".join(map(str, reads[:most]))
    return f"({text}{', ...' if len(reads) > most else ''})"

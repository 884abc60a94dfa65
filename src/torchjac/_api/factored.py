"""Plans whose results are products of factors that are kept."""

from collections.abc import Sequence
from functools import reduce
from html import escape
from operator import matmul
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from torchjac._api.operator import JacobianOperator, operator_of
from torchjac._api.prepared import Plan
from torchjac._api.solve import read_call
from torchjac._api.sparse import refuse_transforms
from torchjac._evaluate.direct.runner import REPLAY
from torchjac._evaluate.direct.transport import TooManyDerivativesError
from torchjac._evaluate.options import Options
from torchjac._evaluate.tape import outside_inference_mode
from torchjac._inputs.signature import Signature
from torchjac._inputs.warn import warn
from torchjac._pattern.pattern import SparsityPattern
from torchjac._planner.call import Call, World, others_of
from torchjac._planner.factors import BOTH, ONE, Factors, Proof, factorize, proofs
from torchjac._planner.fit import Fit, fit_of
from torchjac._planner.probe import FORWARD
from torchjac._planner.structure import Candidate, Request
from torchjac.errors import ArgumentError, BranchWarning, PatternError

# Rounding of a product, in units of the precision, and at most.
ROUNDING_UNITS, ROUNDING_CAP, FLOOR_UNITS = 1e3, 0.1, 100.0


class FactoredPlan(Plan):
    """A plan that keeps a Jacobian as factors: `torchjac.plan(..., keep_factors=True)`.

    `plan(inputs)` gives a `JacobianOperator` over all outputs and all inputs raveled. J itself is
    never formed, nor are the places of its entries: where a function passes through few numbers,
    neither needs to fit into memory.
    """

    def __init__(self, call: Call, request: Request, fit: Fit, made: tuple[Factors, World]) -> None:
        self._call, self._request, self._fit = call, request, fit
        self._factors: Factors = made[0]
        self._world: World | None = made[1]

    def __getstate__(self) -> dict[str, Any]:
        """Without trust: what the function reads elsewhere is not known, so calls certify."""
        return dict(self.__dict__, _world=None)

    @outside_inference_mode
    def __call__(
        self, inputs: Any, out: Any = None, check: bool = False, create_graph: bool = False
    ) -> JacobianOperator:
        """Compute the factors at other inputs.

        Args:
            inputs: Where, like the inputs that the plan was made for.
            out: Not possible here.
            check: Hold the factors against a random product of the function, for one more seed.
            create_graph: Not possible here.

        Returns:
            The operator.

        Raises:
            ArgumentError: `out` or `create_graph` was given.
            PlanMismatchError: The inputs are not what the plan was made for.
            PatternError: The certificate failed.
        """
        api = self._request.api
        if out is not None or create_graph:
            named = "out" if out is not None else "create_graph"
            raise ArgumentError(
                f"{api}: factors that are kept cannot be had with `{named}`: leave it out, or make "
                "a plan without keep_factors=True."
            )
        signature = self._call.bind(api, inputs)
        self._fit.refuse(api, inputs, signature.leaves)
        trusted = self._is_trusted(inputs, signature)
        operator = self._operator(signature, is_proven=trusted and not check)
        if operator is None and not trusted:
            warn(
                f"{api}: the function is not the one that was planned for: it took another branch, "
                "or what it holds has changed. Its factors were found anew and are kept.",
                BranchWarning,
            )
            self._world = self._call.world(inputs, signature)
            self._factors = _factors(signature, self._request)
            operator = self._operator(signature)
        if operator is None:
            raise PatternError(_wrong(api))
        return operator

    @outside_inference_mode
    def value_and_jacobian(
        self, inputs: Any, out: Any = None, check: bool = False, create_graph: bool = False
    ) -> Any:
        """Compute the value of the function too.

        Args:
            inputs: As in a call of the plan.
            out: Not possible here.
            check: As in a call of the plan.
            create_graph: Not possible here.

        Returns:
            A pair (value, operator).

        Raises:
            TorchjacError: As in a call of the plan.
        """
        operator = self(inputs, out, check, create_graph)
        signature = self._call.bind(self._request.api, inputs)
        with torch.no_grad():
            outputs = signature.evaluate([leaf.clone() for leaf in signature.leaves])
        return outputs.unflatten([y.detach() for y in outputs.tensors]), operator

    def _operator(
        self, signature: Signature, modes: tuple[str, ...] = ONE, *, is_proven: bool = False
    ) -> JacobianOperator | None:
        """The operator, None if random products of the function are not its own."""
        factors = self._factors
        operator = operator_of(factors.entries(signature.leaves))
        if is_proven or _is_certified(operator, factors, proofs(signature, factors.outputs, modes)):
            return operator
        return None

    def _is_trusted(self, inputs: Any, signature: Signature) -> bool:
        if self._factors.is_guarded or self._world is None or not self._world.is_complete:
            return False
        leaves, beside = signature.leaves, signature.beside
        others = others_of(inputs, (*leaves, *beside))
        return self._call.is_in(self._world, others, beside, leaves)

    @property
    def factors(self) -> tuple[SparsityPattern, ...]:
        """Entries of each factor that can be nonzero, from last to first."""
        return self._factors.patterns

    @property
    def pattern(self) -> SparsityPattern:
        """Entries of J that can be nonzero; as large as J, which the plan itself does not need."""
        product = reduce(matmul, [p.to_scipy().astype(bool) for p in self.factors])
        return SparsityPattern.from_scipy(product)

    @property
    def coloring(self) -> None:
        """None: there are no passes."""

    @property
    def method(self) -> str:
        """What the plan does, in words."""
        count, backend = len(self.factors), self._factors.programs[0].backend
        return f"{count} factor{'s' if count > 1 else ''}, {backend}"

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """None: factors were asked for."""
        return ()

    def save(self, path: str | PathLike[str]) -> None:
        """Refuse: there is neither a pattern nor a coloring to be saved.

        Args:
            path: A file.

        Raises:
            ArgumentError: Always.
        """
        raise ArgumentError(
            f"{self._request.api}: a plan with keep_factors=True cannot be saved to {path}: make "
            "it anew, which takes no coloring."
        )

    def __repr__(self) -> str:
        m, n = self.factors[0].shape[0], self.factors[-1].shape[1]
        return f"FactoredPlan({m} × {n}, method={self.method!r})"

    def __str__(self) -> str:
        known = self._factors
        lines = [repr(self), f"  cut           {known.cut}"]
        for program, pattern in zip(known.programs, known.patterns, strict=True):
            m, n = pattern.shape
            counts = f"{pattern.nnz:,} entries by {program.form.operations:,} operations"
            lines.append(f"  factor        {m:,} × {n:,}, {counts}")
        times = f"trace {known.trace_s * 1e3:.3g} ms, factors {known.emit_s * 1e3:.3g} ms"
        return "\n".join([*lines, f"  prepared in   {times}"])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(str(self))}</pre>"


@outside_inference_mode
def make_factored(call: Call, inputs: Any, request: Request) -> FactoredPlan:
    """A factored plan of arguments that were checked.

    Args:
        call: The function, and how it takes its inputs.
        inputs: Where.
        request: What the user asked for.

    Returns:
        The plan, certified.

    Raises:
        ArgumentError: The function cannot be had as a program.
        PatternError: The certificate failed.
    """
    api = request.api
    refuse_transforms(api)
    signature = read_call(api, call.func, inputs, Options(), wrt=call.wrt, has_aux=False)
    leaves = signature.leaves
    world = call.world(inputs, signature)
    made = _factors(signature, request), world
    plan = FactoredPlan(call, request, fit_of(inputs, leaves), made)
    if plan._operator(signature, BOTH) is None:
        raise PatternError(_wrong(api))
    return plan


def _wrong(api: str) -> str:
    return (
        f"{api}: the product of the factors is not the Jacobian: a random product of the function "
        "differs. Please report it; until then leave out keep_factors=True."
    )


def _factors(signature: Signature, request: Request) -> Factors:
    backend = REPLAY if request.backend == "auto" else request.backend
    try:
        return factorize(signature, request, backend)
    except (TooManyDerivativesError, NotImplementedError) as error:
        raise ArgumentError(
            f"{request.api}: keep_factors=True needs a program for every factor, and there is "
            f"none: {error}. Leave it out."
        ) from error


def _is_certified(operator: JacobianOperator, factors: Factors, found: Sequence[Proof]) -> bool:
    """Whether random products of the operator are those of the function, up to rounding."""
    sizes = JacobianOperator([_absolute(factor) for factor in operator.factors])
    return all([_agrees(operator, sizes, factors, proof) for proof in found])


def _agrees(
    operator: JacobianOperator, sizes: JacobianOperator, factors: Factors, proof: Proof
) -> bool:
    if proof.mode != FORWARD:
        operator, sizes = operator.T, sizes.T
    vector = proof.vector.to(operator.dtype)
    if operator.shape != (len(proof.product), len(vector)):
        return False
    found, most = operator @ vector, sizes @ vector.abs()
    known = found.isfinite() & proof.product.isfinite()
    off = torch.where(known, found - proof.product, 0).norm()
    allowed = min(ROUNDING_UNITS * factors.eps, ROUNDING_CAP)
    # Where entries cancel, their sizes say nothing of the rounding in them.
    slack = FLOOR_UNITS * factors.eps * factors.floor * vector.norm()
    return bool(off <= allowed * torch.where(known, most, 0).norm() + slack)


def _absolute(factor: Tensor) -> Tensor:
    if factor.layout is torch.strided:
        return factor.abs()
    return torch.sparse_csr_tensor(
        factor.crow_indices(),
        factor.col_indices(),
        factor.values().abs(),
        factor.shape,
        check_invariants=False,
    )

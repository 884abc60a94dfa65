"""Jacobians in PyTorch at the cost of their structure."""

from torchjac import errors, func, functional, testing
from torchjac._api.calculus import curl, diagonal, divergence, laplacian, trace
from torchjac._api.check import Report, check
from torchjac._api.color import color
from torchjac._api.factored import FactoredPlan
from torchjac._api.finite import finite_difference
from torchjac._api.hessian import gradient, hessian
from torchjac._api.jacobian import batch_jacobian, jacobian, jacobian_of, value_and_jacobian
from torchjac._api.operator import JacobianOperator
from torchjac._api.pattern import pattern
from torchjac._api.plan import plan
from torchjac._api.planned_laplacian import LaplacianPlan, plan_laplacian
from torchjac._api.prepared import Plan
from torchjac._api.products import gram, ntk
from torchjac._coloring.coloring import Coloring
from torchjac._evaluate.report import Evaluation, record
from torchjac._pattern.pattern import SparsityPattern
from torchjac.functional import hvp, jvp, vhp, vjp

__all__ = [
    "Coloring",
    "Evaluation",
    "FactoredPlan",
    "JacobianOperator",
    "LaplacianPlan",
    "Plan",
    "Report",
    "SparsityPattern",
    "batch_jacobian",
    "check",
    "color",
    "curl",
    "diagonal",
    "divergence",
    "errors",
    "finite_difference",
    "func",
    "functional",
    "gradient",
    "gram",
    "hessian",
    "hvp",
    "jacobian",
    "jacobian_of",
    "jvp",
    "laplacian",
    "ntk",
    "pattern",
    "plan",
    "plan_laplacian",
    "record",
    "testing",
    "trace",
    "value_and_jacobian",
    "vhp",
    "vjp",
]

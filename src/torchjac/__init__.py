"""Jacobians in PyTorch at the cost of their structure."""

from torchjac import errors, func, functional
from torchjac._api.calculus import curl, diagonal, divergence, laplacian, trace
from torchjac._api.check import Report, check
from torchjac._api.finite import finite_difference
from torchjac._api.hessian import gradient, hessian
from torchjac._api.jacobian import batch_jacobian, jacobian, jacobian_of, value_and_jacobian
from torchjac._api.plan import Plan, plan
from torchjac._evaluate.report import Evaluation, record
from torchjac.functional import hvp, jvp, vhp, vjp

__all__ = [
    "Evaluation",
    "Plan",
    "Report",
    "batch_jacobian",
    "check",
    "curl",
    "diagonal",
    "divergence",
    "errors",
    "finite_difference",
    "func",
    "functional",
    "gradient",
    "hessian",
    "hvp",
    "jacobian",
    "jacobian_of",
    "jvp",
    "laplacian",
    "plan",
    "record",
    "trace",
    "value_and_jacobian",
    "vhp",
    "vjp",
]

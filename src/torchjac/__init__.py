"""Jacobians in PyTorch at the cost of their structure."""

from torchjac import errors, func, functional
from torchjac._api.hessian import gradient, hessian
from torchjac._api.jacobian import batch_jacobian, jacobian, jacobian_of, value_and_jacobian
from torchjac._evaluate.report import Evaluation, record

__all__ = [
    "Evaluation",
    "batch_jacobian",
    "errors",
    "func",
    "functional",
    "gradient",
    "hessian",
    "jacobian",
    "jacobian_of",
    "record",
    "value_and_jacobian",
]

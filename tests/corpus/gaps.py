"""Where PyTorch disagrees with itself: the one table of known gaps, each with its reason.

Every entry was checked against central differences. A gap that no longer shows on any sample
fails the test of its operation, so that the table stays true.
"""

# Operation -> why PyTorch's own forward mode (torch.autograd.forward_ad, a column at a time) and
# its own reverse mode (a row at a time) give different Jacobians. `torchjac.jacobian` must give
# that of reverse mode, whatever the strategy; `torchjac.functional.jacobian` that of the mode asked
# for, as PyTorch does.
MODES_DIFFER: dict[str, str] = {
    "__rpow__": (
        "partial derivatives that are NaN (the logarithm of a negative base) spread by 0 * NaN: "
        "along a row in reverse mode, along a column in forward mode"
    ),
    "as_strided_scatter": (
        "reverse mode is wrong: the gradient of `self` is not zero where `src` overwrites it, and "
        "the gradient is read through its storage offset"
    ),
    "cholesky_inverse": (
        "forward mode is wrong: its formula drops terms of second order in the off-diagonal part"
    ),
    "logcumsumexp": "forward mode is imprecise: relative error 1e-6 in float64",
    "native_group_norm": (
        "reverse mode is wrong: the gradients of the outputs `mean` and `rstd` are ignored"
    ),
    "nn.functional.linear_cross_entropy.chunked": "forward mode is wrong: the tangent is zero",
    "nn.functional.linear_cross_entropy.chunked_none": "forward mode is wrong: the tangent is zero",
    "nn.functional.max_unpool1d": (
        "reverse mode is wrong for repeated indices: every source gets the gradient, though only "
        "the last one written is in the output"
    ),
    "nn.functional.max_unpool2d": "as nn.functional.max_unpool1d",
    "nn.functional.max_unpool3d": "as nn.functional.max_unpool1d",
    "scatter_reduce.prod": "forward mode is wrong: the tangent is zero",
}

"""Where structure is not found, or not used, to the last entry: the tables of both, with reasons.

An operation that is inexact or refused and not listed fails its test.
"""

_COMPLEX = "a complex number counts as one element: real and imaginary part depend on the same"
_FACTORS = "a factor is taken as a triangle, its derivative as full within the triangle"
_KERNEL = "every element of a kernel is taken to reach every element of its channel, borders too"
_ONE = "along an axis of length one, or at equal elements, a softmax or norm is constant"
_RARE = "which element is chosen depends on values, and some choices occur at few points only"
_ZEROS = "zero at every point tried, though not by structure"
_WINDOWS = "where the windows lie is random"

# Operation -> why its pattern holds entries that are zero at every point tried.
PATTERN_INEXACT: dict[str, str] = {
    "__rpow__": "the logarithm of a base of zero: not a number, which is no entry",
    "cdouble": _COMPLEX,
    "cfloat": _COMPLEX,
    "chalf": _COMPLEX,
    "cholesky": _FACTORS,
    "cholesky_inverse": _FACTORS,
    "complex": _COMPLEX,
    "corrcoef": _ONE,
    "fft.fft": _COMPLEX,
    "fft.fft2": _COMPLEX,
    "fft.fftn": _COMPLEX,
    "fft.hfft": _COMPLEX,
    "fft.hfftn": _COMPLEX,
    "fft.ifft": _COMPLEX,
    "fft.ifft2": _COMPLEX,
    "fft.ifftn": _COMPLEX,
    "fft.ihfft": _COMPLEX,
    "fft.ihfft2": _COMPLEX,
    "fft.ihfftn": _COMPLEX,
    "fft.irfft": _COMPLEX,
    "fft.irfftn": _COMPLEX,
    "fft.rfft": _COMPLEX,
    "fft.rfft2": _COMPLEX,
    "fft.rfftn": _COMPLEX,
    "grid_sampler_2d": _RARE,
    "linalg.cholesky": _FACTORS,
    "linalg.lu": _FACTORS,
    "linalg.lu_factor": _FACTORS,
    "linalg.lu_factor_ex": _FACTORS,
    "linalg.lu_solve": _FACTORS,
    "linalg.norm.subgradients_at_zero": _ZEROS,
    "linalg.pinv": "of no matrix at all, or of zero",
    "log_softmax": _ONE,
    "log_softmax.with_dtype": _ONE,
    "lu": _FACTORS,
    "masked.log_softmax": _ONE,
    "masked.softmax": _ONE,
    "masked.softmin": _ONE,
    "nanquantile": _RARE,
    "native_group_norm": "PyTorch ignores the gradients of two outputs in reverse mode",
    "native_layer_norm": _ONE,
    "nn.functional.adaptive_max_pool3d": _RARE,
    "nn.functional.alpha_dropout": "the mask is drawn anew, and dropped elements are zero",
    "nn.functional.conv1d": _KERNEL,
    "nn.functional.conv2d": _KERNEL,
    "nn.functional.conv_transpose1d": _KERNEL,
    "nn.functional.conv_transpose2d": _KERNEL,
    "nn.functional.conv_transpose3d": _KERNEL,
    "nn.functional.ctc_loss": "labels that occur in no alignment are not told apart",
    "nn.functional.dropout": "the mask is drawn anew, and dropped elements are zero",
    "nn.functional.fractional_max_pool2d": _WINDOWS,
    "nn.functional.fractional_max_pool3d": _WINDOWS,
    "nn.functional.grid_sample": _RARE,
    "nn.functional.hardtanh": _ZEROS,
    "nn.functional.layer_norm": _ONE,
    "nn.functional.margin_ranking_loss": _RARE,
    "nn.functional.max_pool3d": _RARE,
    "nn.functional.multi_head_attention_forward": "dropout, drawn anew",
    "nn.functional.multilabel_margin_loss": "labels that are targets at no point tried",
    "nn.functional.scaled_dot_product_attention": "the mask of a causal attention, or dropout",
    "nn.functional.softmin": _ONE,
    "nn.functional.softmin.with_dtype": _ONE,
    "softmax": _ONE,
    "softmax.with_dtype": _ONE,
    "stft": _COMPLEX,
    "torch.ops.aten._safe_softmax.default": "rows that are masked throughout",
    "view_as_complex": _COMPLEX,
}

_RANDOM = "draws random numbers, which a program without the function cannot repeat"
_SPARSE = "its tangents are sparse tensors"
_LONG = "a loop over columns makes a program of too many operations"

# Operation -> why no program of its Jacobian is emitted, or not of every sample.
_CHOICE = "the forward rule of cumprod chooses between tangents and what is none"
DIRECT_REFUSED: dict[str, str] = {
    "matrix_exp": "its derivative is a block of the exponential of a larger matrix",
    "linalg.matrix_exp": "as matrix_exp",
    "cumprod": _CHOICE,
    "linalg.vander": _CHOICE,
    "masked.cumprod": _CHOICE,
    "logcumsumexp": "its backward pass takes logarithms of the gradient",
    "masked.logcumsumexp": "as logcumsumexp",
    "nn.functional.alpha_dropout": _RANDOM,
    "nn.functional.dropout": _RANDOM,
    "nn.functional.fractional_max_pool2d": _RANDOM,
    "nn.functional.fractional_max_pool3d": _RANDOM,
    "nn.functional.multi_head_attention_forward": _RANDOM,
    "nn.functional.rrelu": _RANDOM,
    "ormqr": _LONG,
    "linalg.householder_product": _LONG,
    "pca_lowrank": _RANDOM,
    "sparse.mm.reduce": _SPARSE,
    "sparse.sampled_addmm": _SPARSE,
    "svd_lowrank": _RANDOM,
    "to_sparse": _SPARSE,
}

"""The exception tree.

Every error is a `TorchjacError` and also the builtin that fits, so that code which catches
`ValueError`, `TypeError`, `RuntimeError` or `MemoryError` keeps working. Every warning is a
`TorchjacWarning`.
"""


class TorchjacError(Exception):
    """Base of every error that torchjac raises on purpose."""


class ArgumentError(TorchjacError, ValueError):
    """An argument has a value that cannot be used."""


class ArgumentTypeError(TorchjacError, TypeError, RuntimeError):
    """An argument, or a value that the function returned, has the wrong type.

    It is a `RuntimeError` too, because that is what PyTorch raises for tensors whose dtype cannot
    carry a derivative.
    """


class ShapeError(ArgumentError, RuntimeError):
    """A tensor has a shape that does not fit."""


class ChangedFunctionError(ArgumentError, RuntimeError):
    """The function was another one when it was evaluated again."""


class ChangedShapeError(ShapeError, ChangedFunctionError):
    """The function returned other shapes when it was evaluated again."""


class MixedSamplesError(ArgumentError):
    """A function that was said to treat samples one by one mixes them."""


class StrictError(TorchjacError, RuntimeError):
    """`strict=True` and an output does not depend on an input."""


class AutogradOffError(TorchjacError, RuntimeError):
    """Autograd records nothing in this thread, whatever is asked of it."""


class PatternError(TorchjacError, RuntimeError):
    """The Jacobian has entries that the sparsity pattern lacks, or a coloring mixes them up."""


class PlanMismatchError(ArgumentError, RuntimeError):
    """A plan is used on inputs that it was not made for."""


class BranchError(TorchjacError, RuntimeError):
    """The function took another branch than the one that a plan was made for."""


class MemoryBudgetError(TorchjacError, MemoryError):
    """The result, or one pass, does not fit the memory budget."""


class LayoutError(TorchjacError, NotImplementedError):
    """A layout that no engine can produce."""


class MissingExtraError(TorchjacError, ImportError):
    """An optional dependency is not installed."""


class FileContentError(TorchjacError, ValueError):
    """A file is damaged, or is not what it was taken for."""


class TorchjacWarning(UserWarning):
    """Base of every warning that torchjac issues."""


class FallbackWarning(TorchjacWarning):
    """The fast way could not be taken; the answer is the same, the time is not."""


class MemoryBudgetWarning(TorchjacWarning):
    """One seed alone needs more than the memory budget."""


class IndependenceWarning(TorchjacWarning):
    """An output or an input has no part in the derivative: its blocks are zero."""


class ClosureWarning(TorchjacWarning):
    """The function holds the very tensor it is differentiated at, where it is a constant."""


class HiddenValueWarning(TorchjacWarning):
    """A number was pulled out of a tensor, so that a dependence is invisible to autograd."""


class DisagreementWarning(TorchjacWarning):
    """Forward and reverse mode differ for this function."""


class BranchWarning(TorchjacWarning):
    """The function took another branch than the one that a plan was made for."""

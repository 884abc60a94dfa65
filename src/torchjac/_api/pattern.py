"""Sparsity patterns of Jacobians, as a public call."""

from collections.abc import Callable
from typing import Any

from torchjac._api.solve import read_call
from torchjac._api.sparse import refuse_transforms
from torchjac._evaluate.differentiate import evaluate
from torchjac._evaluate.options import Options
from torchjac._evaluate.randomness import random_state
from torchjac._evaluate.tape import outside_inference_mode
from torchjac._inputs.checks import check_choice
from torchjac._inputs.signature import Wrt
from torchjac._pattern.detect import detect
from torchjac._pattern.pattern import SparsityPattern

API = "pattern"


@outside_inference_mode
def pattern(
    func: Callable[..., Any], inputs: Any, *, wrt: Wrt = None, scope: str = "global"
) -> SparsityPattern:
    """Find which entries of a Jacobian can be nonzero.

    P = {(i, j) : df_i/dx_j can differ from zero},  J[i, j] = 0 for (i, j) not in P

    The derivative program of `func` is traced at `inputs`, and each of its operations is read as
    sets of indices. P may hold entries that are zero, never the other way round: where a factor
    depends on x it counts as nonzero, and where nothing is known of an operation each of its
    results depends on all that goes into it. `print(torchjac.plan(...))` names such operations.

    Nothing is changed: random generators and the buffers of modules stay as they are.

    Args:
        func: As in `jacobian`.
        inputs: As in `jacobian`.
        wrt: As in `jacobian`.
        scope: For which inputs the pattern shall hold: "global", for all of these shapes for which
            `func` takes the same branches of its `if`s, or "local", with indices that `func`
            computes (of a sort, of a maximum) as they are here.

    Returns:
        The pattern, shape (m, n), for m elements of all outputs and n of all inputs, each tensor
        laid out flat, one after the other.

    Raises:
        ArgumentError: `scope` is none of the two, or `wrt` names nothing.
        ArgumentTypeError: `func` or an input has the wrong type.
        LayoutError: Inside a transform of torch.func, where there are no numbers.
        MemoryBudgetError: There are more entries than can be kept.

    Source: Griewank & Walther (2008), Evaluating Derivatives, chapter 7 (index domains), here on
    the derivative program instead of the function.

    >>> import torch, torchjac
    >>> pattern = torchjac.pattern(lambda x: x[1:] * x[:-1], torch.ones(4))
    >>> print(pattern.to_scipy().toarray().astype(int))
    [[1 1 0 0]
     [0 1 1 0]
     [0 0 1 1]]
    """
    check_choice(API, "scope", scope, ("global", "local"))
    refuse_transforms(API)
    signature = read_call(API, func, inputs, Options(), wrt=wrt)
    with random_state(signature.leaves).replayed():
        point = evaluate(signature._replace(call=signature.recall), Options())
    return detect(point.signature, scope).pattern

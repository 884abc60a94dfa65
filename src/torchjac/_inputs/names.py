"""What the code of a function names: globals, imports, ways to the world outside."""

from collections.abc import Iterator
from dataclasses import dataclass
from dis import get_instructions
from functools import lru_cache
from types import CodeType

# What these packages hold is taken not to change.
LIBRARIES = frozenset(
    {"_functools", "_operator", "builtins", "functools", "itertools", "math", "numpy", "operator",
     "torch"}
)  # fmt: skip
# Names under which files, namespaces and generators of random numbers are read.
OUTSIDE = frozenset(
    {"__globals__", "__import__", "eval", "exec", "f_globals", "from_file", "fromfile",
     "genfromtxt", "get_rng_state", "globals", "import_module", "initial_seed", "input", "load",
     "loadtxt", "memmap", "open", "random"}
)  # fmt: skip
_GLOBAL = frozenset({"LOAD_FROM_DICT_OR_GLOBALS", "LOAD_GLOBAL", "LOAD_NAME"})


@dataclass(frozen=True)
class Names:
    """Names in code, in the functions that are defined in it too.

    Attributes:
        globals: Read from the globals of the function, or from the builtins.
        reads_outside: Whether something is read that no object in reach holds.
        reads_grad: Whether an attribute or a function is called `grad`.
    """

    globals: tuple[str, ...]
    reads_outside: bool
    reads_grad: bool


@lru_cache(maxsize=4096)
def names_in(code: CodeType) -> Names:
    """What code names.

    Args:
        code: Of a function.

    Returns:
        The names.

    >>> names_in((lambda x: scale * x.sin()).__code__).globals
    ('scale',)
    >>> names_in((lambda: open("weights")).__code__).reads_outside
    True
    """
    known: set[str] = set()
    named: set[str] = set()
    is_outside = False
    for part in _parts(code):
        named |= set(part.co_names)
        for step in get_instructions(part):
            if step.opname in _GLOBAL:
                known.add(step.argval)
            elif step.opname == "IMPORT_NAME":
                is_outside |= step.argval.split(".")[0] not in LIBRARIES
    return Names(tuple(sorted(known)), is_outside or bool(named & OUTSIDE), "grad" in named)


def _parts(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _parts(constant)

"""What the code of a function names: globals, imports, ways to the world outside."""

from collections.abc import Iterator
from dataclasses import dataclass
from dis import get_instructions
from functools import lru_cache
from itertools import takewhile
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
_ATTRIBUTE = frozenset({"LOAD_ATTR", "LOAD_METHOD"})


@dataclass(frozen=True)
class Names:
    """Names in code, in the functions that are defined in it too.

    Attributes:
        globals: Read from the globals of the function, or from the builtins.
        paths: For each way in which these are read, the name and the attributes that are read
            of it at once: ("torch", "nn", "functional").
        reads_outside: Whether something is read that no object in reach holds.
        reads_grad: Whether an attribute or a function is called `grad`.
    """

    globals: tuple[str, ...]
    paths: tuple[tuple[str, ...], ...]
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
    >>> names_in((lambda x: scale * torch.special.erf(x)).__code__).paths
    (('scale',), ('torch', 'special', 'erf'))
    >>> names_in((lambda: open("weights")).__code__).reads_outside
    True
    """
    paths: set[tuple[str, ...]] = set()
    named: set[str] = set()
    is_outside = False
    for part in _parts(code):
        named |= set(part.co_names)
        steps = [step for step in get_instructions(part) if step.opname != "EXTENDED_ARG"]
        for i, step in enumerate(steps):
            if step.opname in _GLOBAL:
                read = takewhile(lambda later: later.opname in _ATTRIBUTE, steps[i + 1 :])
                paths.add((step.argval, *[attribute.argval for attribute in read]))
            elif step.opname == "IMPORT_NAME":
                is_outside |= step.argval.split(".")[0] not in LIBRARIES
    known = tuple(sorted({path[0] for path in paths}))
    is_outside |= bool(named & OUTSIDE)
    return Names(known, tuple(sorted(paths)), is_outside, "grad" in named)


def _parts(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _parts(constant)

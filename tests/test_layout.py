"""The shape of the package: exports, docstrings, import order, size and forbidden constructs.

Every source rule is a function from one `Source` to offences, each a line `path:line: message`, so
that the rules can themselves be tested on planted offences at the end of this file.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

import pytest

import torchjac
import torchjac.func
import torchjac.functional
import torchjac.testing

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "torchjac"

PUBLIC_MODULES = (torchjac, torchjac.functional, torchjac.func, torchjac.testing)

# Each room imports from itself and from the rooms before it, never from those after it.
# Rooms on one line do not import from each other.
ROOM_ORDER = (
    ("errors",),
    ("_torch",),
    ("_inputs",),
    ("_linearize",),
    ("_local",),
    ("_pattern",),
    ("_coloring",),
    ("_layout",),
    ("_evaluate",),
    ("_planner",),
    ("_api",),
    ("functional", "func"),
    ("testing",),
    ("__init__",),
)
ROOM_RANK = {room: rank for rank, rooms in enumerate(ROOM_ORDER) for room in rooms}

# The one file that may touch private PyTorch, and what is private without a leading underscore.
TORCH_ADAPTER = "src/torchjac/_torch.py"
PRIVATE_TORCH = ("torch.fx.experimental", "torch.testing._internal")

MAX_FUNCTION_LINES = 40
MAX_FILE_LINES = 300
# "src/torchjac/x.py" or "src/torchjac/x.py::Class.function" -> the reason why it may be longer.
BUDGET_EXCEPTIONS: dict[str, str] = {}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """One source file: its path from the root of the repository, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, filename=self.path)

    @property
    def module(self) -> tuple[str, ...]:
        """Parts of the dotted name, the last one `__init__` for a package."""
        return Path(self.path).relative_to("src").with_suffix("").parts

    @property
    def room(self) -> str:
        return self.module[1]

    def offence(self, line: int, message: str) -> str:
        return f"{self.path}:{line}: {message}"


SOURCES = [
    Source(file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8"))
    for file in sorted(PACKAGE.rglob("*.py"))
]

Rule = Callable[[Source], Iterable[str]]


# --- Imports --------------------------------------------------------------------------


def from_module(source: Source, node: ast.ImportFrom) -> str:
    """Absolute name of the module a `from` import reads, its dots resolved."""
    parts = list(source.module[: len(source.module) - node.level]) if node.level else []
    return ".".join(parts + ([node.module] if node.module else []))


def imported(source: Source, tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """(line, dotted name, name it is bound to) of everything that `tree` imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, alias.asname or ""
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                dotted = f"{from_module(source, node)}.{alias.name}"
                yield node.lineno, dotted, alias.asname or alias.name


def dotted_name(node: ast.expr, bound: dict[str, str]) -> str:
    """`a.b.c` of an attribute chain, its first name replaced by what the file imported under it."""
    if isinstance(node, ast.Name):
        return bound.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        head = dotted_name(node.value, bound)
        return f"{head}.{node.attr}" if head else ""
    return ""


def is_private_torch(dotted: str) -> bool:
    parts = dotted.split(".")
    if parts[0] != "torch":
        return False
    hidden = any(part.startswith("_") and not part.endswith("__") for part in parts)
    return hidden or any(f"{dotted}.".startswith(f"{name}.") for name in PRIVATE_TORCH)


def private_torch(source: Source) -> Iterator[str]:
    """Private PyTorch reached outside the adapter, by an import or by an attribute."""
    if source.path == TORCH_ADAPTER:
        return
    names = list(imported(source, source.tree))
    bound = {name: dotted for _, dotted, name in names if name}
    uses = [(line, dotted) for line, dotted, _ in names]
    uses += [
        (node.lineno, dotted_name(node, bound))
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Attribute)
    ]
    for line, dotted in uses:
        if is_private_torch(dotted):
            yield source.offence(line, f"`{dotted}` is private: reach it through {TORCH_ADAPTER}")


def room_of(dotted: str) -> str:
    """Room that an imported name lies in: `__init__` if it is no module of the package."""
    parts = dotted.split(".")
    if len(parts) == 1:
        return "__init__"
    is_module = parts[1] in ROOM_RANK or any(
        (PACKAGE / name).exists() for name in (parts[1], f"{parts[1]}.py")
    )
    return parts[1] if is_module else "__init__"


def import_order(source: Source) -> Iterator[str]:
    """Rooms that import from a room that is not before them."""
    if source.room not in ROOM_RANK:
        yield source.offence(1, f"room `{source.room}` has no place in ROOM_ORDER of this test")
        return
    for line, dotted, _ in imported(source, source.tree):
        room = room_of(dotted) if dotted.split(".")[0] == "torchjac" else source.room
        if room == source.room:
            continue
        if room not in ROOM_RANK or ROOM_RANK[room] >= ROOM_RANK[source.room]:
            yield source.offence(line, f"`{source.room}` may not import `{dotted}`")


def late_imports(source: Source) -> Iterator[str]:
    """Imports of the package's own modules inside a function, which hide a cycle."""
    lines = {
        (line, dotted)
        for function in ast.walk(source.tree)
        if isinstance(function, Function)
        for line, dotted, _ in imported(source, function)
        if dotted.split(".")[0] == "torchjac"
    }
    for line, dotted in sorted(lines):
        yield source.offence(line, f"`{dotted}` is imported inside a function")


# --- Size -----------------------------------------------------------------------------

NOT_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def docstring_lines(tree: ast.AST) -> set[int]:
    """Lines of all docstrings, at any depth."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                lines.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return lines


def code_lines(source: Source) -> set[int]:
    """Lines that hold code: no docstring, no comment, not blank."""
    text = source.text.splitlines()
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source.text).readline)
        if token.type not in NOT_CODE
        for line in range(token.start[0], token.end[0] + 1)
        if text[line - 1].strip()
    }
    return lines - docstring_lines(source.tree)


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """(qualified name, function) at any depth."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | Function):
            name = f"{prefix}{node.name}"
            if isinstance(node, Function):
                yield name, node
            yield from functions(node, f"{name}.")
        else:
            yield from functions(node, prefix)


def over_budget(source: Source) -> Iterator[tuple[str, int, str]]:
    """(key, line, message) of the file and of each function that is too long."""
    code = code_lines(source)
    if len(code) > MAX_FILE_LINES:
        yield source.path, 1, f"{len(code)} code lines in the file, at most {MAX_FILE_LINES}"
    for name, node in functions(source.tree):
        size = sum(node.lineno <= line <= (node.end_lineno or 0) for line in code)
        if size > MAX_FUNCTION_LINES:
            message = f"{size} code lines in `{name}`, at most {MAX_FUNCTION_LINES}"
            yield f"{source.path}::{name}", node.lineno, message


def budget(source: Source) -> Iterator[str]:
    """Files and functions that are too long and have no listed reason."""
    for key, line, message in over_budget(source):
        if key not in BUDGET_EXCEPTIONS:
            yield source.offence(line, message)


# --- Forbidden constructs -------------------------------------------------------------


def asserts(source: Source) -> Iterator[str]:
    """`assert` vanishes under `python -O`: raise an error instead."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Assert):
            yield source.offence(node.lineno, "`assert` statement: raise an error instead")


def is_nothing(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and statement.value.value is ...
    )


def swallowed_errors(source: Source) -> Iterator[str]:
    """Handlers that name no error, or do nothing with it."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler):
            if node.type is None:
                yield source.offence(node.lineno, "bare `except:`: name the errors")
            if all(is_nothing(statement) for statement in node.body):
                yield source.offence(node.lineno, "`except` that does nothing hides an error")


def leftovers(source: Source) -> Iterator[str]:
    """Notes to self that belong in the issue tracker."""
    for line, text in enumerate(source.text.splitlines(), start=1):
        for word in re.findall(r"\b(?:TODO|FIXME)\b", text):
            yield source.offence(line, f"{word} left in the source")


SOURCE_RULES: list[Rule] = [
    private_torch,
    import_order,
    late_imports,
    budget,
    asserts,
    swallowed_errors,
    leftovers,
]


# --- Tests ----------------------------------------------------------------------------


def fail_on(offences: Iterable[str]) -> None:
    found = list(offences)
    if found:
        pytest.fail("\n" + "\n".join(found), pytrace=False)


def module_path(module: ModuleType) -> str:
    file = Path(inspect.getfile(module)).resolve()
    return file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else str(file)


def test_the_imported_package_is_this_checkout() -> None:
    assert Path(inspect.getfile(torchjac)).resolve().parent == PACKAGE
    assert SOURCES


@pytest.mark.parametrize("rule", SOURCE_RULES, ids=lambda rule: rule.__name__)
def test_sources_obey(rule: Rule) -> None:
    fail_on(offence for source in SOURCES for offence in rule(source))


def test_budget_exceptions_have_reasons_and_are_needed() -> None:
    needed = {key for source in SOURCES for key, _, _ in over_budget(source)}
    fail_on(
        f"BUDGET_EXCEPTIONS[{key!r}] {'is not needed' if key not in needed else 'has no reason'}"
        for key, reason in BUDGET_EXCEPTIONS.items()
        if key not in needed or not reason.strip()
    )


@pytest.mark.parametrize("module", PUBLIC_MODULES, ids=lambda module: module.__name__)
def test_all_is_sorted_and_every_name_exists(module: ModuleType) -> None:
    path = module_path(module)
    names = list(module.__all__)
    offences = [
        f"{path}:1: __all__ names `{n}`, which is missing" for n in names if n not in dir(module)
    ]
    if names != sorted(set(names)):
        offences.append(
            f"{path}:1: __all__ is not sorted without repeats: write {sorted(set(names))}"
        )
    fail_on(offences)


def is_own_module(value: object) -> bool:
    return isinstance(value, ModuleType) and value.__name__.startswith("torchjac.")


def test_every_public_attribute_is_exported() -> None:
    """Submodules of the package need no export; anything else without an underscore does."""
    fail_on(
        f"{module_path(torchjac)}:1: `{name}` is public and not in __all__"
        for name, value in vars(torchjac).items()
        if not name.startswith("_") and name not in torchjac.__all__ and not is_own_module(value)
    )


def public_functions() -> dict[str, Callable[..., object]]:
    """Name -> function of all exported functions and of the public methods of exported classes."""
    found: dict[str, Callable[..., object]] = {}
    for module in PUBLIC_MODULES:
        for name in module.__all__:
            value = getattr(module, name, None)
            if inspect.isclass(value):
                for method_name, raw in vars(value).items():
                    method = raw.__func__ if isinstance(raw, classmethod | staticmethod) else raw
                    if inspect.isfunction(method) and not method_name.startswith("_"):
                        found[f"{module.__name__}.{name}.{method_name}"] = method
            elif callable(value):
                found[f"{module.__name__}.{name}"] = value
    return found


def undocumented(name: str, function: Callable[..., object]) -> Iterator[str]:
    """Missing docstring, or parameters without an Args section that names each of them."""
    code = inspect.unwrap(function).__code__
    file = Path(code.co_filename)
    path = file.relative_to(ROOT).as_posix() if file.is_relative_to(ROOT) else str(file)
    place = f"{path}:{code.co_firstlineno}: `{name}`"
    doc = inspect.getdoc(function) or ""
    if not doc:
        yield f"{place} has no docstring"
        return
    parameters = [p for p in inspect.signature(function).parameters if p not in ("self", "cls")]
    section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", doc, flags=re.MULTILINE)
    if parameters and section is None:
        yield f"{place} has no Args section"
    elif section is not None:
        for parameter in parameters:
            if not re.search(rf"^\s+\*{{0,2}}{parameter}\b.*:", section[1], re.MULTILINE):
                yield f"{place} does not describe `{parameter}` in its Args section"


def test_every_public_function_has_a_docstring_with_args() -> None:
    fail_on(
        offence
        for name, function in public_functions().items()
        for offence in undocumented(name, function)
    )


# --- The rules themselves: a planted offence must be found, and the clean twin must pass

LONG_FUNCTION = "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES
FULL_FUNCTION = '"""Doc."""\n\n\ndef f():\n    """Doc.\n\n    More.\n    """\n    # note\n\n'
FULL_FUNCTION += "    x = 1\n" * (MAX_FUNCTION_LINES - 1)

PLANTED = [
    (private_torch, "_api/a.py", "import torch._C\n", [1]),
    (private_torch, "_api/a.py", "import torch\n\ntorch._C.f()\n", [3, 3]),
    (private_torch, "_api/a.py", "from torch import _C\n", [1]),
    (private_torch, "_api/a.py", "from torch._subclasses import FakeTensor\n", [1]),
    (private_torch, "_api/a.py", "from torch.fx import experimental\n", [1]),
    (private_torch, "_api/a.py", "from torch.fx.experimental.proxy_tensor import make_fx\n", [1]),
    (private_torch, "_api/a.py", "from torch.utils import _pytree as tree\n", [1]),
    (private_torch, "_api/a.py", "import torch.utils as u\n\nu._pytree\n", [3]),
    (private_torch, "_api/a.py", "import torch\n\ntorch.__version__, torch.fx.Node\n", []),
    (private_torch, "_torch.py", "import torch._C\n", []),
    (import_order, "errors.py", "from torchjac import _torch\n", [1]),
    (import_order, "errors.py", "from torchjac._torch import f\n", [1]),
    (import_order, "_inputs/a.py", "\nfrom .._evaluate import f\n", [2]),
    (import_order, "_inputs/a.py", "from .. import _evaluate\n", [1]),
    (
        import_order,
        "_inputs/a.py",
        "from .b import f\nfrom . import b\nfrom ..errors import E\n",
        [],
    ),
    (import_order, "_evaluate/a.py", "from torchjac._layout.b import f\nimport torch\n", []),
    (import_order, "_api/a.py", "from torchjac import jacobian\n", [1]),
    (import_order, "_api/a.py", "import torchjac\n", [1]),
    (import_order, "func.py", "from torchjac.functional import jacobian\n", [1]),
    (import_order, "__init__.py", "from torchjac.functional import jacobian\n", []),
    (import_order, "_new/a.py", "import torch\n", [1]),
    (late_imports, "_api/a.py", "def f():\n    from torchjac import errors\n", [2]),
    (late_imports, "_api/a.py", "def f():\n    def g():\n        from . import b\n", [3]),
    (late_imports, "_api/a.py", "from . import b\n\n\ndef f():\n    import numba\n", []),
    (budget, "_api/a.py", LONG_FUNCTION, [1]),
    (budget, "_api/a.py", FULL_FUNCTION, []),
    (budget, "_api/a.py", "x = 1\n" * (MAX_FILE_LINES + 1), [1]),
    (budget, "_api/a.py", "x = 1\n\n# note\n" * MAX_FILE_LINES, []),
    (asserts, "_api/a.py", "x = 1\nassert x\n", [2]),
    (swallowed_errors, "_api/a.py", "try:\n    f()\nexcept E:\n    pass\n", [3]),
    (swallowed_errors, "_api/a.py", "try:\n    f()\nexcept:\n    raise\n", [3]),
    (swallowed_errors, "_api/a.py", "try:\n    f()\nexcept E:\n    g()\n", []),
    (leftovers, "_api/a.py", "x = 1  # TO" + "DO: more\n", [1]),
]


@pytest.mark.parametrize(("rule", "name", "text", "lines"), PLANTED)
def test_planted_offences_are_found(rule: Rule, name: str, text: str, lines: list[int]) -> None:
    path = f"src/torchjac/{name}"
    found = [offence.split(": ")[0] for offence in rule(Source(path, text))]
    assert found == [f"{path}:{line}" for line in lines]


def bare(x: int) -> int:
    return x


def no_section(x: int) -> int:
    """Give `x` back."""
    return x


def half_described(x: int, y: int) -> int:
    """Add.

    Args:
        x: One number.

    Returns:
        The sum.
    """
    return x + y


def described(x: int, *rest: int) -> int:
    """Add.

    Args:
        x (int): One number.

        *rest: More
            of them.

    Returns:
        The sum.
    """
    return x + sum(rest)


@pytest.mark.parametrize(
    ("function", "message"),
    [(bare, "no docstring"), (no_section, "no Args section"), (half_described, "describe `y`")],
)
def test_planted_docstrings_are_found(function: Callable[..., object], message: str) -> None:
    (offence,) = undocumented(function.__name__, function)
    assert re.match(r"tests/test_layout\.py:\d+: ", offence)
    assert message in offence


def test_a_whole_docstring_passes() -> None:
    assert list(undocumented("described", described)) == []

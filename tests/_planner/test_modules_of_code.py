"""What a function reads of modules of code, of slots and of odd objects is watched as all else."""

import dataclasses
import sys
import types

import pytest
import torch

import torchjac

X = torch.linspace(0.1, 1.0, 6, dtype=torch.float64)
HERE = types.ModuleType("here")
PACKAGE = types.ModuleType("package")


@pytest.fixture(autouse=True)
def modules(monkeypatch):
    """Modules as they would be imported, which tests may change."""
    exec("scale = 2.0\ndef power(x):\n    return scale * x**2\n", vars(HERE))
    PACKAGE.inner = types.ModuleType("package.inner")
    PACKAGE.inner.table = {"scale": 3.0}
    for module in (HERE, PACKAGE, PACKAGE.inner):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def planned(func):
    """A plan with a program, which it has only if nothing can change unseen."""
    plan = torchjac.plan(func, X)
    assert plan.method == "direct, replay"
    assert plan._core.known.world.is_complete
    return plan


def assert_right(plan, func):
    found, expected = plan(X + 1), torch.func.jacrev(func)(X + 1)
    torch.testing.assert_close(found.to_dense(), expected)


def constant():
    return (lambda x: HERE.scale * x**2), lambda: setattr(HERE, "scale", 5.0)


def behind_a_function():
    return (lambda x: HERE.power(x)), lambda: setattr(HERE, "scale", 5.0)


def replaced_function():
    return (lambda x: HERE.power(x)), lambda: setattr(HERE, "power", lambda x: x**3)


def inner_module():
    func = lambda x: PACKAGE.inner.table["scale"] * x**2  # noqa: E731
    return func, lambda: PACKAGE.inner.table.update(scale=5.0)


def replaced_module():
    func = lambda x: PACKAGE.inner.table["scale"] * x**2  # noqa: E731
    return func, lambda: setattr(PACKAGE, "inner", types.SimpleNamespace(table={"scale": 7.0}))


def slots():
    @dataclasses.dataclass(slots=True)
    class Parameters:
        scale: float

    class More(Parameters):
        pass

    given = More(2.0)
    given.shift = 1.0
    return (lambda x: given.scale * x**2 + given.shift), lambda: setattr(given, "scale", 5.0)


def empty_slot():
    class Parameters:
        __slots__ = ("scale",)

    given = Parameters()
    func = lambda x: getattr(given, "scale", 2.0) * x**2  # noqa: E731
    return func, lambda: setattr(given, "scale", 5.0)


def namespace():
    given = types.SimpleNamespace(scale=2.0)
    return (lambda x: given.scale * x**2), lambda: setattr(given, "scale", 5.0)


def sentinel():
    nothing, given = object(), {}
    func = lambda x: x**2 if given.get("scale", nothing) is nothing else x**3  # noqa: E731
    return func, lambda: given.update(scale=1.0)


CHANGES = [
    constant, behind_a_function, replaced_function, inner_module, replaced_module, slots,
    empty_slot, namespace, sentinel,
]  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
@pytest.mark.filterwarnings("ignore::torchjac.errors.BranchWarning")
def test_a_change_is_noticed(case) -> None:
    func, change = case()
    plan = planned(func)
    assert_right(plan, func)
    change()
    assert_right(plan, func)
    assert_right(plan, func)


def handed_on(x):
    return vars(HERE)["scale"] * x**2


def missing(x):
    return getattr(HERE, "scale", 1.0) * x**2


@pytest.mark.parametrize("func", [handed_on, missing])
def test_a_module_that_is_handed_on_is_not_understood(func) -> None:
    plan = torchjac.plan(func, X)
    assert not plan._core.known.world.is_complete
    HERE.scale = 5.0
    assert_right(plan, func)


def test_objects_that_answer_for_any_attribute_are_not_asked() -> None:
    class Record:
        def __init__(self) -> None:
            self.__dict__["known"] = {"scale": 2.0}

        def __getattr__(self, name: str) -> float:
            return self.__dict__["known"][name]

    record = Record()
    func = lambda x: record.scale * x**2  # noqa: E731
    torch.testing.assert_close(torchjac.jacobian(func, X), torch.func.jacrev(func)(X))
    assert_right(torchjac.plan(func, X), func)
    assert torchjac.batch_jacobian(func, X[:, None]).shape == (6, 1, 1)

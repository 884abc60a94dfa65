"""All scenarios, by name and at small sizes."""

from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches

from torchjac.errors import ArgumentError
from torchjac.testing import hessians, stencils, systems
from torchjac.testing.known import Scenario

# Sizes at which a dense derivative is cheap: an ordinary one and one where ends meet.
SMALL: Mapping[Callable[..., Scenario], tuple[tuple[int, ...], ...]] = {
    stencils.brusselator: ((3,), (6,)),
    stencils.allen_cahn: ((1,), (12,)),
    stencils.burgers: ((5,), (13,)),
    stencils.convnet: ((4,), (8,)),
    hessians.rosenbrock: ((2,), (12,)),
    systems.arrow: ((2,), (12,)),
    systems.bundle: ((2, 3, 6), (4, 6, 18)),
    systems.extended_rosenbrock: ((2,), (12,)),
    systems.extended_powell: ((4,), (12,)),
    stencils.discrete_boundary_value: ((1,), (12,)),
    stencils.broyden_tridiagonal: ((1,), (12,)),
    stencils.broyden_banded: ((4,), (14,)),
    systems.variably_dimensioned: ((1,), (12,)),
    systems.chandrasekhar: ((1,), (9,)),
    stencils.bratu: ((2,), (6,)),
    hessians.arrowhead: ((2,), (12,)),
    hessians.liarwhd: ((2,), (12,)),
    hessians.bdqrtic: ((5,), (14,)),
    hessians.chained_rosenbrock: ((3,), (12,)),
}
FAMILIES = {family.__name__: family for family in SMALL}


def scenarios() -> Iterator[Scenario]:
    """Every family at two small sizes, where dense derivatives are cheap.

    Yields:
        Scenarios, each made when it is asked for.

    >>> len({scenario.name for scenario in scenarios()})
    38
    """
    for family, sizes in SMALL.items():
        for size in sizes:
            yield family(*size)


def scenario(name: str, *sizes: int) -> Scenario:
    """One scenario of any size.

    Args:
        name: A key of `FAMILIES`, "brusselator".
        *sizes: The size or sizes of that family.

    Returns:
        The scenario.

    Raises:
        ArgumentError: There is no such family.

    >>> scenario("burgers", 1000).pattern.nnz
    3000
    """
    family = FAMILIES.get(name)
    if family is None:
        close = get_close_matches(str(name), FAMILIES, n=1, cutoff=0)
        raise ArgumentError(f"scenario: no family is called {name!r}; did you mean {close[0]!r}?")
    return family(*sizes)

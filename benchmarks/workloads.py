"""What is measured: every row of the list of workloads, and more sizes of some for plots."""

from collections.abc import Iterator, Sequence

from benchmarks.model import ASDEX, CASADI, HAND, INDUCTOR, PLAN, REPLAY, SCIPY, TORCHJAC
from benchmarks.request import Asked

Case = tuple[str, tuple[int, ...]]

SPARSE: tuple[Case, ...] = (
    *(("brusselator", (n,)) for n in (32, 64, 256, 1000)),
    *(("allen_cahn", (n,)) for n in (10**3, 10**4, 10**5, 10**6)),
    *(("burgers", (n,)) for n in (10**3, 10**4, 10**5)),
    *(("convnet", (n,)) for n in (28, 64)),
    *(("rosenbrock", (n,)) for n in (10**3, 10**5)),
    ("arrow", (1000,)),
    *(("bundle", sizes) for sizes in ((10, 200, 1000), (50, 5000, 40000))),
)
# Where there is little time.
SPARSE_QUICK: tuple[Case, ...] = (
    *(("brusselator", (n,)) for n in (64, 256)),
    *(("allen_cahn", (n,)) for n in (10**3, 10**5)),
    *(("burgers", (n,)) for n in (10**3, 10**5)),
    ("convnet", (28,)),
    ("rosenbrock", (10**3,)),
    ("arrow", (1000,)),
    ("bundle", (10, 200, 1000)),
)
SPARSE_FAMILIES = tuple(dict.fromkeys(name for name, _ in SPARSE))

DENSE: dict[str, tuple[str, ...]] = {
    "tutorial": tuple(
        [f"tutorial/{case}" for case in ("mm(A, x)", "mm(x, x)", "three scalars", "exp sum")]
    ),
    "waist": (
        "waist/1000-10-1000",
        "waist/1000-256-10-256-1000",
        "waist/784-512-256-32-256-512-784",
    ),
    "plain": ("plain",),
    "batch": ("batch/32", "batch/64"),
    "tokens": ("tokens",),
    "block": ("block",),
    "decoder": ("decoder",),
    "classifier": ("classifier",),
    "ntk": ("ntk",),
    "laplacian": ("laplacian/3", "laplacian/50"),
    "hessian": ("hessian",),
    "robot": ("robot/1", "robot/512"),
}
# Of families with several problems, those that are left out where there is little time.
TWINS = {
    "tutorial/mm(A, x)",
    "tutorial/exp sum",
    "waist/1000-256-10-256-1000",
    "batch/64",
    "laplacian/3",
}
FAMILIES = (*SPARSE_FAMILIES, *DENSE)
# What takes longest to compile, or to compute, where there is little time.
DEAREST = ("block", "ntk", "bundle", "robot/512")

# More sizes, for plots: of the brusselator about 10^3 unknowns.
SCALING: tuple[Case, ...] = (
    ("brusselator", (22,)),
    ("allen_cahn", (10**7,)),
    ("burgers", (10**6,)),
    ("burgers", (10**7,)),
)
SCALING_QUICK: tuple[Case, ...] = (("allen_cahn", (10**6,)),)
SCALING_WAYS = (f"{TORCHJAC}: {REPLAY}", f"{TORCHJAC}: {INDUCTOR}", ASDEX, SCIPY, CASADI)
BATCHES, BATCHES_QUICK = (1, 8, 128, 512, 2048), (256,)
BATCH_WAYS = (
    *(f"{TORCHJAC}: {way}" for way in (PLAN, "batch_jacobian")),
    *(f"{HAND}: {way}" for way in ("vmap(jacrev)", "vmap(jacrev), compiled")),
    "torch.func: jacrev",
)


def rows(families: Sequence[str], quick: bool) -> Iterator[Asked]:
    """The problems of some families.

    Args:
        families: Names of `FAMILIES`.
        quick: Whether there is little time.

    Yields:
        Sparse problems in double precision, with time in single too, dense ones in single.
    """
    for family in families:
        for name, sizes in SPARSE_QUICK if quick else SPARSE:
            if name == family:
                yield _sparse((name, sizes), "float64")
                if not quick:
                    yield _sparse((name, sizes), "float32")
        for name in DENSE.get(family, ()):
            if quick and name in TWINS:
                continue
            yield Asked(name, (), "float32", f"{name.replace('/', '_')}.npz")


def dealt(asked: Sequence[Asked], count: int) -> list[list[int]]:
    """Hand problems out in as many parts that take about as long, the dearest first.

    Args:
        asked: The problems.
        count: How many parts.

    Returns:
        Numbers of problems, by part.
    """
    rank = {name: place for place, name in enumerate(DEAREST)}
    order = sorted(range(len(asked)), key=lambda n: rank.get(asked[n].name, len(DEAREST)))
    return [order[first::count] for first in range(count)]


def scaling(quick: bool) -> Iterator[Asked]:
    """More sizes of some problems, each by a few contenders.

    Args:
        quick: Whether there is little time.

    Yields:
        The problems.
    """
    for case in SCALING_QUICK if quick else SCALING:
        yield _sparse(case, "float64", SCALING_WAYS)
    for count in BATCHES_QUICK if quick else BATCHES:
        yield Asked(f"batch/{count}", (), "float32", f"batch_{count}.npz", BATCH_WAYS)


def _sparse(case: Case, dtype: str, only: tuple[str, ...] = ()) -> Asked:
    name, sizes = case
    file = "_".join([name, *map(str, sizes), dtype])
    return Asked(name, sizes, dtype, f"{file}.npz", only)

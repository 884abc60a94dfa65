"""What a process is asked to solve. The standard library alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.model import COMPILED, FUNC, HAND, REFILL, TORCHJAC
from benchmarks.timing import FULL, QUICK, Effort
from benchmarks.turns import Turns

# Seconds that one contender may take for its preparation and first calls.
LIMIT_S, QUICK_LIMIT_S = 180.0, 90.0
NO_TIME = "left out of the short form"

# Elements of a dense answer that there is time for where a sparse one is wanted.
MOST_DENSE = 2**20
# Dense ways to sparse answers that take long and are not the fastest of their library.
DEARER = (
    "jacrev(jacrev)",
    *(
        f"{what}, {how}"
        for what in ("jacobian", "hessian")
        for how in ("vectorize=True", "forward-mode")
    ),
)
# Families whose constant entries make a refill worth a program of its own.
REFILLED = ("allen_cahn",)
# Batches given whole where next to nothing but zeros is computed, and no promise is about that.
TOO_MANY_ZEROS = ("robot/512",)
# What takes as long to compile as the same traced by hand, and is the same program.
TWICE = ((HAND, "robot/512", "vmap(jacrev), compiled"),)


@dataclass(frozen=True)
class Asked:
    """One problem.

    Attributes:
        name: Of the family if it has sizes, "brusselator", else of the problem, "robot/1".
        sizes: Of a sparse problem.
        dtype: "float64" or "float32".
        file: Where the answer is left for others, without the folder.
        only: Names of contenders; empty for all.
        without: Contenders that broke a process, and how.
    """

    name: str
    sizes: tuple[int, ...]
    dtype: str
    file: str
    only: tuple[str, ...] = ()
    without: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The name that tables show."""
        return f"{self.name}({', '.join(map(str, self.sizes))})" if self.sizes else self.name

    def wants(self, contender: str) -> bool:
        """Whether a contender is to take part."""
        return not self.only or contender in self.only


@dataclass(frozen=True)
class Request:
    """What one process shall do.

    Attributes:
        asked: The problems.
        quick: Whether there is little time.
        cpu_time: Use one core, and count its time instead of the wall's.
        turns: Whom to take turns with.
    """

    asked: tuple[Asked, ...]
    quick: bool = False
    cpu_time: bool = False
    turns: Turns = field(default_factory=Turns)

    @property
    def effort(self) -> Effort:
        """How long to measure."""
        return QUICK if self.quick else FULL

    @property
    def limit_s(self) -> float:
        """Seconds that one contender may take."""
        return QUICK_LIMIT_S if self.quick else LIMIT_S

    @property
    def compiles_function(self) -> bool:
        """Whether the function itself is compiled too, to be shown beside its derivative."""
        return not self.quick

    def left_out(self, name: str, library: str, way: str, kind: str, shape: Sequence[int]) -> str:
        """Why a contender is not tried.

        With little time, nobody compiles a mode that the sizes speak against or one program twice,
        nor tries more than the plainest ways to a small dense answer where a sparse one is wanted.

        Args:
            name: Of the problem.
            library: Whose contender.
            way: Which of that library.
            kind: Of the problem.
            shape: Outputs and inputs.

        Returns:
            Why, nothing if it is tried.
        """
        if not self.quick:
            return ""
        outputs, inputs = shape
        is_compiled = way.endswith(COMPILED)
        if library == TORCHJAC:
            unwanted = way == REFILL and name.partition("(")[0] not in REFILLED
        elif kind == "sparse":
            unwanted = outputs * inputs > MOST_DENSE or is_compiled or way in DEARER
        elif library == FUNC and name in TOO_MANY_ZEROS:
            unwanted = True
        else:
            unlikely = "jacfwd" if outputs <= inputs else "jacrev"
            is_twice = (library, name, way) in TWICE
            unwanted = is_twice or (is_compiled and unlikely in way)
        return NO_TIME if unwanted else ""

    def write(self, path: Path) -> None:
        """Write for the process."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @staticmethod
    def read(path: Path) -> "Request":
        """Read what `write` wrote."""
        data = json.loads(path.read_text(encoding="utf-8"))
        asked = tuple(
            [
                Asked(**{**a, "sizes": tuple(a["sizes"]), "only": tuple(a["only"])})
                for a in data["asked"]
            ]
        )
        return Request(asked, data["quick"], data["cpu_time"], Turns(**data["turns"]))

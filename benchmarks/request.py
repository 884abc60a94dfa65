"""What a process is asked to solve. The standard library alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.model import COMPILED, TORCHJAC
from benchmarks.timing import FULL, QUICK, Effort

# Seconds that one contender may take for its preparation and first calls.
LIMIT_S, QUICK_LIMIT_S = 180.0, 40.0

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
    """

    asked: tuple[Asked, ...]
    quick: bool = False
    cpu_time: bool = False

    @property
    def effort(self) -> Effort:
        """How long to measure."""
        return QUICK if self.quick else FULL

    @property
    def limit_s(self) -> float:
        """Seconds that one contender may take."""
        return QUICK_LIMIT_S if self.quick else LIMIT_S

    def has_time_for(self, library: str, way: str, kind: str, shape: Sequence[int]) -> bool:
        """Whether a contender is tried.

        With little time, nobody tries a mode that the sizes speak against, nor more than the
        plainest ways to a small dense answer where a sparse one is wanted.

        Args:
            library: Whose contender.
            way: Which of that library.
            kind: Of the problem.
            shape: Outputs and inputs.

        Returns:
            Whether there is time.
        """
        if not self.quick or library == TORCHJAC:
            return True
        outputs, inputs = shape
        is_dear = outputs * inputs > MOST_DENSE or way.endswith(COMPILED) or way in DEARER
        if kind == "sparse" and is_dear:
            return False
        unlikely = "jacfwd" if outputs <= inputs else "jacrev"
        return not way.endswith(COMPILED) or unlikely not in way or "vmap" in way

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
        return Request(asked, data["quick"], data["cpu_time"])

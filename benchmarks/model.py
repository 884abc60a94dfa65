"""What a run found: plain values, written as JSON and read again. The standard library alone."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

# Who computes.
TORCHJAC = "torchjac"
FUNC = "torch.func"
FUNCTIONAL = "torch.autograd.functional"
HAND = "by hand"
ASDEX = "asdex"
SCIPY = "scipy"
CASADI = "CasADi"

# Ways of torchjac that promises name.
PLAN, EAGER, REPLAY, INDUCTOR = "plan", "plan, eager", "plan, replay", "plan, inductor"
BACKENDS = {"eager": EAGER, "replay": REPLAY, "inductor": INDUCTOR}
REFILL = "plan, inductor, out="
COMPILED = ", compiled"

# What a line of a process holds: a row, who is tried next, or what torchjac could not do.
ROW, TRYING, FAILED = "row", "trying", "failed"


@dataclass(frozen=True)
class Measured:
    """One contender on one row.

    Attributes:
        library: Who, one of the names above.
        way: What of that library was used.
        time_s: Median of a call.
        spread: Half the distance between the quartiles of the times, relative to the median.
        once: Seconds spent once, by what they were spent on.
        call_bytes: Growth of the resident set in a call, its result included.
        once_bytes: Growth of the resident set in all that is done once.
        work: Passes, seeds or operations, in words.
        error: Distance to the answer in double precision, relative, in the Frobenius norm.
        note: What one should know when reading the time.
    """

    library: str
    way: str
    time_s: float
    spread: float
    once: Mapping[str, float]
    call_bytes: int
    once_bytes: int
    work: str
    error: float
    note: str = ""

    @property
    def name(self) -> str:
        """Library and way."""
        return f"{self.library}: {self.way}"

    @property
    def once_s(self) -> float:
        """All that is spent once."""
        return sum(self.once.values())

    @property
    def is_compiled(self) -> bool:
        """Whether a compiler made the code."""
        return self.way.endswith(COMPILED)


@dataclass(frozen=True)
class Row:
    """One problem, and everyone who solved it.

    Attributes:
        name: Family and case, "brusselator(64)" or "waist/1000-10-1000".
        family: What tables are made of.
        kind: "sparse", "jacobian", "samples", "laplacian", "hessian" or "ntk".
        size: What goes in and out, for people.
        dtype: "float64" or "float32".
        unknowns: Elements of the input.
        entries: Elements of the answer; of a sparse one, nonzeros.
        itemsize: Bytes of an element.
        copy_bandwidth: Bytes a second, read and written, of a large copy in the same process.
        f_s: Median of a call of the function.
        f_compiled_s: The same compiled by PyTorch, None where that was not measured.
        measured: Who solved it.
        absent: Who did not, and why.
        wrong: Whose answer was refused, and why.
    """

    name: str
    family: str
    kind: str
    size: str
    dtype: str
    unknowns: int
    entries: int
    itemsize: int
    copy_bandwidth: float
    f_s: float
    f_compiled_s: float | None
    measured: tuple[Measured, ...]
    absent: Mapping[str, str] = field(default_factory=dict)
    wrong: Mapping[str, str] = field(default_factory=dict)

    @property
    def floor_s(self) -> float:
        """The time in which input and answer can be read and written."""
        return (self.unknowns + self.entries) * self.itemsize / self.copy_bandwidth

    @property
    def label(self) -> str:
        """Name and precision."""
        return f"{self.name}, {self.dtype}"

    def find(self, library: str, *ways: str) -> Measured | None:
        """The fastest of one library, of these ways if any are named."""
        found = [m for m in self.measured if m.library == library and (not ways or m.way in ways)]
        return min(found, key=lambda m: m.time_s, default=None)

    @property
    def own(self) -> Measured | None:
        """What torchjac offers for the row: the plan as it comes, or the one call."""
        return self.find(TORCHJAC, PLAN) or self.find(TORCHJAC)

    @property
    def peers(self) -> tuple[Measured, ...]:
        """Everyone but torchjac."""
        return tuple([m for m in self.measured if m.library != TORCHJAC])


@dataclass(frozen=True)
class Growth:
    """The memory of one process that was given a budget, or of its peer that was not.

    Attributes:
        case: Which function and mode.
        contender: What was called, for people.
        limit_bytes: Result and budget together, None where no budget was given.
        growth_bytes: Peak of the resident set, beyond what it was before.
        meter_bytes: Peak of the tensors alone.
        wall_s: Time of the one call.
        runs: What `torchjac.record` said, as text.
    """

    case: str
    contender: str
    limit_bytes: int | None
    growth_bytes: int
    meter_bytes: int
    wall_s: float
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Planning:
    """What a stage of making a plan of a function of many operations takes.

    Attributes:
        stage: Which, for people.
        operations: In the traced linear program.
        seconds: Its time.
    """

    stage: str
    operations: int
    seconds: float


@dataclass(frozen=True)
class Run:
    """Everything that one run found.

    Attributes:
        machine: Where and with what, by name.
        quick: Whether it was the short form.
        rows: The workloads.
        scaling: More sizes of some of them, for plots.
        growths: Processes with a memory budget.
        planning: Plans of long programs.
        failures: What went wrong.
        again: Rows that a later run measured by themselves.
    """

    machine: Mapping[str, Any]
    quick: bool
    rows: tuple[Row, ...] = ()
    scaling: tuple[Row, ...] = ()
    growths: tuple[Growth, ...] = ()
    planning: tuple[Planning, ...] = ()
    failures: tuple[str, ...] = ()
    again: tuple[str, ...] = ()

    def renewed(self, later: "Run") -> "Run":
        """This run with what a later one measured in place of the same.

        Args:
            later: Measured by the same means.

        Returns:
            Rows in the order of this run, new ones behind.

        Raises:
            ValueError: The runs are of different machines, libraries or forms.
        """
        if (self.machine, self.quick) != (later.machine, later.quick):
            raise ValueError(
                f"what was measured on {later.machine} cannot stand beside {self.machine}"
            )
        found = {row.label: row for row in later.rows}
        again = dict.fromkeys([*self.again, *found, *[p.stage for p in later.planning]])
        kept = [found.pop(row.label, row) for row in self.rows]
        return replace(
            self,
            rows=(*kept, *found.values()),
            scaling=later.scaling or self.scaling,
            growths=later.growths or self.growths,
            planning=later.planning or self.planning,
            failures=(*self.failures, *later.failures),
            again=tuple(again),
        )


def row_from(data: Mapping[str, Any]) -> Row:
    """A row from what JSON holds."""
    measured = tuple([Measured(**m) for m in data["measured"]])
    return Row(**{**data, "measured": measured})


def write_run(path: Path, run: Run) -> None:
    """Write a run as JSON."""
    path.write_text(json.dumps(asdict(run), indent=1) + "\n", encoding="utf-8")


def read_run(path: Path) -> Run:
    """Read what `write_run` wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    return Run(
        machine=data["machine"],
        quick=data["quick"],
        rows=tuple(map(row_from, data["rows"])),
        scaling=tuple(map(row_from, data["scaling"])),
        growths=tuple([Growth(**{**g, "runs": tuple(g["runs"])}) for g in data["growths"]]),
        planning=tuple([Planning(**p) for p in data["planning"]]),
        failures=tuple(data["failures"]),
        again=tuple(data.get("again", ())),
    )

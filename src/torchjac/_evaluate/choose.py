"""Forward or reverse mode, from the sizes."""

from dataclasses import dataclass

# A forward pass evaluates the function again under two transforms of torch.func, which costs
# some hundred microseconds before the first tangent moves: for few seeds reverse mode, whose
# graph is there already, is faster even where it needs more of them.
FORWARD_RATIO = 2
FORWARD_SAVING = 16


@dataclass(frozen=True, slots=True)
class Choice:
    """A mode and the reason for it."""

    mode: str
    why: str


def choose(strategy: str, n_in: int, n_out: int, *, rows_only: str = "") -> Choice:
    """Pick the mode that needs fewer passes.

    Args:
        strategy: "auto", "reverse-mode" or "forward-mode".
        n_in: Columns: elements of the inputs.
        n_out: Rows: elements of the outputs.
        rows_only: Why columns are out of the question, empty where they are not.

    Returns:
        The mode and why.

    >>> choose("auto", 32, 12288).mode
    'forward-mode'
    """
    if rows_only:
        return Choice("reverse-mode", rows_only)
    if strategy != "auto":
        return Choice(strategy, "asked for")
    shape = f"{n_out} outputs, {n_in} inputs"
    if columns_are_cheaper(n_in, n_out):
        return Choice("forward-mode", f"{shape}: columns are fewer")
    return Choice("reverse-mode", f"{shape}: rows are no more than columns, or cheap")


def columns_are_cheaper(n_in: int, n_out: int) -> bool:
    """Whether so much fewer columns than rows are worth another evaluation.

    Args:
        n_in: Columns.
        n_out: Rows.

    Returns:
        True if they are.

    >>> columns_are_cheaper(32, 12288), columns_are_cheaper(1, 3)
    (True, False)
    """
    return n_out > FORWARD_RATIO * n_in and n_out - n_in >= FORWARD_SAVING

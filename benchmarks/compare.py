"""Hold an answer against what it must be, with NumPy and SciPy alone."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

# Largest difference of two answers, relative to the largest entry. Dense answers go through matrix
# products and many layers, sparse ones through a few operations for each entry.
SPARSE = {"float64": 1e-12, "float32": 1e-5}
DENSE = {"float64": 1e-10, "float32": 2e-4}


class WrongAnswerError(Exception):
    """Two contenders differ."""


def distance(answer: Any, expected: Any, tolerance: float) -> float:
    """How far an answer is from what it must be.

    Args:
        answer: An array, or a sparse one; entries that only one of the two stores must be zero.
        expected: Likewise.
        tolerance: Largest difference, relative to the largest entry.

    Returns:
        The distance, relative, in the Frobenius norm.

    Raises:
        WrongAnswerError: It is too far, or of another shape.
    """
    if answer.shape != expected.shape:
        raise WrongAnswerError(f"shape {answer.shape} instead of {expected.shape}")
    difference = np.abs(_entries(answer - expected))
    entries = _entries(expected)
    largest = np.abs(entries).max(initial=0.0)
    worst = difference.max(initial=0.0)
    if not worst <= tolerance * largest:
        raise WrongAnswerError(f"an entry differs by {worst:.1e}, the largest is {largest:.1e}")
    norm = np.linalg.norm(entries)
    return float(np.linalg.norm(difference) / norm) if norm else 0.0


def _entries(array: Any) -> np.ndarray:
    return array.data if sparse.issparse(array) else np.asarray(array).ravel()


def write_answer(path: Path, x: np.ndarray, answer: Any) -> None:
    """Leave an answer, and where it is the answer, for other processes."""
    if sparse.issparse(answer):
        arrays = {"indptr": answer.indptr, "indices": answer.indices, "data": answer.data}
        np.savez(path, x=x, shape=answer.shape, **arrays)
    else:
        np.savez(path, x=x, dense=answer)


def read_answer(path: Path) -> tuple[np.ndarray, Any]:
    """Read what `write_answer` wrote."""
    with np.load(path) as found:
        if "dense" in found:
            return found["x"], found["dense"]
        parts = (found["data"], found["indices"], found["indptr"])
        return found["x"], sparse.csr_array(parts, shape=tuple(found["shape"]))

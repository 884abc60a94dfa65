"""Plans in files: pattern, coloring and options as npz without pickles."""

import json
from os import PathLike
from typing import Any

import numpy as np
import torch

from torchjac._coloring.coloring import Coloring
from torchjac._inputs.checks import BLOCKS
from torchjac._pattern.archive import read_archive, write_archive
from torchjac._pattern.pattern import SparsityPattern
from torchjac._planner.core import Core
from torchjac._planner.prepare import Given
from torchjac._planner.structure import Request
from torchjac.errors import ArgumentError, FileContentError

FILE_KIND, FILE_VERSION = "torchjac plan", 1
_API = "Plan.load"


def write_plan(path: str | PathLike[str], core: Core) -> None:
    """Write what a plan knows of its main branch; not the function.

    Args:
        path: The file, replaced if there is one.
        core: The plan.
    """
    pattern, scheme = core.main.pattern, core.main.scheme
    told: dict[str, Any] = dict(vars(core.request), has_aux=core.call.has_aux)
    told["layout"] = str(core.request.layout)
    arrays = {
        "shape": np.array(pattern.shape),
        "indptr": pattern.indptr,
        "indices": pattern.indices,
    }
    if scheme is not None:
        coloring = scheme.coloring
        told["coloring"] = {
            "kind": coloring.kind,
            "substitution": coloring.substitution,
            "lower_bound": coloring.lower_bound,
            "bound_reason": coloring.bound_reason,
            "order": coloring.order,
        }
        told["strategy"] = scheme.sides[0].mode if len(scheme.sides) == 1 else "auto"
        for name in ("column_colors", "row_colors"):
            colors = getattr(coloring, name)
            if colors is not None:
                arrays[name] = colors
    arrays["options"] = np.array(json.dumps(told))
    write_archive(path, FILE_KIND, FILE_VERSION, arrays)


def read_plan(path: str | PathLike[str]) -> tuple[Request, bool, Given]:
    """What `write_plan` wrote.

    Args:
        path: The file.

    Returns:
        What was asked for, `has_aux`, and pattern and coloring.

    Raises:
        FileContentError: The file is damaged, something else, or of a newer format.
    """
    arrays = read_archive(_API, path, FILE_KIND, FILE_VERSION)
    try:
        told = json.loads(str(arrays["options"]))
        shape = tuple(arrays["shape"].tolist())
        pattern = SparsityPattern.from_csr(shape, arrays["indptr"], arrays["indices"])
        kept: dict[str, Any] | None = told.pop("coloring", None)
        has_aux = told.pop("has_aux")
        if told["layout"] != BLOCKS:
            told["layout"] = getattr(torch, told["layout"].removeprefix("torch."))
        told["blocksize"] = None if told["blocksize"] is None else tuple(told["blocksize"])
        colors = arrays.get("column_colors"), arrays.get("row_colors")
        coloring = None
        if kept is not None:
            coloring = Coloring(pattern, **kept, column_colors=colors[0], row_colors=colors[1])
        return Request(**told), has_aux, Given(pattern, coloring, "loaded")
    except (KeyError, TypeError, ValueError, AttributeError, ArgumentError) as error:
        raise FileContentError(f"{_API}: {str(path)!r} holds no valid plan: {error}") from None

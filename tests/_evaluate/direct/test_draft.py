"""Steps that fail leave the program as it was."""

from dataclasses import replace

import pytest
import torch

from torchjac._evaluate.direct.draft import Draft
from torchjac._linearize.program import LinearProgram

EMPTY = LinearProgram((), (), (), (), (), {}, {}, frozenset(), "jvp")


def longer(program):
    return replace(program, outputs=(*program.outputs, None))


def failing(program):
    raise KeyError("axis")


def test_steps_follow_each_other():
    assert Draft(EMPTY).after("one", longer).after("two", longer).program.outputs == (None, None)


def test_a_step_that_fails_is_left_out_and_noted():
    draft = Draft(EMPTY).after("one", longer).after("two", failing).after("three", longer)
    assert draft.program.outputs == (None, None)
    assert draft.left_out == ("two (KeyError: 'axis')",)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        DeprecationWarning("made an error"),
    ],
)
def test_memory_and_warnings_are_no_mistakes(error):
    def step(program):
        raise error

    with pytest.raises(type(error)):
        Draft(EMPTY).after("step", step)

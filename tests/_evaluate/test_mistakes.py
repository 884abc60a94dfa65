"""What is told of errors, and which of them are torchjac's own."""

import pytest

from torchjac._evaluate.mistakes import described, is_our_own
from torchjac._evaluate.report import Refusal


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("  first\nsecond"), "ValueError: first"),
        (AssertionError(), "AssertionError"),
        (TypeError("x" * 500), f"TypeError: {'x' * 160}"),
    ],
)
def test_one_line_names_the_kind_and_what_was_said(error, text):
    assert described(error) == text


def test_mistakes_of_others_are_theirs():
    with pytest.raises(KeyError) as caught:
        {}["theirs"]
    assert not is_our_own(caught.value)


def test_what_is_raised_without_a_mistake_is_not_ours():
    assert not is_our_own(ValueError("on purpose"))


def test_a_call_of_ours_that_fails_in_python_is_the_callers():
    with pytest.raises(TypeError) as caught:
        Refusal()  # pyright: ignore[reportCallIssue]
    assert not is_our_own(caught.value)

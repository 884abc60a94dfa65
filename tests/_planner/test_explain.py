"""A plan says what was found, what was chosen and what it cost."""

import os
import re

import pytest
import torch

import torchjac
from torchjac._evaluate.direct import emit, runner
from torchjac._pattern import sets
from torchjac._planner import programs

TIME = r"[\d.]+ (?:us|ms|s)"
X = torch.linspace(0.5, 1.5, 12, dtype=torch.float64)


def chain(x):
    return x[1:] * x[:-1]


PATTERN = torchjac.pattern(chain, X)


def test_the_text_of_a_plan():
    text = str(torchjac.plan(chain, X, coloring="column", backend="eager"))
    assert re.match(
        r"Plan of a Jacobian\n  pattern       detected from the (jvp|vjp), for every x", text
    )
    assert "coloring      Coloring 11 × 12, column: 2 colors" in text
    assert "passes        2 seeds, all at once, forward-mode/vmap" in text
    assert re.search(rf"prepared in   trace {TIME}, pattern {TIME}, coloring {TIME}\n", text)
    assert re.search(rf"-> *columns by forward mode +2 +\d+ B +.*{TIME}  column", text)
    assert re.search(r"dense, reverse-mode +11 ", text)
    assert "SparsityPattern 11 × 12, 22 entries" in text
    assert "⢦" in text


def test_a_given_pattern_is_said_to_be_given():
    pattern = torchjac.plan(chain, X).pattern
    text = str(torchjac.plan(chain, X, pattern=pattern))
    assert "pattern       given, certified by random products" in text


def test_guards_are_counted():
    text = str(torchjac.plan(lambda x: x if x.sum() > 0 else -x, X))
    assert "guards        values read from tensors, compared on use: 1" in text
    assert "for every x on this branch" in text


def test_a_local_pattern_is_said_to_be_local():
    text = str(torchjac.plan(lambda x: x.sort()[0], X, scope="local"))
    assert "LOCAL: for indices as they were at this x" in text


def test_constant_entries_are_counted():
    assert "10 entries do not depend on x" in str(torchjac.plan(lambda x: x[2:] * 3, X))


def test_html_holds_the_facts_and_a_picture():
    html = torchjac.plan(chain, X)._repr_html_()
    assert html.startswith("<b>Plan of a Jacobian</b>")
    assert "<svg" in html
    assert "2 colors" in html
    assert "-&gt;" in html


def test_a_hessian_is_called_one():
    plan = torchjac.plan(lambda x: chain(x).sum(), X, order=2)
    assert str(plan).startswith("Plan of a Hessian")
    assert "star" in str(plan)


# The emitted program, or why there is none


@pytest.mark.parametrize(
    ("backend", "words"), [("replay", "run one by one"), ("inductor", "compiled")]
)
def test_a_program_is_counted_and_passes_are_said_to_be_replaced(backend, words, monkeypatch):
    monkeypatch.setattr(runner, "compiled", lambda _, graph, __: lambda xs: graph.forward(*xs))
    text = str(torchjac.plan(chain, X, backend=backend))
    assert re.search(rf"program       \d+ operations, {words}; in place of the passes", text)
    assert re.search(rf"->direct, {backend} +- ", text)


def test_a_slower_program_is_not_used(monkeypatch):
    monkeypatch.setattr(programs, "_seconds", lambda run, like, request: 1e3)
    assert "program       not used: slower than the passes" in str(torchjac.plan(chain, X))


def test_a_program_that_cannot_be_is_explained(monkeypatch):
    monkeypatch.setattr(emit, "MOST_OPERATIONS", 0)
    text = str(torchjac.plan(chain, X))
    assert re.search(r"program       not used: too large: more than \d+ operations", text)
    assert re.search(r"direct +- +\d+ B( +-){5}  too large", text)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: torchjac.plan(lambda x: x[2:] * 3, X), "nothing depends on x"),
        (lambda: torchjac.plan(chain, X, pattern=PATTERN), "the pattern was given"),
        (lambda: torchjac.plan(chain, X, scope="local"), "indices are those of this x only"),
        (
            lambda: torchjac.plan(lambda x: x * x if x.sum() > 0 else x, X),
            "the function reads values from tensors",
        ),
        (
            lambda: torchjac.plan(lambda x: x.sin() * torch.rand_like(x), X),
            "the function draws random numbers or moves buffers",
        ),
        (lambda: torchjac.plan(chain, X, strategy="reverse-mode"), "passes were asked for"),
        (lambda: torchjac.plan(chain, X, coloring="row"), "passes were asked for"),
        (lambda: torchjac.plan(chain, X, backend="eager"), "passes were asked for"),
        (
            lambda: torchjac.plan(lambda x: x.sin() * len(os.environ), X),
            "some of what the function can read cannot be watched",
        ),
    ],
)
def test_why_there_is_no_program(make, words):
    assert f"program       none: {words}\n" in str(make())


# Axes that never mix


def test_the_samples_of_a_batch_never_mix():
    weight = torch.ones(3, 2, dtype=torch.float64)
    text = str(torchjac.plan(lambda x: x.sin() @ weight, X.reshape(4, 3)))
    assert "axes          output axis 0 and input axis 0 never mix: equal indices only" in text


def test_a_transposed_function_keeps_both_axes_apart():
    text = str(torchjac.plan(lambda x: x.T.sin(), X.reshape(4, 3)))
    assert "output axis 0 and input axis 1; output axis 1 and input axis 0 never mix" in text


def test_axes_that_mix_are_not_named():
    assert "axes" not in str(torchjac.plan(lambda x: chain(x).sum(), X, order=2))


def test_several_inputs_have_no_axes():
    assert "axes" not in str(torchjac.plan(lambda x, y: x * y, (X, X)))


# Operations that are all but full, or unknown


def test_where_the_pattern_was_given_up_is_named(monkeypatch):
    monkeypatch.setattr(sets, "FEW_ENTRIES", 0)
    monkeypatch.setattr(sets, "MOST_DENSITY", 0.4)
    text = str(torchjac.plan(lambda x: x.sin().cumsum(0), X))
    assert re.search(r"all but full  no longer told apart after: aten\.cumsum", text)

"""A plan says what was found, what was chosen and what it cost."""

import re

import torch

import torchjac

X = torch.linspace(0.5, 1.5, 12, dtype=torch.float64)


def chain(x):
    return x[1:] * x[:-1]


def test_the_text_of_a_plan():
    text = str(torchjac.plan(chain, X, coloring="column", backend="eager"))
    assert re.match(
        r"Plan of a Jacobian\n  pattern     detected from the (jvp|vjp), for every x", text
    )
    assert "coloring    Coloring 11 × 12, column: 2 colors" in text
    assert "passes      2 seeds, all at once, forward-mode/vmap" in text
    assert re.search(r"prepared in trace [\d.]+ ms, pattern [\d.]+ ms, coloring [\d.]+ ms", text)
    assert re.search(r"-> *columns by forward mode +2 +\d+ B +[\d.]+ (us|ms)  column", text)
    assert re.search(r"dense, reverse-mode +11 ", text)
    assert "SparsityPattern 11 × 12, 22 entries" in text
    assert "⢦" in text


def test_a_given_pattern_is_said_to_be_given():
    pattern = torchjac.plan(chain, X).pattern
    text = str(torchjac.plan(chain, X, pattern=pattern))
    assert "pattern     given, certified by random products" in text


def test_guards_are_counted():
    text = str(torchjac.plan(lambda x: x if x.sum() > 0 else -x, X))
    assert "guards      values read from tensors, compared on use: 1" in text
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

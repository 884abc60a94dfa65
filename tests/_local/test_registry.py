"""The registry of rules: what a stranger adds, and what becomes of operations without one."""

from pathlib import Path

import pytest
import torch

import torchjac
from tests.test_docs import run_page
from torchjac._local import registry

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def rules(monkeypatch):
    """Rules that are added are gone afterwards."""
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    return registry._RULES


def test_the_rule_of_ten_lines_that_contributing_shows_works(rules):
    before = len(rules)
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    text = page[page.index("## Add a rule") : page.index("## Add a workaround")]
    assert list(run_page(text, "CONTRIBUTING.md")) == []
    assert len(rules) == before + 1


def test_a_plan_names_an_operation_without_a_rule(rules):
    rules.pop(torch.ops.aten.roll)
    text = str(torchjac.plan(lambda x: x.roll(1) ** 2, torch.ones(3)))
    assert "no rule       taken as dense: aten.roll" in text


def test_what_a_rule_does_not_know_is_dense(rules):
    registry.rule(torch.ops.aten.flip)(lambda call: NotImplemented)
    assert torchjac.pattern(lambda x: x.flip(0), torch.ones(3)).nnz == 9


def test_all_overloads_share_a_rule(rules):
    rules.pop(torch.ops.aten.squeeze)

    @registry.rule(torch.ops.aten.squeeze)
    def squeeze(call):
        return registry.opaque_terms(call)[0]

    for function in (torch.squeeze, lambda x: torch.squeeze(x, 1)):
        assert torchjac.pattern(function, torch.ones(3, 1)).nnz == 9


def test_every_file_of_rules_is_read():
    folder = Path(registry.__file__).parent / "rules"
    modules = {getattr(rule, "__module__", "").split(".")[-1] for rule in registry._RULES.values()}
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert files <= modules

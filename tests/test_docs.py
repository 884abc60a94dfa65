"""The written pages: each Python block runs and prints what the page shows, each link leads on."""

import contextlib
import doctest
import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import torchjac

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUNNABLE = [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")]

# What a block may be: run and compared, the output of the block before it, or shown only.
LANGUAGES = {"python", "diff", "text", "console", "plain"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d*(?:e[-+]?\d+)?|e[-+]?\d+)(?![\w.])")
RELATIVE_TOLERANCE = 1e-3
ABSOLUTE_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Block:
    """A fenced block: its language and text, the line it begins on, and what follows it."""

    language: str
    text: str
    line: int
    end: int


def blocks_of(markdown: str) -> list[Block]:
    return [
        Block(m[1], m[2], markdown.count("\n", 0, m.start()) + 2, m.end())
        for m in FENCE.finditer(markdown)
    ]


def with_outputs(markdown: str) -> Iterator[tuple[Block, str]]:
    """Blocks that run, each with the text block that directly follows it or an empty text."""
    blocks = blocks_of(markdown)
    for block, after in zip(blocks, [*blocks, None][1:], strict=True):
        if block.language in ("python", "diff"):
            is_output = after is not None and is_output_of(markdown, block, after)
            yield block, after.text if after is not None and is_output else ""


def is_output_of(markdown: str, block: Block, after: Block) -> bool:
    start = markdown.index("```", block.end)
    return after.language == "text" and not markdown[block.end : start].strip()


def sides(block: Block) -> list[str]:
    """The program of a Python block; of a diff the program before and the program after."""
    if block.language == "python":
        return [block.text]
    lines = block.text.splitlines()
    return [
        "\n".join("" if line[:1] == left_out else line[1:] for line in lines) for left_out in "+-"
    ]


def run(program: str, namespace: dict[str, Any], page: str, line: int) -> str:
    """What `program` prints; a traceback points at the page."""
    code = compile("\n" * (line - 1) + program, page, "exec")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, namespace)
    return printed.getvalue()


def agree(expected: str, got: str) -> bool:
    """Equal up to white space and the last digits of decimal numbers; `...` stands for anything."""
    if "..." in expected:
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        return doctest.OutputChecker().check_output(expected, got, flags)
    texts = [re.sub(r"(?<=[\[(])\s+", "", text) for text in (expected, got)]
    words = [NUMBER.sub("#", text).split() for text in texts]
    numbers = [[float(n) for n in NUMBER.findall(text)] for text in texts]
    return words[0] == words[1] and all(
        math.isclose(a, b, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
        for a, b in zip(*numbers, strict=True)
    )


def run_page(markdown: str, name: str) -> Iterator[str]:
    """Run the blocks of a page in one namespace; yield each way in which it does not hold."""
    namespace: dict[str, Any] = {"__name__": "page"}
    for block, expected in with_outputs(markdown):
        for program in sides(block):
            got = run(program, namespace, name, block.line)
            if not agree(expected, got):
                yield f"{name}:{block.line}: the page shows\n{expected}\nbut it prints\n{got}"


def relative(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", RUNNABLE, ids=relative)
def test_blocks_run_and_print_what_the_page_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = list(run_page(page.read_text(encoding="utf-8"), str(page)))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_every_fence_is_read(page: Path) -> None:
    """A fence that the pattern misses would never run, a stray text block never be compared."""
    markdown = page.read_text(encoding="utf-8")
    blocks = blocks_of(markdown)
    assert len(re.findall(r"^\s*(?:```|~~~)", markdown, flags=re.MULTILINE)) == 2 * len(blocks)
    assert {block.language for block in blocks} <= LANGUAGES
    shown = [block.text for block in blocks if block.language == "text"]
    assert shown == [text for _, text in with_outputs(markdown) if text]


def links(page: Path) -> list[str]:
    markdown = FENCE.sub("", page.read_text(encoding="utf-8"))
    return re.findall(r"\]\(([^)\s]+)\)", markdown)


def headings(page: Path) -> set[str]:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=relative
)
def test_every_relative_link_leads_to_a_page_and_a_heading(page: Path) -> None:
    broken = []
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in headings(target)):
            broken.append(link)
    assert broken == []


def test_the_table_of_contents_names_every_page() -> None:
    named = set(re.findall(r":\s*(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert named == {page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:]}


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_every_make_target_that_is_named_exists(name: str) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"\bmake ([a-z-]+)", (ROOT / name).read_text(encoding="utf-8"))
    assert named
    assert set(named) <= set(targets)


def test_the_readme_names_every_public_call() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    names = [*torchjac.__all__, *torchjac.func.__all__, *torchjac.functional.__all__]
    assert [name for name in names if not re.search(rf"`(?:[\w.]+\.)?{name}`", text)] == []


# --- The checks themselves: a planted fault must be found, and its sound twin must pass


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ("tensor([1.0000, 2.])", "tensor([1.0001,\n        2.])"),
        ("± 2.5e-11", "± 7.1e-12"),
        ("u ... ± ...", "u 1.25 ± 7.1e-12"),
        ("", "\n"),
    ],
)
def test_equal_prints_agree(expected: str, got: str) -> None:
    assert agree(expected, got)


@pytest.mark.parametrize(
    ("expected", "got"),
    [
        ("tensor([1.0000])", "tensor([1.1000])"),
        ("torch.Size([3, 2])", "torch.Size([3, 4])"),
        ("1000 outputs", "1001 outputs"),
        ("reverse-mode", "forward-mode"),
        ("", "something"),
        ("something", ""),
        ("1.5 2.5", "1.5"),
        ("u ... end", "u 1.25 ± 7.1e-12"),
    ],
)
def test_planted_differences_are_found(expected: str, got: str) -> None:
    assert not agree(expected, got)


def test_blocks_of_one_page_share_a_namespace() -> None:
    page = "```python\nx = 1\n```\n\nThen\n\n```python\nprint(x + 1)\n```\n\n```text\n2\n```\n"
    assert list(run_page(page, "page.md")) == []


@pytest.mark.parametrize(
    ("page", "line"),
    [
        ("```python\nprint(1)\n```\n\n```text\n2\n```\n", 2),
        ("```python\nprint(1)\n```\n", 2),
        ("\n```python\nx = 1\n```\n\n```text\n1\n```\n", 3),
        ("```diff\n-x = 1\n+x = 2\n print(x)\n```\n\n```text\n2\n```\n", 2),
        ("```diff\n-x = 2\n+x = 1\n print(x)\n```\n\n```text\n2\n```\n", 2),
    ],
)
def test_planted_faults_of_a_page_are_found(page: str, line: int) -> None:
    (found,) = run_page(page, "page.md")
    assert found.startswith(f"page.md:{line}: ")


def test_both_sides_of_a_diff_run() -> None:
    page = "```diff\n-x = 1 + 1\n+x = 2\n print(x)\n```\n\n```text\n2\n```\n"
    assert list(run_page(page, "page.md")) == []


def test_a_warning_in_a_block_is_an_error() -> None:
    page = "```python\nimport warnings\nwarnings.warn('old')\n```\n"
    with pytest.raises(UserWarning, match="old"):
        list(run_page(page, "page.md"))

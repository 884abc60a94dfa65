"""The page: rendered from data alone, the same from a file as from a run."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.model import Run, read_run, write_run
from benchmarks.page import render
from benchmarks.plots import BATCH, SPEEDUPS, draw
from benchmarks.text import aligned, markdown
from tests.benchmarks.results import a_run


@pytest.fixture
def run() -> Run:
    return a_run()


def test_a_run_is_read_as_it_was_written(run: Run, tmp_path: Path) -> None:
    write_run(tmp_path / "run.json", run)
    assert read_run(tmp_path / "run.json") == run


def test_the_page_tells_who_lost_and_who_is_missing(run: Run) -> None:
    page = render(run, [])
    lost = page[page.index("## Where others are faster") : page.index("## Sparse")]
    assert "| arrow(1000), float64 | 2.00 | asdex: jit | 1.00 | 2.00 × |" in lost
    assert "- not measured, casadi is \\*not\\* installed: CasADi." in page
    assert "- scipy: WRONG: an entry differs." in page
    assert "- asdex: jit: a note." in page
    assert "- a process ended." in page.replace("ended\n", "ended.\n")
    assert "This is the short form" in page


def test_the_page_names_each_promise_with_its_worst_row(run: Run) -> None:
    page = render(run, [])
    assert "| planning beyond tracing | ≤ 200 ms | 1 of 1 | met 100 ms |" in page
    assert "- arrow(1000), float64, sparse, against asdex under jit: MISSED 0.50 × (≥ 1 ×)" in page


def test_every_table_of_the_page_has_rows_of_one_width(run: Run) -> None:
    for block in render(run, []).split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        widths = {line.replace("\\|", "").count("|") for line in lines}
        assert len(widths) <= 1, block


def test_a_page_of_nothing_claims_nothing() -> None:
    page = render(Run({"torch": "2.13"}, False), [])
    assert "short form" not in page
    assert "What was promised" not in page
    assert "Nowhere in this run." in page


def test_the_page_has_a_column_of_compiled_functions_only_where_there_are(run: Run) -> None:
    sparse, dense = run.rows
    compiled = replace(run, rows=(sparse, replace(dense, f_compiled_s=2e-6)))
    assert "|  | one f | floor |" in render(run, [])
    assert "|  | one f | compiled | floor |" in render(compiled, [])


def test_the_page_shows_only_plots_that_there_are(run: Run) -> None:
    assert "images/" not in render(run, [])
    assert f"](images/{BATCH})" in render(run, [BATCH])


def test_plots_are_drawn_of_what_there_is_and_the_same_each_time(run: Run, tmp_path: Path) -> None:
    assert draw(run, tmp_path / "a") == [SPEEDUPS, BATCH]
    draw(run, tmp_path / "b")
    assert (tmp_path / "a" / BATCH).read_bytes() == (tmp_path / "b" / BATCH).read_bytes()
    assert draw(replace(run, rows=(), scaling=()), tmp_path / "c") == []


def test_a_page_is_rendered_again_without_measuring(run: Run, tmp_path: Path) -> None:
    write_run(tmp_path / "benchmarks.json", run)
    assert main(["--render", "--output", str(tmp_path)]) == 0
    images = [SPEEDUPS, BATCH]
    assert (tmp_path / "benchmarks.md").read_text(encoding="utf-8") == render(run, images)


def test_tables_of_text_and_of_markdown() -> None:
    cells = [("who", "ms"), ("a|b", "1"), ("c", "23")]
    assert aligned(cells, (1,)) == ["who  ms", "a|b   1", "c    23"]
    assert markdown(cells, (1,)) == [
        "| who | ms |",
        "| --- | ---: |",
        "| a\\|b | 1 |",
        "| c | 23 |",
    ]


def test_rows_measured_again_take_the_place_of_the_same(run: Run) -> None:
    sparse, dense = run.rows
    slower = tuple([replace(m, time_s=2 * m.time_s) for m in dense.measured])
    other = replace(dense, name="robot/512")
    later = Run(run.machine, run.quick, rows=(replace(dense, measured=slower), other))
    found = run.renewed(later)
    assert found.rows == (sparse, *later.rows)
    assert (found.scaling, found.planning) == (run.scaling, run.planning)
    assert "Measured again later, by themselves: robot/1, float64; robot/512" in render(found, [])


def test_rows_of_another_machine_stay_out(run: Run) -> None:
    with pytest.raises(ValueError, match="cannot stand beside"):
        run.renewed(Run({"torch": "2.14"}, run.quick))

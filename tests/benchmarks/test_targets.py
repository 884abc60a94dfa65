"""Promises: what counts as kept."""

import math

import pytest

from benchmarks.model import (
    EAGER,
    FUNC,
    HAND,
    INDUCTOR,
    PLAN,
    REFILL,
    REPLAY,
    TORCHJAC,
    Growth,
    Planning,
    Row,
    Run,
)
from benchmarks.targets import Verdict, geometric_mean, judge, lost, speedup
from tests.benchmarks.results import against_asdex, measured, row


def verdicts(*rows: Row) -> dict[str, Verdict]:
    """By promise; of several rows the last."""
    return {verdict.promise: verdict for verdict in judge(Run({}, True, rows))}


def test_the_geometric_mean_of_factors() -> None:
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert math.isnan(geometric_mean([]))


def test_a_limit_is_kept_from_the_right_side() -> None:
    assert Verdict("", "", 2.0, 2.0).met
    assert not Verdict("", "", 1.9, 2.0).met
    assert Verdict("", "", 2.0, 2.0, at_least=False).met
    assert not Verdict("", "", 2.1, 2.0, at_least=False).met


def test_what_was_not_measured_is_not_kept() -> None:
    verdict = Verdict("", "", None, 2.0)
    assert not verdict.met
    assert str(verdict) == "MISSED not measured (≥ 2 ×)"


def test_a_speedup_is_against_the_fastest() -> None:
    own, slow, fast = [measured("", "", s) for s in (1.0, 5.0, 3.0)]
    assert speedup(own, [slow, None, fast]) == 3.0
    assert speedup(None, [slow]) is None
    assert speedup(own, [None]) is None


def test_sparse_rows_are_held_against_asdex_one_by_one_and_in_the_mean() -> None:
    found = judge(
        Run({}, True, (against_asdex("arrow(1)", 1, 16), against_asdex("arrow(2)", 2, 1)))
    )
    each = [v for v in found if v.promise == "sparse, against asdex under jit"]
    assert [(v.value, v.met) for v in each] == [(16.0, True), (0.5, False)]
    mean = found[0]
    assert mean.promise.startswith("sparse, geometric mean")
    assert mean.value == pytest.approx(math.sqrt(8.0))
    assert mean.met


def test_no_promise_against_asdex_without_it() -> None:
    found = verdicts(row("arrow(1)", [measured(TORCHJAC, PLAN, 1.0)]))
    assert not any("asdex" in promise for promise in found)


def test_a_refill_is_held_against_asdex() -> None:
    both = against_asdex("allen_cahn(100000)", 1.0, 6.0)
    refilled = row(both.name, [*both.measured, measured(TORCHJAC, REFILL, 2.0)])
    verdict = verdicts(refilled)["refill in place, against asdex"]
    assert (verdict.value, verdict.met) == (3.0, False)


def test_replay_is_held_against_asdex() -> None:
    both = against_asdex("brusselator(64)", 1.0, 6.0)
    replayed = row(both.name, [*both.measured, measured(TORCHJAC, REPLAY, 3.0)])
    assert verdicts(replayed)["replay without a compiler, against asdex"].value == 2.0


def test_time_over_the_floor() -> None:
    floor_s = 4000 * 8 / 1e9
    found = verdicts(row("burgers(100000)", [measured(TORCHJAC, PLAN, 3 * floor_s)]))
    verdict = found["time over the floor"]
    assert verdict.value == pytest.approx(3.0)
    assert verdict.met


def test_small_stencils_in_microseconds() -> None:
    verdict = verdicts(row("burgers(1000)", [measured(TORCHJAC, PLAN, 40e-6)]))[
        "small stencils, whole call"
    ]
    assert verdict.value == pytest.approx(40.0)
    assert not verdict.met


def test_the_plan_may_be_a_tenth_behind_its_best_backend() -> None:
    def behind(times: float) -> bool:
        contenders = [measured(TORCHJAC, PLAN, times), measured(TORCHJAC, INDUCTOR, 1.0)]
        contenders.append(measured(TORCHJAC, EAGER, 9.0))
        return verdicts(row("arrow(1)", contenders))["the plan against its best backend"].met

    assert behind(1.09)
    assert not behind(1.11)


def test_a_waist_is_held_against_the_best_compiled_transform_alone() -> None:
    found = verdicts(
        row(
            "waist/1000-10-1000",
            [
                measured(TORCHJAC, PLAN, 1.0),
                measured(FUNC, "jacrev", 2.0),
                measured(FUNC, "jacrev, compiled", 4.0),
                measured(HAND, "anything, compiled", 0.1),
            ],
        )
    )
    verdict = found["against the best compiled torch.func"]
    assert (verdict.value, verdict.met) == (4.0, True)


def test_a_laplacian_is_held_against_the_best_of_the_transforms() -> None:
    ways = [("hessian, compiled", 1.0), ("hessian", 0.9)]
    peers = [measured(FUNC, way, time_s) for way, time_s in ways]
    found = verdicts(row("laplacian/3", [measured(TORCHJAC, PLAN, 0.5), *peers], kind="laplacian"))
    verdict = found["against the best of torch.func"]
    assert (verdict.value, verdict.limit) == (1.8, pytest.approx(1 / 1.1))
    assert "against the best compiled jacrev or jacfwd" not in found


def test_a_batch_given_whole_is_held_against_both() -> None:
    contenders = [measured(TORCHJAC, PLAN, 1.0), measured(FUNC, "jacrev", 90.0)]
    contenders += [measured(HAND, "vmap(jacrev)", 0.5), measured(HAND, "another", 0.1)]
    found = verdicts(row("tokens", contenders, kind="samples"))
    assert found["against the best of torch.func, batch given whole"].value == 90.0
    assert found["against a hand-written vmap"].value == 0.5


def test_stages_of_planning_are_held_against_limits_of_their_own() -> None:
    stages = (Planning("planning beyond tracing", 500, 0.1), Planning("minimum cuts", 500, 0.06))
    planning, cuts = judge(Run({}, True, planning=stages))
    assert planning.value == pytest.approx(100.0)
    assert planning.met
    assert str(cuts) == "MISSED 60 ms (≤ 50 ms)"


def test_no_slower_means_not_even_a_tenth() -> None:
    own = measured(TORCHJAC, PLAN, 1.0)
    peers = [measured(HAND, f"make_fx of vmap(jac{way}), compiled", 0.99) for way in ("rev", "fwd")]
    another = measured(HAND, "vmap(jacrev), compiled", 0.1)
    found = verdicts(row("robot/512", [own, *peers, another], kind="samples"))
    verdict = found["against compiled vmap(jacfwd), or traced and compiled by hand"]
    assert (verdict.value, verdict.met) == (0.99, False)


def test_sparse_rows_are_judged_in_both_precisions() -> None:
    rows = [
        row("burgers(1000)", [measured(TORCHJAC, PLAN, 40e-6)], dtype=dtype)
        for dtype in ("float64", "float32")
    ]
    found = [v for v in judge(Run({}, True, tuple(rows))) if v.promise.startswith("small stencils")]
    assert [v.where for v in found] == ["burgers(1000), float64", "burgers(1000), float32"]


def test_a_budget_of_memory_is_judged_where_there_is_one() -> None:
    free = Growth("reverse", "jacrev", None, 2**30, 0, 1.0, ())
    held = Growth("reverse", "torchjac", 2**20, 2**21, 0, 1.0, ())
    (verdict,) = judge(Run({}, True, growths=(free, held)))
    assert (verdict.value, verdict.limit, verdict.met) == (2.0, 1.0, False)


def test_lost_rows_come_worst_first() -> None:
    rows = (against_asdex("arrow(1)", 2, 1), against_asdex("arrow(2)", 1, 2))
    worst = against_asdex("arrow(3)", 3, 1)
    assert [(r.name, times) for r, _, times in lost(Run({}, True, (*rows, worst)))] == [
        ("arrow(3)", 3.0),
        ("arrow(1)", 2.0),
    ]

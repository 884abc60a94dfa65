"""Which program is made, for how many evaluations, and which is kept."""

import pytest
import torch

import torchjac
from torchjac._evaluate.direct import runner
from torchjac._planner import machine, programs
from torchjac._planner.machine import Machine

X = torch.linspace(0.1, 1.0, 12, dtype=torch.float64)
FAST = Machine(1e-9, 1e15, 1e15, compile_s=1e-9, emit_s=1e-9)


def chain(x):
    return x[1:] ** 2 * x[:-1]


@pytest.fixture(autouse=True)
def speeds(monkeypatch):
    """A machine whose speeds a test can say, and a compiler that takes no time."""
    known = {"machine": FAST}
    monkeypatch.setattr(programs, "machine_of", lambda device: known["machine"])
    monkeypatch.setattr(programs, "learn", lambda device, **seconds: None)
    monkeypatch.setattr(runner, "compiled", lambda _, graph, __: lambda xs: graph.forward(*xs))
    return known


def timed(monkeypatch, **seconds):
    """Say how long programs take: by their backend."""

    def measured(run):
        program = getattr(run.func, "__self__", None)
        return 1.0 if program is None else seconds[program.backend]

    monkeypatch.setattr(programs, "_seconds", lambda run, like, request: measured(run))
    monkeypatch.setattr(programs, "seconds_in_turns", lambda runs, _: [measured(r) for r in runs])


def names(plan):
    return [c.name for c in plan.candidates]


def test_nothing_is_compiled_if_nobody_says_how_often():
    assert "direct, inductor" not in names(torchjac.plan(chain, X))


def test_a_program_is_not_made_for_few_evaluations(speeds):
    speeds["machine"] = Machine(1.0, 1e9, 1e9)
    plan = torchjac.plan(chain, X, uses=1)
    assert "program       not made: does not pay in 1 evaluation\n" in str(plan)
    assert plan.method.startswith(("columns", "rows"))


def test_a_program_is_made_for_many(speeds):
    speeds["machine"] = Machine(1e-9, 1e15, 1e15, compile_s=1e9, emit_s=1e-9)
    assert torchjac.plan(chain, X, uses=10**9).method == "direct, replay"


def test_a_program_is_compiled_where_that_pays(monkeypatch):
    timed(monkeypatch, replay=1e-6, inductor=1e-7)
    plan = torchjac.plan(chain, X, uses=10**12)
    assert plan.method == "direct, inductor"
    assert torch.equal(plan(X).to_dense(), torchjac.jacobian(chain, X))


def test_a_program_is_not_compiled_where_that_does_not_pay(speeds, monkeypatch):
    timed(monkeypatch, replay=1e-6, inductor=1e-7)
    speeds["machine"] = Machine(1e-9, 1e15, 1e15, compile_s=1e9, emit_s=1e-9)
    assert names(torchjac.plan(chain, X, uses=10**6))[0] == "direct, replay"


def test_what_cannot_be_compiled_is_replayed_and_said(monkeypatch):
    def fails(api, graph, examples):
        raise RuntimeError("no compiler\nfound")

    monkeypatch.setattr(runner, "compiled", fails)
    plan = torchjac.plan(chain, X, tune=True)
    compiled = next(c for c in plan.candidates if c.name == "direct, inductor")
    assert compiled.note == "not possible: no compiler"
    assert not compiled.is_chosen


def test_compiled_and_slower_is_not_kept(monkeypatch):
    timed(monkeypatch, replay=1e-9, inductor=1e-3)
    plan = torchjac.plan(chain, X, tune=True)
    assert plan.method == "direct, replay"
    assert "direct, inductor" in names(plan)


def test_tuning_keeps_the_fastest_of_all(monkeypatch):
    timed(monkeypatch, replay=1e3, inductor=1e3)
    assert torchjac.plan(chain, X, tune=True).method.startswith(("columns", "rows"))
    timed(monkeypatch, replay=1e3, inductor=1e-9)
    assert torchjac.plan(chain, X, tune=True).method == "direct, inductor"


def test_passes_are_timed_too(monkeypatch):
    timed(monkeypatch, replay=2.0, inductor=3.0)
    plan = torchjac.plan(chain, X, tune=True)
    assert next(c for c in plan.candidates if c.is_chosen).predicted_s == 1.0


def test_what_takes_about_as_long_is_timed_side_by_side(monkeypatch):
    timed(monkeypatch, replay=1e-6, inductor=1.5e-6)
    seen = []

    def in_turns(runs, device):
        seen.append([run.func.__self__.backend for run in runs])
        return [{"replay": 2e-6, "inductor": 1e-6}[name] for name in seen[-1]]

    monkeypatch.setattr(programs, "seconds_in_turns", in_turns)
    assert torchjac.plan(chain, X, tune=True).method == "direct, inductor"
    assert [sorted(names) for names in seen] == [["inductor", "replay"]]


def test_what_was_spent_once_counts_with_the_uses(monkeypatch):
    timed(monkeypatch, replay=1e-6, inductor=1e-9)
    clock = iter(range(10**6))
    monkeypatch.setattr(programs, "perf_counter", lambda: float(next(clock)))
    # The compiler took a second of this clock, which one evaluation does not win back.
    assert torchjac.plan(chain, X, tune=True, uses=1).method != "direct, inductor"


def test_candidates_say_what_they_cost():
    plan = torchjac.plan(chain, X)
    chosen = next(c for c in plan.candidates if c.is_chosen)
    assert chosen.cost is not None
    assert chosen.cost.launches > 0
    assert chosen.cost.moved_bytes >= 8 * (12 + 22)
    assert chosen.once_s > 0
    passes = next(c for c in plan.candidates if c.seeds == 2)
    assert passes.cost is not None
    assert passes.cost.work > 0


def test_speeds_are_measured_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.platformdirs, "user_cache_path", lambda name: tmp_path / name)
    monkeypatch.setattr(machine, "_known", {})
    machine._file.cache_clear()
    device = torch.device("cpu")
    found = machine.machine_of(device)
    assert found.launch_s > 0
    assert len(list((tmp_path / "torchjac").iterdir())) == 1
    monkeypatch.setattr(machine, "_known", {})
    monkeypatch.setattr(machine, "_measure", lambda device: pytest.fail("measured again"))
    assert machine.machine_of(device) == found
    machine.learn(device, compile_s=found.compile_s + 2.0)
    assert machine.machine_of(device).compile_s == pytest.approx(found.compile_s + 1.0)
    machine._file.cache_clear()


@pytest.mark.parametrize("text", ["", "[]", '{"launch_s": 1}', '{"launch_s": "x"}'])
def test_a_spoiled_file_is_measured_anew(text, tmp_path, monkeypatch):
    monkeypatch.setattr(machine.platformdirs, "user_cache_path", lambda name: tmp_path / name)
    monkeypatch.setattr(machine, "_known", {})
    monkeypatch.setattr(machine, "_measure", lambda device: FAST)
    machine._file.cache_clear()
    file = machine._file(torch.device("cpu"), torch.get_num_threads())
    file.parent.mkdir()
    file.write_text(text)
    assert machine.machine_of(torch.device("cpu")) == FAST
    machine._file.cache_clear()


def test_predictions_follow_the_costs():
    cost = programs.Cost(2 * 10**9, 10**9, 10**6, 100, 0)
    speeds = Machine(1e-3, 1e9, 1e9)
    assert speeds.replayed_s(cost) == pytest.approx(2.1)
    assert speeds.compiled_s(cost) == pytest.approx(1.004)


def squeeze(x):
    weight = torch.linspace(-1, 1, 120, dtype=x.dtype).reshape(3, 40)
    return (weight.T @ (weight @ x).sin()).cos()


@pytest.mark.parametrize(("hopeless", "is_compiled"), [(0.0, False), (1e9, True)])
def test_a_program_that_is_far_slower_than_another_is_not_compiled(
    hopeless, is_compiled, monkeypatch
):
    monkeypatch.setattr(programs, "HOPELESS", hopeless)
    plan = torchjac.plan(squeeze, torch.linspace(0, 1, 40, dtype=torch.float64), tune=True)
    assert "direct, transposed, inductor" in names(plan)
    assert "direct, replay" in names(plan)
    assert ("direct, inductor" in names(plan)) == is_compiled


def test_a_program_stays_within_the_memory(monkeypatch):
    monkeypatch.setattr(programs, "MOST_TIMES", 0)
    x = torch.rand(2**18)
    wave = torchjac.plan(lambda x: x.sin() * x.cos() * x, x, memory=2**23)
    assert "too large" in str(wave)
    assert (
        torchjac.plan(lambda x: x.sin() * x.cos() * x, x, memory=2**26).method == "direct, replay"
    )


@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_coo])
@pytest.mark.filterwarnings("ignore::torchjac.errors.FallbackWarning")  # of the passes
def test_a_sparse_matrix_of_a_large_shape_has_no_memory_of_its_own(layout):
    size = 300
    shift = torch.eye(size, dtype=torch.float64).roll(1, 0)
    sparse = shift.to_sparse(layout=layout)
    x = torch.linspace(0.1, 1.0, size, dtype=torch.float64)
    plan = torchjac.plan(lambda x: (sparse @ (x * x)[:, None]).squeeze(1), x, backend="replay")
    assert plan.method == "direct, replay"
    torch.testing.assert_close(plan(x).to_dense(), 2 * shift * x)

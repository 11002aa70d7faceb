import dataclasses
import importlib.util
import json

import matplotlib.image
import pytest
import torch

from experiments import bench
from experiments.benchmarks import stopwatch
from experiments.benchmarks.implementations import (
    CONTESTANTS,
    OPTIONAL,
    SHAPES,
    Disagreement,
    Shape,
    disagreement,
    make_step,
    network,
    tensorcircuit_on_torch,
)
from experiments.benchmarks.options import Options
from plasticity.quantum.circuits import Brickwork, Ring, Staircase
from plasticity.quantum.readouts import LogOdds, PauliZ, Probabilities

TINY = {
    "log-odds": Shape(Brickwork(3, 2), LogOdds(3), batch=5, features=6),
    "complex, Z": Shape(Staircase(3, 2), PauliZ(1), batch=4, features=8, complex_inputs=True),
    "ring, squashed": Shape(Ring(3, 2), Probabilities(), batch=4, features=5, squash=True),
    "evaluation": Shape(Ring(3, 2), Probabilities(), batch=4, features=5, trains=False),
}


# Other people's warnings at import are not ours to mend.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shape", TINY.values(), ids=list(TINY))
@pytest.mark.parametrize("contestant", CONTESTANTS[1:])
def test_contestant_agrees_with_ours(contestant, shape):
    if contestant in OPTIONAL:
        pytest.importorskip(contestant)
    with tensorcircuit_on_torch():
        steps = {
            name: make_step(shape, network(shape, name), "cpu") for name in ("ours", contestant)
        }
        assert disagreement(steps)[contestant] < 1e-4


@pytest.mark.parametrize("wrong", [1.01, float("nan")])
@pytest.mark.parametrize("which", ["outputs", "gradient"])
def test_contestant_that_disagrees_stops_the_benchmark(which, wrong):
    shape = TINY["log-odds"]
    step = make_step(shape, network(shape), "cpu")

    def other():
        outputs, gradient = step()
        return (outputs * wrong, gradient) if which == "outputs" else (outputs, gradient * wrong)

    with pytest.raises(Disagreement, match="other disagrees with ours"):
        disagreement({"ours": step, "other": other})


def test_fewest_operations_of_cases_counted_by_hand():
    # Three outcomes are fewer than five samples; brickwork on 3 qubits, twice 2 gates.
    assert TINY["log-odds"].fewest_operations() == 32 * 4 * 8 * 3 * 3
    # Z on the middle qubit sees all 4 gates of two staircases; 4 samples, 8 features.
    assert TINY["complex, Z"].fewest_operations() == 32 * 4 * 8 * 4 * 3
    assert TINY["evaluation"].fewest_operations() == 32 * 6 * 8 * 4
    # Z on the first of four qubits sees only the first of the gates (0,1) (2,3) (1,2).
    z = Shape(Brickwork(4, 1), PauliZ(0), batch=7, features=16)
    assert z.fewest_operations() == 32 * 1 * 16 * 7 * 3


def test_fewest_vectors_of_the_projects_shapes():
    gates = {"mnist": 36, "xxz": 21, "ant": 108}
    vectors = {"mnist": 10, "xxz": 64, "ant": 27}
    for name, shape in SHAPES.items():
        if name in gates:
            amplitudes = 2**shape.ansatz.num_qubits
            expected = 96 * gates[name] * amplitudes * vectors[name]
            assert shape.fewest_operations() == expected


class Clock:
    """Stands for the module `time`: a second is what the test says, and reading takes some."""

    def __init__(self, reading: float) -> None:
        self.now, self.reading = 0.0, reading

    def perf_counter(self) -> float:
        self.now += self.reading
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def test_slow_steps_get_fewer_turns_and_fast_ones_are_not_starved(monkeypatch):
    clock = Clock(reading=1e-6)
    monkeypatch.setattr(stopwatch, "time", clock)
    monkeypatch.setattr(stopwatch, "PRODUCT", 4)
    calls = {"slow": 0, "uneven": 0, "fast": 0}

    def step(name, *seconds):
        clock.advance(seconds[calls[name] % len(seconds)])
        calls[name] += 1

    steps = {
        "slow": lambda: step("slow", 0.2),
        "uneven": lambda: step("uneven", 0.1, 0.3, 0.1, 0.1),
        "fast": lambda: step("fast", 3e-6),
    }
    timings, rate = stopwatch.time_in_turn(steps, 0.1, "cpu", "test")
    assert [timings[name]["rounds"] for name in steps] == [3, 3, 200]
    # Three times before, to see how long they take; what is fast runs also before it is timed.
    assert calls == {"slow": 3 + 3, "uneven": 3 + 3, "fast": 3 + 11 * 200}
    assert timings["slow"]["median_ms"] == pytest.approx(200.001)
    # The fourth to the sixth took 100, 100 and 300 ms.
    assert timings["uneven"]["median_ms"] == pytest.approx(100.001)
    assert timings["uneven"]["quartiles_ms"] == pytest.approx([100.001, 200.001])
    assert timings["fast"]["median_ms"] == pytest.approx(0.004)
    assert rate == pytest.approx(8 * 4**3 / 1e-6)


def test_step_that_becomes_slower_is_given_up_after_twice_its_time(monkeypatch):
    clock = Clock(reading=0.0)
    monkeypatch.setattr(stopwatch, "time", clock)
    monkeypatch.setattr(stopwatch, "PRODUCT", 4)
    mm = torch.mm
    monkeypatch.setattr(torch, "mm", lambda *a, **k: (clock.advance(0.1), mm(*a, **k)))
    durations = iter([0.1] * 3 + [1.0] * 100)
    timings, _ = stopwatch.time_in_turn(
        {"step": lambda: clock.advance(next(durations))}, 2.0, "cpu", "test"
    )
    assert timings["step"]["rounds"] == 5  # of 20: more than 4 seconds are over


def test_mlp_arm_and_bare_torch_learn_the_same():
    steps = stopwatch.mlp_steps("cpu")
    for _ in range(3):
        ours, bare = (step() for step in steps.values())
        torch.testing.assert_close(ours, bare)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_command_writes_table_and_json(tmp_path, capsys, monkeypatch):
    def timed(steps, seconds, device, label):
        assert list(steps) == ["ours", "plain-torch"]
        assert (seconds, device, label) == (0.01, "cpu", "xxz")
        timing = {"quartiles_ms": [1.0, 6.0], "rounds": 3}
        medians = {"ours": 2.0, "plain-torch": 5.0}
        return {name: timing | {"median_ms": median} for name, median in medians.items()}, 1e12

    monkeypatch.setattr(stopwatch, "time_in_turn", timed)  # real ones depend on the machine
    arguments = "--shapes xxz --contestants plain-torch --seconds 0.01 --no-sweep --results"
    before = torch.get_num_threads()
    try:
        assert bench.main([*arguments.split(), str(tmp_path)]) == 0
    finally:
        torch.set_num_threads(before)
    (path,) = tmp_path.glob("*.json")
    report = json.loads(path.read_text())
    rows = {(row["shape"], row["contestant"]): row for row in report["rows"]}
    assert list(rows) == [("xxz", "ours"), ("xxz", "plain-torch")]
    ours, plain = rows["xxz", "ours"], rows["xxz", "plain-torch"]
    assert (plain["ratio_to_ours"], ours["ratio_to_ours"]) == (2.5, 1)
    limit = 1e3 * SHAPES["xxz"].fewest_operations() / 1e12
    assert [row["limit_ms"] for row in (ours, plain)] == pytest.approx([limit] * 2)
    assert ours["fraction_of_limit"] == pytest.approx(limit / 2)
    assert plain["fraction_of_limit"] == pytest.approx(limit / 5)
    if ours["peak_mib"] is not None:
        assert plain["peak_mib"] > ours["peak_mib"] > 0
    assert {"processor", "threads", "versions", "date", "commit"} <= set(report["machine"])
    table = path.with_suffix(".md").read_text()
    assert table.count("\n| xxz | ") == 2
    assert table in capsys.readouterr().out


@pytest.mark.draws
def test_figure_shows_every_curve(tmp_path):
    timing = {"median_ms": 2.0, "quartiles_ms": [1.0, 3.0], "rounds": 3}
    curve = {"label": "states", "sizes": [2, 4], "timings": [timing] * 2, "limits_ms": [0.1, 0.2]}
    figure = stopwatch.draw([curve | {"axis": axis} for axis in ("qubits", "depth")])
    figure.savefig(tmp_path / "figure.png")
    assert matplotlib.image.imread(tmp_path / "figure.png").std() > 0
    assert [len(axes.lines) for axes in figure.axes] == [2, 2]


def test_what_is_not_installed_is_left_out_and_said(monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    report = stopwatch.run(Options(shapes=(), sweep=False, threads=torch.get_num_threads()))
    assert report["left_out"] == list(OPTIONAL)
    assert "pip install -e '.[bench]'" in capsys.readouterr().out
    assert "pennylane, deepquantum" in stopwatch.table(report)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("--shapes mnist nosuch", "nosuch"),
        ("--contestants nosuch", "nosuch"),
        ("--threads 0", "--threads 0"),
        ("--seconds nan", "--seconds nan"),
        ("--device tpu", "tpu"),
        ("--nosuch 1", "--nosuch"),
    ],
)
def test_wrong_use_is_a_one_line_error(arguments, named, tmp_path, capsys):
    assert bench.main([*arguments.split(), "--results", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert named in line


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.filterwarnings("ignore")
def test_contestants_agree_on_cuda():
    with tensorcircuit_on_torch():
        for name in ("mnist", "xxz"):
            shape = dataclasses.replace(SHAPES[name], batch=4)
            steps = {c: make_step(shape, network(shape, c), "cuda") for c in CONTESTANTS[:3]}
            disagreement(steps)

"""Table and figure of ``experiments.device``: what is early and late, intervals, axes."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from plasticity.figures.style import COLORS
from plasticity.on_device.figure import figure, lighter
from plasticity.on_device.table import Ends, OfArm, ends_of, plain, table

QUOTED = {"depolarizing": 1e-3, "amplitude_damping": 0.0, "readout_error": 1e-2}
NONE = {"depolarizing": 0.0, "amplitude_damping": 0.0, "readout_error": 0.0}
KEPT = (0, 1, 2, 4, 8, 16, 19)


def key(noise: dict[str, float], shots: int | None = None) -> tuple[Any, ...]:
    return (noise["depolarizing"], noise["readout_error"], noise["amplitude_damping"]), shots


def made_up_rows(
    right: Callable[[int, dict[str, Any]], np.ndarray], tasks: tuple[int, ...] = KEPT
) -> list[dict[str, Any]]:
    """Return rows of an arm; ``right`` tells of task and condition which samples are right."""
    conditions = [NONE | {"shots": None}]
    conditions += [n | {"shots": s} for n in (NONE, QUOTED) for s in (100, 10_000)]
    conditions += [QUOTED | {"shots": None}]
    conditions += [NONE | {"depolarizing": p, "shots": None} for p in (1e-3, 1e-2)]
    conditions += [NONE | {"readout_error": p, "shots": None} for p in (1e-3, 1e-1)]
    rows = []
    for task in tasks:
        exact = right(task, conditions[0])
        for condition in conditions:
            of = right(task, condition)
            rows.append(
                {"task": task, **condition, "accuracy": float(of.mean()), "read_share": 0.25,
                 "samples": len(of), "changed": float((of != exact).mean())}
            )  # fmt: skip
    return rows


def right(task: int, condition: dict[str, Any], samples: int = 400) -> np.ndarray:
    """Make fewer samples right late, and fewer with noise and few shots."""
    rng = np.random.default_rng([task])
    exact = rng.random(samples) < (0.9 if task < 8 else 0.7)
    worse = condition["depolarizing"] * 10 + condition["readout_error"]
    worse += 10 / condition["shots"] if condition["shots"] else 0
    return exact & (rng.random(samples) >= worse)


@pytest.mark.parametrize(
    ("tasks", "early", "late"),
    [
        (KEPT, (1, 2), (16, 19)),
        ((0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 999), (1, 2, 4, 8, 16, 32, 64), (512, 999)),
        ((0, 1, 2, 4, 5), (1, 2), (4, 5)),
        ((0, 1, 2), (1,), (2,)),
        ((0, 1), (0,), (1,)),
    ],
)
def test_early_and_late_are_what_the_page_says(
    tasks: tuple[int, ...], early: tuple[int, ...], late: tuple[int, ...]
) -> None:
    assert ends_of(tasks) == Ends(early, late)


def test_one_network_is_neither_early_nor_late() -> None:
    assert ends_of([0]) is None


def test_means_are_those_of_the_tasks_and_intervals_those_of_the_samples() -> None:
    rows = made_up_rows(right)
    arm = OfArm(rows)
    for noise, shots in ((NONE, None), (QUOTED, 100), (NONE, 10_000)):
        condition = key(noise, shots)
        of = {task: right(task, noise | {"shots": shots}) for task in KEPT}
        exact = {task: right(task, NONE | {"shots": None}) for task in KEPT}
        for tasks in ((1, 2), (16, 19)):
            found = arm.accuracy(condition, tasks)
            assert found.estimate == pytest.approx(np.mean([of[task].mean() for task in tasks]))
            errors = [of[task].std() / 20 for task in tasks]
            assert found.half_95 == pytest.approx(1.96 * np.mean(errors), rel=0.02)
        change = arm.change(condition)
        late_less_early = np.mean([of[16], of[19]]) - np.mean([of[1], of[2]])
        assert change.estimate == pytest.approx(late_less_early)
        variance = sum(of[task].var() / 400 / 4 for task in (1, 2, 16, 19))
        assert change.half_95 == pytest.approx(1.96 * math.sqrt(variance), rel=0.02)
        against = arm.against_exact(condition)
        differences = {task: of[task].astype(float) - exact[task] for task in KEPT}
        expected = np.mean([differences[16], differences[19]])
        expected -= np.mean([differences[1], differences[2]])
        assert against.estimate == pytest.approx(expected)
        variance = sum(differences[task].var() / 400 / 4 for task in (1, 2, 16, 19))
        if shots == 100:
            assert against.half_95 == pytest.approx(1.96 * math.sqrt(variance), rel=0.05)
        assert against.half_95 >= 1.96 * math.sqrt(variance) - 1e-12


def test_intervals_hold_what_is_true_in_95_of_100_cases_or_more() -> None:
    rng = np.random.default_rng(0)
    hits, total = {"accuracy": 0, "change": 0}, 400
    for _ in range(total):
        images = rng.random(200)  # how hard an image is, in all tasks

        def drawn(task: int, condition: dict[str, Any], images: np.ndarray = images) -> np.ndarray:
            late = 0.1 if task >= 8 else 0.0
            return images + 0.3 * rng.random(len(images)) > 0.3 + late

        arm = OfArm(made_up_rows(drawn))
        truth = {  # of P(u + 0.3 v > t) with u, v uniform
            t: 1 - (t - 0.15) if t >= 0.3 else 1 - t**2 / 0.6 for t in (0.3, 0.4)
        }
        found = arm.accuracy(key(NONE), (1, 2))
        hits["accuracy"] += abs(found.estimate - truth[0.3]) <= found.half_95
        change = arm.change(key(NONE))
        hits["change"] += abs(change.estimate - (truth[0.4] - truth[0.3])) <= change.half_95
    assert min(hits.values()) >= 0.93 * total


def test_no_change_in_few_samples_is_no_certainty() -> None:
    arm = OfArm(made_up_rows(lambda task, condition: np.ones(50, bool)))
    assert arm.accuracy(key(NONE), (1, 2)).half_95 > 0.01
    assert arm.against_exact(key(QUOTED)).half_95 > 0.01
    exact = arm.against_exact(key(NONE))
    assert (exact.estimate, exact.half_95) == (0, 0)


def test_the_table_has_a_line_for_each_arm_and_condition() -> None:
    rows = made_up_rows(right)
    text = table({"first": rows, "second": rows})
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 * (2 + 10)
    assert "## first" in text
    assert "Early: mean over the networks of tasks 1, 2. Late: of tasks 16, 19." in text
    assert "Test samples of a task: 400." in text
    arm = OfArm(rows)
    (noisy,) = {line for line in lines if line.startswith("| 0.001 | 0.01 | 100 |")}
    cells = noisy.strip("| ").split(" | ")
    assert cells[3] == "0.2500"
    assert cells[4] == plain(arm.accuracy(key(QUOTED, 100), (1, 2)))
    change = arm.change(key(QUOTED, 100))
    assert cells[6] == f"{change.estimate:+.4f} ± {change.half_95:.4f}"
    assert "| amplitude damping |" not in text


def test_panels_show_each_condition_once_and_zero_and_infinity_beside_the_axis() -> None:
    rows = made_up_rows(right)
    drawn: Any = figure({"first": rows}, "title")
    axes = [axes for part in drawn.subfigs for axes in part.axes]
    assert len(axes) == 6
    labels = [a.get_xlabel() for a in axes[3:]]
    assert labels == ["shots per sample", "depolarizing probability per gate",
                      "readout error per bit"]  # fmt: skip
    ticks = [[t.get_text() for t in a.get_xticklabels()] for a in axes[3:]]
    assert ticks == [["$10^{2}$", "$10^{4}$", "$\\infty$"], ["0", "$10^{-3}$", "$10^{-2}$"],
                     ["0", "$10^{-3}$", "$10^{-1}$"]]  # fmt: skip
    arm = OfArm(rows)
    early = [
        arm.accuracy(key(NONE | {"depolarizing": p}), (1, 2)).estimate for p in (0, 1e-3, 1e-2)
    ]
    lines = [line for line in axes[1].get_lines() if line.get_color() == lighter(COLORS[0])]
    points = sorted((x, y) for line in lines if line.get_marker() == "o"
                    for x, y in zip(*line.get_data(), strict=True))  # fmt: skip
    assert [y for _, y in points] == early
    assert points[0][0] < 1e-3
    for a in axes:
        assert a.get_xscale() == "log"
        assert any(text.get_text() == "//" for text in a.texts)
    (legend,) = [legend for part in drawn.subfigs for legend in part.legends]
    said = [text.get_text() for text in legend.get_texts()]
    assert said[:2] == ["early (tasks 1, 2)", "late (tasks 16, 19)"]
    assert said[-1] == "dashed, hollow: at depolarizing 0.001, readout error 0.01"


def test_bars_and_bands_end_where_accuracies_and_their_differences_end() -> None:
    def lost(task: int, condition: dict[str, Any]) -> np.ndarray:
        few = np.arange(50) < (0 if condition["shots"] is None else 1)
        return few if task >= 8 else ~few

    drawn: Any = figure({"first": made_up_rows(lost)}, "title")
    axes = drawn.subfigs[0].axes
    for row, low, high in ((axes[:3], 0.0, 1.0), (axes[3:], -1.0, 1.0)):
        ends = [
            y
            for one in row
            for bars in one.collections
            for bar in bars.get_segments()
            for y in bar[:, 1]
        ]
        bands = [y for one in row for band in one.patches for y in band.get_corners()[:, 1]]
        assert low <= min(ends + bands) < low + 0.01
        assert max(ends + bands) <= high


def test_arms_stand_below_one_another() -> None:
    rows = made_up_rows(right)
    one = made_up_rows(right, (0,))
    drawn: Any = figure({"first": rows, "second": one}, "title")
    assert [len(part.axes) for part in drawn.subfigs] == [6, 3]
    first, second = drawn.subfigs
    assert first.get_suptitle() == "first: n = 400 test samples a task, one seed"
    assert second.get_suptitle() == "second: n = 400 test samples a task, one seed"


@pytest.mark.parametrize("of", ["shots", "noise"])
def test_title_and_legend_are_on_the_page_where_there_is_a_single_panel(of: str) -> None:
    rows = made_up_rows(right)
    if of == "shots":  # the legend has a long line, of the noise
        rows = [row for row in rows if {k: row[k] for k in NONE} in (NONE, QUOTED)]
    else:
        rows = [row for row in rows if row["shots"] is None and not row["readout_error"]]
    drawn: Any = figure({"first": rows}, "a title " * 20)
    assert [len(part.axes) for part in drawn.subfigs] == [2]
    drawn.draw_without_rendering()
    page = drawn.bbox
    boxes = [text.get_window_extent() for text in (drawn._suptitle, *drawn.subfigs[0].texts)]
    boxes += [legend.get_window_extent() for legend in drawn.subfigs[0].legends]
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 for box in boxes)

"""One number per run: windows, undefined tasks and slopes, against loops and worked examples."""

import math
import statistics

import numpy as np
import pytest

from plasticity.statistics.summaries import (
    SUMMARIES,
    drop,
    early,
    final_over_peak,
    improvements,
    interquartile_mean,
    late,
    slope,
)


def some_runs(tasks: int, seeds: int = 4, undefined: float = 0.0) -> np.ndarray:
    generator = np.random.default_rng(tasks)
    runs = generator.uniform(0.1, 0.9, (seeds, tasks))
    runs[generator.random(runs.shape) < undefined] = math.nan
    return runs


def mean_of_numbered(run: np.ndarray, first: int, last: int) -> float:
    """Return the mean of the tasks ``first`` to ``last``, counted from 1."""
    numbered = dict(enumerate(run.tolist(), start=1))
    values = [numbered[number] for number in range(first, last + 1)]
    return statistics.fmean(value for value in values if not math.isnan(value))


def fitted_slope(run: np.ndarray) -> float:
    """Return the slope of the line that numpy fits."""
    points = [(task, value) for task, value in enumerate(run.tolist()) if not math.isnan(value)]
    return float(np.polyfit(*zip(*points, strict=True), 1)[0])


# --- windows


def test_of_twenty_tasks_the_second_is_early_and_the_last_two_are_late() -> None:
    run = [list(range(20))]
    assert (early(run), late(run), drop(run)) == ([1.0], [18.5], [-17.5])


@pytest.mark.parametrize("tasks", [20, 29, 30, 200, 205])
def test_windows_are_the_tasks_2_to_a_tenth_and_the_last_tenth(tasks: int) -> None:
    runs, tenth = some_runs(tasks), tasks // 10
    first = [mean_of_numbered(run, 2, tenth) for run in runs]
    last = [mean_of_numbered(run, tasks - tenth + 1, tasks) for run in runs]
    assert early(runs) == pytest.approx(first, rel=1e-14)
    assert late(runs) == pytest.approx(last, rel=1e-14)
    assert drop(runs) == pytest.approx(np.subtract(first, last), rel=1e-12)


def test_undefined_tasks_are_left_out_and_the_others_keep_their_places() -> None:
    runs = some_runs(120, undefined=0.3)
    runs[0, 1] = runs[1, -1] = math.nan
    assert early(runs) == pytest.approx([mean_of_numbered(run, 2, 12) for run in runs], rel=1e-14)
    assert late(runs) == pytest.approx([mean_of_numbered(run, 109, 120) for run in runs], rel=1e-14)
    assert slope(runs) == pytest.approx([100 * fitted_slope(run) for run in runs], rel=1e-9)


@pytest.mark.parametrize("tasks", [30, 200, 1000])
@pytest.mark.parametrize("value", [0.098, 0.1, 1 / 3, np.float32(0.1135)])
def test_network_that_always_does_the_same_drops_by_exactly_nothing(
    value: float, tasks: int
) -> None:
    runs = np.full((3, tasks), value)
    assert (early(runs) == value).all() and (late(runs) == value).all()
    assert (drop(runs) == 0).all() and (slope(runs[:, :30]) == 0).all()


def test_values_are_not_changed() -> None:
    runs = some_runs(40, undefined=0.2)
    before = runs.copy()
    for summary in SUMMARIES.values():
        summary(runs)
    assert np.array_equal(runs, before, equal_nan=True)


def test_level_is_what_is_late() -> None:
    runs = some_runs(50)
    assert SUMMARIES.keys() == {"early", "late", "drop", "slope", "level"}
    assert (SUMMARIES["level"](runs) == late(runs)).all()
    assert (SUMMARIES["drop"](runs) == drop(runs)).all()


@pytest.mark.parametrize("summary", [early, late, drop])
@pytest.mark.parametrize("tasks", [0, 1, 19])
def test_run_without_a_tenth_to_speak_of_is_refused(summary, tasks: int) -> None:
    with pytest.raises(ValueError, match=rf"^a run of {tasks} tasks is too short: at least 20$"):
        summary(np.zeros((2, tasks)))


@pytest.mark.parametrize(
    ("summary", "tasks", "names"), [(early, [1, 2], "1 to 2"), (late, [27, 28, 29], "27 to 29")]
)
def test_run_without_a_value_where_it_counts_is_refused(summary, tasks: list[int], names) -> None:
    runs = some_runs(30)
    runs[2, tasks] = math.nan
    with pytest.raises(ValueError, match=rf"^row 2: none of the tasks {names} has a value$"):
        summary(runs)


@pytest.mark.parametrize("summary", SUMMARIES.values())
def test_what_is_not_seeds_by_tasks_or_not_finite_is_refused(summary) -> None:
    with pytest.raises(ValueError, match=r"^values have shape \(30,\), not \(seeds, tasks\)$"):
        summary(np.zeros(30))
    runs = some_runs(30)
    runs[1, 7] = -math.inf
    with pytest.raises(ValueError, match=r"^row 1, task 7: -inf is not a finite number$"):
        summary(runs)


# --- slopes


def test_slope_of_a_line_is_what_it_gains_in_100_tasks() -> None:
    assert slope([[0.9 - 0.002 * task for task in range(50)]]) == pytest.approx([-0.2])
    assert slope([[0.25, 0.5]]) == [25.0]


def test_slope_of_a_run_that_is_at_its_best_for_most_tasks_is_not_0() -> None:
    run = np.ones(100)
    run[70:] = 0.4
    assert slope([run])[0] < -0.7


@pytest.mark.parametrize("tasks", [2, 3, 40, 41])
def test_slope_is_that_of_least_squares(tasks: int) -> None:
    runs = some_runs(tasks)
    assert slope(runs) == pytest.approx([100 * fitted_slope(run) for run in runs], rel=1e-9)


def test_slope_of_a_single_task_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^a run of 1 tasks is too short: at least 2$"):
        slope([[0.5]])
    with pytest.raises(ValueError, match=r"^row 1: a slope needs two tasks with a value, not 1$"):
        slope([[0.5, 0.6, 0.7], [math.nan, 0.6, math.nan]])


# --- returns


def test_final_over_peak_of_worked_examples() -> None:
    nan = math.nan
    returns = [[1, 4, 2], [3, 2, nan], [-5, 2, 2], [nan, -1, -2], [0, 0, 0]]
    assert final_over_peak(returns) == pytest.approx([0.5, 2 / 3, 1, nan, nan], nan_ok=True)


def test_final_over_peak_of_a_run_without_evaluations_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^row 1: no evaluation has a value$"):
        final_over_peak([[1.0], [math.nan]])


def test_interquartile_mean_is_that_of_the_middle_half() -> None:
    assert interquartile_mean([7, 0, 1, 5, 2, 4, 3, 6]) == 3.5
    assert interquartile_mean([0, 1, 2, 3, 1e9]) == 2  # one is cut at either end
    assert interquartile_mean([[1, 2], [3, 100]]) == 2.5
    assert interquartile_mean([1, 2, 6]) == 3


@pytest.mark.parametrize("n", range(1, 14))
def test_interquartile_mean_equals_that_of_what_is_left_in_a_list(n: int) -> None:
    scores = np.random.default_rng(n).normal(size=n)
    kept = sorted(scores.tolist())[n // 4 : n - n // 4]
    assert interquartile_mean(scores) == pytest.approx(statistics.fmean(kept), rel=1e-12)


@pytest.mark.parametrize(("scores", "message"), [([], "no scores"), ([1, math.nan], "finite")])
def test_interquartile_mean_of_nothing_is_refused(scores: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        interquartile_mean(scores)


def test_improvement_compares_seed_with_seed_and_halves_ties() -> None:
    assert improvements([1, 5, 2, 7], [2, 4, 2, 0]).tolist() == [0, 1, 0.5, 1]


def test_improvement_needs_the_same_seeds() -> None:
    with pytest.raises(ValueError, match=r"^scores of shapes \(2,\) and \(1,\): pairs need"):
        improvements([1, 2], [1])
    with pytest.raises(ValueError, match="not a number"):
        improvements([1, math.nan], [1, 2])

"""Figures of a study: curves against loops over tasks, axes, labels."""

import dataclasses
import itertools
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy import stats

from plasticity.figures.curves import is_wide
from plasticity.figures.level_against_drop import level_against_drop
from plasticity.figures.over_seeds import GRAY, LOOKS, curve, over_tasks
from plasticity.figures.style import style
from plasticity.studies.findings import findings_of
from plasticity.studies.report import report_on
from tests.studies import made_up

NAN = math.nan


def slow_curve(values: np.ndarray, window: int) -> dict[int, tuple[float, float, float]]:
    """Return mean and ends of the interval by task, by loops."""
    found = {}
    for task in range(values.shape[1]):
        means = []
        for row in values.tolist():
            near = row[max(0, task - window // 2) : task + (window - 1) // 2 + 1]
            defined = [value for value in near if math.isfinite(value)]
            if math.isfinite(row[task]):
                means.append(statistics.fmean(defined))
        if means:
            low = high = NAN
            if len(means) >= 3:
                low, high = stats.ttest_1samp(means, 0).confidence_interval(0.95)
            found[task] = statistics.fmean(means), low, high
    return found


@pytest.mark.parametrize("seeds", [1, 2, 3, 7])
@pytest.mark.parametrize("window", [1, 2, 5, 100])
def test_curve_is_that_of_loops_over_tasks_with_gaps_left_out(seeds: int, window: int) -> None:
    rng = np.random.default_rng(seeds)
    values = rng.normal(5, 1, (seeds, 30)).astype(np.float32)
    values[rng.random(values.shape) < 0.2] = NAN
    values[:, 11] = NAN
    values[0, 3] = np.inf  # a metric that blew up has no mean
    slow = slow_curve(values, window)
    of = curve(values, window=window)
    assert of.tasks.tolist() == [*slow]
    for place, task in enumerate(of.tasks):
        found = of.mean[place], of.low[place], of.high[place]
        assert found == pytest.approx(slow[task], rel=1e-6, nan_ok=True)


def test_curve_on_a_logarithmic_axis_has_geometric_means() -> None:
    values = np.array([[1.0, 8.0, 3.0], [4.0, 2.0, -1.0], [2.0, 4.0, 0.0]], np.float32)
    of = curve(values, logarithmic=True)
    assert of.tasks.tolist() == [0, 1]  # without the seeds that are not positive it is another mean
    assert of.mean == pytest.approx([2, 4])
    low, high = stats.ttest_1samp(np.log([1, 4, 2]), 0).confidence_interval(0.95)
    assert (of.low[0], of.high[0]) == pytest.approx((math.exp(low), math.exp(high)))


def test_curve_of_many_tasks_is_drawn_at_250_of_them_at_most() -> None:
    values = np.tile(np.arange(1234.0), (3, 1))
    of = curve(values)
    assert len(of.tasks) <= 250 and of.tasks[0] == 0
    assert of.mean.tolist() == of.tasks.tolist()


def test_axis_is_logarithmic_where_positive_values_are_a_factor_of_ten_apart() -> None:
    one, ten = np.full((2, 50), 1.0), np.full((2, 50), 10.5)
    assert is_wide([one, ten]) and not is_wide([one, one * 9.9])
    assert not is_wide([-one, ten])
    assert not is_wide([one * 0, ten])
    assert not is_wide([np.full((2, 3), NAN)])
    spiked = one.copy()
    spiked[0, 0] = 1e6
    assert not is_wide([spiked])  # a single task


def drawn(arms: int, seeds: tuple[int, ...] = (4,), **more: Any) -> Figure:
    rng = np.random.default_rng(0)
    of_arms = itertools.cycle(seeds)
    series = {f"arm{k}": rng.normal(k, 1, (next(of_arms), 100)) for k in range(arms)}
    if more.get("logarithmic"):
        series = {arm: np.exp(values) for arm, values in series.items()}
    verdicts = {f"arm{k}": word for k, word in enumerate(itertools.islice(LOOKS, arms))}
    looks = {arm: number for number, arm in enumerate(series)}
    options: dict[str, Any] = {"verdicts": verdicts, "reference": "arm2", "looks": looks}
    return over_tasks(series, "accuracy (%)", "title", **options | more)


def test_eight_arms_share_axes_and_a_legend_names_them_with_their_verdicts() -> None:
    figure = drawn(8)
    (axes,) = figure.axes
    assert axes.get_ylabel() == "accuracy (%)" and axes.get_xlabel() == "task"
    (legend,) = figure.legends
    words = [text.get_text() for text in legend.get_texts()]
    assert words[0] == "arm0: keeps" and words[7] == "arm7"
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.lines}
    assert len(looks) == 8


def test_arm_looks_the_same_in_the_figure_of_a_column_that_other_arms_lack() -> None:
    looks = {f"arm{k}": 8 - k for k in range(9)}
    figure = drawn(3, looks=looks)
    (axes,) = figure.axes
    expected = [style(looks[f"arm{k}"]) for k in range(3)]
    assert [line.get_color() for line in axes.lines] == [look["color"] for look in expected]
    assert [line.get_linestyle() for line in axes.lines] == [look["line"] for look in expected]


@pytest.mark.parametrize("arms", [9, 40])
def test_more_arms_have_axes_of_their_own_over_the_gray_reference(arms: int) -> None:
    figure = drawn(arms)
    assert len(figure.axes) == arms
    for k, axes in enumerate(figure.axes):
        assert axes.texts[0].get_text() == f"arm{k}"
        own = axes.lines[-1]
        behind = axes.lines[:-1]
        word = axes.texts[1].get_text()
        assert to_hex(own.get_color()) == to_hex(LOOKS[word][0] if word else "black")
        assert [to_hex(line.get_color()) for line in behind] == ([GRAY] if k != 2 else [])
        assert axes.get_ylim() == figure.axes[0].get_ylim()
    assert "gray: arm2" in figure.texts[1].get_text()


def test_caption_says_how_many_seeds_and_what_is_shaded() -> None:
    for arms in (3, 12):
        caption = drawn(arms).texts[1].get_text()
        for words in ("n = 4 seeds", "running mean of 5 tasks", "95 % interval", "Student's t"):
            assert words in caption
    series = {"a": np.ones((1, 30)), "b": np.ones((2, 30))}
    caption = (
        over_tasks(series, "x", "t", verdicts={}, reference="a", looks={"a": 0, "b": 1})
        .texts[1]
        .get_text()
    )
    assert "n = 1 to 2 seeds" in caption and "interval" not in caption


@pytest.mark.sampled(1)
@pytest.mark.parametrize("arms", [3, 8, 14, 40])
def test_axes_titles_and_captions_lie_inside_the_figure_and_apart(arms: int) -> None:
    figure = drawn(arms, (8, 10), logarithmic=True)
    renderer: Any = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    frame = figure.bbox
    boxes = [axes.get_tightbbox(renderer) for axes in figure.axes]
    boxes += [text.get_window_extent(renderer) for text in figure.texts]
    boxes += [legend.get_window_extent(renderer) for legend in figure.legends]
    for box in boxes:
        assert box.x0 >= frame.x0 and box.x1 <= frame.x1
        assert box.y0 >= frame.y0 and box.y1 <= frame.y1
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)


@pytest.mark.slow
def test_forty_labels_of_level_against_drop_cover_neither_one_another_nor_a_point() -> None:
    drops = {f"mlp{'+l2' * (k % 2)}-arm{k}": 0.0 for k in range(40)}
    arms = []
    # Names that no experiment has: only the numbers are findings_of.
    found = made_up.read_numbers({"mlp": 0.0, "qnn": 0.004}, tasks=40)
    (mlp, qnn) = findings_of(found, "test_accuracy")[0]
    for k, name in enumerate(drops):
        one = (mlp, qnn)[k % 2]
        values = vars(one) | {"arm": name}
        arms.append(type(one)(**values))
    figure = level_against_drop(arms, "title", 0.01)
    (axes,) = figure.axes
    renderer: Any = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    texts = [text for text in axes.texts if text.get_text()]
    assert sorted(text.get_text() for text in texts) == sorted(drops)
    # Of the words alone; the extent of an annotation holds its line, too.
    boxes = [text._get_layout(renderer)[0] for text in texts]
    placed = [
        box.translated(*text.get_transform().transform(text.get_unitless_position()))
        for box, text in zip(boxes, texts, strict=True)
    ]
    points = axes.transData.transform(
        [(100 * one.drop.estimate, 100 * one.level.estimate) for one in arms]
    )
    frame = axes.get_window_extent()
    for box in placed:
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1
        assert not any(box.contains(*point) for point in points)
    for one, other in itertools.combinations(placed, 2):
        assert not one.overlaps(other)


def test_points_lie_at_drop_and_level_with_their_intervals() -> None:
    arms, _ = findings_of(
        made_up.read_numbers({"mlp": 0.05, "qnn": 0.0}, tasks=40), "test_accuracy"
    )
    figure = level_against_drop(arms, "title", 0.01)
    (axes,) = figure.axes
    drawn = [line for line in axes.lines if len(line.get_xdata()) == 1]
    for one, line in zip(arms, drawn, strict=True):
        assert line.get_xdata()[0] == pytest.approx(100 * one.drop.estimate)
        assert line.get_ydata()[0] == pytest.approx(100 * one.level.estimate)
        assert line.get_color() == LOOKS[one.drop.verdict][0]
    assert one.drop.interval_95 is not None
    ends = [100 * end for end in one.drop.interval_95]
    assert any([*line.get_xdata()] == pytest.approx(ends) for line in axes.lines)
    assert any([*line.get_xdata()] == [1.0, 1.0] for line in axes.lines)  # the margin


def test_intervals_of_level_and_drop_end_where_accuracies_end() -> None:
    (one, _), _ = findings_of(
        made_up.read_numbers({"mlp": 0.05, "qnn": 0.0}, tasks=40), "test_accuracy"
    )
    level = dataclasses.replace(one.level, interval_95=(-0.2, 1.3))
    drop = dataclasses.replace(one.drop, interval_95=(-1.4, 1.2))
    (axes,) = level_against_drop(
        [dataclasses.replace(one, level=level, drop=drop)], "title", 0.01
    ).axes
    ends = [(*map(tuple, line.get_data()),) for line in axes.lines if len(line.get_xdata()) == 2]
    x, y = 100 * drop.estimate, 100 * level.estimate
    assert ends[:2] == [((-100, 100), (y, y)), ((x, x), (0, 100))]


@pytest.mark.usefixtures("empty_folder")
def test_equal_records_give_equal_bytes_of_all_figures() -> None:
    found = made_up.read_numbers({"mlp": 0.05, "qnn": 0.0}, seeds=3, tasks=40)
    report_on(found, Path("one"))
    report_on(found, Path("other"))
    for path in Path("one").iterdir():
        assert path.read_bytes() == (Path("other") / path.name).read_bytes(), path.name

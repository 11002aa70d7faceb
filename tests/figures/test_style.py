"""Pictures: the running mean, and what a curve consists of."""

import itertools

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from plasticity.figures.style import COLORS, LINES, plot_curve, style
from plasticity.statistics.curves import running_means


def slow_running_mean(values: np.ndarray, window: int) -> list[float]:
    """Window by window; an even one has its larger half on the left."""
    means = []
    for k in range(len(values)):
        inside = [
            float(values[m])
            for m in range(k - window // 2, k - window // 2 + window)
            if 0 <= m < len(values)
        ]
        means.append(sum(inside) / len(inside))
    return means


def some_values(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=count)


@pytest.mark.parametrize(
    ("count", "window"),
    [(c, w) for c in (1, 2, 5, 20, 21) for w in (1, 2, 3, 4, 5, 20) if w <= c],
)
def test_running_mean_matches_a_loop_over_windows(count: int, window: int) -> None:
    values = some_values(count)
    np.testing.assert_allclose(
        running_means(values, window), slow_running_mean(values, window), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize(("count", "window"), [(3, 4), (5, 7), (5, 9), (5, 10), (20, 1000)])
def test_window_larger_than_the_data_takes_those_there_are(count: int, window: int) -> None:
    values = some_values(count)
    means = running_means(values, window)
    np.testing.assert_allclose(means, slow_running_mean(values, window), rtol=1e-12)


def test_window_larger_than_the_data_gives_as_many_finite_means_within_their_range() -> None:
    values = some_values(5)
    means = running_means(values, 1000)
    assert means.shape == (5,)
    assert (means >= values.min()).all()
    assert (means <= values.max()).all()


def test_window_of_one_returns_the_values() -> None:
    values = some_values(7)
    np.testing.assert_array_equal(running_means(values, 1), values)


def test_constant_values_have_themselves_as_mean_up_to_the_ends() -> None:
    np.testing.assert_allclose(running_means(np.full(9, 0.7), 4), np.full(9, 0.7), rtol=1e-15)


def test_integers_have_fractional_means() -> None:
    np.testing.assert_allclose(running_means(np.array([0, 1, 1]), 3), [1 / 2, 2 / 3, 1])


@pytest.fixture
def axes() -> Axes:
    figure = Figure()
    FigureCanvasAgg(figure)
    return figure.subplots()


@pytest.mark.parametrize("window", [1, 3])
def test_curve_is_points_and_a_line_with_the_label(axes: Axes, window: int) -> None:
    tasks, values = np.arange(10, 19), some_values(9)
    plot_curve(axes, tasks, values, label="MLP", color=COLORS[0], window=window)
    points, line = axes.get_lines()
    assert (points.get_marker(), points.get_linestyle()) == (".", "None")
    np.testing.assert_array_equal(points.get_xdata(), tasks)
    np.testing.assert_array_equal(points.get_ydata(), values)
    assert (line.get_marker(), line.get_linestyle()) == ("None", "-")
    np.testing.assert_array_equal(line.get_xdata(), tasks)
    np.testing.assert_allclose(line.get_ydata(), slow_running_mean(values, window), rtol=1e-12)
    assert {to_hex(points.get_color()), to_hex(line.get_color())} == {COLORS[0].lower()}
    assert axes.get_legend_handles_labels() == ([line], ["MLP"])
    axes.legend()
    axes.figure.canvas.draw()  # any warning is an error


def test_two_curves_are_two_entries_of_the_legend(axes: Axes) -> None:
    for color, label in zip(COLORS, ("MLP", "QNN"), strict=False):
        values = some_values(4)
        plot_curve(axes, np.arange(4), values, label=label, color=color, window=2)
    assert axes.get_legend_handles_labels()[1] == ["MLP", "QNN"]


# What the cones that are left make of linear red, green and blue (Machado et al. 2009, table 1).
VISION = {
    "all cones": np.eye(3),
    "no red": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no blue": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def lab(linear: np.ndarray) -> np.ndarray:
    """Return CIE L*a*b* of linear sRGB, where a distance of 2 can just be seen."""
    matrix = np.array(
        [
            [0.412456, 0.357576, 0.180437],
            [0.212673, 0.715152, 0.072175],
            [0.019334, 0.119192, 0.950304],
        ]
    )
    x, y, z = np.cbrt(linear @ matrix.T / matrix.sum(1)).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@pytest.mark.parametrize("vision", VISION)
def test_colors_are_six_and_told_apart_by_all_kinds_of_vision(vision: str) -> None:
    assert len(COLORS) == 6
    rgb = np.array([to_rgb(color) for color in COLORS])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = lab(np.clip(linear @ np.transpose(VISION[vision]), 0, 1))
    for k, color in enumerate(seen):
        assert np.linalg.norm(color - np.delete(seen, k, axis=0), axis=1).min() > 15


# --- many curves


def test_first_54_curves_differ_and_those_of_one_line_come_first() -> None:
    styles = [style(number) for number in range(54)]
    looks = [(look["color"], look["line"]) for look in styles]
    assert len({*looks}) == 54
    assert looks[:6] == [(color, "-") for color in COLORS]
    assert [line for _, line in looks[6:12]] == ["--"] * 6
    for start in range(0, 54, 6):
        assert {color for color, _ in looks[start : start + 6]} == {*COLORS}
    assert style(54) == style(0)


def test_lines_that_follow_one_another_begin_with_different_colors() -> None:
    firsts = [style(number)["color"] for number in range(0, 54, 6)]
    assert all(one != next_one for one, next_one in itertools.pairwise(firsts))


@pytest.mark.parametrize("line", LINES)
def test_curve_has_the_line_it_is_told_and_no_points_where_none_are_wanted(line: str) -> None:
    values, pictures = some_values(5), []
    for with_ours in (True, False):
        figure = Figure()
        canvas, axes = FigureCanvasAgg(figure), figure.subplots()
        if with_ours:
            look = {"color": "k", "window": 1, "line": line, "width": 2}
            plot_curve(axes, np.arange(5), values, label="a", points=False, **look)
            (drawn,) = axes.get_lines()
            np.testing.assert_array_equal(drawn.get_ydata(), values)
        else:  # the dashes of a line cannot be asked for
            axes.plot(np.arange(5), values, color="k", linestyle=line, linewidth=2)
        canvas.draw()
        pictures.append(np.array(canvas.buffer_rgba()))
    np.testing.assert_array_equal(*pictures)

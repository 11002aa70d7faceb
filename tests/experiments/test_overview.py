"""Many arms at a glance: numbers by hand, and what the figure shows of each arm."""

from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
from matplotlib.figure import Figure
from scipy import stats

from experiments import figures
from experiments.mnist import EXPERIMENT, RELEASED
from plasticity.figures.overview import OTHERS, change_of, in_order_of_loss, overview, table
from plasticity.results.record import RunFolder, open_run
from plasticity.runs import drawing
from plasticity.runs.drawing import draw_run, figure_of
from tests.experiments.runs import tiny_images

pytestmark = pytest.mark.usefixtures("empty_folder")

IDENTITY = EXPERIMENT.identity(RELEASED.config, tiny_images())


def rows_of(first: float, slope: float, count: int = 20, **more: float) -> list[dict[str, Any]]:
    return [
        {
            "task": t,
            "train_loss": 2 - 0.01 * t,
            "test_accuracy": first + slope * t,
            "weight_norm": 4.0 * 1.1**t,
            "gradient_norm": 0.5,
        }
        | (more if t & (t - 1) == 0 else {})
        for t in range(count)
    ]


def ten_arms(**more: float) -> dict[str, list[list[dict[str, Any]]]]:
    return {f"arm{k}": [rows_of(0.5, 0.01 * (k - 5), **more)] for k in range(10)}


def recorded(arms: int, seed: int = 0) -> RunFolder:
    folder = open_run(Path("results"), f"mnist-x-seed{seed}", IDENTITY | {"seed": seed})
    for k in range(arms):
        with folder.arm(f"arm{k}", {"a": k}) as opened:
            for row in rows_of(0.5 + 0.01 * seed, 0.01 * (k - 5)):
                opened.append(row, {})
    return folder


def ends_of(runs: list[list[dict[str, Any]]], column: str) -> tuple[float, float] | None:
    found = change_of(runs, column)
    return None if found is None else (found.first.estimate, found.last.estimate)


def test_change_is_that_of_the_means_of_the_first_and_the_last_tenth() -> None:
    rows = rows_of(0.5, 0.01)
    expected = (0.5 + 0.51) / 2, (0.68 + 0.69) / 2
    assert ends_of([rows], "test_accuracy") == pytest.approx(expected)
    assert ends_of([rows[:9]], "train_loss") == pytest.approx((2.0, 1.92))


def test_of_a_column_that_few_rows_have_the_first_and_the_last_of_these_count() -> None:
    rows = [{"task": 0, "a": 3.0}, {"task": 1}, {"task": 2, "a": 5.0}, {"task": 3}]
    assert ends_of([rows], "a") == (3.0, 5.0)
    assert ends_of([rows, [{"task": 0}]], "a") is None


@pytest.mark.parametrize("count", [2, 3, 5])
def test_over_seeds_a_change_has_the_interval_of_the_mean(count: int) -> None:
    firsts = [0.5, 0.52, 0.47, 0.55, 0.4][:count]
    found = change_of([rows_of(first, 0.0) for first in firsts], "test_accuracy")
    assert found is not None
    mean = sum(firsts) / count
    interval = stats.t.interval(0.95, count - 1, loc=mean, scale=stats.sem(firsts))
    for end in (found.first, found.last):
        assert end.estimate == pytest.approx(mean)
        assert end.interval_95 == pytest.approx(interval)


def test_table_has_the_arm_that_gained_most_first_and_the_numbers_of_each() -> None:
    lines = table(EXPERIMENT, ten_arms(ntk_condition=1234.5)).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in cells[2:]] == [f"arm{k}" for k in reversed(range(10))]
    of_arm7 = dict(zip(cells[0], next(row for row in cells if row[0] == "arm7"), strict=True))
    assert of_arm7["test accuracy, first tenth"] == "0.5100"
    assert of_arm7["last tenth"] == "0.8700"
    assert of_arm7["change"] == "+0.3600"
    (loss,) = (value for name, value in of_arm7.items() if name.startswith("training loss"))
    assert loss == "2, 1.81"
    (condition,) = (value for name, value in of_arm7.items() if "tangent kernel" in name)
    assert condition == "1.23e+03, 1.23e+03"
    assert not any("update" in name for name in of_arm7)  # which the rows do not have


def test_arm_without_a_score_comes_last_and_has_empty_cells() -> None:
    arms = ten_arms() | {"new": [[{"task": 0, "train_loss": 1.0}]]}
    assert in_order_of_loss(arms, "test_accuracy")[-1] == "new"
    assert table(EXPERIMENT, arms).splitlines()[-1].startswith("| new |  |  |  |")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    kept = []

    def keep(*arguments: Any) -> Figure:
        kept.append(overview(*arguments))
        return kept[-1]

    monkeypatch.setattr(drawing, "overview", keep)
    return kept


@pytest.mark.slow
@pytest.mark.draws
def test_nine_arms_have_axes_of_their_own_in_which_their_curve_is_on_top(
    drawn: list[Figure],
) -> None:
    path = draw_run(EXPERIMENT, recorded(9))
    assert matplotlib.image.imread(path).std() > 0
    (figure,) = drawn
    upper, lower = figure.subfigs
    shown = [axes for axes in upper.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == [f"arm{k}" for k in reversed(range(9))]
    for axes in shown:
        curves = [line for line in axes.lines if line.get_linestyle() == "-"]
        assert len(curves) == 9
        assert [line.get_color() for line in curves[:-1]] == [OTHERS] * 8
        assert curves[-1].get_label() == axes.get_title()
        assert curves[-1].get_color() != OTHERS
        assert curves[-1].get_linewidth() > 2 * curves[0].get_linewidth()
        assert len(axes.lines) == 9 + 1  # the points of its own arm's tasks
    assert [text.get_text() for text in lower.axes[0].get_yticklabels()] == [
        axes.get_title() for axes in shown
    ]
    assert "n = 1 seed" in figure.get_suptitle()
    text = (path.parent / "table.md").read_text()
    assert len(text.splitlines()) == 2 + 9


def test_changes_are_drawn_from_the_first_to_the_last_value() -> None:
    figure = figure_of(EXPERIMENT, ten_arms(), "title", [])
    (axes,) = (a for a in figure.subfigs[1].axes if a.get_xlabel().startswith("mean weight norm"))
    assert axes.get_xscale() == "log"
    lines = [line for line in axes.lines if line.get_color() == OTHERS]
    assert len(lines) == 10
    for place, line in enumerate(lines):
        first, last = (4 * 1.1**k + 4 * 1.1 ** (k + 1) for k in (0, 18))
        assert [*line.get_xdata()] == pytest.approx([first / 2, last / 2])
        assert [*line.get_ydata()] == [place, place]


@pytest.mark.slow
@pytest.mark.draws
def test_three_seeds_have_intervals_and_no_points() -> None:
    folders = [recorded(9, seed) for seed in range(3)]
    assert figures.main([*map(str, (folder.path for folder in folders)), "all.png"]) == 0
    assert matplotlib.image.imread("all.png").std() > 0
    arms = {
        f"arm{k}": [rows_of(0.5 + 0.01 * s, 0.0) for s in range(3)] for k in range(9)
    }  # fmt: skip
    figure = overview(EXPERIMENT, arms, "title")
    upper, lower = figure.subfigs
    assert all(len(axes.collections) == 1 for axes in upper.axes if axes.get_visible())
    assert not any(line.get_marker() == "." for axes in upper.axes for line in axes.lines)
    assert len(lower.axes[0].collections) == 2 * 9  # error bars
    assert "95 % interval" in figure.get_suptitle()


def test_eight_arms_share_their_axes(drawn: list[Figure]) -> None:
    draw_run(EXPERIMENT, recorded(8))
    assert not drawn

"""Figures and tables of layers: which numbers stand where."""

import numpy as np
import pytest

from experiments.mnist import EXPERIMENT
from plasticity.figures.by_layer import by_layer, label_of, layer_table, quantities


def rows(scale: float, layers: int = 2, gates: int = 0) -> list[dict[str, float]]:
    """Twenty tasks; the step of layer k falls from ``scale`` k."""
    return [
        {"task": t, "test_accuracy": 0.5, "weight_norm": 1.0}
        | {f"step_{k}": scale * k * 0.9**t for k in range(1, layers + 1)}
        | {f"gate_damping_{g}": 0.1 * g for g in range(1, gates + 1)}
        for t in range(20)
    ]


SERIES = {"mlp": [rows(1.0), rows(3.0)], "qnn": [rows(0.5, 1, 7)] * 2}


def test_quantities_are_the_columns_that_end_with_a_layers_number() -> None:
    found = quantities(EXPERIMENT, SERIES)
    assert {name: [*of] for name, of in found.items()} == {
        "step": [1, 2], "gate_damping": [1, 2, 3, 4, 5, 6, 7]
    }  # fmt: skip
    assert label_of(EXPERIMENT, "step") == "step beside the weights"


def test_table_has_the_first_and_the_last_tenth_of_each_layer_over_seeds() -> None:
    first, second = layer_table(EXPERIMENT, SERIES).split("\n\n")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in first.splitlines()]
    early, late = (1 + 0.9) / 2, (0.9**18 + 0.9**19) / 2  # of a tenth, over two seeds
    assert lines[2][:2] == ["mlp", "1"] and lines[3][:2] == ["mlp", "2"]
    for line, scale in zip(lines[2:], (2.0, 4.0, 0.5), strict=True):
        assert [float(n) for n in line[2].split(", ")] == pytest.approx(
            [scale * early, scale * late], rel=1e-2
        )
    assert second.count("\n| qnn |") == 7
    assert "step" not in second


def test_each_arm_has_axes_and_each_layer_a_curve() -> None:
    figure = by_layer(EXPERIMENT, SERIES, "title", ["step", "gate_damping"])
    grid = np.array(figure.axes).reshape(2, 2)
    assert [axes.get_title() for axes in grid[0]] == ["mlp", "qnn"]
    curves = {line.get_label(): line for line in grid[0, 0].lines if "layer" in line.get_label()}
    assert [*curves] == ["layer 1", "layer 2"]
    means = 2 * np.convolve([0.9**t for t in range(20)], [0.5, 0.5], "valid")
    assert curves["layer 2"].get_ydata()[1:] / curves["layer 1"].get_ydata()[1:] == pytest.approx(2)
    assert curves["layer 1"].get_ydata()[1:] / means == pytest.approx(3**0.5 / 2, rel=2e-3)
    assert len(grid[1, 1].lines) >= 7 and not grid[1, 0].lines
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["layer 1", "layer 2"]

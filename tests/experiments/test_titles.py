"""What figures of runs and studies are called, and the looks that an arm has in all of them."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.ant import EXPERIMENT as ANT
from experiments.cli import parse as cli
from experiments.mnist import EXPERIMENT
from plasticity.figures.curves import learning_curves
from plasticity.figures.labels import looks_of, looks_of_names
from plasticity.figures.over_seeds import Curve, within
from plasticity.figures.style import style
from plasticity.figures.titles import title_of
from plasticity.learning.column import Column
from plasticity.results.record import open_run
from tests.experiments.runs import tiny_images


def title(tmp_path: Path, words: list[str], done: int, seeds: tuple[int, ...] = (0,)) -> str:
    """Return the title of runs of a command line."""
    folders = []
    for seed in seeds:
        choice, _ = cli.parse(EXPERIMENT, [*words, f"--seed={seed}"])
        preset, config, arms = choice.preset, choice.config, choice.arms
        identity = EXPERIMENT.identity(config, tiny_images())
        folders.append(open_run(tmp_path, EXPERIMENT.run_prefix(preset, config), identity))
    of_arms = {
        Path(f"{name}-12345678"): json.loads(json.dumps(a.json())) for name, a in arms.items()
    }
    return title_of(EXPERIMENT, folders, of_arms, done)


def test_title_is_words_and_names_what_was_changed(tmp_path: Path) -> None:
    begin = "Permuted images (mnist), "
    assert title(tmp_path, [], 1000) == f"{begin}preset released, seed 0"
    assert title(tmp_path, ["--preset=quick"], 40, (0, 1, 2)) == (
        f"{begin}preset quick, seeds 0, 1, 2"
    )
    assert title(tmp_path, [], 20) == f"{begin}preset released, 20 tasks, not 1,000, seed 0"
    changed = ["--batch-size=64", "--mlp.hidden", "32", "32"]
    assert title(tmp_path, changed, 1000) == (
        f"{begin}not preset released, but with --batch-size 64 --mlp.hidden 32 32, seed 0"
    )


def test_an_arm_has_one_look_whatever_stands_beside_it() -> None:
    study = ("mlp", "mlp+l2-init", "mlp-sphere", "qnn", "stiefel", "stiefel-free")
    alone = {name: looks_of_names(EXPERIMENT.registry, [name])[0] for name in study}
    assert looks_of_names(EXPERIMENT.registry, study) == [alone[name] for name in study]
    run = looks_of(EXPERIMENT, {Path(f"r/{name}-12345678"): {} for name in study})
    assert {path.name.rpartition("-")[0]: look for path, look in run.items()} == alone
    known = [*EXPERIMENT.registry.networks, *(f"mlp+{r}" for r in EXPERIMENT.registry.remedies)]
    looks = [tuple(style(look).values()) for look in looks_of_names(EXPERIMENT.registry, known)]
    assert len({*looks}) == len(known)


def test_an_interval_ends_where_what_is_measured_ends() -> None:
    of = Curve(np.arange(2), np.array([0.9, 0.1]), np.array([0.7, -0.2]), np.array([1.1, 0.4]))
    cut = within(of, (0.0, 1.0))
    assert cut.low.tolist() == [0.7, 0.0] and cut.high.tolist() == [1.0, 0.4]
    assert within(of, (-math.inf, math.inf)).high.tolist() == [1.1, 0.4]


@pytest.mark.parametrize("changing", [True, False])
def test_changes_of_the_friction_are_drawn_where_they_are(changing: bool) -> None:
    def row(k: int) -> dict[str, Any]:
        friction = {"friction": float(k // 3)} if changing else {}
        return {"step": 10 * (k + 1), "return": float(k), "entropy": 1.0} | friction

    panels = [Column("return", "return"), Column("entropy", "entropy")]
    figure = learning_curves({"mlp": [[row(k) for k in range(9)]]}, panels, "t", "step")
    for axes in figure.axes:
        upright = [line.get_xdata()[0] for line in axes.lines if len({*line.get_xdata()}) == 1]
        assert upright == ([30, 60] if changing else [])
    assert ("friction" in figure.get_suptitle()) == changing
    assert ANT.progress.unit == "step"

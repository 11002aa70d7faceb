"""The figure and the table of layers, from the command line and from Python."""

from pathlib import Path

import pytest

from experiments import figures
from plasticity import load_run
from plasticity.errors import UsageError
from tests.experiments.runs import finish, only, tiny_command

pytestmark = pytest.mark.usefixtures("empty_folder")


def test_figures_draws_layers_and_writes_their_table_beside_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = only(tiny_command("mnist", tmp_path), "mlp", "qnn")
    folder = finish([*command, "--metrics", "step", "weight_norm", "gate"])
    target = tmp_path / "layers.png"
    assert figures.main([str(folder), str(target), "--by-layer"]) == 0
    assert target.exists()
    first, second = target.with_suffix(".md").read_text().split("\n\n")
    assert first.count("| mlp |") == 2 and first.count("| qnn |") == 1
    assert "`step`" in first and "`weight_norm`" in first and "`gate_damping`" in second
    run = load_run(folder)
    assert run.layer_table() == target.with_suffix(".md").read_text()
    assert run.layer_table(["step"], arms=["mlp"]).count("\n") == 4
    steps = run["mlp"].column("step_1")
    assert f"| mlp | 1 | {steps[0]:.3g}, " in run.layer_table(["step"])
    capsys.readouterr()
    for words, said in (
        (["--columns", "stp"], "nothing called 'stp' was measured by layers; there are"),
        (["--arms", "mlq"], "mlq: "),
    ):
        assert figures.main([str(folder), str(target), "--by-layer", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line


def test_a_run_without_columns_of_layers_says_what_to_measure(tmp_path: Path) -> None:
    folder = finish(only(tiny_command("mnist", tmp_path), "mlp"))
    with pytest.raises(UsageError, match="has no columns of layers: measure step"):
        load_run(folder).by_layer()

"""The command line that the experiments share; asked of mnist."""

import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments import ant, cifar, mnist, qdata
from experiments.cli import parse as cli
from experiments.cli import words as letters
from experiments.cli.words import in_shell
from plasticity.errors import DoesNotFit, Failure, InUse, UsageError
from plasticity.learning.learner import Learner
from plasticity.metrics import METRICS
from plasticity.networks import NETWORKS
from plasticity.networks.network import Network, Shape
from plasticity.protocol.options import Options, TaskOptions
from plasticity.protocol.supervised import ASKING_WHY
from plasticity.remedies import REMEDIES
from tests.experiments.runs import arm_folders, fields_of, finish, only, start

pytestmark = pytest.mark.usefixtures("empty_folder")

EXPERIMENT = mnist.EXPERIMENT
OTHERS = [module.EXPERIMENT for module in (cifar, qdata, ant)]

# --- what ends a command, and names

ENDS = {
    "permission": (PermissionError(13, "Permission denied", "a/b"), 1, "a/b: Permission denied"),
    "no room": (OSError(28, "No space left on device"), 1, "No space left on device"),
    "folder gone": (FileNotFoundError(2, "No such file"), 1, "the folder that we are in"),
    "memory": (MemoryError(), 1, "not enough memory"),
    "torch": (
        RuntimeError("DefaultCPUAllocator: can't allocate memory\nframes"),
        1,
        "not enough memory",
    ),
    "loader": (
        ImportError("a.so: failed to map segment from shared object"),
        1,
        "not enough memory",
    ),
    "loader's files": (
        ImportError("a.so: cannot open shared object file: Too many open files"),
        1,
        "no more files",
    ),
    "interpreter": (SystemError("error return without exception set"), 1, "not enough memory"),
    "threads": (RuntimeError("can't start new thread"), 1, "can't start new thread"),
    "use": (UsageError("--x 3: too few"), 2, "--x 3: too few (see --help)"),
    "in use": (InUse("wait for it"), 75, "wait for it"),
}


@pytest.mark.parametrize("case", ENDS)
def test_what_a_system_or_a_user_can_cause_is_a_line_and_a_status(
    case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error, status, said = ENDS[case]

    def fail() -> None:
        raise error

    assert cli.status_of(fail) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert said in line


def test_memory_is_given_back_before_it_is_said_that_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Held:
        pass

    held = []

    def fail() -> None:
        large = Held()
        held.append(weakref.ref(large))
        raise MemoryError

    still_there = []
    monkeypatch.setattr(cli, "complain", lambda text: still_there.append(held[0]()))
    assert cli.status_of(fail) == 1
    assert still_there == [None]


def test_want_of_memory_is_told_where_the_message_finds_none(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def no_memory(text: str) -> str:
        raise MemoryError

    def fail() -> None:
        raise Failure("what went wrong first")

    monkeypatch.setattr(letters, "printable", no_memory)
    assert cli.status_of(fail) == 1
    assert capfd.readouterr().err == "error: there is not enough memory\n"


def test_want_of_memory_is_told_where_none_is_left_to_look_at_the_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(cli, "reason_of_system", fail)
    assert cli.status_of(fail) == 1
    assert capsys.readouterr().err == "error: there is not enough memory\n"


def test_mistake_of_the_program_is_no_error_of_the_user() -> None:
    def fail() -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        cli.status_of(fail)


def test_newlines_in_names_are_written_as_a_shell_takes_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--dataset=none/a\nb.npz", "--results=x"]
    monkeypatch.setattr("sys.argv", ["mnist", *words])
    assert start(*words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "none/a$'\\n'b.npz" in line


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize("word", ["it's here", "a\nb'\\c", "\udcff\x1b", "caf\u00e9", ""])
def test_words_come_back_from_a_shell_and_take_one_line(word: str) -> None:
    line = in_shell([word, "next"])
    assert len(line.splitlines()) == 1
    done = subprocess.run(["bash", "-c", f"printf '%s|' {line}"], capture_output=True, check=True)
    assert os.fsdecode(done.stdout) == f"{word}|next|"


def test_home_folder_that_there_is_not_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert start("--results=~nosuchuser/x", "--dataset=digits", "--num-tasks=1") == 2
    assert "--results ~nosuchuser/x: there is no home folder" in capsys.readouterr().err


# --- wrong use


WRONG_USE = {
    "--num-tasks 0": ["--num-tasks 0", "positive"],
    "--num-tasks -3": ["--num-tasks -3", "positive"],
    "--num-tasks 99999999999999999999": ["--num-tasks", "at most"],
    "--num-tasks x": ["error: --num-tasks x: must be a whole number"],
    "--num-tasks 2.5": ["error: --num-tasks 2.5: must be a whole number"],
    "--num-tasks": ["--num-tasks"],
    "--gradual half": ["error: --gradual half: must be a number"],
    "--mlp.hidden 3 x": ["error: --mlp.hidden 3 x: not what this option takes"],
    "--overwrite yes": ["error: yes: python -m experiments.mnist has nothing that takes this"],
    "--num-task 3": [
        "error: --num-task: python -m experiments.mnist has no such option; did you mean --num-ta"],
    "--mlp.hiden 3": ["--mlp.hiden", "did you mean --mlp.hidden"],
    "--prest quick": ["--prest", "did you mean --preset"],
    "--preset quik": ["quik", "released, matched, why, labels, quick"],
    "--preset=quik": ["quik", "released, matched, why, labels, quick"],
    "--preset": ["--preset", "released, matched, why, labels, quick"],
    "quick": ["quick: python -m experiments.mnist has nothing that takes this"],
    "--seed -1": ["--seed -1"],
    "--seed 18446744073709551616": ["--seed"],
    "--threads 0": ["--threads 0"],
    "--threads 1000000": ["--threads 1000000", "1024"],
    "--batch-size -128": ["--batch-size -128"],
    "--measure-every 0": ["--measure-every 0", "at least 1"],
    "--metrics nonsense": ["--metrics nonsense", "there are", "weight_norm", "fisher"],
    "--metrics fisher nonsense": ["--metrics nonsense", "there are"],
    "--mlp.hidden 0": ["error: --mlp.hidden (0,)", "at least one unit"],
    "--mlp.hidden 3 0": ["error: --mlp.hidden (3, 0)", "at least one unit"],
    "--mlp.hidden": ["error: --mlp.hidden ()", "at least one layer"],
    "--qnn.depth 0": ["error: --qnn.depth 0", "at least 1"],
    "--qnn.epochs 0": ["--qnn.epochs 0"],
    "--qnn.initial-angles 2 1": ["error: --qnn.initial-angles 2.0 1.0", "smaller first"],
    "--qnn.initial-angles 0 nan": ["error: --qnn.initial-angles 0.0 nan", "finite"],
    "--qnn.ansatz circle": ["--qnn.ansatz", "circle", "brickwork"],
    "--mlp.optimizer.learning-rate nan": ["--mlp.optimizer.learning-rate nan"],
    "--qnn.optimizer.learning-rate inf": ["--qnn.optimizer.learning-rate inf"],
    "--mlp.optimizer.learning-rate 1e30": ["--mlp.optimizer.learning-rate 1e+30", "at most"],
    "--mlp.optimizer.epsilon 0": ["--mlp.optimizer.epsilon 0"],
    "--qnn.reset-optimizer.every 0": ["error: --qnn.reset-optimizer.every 0", "at least 1"],
    "--arms qnn mlp+reset-optimizer --mlp+reset-optimizer.reset-optimizer.every -1": [
        "error: --mlp+reset-optimizer.reset-optimizer.every -1: at least 1"],
    "--device cupy": ["cupy", "cpu or cuda"],
    "--device meta": ["meta", "cpu or cuda"],
    "--device cuda": ["cuda", "no CUDA device"],
    # Arms.
    "--arms rnn": ["--arms rnn", "no network is called 'rnn'", "qnn, qnn-relu"],
    "--arms mlp rnn": ["--arms rnn", "qnn, qnn-relu"],
    "--arms=rnn": ["--arms rnn", "qnn, qnn-relu"],
    "--arms": ["--arms: name at least one; the preset has mlp, qnn"],
    "--arms mlp,qnn": ["--arms mlp,qnn", "spaces separate names, not commas"],
    "--arms mpl": ["--arms mpl", "did you mean mlp?"],
    "--arms mlp+l2-int": ["--arms mlp+l2-int", "did you mean l2-init?"],
    "--arms mlp+nonsense": ["--arms mlp+nonsense", "no remedy is called 'nonsense'",
                            "reset-optimizer"],
    "--arms mlp+": ["--arms mlp+", "no remedy is called ''"],
    "--arms +reset-optimizer": ["no network is called ''"],
    "--arms mlp mlp": ["--arms", "mlp is there twice"],
    "--arms mlp qnn mlp": ["--arms", "mlp is there twice"],
    "--arms qnn+reset-optimizer": ["--arms qnn+reset-optimizer", "qnn has reset-optimizer already"],
    "--arms mlp+reset-optimizer+reset-optimizer": ["mlp has reset-optimizer already"],
    "--arms mlp --arms qnn": ["--arms", "say it once, with all arms"],
    "--arms=mlp --arms qnn": ["--arms", "say it once, with all arms"],
    "--arms mlp --qnn.depth 3": [
        "error: --qnn.depth: the arm qnn is not among --arms mlp (see"],
    "--arms mlp --qnn.depth=3": ["error: --qnn.depth: the arm qnn is not among --arms mlp"],
    "--mlp+reset-optimizer.epochs 3": [
        "--mlp+reset-optimizer.epochs: the arm mlp+reset-optimizer is not among --arms mlp qnn"],
    "--arms mlp+reset-optimizer --mlp.epochs 3": [
        "--mlp.epochs: the arm mlp is not among --arms mlp+reset-optimizer"],
    "--rnn.depth 3": ["error: --rnn.depth: python -m experiments.mnist has no such option"],
    "--frction -3": ["error: --frction: python -m experiments.mnist has no such option"],
    "--mlp.reset-optimizer.every 3": ["--mlp.reset-optimizer.every"],
    "--arms mlp --mlp.depth 3": ["--mlp.depth"],
}  # fmt: skip


@pytest.mark.sampled(40)
@pytest.mark.parametrize("arguments", WRONG_USE)
def test_wrong_use_is_one_line_and_status_2(
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    tiny: list[str],
    arguments: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    data = [word for word in tiny if word.startswith(("--dataset", "--results"))]
    said = refused(*data, "--num-tasks=1", *arguments.split(), status=2)
    for part in WRONG_USE[arguments]:
        assert part in said
    assert len(said.splitlines()) == 1
    assert "--help" in said
    assert not Path("results").exists()


IN_ONE_LINE = {
    "--seed x": "--seed x: must be a whole number",
    "--mlp.hiden 3": "--mlp.hiden: python -m experiments.mnist has no such option; did you mean "
    "--mlp.hidden [INT [INT ...]]?",
    "--mlp.hidden 0": "--mlp.hidden (0,): at least one layer, of at least one unit",
    "nonsense": "nonsense: python -m experiments.mnist has nothing that takes this; options begin "
    "with --",
}


def test_preset_without_its_option_is_recognized(refused: Callable[..., str]) -> None:
    assert "error: quick: did you mean --preset quick?" in refused("quick", status=2)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 2560000000000 bytes. Error code 12"
        ),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..."),
        MemoryError("Unable to allocate 2.00 GiB for an array with shape (1,) and data type int8"),
    ],
)
def test_memory_that_is_not_enough_is_told_in_a_line(
    capsys: pytest.CaptureFixture[str], tiny: list[str], error: Exception
) -> None:
    def build(*_: object) -> None:
        raise error

    assert start(*only(tiny, "mlp"), experiment=dataclasses.replace(EXPERIMENT, build=build)) == 1
    wanted = "2560000000000 bytes" if "alloc_cpu" in str(error) else "2.00 GiB"
    said = f"error: there is not enough memory ({wanted} at once): take smaller networks, fewer "
    assert capsys.readouterr().err == said + "qubits or smaller batches\n"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("words", IN_ONE_LINE)
def test_message_is_the_same_where_the_output_knows_ascii_only(
    monkeypatch: pytest.MonkeyPatch, encoding: str, words: str
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    with pytest.raises(UsageError) as wrong:
        cli.parse(EXPERIMENT, words.split())
    assert str(wrong.value) == IN_ONE_LINE[words]


@pytest.mark.parametrize("experiment", OTHERS, ids=lambda e: e.name)
@pytest.mark.parametrize(
    ("arms", "part"),
    [
        ("nonsense", "no network is called 'nonsense'; there are "),
        ("mlp+nonsense", "no remedy is called 'nonsense'"),
        ("mlp mlp", "mlp is there twice"),
        ("mlp --qnn.depth 3", "--qnn.depth"),
    ],
)
def test_arms_are_refused_in_the_other_experiments_alike(
    refused: Callable[..., str], experiment, arms: str, part: str
) -> None:
    words = ["--preset", "quick", "--arms", *arms.split()]
    said = refused(*words, status=2, experiment=experiment)
    assert part in said
    assert len(said.splitlines()) == 1


# --- arms


@dataclass(frozen=True)
class Choosy(Network):
    """Refuse everything."""

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        raise DoesNotFit(f"it wants 7 inputs, the task has {shape.inputs}")


def test_arm_that_does_not_fit_is_refused_before_anything_is_trained_or_written(
    refused: Callable[..., str], tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(Learner, "update", fail)
    monkeypatch.setitem(NETWORKS, "choosy", Choosy())
    for arms in (["choosy"], ["mlp", "choosy"], ["choosy+reset-optimizer", "qnn"]):
        said = refused(*only(tiny, *arms), status=2)
        (name,) = (arm for arm in arms if arm.startswith("choosy"))
        assert f"--arms {name}: it wants 7 inputs, the task has 12" in said
        assert len(said.splitlines()) == 1
        assert not Path("results").exists()


def test_readout_that_does_not_fit_the_classes_is_refused(
    refused: Callable[..., str], tiny: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data_root = tmp_path_factory.mktemp("data")
    said = refused(*tiny, "--qnn.readout", "z-of-first", status=2)
    assert "--arms qnn: readout z-of-first gives 1 logit, the task has 4" in said
    words = ["--preset", "quick", "--num-sites", "4", "--qnn.readout", "log-odds"]
    words.append(f"--data-root={data_root}")
    assert start(*words, experiment=qdata.EXPERIMENT) == 2  # once, to compute the data
    said = refused(*words, status=2, experiment=qdata.EXPERIMENT)
    assert "--arms qnn: readout log-odds gives a logit for each of two or more classes" in said


def test_arms_are_trained_in_the_order_in_which_they_are_named(
    tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    finish(only(tiny, "qnn", "mlp+reset-optimizer", "mlp"))
    said = re.findall(r"^(\S+): .* s\b", capsys.readouterr().out, re.MULTILINE)
    assert said == ["qnn", "mlp+reset-optimizer", "mlp"]


def test_arm_with_a_remedy_has_options_and_a_folder_of_its_own(tiny: list[str]) -> None:
    words = only(tiny, "mlp", "mlp+reset-optimizer")
    folder = finish([*words, "--mlp+reset-optimizer.reset-optimizer.every=2"])
    arms = arm_folders(folder)
    assert {*arms} == {"mlp", "mlp+reset-optimizer"}
    plain, reset = (
        json.loads((arms[name] / "arm.json").read_text()) for name in ("mlp", "mlp+reset-optimizer")
    )
    assert (plain["epochs"], reset["epochs"]) == (2, 1)  # TINY's are said for mlp alone
    assert reset.pop("remedies") == [{"class": "ResetOptimizer", "every": 2}]
    assert {**plain, "epochs": 1} == reset
    assert (arms["mlp+reset-optimizer"] / "mlp+reset-optimizer_results.npz").exists()


@dataclass(frozen=True)
class Alike(Network):
    """Be like the quantum arm."""

    like = "qnn"
    width: int = 3
    """Of nothing."""


def test_arm_that_the_preset_does_not_have_is_trained_as_the_one_that_it_is_like(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(NETWORKS, "alike", Alike())
    for name, preset in EXPERIMENT.presets.items():
        words = ["--preset", name, "--arms", "alike", "--alike.width", "5"]
        choice, _ = cli.parse(EXPERIMENT, words)
        arms = choice.arms
        expected = dataclasses.replace(preset.arms["qnn"], network=Alike(5), remedies={})
        assert arms == {"alike": expected}


# --- help


def help_texts(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, dict[str, str]]:
    """Return what --help says, all of it and by option."""
    with pytest.raises(SystemExit) as stopped:
        start(*arguments, "--help")
    assert not stopped.value.code
    text = capsys.readouterr().out
    lines = [line.strip("│ ") for line in text.splitlines() if not re.match(r"[╭╰]", line)]
    # Two names of one option may stand on two lines.
    _, *chunks = re.split(r"(?<!,\n)^(?=--[a-z])", "\n".join(lines), flags=re.MULTILINE)
    return text, {re.match(r"[\w.+-]+", chunk)[0]: " ".join(chunk.split()) for chunk in chunks}


OF_ARMS = {
    "mlp": ["hidden", "bounded-logits", "logit-bound", "optimizer", "optimizer.learning-rate",
            "optimizer.epsilon", "epochs", "unit-norm", "permute-padding"],
    "qnn": ["ansatz", "depth", "readout", "initial-angles", "shortest", "optimizer",
            "optimizer.learning-rate", "optimizer.epsilon", "epochs", "unit-norm",
            "permute-padding", "reset-optimizer.every"],
    "mlp+reset-optimizer": ["hidden", "bounded-logits", "logit-bound", "optimizer",
                            "optimizer.learning-rate", "optimizer.epsilon", "epochs",
                            "unit-norm", "permute-padding", "reset-optimizer.every"],
}  # fmt: skip


@pytest.mark.parametrize(
    "arms", [(), ("mlp",), ("qnn",), ("mlp+reset-optimizer", "mlp")], ids=" ".join
)
def test_help_explains_every_option_of_the_chosen_arms(
    capsys: pytest.CaptureFixture[str], arms: tuple[str, ...]
) -> None:
    text, by_option = help_texts(capsys, *(["--arms", *arms] if arms else []))
    fields = [*fields_of(EXPERIMENT.presets["released"].config)]
    fields += [field.name for field in dataclasses.fields(TaskOptions)]
    typed = {"modules": "import"}
    options = {"--preset"} | {"--" + typed.get(f, f).replace("_", "-") for f in fields}
    for arm in arms or ("mlp", "qnn"):
        options |= {f"--{arm}.{option}" for option in OF_ARMS[arm]}
    assert set(by_option) == options
    for option, explained in by_option.items():
        explained = re.sub(r"\(default:[^)]*\)|\{[^}]*\}|\[[^]]*\]|--\S+|\b[A-Z]+\b", "", explained)
        assert len(re.findall("[A-Za-z]", explained)) >= 6, option
    assert "Permuted MNIST" in text
    assert "python -m experiments.mnist" in text


def test_help_has_a_line_for_each_network_and_each_remedy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETWORKS, "alike", Alike())
    text, _ = help_texts(capsys)
    for registered, prefix in ((NETWORKS, ""), (REMEDIES, r"\+")):
        lines = {}
        for name, value in registered.items():
            (line,) = re.findall(
                rf"^\W*{prefix}{name}(?:, [a-z-]+)?: (.*?)\W*$", text, re.MULTILINE
            )
            lines[name] = line
            assert type(value).__doc__.startswith(line.partition(". With ")[0])
            assert len(line) > 15
        assert len({*lines.values()}) == len(lines)  # no two are told alike
    assert re.search(r"mlp-wide: .* With hidden 1024", text)
    assert "free-brickwork, free-circuit: " in text
    (told,) = re.findall(r"Only ([^:]*) and fresh: are told where", " ".join(text.split()))
    assert told.split(", ") == [f"+{name}" for name, r in REMEDIES.items() if r.sees_tasks]


def test_help_shows_the_presets_and_their_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    _, by_option = help_texts(capsys)
    assert "{released,matched,why,labels,quick}" in by_option["--preset"]
    assert "(default: released)" in by_option["--preset"]
    assert "(default: 1000)" in by_option["--num-tasks"]
    assert "(default: 0.001)" in by_option["--mlp.optimizer.learning-rate"]
    _, by_option = help_texts(capsys, "--preset", "quick")
    assert "(default: released, now: quick)" in by_option["--preset"]
    assert "(default: 40)" in by_option["--num-tasks"]
    assert "(default: 0.01)" in by_option["--mlp.optimizer.learning-rate"]
    assert "--qnn.reset-optimizer.every" in by_option
    _, by_option = help_texts(capsys, "--preset=matched")
    assert "--qnn.reset-optimizer.every" not in by_option


@pytest.mark.parametrize("experiment", [EXPERIMENT, *OTHERS], ids=lambda e: e.name)
def test_help_has_a_line_for_each_preset_that_there_is(
    capsys: pytest.CaptureFixture[str], experiment
) -> None:
    with pytest.raises(SystemExit):
        start("--help", experiment=experiment)
    text = " ".join(re.sub(r"[│\n]", " ", capsys.readouterr().out).split())
    for name, preset in experiment.presets.items():
        assert len(preset.about) > 20
        assert f"{name}: {preset.about}" in text
    for name in {name for other in [EXPERIMENT, *OTHERS] for name in other.presets}:
        assert (f" {name}: " in text) == (name in experiment.presets)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("experiment", [EXPERIMENT, *OTHERS], ids=lambda e: e.name)
def test_help_speaks_of_what_the_experiment_has(
    capsys: pytest.CaptureFixture[str], experiment
) -> None:
    for preset in experiment.presets:
        with pytest.raises(SystemExit):
            start("--preset", preset, "--help", experiment=experiment)
        text = capsys.readouterr().out
        assert "``" not in text
        assert not re.search(r"\(default:\s*\)", text)
        assert ("remedies" in text) == bool(experiment.registry.remedies)
        passes = re.findall(r"Passes over the ([a-z ]+)\.", " ".join(text.split()))
        assert {*passes} == {
            "steps of a rollout" if experiment is ant.EXPERIMENT else "training samples of a task"
        }


def test_option_that_an_experiment_does_not_have_is_told_without_its_value(
    refused: Callable[..., str],
) -> None:
    said = refused("--metrics", "fisher", "--env=x", status=2, experiment=ant.EXPERIMENT)
    assert said == "error: --metrics: python -m experiments.ant has no such option (see --help)\n"


def test_options_of_all_experiments_have_these_names() -> None:
    assert [field.name for field in dataclasses.fields(Options)] == [
        "arms", "results", "overwrite", "tensorboard", "modules"
    ]  # fmt: skip
    assert {"metrics", "measure_every"} < {field.name for field in dataclasses.fields(TaskOptions)}


# --- metrics


def test_metric_that_is_asked_for_becomes_columns_on_its_schedule(tiny: list[str]) -> None:
    assert METRICS["fisher"].sparse
    folder = finish([*only(tiny, "mlp"), "--num-tasks=6", "--metrics", "fisher", "logit",
                     "weight_norm", "logit", "--measure-every=5"])  # fmt: skip
    rows = [
        json.loads(line)
        for line in (arm_folders(folder)["mlp"] / "rows.jsonl").read_text().splitlines()
    ]
    measured = [row["task"] for row in rows if any(c.startswith("fisher") for c in row)]
    assert measured == [0, 1, 2, 4, 5]
    for row in rows:
        assert any(column.startswith("logit") for column in row)
        assert "weight_norm" in row


def test_metrics_change_neither_the_folder_nor_what_is_learned(tiny: list[str]) -> None:
    folder = finish(only(tiny, "mlp"))
    plain = (arm_folders(folder)["mlp"] / "rows.jsonl").read_text().splitlines()
    words = [*only(tiny, "mlp"), "--metrics", "fisher", "logit", "--overwrite"]
    assert finish(words) == folder
    measured = (arm_folders(folder)["mlp"] / "rows.jsonl").read_text().splitlines()
    for row, other in zip(map(json.loads, plain), map(json.loads, measured), strict=True):
        assert row.items() <= other.items()
        assert len(row) < len(other)


@pytest.mark.slow
def test_preset_names_what_is_measured_where_the_command_does_not() -> None:
    def measured(*words: str, experiment=EXPERIMENT) -> tuple[str, ...]:
        return cli.parse(experiment, words)[1].metrics

    assert measured() == ()
    assert measured("--preset", "why") == ASKING_WHY
    assert measured("--preset", "why", "--metrics") == ()
    assert measured("--preset", "why", "--metrics", "ntk", "fresh") == ("ntk", "fresh")
    # All that there are, but what is always measured and what takes as long as a task.
    for experiment in [EXPERIMENT, *OTHERS]:
        if "why" in experiment.presets:
            asked = {*measured("--preset", "why", experiment=experiment), *experiment.metrics}
            assert asked == {*METRICS} - {"fresh"}


@pytest.mark.parametrize("name", [*EXPERIMENT.presets["why"].arms])
def test_an_arms_own_options_may_be_said_again(name: str) -> None:
    """As they are in the preset: nothing that stands there is refused."""
    arm = EXPERIMENT.presets["why"].arms[name]
    words = ["--preset", "why", "--arms", name]
    for field in dataclasses.fields(arm.network):
        value = getattr(arm.network, field.name)
        option = f"--{name}.{field.name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(option if value else f"--{name}.no-{field.name.replace('_', '-')}")
        else:
            words += [option, *map(str, value if isinstance(value, tuple) else [value])]
    assert cli.parse(EXPERIMENT, words)[0].arms == {name: arm}

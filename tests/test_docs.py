"""What the documentation says of columns, exports, presets, numbers and files is what there is."""

import dataclasses
import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.cli import parse as cli
from plasticity.results.record import read_rows

pytestmark = pytest.mark.pages

DOCS = Path(__file__).parents[1] / "docs"
SUPERVISED = ("mnist", "cifar", "qdata")
EXPERIMENTS = (*SUPERVISED, "ant")
PERCENT = re.compile(r"\d+\.\d+ ?%")
# The comment that says what the numbers below it are, and these, up to the next empty line.
RECORDED = re.compile(r"^<!-- recorded: ([^>]*?) -->\n(.*?)(?=\n\n|\Z)", re.DOTALL | re.MULTILINE)
SHORT = {
    **{name: ["--preset=quick", "--num-tasks=2"] for name in SUPERVISED},
    # Episodes end, the floor changes and one arm has angles: no column is missing.
    "ant": [
        "--env=tests.short:ShortAnt-v0", "--friction-period=96", "--total-steps=192",
        "--num-envs=3", "--n-steps=32", "--batch-size=16", "--evaluation-every=100",
        "--evaluation-episodes=2", "--mlp.pi=8", "--mlp.vf=8", "--mlp.epochs=2",
        "--qnn.num-qubits=5", "--qnn.depth=2", "--qnn.epochs=2", "--env-processes=0",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory):
    """Train both arms of an experiment for two tasks or updates, once; return the run folder."""
    found: dict[str, Path] = {}

    def train(name: str) -> Path:
        if name == "ant":
            for module in ("stable_baselines3", "gymnasium", "mujoco"):
                pytest.importorskip(module)
        if name not in found:
            folder = tmp_path_factory.mktemp(name)
            where = [f"--results={folder / 'results'}"]
            where += [f"--data-root={folder}"] if name in SUPERVISED else ["--tensorboard"]
            assert cli.main(experiment_of(name), [*SHORT[name], *where]) == 0
            (found[name],) = (folder / "results").iterdir()
        return found[name]

    return train


def experiment_of(name: str):
    return importlib.import_module(f"experiments.{name}").EXPERIMENT


def page(name: str) -> str:
    return (DOCS / "experiments" / f"{name}.md").read_text()


def section(text: str, heading: str) -> str:
    """Return what stands below a heading, up to the next one of its kind."""
    _, found, rest = text.partition(f"\n## {heading}\n")
    assert found, f"there is no section {heading!r}"
    return rest.partition("\n## ")[0]


def first_cells(text: str) -> list[str]:
    """Return what is in backticks in the first cells of a section's table."""
    cells = re.findall(r"^\|([^|]*)\|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def in_backticks(text: str) -> set[str]:
    return {*re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M))}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_page_explains_each_column_that_is_recorded_once_and_no_other(name: str, run_of) -> None:
    arms = [file.parent for file in run_of(name).glob("*/arm.json")]
    assert len(arms) == 2
    recorded = {column for arm in arms for row in read_rows(arm) for column in row}
    explained = first_cells(section(page(name), "Columns"))
    assert sorted(explained) == sorted(recorded)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_page_names_each_export_with_its_arrays(name: str, run_of) -> None:
    named = in_backticks(section(page(name), "Exports"))
    for arm, files in experiment_of(name).exports.released.items():
        (folder,) = run_of(name).glob(f"{arm}-*/")
        assert {path.name for path in folder.glob("*.np[yz]")} == {*files}
        for file in files:
            content = np.load(folder / file)
            assert {file, *getattr(content, "files", ())} <= named
    told = {word for word in named if word.endswith((".npy", ".npz")) and "<" not in word}
    assert told == {path.name for path in run_of(name).glob("*/*.np[yz]")}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_page_names_each_preset_and_no_other(name: str) -> None:
    assert first_cells(section(page(name), "Presets")) == [*experiment_of(name).presets]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_protocol_of_a_page_has_the_numbers_of_the_preset(name: str) -> None:
    released = experiment_of(name).presets["released"]
    rows = re.findall(r"^\| (.*?) \| (.*?) \| (.*?) \|$", section(page(name), "Protocol"), re.M)
    of_arms = {label: dict(zip(("mlp", "qnn"), cells, strict=True)) for label, *cells in rows}
    ((_, training),) = [row for row in of_arms.items() if row[0].startswith("epochs, batch size")]
    for name_of_arm, arm in released.arms.items():
        optimizer = of_arms["optimizer"][name_of_arm]
        epsilon = f"{arm.optimizer.epsilon:g}".replace("e-0", "e-")
        assert f"Adam, rate {arm.optimizer.learning_rate:g}, epsilon {epsilon}" in optimizer
        assert training[name_of_arm] == f"{arm.epochs}, {released.config.batch_size}"
    if name in SUPERVISED:
        assert re.match(r"[\d,]+", of_arms["tasks"]["mlp"])[0] == f"{released.config.num_tasks:,}"


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_page_on_results_names_each_file_of_a_run_folder(name: str, run_of) -> None:
    text = (DOCS / "results.md").read_text()
    run = run_of(name)
    of_experiments = {path.name for path in run.glob("*/*.np[yz]")}  # on their own pages
    paths = [*run.rglob("*")]
    # A folder that is gone names nothing, and would pass.
    there = {path.name for path in paths}
    assert {"config.json", "figure.png", "arm.json", "rows.jsonl", "checkpoint.pt"} <= there
    for path in paths:
        if path.name in of_experiments or path.parent.name == "tensorboard":
            continue
        if path.is_dir() and path.parent == run:  # an arm's
            continue
        shown = re.sub(r"\d{8}", "00000000", path.name) + "/" * path.is_dir()
        assert re.search(rf"(^|[\s`]){re.escape(shown)}([\s`]|$)", text, re.MULTILINE), shown


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_page_of_an_experiment_has_all_its_sections(name: str) -> None:
    headings = re.findall(r"^## (.*)$", page(name), re.MULTILINE)
    assert headings == [
        "Protocol", "Presets", "Options", "Columns", "Exports",
        "How to read the curves", "The figure",
    ]  # fmt: skip


def recorded_number(words: str) -> str:
    """Compute a number that a page names, such as ``"mnist-quick mlp first"``, from its record."""
    return docs_module("recorded").tenth(*words.split())


@pytest.mark.parametrize("path", sorted(DOCS.glob("**/*.md")), ids=lambda path: path.stem)
def test_measured_percentages_of_a_page_are_those_of_the_records(path: Path) -> None:
    text = path.read_text()
    of_records = RECORDED.findall(text)
    assert len(of_records) == text.count("<!-- recorded")
    for names, below in of_records:
        assert PERCENT.findall(below) == [recorded_number(words) for words in names.split(",")]
    assert not PERCENT.findall(RECORDED.sub("", text)), "numbers without a record"


def test_pages_with_measured_percentages_are_found() -> None:
    assert {path.stem for path in DOCS.glob("**/*.md") if RECORDED.search(path.read_text())} >= {
        "start", "mnist", "qdata",
    }  # fmt: skip


# After one task, runs of one program with three kinds of instructions (AVX512, AVX2, neither) agree
# to 2 of the 360 test images, 1e-5 of the weight norm and 2e-3 of the gradient's. After two more,
# the QNN's accuracies differ by 10 points. So the first two rows alone can be compared, with five
# times as much room. A record with another seed, rate or batch size is out of it.
NEAR = {
    "accuracies": ("test_accuracy", 0.0, (4.4 / 360, 4.4 / 360)),
    "weight_norms": ("weight_norm", 1.0, (1e-6, 5e-5)),
    "grad_norms": ("gradient_norm", 1.0, (1e-5, 1e-2)),
}


def test_first_tasks_of_the_quick_preset_are_those_of_its_record(tmp_path: Path) -> None:
    words = ["--preset=quick", "--num-tasks=2", f"--results={tmp_path}"]
    assert cli.main(experiment_of("mnist"), words) == 0
    for arm, prefix in (("mlp", "classical"), ("qnn", "quantum")):
        (folder,) = tmp_path.glob(f"*/{arm}-*/")
        rows = read_rows(folder)
        recorded = np.load(DOCS / "records/mnist-quick" / f"{prefix}_model_results.npz")
        for array, (column, relative, room) in NEAR.items():
            for row, value, most in zip(rows, recorded[array], room, strict=False):
                most = most * abs(value) if relative else most
                assert abs(row[column] - value) <= most, (arm, column, row["task"])


def test_two_records_of_one_command_say_the_same() -> None:
    for arm, prefix in (("mlp", "classical"), ("qnn", "quantum")):
        of_run = np.load(DOCS / "records/mnist-quick" / f"{prefix}_model_results.npz")
        of_study = np.load(DOCS / "records/studies/quick" / f"{arm}.npz")
        (place,) = np.flatnonzero(of_study["seeds"] == 0)
        for array, (column, *_) in NEAR.items():
            theirs = of_study[f"column.{column}"][place]
            assert np.array_equal(of_run[array].astype(np.float32), theirs), (arm, column)


def docs_module(name: str):
    """Import a program of the documentation."""
    specification = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_what_was_applied_is_the_study_with_the_defaults() -> None:
    assert docs_module("recorded").applied() in page("remedies")


def test_defaults_beside_published_numbers_are_those_of_the_registry() -> None:
    from plasticity.remedies import REMEDIES

    text = section(page("remedies"), "Defaults and published numbers")
    rows = re.findall(r"^\| `([\w-]+)` \| `([\w-]+)` \| (\S+) \|", text, re.MULTILINE)
    assert len(rows) == 8
    for remedy, option, default in rows:
        assert getattr(REMEDIES[remedy], option.replace("-", "_")) == float(default)


def test_glossary_explains_the_words_of_the_reports_in_order() -> None:
    text = (DOCS / "glossary.md").read_text()
    words = re.findall(r"^(\w+)\n: ", text, re.MULTILINE)
    assert words == sorted(words)
    assert {*words} == {
        "arm", "cell", "deficit", "drop", "early", "gap", "intervention", "late", "level", "preset",
        "protocol", "remedy", "slope",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["mnist-why", "qdata-why", "mnist-remedies"])
def test_tables_of_arms_and_remedies_are_those_of_the_pilots_records(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.syspath_prepend(DOCS)
    assert docs_module("redraw").table_of(name) == (DOCS / f"records/{name}.md").read_text()


@pytest.mark.parametrize("name", ["mnist", "digits"])
def test_table_of_a_run_on_a_device_is_that_of_its_records(name: str) -> None:
    from plasticity.on_device.table import table

    rows = read_rows(DOCS / "records" / f"device-{name}", "device.jsonl")
    lines = table({"quantum (QNN)": rows}).splitlines()
    rows_of_table = [line for line in lines if line.startswith("|")]
    assert len(rows_of_table) > 20
    assert "\n".join(rows_of_table) in page("device")


@pytest.mark.parametrize("name", sorted(p.name for p in (DOCS / "records/studies").iterdir()))
def test_table_of_a_study_is_that_of_its_records(name: str, tmp_path) -> None:
    from experiments.study import find
    from plasticity.studies.numbers import load_records
    from plasticity.studies.report import report_on

    report = report_on(load_records(DOCS / "records/studies" / name, find(name)), tmp_path)
    table = report.read_text().partition("## Verdicts")[2].split("\n\n")[1].strip()
    assert table in (DOCS / "studies" / "verdict.md").read_text()


@pytest.mark.parametrize("name", ["pilot", "verdict"])
def test_tables_of_pages_on_studies_are_those_of_the_records(name: str) -> None:
    text = (DOCS / "studies" / f"{name}.md").read_text()
    assert text.count("<!-- table: ") == {"pilot": 13, "verdict": 2}[name]
    assert docs_module("recorded").with_tables(text) == text


@pytest.mark.parametrize("name", ["mnist-why", "qdata-why"])
def test_records_of_the_pilot_are_of_the_study_that_the_pages_command_asks_for(name: str) -> None:
    from experiments.study import find
    from plasticity.studies.numbers import load_records

    found = load_records(DOCS / "records/pilot" / name)
    assert found.study.json() == dataclasses.replace(find(name), seeds=(0, 1, 2)).json()


@pytest.mark.parametrize("name", ["mnist-why", "qdata-why", "quick"])
def test_deficits_of_records_are_those_of_the_untrained_networks(name: str) -> None:
    recorded = docs_module("recorded")
    found, twins = recorded.of_study(name), recorded.twins_of(name)
    assert [*twins] and {*twins} <= {*found.study.arms}
    for arm, accuracies in twins.items():
        last = accuracies.shape[1]
        theirs = (
            found.columns[arm]["test_accuracy"][:, -last:]
            + found.columns[arm]["deficit"][:, -last:]
        )
        assert np.allclose(theirs, accuracies, atol=1e-6)
        assert np.isnan(found.columns[arm]["deficit"][:, :-last]).all()


def test_cost_of_the_pilot_is_that_of_its_records() -> None:
    text = (DOCS / "studies/pilot.md").read_text()
    seconds: dict[tuple[str, str], list[float]] = {}
    for row in (DOCS / "records/pilot/cost.csv").read_text().splitlines()[1:]:
        experiment, arm, _, spent = row.split(",")
        seconds.setdefault((experiment, arm), []).append(float(spent))
    assert len(seconds) == 38 + 22
    for experiment in ("mnist", "qdata"):
        means = {a: sum(s) / len(s) for (e, a), s in seconds.items() if e == experiment}
        for arm, mean in means.items():
            assert f"| `{arm}` | {mean:.0f} | {mean * 10 / 3600:.2f} |" in text
        total = sum(means.values())
        assert f"| all | {total:,.0f} | {total * 10 / 3600:.1f} |" in text


def test_pages_on_the_api_have_each_public_module_once() -> None:
    library = DOCS.parent / "plasticity"
    modules = {
        ".".join(path.relative_to(DOCS.parent).with_suffix("").parts)
        for path in library.glob("**/*.py")
        # The engine is the layer's own.
        if not path.stem.startswith("_") and "engine" not in path.parts
    }
    text = "".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    shown = re.findall(r"^\.\. automodule:: (\S+)$", text, re.MULTILINE)
    assert sorted({*shown} - {name for name in shown if f"{name}." in "".join(modules)}) == sorted(
        modules
    )
    assert len({*shown}) == len(shown)


def test_start_names_each_extra() -> None:
    import configparser

    setup = configparser.ConfigParser()
    setup.read(DOCS.parent / "setup.cfg")
    named = re.findall(r"^\| (`\[.*?) \|", (DOCS / "start.md").read_text(), re.MULTILINE)
    extras = [name for cell in named for name in re.findall(r"\[(\w+)\]", cell)]
    assert sorted(extras) == sorted(setup["options.extras_require"])


def test_results_explains_each_column_of_a_studys_summary(tmp_path: Path) -> None:
    from plasticity.studies.findings import changes, findings_of
    from plasticity.studies.numbers import load_records
    from plasticity.studies.report import _summary

    found = load_records(DOCS / "records/pilot/qdata-why")
    arms, _ = findings_of(found, "test_accuracy")
    order = [one.arm for one in arms]
    metrics = {"weight_norm": changes(found, order, "weight_norm")}
    columns = _summary(found, arms, order, metrics).partition("\n")[0].strip().split(",")
    text = section((DOCS / "results.md").read_text(), "The folder of a study's report")
    ends = ("", "_sd", "_low_90", "_high_90", "_low_95", "_high_95")
    explained = {*in_backticks(text)} - {"NAME"}
    groups = {*re.findall(r"group `(\w+)`", text)} - {"COLUMN_first", "COLUMN_last"}
    groups |= {"weight_norm_first", "weight_norm_last"}
    explained |= {group + end for group in groups for end in ends}
    assert {*columns} <= explained


def test_the_page_on_diagnoses_has_the_numbers_of_its_records() -> None:
    from plasticity.studies.causes import causes_of, causes_text
    from plasticity.studies.diagnosed import load_diagnosis

    page = (DOCS / "diagnose.md").read_text()

    def cells(text: str) -> list[list[str]]:
        rows = [line for line in text.splitlines() if line.startswith("| `")]
        return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]

    mlp = causes_of(load_diagnosis(DOCS / "records/diagnose/digits-mlp.npz"))
    table = cells(causes_text(mlp, 5))
    assert len(table) == 12
    assert [row for row in cells(page) if len(row) == 7] == table
    qnn = {c.intervention: c for c in causes_of(load_diagnosis(
        DOCS / "records/diagnose/digits-qnn.npz"
    ))}  # fmt: skip
    for name in ("none", "turns:3", "unwind"):
        low, high = qnn[name].level.interval_95 or (0.0, 0.0)
        assert f"{qnn[name].level.estimate:.1f} [{low:.1f}, {high:.1f}]" in page
    assert f"reaches\n{qnn['untrained'].level.estimate:.1f}: it has" in page


def test_the_table_of_causes_has_the_numbers_of_its_records() -> None:
    from plasticity.studies.causes import causes_of
    from plasticity.studies.diagnosed import load_diagnosis

    levels = [
        {
            cause.intervention: f"{cause.level.estimate:.1f}"
            for cause in causes_of(load_diagnosis(DOCS / f"records/diagnose/{name}.npz"))
        }
        for name in ("mnist-mlp", "xxz-mlp", "digits-mlp")
    ]
    page = (DOCS / "causes.md").read_text()
    found = re.findall(r"^\| `(\S+)` \| ([\d.]*) \| ([\d.]*) \| ([\d.]*) \|$", page, re.MULTILINE)
    assert [name for name, *_ in found] == [*levels[0]]
    for name, *cells in found:
        assert cells == [of.get(name, "") for of in levels]

"""What others install: a wheel has all that the folders have, and works without them."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import plasticity
from tests.test_from_python import PROMISED

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[1]
PACKAGES = ("plasticity", "experiments")
FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")


def missing() -> str:
    """Return what a wheel cannot be built without and is not here, or nothing."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    for requirement in map(Requirement, ["pip", *wanted]):
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            return f"{requirement}; here is none"
        if version not in requirement.specifier:
            return f"{requirement}; here is {version}"
    return ""


if missing():
    reason = f"a wheel is built with {missing()} (requirements-dev.txt)"
    pytest.skip(reason, allow_module_level=True)


def python(*arguments: str, cwd: Path, path: Path | None = None) -> str:
    """Run Python, which finds modules in ``path``, and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {} if path is None else {"PYTHONPATH": str(path)}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of a copy: a build leaves files behind, and takes up those of the one before."""
    copy, target = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in FILES:
        shutil.copy(ROOT / name, copy)
    for name in (*PACKAGES, "tests"):
        ignored = shutil.ignore_patterns("__pycache__", "data")
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check")
    python("-m", "pip", "wheel", *offline, f"--wheel-dir={target}", str(copy), cwd=copy)
    (file,) = target.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel is installed in, and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    offline = ("--no-index", "--no-deps", "--disable-pip-version-check")
    python("-m", "pip", "install", *offline, f"--target={folder}", str(wheel), cwd=wheel.parent)
    return folder


def test_wheel_has_all_files_of_all_folders_and_no_tests(wheel: Path) -> None:
    files = {file for package in PACKAGES for file in (ROOT / package).rglob("*.py")}
    data = {"plasticity/py.typed", "plasticity/tasks/digits_order.npy"}
    data |= {f"plasticity/studies/template/page.{kind}" for kind in ("html", "css", "js")}
    expected = {str(file.relative_to(ROOT)) for file in files} | data
    folders = {file.rpartition("/")[0] for file in expected}
    rooms = {"plasticity/studies", "experiments/cli", "experiments/studies"}
    assert folders >= {"plasticity/quantum/engine", "plasticity/learning"} | rooms
    assert wheel.name.startswith(f"quantum_plasticity-{plasticity.__version__}-py3-none-any")
    found = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in found if ".dist-info/" not in name} == expected


def test_installed_package_has_its_names_and_computes(installed: Path, tmp_path: Path) -> None:
    code = (
        "import plasticity, torch\n"
        "from plasticity import QNN, Brickwork, LogOdds\n"
        "outputs = QNN(Brickwork(4, 2), LogOdds(3))(torch.rand(5, 16))\n"
        "print(plasticity.__file__, plasticity.__version__, *outputs.shape)"
    )
    said = python("-c", code, cwd=tmp_path, path=installed).split()
    file = installed / "plasticity" / "__init__.py"
    assert said == [str(file), plasticity.__version__, "5", "3"]


@pytest.mark.parametrize("start", ["module", "script"])
def test_installed_commands_answer(installed: Path, tmp_path: Path, start: str) -> None:
    words = ["-m", "experiments"] if start == "module" else [str(installed / "bin" / "plasticity")]
    program = "python -m experiments" if start == "module" else "plasticity"
    listed = python(*words, cwd=tmp_path, path=installed)
    assert listed.startswith(f"usage: {program} COMMAND")
    assert "\n  mnist " in listed
    said = python(*words, "mnist", "--help", cwd=tmp_path, path=installed)
    assert said.startswith(f"usage: {program} mnist [-h] [OPTIONS]")
    assert "--preset" in said


@pytest.mark.slow
def test_what_is_promised_of_python_works_from_a_wheel_in_an_empty_folder(
    installed: Path, tmp_path: Path
) -> None:
    pytest.importorskip("distributed")
    without_frames = PROMISED.partition("run.frame(), found.frame()")[0]
    code = "import plasticity\nprint(plasticity.__file__)\n" + without_frames
    (tmp_path / "promised.py").write_text(
        f"if __name__ == '__main__':\n{textwrap.indent(code, '    ')}"
    )
    file, *findings = python("promised.py", cwd=tmp_path, path=installed).splitlines()
    assert file == str(installed / "plasticity" / "__init__.py")
    assert {line.split()[0] for line in findings} == {"mlp", "mlp-sphere"}
    assert (tmp_path / "folder" / "report.md").exists()


STUDY = """
from plasticity.studies.study import Study
STUDY = Study(
    name="small", question="Does it run?", experiment="mnist", preset="quick", arms=("linear",),
    seeds=(0,), settings={"num_tasks": 1},
)
"""


@pytest.mark.slow
def test_installed_study_is_not_led_astray_by_a_folder_called_experiments(
    installed: Path, tmp_path: Path
) -> None:
    pytest.importorskip("distributed")
    for package in ("experiments", "plasticity"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise ImportError('the user has own')")
    (tmp_path / "small.py").write_text(STUDY)
    study = [str(installed / "bin" / "plasticity"), "study", "small.py", "--results=results"]
    python(*study, "--workers=1", cwd=tmp_path, path=installed)
    (rows,) = tmp_path.glob("results/mnist-quick-seed0-*/linear-*/rows.jsonl")
    assert len(rows.read_text().splitlines()) == 1

"""What people who join use: sessions, hooks, workflows, lock and image name what there is."""

import configparser
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import plasticity

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
CI = (ROOT / ".ci/run").read_text()
SESSIONS = re.findall(r"^@nox\.session\ndef (\w+)", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
JOBS = {
    name: job
    for path in WORKFLOWS
    for name, job in yaml.safe_load(path.read_text())["jobs"].items()
}
STEPS = [step["run"] for job in JOBS.values() for step in job["steps"] if "run" in step]


def pins(name: str) -> dict[str, str]:
    """Return the versions that a file of requirements pins, by package."""
    lines = (ROOT / name).read_text().replace("\\\n", "").splitlines()
    found = [line.partition("#")[0].partition("--hash")[0].strip() for line in lines]
    requirements = [Requirement(line) for line in found if line and not line.startswith("-")]
    return {canonicalize_name(r.name): str(r.specifier) for r in requirements}


def test_session_lint_checks_what_ci_checks() -> None:
    text = (ROOT / "noxfile.py").read_text().partition("def lint")[2].partition("@nox")[0]
    run = [" ".join(re.findall(r'"([^"]+)"', line)) for line in re.findall(r"run\((.*)\)", text)]
    commands = re.findall(r"^ *((?:ruff|codespell|lint-imports|mypy)\b.*)$", CI, re.MULTILINE)
    assert run == commands
    assert len(run) == 5
    assert SESSIONS == ["lint", "tests", "full", "docs", "bench"]


def test_workflows_call_sessions_scripts_and_files_that_are_there() -> None:
    called = [name for step in STEPS for name in re.findall(r"nox --no-venv -s (\w+)", step)]
    assert sorted(called) == ["lint", "tests"]
    for step in STEPS:
        for script in re.findall(r"\.ci/\w+", step):
            assert (ROOT / script).stat().st_mode & 0o100
        for file in re.findall(r"-r (\S+)", step):
            assert (ROOT / file).is_file()
    assert JOBS["tests"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]


def test_nightly_workflow_tries_every_extra_of_the_script() -> None:
    (known,) = re.findall(r"^known=\((.*)\)$", (ROOT / ".ci/extras").read_text(), re.MULTILINE)
    assert JOBS["extras"]["strategy"]["matrix"]["extra"] == known.split()


def test_hooks_are_tools_that_are_pinned() -> None:
    (repo,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    packages = {"lint-imports": "import-linter", "end-of-file-fixer": "pre-commit-hooks"}
    programs = [hook["entry"].split()[0] for hook in repo["hooks"]]
    assert {*programs} == {"ruff", "codespell", "lint-imports", "end-of-file-fixer"}
    assert {packages.get(name, name) for name in programs} <= pins("requirements-dev.txt").keys()


def test_lock_has_the_pins_with_hashes_and_names_no_host() -> None:
    text = (ROOT / "requirements.lock").read_text()
    locked = pins("requirements.lock")
    assert {name: locked.get(name) for name in pins("requirements.txt")} == pins("requirements.txt")
    assert len(locked) > 50
    entries = re.split(r"\n(?=[a-z0-9])", text.partition("#\nabsl")[2])
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in text


def test_image_copies_what_is_there_and_all_that_a_build_needs() -> None:
    text = (ROOT / "Dockerfile").read_text()
    copied = [
        w for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for w in line.split()
    ]
    assert all((ROOT / name).exists() for name in copied)
    needed = {"setup.cfg", "pyproject.toml", "README.md", "LICENSE", "plasticity", "experiments"}
    assert {*copied} == needed | {"requirements.txt"}


def test_oldest_python_is_the_same_everywhere() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    lowest = parser["options"]["python_requires"].removeprefix(">=")
    assert lowest == JOBS["tests"]["strategy"]["matrix"]["python"][0]
    assert parser["mypy"]["python_version"] == lowest
    ruff = tomllib.loads((ROOT / ".ruff.toml").read_text())["target-version"]
    assert ruff == "py" + lowest.replace(".", "")


def test_citation_has_the_version_and_the_paper() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == plasticity.__version__
    (paper,) = cited["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Chen", "Zhang"]
    assert "2511.17228" in paper["url"]


def test_contributing_is_ten_lines_that_lead_to_what_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    assert len(re.findall(r"^\d+\. ", text, re.MULTILINE)) == 10
    links = re.findall(r"\]\(([^)#]+)", text)
    assert "docs/development.md" in links
    assert all((ROOT / link).exists() for link in links)

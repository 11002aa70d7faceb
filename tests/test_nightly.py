"""What the nightly script tries: every extra that there is, with commands that there are."""

import configparser
import re
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / ".ci/extras"


def test_nightly_script_tries_every_extra_but_that_of_developers() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    extras = {*parser["options.extras_require"]} - {"dev"}  # what .ci/run installs
    text = SCRIPT.read_text()
    (known,) = re.findall(r"^known=\((.*)\)$", text, re.MULTILINE)
    assert {*known.split()} == extras
    assert {*re.findall(r"^    (\w+)\)$", text, re.MULTILINE)} == extras


def test_extra_that_is_none_is_refused_before_anything_is_installed() -> None:
    done = subprocess.run([SCRIPT, "docs", "dcos"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: dcos: must be one of bench rl ")


# What the gallery and the pages of the API import is in the extra that builds them.
def test_extra_docs_has_what_the_pages_import() -> None:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    text = "\n".join(path.read_text() for path in (ROOT / "docs/examples").glob("*.py"))
    imported = {*re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE)}
    assert {"qiskit", "qiskit_aer", "stable_baselines3", "gymnasium"} <= imported
    docs = parser["options.extras_require"]["docs"]
    for extra in ("rl", "qiskit"):
        assert {*parser["options.extras_require"][extra].split()} <= {*docs.split()}

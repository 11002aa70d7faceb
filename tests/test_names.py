"""The names that ``plasticity`` itself offers: which there are, and that they are loaded late."""

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import plasticity

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[1]
# Those that README and the pages name.
PROMISED = {
    "QNN", "Ansatz", "Brickwork", "Staircase", "Ring", "LogOdds", "PauliZ", "SignedPauliZ",
    "Probabilities", "Learner", "train_on_stream", "Metric", "read_rows", "generator_for",
    "PermutedPixels", "ClassPairs", "SpinChainLevels", "load_images", "Experiment", "Study",
    "load_run", "load_runs", "load_study",
}  # fmt: skip


def seen_by_type_checkers() -> dict[str, str]:
    """Return the modules of the names in the block ``if TYPE_CHECKING``."""
    tree = ast.parse(Path(plasticity.__file__).read_text())
    (block,) = (
        node for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )  # fmt: skip
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    return {alias.asname or alias.name: node.module for node in imports for alias in node.names}


SEEN = seen_by_type_checkers()


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", plasticity.__all__)
def test_name_is_the_very_object_of_the_module_that_type_checkers_see(name: str) -> None:
    assert getattr(plasticity, name) is getattr(importlib.import_module(SEEN[name]), name)
    assert name in vars(plasticity)  # and is not looked for again


def test_names_are_listed_once_and_alike_everywhere() -> None:
    assert len(set(plasticity.__all__)) == len(plasticity.__all__)
    assert set(plasticity.__all__) == SEEN.keys()
    assert set(plasticity.__all__) >= PROMISED
    assert set(dir(plasticity)) >= {*plasticity.__all__, "__version__", "__path__"}


@pytest.mark.slow
def test_import_of_the_package_loads_no_other_a_name_what_it_needs_and_a_star_all() -> None:
    code = (
        "import json, sys\n"
        "import plasticity\n"
        "first = [dir(plasticity), list(sys.modules)]\n"
        "from plasticity import Brickwork, QNN\n"
        "print(json.dumps([*first, list(sys.modules), QNN.__module__, Brickwork.__module__]))\n"
        "from plasticity import *\n"
        "[eval(n) for n in plasticity.__all__]"  # all names at once
    )
    done = run(code)
    assert (done.returncode, done.stderr) == (0, "")
    names, before, after, *modules = json.loads(done.stdout)
    assert set(names) >= set(plasticity.__all__)
    assert not {"torch", "numpy", "tensorcircuit", "plasticity.seeding"} & set(before)
    assert {"torch", "plasticity.quantum.layer"} <= set(after)
    assert not {"plasticity.learning", "plasticity.tasks", "plasticity.results"} & set(after)
    assert modules == ["plasticity.quantum.layer", "plasticity.quantum.circuits"]


def test_unknown_name_is_an_error_as_of_any_module() -> None:
    def message(module: object) -> str:
        with pytest.raises(AttributeError) as error:
            _ = module.nonsense
        return str(error.value)

    assert message(plasticity) == message(json).replace("json", "plasticity")
    with pytest.raises(ImportError, match="cannot import name 'Qnn' from 'plasticity'"):
        exec("from plasticity import Qnn")

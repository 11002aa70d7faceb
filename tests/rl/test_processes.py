"""The fork server: it imports what the program would import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
FORK_SERVER = """
import multiprocessing
from plasticity.rl.processes import start_fork_server
import in_both
if __name__ == "__main__":
    multiprocessing.set_forkserver_preload(["in_both"])
    start_fork_server()
    with multiprocessing.get_context("forkserver").Pool(1) as pool:
        print(pool.apply(in_both.place))
"""


@pytest.mark.parametrize("start", ["program", "module"])
def test_fork_server_finds_modules_where_the_program_does(tmp_path: Path, start: str) -> None:
    for folder in (tmp_path / "program", tmp_path / "current"):
        folder.mkdir()
        (folder / "in_both.py").write_text(f"def place(): return {folder.name!r}")
        (folder / "forking.py").write_text(FORK_SERVER)
    done = subprocess.run(
        [sys.executable, *(["-m", "forking"] if start == "module" else ["../program/forking.py"])],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path / "current",
        capture_output=True,
        text=True,
        check=False,
    )
    place = "current" if start == "module" else "program"
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{place}\n", "")

"""``python -m experiments`` and ``plasticity``: the list of commands, and how they run one."""

import configparser
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.__main__ import summaries
from plasticity import __version__
from tests.experiments.test_commands import COMMANDS, HEAVY, ROOT, interrupted_at, run

pytestmark = pytest.mark.processes

QUICK = ["mnist", "--preset=quick", "--arms=mlp", "--num-tasks=1"]


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """What pip makes of the entry point in setup.cfg, in a folder of its own."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    name, _, place = parser["options.entry_points"]["console_scripts"].strip().partition(" = ")
    assert name == "plasticity"
    module, _, function = place.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    file = tmp_path / "bin" / name
    file.parent.mkdir()
    file.write_text(
        f"import sys\nfrom {module} import {function}\n"
        f"if __name__ == '__main__':\n    sys.exit({function}())\n"
    )
    return file


# --- the list


def test_all_commands_are_listed_with_a_line_each() -> None:
    done = run("-m", "experiments")
    assert (done.returncode, done.stderr) == (0, "")
    listed = dict(re.findall(r"^  (\w+) +(\S.*)$", done.stdout, re.MULTILINE))
    assert listed.keys() >= set(COMMANDS)
    for name, summary in listed.items():
        module = importlib.import_module(f"experiments.{name}")
        assert summary == module.__doc__.partition("\n")[0]
    assert run("-m", "experiments", "--help").stdout == done.stdout


def test_what_does_something_as_a_program_is_a_command(tmp_path: Path) -> None:
    guarded = 'if __name__ == "__main__":\n    print()\n'
    (tmp_path / "study.py").write_text(f'"""Many runs.\n\nAnd more."""\n{guarded}')
    (tmp_path / "measure.py").write_text(f"import no_such_module\n{guarded}")
    (tmp_path / "shared.py").write_text('"""No command."""\nif __name__ == "shared":\n    1\n')
    (tmp_path / "__main__.py").write_text(f'"""No command either."""\n{guarded}')
    assert summaries(str(tmp_path)) == {"measure": "", "study": "Many runs."}


LIST_MODULES = """
import json, runpy, sys
try:
    runpy.run_module("experiments", run_name="__main__", alter_sys=True)
except SystemExit as end:
    print(json.dumps([end.code or 0, list(sys.modules)]))
"""


@pytest.mark.parametrize(("words", "status"), [((), 0), (("mnsit",), 2), (("mnist", "--help"), 0)])
def test_answers_come_before_the_slow_imports(words: tuple[str, ...], status: int) -> None:
    done = run("-c", LIST_MODULES, *words)
    found, modules = json.loads(done.stdout.splitlines()[-1])
    assert found == status, done.stderr
    assert not HEAVY & set(modules)


# --- wrong use


@pytest.mark.parametrize(
    ("word", "way_out"),
    [
        ("mnsit", "did you mean mnist?"),
        ("--preset", "must be one of ant, bench, "),
        ("", "must be"),
    ],
)
def test_unknown_command_is_a_line_with_the_way_out(word: str, way_out: str) -> None:
    done = run("-m", "experiments", word, "--nonsense")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {word}: no such command; {way_out}")
    assert len(done.stderr.splitlines()) == 1


# --- a command, as by its own name


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "words", [["mnist", "--help"], ["ant", "--help"], ["ant", "--nonsense"], ["figures", "none"]]
)
def test_command_says_and_returns_what_it_does_by_its_own_name(
    words: list[str], script: Path
) -> None:
    command, *rest = words
    own = run("-m", f"experiments.{command}", *rest)
    said = " ".join(f"{own.stdout} | {own.stderr}".split())  # lines are broken elsewhere
    for start, program in (
        (["-m", "experiments"], "python -m experiments "), ([str(script)], "plasticity ")
    ):  # fmt: skip
        done = run(*start, *words)
        assert done.returncode == own.returncode
        # But for how it is called: in the usage line, and where a command is advised.
        expected = said.replace("python -m experiments.", program)
        assert " ".join(f"{done.stdout} | {done.stderr}".split()) == expected


HELP_OF_ALL = """
import contextlib, io, json, runpy, sys
script, *commands = sys.argv[1:]
said = {}
for command in commands:
    sys.argv = [script, command, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="__main__")
    said[command] = printed.getvalue()
print(json.dumps(said))
"""


def test_usage_says_how_the_command_was_called(script: Path) -> None:
    done = run("-c", HELP_OF_ALL, str(script), *COMMANDS)
    assert done.returncode == 0, done.stderr
    for command, printed in json.loads(done.stdout).items():
        assert printed.startswith(f"usage: plasticity {command} "), command
    for command in ("mnist", "figures"):
        said = run("-m", "experiments", command, "--help").stdout
        assert said.startswith(f"usage: python -m experiments {command} ")


def test_version_is_that_of_the_package(script: Path) -> None:
    for start in (["-m", "experiments"], [str(script)]):
        done = run(*start, "--version")
        assert (done.returncode, done.stdout) == (0, f"quantum-plasticity {__version__}\n")


def test_script_lists_the_commands_under_its_own_name(script: Path) -> None:
    done, module = run(str(script)), run("-m", "experiments")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == module.stdout.replace("python -m experiments", "plasticity")


@pytest.mark.slow
def test_script_is_not_led_astray_by_a_folder_called_experiments(
    tmp_path: Path, script: Path
) -> None:
    own = tmp_path / "own"
    for package in ("experiments", "plasticity"):
        (own / package).mkdir(parents=True)
        (own / package / "__init__.py").write_text(f"raise ImportError('{package} of the user')")
    done = subprocess.run(
        [sys.executable, str(script), *QUICK, f"--results={tmp_path}"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        cwd=own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (rows,) = tmp_path.glob("mnist-quick-*/mlp-*/rows.jsonl")
    assert len(rows.read_text().splitlines()) == 1


# --- how it ends


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("module", "words"), [("tyro", []), ("tyro", QUICK), ("torch", QUICK)])
def test_control_c_in_the_first_imports_is_a_line(
    tmp_path: Path, script: Path, module: str, words: list[str]
) -> None:
    path = interrupted_at(module, tmp_path)
    for start in (["-m", "experiments"], [str(script)]):
        done = run(*start, *words, path=path)
        assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped.\n")


def test_closed_pipe_ends_the_list_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run("-m", "experiments", stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.sampled(3)
def in_a_shell(
    program: str, streams: str, folder: Path, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a program of a few lines as ours begin, with streams as a shell has them."""
    begin = "import os, sys\nfrom experiments.processes import interrupts\ninterrupts.guard()\n"
    words = f"{shlex.quote(sys.executable)} -c {shlex.quote(begin + program)} {streams}"
    env = os.environ | {"PYTHONPATH": str(ROOT)} | more
    return subprocess.run(
        ["sh", "-c", words], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_what_is_printed_into_a_closed_stream_goes_nowhere(closed: str, tmp_path: Path) -> None:
    program = (
        "with open('file', 'w'):\n"
        "    for number, stream in enumerate((sys.stdout, sys.stderr), 1):\n"
        "        print(number, file=stream, flush=True)\n"
        "        os.write(number, b'%d\\n' % number)\n"
    )
    done = in_a_shell(program, closed, tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == ""
    assert done.stdout == ("1\n1\n" if closed == "2>&-" else "")
    assert done.stderr == ("2\n2\n" if closed == ">&-" else "")


def test_names_that_the_output_has_no_letters_for_are_printed_all_the_same(tmp_path: Path) -> None:
    program = r"print('caf\xe9', 'x\udcff')"
    done = in_a_shell(program, "", tmp_path, PYTHONIOENCODING="ascii:strict")
    assert (done.returncode, done.stdout, done.stderr) == (0, "caf\\xe9 x\\udcff\n", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_who_cannot_complain_goes_on(tmp_path: Path) -> None:
    program = (
        "from experiments.cli.words import complain\n"
        "complain('one')\ncomplain('two')\nprint('done')\n"
    )
    done = in_a_shell(program, "2>/dev/full", tmp_path)
    assert (done.returncode, done.stdout) == (0, "done\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
@pytest.mark.parametrize(
    ("streams", "words", "status"),
    [
        (">/dev/full", "", 1),
        (">/dev/full", "nosuch", 2),
        ("2>/dev/full", "nosuch", 2),
        (">&-", "", 0),
        ("2>&-", "nosuch", 2),
        ("<&- >&- 2>&-", "nosuch", 2),
    ],
)
def test_closed_and_full_streams_leave_the_status_as_it_is_and_no_traceback(
    streams: str, words: str, status: int
) -> None:
    command = f"{shlex.quote(sys.executable)} -m experiments {words} {streams}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert len((done.stdout + done.stderr).splitlines()) <= 1 or not words
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr

"""The command for studies: what it lists, what it refuses, and what its workers do."""

import dataclasses
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from experiments import study
from plasticity.errors import Failure
from plasticity.studies import clusters, report
from plasticity.studies import workers as engine
from plasticity.studies.cells import cells, folder_of
from plasticity.studies.study import Study
from tests.experiments.runs import snapshot, start
from tests.experiments.test_commands import run
from tests.studies.studying import ROOT, tiny_study, train_here, write_study

pytestmark = pytest.mark.usefixtures("empty_folder")

CLUSTER = (ROOT / "docs" / "studies" / "cluster.md").read_text()
RECIPES = re.findall(r"^(?:xargs|tr|parallel) .*cells\.txt.*$", CLUSTER, re.MULTILINE)


@pytest.fixture
def tiny(tmp_path: Path) -> Study:
    return tiny_study(tmp_path)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return tmp_path / "results"


# --- the command


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command in this process: status, and what it says on either stream."""

    def ask(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        status = study.main(words)
        return status, *capsys.readouterr()

    return ask


def test_help_lists_the_studies_with_a_line_each() -> None:
    printed = run("-m", "experiments.study", "--help").stdout
    listed = dict(re.findall(r"^  ([a-z][\w-]*): (\S.*)$", printed, re.MULTILINE))
    assert listed == study.summaries()
    assert {*listed} >= {"quick", "mnist-why", "qdata-why"}
    assert listed["quick"] == runpy.run_path(str(study.STUDIES / "quick.py"))["__doc__"].strip()


WRONG_USE = {
    "quik": (
        "error: quik: no such study; there are causes-circuits, causes-labels, causes-mnist, "
        "causes-qdata, cifar-deep, cifar-released, mnist-causal, mnist-matched, mnist-released, "
        "mnist-why, qdata-causal, qdata-released, qdata-resolved, qdata-why, quick, or name a "
        "FILE.py"
    ),
    "none.py": "none.py: there is no such file",
    "quick --seeds 0": "--seeds 0: must be 1 to",
    "quick --workers -2": "--workers -2: must be 1 to",
    "quick --list --report": "--list --report: say one of them",
    "quick --cluster tcp://x:1 --workers 2": "--workers: the cluster says how many",
    "quick --sedes 3": "--sedes: python -m experiments.study has no such option",
    "": "NAME|FILE.py",
}


@pytest.mark.parametrize("words", WRONG_USE)
def test_wrong_use_is_one_line_and_status_2(words: str, said: Callable[..., tuple]) -> None:
    status, printed, line = said(*words.split())
    assert (status, printed) == (2, "")
    assert WRONG_USE[words] in line
    assert len(line.splitlines()) == 1
    assert not Path("results").exists()


OWN = {
    "nothing": ("", "own.py: it has no STUDY = Study(...)"),
    "another value": ("STUDY = 3", "own.py: it has no STUDY"),
    "no Python": ("STUDY =", "own.py: SyntaxError"),
    "an error": ("1 / 0", "own.py: ZeroDivisionError: division by zero"),
    "a wrong study": (
        "from plasticity.studies.study import Study\n"
        "STUDY = Study('own', '?', 'mnist', 'quick', ('rnn',), (0,))",
        "own.py: UsageError: study own: arm rnn",
    ),
}


@pytest.mark.parametrize("what", OWN)
def test_a_file_that_is_no_study_is_one_line(what: str, said: Callable[..., tuple]) -> None:
    code, part = OWN[what]
    Path("own.py").write_text(code)
    status, printed, line = said("own.py", "--list")
    assert (status, printed) == (1, "")
    assert part in line
    assert len(line.splitlines()) == 1


OWN_ENTRIES = {
    "the network 'mine'": (
        "from plasticity.networks import NETWORKS\nNETWORKS['mine'] = NETWORKS['linear']",
        "('mlp', 'fresh:mine+l2')", (),
    ),
    "the network 'linear'": (
        "import dataclasses\nfrom plasticity.networks import NETWORKS\n"
        "NETWORKS['linear'] = dataclasses.replace(NETWORKS['linear'])",
        "('linear',)", (),
    ),
    "the remedy 'mine'": (
        "from plasticity.remedies import REMEDIES\nREMEDIES['mine'] = REMEDIES['l2']",
        "('mlp+mine',)", (),
    ),
    "the metric 'mine'": (
        "from plasticity.metrics import METRICS\nMETRICS['mine'] = METRICS['logit']",
        "('mlp',)", ("mine",),
    ),
}  # fmt: skip


@pytest.mark.usefixtures("registries")
@pytest.mark.parametrize("what", OWN_ENTRIES)
def test_what_a_study_file_registers_is_refused_at_once_since_cells_would_not_know_it(
    what: str, said: Callable[..., tuple]
) -> None:
    code, arms, metrics = OWN_ENTRIES[what]
    text = (
        "from plasticity.studies.study import Study\n{}\n"
        "STUDY = Study('own', '?', 'mnist', 'quick', {}, (0,), metrics={})\n"
    )
    Path("own.py").write_text(text.format(code, arms, metrics))
    status, printed, line = said("own.py", "--list")
    assert (status, printed) == (1, "")
    assert line.startswith(f"error: own.py: it registers {what}, which the commands of its cells")
    assert "modules=(" in line and len(line.splitlines()) == 2
    # What no cell asks for keeps nobody from anything.
    Path("own.py").write_text(text.format(code, "('qnn',)", ()))
    assert said("own.py", "--list")[0] == 0


@pytest.mark.usefixtures("registries")
def test_what_the_module_of_an_own_experiment_registers_is_known_to_the_cells(
    said: Callable[..., tuple], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path.cwd())
    code, *_ = OWN_ENTRIES["the network 'mine'"]
    Path("own_bench.py").write_text(f"{code}\nfrom experiments.mnist import EXPERIMENT\n")
    Path("own.py").write_text(
        "from plasticity.studies.study import Study\n"
        "STUDY = Study('own', '?', 'own_bench:EXPERIMENT', 'quick', ('mine',), (0,))\n"
    )
    status, printed, _ = said("own.py", "--list")
    assert status == 0
    assert "own_bench:EXPERIMENT" in printed


def test_what_a_study_file_prints_is_no_command_of_the_list(
    tiny: Study, tmp_path: Path, results: Path, said: Callable[..., tuple]
) -> None:
    file = write_study(tmp_path / "own.py", tiny)
    quiet = said(str(file), "--list", f"--results={results}")
    file.write_text(file.read_text() + "print(STUDY.digest())\n")
    loud = said(str(file), "--list", f"--results={results}")
    assert loud == (0, quiet[1], f"{tiny.digest()}\n")
    file.write_text("raise SystemExit(0)\n")
    status, _, line = said(str(file), "--list")
    assert (status, line) == (1, f"error: {file}: SystemExit: 0\n")


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_recipes_of_the_page_run_each_line_of_the_list_whatever_is_in_it(
    recipe: str, tmp_path: Path
) -> None:
    if shutil.which(recipe.split()[0]) is None:
        pytest.skip(f"{recipe.split()[0]} is not installed")
    names = ["it's here", 'a "b" c', "back\\slash", "plain"]
    lines = [shlex.join(["touch", str(tmp_path / name)]) for name in names]
    (tmp_path / "cells.txt").write_text("\n".join(lines) + "\n")
    subprocess.run(recipe, shell=True, cwd=tmp_path, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {"cells.txt", *names}


def test_a_schedulers_file_is_as_good_as_its_address(tmp_path: Path) -> None:
    for address in ("tcp://node1:8786", "node1:8786", "inproc://a/b.json"):
        assert study.address_in(address) == address
    file = tmp_path / "scheduler.json"
    with pytest.raises(Failure, match=r"scheduler\.json: No such file"):
        study.address_in(str(file))
    for content in ("", "[]", "{}", "no JSON"):
        file.write_text(content)
        with pytest.raises(Failure, match=r"scheduler\.json: it is no scheduler file"):
            study.address_in(str(file))
    file.write_text('{"type": "Scheduler", "address": "tcp://10.0.0.1:8786"}')
    assert study.address_in(str(file)) == "tcp://10.0.0.1:8786"


# --- reports that are there


def test_a_report_is_kept_from_one_of_fewer_complete_cells(
    tiny: Study, tmp_path: Path, results: Path, said: Callable[..., tuple],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for drawn in ("over_tasks", "level_against_drop"):  # which takes seconds
        monkeypatch.setattr(report, drawn, lambda *_, **__: Figure((1, 1)))
    file = write_study(tmp_path / "own.py", tiny)
    words = [str(file), "--report", f"--results={results}"]
    folder = results / "studies" / f"tiny-{tiny.digest()}"
    status, printed, line = said(*words)
    assert (status, printed) == (1, f"report: {folder / 'report.md'}\n")
    assert line.startswith("error: no seed of any arm is complete in ")
    assert "4 of 4 cells are not complete" in (folder / "report.md").read_text()
    train_here(cells(tiny)[0], results)
    assert said(*words)[0] == 0
    (tmp_path / "earlier").mkdir()
    shutil.copytree(folder / "records", tmp_path / "earlier" / "records")
    train_here(cells(tiny)[1], results)
    assert said(*words)[0] == 0
    before = snapshot(folder)
    # Neither other records nor run folders that are gone take its place.
    rows = folder_of(cells(tiny)[1], results) / "rows.jsonl"
    for more in (["--records", str(tmp_path / "earlier" / "records")], []):
        if not more:
            rows.rename(tmp_path / "rows")
        status, printed, line = said(*words, *more)
        assert (status, printed) == (1, "")
        assert f"{folder} has a report of 2 complete cells, and is kept: 1 of them" in line
        assert "(linear+l2-init seed 0)" in line and len(line.splitlines()) == 2
        assert snapshot(folder) == before
    (tmp_path / "rows").rename(rows)
    assert said(*words)[0] == 0
    shutil.rmtree(folder)
    assert said(*words, "--records", str(tmp_path / "earlier" / "records"))[0] == 0
    assert said(*words)[0] == 0  # of more than is there


def test_the_list_has_the_commands_of_the_cells_that_are_not_complete(
    tiny: Study, tmp_path: Path, results: Path, said: Callable[..., tuple]
) -> None:
    folder = tmp_path / "it's here"
    file = write_study(tmp_path / "own.py", tiny)
    train_here(cells(tiny)[1], folder)
    before = snapshot(folder)
    status, printed, _ = said(str(file), "--list", f"--results={folder}")
    assert status == 0
    expected = [cell.command(folder) for k, cell in enumerate(cells(tiny)) if k != 1]
    assert [shlex.split(line) for line in printed.splitlines()] == expected
    assert snapshot(folder) == before
    one = said(str(file), "--list", "--seeds=1", f"--results={folder}")[1]
    assert [shlex.split(line) for line in one.splitlines()] == expected[:1]
    more = said(str(file), "--list", "--seeds=3", f"--results={folder}")[1]
    assert len(more.splitlines()) == 5
    # Where we may not look, or cannot, a cell is not complete; its own command says why.
    for results in (tmp_path / ("x" * 300), tmp_path / "a\nb"):
        status, printed, _ = said(str(file), "--list", f"--results={results}")
        assert (status, len(printed.splitlines())) == (0, 4)


@pytest.mark.slow
def test_commands_of_the_list_give_the_records_of_the_cells_in_a_shell(
    tiny: Study, tmp_path: Path, results: Path, said: Callable[..., tuple]
) -> None:
    file = write_study(tmp_path / "own.py", tiny_study(tmp_path, seeds=(0,)))
    _, printed, _ = said(str(file), "--list", f"--results={results}")
    first, *_ = printed.splitlines()
    done = subprocess.run(
        first, shell=True, cwd="/", env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rest = said(str(file), "--list", f"--results={results}")[1]
    assert rest.splitlines() == printed.splitlines()[1:]


@pytest.mark.parametrize("package", ["distributed", "dask", "psutil"])
def test_without_distributed_a_line_says_what_to_install(
    package: str, tiny: Study, tmp_path: Path, said: Callable[..., tuple],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    file = write_study(tmp_path / "own.py", tiny)
    monkeypatch.setitem(sys.modules, package, None)
    status, printed, errors = said(str(file))
    assert (status, printed) == (1, "")
    assert errors.startswith("error: ")
    assert errors.endswith("pip install 'quantum-plasticity[study]'\n")
    assert len(errors.splitlines()) == 1


# --- the workers' side


@pytest.mark.slow
def test_what_a_command_printed_last_is_kept(tmp_path: Path) -> None:
    code = "print(*range(100), sep='\\n'); print(); raise SystemExit(3)"
    outcome = engine.run_command(["-c", code], str(tmp_path), "me")
    assert outcome.status == 3
    assert outcome.output.splitlines() == [str(k) for k in range(88, 100)]
    assert engine.outcome_text(outcome).startswith("status 3\n  88\n  89\n")
    killed = engine.run_command(["-c", "import os; os.kill(os.getpid(), 9)"], str(tmp_path), "me")
    assert engine.outcome_text(killed) == "killed by signal 9"
    assert not engine.RUNNING


def test_commands_of_others_are_not_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = []

    @dataclasses.dataclass(frozen=True)
    class Process:
        name: str

        def kill(self) -> None:
            killed.append(self.name)

    running = {Process("a"): "me", Process("b"): "you", Process("c"): "me"}
    monkeypatch.setattr(engine, "RUNNING", running)
    engine.stop_commands("me")
    assert killed == ["a", "c"]


class Workers:
    """A cluster of one worker, which is this process."""

    def __init__(self, **others: object) -> None:
        self.others = others

    def run(self, question: Callable[..., object], *arguments: object) -> dict[str, object]:
        answer = question(*arguments)
        return {"tcp://a:1": answer, "tcp://b:2": answer | self.others if self.others else answer}


def test_workers_with_other_versions_are_refused_by_name() -> None:
    clusters.check_workers(Workers(), "tcp://s:1")
    for name in ("quantum-plasticity", "commit", "torch"):
        with pytest.raises(Failure, match=f"^tcp://b:2 has {name} 0.0; here it is ") as refused:
            clusters.check_workers(Workers(**{name: "0.0"}), "tcp://s:1")
        assert "\n" not in str(refused.value)


def test_a_cluster_without_workers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workers, "run", lambda *arguments: {})
    with pytest.raises(Failure, match="tcp://s:1: it has no workers yet"):
        clusters.check_workers(Workers(), "tcp://s:1")


PROBE = """
import sys
from plasticity.studies.clusters import probe
print(probe(sys.argv[1]))
"""


class Strangers:
    """A cluster of one worker, which is another process and may see another folder."""

    def __init__(self, elsewhere: Path | None = None, unlocked: bool = False) -> None:
        self.elsewhere, self.unlocked = elsewhere, unlocked

    def run(self, question: Callable[..., object], path: str) -> dict[str, object]:
        assert question is clusters.probe
        if self.unlocked:
            Path(path).unlink()
            Path(path).touch()
        if self.elsewhere:
            path = str(self.elsewhere / Path(path).name)
        return {"tcp://b:2": run("-c", PROBE, path).stdout.strip()}


@pytest.mark.slow
def test_workers_share_the_folder_of_results_and_its_locks_or_are_refused(results: Path) -> None:
    clusters.check_folder(Strangers(), results)
    with pytest.raises(Failure, match=r"tcp://b:2: .* does not see files of "):
        clusters.check_folder(Strangers(elsewhere=results.parent), results)
    with pytest.raises(Failure, match=r"can lock a file .*\nName --results in a folder") as refused:
        clusters.check_folder(Strangers(unlocked=True), results)
    assert len(str(refused.value).splitlines()) == 2
    assert [*results.iterdir()] == []


# --- tuning


def test_tuning_lists_its_own_cells_and_writes_its_curve(
    tmp_path: Path, results: Path, said: Callable[..., tuple]
) -> None:
    tiny = tiny_study(tmp_path, arms=("mlp",), tuning_seeds=(8,), rates=(0.1, 0.01))
    file = write_study(tmp_path / "own.py", tiny)
    words = [str(file), "--tune", f"--results={results}"]
    status, printed, _ = said(*words, "--list")
    commands = [shlex.split(line) for line in printed.splitlines()]
    assert status == 0
    assert [c[c.index("--mlp.optimizer.learning-rate") + 1] for c in commands] == ["0.1", "0.01"]
    assert [c[c.index("--seed") + 1] for c in commands] == ["8", "8"]
    assert start(*commands[0][3:]) == 0
    status, printed, _ = said(*words, "--report")
    assert status == 0
    path = results / "studies" / f"tiny-{tiny.digest()}" / "tuning.md"
    assert printed == f"{path.read_text()}\ntuning: {path}\n"
    assert re.search(r"\| mlp \| \*\*0\.\d{4}\*\* \| none \| 0\.1, at the edge \|$", printed, re.M)
    # Of fewer seeds, it is kept.
    before = path.read_text()
    for rows in results.rglob("rows.jsonl"):
        rows.unlink()
    status, _, line = said(*words, "--report")
    assert (status, path.read_text()) == (1, before)
    assert f"{path} has 1 seeds of arms and values, what is read now has 0: it is kept." in line
    path.unlink()
    status, _, line = said(*words, "--report")
    assert (status, path.exists()) == (1, False)
    assert "no value has been tried" in line
    status, _, line = said(str(write_study(tmp_path / "other.py", tiny_study(tmp_path))), "--tune")
    assert (status, line) == (
        2, "error: --tune: the study tiny has no rates or no tuning_seeds (see --help)\n"
    )  # fmt: skip

"""Tests of run folders: what a kill, a full disk, an edit or a second process may do to them."""

import contextlib
import datetime
import hashlib
import importlib.metadata
import inspect
import io
import json
import os
import pickle
import platform
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
import torch

import plasticity
from plasticity.results import record
from plasticity.results.record import RecordError, config_hash, open_run, read_rows, run_name
from tests.waiting import PATIENCE

CONFIG = {"seed": 0, "networks": ["mlp", "qnn"], "learning_rate": 0.01}
NUM_ROWS = 3
LOCKS = ("lock", "lock.pid")


def scenario(results: str | Path, num_rows: int = NUM_ROWS, num_networks: int = 2) -> Path:
    """Train two networks and export, as an experiment does: what is there already is kept."""
    with record.open_run(results, "demo", CONFIG, command=["demo"]) as run:
        arms = [run.arm(name) for name in run.config["networks"][:num_networks]]
        for arm in arms:
            state = arm.load_state() or {"weights": torch.zeros(3), "step": 0}
            for step in range(len(arm.rows), num_rows):
                state = {"weights": state["weights"] + 0.1, "step": step + 1}
                arm.append({"task": step, "norm": state["weights"].norm().item()}, state)
        run.save_npz("numbers", norms=np.array([[row["norm"] for row in arm.rows] for arm in arms]))
    return run.path


def snapshot(folder: Path, *, without: tuple[str, ...] = LOCKS) -> dict[str, bytes]:
    """Return the bytes of all files below a folder, by relative name."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in without)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def numbers(folder: Path) -> dict[str, bytes]:
    """Return what has to be equal however often a run was interrupted."""
    return snapshot(folder, without=(*LOCKS, "provenance.json"))


def run_script(body: str, *arguments: object) -> str:
    """Run a program that knows `scenario` in a process of its own; return what it printed."""
    imports = "import sys\nfrom pathlib import Path\nimport numpy as np\nimport torch\n"
    names = f"from plasticity.results import record\n{CONFIG = }\n{NUM_ROWS = }\n"
    program = imports + names + inspect.getsource(scenario) + body
    environment = os.environ | {"PYTHONPATH": str(Path(record.__file__).parents[2])}
    command = [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]
    done = subprocess.run(
        command, env=environment, capture_output=True, check=False, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


commit_of_checkout = record.git_commit


@pytest.fixture(autouse=True, scope="module")
def without_git() -> Iterator[None]:
    """Spare every run two processes; one test asks for the commit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(record, "git_commit", lambda: None)
        yield


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    return scenario(tmp_path / "results")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return numbers(scenario(tmp_path_factory.mktemp("uninterrupted")))


# --- what a run folder holds


def test_run_folder_holds_config_provenance_rows_and_checkpoints(finished: Path) -> None:
    assert set(snapshot(finished)) == {
        "config.json",
        "provenance.json",
        "mlp/rows.jsonl",
        "mlp/checkpoint.pt",
        "qnn/rows.jsonl",
        "qnn/checkpoint.pt",
        "numbers.npz",
    }
    assert json.loads((finished / "config.json").read_text()) == CONFIG
    provenance = json.loads((finished / "provenance.json").read_text())
    assert provenance["command"] == ["demo"]
    assert provenance["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    assert datetime.datetime.fromisoformat(provenance["started"]).utcoffset() == datetime.timedelta(
        0
    )


def test_provenance_names_the_versions_of_all_that_may_decide_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(distribution: str) -> str:
        if distribution == "mujoco":
            raise importlib.metadata.PackageNotFoundError(distribution)
        return f"version of {distribution}"

    monkeypatch.setattr(importlib.metadata, "version", version)
    with open_run(tmp_path, "demo", CONFIG) as run:
        versions = json.loads((run.path / "provenance.json").read_text())["versions"]
    assert versions.pop("quantum-plasticity") == plasticity.__version__
    assert versions.pop("python") == platform.python_version()
    assert versions.pop("mujoco") is None
    assert versions == {
        name: f"version of {name}"
        for name in (
            "torch", "torchvision", "tensorcircuit-ng", "numpy", "scipy", "scikit-learn",
            "stable-baselines3", "gymnasium",
        )
    }  # fmt: skip


def test_every_package_of_the_provenance_is_one_that_setup_cfg_asks_for() -> None:
    # A name that is misspelt here would be noted as not installed for good.
    setup = (Path(__file__).parents[2] / "setup.cfg").read_text()
    for name in record._PACKAGES:
        assert re.search(rf"(^ +|\[){re.escape(name)}\b", setup, re.MULTILINE), name


def test_folder_name_ends_in_the_sha256_of_config_json(finished: Path) -> None:
    digest = hashlib.sha256((finished / "config.json").read_bytes()).hexdigest()
    assert finished.name == run_name("demo", CONFIG) == f"demo-{digest[:8]}"
    assert config_hash(CONFIG) == digest


def test_config_hash_ignores_key_order_and_nothing_else() -> None:
    assert config_hash(CONFIG) == config_hash(dict(reversed(CONFIG.items())))
    others = [CONFIG | {"seed": 1}, CONFIG | {"seed": 0.0}, CONFIG | {"more": None}, {}]
    assert len({config_hash(config) for config in [CONFIG, *others]}) == 5
    # Fixed for good: another value would orphan every run folder there is.
    assert config_hash({"a": [1, 0.1]}).startswith("279eb9bbfe3d6ac3")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_config_that_json_cannot_hold_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        open_run(tmp_path, "demo", {"a": value})
    assert not list(tmp_path.iterdir())


def test_different_configs_get_different_folders(tmp_path: Path) -> None:
    with open_run(tmp_path, "demo", CONFIG) as one, open_run(tmp_path, "demo", {"seed": 1}) as two:
        assert one.path != two.path


def test_configs_with_the_same_short_hash_do_not_share_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "run_name", lambda prefix, config: prefix)
    open_run(tmp_path, "demo", CONFIG).close()
    with pytest.raises(RecordError, match="another config"):
        open_run(tmp_path, "demo", {"seed": 1})


def test_rows_keep_key_order_and_every_digit(tmp_path: Path) -> None:
    row = {
        "z": 0.1 + 0.2,
        "a": 5e-324,
        "list": (1, 2),
        "text": "\N{GREEK SMALL LETTER PSI}\n",
        "n": None,
    }
    with open_run(tmp_path, "demo", CONFIG) as run:
        run.arm("mlp").append(row, {})
        kept = run.arm("mlp").rows
    (read,) = read_rows(run.path / "mlp")
    assert read == row | {"list": [1, 2]}
    assert kept == [read]
    assert list(read) == list(row)


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("-inf"), np.float64("inf"), [1.0, float("nan")], {"a": [float("inf")]}],
)
def test_column_that_is_not_finite_is_left_out_and_the_run_goes_on(
    tmp_path: Path, value: object
) -> None:
    row = {"task": 0, "norm": value, "loss": 1.0, "returns": [1.0, 2.0]}
    expected = [{"task": 0, "loss": 1.0, "returns": [1.0, 2.0]}, {"task": 1, "norm": 0.5}]
    with open_run(tmp_path, "demo", CONFIG) as run:
        arm = run.arm("mlp")
        arm.append(row, {})
        arm.append({"task": 1, "norm": 0.5}, {})
        assert arm.rows == expected
    assert "norm" in row  # the caller's own stays as it is
    assert read_rows(arm.path) == expected
    with open_run(tmp_path, "demo", CONFIG) as run:
        assert run.arm("mlp").rows == expected


def test_value_that_contains_itself_is_an_error_and_not_left_out(tmp_path: Path) -> None:
    circle: list[object] = []
    circle.append(circle)
    with open_run(tmp_path, "demo", CONFIG) as run, pytest.raises(ValueError, match="Circular"):
        run.arm("mlp").append({"task": 0, "circle": circle}, {})


def test_row_or_state_that_could_not_be_read_back_is_refused(tmp_path: Path) -> None:
    with open_run(tmp_path, "demo", CONFIG) as run:
        arm = run.arm("mlp")
        with pytest.raises(TypeError, match="'norm' of row 0"):
            arm.append({"norm": np.float32(1)}, {})
        with pytest.raises(TypeError, match=r"torch.load would refuse"):
            arm.append({"norm": 1.0}, {"path": Path("x")})
        assert not snapshot(arm.path)


def test_state_comes_back_as_it_was(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "generator": torch.get_rng_state(),
    }
    with open_run(tmp_path, "demo", CONFIG) as run:
        assert run.arm("mlp").load_state() is None
        run.arm("mlp").append({"task": 0}, state)
    with open_run(tmp_path, "demo", CONFIG) as run:
        read = run.arm("mlp").load_state()
        assert run.arm("mlp").rows == [{"task": 0}]
    torch.testing.assert_close(read, state, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a\\b", "config.json", "lock", "mlp.tmp"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with open_run(tmp_path, "demo", CONFIG) as run:
        before = snapshot(tmp_path)
        with pytest.raises(ValueError, match="cannot name"):
            run.arm(name)
        if name.endswith(("json", "tmp")):
            with pytest.raises(ValueError, match="cannot name"):
                run._save(name, "", io.BytesIO(b"x"))
        assert snapshot(tmp_path) == before
    with pytest.raises(ValueError, match="cannot name"):
        run_name("../demo", CONFIG)


def test_closed_run_takes_nothing_more(tmp_path: Path) -> None:
    with open_run(tmp_path, "demo", CONFIG) as run:
        arm = run.arm("mlp")
    before = snapshot(tmp_path)
    for write in (
        lambda: arm.append({"task": 0}, {}),
        lambda: run.save_npy("x", np.zeros(2)),
        lambda: run.arm("qnn"),
    ):
        with pytest.raises(RecordError, match="closed"):
            write()
    assert snapshot(tmp_path) == before


def test_rows_can_be_read_while_a_run_writes_them(tmp_path: Path) -> None:
    with open_run(tmp_path, "demo", CONFIG) as run:
        arm = run.arm("mlp")
        assert read_rows(arm.path) == []
        arm.append({"task": 0}, {})
        with open(arm.path / "rows.jsonl", "ab") as file:
            file.write(b'{"task": ')
        assert read_rows(str(arm.path)) == [{"task": 0}]
    with pytest.raises(RecordError, match="not a folder"):
        read_rows(tmp_path / "nowhere")


# --- exports


def test_equal_arrays_give_equal_files_on_another_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = {"accuracies": np.arange(6.0).reshape(2, 3), "name": np.array([1, 2])}
    with open_run(tmp_path, "demo", CONFIG) as run:
        first = run.save_npz("a.npz", **arrays)
        yesterday = time.time() - 100_000
        monkeypatch.setattr(time, "time", lambda: yesterday)
        monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(yesterday))
        second = run.save_npz("b", **arrays)
        assert first.read_bytes() == second.read_bytes()
        third = run.save_npy("c.npy", arrays["accuracies"])
    assert (first.name, second.name, third.name) == ("a.npz", "b.npz", "c.npy")
    with np.load(second, allow_pickle=False) as read:
        assert set(read) == set(arrays)
        for key, array in arrays.items():
            np.testing.assert_array_equal(read[key], array)
    np.testing.assert_array_equal(np.load(third), arrays["accuracies"])
    assert not list(run.path.glob("*.tmp"))


def test_array_of_objects_is_refused_and_the_old_export_stays(tmp_path: Path) -> None:
    with open_run(tmp_path, "demo", CONFIG) as run:
        run.save_npz("a", x=np.zeros(2))
        before = snapshot(tmp_path)
        with pytest.raises(ValueError, match=r"[Oo]bject"):
            run.save_npz("a", x=np.array([object()]))
        assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["figure", "figure.png", "figure.pdf"])
def test_equal_figures_give_equal_files(tmp_path: Path, name: str) -> None:
    with open_run(tmp_path, "demo", CONFIG) as run:
        figure = matplotlib.figure.Figure(figsize=(1, 1))
        figure.subplots().plot([1, 2])
        path = run.save_figure(name, figure)
        first = path.read_bytes()
        assert run.save_figure(name, figure).read_bytes() == first
        assert path.name == (name if "." in name else "figure.png")


# --- killed, interrupted


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_run_killed_at_any_instant_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    """Kill before every call that changes the disk and in the middle of every write; some twice."""
    body = """
import builtins, os, signal

def kill_at(limit):
    left = limit
    def tick(*half_write):
        nonlocal left
        left -= 1
        if left == 0:
            for step in half_write:
                step()
            os.kill(os.getpid(), signal.SIGKILL)
    def audit(event, arguments):
        if event in ("open", "os.mkdir", "os.remove", "os.rename"):
            tick()
    def ticking_fsync(descriptor, fsync=os.fsync):
        tick()
        fsync(descriptor)
    def halving_open(*arguments):
        file = builtins.open(*arguments)
        class Halving:
            def __enter__(self): return self
            def __exit__(self, *_): file.close()
            def __getattr__(self, name): return getattr(file, name)
            def write(self, data):
                tick(lambda: file.write(bytes(data)[:len(data) // 2]), file.flush)
                file.write(data)
        return Halving()
    record.open = halving_open
    os.fsync = ticking_fsync
    sys.addaudithook(audit)

def killed(limit, results):
    child = os.fork()
    if child == 0:
        kill_at(limit)
        scenario(results, 2, 1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL

record.git_commit = lambda: None   # it has a test of its own, and starts processes
scenario(sys.argv[1] + "/0", 2, 1)
limit = 1
while killed(limit, f"{sys.argv[1]}/{limit}"):
    if limit % 3 == 0:
        killed(1 + 7 * limit % 29, f"{sys.argv[1]}/{limit}")
    scenario(f"{sys.argv[1]}/{limit}", 2, 1)
    limit += 1
print(limit)
"""
    assert int(run_script(body, tmp_path)) > 40
    uninterrupted = numbers(tmp_path / "0")
    for results in tmp_path.iterdir():
        assert numbers(results) == uninterrupted, f"killed at {results.name}"


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # before `with` has it
def test_interrupted_append_is_kept_whole_or_not_at_all(tmp_path: Path) -> None:
    """Raise KeyboardInterrupt before every line of append and what it calls in record.py."""
    uninterrupted = numbers(scenario(tmp_path / "0", 2, 1))
    lengths = set()
    for limit in range(1, 1000):
        left = limit

        def trace(frame, event, argument):
            nonlocal left
            if frame.f_code.co_filename != record.__file__:
                return None
            if event == "line":
                left -= 1
                if left == 0:
                    raise KeyboardInterrupt
            return trace

        results = tmp_path / str(limit)
        scenario(results, 1, 1)
        old_trace = sys.gettrace()
        with contextlib.suppress(KeyboardInterrupt):
            with open_run(results, "demo", CONFIG) as run:
                arm = run.arm("mlp")
                weights = arm.load_state()["weights"] + 0.1
                row = {"task": 1, "norm": weights.norm().item()}
                sys.settrace(trace)
                try:
                    arm.append(row, {"weights": weights, "step": 2})
                except KeyboardInterrupt:
                    sys.settrace(old_trace)
                    if arm._unfinished:
                        with pytest.raises(RecordError, match="middle of a row"):
                            arm.append(row, {})
                    raise  # through the end of the block, which has to unlock the run
                finally:
                    sys.settrace(old_trace)
            break
        with open_run(results, "demo", CONFIG) as run:
            lengths.add(len(run.arm("mlp").rows))
        assert numbers(scenario(results, 2, 1)) == uninterrupted
    assert lengths == {1, 2}
    assert limit > 20


@pytest.mark.parametrize("num_kept", [0, 1, 2])
def test_unfinished_row_is_cut_off_wherever_it_was_cut(tmp_path: Path, num_kept: int) -> None:
    path = scenario(tmp_path, num_rows=num_kept) / "mlp"
    kept = (path / "rows.jsonl").read_bytes() if num_kept else b""
    line = b'{"task": 1, "norm": 0.25}\n'
    for length in range(len(line) + 1):
        (path / "rows.jsonl").write_bytes(kept + line[:length])
        (path / "checkpoint.pt.tmp").write_bytes(b"half")
        with open_run(tmp_path, "demo", CONFIG) as run:
            assert len(run.arm("mlp").rows) == num_kept
        assert (path / "rows.jsonl").read_bytes() == kept
        assert not (path / "checkpoint.pt.tmp").exists()


def test_folder_without_config_and_rows_is_a_new_run(
    tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    path = tmp_path / run_name("demo", CONFIG)
    path.mkdir()
    (path / "config.json.tmp").write_text('{"see')
    assert numbers(scenario(tmp_path)) == uninterrupted


# --- edited


def edit_checkpoint(path: Path, **changes: object) -> None:
    checkpoint = torch.load(path / "mlp/checkpoint.pt", weights_only=True)
    torch.save(checkpoint | changes, path / "mlp/checkpoint.pt")


def flip_a_stored_byte(path: Path) -> None:
    data = bytearray((path / "mlp/checkpoint.pt").read_bytes())
    with zipfile.ZipFile(path / "mlp/checkpoint.pt") as archive:
        (tensor,) = (info for info in archive.infolist() if info.filename.endswith("data/0"))
        stored = archive.read(tensor)
    data[data.index(stored)] ^= 1
    (path / "mlp/checkpoint.pt").write_bytes(data)


def replace_bytes(path: Path, name: str, old: bytes, new: bytes) -> None:
    data = (path / name).read_bytes()
    assert old in data
    (path / name).write_bytes(data.replace(old, new, 1))


EDITS = {
    "a digit of a row": (
        "rows.jsonl",
        lambda p: replace_bytes(p, "mlp/rows.jsonl", b": 1", b": 7"),
    ),
    "a row less": (
        "rows.jsonl",
        lambda p: (p / "mlp/rows.jsonl").write_bytes((p / "qnn/rows.jsonl").read_bytes()[:-1]),
    ),
    "two rows more": ("rows.jsonl", lambda p: append_text(p / "mlp/rows.jsonl", "{}\n{}\n")),
    "a row and a half more": ("rows.jsonl", lambda p: append_text(p / "mlp/rows.jsonl", "{}\n{")),
    "rows emptied": ("rows.jsonl", lambda p: (p / "mlp/rows.jsonl").write_text("")),
    "rows missing": ("rows.jsonl", lambda p: (p / "mlp/rows.jsonl").unlink()),
    "Windows line ends": (
        "rows.jsonl",
        lambda p: replace_bytes(p, "mlp/rows.jsonl", b"}\n", b"}\r\n"),
    ),
    "checkpoint missing": ("checkpoint.pt", lambda p: (p / "mlp/checkpoint.pt").unlink()),
    "checkpoint cut off": ("checkpoint.pt", lambda p: os.truncate(p / "mlp/checkpoint.pt", 300)),
    "checkpoint emptied": ("checkpoint.pt", lambda p: os.truncate(p / "mlp/checkpoint.pt", 0)),
    "a bit of a weight": ("checkpoint.pt", flip_a_stored_byte),
    "another config's checkpoint": (
        "another config",
        lambda p: edit_checkpoint(p, config_hash="0"),
    ),
    "checkpoint of more rows": ("rows.jsonl", lambda p: edit_checkpoint(p, rows=4)),
    "checkpoint without a count": ("checkpoint.pt", lambda p: edit_checkpoint(p, rows=None)),
    "not a checkpoint": ("checkpoint.pt", lambda p: torch.save([1], p / "mlp/checkpoint.pt")),
    "a value of the config": ("config.json", lambda p: replace_bytes(p, "config.json", b"0", b"1")),
    "config missing": ("config.json", lambda p: (p / "config.json").unlink()),
}


def open_first_arm(path: Path) -> None:
    with open_run(path.parent, "demo", CONFIG) as run:
        run.arm("mlp")


def append_text(path: Path, text: str) -> None:
    with open(path, "a") as file:
        file.write(text)


@pytest.mark.parametrize("edit", EDITS)
def test_edited_folder_is_refused_and_left_alone(finished: Path, edit: str) -> None:
    (finished / "mlp/checkpoint.pt.tmp").write_text("left by a kill")
    named, change = EDITS[edit]
    change(finished)
    before = snapshot(finished)
    with pytest.raises(RecordError, match=named) as refusal:
        open_first_arm(finished)
    assert str(finished) in str(refusal.value)
    assert "--overwrite" in str(refusal.value)
    assert len(str(refusal.value).splitlines()) <= 2
    assert snapshot(finished) == before


@pytest.mark.parametrize("place", ["checkpoint", "rows", "state"])
@pytest.mark.parametrize("function", [os.mkdir, os.system])
def test_checkpoint_is_read_without_running_its_code(
    finished: Path, place: str, function: Callable[..., object]
) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            argument = {os.mkdir: "{}", os.system: "echo > {}"}[function]
            return function, (argument.format(finished / "trapped"),)

    checkpoint = torch.load(finished / "mlp/checkpoint.pt", weights_only=True)
    planted = Trap() if place == "checkpoint" else checkpoint | {place: Trap()}
    torch.save(planted, finished / "mlp/checkpoint.pt")
    before = snapshot(finished)
    with pytest.raises(RecordError, match=r"checkpoint.pt cannot be used: .* none of it") as error:
        open_first_arm(finished)
    assert len(str(error.value).splitlines()) <= 2
    assert snapshot(finished) == before
    # The trap is one: whoever unpickles it falls into it.
    torch.load(finished / "mlp/checkpoint.pt", weights_only=False)
    assert (finished / "trapped").exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_bare_pickle_in_place_of_a_checkpoint_is_not_run(finished: Path, protocol: int) -> None:
    class Trap:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(finished / "trapped"),)

    (finished / "mlp/checkpoint.pt").write_bytes(pickle.dumps(Trap(), protocol))
    with pytest.raises(RecordError, match=r"checkpoint.pt cannot be used") as error:
        open_first_arm(finished)
    assert len(str(error.value).splitlines()) <= 2
    assert not (finished / "trapped").exists()


HOSTILE_ROWS = {
    "brackets in brackets": (b"[" * 200_000 + b"\n", "line 1 is not JSON"),
    "not an object": (b'{"task": 0}\n5\n', "line 2 is not a JSON object"),
    "no text": (b"\xff\xfe\x00\n", "line 1 is not JSON"),
    "a number of many digits": (b'{"task": ' + b"9" * 10_000 + b"}\n", "line 1 is not JSON"),
}


@pytest.mark.parametrize("case", HOSTILE_ROWS)
def test_rows_that_no_run_wrote_are_an_error_of_two_lines(tmp_path: Path, case: str) -> None:
    content, part = HOSTILE_ROWS[case]
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(RecordError, match=part) as error:
        read_rows(tmp_path)
    assert len(str(error.value).splitlines()) <= 2


def test_file_that_would_fill_the_memory_is_refused_unread(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = finished / "mlp/rows.jsonl"
    os.truncate(huge, 2**31)  # all but the beginning is a hole, which takes no room
    read_bytes = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda p: pytest.fail(f"read {p}") if p == huge else read_bytes(p)
    )
    for read in (lambda: read_rows(huge.parent), lambda: open_first_arm(finished)):
        with pytest.raises(RecordError, match=r"rows\.jsonl has 2147483648 bytes") as error:
            read()
        assert len(str(error.value).splitlines()) <= 2
    huge = finished / "config.json"
    os.truncate(huge, 2**31)
    with pytest.raises(RecordError, match=r"config\.json was edited"):
        open_first_arm(finished)


# --- links in place of files


@pytest.mark.parametrize(
    "name", ["config.json.tmp", "mlp/checkpoint.pt.tmp", "numbers.npz.tmp", "lock.pid"]
)
@pytest.mark.parametrize("dangling", [False, True])
def test_planted_link_is_not_written_through(tmp_path: Path, name: str, dangling: bool) -> None:
    outside = tmp_path / "outside"
    if not dangling:
        outside.write_text("precious")
    link = tmp_path / "results" / run_name("demo", CONFIG) / name
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    scenario(tmp_path / "results")
    assert outside.exists() != dangling
    assert dangling or outside.read_text() == "precious"
    assert not link.is_symlink()


def test_planted_link_is_removed_whenever_a_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("precious")
    (tmp_path / "file.tmp").symlink_to(tmp_path / "outside")
    record.replace_file(tmp_path / "file", b"new")
    assert (tmp_path / "outside").read_text() == "precious"
    assert not (tmp_path / "file").is_symlink()
    assert snapshot(tmp_path) == {"outside": b"precious", "file": b"new"}


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX")
def test_replaced_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        record.replace_file(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


# --- shared, overwritten


def test_second_opening_of_the_same_run_is_refused(tmp_path: Path) -> None:
    body = """
try:
    record.open_run(sys.argv[1], "demo", {"seed": 0}, overwrite=True)
except record.RecordError as error:
    print(error)
"""
    with open_run(tmp_path, "demo", {"seed": 0}) as run:
        run.arm("mlp").append({"task": 0}, {})
        before = snapshot(tmp_path, without=())
        with pytest.raises(RecordError, match=f"in use by another process .pid {os.getpid()}"):
            open_run(tmp_path, "demo", {"seed": 0}, overwrite=True)
        said = run_script(body, tmp_path)
        assert f"{run.path} is in use by another process (pid {os.getpid()})" in said
        assert snapshot(tmp_path, without=()) == before
        run.arm("mlp").append({"task": 1}, {})
    with open_run(tmp_path, "demo", {"seed": 0}) as run:
        assert len(run.arm("mlp").rows) == 2


def test_refused_folder_is_not_left_locked(finished: Path) -> None:
    text = (finished / "config.json").read_bytes()
    (finished / "config.json").write_text("{}")
    with pytest.raises(RecordError) as refusal:
        open_run(finished.parent, "demo", CONFIG)
    (finished / "config.json").write_bytes(text)
    open_run(finished.parent, "demo", CONFIG).close()
    assert "edited" in str(refusal.value)


def test_overwrite_removes_the_old_run_and_nothing_else(
    finished: Path, tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "rows.jsonl").write_text("precious")
    (finished / "link").symlink_to(outside)
    (finished / "config.json").write_text("edited")
    neighbour = scenario(finished.parent / "deeper")
    before = snapshot(neighbour)
    with open_run(finished.parent, "demo", CONFIG, overwrite=True):
        assert set(numbers(finished)) == {"config.json"}
        assert not (finished / "link").exists()
    assert (outside / "rows.jsonl").read_text() == "precious"
    assert snapshot(neighbour) == before
    assert numbers(scenario(finished.parent)) == uninterrupted


def test_reopening_a_finished_run_changes_nothing(finished: Path) -> None:
    (finished / "notes.txt").write_text("mine")
    before = snapshot(finished)
    with open_run(finished.parent, "demo", CONFIG, command=["another"]) as run:
        assert len(run.arm("mlp").rows) == NUM_ROWS
        assert run.config == CONFIG
    assert snapshot(finished) == before


# --- the disk


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_results_path_that_is_a_file_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "results").write_text("a file")
    with pytest.raises(RecordError, match=r"results.*not a folder.*\n.*--results") as refusal:
        open_run(tmp_path / "results" / below, "demo", CONFIG)
    assert len(str(refusal.value).splitlines()) == 2
    assert (tmp_path / "results").read_text() == "a file"


def test_results_that_cannot_be_written_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *arguments: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)  # the administrator may write everywhere
    with pytest.raises(RecordError, match=r"results: Permission denied.*\n.*--results"):
        open_run(tmp_path / "results", "demo", CONFIG)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of the file size are POSIX")
def test_run_stopped_by_a_full_disk_goes_on_once_there_is_room(
    tmp_path: Path, uninterrupted: dict[str, bytes]
) -> None:
    """Let no file grow beyond a limit, for limits that hit the config, the rows, the checkpoint."""
    body = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for limit in map(int, sys.argv[2:]):
    results = f"{sys.argv[1]}/{limit}"
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    error = None
    try:
        scenario(results)
    except record.RecordError as caught:
        error = str(caught)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    print(repr(error))
    scenario(results)
"""
    checkpoint = len(uninterrupted["mlp/checkpoint.pt"])
    limits = [0, 10, 200, checkpoint // 2, checkpoint - 1]
    said = run_script(body, tmp_path, *limits).splitlines()
    for message in said:
        assert "File too large" in message
        assert "the same command goes on" in message
        assert message.count("\\n") == 1
    for limit in limits:
        (folder,) = (tmp_path / str(limit)).iterdir()
        assert numbers(folder) == uninterrupted


@pytest.mark.parametrize("kept", [0, 7, None])
def test_row_that_meets_a_full_disk_is_written_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: dict[str, bytes],
    kept: int | None,
) -> None:
    class FullDisk(io.FileIO):
        def write(self, data: object) -> int:
            super().write(bytes(data)[:kept])
            raise OSError(28, "No space left on device")

    path = scenario(tmp_path, num_rows=1)
    with open_run(tmp_path, "demo", CONFIG) as run:
        arm = run.arm("mlp")
        with monkeypatch.context() as patch:
            patch.setattr(record, "open", lambda path, mode: FullDisk(path, "a"), raising=False)
            with pytest.raises(RecordError, match=r"mlp: No space left on device.*\n.*goes on"):
                arm.append({"task": 1}, {})
        assert len(arm.rows) == 1
        with pytest.raises(RecordError, match="Open the run again"):
            arm.append({"task": 1}, {})
    scenario(tmp_path)
    assert numbers(path) == uninterrupted


def test_append_is_flushed_to_the_disk_before_the_checkpoint_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        calls.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        calls.append(f"-> {Path(target).name}")
        replace(source, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("names of open files are read from /proc")
    with open_run(tmp_path, "demo", CONFIG) as run:
        arm = run.arm("mlp")
        monkeypatch.setattr(os, "fsync", note_fsync)
        monkeypatch.setattr(os, "replace", note_replace)
        arm.append({"task": 0}, {})
    assert calls == ["rows.jsonl", "checkpoint.pt.tmp", "-> checkpoint.pt", "mlp"]


def bytes_so_far() -> int:
    """Return how many bytes this process has read and written."""
    if not Path("/proc/self/io").exists():
        pytest.skip("bytes are counted in /proc")
    counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counts["rchar"]) + int(counts["wchar"])


def test_cost_of_a_row_does_not_grow_with_the_rows_before_it(tmp_path: Path) -> None:
    state = {"weights": torch.zeros(50_000)}
    with open_run(tmp_path, "demo", CONFIG) as run:
        arm = run.arm("mlp")
        arm.append({"task": 0}, state)
        costs = []
        for task in range(1, 51):
            before = bytes_so_far()
            arm.append({"task": task, "accuracy": 0.5}, state)
            costs.append(bytes_so_far() - before)
        # The second digit of the task is a byte of the row, and the number of rows one of the
        # checkpoint, which is padded; a row has 29 bytes.
        assert max(costs) - min(costs) < 200 < 50 * 29
        # Incremental: no row is read again.
        (arm.path / "rows.jsonl").rename(arm.path / "moved")
        arm.append({"task": 51}, state)
    append_text(arm.path / "moved", (arm.path / "rows.jsonl").read_text())
    os.replace(arm.path / "moved", arm.path / "rows.jsonl")
    with open_run(tmp_path, "demo", CONFIG) as run:
        assert len(run.arm("mlp").rows) == 52


# --- provenance


def test_commit_is_that_of_the_checkout_the_package_is_tracked_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    module = tmp_path / "record.py"
    module.write_text("first")
    monkeypatch.setattr(record, "__file__", str(module))
    assert commit_of_checkout() is None
    git("init")
    assert commit_of_checkout() is None  # inside a checkout, but not of it
    git("add", "record.py")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert commit_of_checkout() == commit
    os.utime(module, (0, 0))  # git looks at the content again, and would like to note that
    before = snapshot(tmp_path / ".git")
    assert commit_of_checkout() == commit
    module.write_text("second")
    assert commit_of_checkout() == f"{commit}-dirty"
    (tmp_path / "untracked").write_text("")
    assert commit_of_checkout() == f"{commit}-dirty"
    assert snapshot(tmp_path / ".git") == before

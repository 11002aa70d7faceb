"""Tests of the levels' cache: kills, edits, full disks, several processes at once."""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from plasticity.tasks import levels
from plasticity.tasks.levels import load_levels
from plasticity.tasks.spinchain import DELTAS, eigensystem, resolved_levels
from tests.tasks.test_images import message_of
from tests.waiting import PATIENCE, killed_on_failure, wait_until

FILES = {"states.npy", "energies.npy", "manifest.json"}
LOAD = "load_levels(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))"
# The build stops after some deltas until the test closes this process's standard input.
# The states of the next deltas are on the disk then, their energies are not.
HELD = """
import itertools, os
write, energies = levels._Array.write, itertools.count()
def held(array, rows, values):
    if array.path.name == "energies.npy" and next(energies) >= {num_done}:
        os.read(0, 1)
    write(array, rows, values)
levels._Array.write = held
"""


def start(body, *arguments, said=subprocess.PIPE):
    """Start a program that knows the module in a process of its own."""
    imports = "import sys\nfrom pathlib import Path\nfrom plasticity.tasks import levels\n"
    program = f"{imports}from plasticity.tasks.levels import load_levels\n{body}"
    environment = os.environ | {"PYTHONPATH": str(Path(levels.__file__).parents[2])}
    command = [sys.executable, "-W", "error", "-c", program, *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": said, "text": True}
    return subprocess.Popen(command, env=environment, **pipes)


def content(root):
    """Return the bytes of all files of the one chain below a folder, without the lock."""
    (folder,) = root.iterdir()
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "lock"}


def num_finished(root):
    """Return how many deltas the journal of the one chain below a folder lists."""
    return sum(file.read_text().count("\n") for file in root.glob("*/journal.jsonl"))


def start_and_wait(body, num_done, root, **more):
    """Start a build that stops after some deltas, and return once it has."""
    process = start(HELD.format(num_done=num_done) + body, 6, "all", root, **more)
    with killed_on_failure(process):
        wait_until(lambda: num_finished(root) == num_done, lambda: process.poll() is None)
    return process


@pytest.fixture(scope="module", params=["all", "resolved"])
def built(request, tmp_path_factory):
    """Return a finished chain and its root; tests copy it before they change anything."""
    root = tmp_path_factory.mktemp(request.param)
    return load_levels(6, request.param, root), root


@pytest.fixture
def copied(built, tmp_path):
    chain, root = built
    shutil.copytree(root, tmp_path / "copy")
    return chain, tmp_path / "copy"


@pytest.fixture
def solved(monkeypatch):
    """Note the deltas that are diagonalized."""
    calls = []

    def note(num_sites, delta):
        calls.append(delta)
        return eigensystem(num_sites, delta)

    monkeypatch.setattr(levels, "eigensystem", note)
    return calls


def test_states_are_those_of_the_solver_in_float32(built):
    chain, root = built
    with levels._one_torch_thread():
        if chain.kind == "all":
            solutions = [eigensystem(6, delta) for delta in DELTAS]
            energies, states = (np.stack(arrays) for arrays in zip(*solutions, strict=True))
        else:
            energies, states = resolved_levels(6, DELTAS)
    np.testing.assert_array_equal(chain.energies, energies)
    np.testing.assert_array_equal(chain.deltas, DELTAS)
    assert chain.num_levels == states.shape[1] == (64 if chain.kind == "all" else 3)
    assert (chain.num_sites, chain.name) == (6, f"XXZ chain of 6 sites, {chain.kind} levels")
    for level in range(chain.num_levels):
        of_level = chain.states(level)
        assert of_level.dtype == np.float32 and of_level.flags.owndata
        np.testing.assert_array_equal(of_level, states[:, level].astype(np.float32))
    assert set(content(root)) == FILES
    (folder,) = root.iterdir()
    assert np.load(folder / "states.npy").shape == (chain.num_levels, 201, 64)
    assert np.load(folder / "energies.npy").shape == (201, chain.num_levels)


def test_finished_chain_is_read_and_nothing_else(built, solved, capsys):
    chain, root = built
    before = content(root)
    again = load_levels(6, chain.kind, root)
    assert again.digest == chain.digest and len(chain.digest) == 64
    assert not solved and content(root) == before
    assert capsys.readouterr() == ("", "")


def test_chains_do_not_share_folders_or_digests(tmp_path):
    chains = [load_levels(4, "all", tmp_path), load_levels(5, "all", tmp_path)]
    chains += [load_levels(4, "resolved", tmp_path), load_levels(5, "resolved", tmp_path)]
    assert len({chain.digest for chain in chains}) == len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("level", [-1, 64, 1000])
def test_level_that_there_is_not_is_an_error(tmp_path, level):
    with pytest.raises(IndexError, match=rf"no level {level} of 16"):
        load_levels(4, "all", tmp_path).states(level)


def test_content_does_not_depend_on_workers_or_threads_and_threads_are_put_back(
    built, tmp_path, monkeypatch
):
    chain, root = built
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    for cores in (1, 5):
        monkeypatch.setattr(levels, "_num_cores", lambda cores=cores: cores)
        assert load_levels(6, chain.kind, tmp_path / str(cores)).digest == chain.digest
        assert content(tmp_path / str(cores)) == content(root)
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


@pytest.mark.slow
def test_content_does_not_depend_on_the_threads_of_the_environment(tmp_path, monkeypatch):
    # A thread of a pool has OpenMP's own default, whatever torch was told in the main thread.
    processes = []
    for threads in ("1", "2"):
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
        processes.append(start(LOAD, 6, "all", tmp_path / threads))
    for process in processes:
        _, said = process.communicate()
        assert process.returncode == 0, said
    assert content(tmp_path / "1") == content(tmp_path / "2")


# --- stopped ------------------------------------------------------------------------------------


@pytest.mark.sampled(5)
@pytest.mark.parametrize("num_done", [0, 1, 77, 200])
@pytest.mark.parametrize("reason", [KeyboardInterrupt, MemoryError])
def test_stopped_build_goes_on_and_ends_the_same(built, tmp_path, monkeypatch, num_done, reason):
    chain, root = built
    write = levels._Array.write
    written = []

    def stop(array, rows, values):
        if array.path.name == "energies.npy":
            if len(written) == num_done:
                # What other workers have finished might come into the journal later, or never.
                wait_until(lambda: num_finished(tmp_path) == num_done)
                raise reason
            written.append(rows)
        write(array, rows, values)

    monkeypatch.setattr(levels, "_num_cores", lambda: 1)
    with monkeypatch.context() as patch:
        patch.setattr(levels._Array, "write", stop)
        with pytest.raises(reason):
            load_levels(6, chain.kind, tmp_path)
    (journal,) = tmp_path.glob("*/journal.jsonl")
    assert journal.read_text().count("\n") == num_done
    written.clear()
    with monkeypatch.context() as patch:
        patch.setattr(levels._Array, "write", lambda *a: (written.append(a), write(*a)))
        assert load_levels(6, chain.kind, tmp_path).digest == chain.digest
    assert len(written) == 2 * (201 - num_done)  # states and energies
    assert content(tmp_path) == content(root)


@pytest.mark.slow
def test_killed_build_goes_on_and_ends_the_same(tmp_path, solved, capsys):
    process = start_and_wait(LOAD, 40, tmp_path / "killed")
    process.kill()
    process.communicate()
    (journal,) = (tmp_path / "killed").glob("*/journal.jsonl")
    text = journal.read_text()
    journal.write_text(text[:-3])  # as if killed in the middle of a line
    chain = load_levels(6, "all", tmp_path / "killed")
    assert text.count("\n") == 40
    assert len(solved) == 201 - 40 + 1
    assert load_levels(6, "all", tmp_path / "whole").digest == chain.digest
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert "warning" not in capsys.readouterr().err


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_a_build_at_once_and_keeps_what_is_finished(built, tmp_path, monkeypatch):
    """Press it while every worker is at a delta; no further one is begun."""
    chain, root = built
    write, pool = levels._Array.write, levels.ThreadPoolExecutor
    num_workers = {"all": 2, "resolved": 1}[chain.kind]
    begun, stopping, all_held = [], threading.Event(), threading.Barrier(num_workers)

    def held(array, rows, values):
        if array.path.name == "energies.npy":
            begun.append(rows)
            if 5 < len(begun) <= 5 + num_workers:
                wait_until(lambda: num_finished(tmp_path) == 5)
                if all_held.wait(PATIENCE) == 0:
                    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                assert stopping.wait(PATIENCE)
        write(array, rows, values)

    class Pool(pool):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            stopping.set()
            super().shutdown(wait=wait)

    monkeypatch.setattr(levels, "_num_cores", lambda: 2)
    with monkeypatch.context() as patch:
        patch.setattr(levels._Array, "write", held)
        patch.setattr(levels, "ThreadPoolExecutor", Pool)
        with pytest.raises(KeyboardInterrupt):
            load_levels(6, chain.kind, tmp_path)
    assert len(begun) == 5 + num_workers
    assert num_finished(tmp_path) == 5 + num_workers  # what was at work is finished and noted
    assert load_levels(6, chain.kind, tmp_path).digest == chain.digest
    assert content(tmp_path) == content(root)


def test_what_a_journal_says_is_not_believed(tmp_path, monkeypatch, capsys, solved):
    """Lose what was written of some deltas, as a power cut may."""
    whole = load_levels(6, "all", tmp_path / "whole")
    write, energies = levels._Array.write, []

    def cut_off(array, rows, values):
        if array.path.name == "energies.npy":
            energies.append(rows)
            if len(energies) > 10:
                wait_until(lambda: num_finished(tmp_path / "cut") == 10)
                raise KeyboardInterrupt
        write(array, rows, values)

    with monkeypatch.context() as patch:
        patch.setattr(levels._Array, "write", cut_off)
        with pytest.raises(KeyboardInterrupt):
            load_levels(6, "all", tmp_path / "cut")
    (journal,) = (tmp_path / "cut").glob("*/journal.jsonl")
    lost = json.loads(journal.read_text().splitlines()[3])[0]
    num_done = journal.read_text().count("\n")
    array = np.lib.format.open_memmap(journal.parent / "states.npy", mode="r+")
    array[5, lost] = 0
    array.flush()
    with open(journal, "a") as file:
        file.write('[7]\n[{}, 1]\n"x"\n[400, "a"]\n\xff\n')
    solved.clear()
    assert load_levels(6, "all", tmp_path / "cut").digest == whole.digest
    assert DELTAS[lost] in solved and len(solved) == 201 - num_done + 1
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    assert "not as recorded" in capsys.readouterr().err


# --- edited -------------------------------------------------------------------------------------


def flip(file, position):
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


def edit_manifest(change):
    def edit(folder):
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return edit


def swap(manifest):
    digests = manifest["digests"]
    digests[3], digests[8] = digests[8], digests[3]


# What is done to a folder; words of the warning.
EDITS = {
    "bit of a state": (lambda f: flip(f / "states.npy", 5000), ["1 of 201 deltas"]),
    "last bit": (lambda f: flip(f / "states.npy", -4), ["1 of 201 deltas"]),
    "bit of an energy": (lambda f: flip(f / "energies.npy", -8), ["1 of 201 deltas"]),
    "bit of a header": (lambda f: flip(f / "states.npy", 20), ["states.npy", "cut off"]),
    "states cut off": (lambda f: os.truncate(f / "states.npy", 40_000), ["states.npy", "cut off"]),
    "states longer": (lambda f: os.truncate(f / "states.npy", 10**7), ["states.npy", "cut off"]),
    "energies emptied": (lambda f: os.truncate(f / "energies.npy", 0), ["energies.npy"]),
    "states missing": (lambda f: (f / "states.npy").unlink(), ["states.npy", "missing"]),
    "no JSON": (lambda f: os.truncate(f / "manifest.json", 99), ["manifest.json is no manifest"]),
    "emptied": (lambda f: os.truncate(f / "manifest.json", 0), ["manifest.json is no manifest"]),
    "a list": (lambda f: (f / "manifest.json").write_text("[]"), ["manifest.json is no manifest"]),
    "binary": (lambda f: (f / "manifest.json").write_bytes(b"\xff\0"), ["manifest.json"]),
    "other format": (edit_manifest(lambda m: m["key"].update(format=0)), ["another chain"]),
    "other grid": (edit_manifest(lambda m: m["key"]["deltas"].pop()), ["another chain"]),
    "digest too few": (edit_manifest(lambda m: m["digests"].pop()), ["a digest for each delta"]),
    "digest a number": (edit_manifest(lambda m: m["digests"].__setitem__(0, 7)), ["a digest"]),
    "digests swapped": (edit_manifest(swap), ["2 of 201 deltas"]),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes that have a name")
@pytest.mark.parametrize("name", ["states.npy", "manifest.json"])
def test_pipe_in_place_of_a_file_is_not_waited_for_but_replaced(copied, name):
    chain, root = copied
    before = content(root)
    file = next(root.glob(f"*/{name}"))
    file.unlink()
    os.mkfifo(file)
    assert load_levels(6, chain.kind, root).digest == chain.digest
    assert content(root) == before


@pytest.mark.sampled(10)
@pytest.mark.parametrize("edit", EDITS)
def test_edited_chain_is_repaired_with_a_warning(copied, capsys, solved, edit):
    chain, root = copied
    before = content(root)
    (folder,) = root.iterdir()
    change, words = EDITS[edit]
    change(folder)
    assert content(root) != before
    assert load_levels(6, chain.kind, root).digest == chain.digest
    warning = next(line for line in capsys.readouterr().err.splitlines() if "warning: " in line)
    assert all(word in warning for word in [str(folder), "anew", *words])
    assert content(root) == before
    if chain.kind == "all":
        broken = [int(word) for word in words[0].split() if word.isdecimal()]
        assert len(solved) == (broken[0] if broken else 201)
    load_levels(6, chain.kind, root)
    assert capsys.readouterr().err == ""


def test_files_of_another_chain_under_this_name_are_replaced(copied, tmp_path, capsys):
    chain, root = copied
    before = content(root)
    other = load_levels(6, {"all": "resolved", "resolved": "all"}[chain.kind], tmp_path / "other")
    assert other.digest != chain.digest
    (folder,), (foreign,) = root.iterdir(), (tmp_path / "other").iterdir()
    shutil.copytree(foreign, folder, dirs_exist_ok=True)
    assert load_levels(6, chain.kind, root).digest == chain.digest
    assert "manifest.json is the manifest of another chain" in capsys.readouterr().err
    assert content(root) == before


def test_replacing_another_manifest_can_be_interrupted(copied, monkeypatch, solved):
    chain, root = copied
    before = content(root)
    (folder,) = root.iterdir()
    EDITS["other format"][0](folder)
    write = levels._Array.write
    calls = []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) > 100:
            wait_until(lambda: num_finished(root) >= 45)
            raise KeyboardInterrupt
        write(*arguments)

    os.truncate(folder / "states.npy", 0)
    with monkeypatch.context() as patch:
        patch.setattr(levels._Array, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            load_levels(6, chain.kind, root)
    calls.clear()
    monkeypatch.setattr(levels._Array, "write", lambda *a: (calls.append(a), write(*a)))
    assert load_levels(6, chain.kind, root).digest == chain.digest
    assert len(calls) <= 2 * 201 - 90
    assert content(root) == before


def test_old_journal_or_missing_manifest_costs_nothing_but_time(copied, capsys):
    chain, root = copied
    before = content(root)
    (folder,) = root.iterdir()
    (folder / "manifest.json").unlink()
    (folder / "journal.jsonl").write_bytes(b"rubbish\n\xff")
    assert load_levels(6, chain.kind, root).digest == chain.digest
    assert content(root) == before


def test_file_that_shrinks_while_in_use_is_an_error(copied):
    chain, root = copied
    chain = load_levels(6, chain.kind, root)
    (folder,) = root.iterdir()
    os.truncate(folder / "states.npy", 2000)
    assert "states.npy was cut off" in message_of(chain.states, chain.num_levels - 1)
    (folder / "states.npy").unlink()
    assert "states.npy: No such file" in message_of(chain.states, 0)


# --- several processes --------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_at_once_share_the_work(tmp_path):
    root, report = tmp_path / "root", tmp_path / "said by the second"
    body = f"print({LOAD}.digest)"
    first = start_and_wait(body, 3, root)
    with open(report, "w") as file:
        second = start(body, 6, "all", root, said=file)
    wait_until(lambda: "waiting" in report.read_text(), lambda: second.poll() is None)
    # This closes the standard input for which the first one waits.
    (digest, said), (again, _) = (p.communicate(timeout=PATIENCE) for p in (first, second))
    said_second = report.read_text()
    assert digest == again == load_levels(6, "all", root).digest + "\n"
    assert "waiting" not in said and "XXZ chain, 6 sites" in said
    assert said_second.count("waiting for another process") == 1
    assert "XXZ chain" not in said_second and str(root) in said_second
    assert set(content(root)) == FILES


def test_threads_at_once_get_the_same(built, tmp_path):
    chain, _ = built
    with ThreadPoolExecutor(4) as pool:
        chains = list(pool.map(lambda _: load_levels(6, chain.kind, tmp_path), range(4)))
    assert {each.digest for each in chains} == {chain.digest}


def test_finished_chain_is_read_where_nothing_can_be_written(built, monkeypatch):
    chain, root = built
    monkeypatch.setattr(levels, "locked", None)
    monkeypatch.setattr(levels, "make_folder", None)
    assert load_levels(6, chain.kind, root).digest == chain.digest


# --- limits and disks ---------------------------------------------------------------------------


@pytest.mark.parametrize("num_sites", [3, -1, 10.0, "ten"])
def test_number_of_sites_out_of_range_is_an_error(tmp_path, num_sites):
    with pytest.raises(ValueError, match="from 4 to 20, not"):
        load_levels(num_sites, "all", tmp_path)


def test_unknown_kind_is_an_error_with_the_choices(tmp_path):
    with pytest.raises(ValueError, match="all or resolved, not 'some'"):
        load_levels(4, "some", tmp_path)


def pretend(monkeypatch, memory=64e9, free=1e15):
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": int(memory // 4096)}
    monkeypatch.setattr(levels.os, "sysconf", pages.__getitem__)
    monkeypatch.setattr(levels.shutil, "disk_usage", lambda path: SimpleNamespace(free=int(free)))


@pytest.mark.parametrize(
    "num_sites, kind, memory, words",
    [
        (16, "all", 64e9, ["155 GB of memory", "3.45e+03 GB of disk", "64 GB", "or resolved"]),
        (20, "all", 64e9, ["3.96e+04 GB of memory"]),
        (10, "all", 0.53e9, ["0.538 GB of memory", "0.845 GB of disk", "has 0.53 GB of memory"]),
        (21, "all", 64e9, ["1.58e+05 GB of memory", "20 at most"]),
        (40, "resolved", 64e9, ["1.77e+06 GB of memory"]),
        (14, "resolved", 2e9, ["GB of memory", "has 2 GB of memory"]),
    ],
)
def test_too_little_memory_is_an_error_before_anything_is_done(
    tmp_path, monkeypatch, num_sites, kind, memory, words
):
    pretend(monkeypatch, memory)
    message = message_of(load_levels, num_sites, kind, tmp_path / "root")
    assert all(word in message for word in [f"{num_sites} sites ({kind} levels)", *words])
    assert "fewer sites" in message
    assert not (tmp_path / "root").exists()


def test_little_memory_takes_fewer_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(levels, "_num_cores", lambda: 64)
    each = 36 * 4.0**12
    for memory, workers in [(0.6e9 + each, 1), (0.6e9 + 5 * each, 5), (64e9, 64)]:
        pretend(monkeypatch, memory)
        assert levels._Cache(12, "all", tmp_path).check_room() == workers


def test_too_little_disk_is_an_error_before_anything_is_done(tmp_path, monkeypatch):
    pretend(monkeypatch, free=0.5e9)
    message = message_of(load_levels, 10, "all", tmp_path / "deep" / "root")
    for word in ["10 sites", "0.845 GB", str(tmp_path), "0.5 GB free", "--data-root"]:
        assert word in message
    assert not (tmp_path / "deep").exists()


def test_room_that_the_files_have_already_is_not_asked_for_again(copied, monkeypatch):
    chain, root = copied
    pretend(monkeypatch, free=10_000)
    (folder,) = root.iterdir()
    flip(folder / "states.npy", -4)
    assert load_levels(6, chain.kind, root).digest == chain.digest


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_disk_that_fails_is_named_and_finished_deltas_are_kept(
    built, tmp_path, monkeypatch, error, capsys
):
    chain, root = built
    write = levels._Array.write
    written = []

    def fail(array, rows, values):
        written.append(rows)
        if len(written) > 100:
            wait_until(lambda: num_finished(tmp_path) > 40)
            raise OSError(error, os.strerror(error), str(array.path))
        write(array, rows, values)

    with monkeypatch.context() as patch:
        patch.setattr(levels._Array, "write", fail)
        message = message_of(load_levels, 6, chain.kind, tmp_path)
    assert "states.npy" in message or "energies.npy" in message
    assert os.strerror(error) in message
    assert ("Make room" in message) == (error != errno.EIO)
    (journal,) = tmp_path.glob("*/journal.jsonl")
    assert journal.read_text().count("\n") > 40
    assert load_levels(6, chain.kind, tmp_path).digest == chain.digest
    assert content(tmp_path) == content(root)
    assert "warning" not in capsys.readouterr().err


def test_room_is_reserved_before_the_first_delta(tmp_path, monkeypatch, solved):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(levels.os, "posix_fallocate", full)
    message = message_of(load_levels, 4, "all", tmp_path)
    assert "xxz-L4-all" in message and "No space left" in message and "Make room" in message
    assert not solved


@pytest.mark.parametrize("below", ["", "deeper/still"])
def test_root_that_is_a_file_is_named(tmp_path, below):
    (tmp_path / "root").write_text("a file")
    message = message_of(load_levels, 4, "all", tmp_path / "root" / below)
    assert "root" in message and "not a folder" in message and "--data-root" in message


def test_file_in_place_of_the_folder_is_named(tmp_path):
    load_levels(4, "all", tmp_path)
    (folder,) = tmp_path.iterdir()
    shutil.rmtree(folder)
    folder.write_text("a file")
    assert f"{folder}" in message_of(load_levels, 4, "all", tmp_path)


@pytest.mark.parametrize("error", [errno.EROFS, errno.EACCES])
def test_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch, error):
    def refuse(path, *arguments, **more):
        raise OSError(error, os.strerror(error), str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)  # the administrator may write everywhere
    message = message_of(load_levels, 4, "all", tmp_path / "root")
    assert f"{tmp_path / 'root'}: {os.strerror(error)}" in message and "--data-root" in message


# --- the whole chain ----------------------------------------------------------------------------


def test_key_is_all_that_decides_the_content(tmp_path, monkeypatch):
    folder = levels._Cache(6, "all", tmp_path).path
    # Runs are named after it: it is the same on all machines, and for all time.
    assert folder.name == levels.definition(6, "all") == "xxz-L6-all-944108f263d4"
    assert levels.definition(10, "resolved") == "xxz-L10-resolved-763833af49f9"
    monkeypatch.setattr(levels, "FORMAT", 2)
    assert levels._Cache(6, "all", tmp_path).path != folder
    monkeypatch.undo()
    monkeypatch.setattr(levels, "DELTAS", DELTAS[:-1])
    assert levels._Cache(6, "all", tmp_path).path != folder
    monkeypatch.undo()
    assert levels._Cache(6, "all", tmp_path).path == folder


def test_chain_of_the_protocol_is_less_than_900_megabytes(tmp_path):
    assert levels._Cache(10, "all", tmp_path).states.num_bytes < 0.9e9


def test_reading_levels_does_not_grow_the_process(built):
    chain, _ = built
    digests = {hashlib.sha256(chain.states(k)).hexdigest() for k in range(chain.num_levels)}
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("mapped files are listed in /proc")
    assert len(digests) == chain.num_levels and "states.npy" not in maps.read_text()

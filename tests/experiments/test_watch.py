"""Episodes of saved policies as videos: ``python -m experiments.watch``, and ``ant --watch``."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gymnasium")
pytest.importorskip("mujoco")
pytest.importorskip("stable_baselines3")
pytest.importorskip("imageio_ffmpeg")

import gymnasium
import imageio.v2
import imageio.v3
import imageio_ffmpeg
from stable_baselines3 import PPO

from experiments import ant, watch
from experiments.ant import EXPERIMENT
from experiments.cli import parse as cli
from plasticity.errors import Failure
from plasticity.results.record import read_run
from plasticity.rl import trainer as policies
from plasticity.rl import video as rendering
from plasticity.rl.protocol import needed
from tests.experiments import runs
from tests.experiments.control_runs import ANT, ARMS, TINY, folder_of, only, run
from tests.experiments.runs import arm_folder, rows_of

ROOT = Path(__file__).parents[2]
SHORT = "--env=tests.short:ShortPendulum-v0"
FILES = {"mlp": "classical", "qnn": "quantum"}
WATCH: dict[str, Callable[..., int]] = {
    "watch": lambda *words: watch.main(words),
    "ant --watch": lambda *words: ant.main(["--watch", *words]),
    "ant ... --watch": lambda *words: ant.main([*words, "--watch"]),
}


@pytest.fixture(autouse=True)
def here(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")  # so that it is afterwards what it was


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of TINY's run, finished; a test that changes it takes a copy."""
    results = tmp_path_factory.mktemp("trained") / "results"
    assert run(*TINY, f"--results={results}") == 0
    return folder_of(*TINY, f"--results={results}")


@pytest.fixture
def copied(trained: Path) -> Path:
    shutil.copytree(trained, "run")
    return Path("run")


@pytest.fixture(scope="module")
def slippery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run on changing floors."""
    results = tmp_path_factory.mktemp("slippery") / "results"
    arguments = (*only(ANT, "qnn"), "--friction-period=96", f"--results={results}")
    assert run(*arguments) == 0
    return folder_of(*arguments)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let environments render without a renderer, and collect what was asked for."""
    made = []
    make = policies.make_gymnasium

    def drawing(name: str, **options: Any) -> Any:
        env = make(name)
        if options.get("render_mode") == "rgb_array":
            made.append(env)
            env.render = lambda: np.full((64, 64, 3), len(made), np.uint8)
        return env

    monkeypatch.setattr(rendering, "make_gymnasium", drawing)
    return made


def refused(capsys: pytest.CaptureFixture[str], *words: str, status: int = 1) -> str:
    capsys.readouterr()
    assert watch.main(words) == status
    said = capsys.readouterr().err
    error = said[said.index("error:") :]
    assert len(error.splitlines()) <= 2
    assert "Traceback" not in said
    return error


# --- the video


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ["out.mp4", "out.gif"])
@pytest.mark.parametrize("command", WATCH)
def test_watch_writes_an_episode_of_a_saved_policy(
    slippery: Path, capsys, drawn: list[Any], name: str, command: str
) -> None:
    assert WATCH[command](str(slippery), name, "--env=tests.short:ShortAnt-v0") == 0
    said = capsys.readouterr().out
    assert "qnn, best policy: return" in said
    if name.endswith("mp4"):
        count, seconds = imageio_ffmpeg.count_frames_and_secs(name)
        assert f"in {count} steps" in said
        assert seconds == pytest.approx(count / drawn[0].metadata["render_fps"], rel=0.1)
    else:
        assert imageio.v3.improps(name, plugin="pillow").shape[-3:] == (64, 64, 3)
    evaluated = [row for row in rows_of(slippery, "qnn") if "evaluation_return" in row]
    friction = max(evaluated, key=lambda row: row["evaluation_return"])["friction"]
    assert set(drawn[0].unwrapped.model.geom_friction[:, 0]) == {friction}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("which", ["best", "last"])
@pytest.mark.parametrize("name", ARMS)
def test_watch_plays_the_policy_that_was_saved(
    trained: Path, capsys, drawn: list[Any], name: str, which: str
) -> None:
    words = [str(trained), "out.mp4", f"--arm={name}", f"--policy={which}", "--seed=3", SHORT]
    assert watch.main(words) == 0
    said = capsys.readouterr().out
    env = policies.make_gymnasium("tests.short:ShortPendulum-v0")
    file = arm_folder(trained, name) / f"{FILES[name]}_{which}_policy.zip"
    policy = PPO.load(file, device="cpu")
    observation, _ = env.reset(seed=policies.seed_for(3, "watch"))
    expected = 0.0
    for _ in range(20):
        action, _ = policy.predict(observation, deterministic=True)
        observation, reward, *_ = env.step(action)
        expected += float(reward)
    assert said == f"{name}, {which} policy: return {expected:.1f} in 20 steps: out.mp4\n"


def test_policy_is_ready_before_anything_is_drawn(
    trained: Path, drawn: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton, which torch imports to make it, and Mesa, which draws, each bring an LLVM."""
    calls: list[str] = []

    def noting(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def noted(*arguments: Any, **options: Any) -> Any:
            calls.append(name)
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, noted)

    for owner, name in ((rendering, "make_model"), (PPO, "predict"), (rendering, "make_rendered")):
        noting(owner, name)
    assert watch.main([str(trained), "out.gif", SHORT]) == 0
    assert calls[:4] == ["make_model", "predict", "make_rendered", "predict"]


@pytest.mark.slow
def test_video_is_as_long_and_as_large_as_is_said(
    capsys, slippery: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[dict[str, Any]] = []
    make = policies.make_gymnasium

    def drawing(name: str, **options: Any) -> Any:
        env = make(name)
        made.append(options)
        if options:
            size = options["height"], options["width"], 3
            env.render = lambda: np.zeros(size, np.uint8)
        return env

    monkeypatch.setattr(rendering, "make_gymnasium", drawing)
    words = [str(slippery), "out.mp4", "--env=tests.short:ShortAnt-v0", "--steps=3"]
    assert watch.main([*words, "--size", "90", "34"]) == 0
    assert "in 3 steps" in capsys.readouterr().out
    assert imageio_ffmpeg.count_frames_and_secs("out.mp4")[0] == 3
    # imageio's reader leaves its pipes open, which is a warning wherever memory is collected next.
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", "out.mp4"]
    assert " 90x34" in subprocess.run(ffmpeg, capture_output=True, text=True).stderr
    assert made[-1] == {"render_mode": "rgb_array", "width": 90, "height": 34}
    for wrong in (["--steps=0"], ["--size", "17", "16"], ["--size", "16", "8000"]):
        said = refused(capsys, *words, *wrong, status=2)
        assert f"{wrong[0].partition('=')[0]} " in said


@pytest.mark.slow
def test_environment_without_sizes_says_that_it_has_none(trained: Path, capsys) -> None:
    said = refused(capsys, str(trained), "out.gif", SHORT, "--size", "32", "32")
    assert "for --size, its constructor must accept width and height" in said


def test_environment_that_is_gone_is_told_as_one(
    trained: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gymnasium, "make", lambda *_, **__: 1 / 0)
    said = refused(capsys, str(trained), "out.gif", SHORT)
    assert "'tests.short:ShortPendulum-v0' cannot be made here" in said
    assert "policy" not in said


def test_protocol_and_arms_that_are_read_are_those_that_were_trained(trained: Path) -> None:
    choice, _ = cli.parse(EXPERIMENT, [*TINY, "--total-steps=1"])
    config, arms = choice.config, choice.arms  # no part of a run
    assert rendering.read_protocol(read_run(trained)) == config
    for name, arm in arms.items():
        assert rendering.read_arm(arm_folder(trained, name)) == arm


def test_quantum_arm_is_watched_where_none_is_named(capsys, trained: Path, drawn) -> None:
    assert watch.main([str(trained), "out.gif", SHORT]) == 0
    assert capsys.readouterr().out.startswith("qnn, best policy")


def test_only_arm_is_watched_where_none_is_named(capsys, copied: Path, drawn) -> None:
    shutil.rmtree(arm_folder(copied, "qnn"))
    assert watch.main(["run", "out.gif", SHORT]) == 0
    assert capsys.readouterr().out.startswith("mlp, best policy")


def test_arms_of_one_name_are_told_apart_by_their_folders(capsys, drawn) -> None:
    arguments = (*only(TINY, "mlp"), "--total-steps=48")
    for units in ("8", "9"):
        assert run(*arguments, f"--mlp.pi={units}") == 0
    folder = folder_of(*arguments)
    names = sorted(path.name for path in folder.glob("mlp-*"))
    assert len(names) == 2
    for words in ([], ["--arm=mlp"]):
        said = refused(capsys, str(folder), "out.gif", *words, SHORT, status=2)
        assert ", ".join(names) in said
    for name in names:
        assert watch.main([str(folder), "out.gif", f"--arm={name}", SHORT]) == 0
        units = json.loads((folder / name / "arm.json").read_text())["network"]["pi"]
        assert rendering.read_arm(folder / name).network.pi == tuple(units)


# --- what is wrong


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (["gone", "out.mp4"], 1, "gone/config.json: no such file"),
        (["run", "out.avi"], 2, "an .mp4 or a .gif"),
        (["run"], 2, "The video to write"),
        (["run", "gone/out.mp4"], 1, "gone/out.mp4: there is no folder gone"),
        (["run", "out.mp4", "--size", "10"], 2, "--size 10: not what this option takes"),
        (["run", "out.mp4", "--arm=mlp"], 1, "run: no arm mlp has saved a policy here yet"),
        (["run", "out.mp4", "--arm=classical"], 1, "no arm classical has saved a policy"),
        (["run", "out.mp4", "--policy=last"], 1, "quantum_last_policy.zip: not a policy"),
        (["run", "out.mp4", "--policy=first"], 2, "--policy"),
        (["run", "out.mp4", "--seed=x"], 2, "--seed"),
        (["run", "out.mp4", "--netwrk=mlp"], 2, "--netwrk"),
    ],
)
@pytest.mark.parametrize("command", WATCH)
def test_watch_names_what_is_wrong(
    capsys, copied: Path, drawn: list[Any], command: str, arguments, status, part
) -> None:
    (arm_folder(copied, "mlp") / "classical_best_policy.zip").unlink()
    (arm_folder(copied, "qnn") / "quantum_last_policy.zip").write_bytes(b"nothing")
    assert WATCH[command](*arguments, SHORT) == status
    said = capsys.readouterr().err
    error = said[said.index("error:") :]
    assert part in error
    assert len(error.splitlines()) <= 2
    assert not Path("out.mp4").exists()


def test_run_of_another_experiment_is_told(capsys, tiny: list[str]) -> None:
    folder = runs.finish(runs.only([*tiny, "--num-tasks=1"], "mlp"))
    said = refused(capsys, str(folder), "out.mp4")
    assert "config.json: not the config of a run of this experiment (experiment 'mnist')" in said


def test_run_that_has_saved_no_policy_yet_is_told(capsys, copied: Path) -> None:
    for file in copied.rglob("*.zip"):
        file.unlink()
    assert "run: no arm has saved a policy here yet" in refused(capsys, "run", "out.mp4")


@pytest.mark.sampled(1)
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
@pytest.mark.parametrize("name", ["out.mp4", "out.gif"])
def test_video_that_cannot_be_written_is_told(
    capsys, monkeypatch: pytest.MonkeyPatch, trained: Path, drawn, name: str
) -> None:
    printed: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    Path(name).symlink_to("/dev/full")
    said = refused(capsys, str(trained), name, SHORT)
    assert f"{name}: cannot be written" in said
    assert not [of.exc_value for of in printed if isinstance(of.exc_value, OSError)]


@pytest.mark.slow
def test_video_that_lacks_frames_is_told(
    capsys, monkeypatch: pytest.MonkeyPatch, trained: Path, drawn
) -> None:
    """Where ffmpeg fails after the last frame has been sent to it, imageio does not say so."""
    make = imageio.v2.get_writer

    def losing(*arguments: Any, **options: Any) -> Any:
        writer, frames = make(*arguments, **options), []
        append = writer.append_data

        def lose(frame: Any) -> None:
            frames.append(frame)
            if len(frames) % 2:
                append(frame)

        writer.append_data = lose
        return writer

    monkeypatch.setattr(imageio.v2, "get_writer", losing)
    said = refused(capsys, str(trained), "out.mp4", SHORT)
    assert "out.mp4: cannot be written (10 of 20 frames are in it)" in said
    assert not [*Path().iterdir()]


@pytest.mark.parametrize("name", ["out.mp4", "out.gif"])
def test_video_that_is_stopped_leaves_nothing_and_what_was_there(
    capsys, monkeypatch: pytest.MonkeyPatch, trained: Path, drawn, name: str
) -> None:
    Path(name).write_bytes(b"an earlier one")
    predict, calls, unlink, asides = PPO.predict, [], Path.unlink, []

    def noting(path: Path, **options: Any) -> None:
        asides.append((path.parent, path.suffix, path.exists()))
        unlink(path, **options)

    def stopping(*arguments: Any, **options: Any) -> Any:
        calls.append(0)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return predict(*arguments, **options)

    monkeypatch.setattr(PPO, "predict", stopping)
    monkeypatch.setattr(Path, "unlink", noting)
    assert watch.main([str(trained), name, SHORT]) == 130
    # Written aside, at the latest when its writer was closed, and removed.
    assert asides == [(Path.cwd(), Path(name).suffix, True)]
    assert [path.name for path in Path().iterdir()] == [name]
    assert Path(name).read_bytes() == b"an earlier one"


def test_link_to_a_video_stays_one(trained: Path, drawn) -> None:
    Path("old").mkdir()
    Path("old/out.gif").write_bytes(b"an earlier one")
    Path("out.gif").symlink_to("old/out.gif")
    assert watch.main([str(trained), "out.gif", SHORT]) == 0
    assert Path("out.gif").is_symlink()
    assert [*Path("old").iterdir()] == [Path("old/out.gif")]
    assert imageio.v3.improps("old/out.gif", plugin="pillow").shape[0] > 0


def test_video_that_is_a_folder_is_told(capsys, trained: Path, drawn) -> None:
    Path("out.mp4").mkdir()
    said = refused(capsys, str(trained), "out.mp4", SHORT)
    assert "out.mp4: cannot be written" in said


# --- help

LIST_MODULES = """
import json, runpy, sys
module, sys.argv = sys.argv[1], sys.argv[1:]
try:
    runpy.run_module(f"experiments.{module}", run_name="__main__", alter_sys=True)
except SystemExit as end:
    print(json.dumps([end.code or 0, list(sys.modules)]))
"""
HEAVY = {"torch", "numpy", "gymnasium", "mujoco", "stable_baselines3", "imageio", "matplotlib"}


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["ant", "--help"], "--qnn.num-qubits"),
        (["ant", "--arms", "mlp", "--help"], "--mlp.pi"),
        (["watch", "--help"], "--policy {best,last}"),
        (["ant", "--watch", "--help"], "--policy {best,last}"),
    ],
)
def test_help_is_answered_without_what_takes_seconds_to_import(words: list[str], part: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIST_MODULES, *words], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
    )  # fmt: skip
    *help_text, last = done.stdout.splitlines()
    status, modules = json.loads(last)
    assert status == 0
    assert part in "\n".join(help_text)
    assert not HEAVY & {*modules}


# --- where nothing renders


class HalfMade:
    """As gymnasium's renderer, which looks for what it has not got yet when it is let go of."""

    def __init__(self, ended: list[Any]) -> None:
        self.ended = ended

    def __del__(self) -> None:
        self.ended.append(self.__class__)
        raise AttributeError("no attribute 'opengl_context'")


@pytest.mark.slow
def test_watch_says_where_nothing_renders_and_no_more(
    trained: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[Any] = []
    printed: list[Any] = []

    def no_renderer(name: str, **options: Any) -> Any:
        viewer = HalfMade(ended)
        warnings.warn("X11: The DISPLAY environment variable is missing", stacklevel=1)
        raise RuntimeError(f"no display\nfor {viewer}")

    monkeypatch.setattr(rendering, "make_gymnasium", no_renderer)
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    assert watch.main([str(trained), "out.mp4", SHORT]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "cannot be rendered here (no display)" in said
    assert len(said.splitlines()) == 1
    assert ended
    assert not printed
    assert sys.unraisablehook == printed.append
    assert not Path("out.mp4").exists()


class NoMode(gymnasium.Env):
    """An environment whose constructor knows no render_mode."""

    observation_space = action_space = gymnasium.spaces.Box(-1, 1, (1,))

    def __init__(self) -> None:
        pass


@pytest.mark.slow
def test_environment_without_mujoco_is_not_told_of_its_renderers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gymnasium.register("NoMode-v0", entry_point=NoMode)
    try:
        with pytest.raises(Failure) as told:
            rendering.make_rendered("NoMode-v0", None)
    finally:
        del gymnasium.registry["NoMode-v0"]
    assert str(told.value).endswith("its constructor must accept render_mode='rgb_array'")
    assert "MuJoCo" not in str(told.value)
    make = policies.make_gymnasium

    def no_renderer(name: str, **options: Any) -> Any:
        if options:
            raise RuntimeError("no display")
        return make(name)

    monkeypatch.setattr(rendering, "make_gymnasium", no_renderer)
    for name, hint in (("Hopper-v5", True), ("Pendulum-v1", False)):
        with pytest.raises(Failure, match="no display") as told:
            rendering.make_rendered(name, None)
        assert ("MUJOCO_GL=egl or osmesa" in str(told.value)) == hint
        assert ("render_mode" in str(told.value)) != hint


@pytest.mark.parametrize(
    ("before", "display", "after"),
    [
        (None, None, "egl"),
        ("", None, "egl"),
        (None, ":0", None),
        ("", ":0", None),
        ("osmesa", None, "osmesa"),
        ("glfw", ":0", "glfw"),
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="others draw without a display")
def test_renderer_is_the_one_that_is_said_or_draws_without_a_display(
    drawn, monkeypatch: pytest.MonkeyPatch, before: str | None, display: str | None, after: Any
) -> None:
    for name, value in (("MUJOCO_GL", before), ("DISPLAY", display)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    rendering.make_rendered("Pendulum-v1", None).close()
    assert os.environ.get("MUJOCO_GL") == after


MAINS = """
from experiments import ant, bench_ppo, watch
print(watch.main(["run", "out.mp4"]), ant.main(["--preset=quick"]), bench_ppo.main([]))
"""


@pytest.mark.slow
def test_renderer_that_is_none_is_told_in_a_line() -> None:
    """mujoco looks at the variable when it is imported, in training too."""
    done = subprocess.run(
        [sys.executable, "-c", MAINS], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "MUJOCO_GL": "nonsense"},
    )  # fmt: skip
    assert done.stdout == "1 1 1\n"
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert line.startswith("error: MUJOCO_GL=nonsense: mujoco cannot be imported with it")


@contextlib.contextmanager
def importing(monkeypatch: pytest.MonkeyPatch, renderer: str | None) -> Iterator[None]:
    """Be where mujoco is imported, with a renderer."""
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, "mujoco")
        patch.delenv("MUJOCO_GL")
        if renderer is not None:
            patch.setenv("MUJOCO_GL", renderer)
        with needed():
            yield


def test_renderer_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where OSMesa is missing, OpenGL ends in an error that tells nothing."""
    said = r"^MUJOCO_GL=osmesa: mujoco cannot be imported with it \(.* 'glGetError'\)"
    with pytest.raises(Failure, match=said), importing(monkeypatch, "osmesa"):
        raise AttributeError("'NoneType' object has no attribute 'glGetError'")


def test_errors_that_the_renderer_does_not_cause_are_not_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(AttributeError), importing(monkeypatch, None):
        raise AttributeError
    with pytest.raises(AttributeError), needed():  # mujoco is there
        raise AttributeError
    with pytest.raises(Failure, match="pip install"), importing(monkeypatch, "osmesa"):
        raise ImportError("gone")

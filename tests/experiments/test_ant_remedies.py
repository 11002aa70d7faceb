"""Remedies of policies: what is off is not there, what is stopped goes on, the rules by hand."""

import copy
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("gymnasium")
pytest.importorskip("mujoco")
pytest.importorskip("stable_baselines3")

import gymnasium
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from plasticity.errors import DoesNotFit
from plasticity.learning.remedy import Remedy
from plasticity.remedies.penalties import L2
from plasticity.remedies.steps import EqualBetas
from plasticity.rl.features import MlpFeatures, NormalisedTanh, QuantumFeatures
from plasticity.rl.learner import PolicyLearner, hidden_layers, orthogonal_rows
from plasticity.rl.protocol import REMEDIES
from plasticity.rl.remedies import ContinualBackprop, LayerNorm, ReDo
from plasticity.seeding import generator_for
from tests.experiments.control_runs import TINY, folder_of, run
from tests.experiments.runs import arm_folder, rows_of
from tests.tiny import same

ROOT = Path(__file__).parents[2]
ACTING = {
    "continual-backprop": ("maturity=2", "replacement-rate=0.1"),
    "redo": ("threshold=0.9", "every=3"),
    "l2": ("strength=0.01",),
}
OFF = {
    "continual-backprop": ("replacement-rate=0",),
    "redo": ("threshold=-1", "every=1"),
    "l2": ("strength=0",),
}
COLUMNS = {
    "l2": {"l2_penalty"},
    "continual-backprop": {"continual_backprop_recycled"},
    "redo": {"redo_recycled"},
}
MLP = {"net_arch": {"pi": [5, 4], "vf": [3]}}
SHARED = {
    "features_extractor_class": MlpFeatures,
    "features_extractor_kwargs": {"hidden": (6, 5)},
    "net_arch": {"pi": [], "vf": [4]},
}


@pytest.fixture(autouse=True)
def here(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def command(arm: str, options: dict[str, tuple[str, ...]] | None = None) -> tuple[str, ...]:
    """Return TINY for one arm with remedies; it is evaluated at each update."""
    base, *remedies = arm.split("+")
    others = [word for word in TINY if not word.startswith(("--mlp.", "--qnn."))]
    others += [f"--{arm}.{word.removeprefix(f'--{base}.')}" for word in TINY
               if word.startswith(f"--{base}.")]  # fmt: skip
    said = [f"--{arm}.{r}.{word}" for r in remedies for word in (options or {}).get(r, ())]
    return (*others, "--evaluation-every=48", f"--arms={arm}", *said)


def model(policy_kwargs: dict[str, Any], **more: Any) -> PPO:
    env = DummyVecEnv([lambda: gymnasium.make("Pendulum-v1", max_episode_steps=20)] * 2)
    settings = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "learning_rate": 0.02} | more
    return PPO(
        "MlpPolicy", env, policy_kwargs=policy_kwargs, seed=3, device="cpu", **settings
    )  # fmt: skip


def weights(one: PPO) -> dict[str, torch.Tensor]:
    return copy.deepcopy(one.policy.state_dict())


# ------------------------------------------------------------------------------------------ runs
@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", OFF)
def test_a_remedy_that_is_off_is_not_there(name: str) -> None:
    arm = f"mlp+{name}"
    assert run(*command(arm, OFF)) == 0
    assert run(*command("mlp")) == 0
    folder = folder_of(*command("mlp"))
    ours = [
        {k: v for k, v in row.items() if k not in COLUMNS[name]} for row in rows_of(folder, arm)
    ]
    assert ours == rows_of(folder, "mlp")


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "arm", [*(f"mlp+{name}" for name in REMEDIES), "qnn+l2+equal-betas",
            "mlp+l2+equal-betas+layer-norm+continual-backprop+redo"],
)  # fmt: skip
def test_stopped_and_resumed_it_ends_as_if_it_had_not_been(arm: str) -> None:
    arguments = command(arm, ACTING)
    for steps in (48, 144, 192):
        assert run(*arguments, f"--total-steps={steps}") == 0
    assert run(*arguments, "--results=whole") == 0
    ours, whole = folder_of(*arguments), folder_of(*arguments, "--results=whole")
    rows = rows_of(ours, arm)
    assert rows == rows_of(whole, arm)
    states = [state_of(folder, arm) for folder in (ours, whole)]
    assert same(states[0]["remedies"], states[1]["remedies"])
    for part in ("policy", "optimizer", "random"):
        assert same(states[0]["ppo"][part], states[1]["ppo"][part])
    assert states[0]["remedies"]["steps"] == 4 * 2 * 3  # updates, epochs, minibatches
    own = set().union(*(COLUMNS.get(remedy, set()) for remedy in arm.split("+")[1:]))
    assert not own & rows[0].keys()
    for row in rows[1:]:
        assert own <= row.keys()
    for column in own:
        assert sum(row[column] for row in rows[1:]) > 0


def state_of(folder: Path, arm: str) -> dict[str, Any]:
    return torch.load(arm_folder(folder, arm) / "checkpoint.pt", weights_only=True)["state"]


def test_an_arm_without_remedies_is_recorded_as_before() -> None:
    assert run(*command("mlp")) == 0
    folder = folder_of(*command("mlp"))
    assert state_of(folder, "mlp").keys() == {"ppo", "best"}
    assert "remedies" not in json.loads((arm_folder(folder, "mlp") / "arm.json").read_text())


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ("qnn+layer-norm", "layer-norm needs hidden units between linear layers; the policy's"),
        ("qnn+redo", "redo needs hidden units between linear layers; the policy's"),
        ("qnn+l2+continual-backprop", "continual-backprop needs hidden units"),
        (
            "mlp+shrink-perturb",
            "no remedy is called 'shrink-perturb'; there are continual-backprop",
        ),
        ("fresh:mlp", "no arm of this experiment starts afresh"),
    ],
)
def test_what_does_not_fit_is_one_line_and_status_2(arm: str, said: str, capsys) -> None:
    assert run(*(word for word in TINY if ".epochs" not in word and "--qnn" not in word
                 and "--mlp" not in word), f"--arms={arm}") == 2  # fmt: skip
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: --arms {arm}: {said}")
    assert not Path("results").exists()


@pytest.mark.slow
def test_policy_with_layer_norm_is_loaded_in_another_process() -> None:
    arm = "mlp+layer-norm"
    arguments = command(arm)
    assert run(*arguments) == 0
    path = arm_folder(folder_of(*arguments), arm)
    file = path / f"{arm}_last_policy.zip"
    code = (
        "import sys, json, torch; from pathlib import Path; from stable_baselines3 import PPO\n"
        "from plasticity.rl.video import load_policy, read_arm\n"
        "from experiments.cli import parse as cli; from experiments.ant import EXPERIMENT\n"
        "file = Path(sys.argv[1]); config = cli.parse(EXPERIMENT, sys.argv[2:])[0].config\n"
        "arm = read_arm(file.parent)\n"
        "x = torch.linspace(-1, 1, 12).reshape(4, 3).numpy()\n"
        "models = [PPO.load(file, device='cpu'), load_policy(config, arm, file)]\n"
        "print(json.dumps([m.predict(x, deterministic=True)[0].tolist() for m in models]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file), *arguments],
        capture_output=True, text=True, check=True, env=os.environ,
    )  # fmt: skip
    by_sb3, by_watch = json.loads(done.stdout.splitlines()[-1])
    state = torch.load(path / "checkpoint.pt", weights_only=True)["state"]["ppo"]["policy"]
    h = torch.linspace(-1, 1, 12).reshape(4, 3)
    z = h @ state["mlp_extractor.policy_net.0.weight"].T + state["mlp_extractor.policy_net.0.bias"]
    z = (z - z.mean(1, keepdim=True)) / (z.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
    expected = z.tanh() @ state["action_net.weight"].T + state["action_net.bias"]
    assert by_sb3 == by_watch
    assert torch.allclose(torch.tensor(by_sb3), expected.clamp(-2, 2), atol=1e-6)


# ----------------------------------------------------------------------------------------- rules
def test_l2_changes_exactly_the_gradient_as_adams_weight_decay_does() -> None:
    def trained(remedies: list[Remedy], **options: float) -> dict[str, torch.Tensor]:
        one = model({**MLP, "optimizer_kwargs": {"eps": 1e-5, **options}})
        PolicyLearner(one.policy, remedies, 0)
        one.learn(64)  # at once: it draws from torch's generator, which the model has seeded
        return weights(one)

    ours, expected, without = trained([L2(0.1)]), trained([], weight_decay=0.1), trained([])
    for name, weight in ours.items():
        assert torch.allclose(weight, expected[name], rtol=1e-4, atol=1e-6), name
        assert not torch.allclose(weight, without[name], rtol=1e-3), name


def test_l2_is_added_after_clipping_and_the_clipped_gradient_is_as_without_it() -> None:
    one = model(MLP, max_grad_norm=0.01)
    seen: list[list[torch.Tensor]] = []

    def look(*_: Any) -> None:
        seen.append([p.grad.clone() for p in one.policy.parameters()])  # type: ignore[union-attr]

    one.policy.optimizer.register_step_pre_hook(look)
    first = [p.detach().clone() for p in one.policy.parameters()]
    assert PolicyLearner(one.policy, [L2(0.5)], 0)
    one.policy.optimizer.register_step_pre_hook(look)
    one.learn(32)
    before, after = seen[0], seen[1]
    assert math.sqrt(sum(float(g.square().sum()) for g in before)) == pytest.approx(0.01, rel=1e-3)
    for old, new, weight in zip(before, after, first, strict=True):
        assert torch.allclose(new, old + 0.5 * weight, atol=1e-7)


def test_equal_betas_are_the_optimizers_and_stay_when_a_policy_is_loaded() -> None:
    one = model(MLP)
    PolicyLearner(one.policy, [EqualBetas(0.97)], 0)
    one.learn(32)
    file = io.BytesIO()
    one.save(file)
    file.seek(0)
    for found in (one, PPO.load(file, device="cpu")):
        assert [group["betas"] for group in found.policy.optimizer.param_groups] == [(0.97, 0.97)]


@pytest.mark.parametrize("kind", [MLP, SHARED], ids=["apart", "shared"])
def test_each_hidden_layer_is_read_by_its_own_network(kind: dict[str, Any]) -> None:
    policy: Any = model(kind).policy
    pi, vf = policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net
    readers = [layer.readers for layer in hidden_layers(policy, "it")]
    if kind is MLP:
        assert readers == [(pi[2],), (policy.action_net,), (policy.value_net,)]
    else:
        trunk = policy.features_extractor.layers
        assert readers == [(trunk[2],), (policy.action_net, vf[0]), (policy.value_net,)]


def chains(kind: dict[str, Any], policy: Any) -> list[tuple[str, list[str]]]:
    """Return each hidden layer and who reads it, by the names of their parameters."""
    if kind is MLP:
        net = "mlp_extractor.policy_net"
        return [(f"{net}.0", [f"{net}.2"]), (f"{net}.2", ["action_net"]),
                ("mlp_extractor.value_net.0", ["value_net"])]  # fmt: skip
    trunk = "features_extractor.layers"
    return [(f"{trunk}.0", [f"{trunk}.2"]),
            (f"{trunk}.2", ["action_net", "mlp_extractor.value_net.0"]),
            ("mlp_extractor.value_net.0", ["value_net"])]  # fmt: skip


@pytest.mark.parametrize("kind", [MLP, SHARED], ids=["apart", "shared"])
def test_continual_backprop_equals_the_rule_written_out(kind: dict[str, Any]) -> None:
    """Units, weights, biases and moments at each update, from minibatches alone."""
    eta, maturity, rate, seed = 0.8, 3, 0.07, 5
    one = model(kind)
    policy: Any = one.policy
    modules = dict(policy.named_modules())
    layers = chains(kind, policy)
    sizes = [modules[name].out_features for name, _ in layers]
    utility, mean, age = ([[0.0] * n for n in sizes] for _ in range(3))
    owed, replaced, updates = [0.0] * len(layers), [0], [0]
    batches: list[torch.Tensor] = []
    evaluate = policy.evaluate_actions

    def noting(observations: torch.Tensor, actions: torch.Tensor) -> Any:
        batches[:] = [observations, copy.deepcopy(policy.state_dict())]  # type: ignore[list-item]
        return evaluate(observations, actions)

    policy.evaluate_actions = noting
    after_step: list[Any] = []
    policy.optimizer.register_step_post_hook(
        lambda *_: after_step.append(copy.deepcopy((policy.state_dict(), memory(policy))))
    )
    PolicyLearner(policy, [ContinualBackprop(rate, maturity, eta)], seed)

    def check(*_: Any) -> None:
        updates[0] += 1
        step, (state, moments) = updates[0], after_step[-1]
        activations = units_of(kind, batches[1], batches[0])  # type: ignore[arg-type]
        for place in reversed(range(len(layers))):
            name, readers = layers[place]
            h = activations[place]
            for unit in range(sizes[place]):
                age[place][unit] += 1
                correction = 1 - eta ** age[place][unit]
                mean[place][unit] = eta * mean[place][unit] + (1 - eta) * float(h[:, unit].mean())
                size = float((h[:, unit] - mean[place][unit] / correction).abs().mean())
                out = sum(float(state[f"{r}.weight"][:, unit].abs().sum()) for r in readers)
                utility[place][unit] = eta * utility[place][unit] + (1 - eta) * size * out
            mature = [unit for unit in range(sizes[place]) if age[place][unit] > maturity]
            owed[place] += rate * len(mature)
            number = min(int(owed[place]), len(mature))
            owed[place] -= number
            useful = {u: utility[place][u] / (1 - eta ** age[place][u]) for u in mature}
            worst = sorted(useful, key=useful.__getitem__)[:number]
            if not worst:
                continue
            draws = generator_for(seed, "continual-backprop", step, place)
            rows = orthogonal_rows(modules[name], number, draws)
            replaced[0] += number
            for row, unit in zip(rows, worst, strict=True):
                gave = mean[place][unit] / (1 - eta ** age[place][unit])
                for r in readers:
                    state[f"{r}.bias"] += gave * state[f"{r}.weight"][:, unit]
                    state[f"{r}.weight"][:, unit] = 0
                    for moment in ("exp_avg", "exp_avg_sq"):
                        moments[f"{r}.weight"][moment][:, unit] = 0
                state[f"{name}.weight"][unit] = row
                state[f"{name}.bias"][unit] = 0
                for moment in ("exp_avg", "exp_avg_sq"):
                    moments[f"{name}.weight"][moment][unit] = 0
                    moments[f"{name}.bias"][moment][unit] = 0
                utility[place][unit] = mean[place][unit] = age[place][unit] = 0
        found = policy.state_dict()
        for key, value in state.items():
            assert torch.allclose(found[key], value, rtol=1e-4, atol=1e-5), (step, key)
        for key, of_parameter in memory(policy).items():
            for moment in ("exp_avg", "exp_avg_sq"):
                assert torch.equal(of_parameter[moment], moments[key][moment]), (step, key)

    policy.optimizer.register_step_post_hook(check)
    one.learn(96)
    assert updates == [12]
    assert replaced[0] >= 5


def memory(policy: Any) -> dict[str, Any]:
    return {name: policy.optimizer.state[p] for name, p in policy.named_parameters()}


def units_of(
    kind: dict[str, Any], state: dict[str, torch.Tensor], x: torch.Tensor
) -> list[torch.Tensor]:
    """Return the activations of the hidden layers, in their order."""

    def layer(name: str, h: torch.Tensor) -> torch.Tensor:
        return torch.tanh(h @ state[f"{name}.weight"].T + state[f"{name}.bias"])

    if kind is MLP:
        first = layer("mlp_extractor.policy_net.0", x)
        second = layer("mlp_extractor.policy_net.2", first)
        return [first, second, layer("mlp_extractor.value_net.0", x)]
    first = layer("features_extractor.layers.0", x / x.norm(dim=1, keepdim=True))
    second = layer("features_extractor.layers.2", first)
    return [first, second, layer("mlp_extractor.value_net.0", second)]


@pytest.mark.parametrize("threshold", [0.1, 0.0])
def test_redo_replaces_units_whose_gradient_is_small_and_leaves_silent_layers_alone(
    threshold: float,
) -> None:
    one = model(MLP)
    policy: Any = one.policy
    pi, vf = policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net
    with torch.no_grad():
        pi[0].bias[2] = 30.0  # saturated: it gives 1, and has no gradient
        policy.value_net.weight.zero_()  # the value's units have none
    learner = PolicyLearner(policy, [ReDo(threshold=threshold, every=1)], 5)
    x = torch.linspace(-1, 1, 24).reshape(8, 3)
    policy.set_training_mode(True)
    values, log_probability, _ = policy.evaluate_actions(x, torch.linspace(-1, 1, 8)[:, None])
    (values.mean() + log_probability.mean()).backward()
    for group in policy.optimizer.param_groups:
        group["lr"] = 0.0
    before = weights(one)
    policy.optimizer.step()
    after = weights(one)
    rows = "mlp_extractor.policy_net.0.weight"
    changed = (after[rows] != before[rows]).any(1)
    assert bool(changed[2])
    assert pi[0].bias[2].item() == 0.0
    assert not pi[2].weight[:, 2].any()
    assert same(
        after["mlp_extractor.value_net.0.weight"], before["mlp_extractor.value_net.0.weight"]
    )
    assert learner.columns()["redo_recycled"] == float(
        changed.sum()
        + (after["mlp_extractor.policy_net.2.weight"]
           != before["mlp_extractor.policy_net.2.weight"]).all(1).sum()
    )  # fmt: skip
    assert vf[0].weight.shape[0] == 3


def test_only_minibatches_of_updates_are_seen() -> None:
    one = model(MLP)
    learner = PolicyLearner(one.policy, [ContinualBackprop(0.1, 10**6, 0.9)], 0)
    one.learn(64)
    assert learner.steps == 2 * 2 * 2  # updates, epochs, minibatches
    state = copy.deepcopy(learner.state_dict())
    assert [*state["remedies"][0]["layers"][0]["ages"]] == [8] * 5
    layers = learner.remedies[0]._layers  # type: ignore[attr-defined]
    seen = [layer.layer.units.seen.clone() for layer in layers]
    assert {len(h) for h in seen} == {16}
    observations = one.get_env().reset()  # type: ignore[union-attr]
    one.predict(observations)
    one.policy.predict_values(torch.as_tensor(observations))
    assert same(learner.state_dict(), state)
    assert same([layer.layer.units.seen for layer in layers], seen)


def test_layer_norm_starts_with_the_numbers_of_a_policy_without_it() -> None:
    for kind in (MLP, SHARED):
        changed = LayerNorm().policy_options(kind)
        assert same(weights(model(changed)), weights(model(kind)))
        layers = hidden_layers(model(changed).policy, "it")
        assert all(layer.normalized and type(layer.units) is NormalisedTanh for layer in layers)


@pytest.mark.parametrize("remedy", [LayerNorm(), ContinualBackprop(0.1, 1, 0.9), ReDo(0.1, 1)])
def test_policies_of_other_kinds_are_refused(remedy: Remedy) -> None:
    quantum = {
        "features_extractor_class": QuantumFeatures,
        "features_extractor_kwargs": {"num_qubits": 2, "depth": 1},
        "net_arch": {"pi": [], "vf": []},
    }
    relu = {**MLP, "activation_fn": torch.nn.ReLU}
    apart = {**MLP, "share_features_extractor": False}
    for kind, said in ((quantum, "needs hidden units"), (relu, "tanh"), (apart, "cannot see")):
        with pytest.raises(DoesNotFit, match=said):
            PolicyLearner(model(kind).policy, [remedy], 0)
    with pytest.raises(DoesNotFit, match="1 unit"):
        PolicyLearner(model({"net_arch": {"pi": [1], "vf": [3]}}).policy, [LayerNorm()], 0)

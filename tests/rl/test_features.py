"""The quantum features in stable-baselines3's policies: numbers, kept matrix, training, errors."""

import copy
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3")

import gymnasium
from gymnasium import spaces
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env

from plasticity.quantum.circuits import Ring
from plasticity.quantum.engine import program
from plasticity.quantum.engine.costs import Size, Ways
from plasticity.quantum.readouts import Probabilities
from plasticity.rl.features import MlpFeatures, QuantumFeatures
from tests.oracle import DATA, dense_probabilities


def box(*shape: int, **limits: Any) -> spaces.Box:
    return spaces.Box(**({"low": -np.inf, "high": np.inf} | limits), shape=shape)


@pytest.fixture
def features() -> QuantumFeatures:
    torch.manual_seed(0)
    return QuantumFeatures(box(5), num_qubits=3, depth=2)


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one whenever gates are contracted: "learn" with a gradient, else "still"."""
    calls: list[str] = []
    init = program.Lease.__init__

    def counted(self: program.Lease, *args: Any, grad: bool, **options: Any) -> None:
        calls.append("learn" if grad else "still")
        init(self, *args, grad=grad, **options)

    monkeypatch.setattr(program.Lease, "__init__", counted)
    return calls


# --------------------------------------------------------------------------------------- numbers
def golden(dtype: torch.dtype) -> tuple[QuantumFeatures, dict[str, torch.Tensor]]:
    """Made by the released program (TensorCircuit-NG on JAX, double precision)."""
    numbers = {k: torch.from_numpy(v) for k, v in np.load(DATA / "ring_features.npz").items()}
    features = QuantumFeatures(box(27)).to(dtype)  # its defaults are the released program's
    with torch.no_grad():
        features.qnn.angles.copy_(numbers["angles"])
    return features, numbers


def test_double_precision_gives_the_authors_features_and_gradients() -> None:
    features, numbers = golden(torch.float64)
    outputs = features(numbers["observations"])
    torch.testing.assert_close(outputs, numbers["features"], rtol=0, atol=1e-9)
    (outputs * numbers["cotangent"]).sum().backward()
    torch.testing.assert_close(features.qnn.angles.grad, numbers["grad"], rtol=0, atol=1e-8)
    with torch.no_grad():
        still = features(numbers["observations"])
    torch.testing.assert_close(still, numbers["features"], rtol=0, atol=1e-9)


def test_observation_and_its_opposite_have_equal_features(features: QuantumFeatures) -> None:
    x = torch.randn(4, 5)
    with torch.no_grad():
        assert torch.allclose(features(x), features(-x), rtol=0, atol=1e-7)
        assert not torch.allclose(features(x), features(x.flip(0)), rtol=0, atol=1e-2)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_single_precision_gives_the_authors_features_and_gradients(kind: torch.dtype) -> None:
    features, numbers = golden(torch.float32)
    outputs = features(numbers["observations"].to(kind))
    expected = numbers["features"].float()
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-3 * float(expected.max()))
    (outputs * numbers["cotangent"].float()).sum().backward()
    gradient = numbers["grad"].float()
    atol = 1e-3 * float(gradient.abs().max())
    torch.testing.assert_close(features.qnn.angles.grad, gradient, rtol=0, atol=atol)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 4), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("batch", [0, 1, 6])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.int64])
def test_features_match_dense_matrices(shape: tuple, batch: int, kind: torch.dtype) -> None:
    torch.manual_seed(1)
    features = QuantumFeatures(box(*shape), num_qubits=3, depth=2, scale=2.5).double()
    x = (4 * torch.randn(batch, *shape)).ceil().to(kind)
    x[x == 0] = 3
    flat = x.double().reshape(batch, int(np.prod(shape)))
    p = dense_probabilities(Ring(3, 2), features.qnn.angles, flat)
    expected = torch.from_numpy(np.tanh(2.5 * p))
    torch.testing.assert_close(features(x).detach(), expected)
    with torch.no_grad():
        torch.testing.assert_close(features(x), expected)


@pytest.mark.parametrize("length", [1e-44, 1e-30, 1.0, 1e30])
def test_length_of_an_observation_does_not_matter(features: QuantumFeatures, length) -> None:
    x = torch.tensor([[1.0, 0, -3, 0, 2]])
    torch.testing.assert_close(features(length * x), features(x), rtol=0, atol=0.02)


def test_gradients_match_finite_differences(features: QuantumFeatures) -> None:
    features.double()
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    angles = features.qnn.angles.detach().requires_grad_()

    def outputs(angles: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(features, {"qnn.angles": angles}, (x,))

    assert torch.autograd.gradcheck(outputs, (angles, x))


def test_per_sample_gradients_match_a_loop(features: QuantumFeatures) -> None:
    features.double()
    x = torch.randn(4, 5, dtype=torch.float64)
    x[1], x[2, 0] = 0, torch.nan

    def output(angles: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(features, {"qnn.angles": angles}, (sample[None],)).sum()

    angles = features.qnn.angles.detach()
    together = torch.func.vmap(torch.func.grad(output), in_dims=(None, 0))(angles, x)
    assert together[2].isnan().any()  # where values cannot be looked at
    for k in (0, 1, 3):
        features.zero_grad()
        features(x[k : k + 1]).sum().backward()
        torch.testing.assert_close(together[k], features.qnn.angles.grad)


def test_zero_observation_is_the_mean_over_directions(features: QuantumFeatures) -> None:
    x = torch.randn(5, 5)
    alone = features(x)
    x[2] = 0
    x.requires_grad_()
    outputs = features(x)
    mixed = torch.tanh(torch.full((8,), 5 / 8))
    torch.testing.assert_close(outputs[2], mixed)
    others = [0, 1, 3, 4]
    torch.testing.assert_close(outputs[others], alone[others])
    # The mean of p over all 2**n directions, one after another, is that of the mixed state.
    torch.testing.assert_close(
        QuantumFeatures(box(8), num_qubits=3).qnn(torch.eye(8)).mean(0), torch.full((8,), 1 / 8)
    )
    outputs[2].sum().backward()
    assert torch.equal(features.qnn.angles.grad, torch.zeros_like(features.qnn.angles))
    assert torch.equal(x.grad, torch.zeros_like(x))
    features(x).sum().backward()
    assert features.qnn.angles.grad.isfinite().all() and x.grad.isfinite().all()


def test_angles_begin_as_standard_normal_numbers_of_the_global_generator() -> None:
    torch.manual_seed(5)
    angles = QuantumFeatures(box(27)).qnn.angles
    torch.manual_seed(5)
    assert torch.equal(angles, torch.randn(108, 15))


# ------------------------------------------------------------------------------ the kept matrix
def step(features: QuantumFeatures) -> None:
    adam = torch.optim.Adam(features.parameters(), lr=0.1)
    features(torch.randn(4, 5)).square().sum().backward()
    adam.step()


CHANGES: dict[str, Callable[[QuantumFeatures], Any]] = {
    "optimizer.step": step,
    "load_state_dict": lambda f: f.load_state_dict(QuantumFeatures(box(5), 3, 2).state_dict()),
    "in place": lambda f: f.qnn.angles.data[1, 2].add_(0.5),
    "replaced": lambda f: setattr(f.qnn.angles, "data", torch.randn(6, 15)),
    "new parameter": lambda f: setattr(f.qnn, "angles", torch.nn.Parameter(torch.randn(6, 15))),
    "to double and back": lambda f: f.double().float(),
    "to double": lambda f: f.double(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_kept_matrix_never_goes_stale(features: QuantumFeatures, change: str) -> None:
    x = torch.randn(4, 5)
    with torch.no_grad():
        before = features(x)
        torch.testing.assert_close(before, copy.deepcopy(features)(x), rtol=0, atol=0)
    CHANGES[change](features)
    with torch.no_grad():
        after = features(x)
        torch.testing.assert_close(after, copy.deepcopy(features)(x), rtol=0, atol=0)
    torch.testing.assert_close(after, features(x).detach())
    assert after.dtype == features.qnn.angles.dtype
    if "double" in change:
        torch.testing.assert_close(after.float(), before)
    else:
        assert not torch.allclose(after, before, atol=1e-3)


def test_circuit_is_contracted_once_until_angles_change(features: QuantumFeatures, sweeps) -> None:
    ant = QuantumFeatures(box(27))  # where the cost model would send one observation through gates
    with torch.no_grad():
        for batch in (1, 16, 128, 1):
            ant(torch.randn(batch, 27))
        assert sweeps == ["still"]
        features(torch.randn(4, 5))
    step(features)
    with torch.no_grad():
        features(torch.randn(1, 5))
        features(torch.randn(4, 5))
    assert sweeps == ["still", "still", "learn", "still"]


def test_frozen_circuit_is_contracted_once(features: QuantumFeatures, sweeps) -> None:
    head = torch.nn.Linear(8, 1)
    features.requires_grad_(False)
    for _ in range(3):
        head(features(torch.randn(4, 5))).sum().backward()
    assert sweeps == ["still"]
    assert head.weight.grad is not None
    x = torch.randn(4, 5, requires_grad=True)
    features(x).sum().backward()
    assert x.grad is not None


def test_update_on_ant_carries_the_columns_of_its_observations() -> None:
    size = Size(batch=128, features=27, outcomes=512, grad=True)
    assert Ways(Ring(9, 12), Probabilities.qubit).cheapest(size).carry == "columns"


# ----------------------------------------------------------------------------------- in policies
POLICY = {
    "features_extractor_class": QuantumFeatures,
    "features_extractor_kwargs": {"num_qubits": 3, "depth": 2},
    "net_arch": {"pi": [], "vf": []},
}
SAC_POLICY = POLICY | {"net_arch": {"pi": [8], "qf": [8]}}


def ppo(env: Any = "Pendulum-v1", **settings: Any) -> PPO:
    settings = {"policy_kwargs": POLICY, "n_steps": 32, "batch_size": 16, "n_epochs": 2} | settings
    return PPO("MlpPolicy", env, learning_rate=0.01, seed=3, device="cpu", **settings)


def a2c() -> A2C:
    return A2C("MlpPolicy", "Pendulum-v1", seed=3, device="cpu", policy_kwargs=POLICY)


def sac() -> SAC:
    settings = {"policy_kwargs": SAC_POLICY, "learning_starts": 50, "batch_size": 16}
    return SAC("MlpPolicy", "Pendulum-v1", seed=3, device="cpu", **settings)


ALGORITHMS: dict[str, tuple[Callable[[], BaseAlgorithm], int]] = {
    "PPO": (ppo, 128),
    "A2C": (a2c, 100),
    "SAC": (sac, 130),
}


def numbers_of(model: BaseAlgorithm) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithm_learns_is_saved_loaded_and_repeated(name: str, tmp_path) -> None:
    make, num_steps = ALGORITHMS[name]
    model = make()
    before = numbers_of(model)
    model.learn(num_steps)
    after = numbers_of(model)
    assert [n for n in before if torch.equal(before[n], after[n])] == []
    assert any(n.endswith("qnn.angles") for n in after)

    observations = np.random.default_rng(0).normal(size=(6, 3))
    expected, _ = model.predict(observations, deterministic=True)
    assert len(np.unique(expected)) > 1
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(loaded.predict(observations, deterministic=True)[0], expected)
    loaded.set_env(model.get_env())
    loaded.learn(60)  # goes on from there

    repeated = make()
    assert all(torch.equal(before[n], value) for n, value in numbers_of(repeated).items())
    repeated.learn(num_steps)
    assert all(torch.equal(after[n], value) for n, value in numbers_of(repeated).items())


def test_parameters_set_from_elsewhere_are_seen_at_once(tmp_path) -> None:
    observations = np.random.default_rng(0).normal(size=(6, 3))
    model = ppo()
    model.save(tmp_path / "untrained")
    parameters = copy.deepcopy(model.get_parameters())
    untrained, _ = model.predict(observations, deterministic=True)
    model.learn(64)
    assert not np.allclose(model.predict(observations, deterministic=True)[0], untrained)
    trained = copy.deepcopy(model.get_parameters())
    model.set_parameters(parameters)
    np.testing.assert_array_equal(model.predict(observations, deterministic=True)[0], untrained)
    model.set_parameters(trained)
    model.set_parameters(str(tmp_path / "untrained"))
    np.testing.assert_array_equal(model.predict(observations, deterministic=True)[0], untrained)


def test_policy_alone_is_saved_and_loaded(tmp_path) -> None:
    policy = ppo().policy
    policy.save(tmp_path / "policy.pth")
    loaded = type(policy).load(tmp_path / "policy.pth", device="cpu")
    x = np.random.default_rng(0).normal(size=(6, 3))
    expected, _ = policy.predict(x, deterministic=True)
    np.testing.assert_array_equal(loaded.predict(x, deterministic=True)[0], expected)


def test_rollout_and_evaluation_contract_once_and_an_update_once_a_minibatch(sweeps) -> None:
    env = make_vec_env("Pendulum-v1", n_envs=2)
    model = ppo(env)  # 64 samples a rollout: 4 minibatches, 2 epochs
    model.learn(128)
    update = ["learn"] * 8
    assert sweeps == ["still", *update, "still", *update]
    sweeps.clear()
    for _ in range(3):
        model.predict(np.ones((1, 3)), deterministic=True)
    assert sweeps == ["still"]


class Ant27(gymnasium.Env):
    """Ant-v4's spaces and dimensions; the body stands at the origin when it is reset."""

    observation_space = box(27, dtype=np.float64)
    action_space = spaces.Box(-1, 1, (8,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict | None = None):
        super().reset(seed=seed)
        return np.zeros(27), {}

    def step(self, action: np.ndarray):
        return self.np_random.normal(size=27), -float(np.square(action).sum()), False, False, {}


def test_policy_of_the_protocol_has_its_parameters_and_trains() -> None:
    kwargs = {"features_extractor_class": QuantumFeatures, "net_arch": {"pi": [], "vf": []}}
    model = ppo(Ant27(), policy_kwargs=kwargs, n_steps=16)
    policy = model.policy
    assert policy.pi_features_extractor is policy.vf_features_extractor
    sizes = {name: value.numel() for name, value in policy.named_parameters()}
    angles, log_std = sizes.pop("features_extractor.qnn.angles"), sizes.pop("log_std")
    assert (angles, sum(sizes.values()), log_std) == (1620, 4617, 8)
    assert sum(value.numel() for value in policy.parameters()) == 6245
    before = policy.features_extractor.qnn.angles.detach().clone()
    model.learn(16)
    assert not torch.equal(policy.features_extractor.qnn.angles, before)


# --------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    "space, message",
    [
        (spaces.Discrete(4), r"accepts a Box of observations, not Discrete\(4\): wrap the env"),
        (spaces.Dict(a=box(3)), r"accepts a Box of observations, not Dict\(.*FlattenObservation"),
        (spaces.MultiBinary(4), "accepts a Box of observations, not MultiBinary"),
        (
            box(2, 2, 1, low=0, high=255, dtype=np.uint8),
            r"not an image, \(2, 2, 1\) of uint8: extract features",
        ),
    ],
    ids=["discrete", "dict", "binary", "image"],
)
def test_space_of_another_kind_is_a_clear_error(space: spaces.Space, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        QuantumFeatures(space)


@pytest.mark.parametrize(
    "space, settings, message",
    [
        (box(105), {"num_qubits": 6}, "105 .* 6 qubits have 1 to 64 .*: num_qubits must be .* 7$"),
        (box(16), {"num_qubits": 3}, "16 .* 3 qubits have 1 to 8 .*: num_qubits must be .* 4$"),
        (box(0), {}, "0 observations do not fit: 9 qubits have 1 to 512 amplitudes$"),
        (box(2), {"num_qubits": 1}, "at least 2 qubits, not 1"),
        (box(2), {"depth": 0}, "depth must be at least 1, not 0"),
        (box(2), {"scale": 0.0}, "scale must be above 0 and finite, not 0.0"),
        (box(2), {"scale": -5.0}, "scale must be above 0 and finite, not -5.0"),
        (box(2), {"scale": np.nan}, "scale must be above 0 and finite, not nan"),
        (box(2), {"scale": np.inf}, "scale must be above 0 and finite, not inf"),
    ],
    ids=str,
)
def test_setting_out_of_range_is_a_clear_error(space, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QuantumFeatures(space, **settings)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("learning", [True, False])
def test_observation_that_is_not_finite_is_named(features, value: float, learning: bool) -> None:
    x = torch.randn(4, 5)
    x[2, 3] = value
    message = f"observation 2 of 4 is not finite: number 3 is {value}"
    with torch.set_grad_enabled(learning), pytest.raises(ValueError, match=message):
        features(x)


def test_observations_of_another_size_are_an_error(features: QuantumFeatures) -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 10\): must be \(batch, ...\), with 5 num"):
        features(torch.randn(4, 10))


# ------------------------------------------------------------------------------------ MlpFeatures
def mlp_features_directly(features: MlpFeatures, x: torch.Tensor) -> np.ndarray:
    """One observation after the other, in double precision."""
    weights = [p.detach().double().numpy() for p in features.parameters()]
    outputs = []
    for row in (observation.ravel() for observation in x.double().numpy()):
        length = np.sqrt((row**2).sum())
        h = row / length if length else row
        for weight, bias in zip(weights[::2], weights[1::2], strict=True):
            h = np.tanh(weight @ h + bias)
        outputs.append(h)
    return np.array(outputs).reshape(len(x), features.features_dim)


@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 4), (2, 2, 2)], ids=str)
@pytest.mark.parametrize("hidden", [(7,), (6, 4), [5, 1, 3]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_mlp_features_match_a_direct_computation(shape: tuple, hidden, dtype) -> None:
    torch.manual_seed(1)
    features = MlpFeatures(box(*shape), hidden).to(dtype)
    assert features.features_dim == hidden[-1]
    assert [p.shape[0] for p in features.parameters()][::2] == list(hidden)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    for batch in (0, 1, 6):
        for kind in (torch.float32, torch.float64, torch.int64):
            x = (4 * torch.randn(batch, *shape)).to(kind)
            outputs = features(x).detach()
            assert outputs.dtype == dtype and outputs.shape == (batch, hidden[-1])
            expected = mlp_features_directly(features, x)
            np.testing.assert_allclose(outputs.numpy(), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("length", [1e-44, 1e-30, 1e-3, 1e30])
def test_length_of_an_observation_does_not_matter_to_mlp_features(length: float) -> None:
    features = MlpFeatures(box(5), (8, 4))
    x = torch.tensor([[1.0, 0, -3, 0, 2]])
    # 1e-44 is seven times the smallest number: the direction is rounded
    tolerance = 0.05 if length == 1e-44 else 1e-6
    torch.testing.assert_close(features(length * x), features(x), rtol=0, atol=tolerance)
    assert not torch.allclose(features(-x), features(x), rtol=0, atol=0.05)


def test_zero_observation_stays_zero_in_mlp_features() -> None:
    features = MlpFeatures(box(3), (8, 4))
    x = torch.tensor([[0.0, 0, 0], [1, 2, 3]])
    outputs = features(x)
    torch.testing.assert_close(outputs[0], features.layers(torch.zeros(3)))
    torch.testing.assert_close(outputs[1:], features(x[1:]))
    outputs.sum().backward()
    assert all(p.grad.isfinite().all() for p in features.parameters())


def test_gradients_of_mlp_features_match_finite_differences() -> None:
    features = MlpFeatures(box(3), (4, 2)).double()
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*features.named_parameters(), strict=True)

    def outputs(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(features, named, (x,))

    assert torch.autograd.gradcheck(outputs, (x, *parameters))


@pytest.mark.parametrize(
    "space, hidden, error, message",
    [
        (spaces.Discrete(4), (8,), TypeError, r"MlpFeatures accepts a Box .*, not Discrete\(4\)"),
        (
            box(2, 2, 1, low=0, high=255, dtype=np.uint8),
            (8,), TypeError, r"MlpFeatures accepts .* not an image, \(2, 2, 1\) of uint8",
        ),
        (box(0), (8,), ValueError, "no features of Box.*: it holds no observations"),
        (box(3), (), ValueError, r"hidden \(\): at least one layer"),
        (box(3), (8, 0), ValueError, r"hidden \(8, 0\): .* of at least one unit"),
        (box(3), (-1, 8), ValueError, r"hidden \(-1, 8\): .* of at least one unit"),
    ],
    ids=["discrete", "image", "empty", "no layer", "no unit", "negative"],
)  # fmt: skip
def test_mlp_features_of_nothing_sensible_are_a_clear_error(space, hidden, error, message) -> None:
    with pytest.raises(error, match=message):
        MlpFeatures(space, hidden)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_observation_that_is_not_finite_is_named_by_mlp_features(value: float) -> None:
    x = torch.randn(4, 5)
    x[2, 3] = value
    message = f"observation 2 of 4 is not finite: number 3 is {value}"
    with pytest.raises(ValueError, match=message):
        MlpFeatures(box(5))(x)


def test_mlp_features_in_ppo_learn_are_saved_and_loaded(tmp_path) -> None:
    kwargs = {
        "features_extractor_class": MlpFeatures,
        "features_extractor_kwargs": {"hidden": (6, 4)},
        "net_arch": {"pi": [], "vf": []},
    }
    model = ppo(policy_kwargs=kwargs)
    policy = model.policy
    assert policy.pi_features_extractor is policy.vf_features_extractor
    assert policy.action_net.in_features == policy.value_net.in_features == 4
    sizes = [3 * 6 + 6, 6 * 4 + 4, 4 + 1, 4 + 1, 1]  # layers, action, value, log_std
    assert sum(p.numel() for p in policy.parameters()) == sum(sizes)
    before = numbers_of(model)
    model.learn(64)
    assert [n for n, value in numbers_of(model).items() if torch.equal(before[n], value)] == []
    observations = np.random.default_rng(0).normal(size=(6, 3))
    expected, _ = model.predict(observations, deterministic=True)
    assert len(np.unique(expected)) > 1
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", device="cpu")
    np.testing.assert_array_equal(loaded.predict(observations, deterministic=True)[0], expected)


@pytest.mark.parametrize("features", [lambda b: QuantumFeatures(b, 2, 1), MlpFeatures])
def test_observations_of_another_kind_or_shape_are_named(features: Any) -> None:
    made = features(gymnasium.spaces.Box(-1, 1, (3,)))
    with pytest.raises(TypeError, match="observations must be a tensor, not ndarray"):
        made(np.zeros((2, 3)))
    for shape in ((3,), (3, 5)):
        expected = re.escape(f"observations have shape {shape}: must be (batch, ...), with 3 num")
        with pytest.raises(ValueError, match=expected):
            made(torch.rand(shape))


def test_options_of_features_that_are_no_numbers_are_named() -> None:
    box = gymnasium.spaces.Box(-1, 1, (3,))
    with pytest.raises(ValueError, match="scale must be above 0 and finite, not 'a'"):
        QuantumFeatures(box, scale="a")
    with pytest.raises(TypeError, match="hidden 3: integers, one for each layer"):
        MlpFeatures(box, hidden=3)

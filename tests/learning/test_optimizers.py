"""Optimizers: their steps by hand, copies, states, and how an arm gets one."""

import copy
import io
import json
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from experiments import mnist
from experiments.ant import EXPERIMENT as ANT
from experiments.cli import parse as cli
from plasticity.errors import UsageError
from plasticity.learning.learner import Learner
from plasticity.learning.optimizers import Muon, Sign
from plasticity.networks.mlp import mlp
from plasticity.protocol.arms import Registry
from plasticity.protocol.choices import choose
from plasticity.protocol.optimizers import OPTIMIZERS, Adam
from plasticity.quantum.circuits import Brickwork
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import LogOdds
from tests.tiny import same, tiny_learner, tiny_network, tiny_task


def learner(name: str, arm: str = "mlp") -> Learner:
    return Learner(tiny_network(arm), OPTIMIZERS[name].build, cross_entropy)


def update(one: Learner, times: int = 1) -> None:
    for _ in range(times):
        one.update(*tiny_task().train.batch(slice(0, 8)))


def step_of(name: str, options: dict) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What an update changes, and the gradients."""
    network = mlp((6, 3, 2), torch.Generator().manual_seed(0))
    optimizer = type(OPTIMIZERS[name])(**options).build(list(network.parameters()))
    x = torch.rand(5, 6, generator=torch.Generator().manual_seed(1))
    cross_entropy(network(x), torch.tensor([0, 1, 0, 1, 1])).backward()
    before = [p.detach().clone() for p in network.parameters()]
    optimizer.step()
    moved = [p.detach() - b for p, b in zip(network.parameters(), before, strict=True)]
    return moved, [p.grad.clone() for p in network.parameters()]


def test_sign_moves_each_number_by_the_rate_and_none_without_gradient() -> None:
    moved, gradients = step_of("sign", {"learning_rate": 0.02})
    for m, g in zip(moved, gradients, strict=True):
        for a, b in zip(m.flatten().tolist(), g.flatten().tolist(), strict=True):
            expected = 0.0 if b == 0 else -math.copysign(0.02, b)
            assert a == pytest.approx(expected, abs=1e-7)
    number = nn.Parameter(torch.tensor([1 + 1j]))
    optimizer = Sign([number], 0.5)
    number.grad = torch.tensor([-3 + 0.1j])
    optimizer.step()
    assert number.tolist() == [1.5 + 0.5j]


def test_gradient_descent_moves_along_the_gradient() -> None:
    moved, gradients = step_of("sgd", {"learning_rate": 0.5})
    for m, g in zip(moved, gradients, strict=True):
        torch.testing.assert_close(m, -0.5 * g)


def test_muon_moves_a_matrix_along_an_isometry_and_others_as_adam() -> None:
    moved, gradients = step_of("muon", {"learning_rate": 0.1, "epsilon": 1e-8})
    for m, g in zip(moved, gradients, strict=True):
        if m.dim() == 1:
            expected = torch.where(g == 0, 0.0, -0.1 * g.sign())
            torch.testing.assert_close(m, expected, rtol=1e-3, atol=1e-6)
            continue
        values = torch.linalg.svdvals(m)
        values = values[values > 1e-3 * values[0]]  # of a gradient of lower rank
        # 0.2 sqrt(longer side) is torch's scale; its isometry is one up to some 30 %.
        assert values.max() < 1.6 * values.min()
        assert values.mean() == pytest.approx(0.1 * 0.2 * max(m.shape) ** 0.5, rel=0.4)
        left, _, right = torch.linalg.svd(g, full_matrices=False)
        rank = len(values)
        along = torch.trace(left[:, :rank].T @ m @ right[:rank].T)
        assert along < -0.6 * 0.1 * 0.2 * max(m.shape) ** 0.5 * rank


@pytest.mark.parametrize("arm", ["mlp", "qnn"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_copied_and_stopped_it_goes_on_bit_for_bit(name: str, arm: str) -> None:
    whole = learner(name, arm)
    before = [p.detach().clone() for p in whole.network.parameters()]
    update(whole, 3)
    assert not same([*whole.network.parameters()], before)
    twin = copy.deepcopy(whole)
    file = io.BytesIO()
    torch.save(whole.state_dict(), file)
    file.seek(0)
    resumed = learner(name, arm)
    update(resumed)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for one in (whole, twin, resumed):
        update(one, 3)
        assert same(one.state_dict(), whole.state_dict())
    assert whole.optimizer.state is not twin.optimizer.state


def test_adam_is_the_one_that_arms_had_before_there_were_others() -> None:
    built = OPTIMIZERS["adam"].build([nn.Parameter(torch.ones(2))])
    assert type(built) is torch.optim.Adam and built.defaults["fused"]
    arm = mnist.EXPERIMENT.presets["quick"].arms["mlp"]
    assert arm.json()["optimizer"] == {"learning_rate": 1e-2, "epsilon": 1e-7}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_arm_gets_an_optimizer_by_its_name(name: str) -> None:
    experiment = mnist.EXPERIMENT
    options = {"mlp": {"optimizer": name, "optimizer.learning_rate": 0.3}}
    arm = choose(experiment, "quick", ["mlp"], options=options).arms["mlp"]
    words = ["--preset=quick", "--arms", "mlp", "--mlp.optimizer", name]
    words += ["--mlp.optimizer.learning-rate", "0.3"]
    assert cli.parse(experiment, words)[0].arms == {"mlp": arm}
    assert type(arm.optimizer) is type(OPTIMIZERS[name])
    assert arm.optimizer.learning_rate == 0.3
    if name == "adam":
        assert arm.optimizer.epsilon == 1e-7  # the preset's, which has it
    recorded = json.loads(json.dumps(arm.json()))
    assert experiment.registry.from_json(recorded) == arm


def test_optimizers_that_there_are_not_are_refused_in_a_line() -> None:
    for options, message in (
        ({"optimizer": "sdg"}, "did you mean sgd"),
        ({"optimizer": "sgd", "optimizer.epsilon": 1e-3}, "no option of mlp"),
        ({"optimizer": "sgd", "optimizer.momentum": 1.5}, "momentum 1.5: 0 to less than 1"),
    ):
        with pytest.raises(UsageError, match=message):
            choose(mnist.EXPERIMENT, "quick", ["mlp"], options={"mlp": options})
    with pytest.raises(UsageError, match="there are adam"):
        choose(ANT, "quick", ["mlp"], options={"mlp": {"optimizer": "sgd"}})
    with pytest.raises(UsageError, match=r"--mlp\.optimizer sgd: no optimizer"):
        cli.parse(ANT, ["--preset=quick", "--arms", "mlp", "--mlp.optimizer", "sgd"])


def test_one_entry_makes_an_optimizer_available(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Adam):
        pass

    monkeypatch.setitem(OPTIMIZERS, "slow", Slow(learning_rate=1e-5, epsilon=1e-8))
    arm = choose(mnist.EXPERIMENT, "quick", ["mlp"], options={"mlp": {"optimizer": "slow"}})
    assert type(arm.arms["mlp"].optimizer) is Slow
    assert Registry({}, {}).optimizers is OPTIMIZERS
    assert type(tiny_learner("mlp").optimizer) is torch.optim.Adam


def test_muon_trains_a_circuits_angles_as_a_matrix() -> None:
    network = QNN(Brickwork(3, 1), LogOdds(3))
    optimizer = Muon(list(network.parameters()), 0.1, 0.95, 1e-8)
    (group,) = optimizer.param_groups
    assert group["step_rms"] == 0.2

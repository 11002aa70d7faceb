"""What is kept from call to call: nothing of a mode or a transform, and nothing without an end."""

import gc
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, functionalize, grad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from plasticity.quantum.circuits import Ansatz, Brickwork
from plasticity.quantum.engine import constants, costs
from plasticity.quantum.engine.constants import cached_constants
from plasticity.quantum.engine.program import Lease
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import LogOdds, PauliZ, Probabilities, Readout
from tests.oracle import dense_probabilities

CPU = torch.device("cpu")


class Doubling(TorchFunctionMode):
    """A mode of a user's that changes what functions return."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        return 2 * result if function is torch.full else result


def inside(mode: Callable[[], AbstractContextManager]) -> Callable[[Callable], None]:
    def call(function: Callable) -> None:
        with mode():
            function()

    return call


def transformed(transform: Callable) -> Callable[[Callable], None]:
    def call(function: Callable) -> None:
        def and_something(x: torch.Tensor) -> torch.Tensor:
            function()
            return x.sum()

        transform(and_something)(torch.ones(2))

    return call


def recorded(mode: str) -> Callable[[Callable], None]:
    return transformed(
        lambda function: make_fx(function, tracing_mode=mode, _allow_non_fake_inputs=True)
    )


MODES = {
    "fake tensors": inside(FakeTensorMode),
    "counted": inside(lambda: FlopCounterMode(display=False)),
    "meta by default": inside(lambda: torch.device("meta")),
    "a mode of functions": inside(Doubling),
    "inference": inside(torch.inference_mode),
    "grad": transformed(grad),
    "functionalize": transformed(functionalize),
    "real": recorded("real"),
    "fake": recorded("fake"),
    "symbolic": recorded("symbolic"),
}


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
def test_constants_of_a_mode_are_not_kept(mode) -> None:
    @cached_constants
    def sevens(device: torch.device) -> tuple[torch.Tensor]:
        return (torch.full((3,), 7.0, device=device),)

    mode(lambda: sevens(CPU))
    (found,) = sevens(CPU)
    assert type(found) is torch.Tensor
    assert found.tolist() == [7, 7, 7]
    assert not found.is_inference()
    assert sevens(CPU)[0] is found
    mode(lambda: sevens(CPU))
    assert sevens(CPU)[0] is found


def circuits(mode: str) -> list[tuple[QNN, torch.Tensor]]:
    """Make circuits that no other test has, so that nothing of theirs is kept yet."""
    pairs = tuple((a % 3, a % 3 + 1) for a in range(3 + list(MODES).index(mode)))
    readouts: list[Readout] = [LogOdds(3), PauliZ(2), Probabilities()]
    return [
        (QNN(Ansatz(4, (*pairs, *((0, 1),) * k)), readout).double(), torch.rand(5, 16).double())
        for k, readout in enumerate(readouts)
    ]


@pytest.mark.sampled(2)
@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize("mode", ["fake tensors", "meta by default", "inference", "grad", "fake"])
def test_a_layer_is_right_after_it_was_evaluated_in_a_mode(mode) -> None:
    for net, x in circuits(mode):
        noisy = net.on_device()

        def evaluate(net=net, x=x, noisy=noisy) -> None:
            angles = {"angles": torch.rand_like(net.angles)}  # the mode's own
            for some in (x[:0], x) if mode in ("fake tensors", "fake") else (x,):
                batch = some + torch.zeros_like(some)
                for gradients in (torch.enable_grad, torch.no_grad):
                    with gradients():
                        functional_call(net, angles, (batch,))
                        if len(batch):
                            functional_call(noisy, {"qnn.angles": angles["angles"]}, (batch,))

        if mode not in ("meta by default", "fake tensors"):
            MODES[mode](evaluate)
        else:
            other = torch.device("meta") if mode == "meta by default" else nullcontext()
            with FakeTensorMode(allow_non_fake_inputs=True), other:
                evaluate()
        expected = dense_probabilities(net.ansatz, net.angles, x)
        for gradients in (torch.enable_grad, torch.no_grad):
            with gradients():
                for evaluated in (net, noisy):
                    found = evaluated(x)
                    if isinstance(net.readout, Probabilities):
                        np.testing.assert_allclose(found.detach(), expected, atol=1e-12)
                    assert found.isfinite().all()
                np.testing.assert_allclose(net(x).detach(), noisy(x).detach(), atol=1e-9)


def test_a_trace_of_a_step_can_be_run_again() -> None:
    net, x = QNN(Brickwork(3, 2), PauliZ(1)).double(), torch.rand(4, 8).double()

    def step(angles: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        loss = functional_call(net, {"angles": angles}, (x,)).square().sum()
        return torch.autograd.grad(loss, angles)[0]

    traced = make_fx(step)(net.angles.detach().clone().requires_grad_(), x)
    other = torch.rand(4, 8).double()
    torch.testing.assert_close(traced(net.angles.detach(), other), step(net.angles, other))


def test_few_constants_are_kept() -> None:
    made = []

    @cached_constants
    def number(value: int, device: torch.device) -> tuple[torch.Tensor]:
        made.append(value)
        return (torch.tensor(value, device=device),)

    count = constants.MOST_CONSTANTS
    for value in range(count + 10):
        assert number(value, CPU)[0] == value
    latest = list(range(10, count + 10))
    assert [int(number(value, CPU)[0]) for value in latest] == latest
    assert len(made) == count + 10
    number(0, CPU)
    assert len(made) == count + 11


def test_nothing_is_left_of_circuits_that_are_there_no_more() -> None:
    def evaluated(length: int) -> QNN:
        net = QNN(Ansatz(3, ((0, 1), (1, 2)) + ((0, 2),) * length), LogOdds(2))
        net(torch.rand(6, 8)).sum().backward()
        with torch.no_grad():
            net(torch.rand(6, 8))
        return net

    def plans(net: QNN) -> list[weakref.ref]:
        return [weakref.ref(way.plan) for way in net.f._ways._ways.values()]

    staying, leaving = evaluated(1), evaluated(2)
    stay, leave = plans(staying), plans(leaving)
    program = leaving.f._ways.cheapest(costs.Size(6, 8, 2, grad=True)).plan
    assert program in [plan() for plan in leave]
    del leaving, program
    others = [evaluated(3 + k) for k in range(costs.MOST_SEARCHED)]
    costs.make_plan.cache_clear()  # some more, smaller
    costs.products.cache_clear()
    gc.collect()
    assert all(plan() for plan in stay)
    assert not any(plan() for plan in leave)
    assert len(others) == costs.MOST_SEARCHED
    evaluated(1)
    assert all(key[0]() is not None for key, _, _ in Lease._pool)


def test_a_circuit_remembers_some_sizes_of_batches(monkeypatch) -> None:
    monkeypatch.setattr(costs, "MOST_CHOICES", 5)
    monkeypatch.setattr(costs, "MOST_WAYS", 2)
    ways = costs.Ways(Brickwork(3, 1), None)
    found = [ways.cheapest(costs.Size(9, 1 + k % 7, None, grad=True), "columns") for k in range(28)]
    assert len(ways._choices) <= 5
    assert len(ways._ways) <= 2
    assert found[:7] == found[7:14]

"""Circuits under torch's compilers and exporters: a break in the graph, or one sentence."""

import logging
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from plasticity.networks.modules.bricks import OrthogonalQNN, TrivializedQNN
from plasticity.quantum.circuits import Brickwork, Ring
from plasticity.quantum.gates import FreeCircuit
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import LogOdds, PauliZ, Probabilities, SignedPauliZ
from plasticity.quantum.reuploading import ReuploadingQNN

CIRCUITS = {
    "qnn": lambda: QNN(Brickwork(3, 1), LogOdds(3)),
    "on-device": lambda: QNN(Brickwork(3, 1), LogOdds(3)).on_device(),
    "free": lambda: FreeCircuit(Brickwork(3, 1), LogOdds(3)),
    "reuploading": lambda: ReuploadingQNN(Brickwork(3, 1), LogOdds(3), 8, (1,)),
    "orthogonal": lambda: OrthogonalQNN(Brickwork(3, 1), LogOdds(3), torch.rand),
    "trivialized": lambda: TrivializedQNN(Brickwork(3, 1), LogOdds(3), torch.rand),
}


class Sum(nn.ModuleList):
    """Add what several modules make of an input: one compilation for all of them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return sum(module(x) for module in self)


def model_with(*circuits: str) -> nn.Sequential:
    torch.manual_seed(0)
    quantum = Sum(CIRCUITS[circuit]() for circuit in circuits)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), quantum, nn.Linear(3, 3))


def trained(model: nn.Module, call) -> list[float]:
    """Losses and evaluations in turn, for batches of several sizes, as in epochs."""
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    numbers = []
    generator = torch.Generator().manual_seed(1)
    for batch in (8, 8, 5, 1, 8):
        x = torch.rand(batch, 5, generator=generator)
        sgd.zero_grad()
        loss = cross_entropy(call(x), torch.arange(batch) % 3)
        loss.backward()
        sgd.step()
        with torch.no_grad():
            numbers += [
                loss.item(),
                call(torch.rand(2 * batch, 5, generator=generator))[0, 0].item(),
            ]
    return numbers


@pytest.fixture(autouse=True)
def _forget_graphs():
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # torch's own use
def test_a_compiled_model_trains_to_the_same_numbers_without_a_word(caplog) -> None:
    plain, compiled = model_with(*CIRCUITS), model_with(*CIRCUITS)
    expected = trained(plain, plain)
    with warnings.catch_warnings(record=True) as said, caplog.at_level(logging.WARNING):
        warnings.simplefilter("default")
        found = trained(compiled, torch.compile(compiled, backend="aot_eager"))
    assert found == expected
    assert [str(warning.message) for warning in said if "graph" in str(warning.message)] == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's own use
def test_a_compiled_step_with_its_backward_pass_gives_the_same_gradients() -> None:
    model = model_with("qnn")

    def step(x: torch.Tensor) -> torch.Tensor:
        loss = model(x).square().sum()
        loss.backward()
        return loss.detach()

    x, gradients = torch.rand(4, 5), []
    for call in (step, torch.compile(step, backend="eager")):
        model.zero_grad()
        call(x)
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_compiled_gradients_of_each_sample_are_the_same() -> None:
    model, x = model_with("qnn"), torch.rand(3, 5)
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def of_sample(parameters: dict[str, torch.Tensor], sample: torch.Tensor) -> torch.Tensor:
        return functional_call(model, parameters, (sample,)).sin().sum()

    plain = vmap(grad(of_sample), (None, 0))
    found = torch.compile(plain, backend="aot_eager")(parameters, x)
    for name, gradient in plain(parameters, x).items():
        torch.testing.assert_close(found[name], gradient)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")  # as of torch 2.14
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own uses, both
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
def test_inductor_compiles_what_is_around_the_circuit() -> None:
    plain, compiled = model_with("qnn"), model_with("qnn")
    expected = trained(plain, plain)
    compiled.compile(backend="inductor")
    torch.testing.assert_close(trained(compiled, compiled), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_who_does_not_compile_does_not_import_the_compiler() -> None:
    program = """
import sys, torch
from plasticity import QNN, Brickwork, LogOdds
QNN(Brickwork(3, 1), LogOdds(2))(torch.rand(2, 8)).sum().backward()
sys.exit("torch._dynamo" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


# ------------------------------------------------------------------------------------------ export
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")  # as of torch 2.14
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, for the older exporters
@pytest.mark.parametrize("circuit", ["qnn", "free"])
@pytest.mark.parametrize(
    "trace",
    [
        lambda model, x: torch.jit.trace(model, x),
        lambda model, x: torch.jit.script(model),
        lambda model, x: torch.export.export(model, (x,)),
        lambda model, x: torch.onnx.export(model, (x,), "never.onnx", dynamo=False),
        lambda model, x: torch.export.export(model, (x,), strict=True),
        lambda model, x: torch.compile(model, fullgraph=True, backend="eager")(x),
    ],
    ids=["trace", "script", "export", "onnx", "strict", "fullgraph"],
)
def test_what_cannot_be_traced_names_the_way_out(circuit: str, trace) -> None:
    with pytest.raises(RuntimeError, match=r"qnn\.as_plain_module\(\)") as error:
        trace(model_with(circuit), torch.rand(2, 5))
    if type(error.value) is RuntimeError:  # torch adds to what its compiler says
        assert "\n" not in str(error.value)


PLAIN = [
    QNN(Brickwork(4, 2), LogOdds(3)),
    QNN(Ring(3, 2), Probabilities()),
    QNN(Ring(4, 2), PauliZ(1)).double(),
    QNN(Brickwork(4, 1), SignedPauliZ(3)),
    TrivializedQNN(Ring(3, 1), LogOdds(8), torch.rand),
]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*")
@pytest.mark.parametrize("qnn", PLAIN, ids=lambda qnn: f"{type(qnn).__name__}-{qnn.readout}")
def test_the_plain_module_has_the_layers_outputs_traced_and_exported_too(qnn: QNN) -> None:
    plain = qnn.as_plain_module()
    features = 2**qnn.ansatz.num_qubits - 1
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if qnn.angles.dtype == torch.float32 else {}
    x = torch.randn(5, features, dtype=qnn.angles.dtype)
    traced = torch.jit.trace(plain, x[:2])
    dynamic = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(plain, (x[:2],), dynamic_shapes=dynamic).module()
    for module in (plain, traced, exported):
        torch.testing.assert_close(module(x), qnn(x), **tolerance)
    for other in (x[0], x.reshape(1, 5, features), 1e-30 * x, x * (1 + 2j), x.conj() * 1j):
        torch.testing.assert_close(plain(other), qnn(other), **tolerance)
    assert list(plain.parameters()) == []


def test_a_circuit_that_depends_on_the_data_has_no_plain_module() -> None:
    with pytest.raises(TypeError, match="depends on the data"):
        CIRCUITS["reuploading"]().as_plain_module()

"""What all circuit modules take and give, whatever they are made of: shapes, memory, errors."""

import numpy as np
import pytest
import torch
from torch import nn

from plasticity.networks.modules.bricks import OrthogonalQNN, TrivializedQNN, WrappedQNN
from plasticity.networks.modules.hybrids import ZOnEveryQubit
from plasticity.networks.modules.quadratic import Overlaps, complex_normal, log_odds
from plasticity.quantum.circuits import Ansatz, Brickwork, Ring
from plasticity.quantum.device import NoiseModel
from plasticity.quantum.gates import FreeCircuit
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import (
    LogOdds,
    LogProbabilities,
    PauliZ,
    Probabilities,
    SignedPauliZ,
)
from plasticity.quantum.reuploading import ReuploadingQNN

READOUTS = [
    LogOdds(1),
    LogOdds(3),
    LogProbabilities(2),
    Probabilities(),
    PauliZ(1),
    SignedPauliZ(0),
]
RING = Ring(3, 2)
CIRCUITS = {
    "qnn": lambda readout: QNN(RING, readout),
    "orthogonal": lambda readout: OrthogonalQNN(RING, readout, torch.rand),
    "wrapped": lambda readout: WrappedQNN(RING, readout, torch.rand),
    "trivialized": lambda readout: TrivializedQNN(RING, readout, torch.rand),
    "reuploading": lambda readout: ReuploadingQNN(RING, readout, 8, (0, 3)),
    "free": lambda readout: FreeCircuit(RING, readout),
    "on-device": lambda readout: QNN(RING, readout).on_device(NoiseModel(0.1, 0.1, 0.1)),
}
OTHERS = {
    "z-on-every-qubit": lambda: nn.Sequential(QNN(RING, Probabilities()), ZOnEveryQubit(3)),
    "overlaps": lambda: Overlaps(complex_normal(8, 3, torch.Generator().manual_seed(0)), log_odds),
    "unscaled": lambda: FreeCircuit(RING, LogProbabilities(2), renormalised=False),
    "shots": lambda: QNN(RING, PauliZ(0)).on_device(shots=10),
}


def modules() -> list:
    made = [
        pytest.param(
            lambda kind=kind, readout=readout: CIRCUITS[kind](readout), id=f"{kind}-{readout}"
        )
        for kind in CIRCUITS
        for readout in READOUTS
    ]
    return made + [pytest.param(make, id=name) for name, make in OTHERS.items()]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("make", modules())
def test_samples_have_any_leading_dimensions_as_of_a_linear_layer(make) -> None:
    module = make().eval()
    x = torch.rand(2, 3, 8)
    rows = module(x.flatten(0, 1))
    if "shots" not in repr(module) or "shots=None" in repr(module):
        torch.testing.assert_close(module(x), rows.unflatten(0, (2, 3)))
        torch.testing.assert_close(module(x[1, 2]), rows[5])
    for shape in ((8,), (2, 1, 3, 8), (0, 8), (2, 0, 8)):
        assert module(torch.rand(shape)).shape == (*shape[:-1], rows.shape[1])


@pytest.mark.sampled(40)
@pytest.mark.parametrize("make", modules())
@pytest.mark.parametrize("batch", [1, 3, 40])
def test_outputs_are_contiguous_and_can_be_changed_in_place(make, batch: int) -> None:
    module = make()
    x = torch.rand(batch, 8, requires_grad=True)
    for case in (x, x.detach().T.contiguous().T, x.detach().double()):
        for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
            with mode():
                out = module(case)
                assert out.stride() == torch.empty(out.shape).stride()
                out.view(-1).mul_(2)
    gradients = []
    for inplace in (True, False):
        for model in (
            nn.Sequential(module, nn.ReLU(inplace=inplace)),
            nn.Sequential(module, nn.Dropout(0.5, inplace=inplace)),
        ):
            torch.manual_seed(1)
            parameters = [x, *module.parameters()]
            gradients.append(torch.autograd.grad(model(x).sin().sum(), parameters))
    for changed, copied in zip(gradients[:2], gradients[2:], strict=True):
        for one, other in zip(changed, copied, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", [kind for kind in CIRCUITS if kind != "reuploading"])
def test_inputs_that_torch_conjugates_lazily_are_as_others(kind: str) -> None:
    module = CIRCUITS[kind](LogOdds(3))
    x = torch.randn(8, 8, dtype=torch.complex64)
    for lazy in (x.conj(), x.mH, x.conj().imag, x.conj()[0]):
        assert lazy.is_conj() or lazy.is_neg()
        assert torch.equal(module(lazy), module(lazy.resolve_conj().resolve_neg().clone()))
    if hasattr(module, "circuit"):
        state = module.circuit(x.conj()[0]).state()
        torch.testing.assert_close(state, module.circuit(x.conj()[0].resolve_conj()).state())


@pytest.mark.parametrize("make", modules())
@pytest.mark.parametrize("frozen", [True, False])
def test_an_empty_batch_has_outputs_and_gradients_frozen_or_not(make, frozen: bool) -> None:
    module = make().requires_grad_(not frozen)
    x = torch.empty(0, 8, requires_grad=True)
    out = module(x)
    assert len(out) == 0
    out.sum().backward()
    assert x.grad.shape == (0, 8)
    assert all(p.grad is None or not p.grad.any() for p in module.parameters())


@pytest.mark.parametrize("kind", [kind for kind in CIRCUITS if kind != "free"])
def test_a_qubit_that_no_gate_touches_has_gradients_of_zero(kind: str, monkeypatch) -> None:
    monkeypatch.setattr(f"{__name__}.RING", Ansatz(3, ((0, 1), (1, 0), (0, 1), (1, 0))))
    module = CIRCUITS[kind](PauliZ(2))
    module(torch.rand(4, 8)).sum().backward()
    angles = next(p for name, p in module.named_parameters() if name.endswith("angles"))
    assert angles.grad.abs().max() < 1e-5


@pytest.mark.parametrize("kind", [*CIRCUITS, "overlaps", "z-on-every-qubit"])
def test_what_is_no_tensor_is_refused_by_name(kind: str) -> None:
    module = CIRCUITS[kind](LogOdds(3)) if kind in CIRCUITS else OTHERS[kind]()
    with pytest.raises(TypeError, match=r"NumPy array, not a torch\.Tensor: torch\.as_tensor\(x\)"):
        module(np.ones((2, 8), dtype=np.float32))
    with pytest.raises(TypeError, match="inputs are a list"):
        module([[1.0] * 8])


def test_a_circuit_of_several_samples_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"one sample must be .*shape \(2, 8\): of a batch, x\[0\]"
    ):
        QNN(RING, LogOdds(3)).circuit(torch.rand(2, 8))
    with pytest.raises(TypeError, match="NumPy array"):
        QNN(RING, LogOdds(3)).circuit(np.ones(8))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: QNN(4, 3), TypeError, r"ansatz 4: give an Ansatz, such as Brickwork\("),
        (lambda: QNN(Brickwork, LogOdds(3)), TypeError, "ansatz Brickwork: give an Ansatz"),
        (lambda: FreeCircuit(RING, 3), TypeError, r"readout 3: give a readout, such as LogOdds\("),
        (lambda: QNN(RING, LogOdds), TypeError, "readout LogOdds: give a readout"),
        (lambda: PauliZ([0, 1]), TypeError, r"qubit \[0, 1\]: one whole number .*ZOnEveryQubit"),
        (lambda: SignedPauliZ(True), TypeError, "qubit True: one whole number"),
        (lambda: LogOdds(3.0), TypeError, "num_classes 3.0: a whole number"),
        (lambda: LogProbabilities("3"), TypeError, "num_classes '3': a whole number"),
        (lambda: Brickwork(4.0, 2), TypeError, "num_qubits 4.0: a whole number"),
        (lambda: Ring(4, None), TypeError, "depth None: a whole number"),
        (lambda: Ansatz(4, ((0, 1, 2),)), TypeError, r"pairs \(\(0, 1, 2\),\): pairs of qubits"),
        (lambda: QNN(Brickwork(40, 1), PauliZ(0)), ValueError, "40 qubits: .*8,192 GiB.* 30"),
    ],
)  # fmt: skip
def test_wrong_arguments_name_the_value_and_the_way_out(make, error, message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_whole_numbers_may_be_of_numpy_and_torch() -> None:
    assert Brickwork(np.int64(4), torch.tensor(2)) == Brickwork(4, 2)
    assert hash(PauliZ(np.int8(1))) == hash(PauliZ(1))


def test_double_precision_of_trivialized_gates_is_as_near_unitary_as_double_precision_is() -> None:
    module = TrivializedQNN(RING, PauliZ(0), torch.rand)
    for double in (_loaded(module), module.double()):
        gates = double.gates()
        error = gates.mH @ gates - torch.eye(4)
        assert error.abs().max() < 1e-13


def _loaded(module: TrivializedQNN) -> TrivializedQNN:
    double = TrivializedQNN(RING, PauliZ(0), torch.rand).double()
    double.load_state_dict(module.state_dict())
    return double


def test_it_trains_where_torch_allows_saved_tensors_to_change() -> None:
    net, x = QNN(RING, LogOdds(3)).double(), torch.rand(4, 8)
    (expected,) = torch.autograd.grad(net(x).sin().sum(), net.angles)
    with torch.autograd.graph.allow_mutation_on_saved_tensors():  # a mode: plain functions
        (found,) = torch.autograd.grad(net(x).sin().sum(), net.angles)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)

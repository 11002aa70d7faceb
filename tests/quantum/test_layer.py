"""The quantum layer: the authors' numbers, dense matrices, and use as any other module."""

import copy
import io
import pickle

import numpy as np
import pytest
import tensorcircuit as tc
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from plasticity.quantum.circuits import Ansatz, Brickwork, Ring, Staircase
from plasticity.quantum.layer import QNN, empty_pool, pooled_bytes
from plasticity.quantum.readouts import LogOdds, PauliZ, Probabilities, SignedPauliZ
from tests.oracle import DATA, dense_probabilities, dense_z, tensorcircuit

# ---------------------------------------------------------------------------- the authors' numbers
# Made by the released program (TensorCircuit-NG on JAX, double precision).
GOLDEN = {
    "brickwork_logodds": (Brickwork(10, 4), LogOdds(10)),
    "brickwork_z": (Brickwork(10, 10), SignedPauliZ(9)),
    "staircase_z0": (Staircase(10, 6), PauliZ(0)),
    "ring_features": (Ring(9, 12), Probabilities()),
}


def golden(name: str, dtype: torch.dtype) -> tuple[QNN, torch.Tensor, dict[str, torch.Tensor]]:
    numbers = {k: torch.from_numpy(v) for k, v in np.load(DATA / f"{name}.npz").items()}
    net = QNN(*GOLDEN[name]).to(dtype)
    with torch.no_grad():
        net.angles.copy_(numbers["angles"])
    return net, numbers["observations" if name == "ring_features" else "inputs"], numbers


def authors_outputs(name: str, outputs: torch.Tensor) -> torch.Tensor:
    if name == "ring_features":
        return torch.tanh(5 * outputs)
    return outputs[:, 0] if name == "staircase_z0" else outputs


def authors_loss(name: str, outputs: torch.Tensor, numbers: dict) -> torch.Tensor:
    if name == "ring_features":
        return (numbers["cotangent"].to(outputs.dtype) * outputs).sum()
    if name == "staircase_z0":
        return binary_cross_entropy_with_logits(outputs, numbers["labels"].to(outputs.dtype))
    return cross_entropy(outputs, numbers["labels"])


def expected_outputs(name: str, numbers: dict) -> torch.Tensor:
    key = {"ring_features": "features", "staircase_z0": "logit"}.get(name, "logits")
    return numbers[key]


@pytest.mark.parametrize("name", GOLDEN)
def test_double_precision_gives_the_authors_outputs_and_gradients(name: str) -> None:
    net, inputs, numbers = golden(name, torch.float64)
    outputs = authors_outputs(name, net(inputs))
    torch.testing.assert_close(outputs, expected_outputs(name, numbers), rtol=0, atol=1e-9)
    loss = authors_loss(name, outputs, numbers)
    loss.backward()
    if "loss" in numbers:
        torch.testing.assert_close(loss, numbers["loss"], rtol=0, atol=1e-9)
    torch.testing.assert_close(net.angles.grad, numbers["grad"], rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", GOLDEN)
def test_single_precision_gives_the_authors_outputs_and_gradients(name: str) -> None:
    net, inputs, numbers = golden(name, torch.float32)
    outputs = authors_outputs(name, net(inputs))
    expected = expected_outputs(name, numbers).float()
    assert outputs.dtype == torch.float32
    scale = float(expected.abs().max())
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-3 * scale)
    authors_loss(name, outputs, numbers).backward()
    gradient = numbers["grad"].float()
    atol = 1e-3 * float(gradient.abs().max())
    torch.testing.assert_close(net.angles.grad, gradient, rtol=0, atol=atol)


def read_circuit(net: QNN, x: torch.Tensor) -> torch.Tensor:
    """What the readout makes of the tc.Circuit's own state or expectation."""
    circuit, readout = net.circuit(x), net.readout
    if isinstance(readout, PauliZ | SignedPauliZ):
        return readout(torch.real(circuit.expectation_ps(z=[readout.qubit])).unsqueeze(0))[0]
    probabilities = circuit.state().abs().square()
    return readout(probabilities[: readout.num_outcomes(net.ansatz.num_qubits)])


@pytest.mark.sampled(2)
@pytest.mark.slow
@pytest.mark.parametrize("name", GOLDEN)
def test_tc_circuit_gives_the_authors_outputs_and_gradients(name: str) -> None:
    net, inputs, numbers = golden(name, torch.float64)
    with tensorcircuit("pytorch"):
        outputs = authors_outputs(name, torch.stack([read_circuit(net, x) for x in inputs]))
    torch.testing.assert_close(outputs, expected_outputs(name, numbers), rtol=0, atol=1e-9)
    authors_loss(name, outputs, numbers).backward()
    torch.testing.assert_close(net.angles.grad, numbers["grad"], rtol=0, atol=1e-8)


def test_ten_adam_steps_reproduce_the_authors_losses_and_angles() -> None:
    net, inputs, numbers = golden("brickwork_logodds", torch.float64)
    adam = torch.optim.Adam(net.parameters(), lr=0.03, fused=True)
    losses = []
    for _ in range(10):
        adam.zero_grad()
        loss = cross_entropy(net(inputs), numbers["labels"])
        loss.backward()
        adam.step()
        losses.append(loss.detach())
    torch.testing.assert_close(torch.stack(losses), numbers["adam_losses"], rtol=0, atol=1e-8)
    torch.testing.assert_close(net.angles.detach(), numbers["adam_angles"], rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------- dense matrices
READOUTS = [LogOdds(3), Probabilities(), PauliZ(0), PauliZ(2), SignedPauliZ(1)]


def dense_outputs(net: QNN, x: torch.Tensor) -> np.ndarray:
    ansatz, readout, angles = net.ansatz, net.readout, net.angles.detach()
    if isinstance(readout, PauliZ | SignedPauliZ):
        z = dense_z(ansatz, angles, x, readout.qubit)[:, None]
        return z if isinstance(readout, PauliZ) else np.concatenate([z, -z], axis=1)
    p = dense_probabilities(ansatz, angles, x)
    if isinstance(readout, Probabilities):
        return p
    p = np.clip(p[:, : readout.num_classes], 1e-7, 1 - 1e-7)
    return np.log(p / (1 - p)) + 1e-9


@pytest.mark.sampled(50)
@pytest.mark.parametrize("readout", READOUTS, ids=str)
@pytest.mark.parametrize(
    "ansatz",
    [Brickwork(3, 2), Brickwork(5, 3), Staircase(4, 3), Ring(4, 3), Ring(5, 2),
     Ansatz(4, ((3, 0), (2, 1), (0, 2), (1, 3)))],
    ids=lambda a: f"{type(a).__name__}{a.num_qubits}",
)  # fmt: skip
@pytest.mark.parametrize("batch", [1, 9])
@pytest.mark.parametrize("kind", [torch.float64, torch.complex128])
def test_outputs_match_dense_matrices(ansatz: Ansatz, readout, batch: int, kind) -> None:
    torch.manual_seed(0)
    net = QNN(ansatz, readout).double()
    x = torch.randn(batch, 2**ansatz.num_qubits - 1, dtype=kind)
    torch.testing.assert_close(
        net(x).detach(), torch.from_numpy(dense_outputs(net, x)), rtol=1e-9, atol=1e-12
    )


@pytest.mark.sampled(4)
@pytest.mark.parametrize("readout", READOUTS, ids=str)
@pytest.mark.parametrize("batch", [1, 5])
def test_gradients_match_finite_differences(readout, batch: int) -> None:
    torch.manual_seed(1)
    net = QNN(Ring(3, 2), readout).double()
    x = torch.randn(batch, 7, dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda angles, x: functional_call(net, {"angles": angles}, (x,)),
        (net.angles.detach().requires_grad_(), x),
    )


@pytest.mark.parametrize("readout", [LogOdds(3), PauliZ(0)], ids=str)
def test_second_derivatives_match_finite_differences(readout) -> None:
    torch.manual_seed(2)
    net = QNN(Brickwork(3, 1), readout).double()
    x = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(
        lambda angles, x: functional_call(net, {"angles": angles}, (x,)),
        (net.angles.detach().requires_grad_(), x),
        fast_mode=True,
    )


def test_equal_eigenvalues_have_finite_and_right_gradients() -> None:
    net = QNN(Brickwork(3, 2), PauliZ(0), torch.zeros).double()
    x = torch.randn(2, 8, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda angles: functional_call(net, {"angles": angles}, (x,)),
        (net.angles.detach().requires_grad_(),),
    )


def test_scale_of_a_sample_does_not_matter() -> None:
    net = QNN(Brickwork(4, 2), LogOdds(4)).double()
    x = torch.randn(20, 16, dtype=torch.float64)
    torch.testing.assert_close(net(x), net(1e3 * x))


# ------------------------------------------------------------------------------------ as a module
@pytest.fixture
def net() -> QNN:
    torch.manual_seed(3)
    return QNN(Brickwork(4, 2), LogOdds(3))


def test_it_trains_inside_a_sequential_with_a_linear_head(net: QNN) -> None:
    model = nn.Sequential(net, nn.Linear(3, 2))
    adam = torch.optim.Adam(model.parameters(), lr=0.05)
    x, y = torch.rand(32, 16), torch.randint(2, (32,))
    losses = []
    for _ in range(40):
        adam.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        adam.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_it_has_one_parameter_called_angles(net: QNN) -> None:
    assert [name for name, _ in net.named_parameters()] == ["angles"]
    assert net.angles.shape == (net.ansatz.num_gates, 15)
    assert isinstance(net, tc.TorchLayer)
    assert float(net.angles.detach().min()) >= 0
    assert 5.5 < float(net.angles.detach().max()) < 2 * np.pi


def test_state_dict_round_trip(net: QNN) -> None:
    other = QNN(Brickwork(4, 2), LogOdds(3))
    x = torch.rand(2, 16)
    assert not torch.equal(net(x), other(x))
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(net(x), other(x))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_copies_are_equal_and_independent(net: QNN, copied) -> None:
    x = torch.rand(5, 16)
    other = copied(net)
    assert torch.equal(net(x), other(x))
    with torch.no_grad():
        other.angles.add_(0.1)
    assert not torch.equal(net(x), other(x))
    other(x).sum().backward()
    assert net.angles.grad is None
    assert other.angles.grad is not None


def test_double_computes_in_double(net: QNN) -> None:
    x = torch.rand(5, 16)
    single, double = net(x), net.double()(x)
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("readout", [LogOdds(3), PauliZ(1), Probabilities()], ids=str)
def test_per_sample_gradients_match_a_loop(readout) -> None:
    torch.manual_seed(4)
    net = QNN(Ring(3, 2), readout).double()
    x = torch.randn(6, 8, dtype=torch.float64)

    def output(angles: torch.Tensor, sample: torch.Tensor) -> torch.Tensor:
        return functional_call(net, {"angles": angles}, (sample.unsqueeze(0),)).sin().sum()

    angles = net.angles.detach()
    together = vmap(grad(output), in_dims=(None, 0))(angles, x)
    for sample, gradient in zip(x, together, strict=True):
        net.zero_grad()
        net(sample.unsqueeze(0)).sin().sum().backward()
        torch.testing.assert_close(gradient, net.angles.grad)


@pytest.mark.parametrize("readout", READOUTS, ids=str)
def test_empty_batch_and_batch_of_one(readout) -> None:
    net = QNN(Brickwork(3, 1), readout)
    one, none = net(torch.rand(1, 8)), net(torch.rand(0, 8))
    assert none.shape == (0, one.shape[1])
    assert none.dtype == one.dtype
    (one.sum() + none.sum()).backward()
    assert net.angles.grad.isfinite().all()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.rand(2, 17), "17 features do not fit: 4 qubits have 1 to 16 amplitudes"),
        (torch.rand(2, 0), "0 features do not fit"),
        (torch.rand(()), r"must be \(\.\.\., features\), not of shape \(\)"),
        (torch.stack([torch.ones(16), torch.zeros(16)]), "sample 1 is zero"),
        (torch.full((3, 16), torch.nan), "sample 0 has a non-finite value"),
        (torch.full((3, 16), torch.inf), "sample 0 has a non-finite value"),
    ],
)
def test_wrong_input_is_a_clear_error(net: QNN, x: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        net(x)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
def test_global_settings_of_tensorcircuit_are_left_alone(net: QNN, backend, dtype) -> None:
    with tensorcircuit(backend, dtype):
        net(torch.rand(2, 16)).sum().backward()
        net.circuit(torch.rand(16)).state()
        with pytest.raises(ValueError, match="is zero"):
            net(torch.zeros(1, 16))
        with pytest.raises(ValueError, match="is zero"):
            net.circuit(torch.zeros(16))
        assert (tc.backend.name, tc.dtypestr) == (backend, dtype)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", GOLDEN)
def test_cuda_gives_the_authors_outputs_and_gradients(name: str) -> None:
    net, inputs, numbers = golden(name, torch.float64)
    outputs = authors_outputs(name, net.cuda()(inputs.cuda()))
    expected = expected_outputs(name, numbers).cuda()
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-9)
    authors_loss(name, outputs, {k: v.cuda() for k, v in numbers.items()}).backward()
    torch.testing.assert_close(net.angles.grad.cpu(), numbers["grad"], rtol=0, atol=1e-8)


# ------------------------------------------------------------------------------------- precision
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64])
def test_precisions_that_are_not_computed_in_are_refused_by_name(dtype) -> None:
    net = QNN(Brickwork(3, 1), LogOdds(2))
    net.angles = torch.nn.Parameter(net.angles.detach().to(dtype))
    with pytest.raises(TypeError, match=f"{dtype}.*torch.float32 or torch.float64"):
        net(torch.rand(2, 8))


def test_autocast_before_the_layer_leaves_its_output_in_its_precision() -> None:
    linear, net = torch.nn.Linear(20, 8), QNN(Brickwork(3, 1), LogOdds(2))
    with torch.autocast("cpu", torch.bfloat16):
        hidden = linear(torch.rand(4, 20))
        outputs = net(hidden)
    assert hidden.dtype == torch.bfloat16
    assert outputs.dtype == torch.float32
    torch.testing.assert_close(outputs, net(hidden.float()))


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_samples_are_scaled_before_they_are_rounded_to_the_layers_precision(dtype, mapped) -> None:
    torch.manual_seed(0)
    net, x = QNN(Brickwork(4, 2), Probabilities()), torch.randn(8, 16, dtype=dtype)
    evaluate = vmap(lambda sample: net(sample.unsqueeze(0)).squeeze(0)) if mapped else net
    scales = [1, 1e-43, 1e-50, 1e39, 1e-300, 1e300, 1e-5, 3e-160]
    scaled = (x * torch.tensor(scales, dtype=torch.float64).unsqueeze(1)).requires_grad_()
    outputs = evaluate(scaled)
    torch.testing.assert_close(outputs, net(x), rtol=1e-5, atol=1e-7)
    subnormal = torch.zeros(1, 16, dtype=dtype)
    subnormal[0, 3], subnormal[0, 7] = 5e-324, -10e-324
    torch.testing.assert_close(evaluate(subnormal), net((subnormal * 2.0**1000) * 2.0**70))
    outputs[[0, 1, 3]].square().sum().backward()
    along = (scaled.grad.conj() * scaled.detach()).real.sum(1)
    assert float(along.abs().max()) < 1e-6  # only the direction counts
    assert (scaled.grad[[0, 1, 3]].abs().amax(1) > 0).all()
    if not mapped:
        for value, message in ((0, "sample 2 is zero"), (torch.inf, "sample 2 has a non-finite")):
            spoiled = scaled.detach().clone()
            spoiled[2] = value
            with pytest.raises(ValueError, match=message):
                net(spoiled)


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e-20, 1e20, 1e30, 5e37])
@pytest.mark.parametrize("mapped", [False, True])
def test_only_an_inputs_direction_counts_also_at_the_ends_of_the_range(scale, mapped) -> None:
    torch.manual_seed(0)
    net = QNN(Brickwork(3, 2), Probabilities())
    x = torch.randint(1, 5, (3, 8)).float().requires_grad_()
    scaled = (x.detach().double() * scale).float().requires_grad_()
    with torch.no_grad():
        x.copy_(scaled.double() / scale)  # what is left of it where precision ends
    evaluate = torch.func.vmap(lambda s: net(s[None])[0]) if mapped else net
    outputs, expected = evaluate(scaled), evaluate(x)
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-6)
    weights = torch.rand(3, 8)
    if scale >= 1e-30:  # a gradient is larger by as much as the input is smaller
        found, right = (
            torch.autograd.grad((y * weights).sum(), s)[0].double()
            for y, s in ((outputs, scaled), (expected, x))
        )
        torch.testing.assert_close(found * scale, right, rtol=1e-4, atol=1e-6)


def test_an_extreme_sample_changes_no_bit_of_the_others() -> None:
    net, x = QNN(Brickwork(3, 2), Probabilities()), torch.rand(3, 8)
    outputs = net(x)
    x[1] *= 1e-30
    assert torch.equal(net(x)[[0, 2]], outputs[[0, 2]])


def test_the_pool_can_be_looked_at_and_emptied() -> None:
    net, x = QNN(Brickwork(6, 4), LogOdds(2)), torch.rand(20, 64)
    empty_pool()
    assert pooled_bytes() == 0
    loss = net(x).sum()
    assert pooled_bytes() == 0  # it is in use
    loss.backward()
    assert pooled_bytes() > 20 * 64 * 8
    empty_pool()
    assert pooled_bytes() == 0
    net(x).sum().backward()

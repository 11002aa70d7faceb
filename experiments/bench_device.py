"""Time a noisy circuit and the images that go through it, beside Qiskit Aer's density matrices.

Ours makes the effective measurement operators once, and then evaluates any number of images. Aer
simulates each image. Both compute the same probabilities, which is checked. Without Aer (the extra
qiskit), only ours is timed.
"""

from __future__ import annotations

if __name__ == "__main__":
    from experiments.processes import interrupts

    interrupts.guard()  # before the other imports, so that Ctrl-C ends these too

import importlib.util
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import tyro

from experiments.cli.parse import in_one_line, status_of
from plasticity.errors import Failure, UsageError
from plasticity.protocol.options import check_numbers

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from plasticity.quantum.device import DeviceQNN, NoiseModel
    from plasticity.quantum.layer import QNN

TOLERANCE = 1e-5
"""How far apart probabilities in single precision may be."""


@dataclass(frozen=True)
class Options:
    """What to time."""

    num_qubits: int = 10
    """Qubits of the brickwork circuit."""
    depth: int = 4
    """Its layers."""
    outcomes: int = 10
    """Basis states that are read."""
    images: int = 10_000
    """Samples, of as many features as there are amplitudes, at most 784."""
    depolarizing: float = field(default=1e-3, metadata={"least": 0})
    """Probability with which a gate's qubits are depolarized."""
    readout_error: float = field(default=0.01, metadata={"least": 0})
    """Probability to read a bit wrongly."""
    rounds: int = 5
    """How often everything is timed, in turn."""
    threads: int = 1
    """Threads of torch and of Aer."""

    def __post_init__(self) -> None:
        check_numbers(self, "--")
        if not 2 <= self.num_qubits <= 12:  # operators of 12 qubits take 64 MiB an outcome
            raise UsageError(f"--num-qubits {self.num_qubits}: must be 2 to 12")
        if not 2 <= self.outcomes <= 2**self.num_qubits:
            most = f"{2**self.num_qubits}, the basis states of {self.num_qubits} qubits"
            raise UsageError(f"--outcomes {self.outcomes}: must be 2 to {most}")
        for name in ("depolarizing", "readout_error"):
            if (value := getattr(self, name)) > 1:
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{option} {value}: a probability, 0 to 1")


def run(options: Options) -> None:
    """Measure and print a table."""
    import torch

    from plasticity.quantum.circuits import Brickwork
    from plasticity.quantum.device import NoiseModel
    from plasticity.quantum.layer import QNN
    from plasticity.quantum.readouts import LogOdds
    from plasticity.seeding import generator_for

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    try:
        circuit = Brickwork(options.num_qubits, options.depth)
        qnn = QNN(circuit, LogOdds(options.outcomes))
        noise = NoiseModel(options.depolarizing, readout_error=options.readout_error)
    except ValueError as error:
        raise UsageError(str(error)) from error
    device = qnn.on_device(noise)
    size = options.images, min(784, 2**options.num_qubits)
    x = torch.rand(size, generator=generator_for(0, "bench inputs"))
    found: dict[str, Any] = {}
    steps: dict[str, Callable[[], Any]] = {
        "ours: operators, once": lambda: make_operators(device, x),
        f"ours: {options.images:,} images": lambda: device.probabilities(x),
    }
    if importlib.util.find_spec("qiskit_aer") is not None:
        steps["Aer: one image"] = aer(qnn, noise, x[0], options.threads)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    with torch.no_grad():
        for _ in range(options.rounds + 1):
            for name, step in steps.items():
                began = time.perf_counter()
                found[name] = step()
                seconds[name].append(time.perf_counter() - began)
    amplitudes = 2**options.num_qubits
    print(
        f"{options.num_qubits} qubits, {circuit.num_gates} gates, {options.outcomes} outcomes, "
        f"{size[1]} features, {noise}, threads {options.threads}\n"
        f"medians of {options.rounds} rounds in turn, and all of them\n"
    )
    for name, times in seconds.items():
        each = " ".join(f"{spent:.3f}" for spent in times[1:])
        print(f"{name:24}{statistics.median(times[1:]):9.3f} s   ({each})")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(
        f"\noperators: {options.outcomes * amplitudes**2 * 4 / 2**20:.0f} MiB; the whole process "
        f"at its peak: {peak:.0f} MiB"
    )
    if "Aer: one image" not in steps:
        print("Aer is not installed: pip install 'quantum-plasticity[qiskit]'")
        return
    ours = found[f"ours: {options.images:,} images"][0].double()
    off = float((ours - found["Aer: one image"]).abs().max())
    if off > TOLERANCE:
        raise Failure(f"Aer's probabilities differ from ours by {off:.1e}, over {TOLERANCE:.0e}")
    of_one = statistics.median(seconds["Aer: one image"][1:])
    of_all = statistics.median(
        a + b for a, b in zip(*[seconds[name][1:] for name in [*steps][:2]], strict=True)
    )
    print(
        f"Aer's probabilities differ from ours by {off:.1e}. For {options.images:,} images it "
        f"would take {of_one * options.images:,.0f} s, {of_one * options.images / of_all:,.0f} "
        f"times as long."
    )


def make_operators(device: DeviceQNN, x: Tensor) -> None:
    """Make operators anew, and evaluate one sample: that takes next to no time."""
    device.forget()
    device.probabilities(x[:1])


def aer(qnn: QNN, noise: NoiseModel, x: Tensor, threads: int) -> Callable[[], torch.Tensor]:
    """Return what simulates one image: the gates as they are, each followed by its noise."""
    import torch
    from qiskit import QuantumCircuit
    from qiskit_aer import AerSimulator
    from qiskit_aer.noise import depolarizing_error

    from plasticity.quantum.export import qiskit_amplitudes

    n = qnn.ansatz.num_qubits
    error = depolarizing_error(noise.depolarizing, 2).to_instruction()
    circuit = QuantumCircuit(n)
    circuit.set_statevector(qiskit_amplitudes(qnn, x).numpy())
    for gate, (a, b) in zip(qnn.gates().detach(), qnn.ansatz.pairs, strict=True):
        circuit.unitary(gate.numpy(), [b, a])
        circuit.append(error, [a, b])
    circuit.save_probabilities()
    simulator = AerSimulator(
        method="density_matrix", precision="single", max_parallel_threads=threads
    )
    flips = torch.tensor(
        [[1 - noise.flips[0], noise.flips[1]], [noise.flips[0], 1 - noise.flips[1]]],
        dtype=torch.float64,
    )
    outcomes = qnn.readout.num_outcomes(n)

    def simulate() -> torch.Tensor:
        saved = simulator.run(circuit).result().data(0)["probabilities"]
        read = torch.as_tensor(saved).double().view((2,) * n).permute(*reversed(range(n)))
        for qubit in range(n):
            read = torch.tensordot(flips, read, ([1], [qubit])).movedim(0, qubit)
        return read.flatten()[:outcomes]

    return simulate


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for."""

    def measure() -> None:
        run(
            in_one_line(
                tyro.cli, Options, command="bench_device", description=__doc__,
                args=arguments,
            )
        )  # fmt: skip

    return status_of(measure)


if __name__ == "__main__":
    sys.exit(main())

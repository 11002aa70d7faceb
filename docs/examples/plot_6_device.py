"""
A circuit under noise, and in Qiskit
====================================

This page trains a small quantum layer, evaluates it as a device would run it, takes it to Qiskit,
and samples it there with Aer. It needs the extra ``qiskit``
(``pip install 'quantum-plasticity[qiskit]'``).
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from qiskit import transpile
from qiskit_aer import AerSimulator
from qiskit_aer.noise import NoiseModel as AerNoise
from qiskit_aer.noise import depolarizing_error
from sklearn.datasets import load_digits

from plasticity import QNN, Brickwork, LogOdds
from plasticity.quantum.device import NoiseModel
from plasticity.quantum.export import count_gates, qiskit_amplitudes, to_qiskit

torch.manual_seed(0)
torch.set_num_threads(1)

# %%
# The images are scikit-learn's digits: 64 pixels, so six qubits.

x, y = (torch.from_numpy(values) for values in load_digits(return_X_y=True))
x, y = x.float(), y.long()
train, test = slice(0, 1500), slice(1500, None)
qnn = QNN(Brickwork(num_qubits=6, depth=4), LogOdds(num_classes=10))
optimizer = torch.optim.Adam(qnn.parameters(), lr=0.02)
for _ in range(20):
    for batch in torch.randperm(1500).split(50):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(qnn(x[train][batch]), y[train][batch]).backward()
        optimizer.step()


def accuracy(network):
    """Return the accuracy on the test images."""
    with torch.no_grad():
        return float((network(x[test]).argmax(1) == y[test]).double().mean())


print(f"exact: {accuracy(qnn):.3f}")

# %%
# A device
# --------
#
# ``on_device`` gives the same layer under noise and with a finite number of shots. It computes the
# noise exactly and once for all images. It is a torch module with the layer's own parameters: you
# can train it, too.

noise = NoiseModel(depolarizing=1e-3, readout_error=0.01)
for shots in (100, 1_000, 10_000, None):
    print(f"{shots or 'infinitely many'} shots: {accuracy(qnn.on_device(noise, shots)):.3f}")

# %%
# Only ten of the 64 basis states stand for a digit. The other measurements are lost.

read = qnn.on_device(noise).probabilities(x[test]).sum(1)
print(f"part of the shots that is read: {read.mean():.2f}")

# %%
# Qiskit
# ------
#
# The exported circuit is compared with the layer before you get it. The counts tell what a device
# has to do: three CX for each gate of the layer. To prepare the state of one image costs extra.

print(count_gates(qnn, x[1500]))

# %%
# Now Aer samples this circuit for one image. We put noise on each CX. The layer's noise is on each
# gate, which is three CX, so its level is 1 - (1 - p)³. The image's state is set without noise. The
# measured bits are in such an order that a count's key is the index of the basis state.

p, shots = 3e-3, 100_000
network = to_qiskit(qnn, measure=True)
circuit = network.copy_empty_like()
circuit.set_statevector(qiskit_amplitudes(qnn, x[1500]).numpy())
circuit = circuit.compose(network, clbits=network.clbits)
on_cx = AerNoise()
on_cx.add_all_qubit_quantum_error(depolarizing_error(p, 2), ["cx"])
simulator = AerSimulator(method="density_matrix", noise_model=on_cx, seed_simulator=1)
counts = simulator.run(circuit, shots=shots).result().get_counts()
sampled = np.zeros(64)
for key, count in counts.items():
    sampled[int(key, 2)] = count / shots

same_noise = NoiseModel(depolarizing=1 - (1 - p) ** 3)
ours = qnn.on_device(same_noise).probabilities(x[1500:1501])[0].detach().numpy()
error = np.sqrt(ours * (1 - ours) / shots)
print("Aer less ours, in standard errors:", np.round((sampled[:10] - ours) / error, 1))

# %%

figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
axes.bar(range(10), ours, color="#bbbbbb", label="ours, exact")
axes.errorbar(
    range(10), sampled[:10], 1.96 * error, fmt="o", color="#0072b2", label=f"Aer, {shots:,} shots"
)
axes.set(xlabel="outcome (digit)", ylabel="probability", xticks=range(10))
axes.legend(frameon=False)
_ = axes.set_title("one image under noise; bars: 95 % of the shots' error", fontsize=10)

# %%
# For a device, transpile the circuit once more with the device's coupling: the pairs of a brickwork
# stand on a line, so it needs no swaps.

line = transpile(
    to_qiskit(qnn), coupling_map=[[q, q + 1] for q in range(5)], initial_layout=range(6),
    basis_gates=["cz", "rz", "sx", "x"], optimization_level=1, seed_transpiler=0,
)  # fmt: skip
print(f"on a line, with CZ: {line.count_ops()['cz']} CZ, depth {line.depth()}")

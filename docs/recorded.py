"""Numbers of the pages, computed from files that commands wrote into ``docs/records``.

A page has its numbers in plain text. A comment in front of a table or paragraph says what they are,
in their order; ``tests/test_docs.py`` compares::

    <!-- recorded: mnist-quick mlp first, mnist-quick mlp last -->
    The accuracy goes from 12.3 % to 45.6 %.
"""

import json
from pathlib import Path

import numpy as np

RECORDS = Path(__file__).parent / "records"
PREFIXES = {"mlp": "classical", "qnn": "quantum"}


def tenth(run: str, arm: str, which: str) -> str:
    """Return the mean accuracy of the first or last tenth of a run's tasks, in percent.

    Args:
        run: Folder in ``docs/records``.
        arm: ``"mlp"`` or ``"qnn"``. The folder has one export of it: an ``.npy``, or an ``.npz``
            with an array ``accuracies``.
        which: ``"first"`` or ``"last"``.
    """
    (file,) = (RECORDS / run).glob(f"{PREFIXES[arm]}_*.np[yz]")
    content = np.load(file)
    accuracies = content if isinstance(content, np.ndarray) else content["accuracies"]
    count = max(1, len(accuracies) // 10)
    part = {"first": accuracies[:count], "last": accuracies[-count:]}[which]
    return f"{100 * part.mean():.1f} %"


STEPS = {
    "mnist": "permuted MNIST: 10 qubits, depth 4, log-odds, batch 128",
    "cifar": "CIFAR: 10 qubits, depth 10, Z, batch 128",
    "cifar-deep": "CIFAR, depth 30",
    "xxz": "XXZ: 10 qubits, staircase, depth 6, Z, batch 64, complex",
    "ant": "Ant: ring of 9 qubits, depth 12, 512 features, batch 128",
    "ant-rollout": "Ant, rollout of 16, no gradient",
    "mnist-evaluation": "MNIST, evaluation of 10,000 images",
}
NAMES = {
    "tensorcircuit": "TensorCircuit",
    "plain-torch": "plain torch",
    "pennylane": "PennyLane",
    "deepquantum": "DeepQuantum",
}


def speed_table() -> str:
    """Return README's table: our time, the best rival's, and their ratio, in Markdown.

    They are medians of ``docs/records/bench.json``, a report of ``python -m experiments.bench``.
    """
    report = json.loads((RECORDS / "bench.json").read_text())
    medians = {(row["shape"], row["contestant"]): row["median_ms"] for row in report["rows"]}
    lines = ["| step | ours, ms | best rival, ms | times as long |", "|---|--:|--:|--:|"]
    for shape, text in STEPS.items():
        ours = medians[shape, "ours"]
        rival = min(NAMES, key=lambda name: medians[shape, name])
        theirs = medians[shape, rival]
        numbers = f"{ours:.2g} | {theirs:.3g} ({NAMES[rival]}) | {theirs / ours:.2g}"
        lines.append(f"| {text} | {numbers} |")
    return "\n".join(lines)

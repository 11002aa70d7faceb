"""Numbers of the pages, computed from files that commands wrote into ``docs/records``.

A page has its numbers in plain text. A comment in front of a table or paragraph says what they are,
in their order; ``tests/test_docs.py`` compares::

    <!-- recorded: mnist-quick mlp first, mnist-quick mlp last -->
    The accuracy goes from 12.3 % to 45.6 %.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plasticity.statistics.summaries import early_and_late, tenths

if TYPE_CHECKING:
    from plasticity.studies.numbers import Numbers

RECORDS = Path(__file__).parent / "records"
PREFIXES = {"mlp": "classical", "qnn": "quantum"}


def tenth(run: str, arm: str, which: str) -> str:
    """Return the accuracy of the first or last tenth of a run's tasks, in percent.

    It is what the command prints: without the first task of all.

    Args:
        run: Folder in ``docs/records``.
        arm: ``"mlp"`` or ``"qnn"``. The folder has one export of it: an ``.npy``, or an ``.npz``
            with an array ``accuracies``.
        which: ``"first"`` or ``"last"``.
    """
    (file,) = (RECORDS / run).glob(f"{PREFIXES[arm]}_*.np[yz]")
    content = np.load(file)
    accuracies = content if isinstance(content, np.ndarray) else content["accuracies"]
    early, late = early_and_late(accuracies[None])
    (part,) = {"first": early, "last": late}[which]
    return f"{100 * part:.1f} %"


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
    """Return the table of times: ours, the best rival's, and their ratio, in Markdown.

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


def speed_range() -> str:
    """Return how many times as long the best rival takes, of the steps in the table."""
    ratios = [float(line.split("|")[-2]) for line in speed_table().splitlines()[2:]]
    return f"{min(ratios):g} to {max(ratios):g} times"


# --- the pilot


def pilot(study: str) -> Numbers:
    """Return the numbers of a study's pilot, such as ``"mnist-why"``."""
    from plasticity.studies.numbers import load_records

    return load_records(RECORDS / "pilot" / study)


CEILING = 0.98
"""An arm whose last tenth is at least as accurate can hardly show a drop of the later tasks."""
ACCOUNTS = {
    "growth": "growth of the parameters since the first tenth",
    "growth_in_all": "growth of the parameters in all",
    "gradient_norm": "change of the gradient's norm",
    "update_ratio": "change of the relative size of an update",
}


def rank_correlations() -> str:
    """Return the pilot's table: what changes in an arm, against its drop, over the arms.

    The intervals take Fisher's transform, with the standard error of Bonett and Wright (2000). They
    count the arms as if they were independent.
    """
    lines = ["| rank correlation with the drop | permuted MNIST | XXZ | XXZ, arms below 98 % |"]
    lines.append("|---|--:|--:|--:|")
    for account, words in ACCOUNTS.items():
        cells = [
            _correlation("mnist-why", account, 1.01),
            _correlation("qdata-why", account, 1.01),
            _correlation("qdata-why", account, CEILING),
        ]
        lines.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _correlation(study: str, account: str, below: float) -> str:
    from scipy.stats import spearmanr

    from plasticity.studies.findings import findings_of

    found = pilot(study)
    pairs = []
    for one in findings_of(found, "test_accuracy")[0]:
        if one.level.estimate >= below:
            continue
        if account.startswith("growth"):
            change = getattr(one, account)
            change = None if change is None else change.estimate
        else:
            values = found.of(one.arm, account)
            first, last = ([0.0], [0.0]) if values is None else tenths(values)
            change = np.log(last / first).mean() if min(first) > 0 and min(last) > 0 else None
        if change is not None:
            pairs.append((change, one.drop.estimate))
    n, r = len(pairs), spearmanr(*zip(*pairs, strict=True)).statistic
    half = 1.96 * np.sqrt((1 + r**2 / 2) / (n - 3))
    low, high = np.tanh(np.arctanh(r) - half), np.tanh(np.arctanh(r) + half)
    return f"{r:.2f} [{low:.2f}, {high:.2f}], n = {n}"


FOUND = {
    "mlp": "a small network of ReLU units, as in the paper",
    "qnn": "a circuit of 10 qubits, the paper's",
    "free-brickwork": "a circuit whose gates need not be unitary",
    "stiefel": "no circuit: orthonormal vectors, which stay so",
    "stiefel-free": "the same map, free to grow",
    "mlp+l2": "`mlp` with weight decay",
}
"""The arms of README's table, and what they are."""


def found_table() -> str:
    """Return README's table: level and drop of some arms on both problems, in Markdown."""
    from plasticity.studies.findings import findings_of

    lines = ["| arm | what it is | MNIST: level | drop | XXZ: level | drop |"]
    lines.append("|---|---|--:|--:|--:|--:|")
    found = [{f.arm: f for f in findings_of(pilot(s), "test_accuracy")[0]} for s in PROBLEMS]
    for arm, words in FOUND.items():
        cells = [f"`{arm}`", words]
        for one in (of.get(arm) for of in found):
            if one is None:
                cells += ["", ""]
                continue
            low, high = (100 * end for end in one.drop.interval_95)
            cells += [f"{100 * one.level.estimate:.0f}"]
            cells += [f"{100 * one.drop.estimate:.1f} [{low:.1f}, {high:.1f}]"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


HELD_AND_FREE = (
    ("mnist-why", "stiefel", "stiefel-free"),
    ("mnist-why", "mlp-sphere", "mlp"),
    ("mnist-why", "qnn", "free-brickwork"),
    ("mnist-why", "orthogonal-brickwork", "free-brickwork"),
    ("qdata-why", "stiefel", "stiefel-free"),
    ("qdata-why", "mlp-sphere", "mlp"),
)
"""Pairs of an arm and one like it whose parameters are free to grow."""
PROBLEMS = {"mnist-why": "permuted MNIST", "qdata-why": "XXZ chain"}


def held_and_free() -> str:
    """Return the pilot's table: pairs, their drops, and their learning rates."""
    import importlib

    from plasticity.studies.findings import comparisons, findings_of

    lines = [
        "| problem | pair | drops (points) | difference | learning rates |",
        "|---|---|--:|--:|--:|",
    ]
    for study, arm, reference in HELD_AND_FREE:
        found = pilot(study)
        arms = findings_of(found, "test_accuracy")[0]
        drops = {one.arm: one.drop.estimate for one in arms}
        (pair,) = (c for c in comparisons(found, arms) if (c.arm, c.reference) == (arm, reference))
        experiment = importlib.import_module(f"experiments.{found.study.experiment}").EXPERIMENT
        preset = experiment.presets[found.study.preset]
        rates = [preset.arms[name].optimizer.learning_rate for name in (arm, reference)]
        low, high = (100 * end for end in pair.drop.interval_95)
        lines.append(
            f"| {PROBLEMS[study]} | `{arm}`, `{reference}` "
            f"| {100 * drops[arm]:.1f}, {100 * drops[reference]:.1f} "
            f"| {100 * pair.drop.estimate:.1f} [{low:.1f}, {high:.1f}] "
            f"| {' and '.join(f'{rate:g}' for rate in rates)} |"
        )
    return "\n".join(lines)


def applied() -> str:
    """Return with which options the pilot applied each remedy to the MLP, as a table.

    They are the study's own, and else the defaults: none has changed since the pilot was trained.
    """
    from plasticity.protocol.choices import choose
    from plasticity.protocol.names import find_experiment

    study = pilot("mnist-why").study
    experiment = find_experiment(study.experiment)
    arms = choose(experiment, study.preset, study.arms, study.settings, study.of_arm).arms
    lines = ["| arm | learning rate | options of the remedy |", "|---|--:|---|"]
    for name, arm in arms.items():
        if "+" in name:
            options = [
                f"`{field.name.replace('_', '-')}` {getattr(remedy, field.name)}"
                for remedy in arm.remedies.values()
                for field in dataclasses.fields(remedy)
            ]
            rate = f"{arm.optimizer.learning_rate:g}"
            lines.append(f"| `{name}` | {rate} | {', '.join(options) or 'none'} |")
    return "\n".join(lines)


def seeds_for_ten() -> str:
    """Return for how many arms of the pilot ten and twenty seeds are enough, as a table."""
    from plasticity.statistics.inference import seeds_needed
    from plasticity.studies.findings import findings_of

    lines = ["| problem | arms | 10 are enough | with Holm | 20 are enough | with Holm |"]
    lines.append("|---|--:|--:|--:|--:|--:|")
    for study, words in PROBLEMS.items():
        arms = findings_of(pilot(study), "test_accuracy")[0]
        # Holm's hardest case: the arm with the smallest p value of all.
        needed = {
            level: [
                seeds_needed(one.drop.sd, one.drop.margin, alpha=level) if one.drop.sd else 2
                for one in arms
            ]
            for level in (0.05, 0.05 / len(arms))
        }
        cells = [sum(n <= most for n in of) for most in (10, 20) for of in needed.values()]
        lines.append(f"| {words} | {len(arms)} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)

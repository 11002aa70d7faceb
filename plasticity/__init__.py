"""Quantum neural networks and plasticity in continual learning, in PyTorch.

What is used most can be imported from here. It is loaded when it is first asked for, so that
``import plasticity`` takes no time. ``plasticity.rl`` needs the extra ``rl`` and stays there.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from plasticity._version import __version__ as __version__

__all__ = [
    "QNN",
    "Ansatz",
    "Brickwork",
    "ClassPairs",
    "Experiment",
    "FisherProbe",
    "Images",
    "Learner",
    "LogOdds",
    "Metric",
    "PauliZ",
    "PermutedPixels",
    "Probabilities",
    "Ring",
    "Run",
    "Runs",
    "SignedPauliZ",
    "SpinChainLevels",
    "Staircase",
    "Study",
    "Task",
    "TaskStream",
    "generator_for",
    "gradient_norm",
    "load_images",
    "load_levels",
    "load_run",
    "load_runs",
    "load_study",
    "logit_statistics",
    "read_rows",
    "test_accuracy",
    "train_on_stream",
    "weight_norm",
]

_MODULES = {
    "learning.learner": ("Learner",),
    "learning.loop": ("train_on_stream",),
    "learning.metric": ("Metric",),
    "metrics.accuracy": ("logit_statistics", "test_accuracy"),
    "metrics.fisher": ("FisherProbe",),
    "metrics.norms": ("gradient_norm", "weight_norm"),
    "quantum.circuits": ("Ansatz", "Brickwork", "Ring", "Staircase"),
    "quantum.layer": ("QNN",),
    "quantum.readouts": ("LogOdds", "PauliZ", "Probabilities", "SignedPauliZ"),
    "results.record": ("read_rows",),
    "runs.experiment": ("Experiment",),
    "runs.load": ("Run", "Runs", "load_run", "load_runs"),
    "seeding": ("generator_for",),
    "studies.results": ("load_study",),
    "studies.study": ("Study",),
    "tasks.images": ("Images", "load_images"),
    "tasks.levels": ("load_levels",),
    "tasks.streams": ("ClassPairs", "PermutedPixels", "SpinChainLevels", "Task", "TaskStream"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

if TYPE_CHECKING:  # the same, for type checkers and editors, which do not call __getattr__
    from plasticity.learning.learner import Learner
    from plasticity.learning.loop import train_on_stream
    from plasticity.learning.metric import Metric
    from plasticity.metrics.accuracy import logit_statistics, test_accuracy
    from plasticity.metrics.fisher import FisherProbe
    from plasticity.metrics.norms import gradient_norm, weight_norm
    from plasticity.quantum.circuits import Ansatz, Brickwork, Ring, Staircase
    from plasticity.quantum.layer import QNN
    from plasticity.quantum.readouts import LogOdds, PauliZ, Probabilities, SignedPauliZ
    from plasticity.results.record import read_rows
    from plasticity.runs.experiment import Experiment
    from plasticity.runs.load import Run, Runs, load_run, load_runs
    from plasticity.seeding import generator_for
    from plasticity.studies.results import load_study
    from plasticity.studies.study import Study
    from plasticity.tasks.images import Images, load_images
    from plasticity.tasks.levels import load_levels
    from plasticity.tasks.streams import (
        ClassPairs,
        PermutedPixels,
        SpinChainLevels,
        Task,
        TaskStream,
    )
else:  # hidden from type checkers, which would take any name for one of this module

    def __getattr__(name: str) -> object:
        """Import what is asked for, once (PEP 562)."""
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """List the names that are not loaded yet, too."""
    return sorted({*globals(), *__all__})

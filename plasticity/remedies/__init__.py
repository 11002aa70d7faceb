"""Remedies against the loss of plasticity, by the names they have on the command line.

An arm ``mlp+reset-optimizer`` is the arm ``mlp`` with that remedy. To add one, write a class (see
``plasticity.learning.remedy``) and enter it here with its default options.
"""

from __future__ import annotations

from plasticity.learning.remedy import Remedy
from plasticity.remedies.resets import ResetOptimizer, StartAfresh

REMEDIES: dict[str, Remedy] = {
    "reset-optimizer": ResetOptimizer(),
    "start-afresh": StartAfresh(),
}

"""Names of experiments: words for those that come with the program, else ``module:EXPERIMENT``."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from plasticity.errors import Failure, UsageError
from plasticity.protocol.experiment import Definition

EXPERIMENTS = {
    "ant": "experiments.ant:EXPERIMENT",
    "cifar": "experiments.cifar:EXPERIMENT",
    "mnist": "experiments.mnist:EXPERIMENT",
    "qdata": "experiments.qdata:EXPERIMENT",
}
"""The experiments that come with the program, and where they are."""


def find_experiment(name: str) -> Definition[Any]:
    """Return an experiment by its word, or by ``module:NAME``, whose module is imported.

    Raises:
        UsageError: There is no such word, module or name in it, or it is no experiment.
        Failure: The module cannot be imported.
    """
    place = EXPERIMENTS.get(name, name)
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", place):
        words = ", ".join(EXPERIMENTS)
        raise UsageError(f"experiment {name!r}: must be one of {words}, or module:EXPERIMENT")
    module, _, attribute = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except Exception as error:  # it may be the user's own, and do anything
        reason = (str(error).splitlines() or [""])[0]
        raise Failure(
            f"experiment {name}: {module} cannot be imported: {type(error).__name__}: {reason}"
        ) from error
    if not isinstance(found, Definition):
        raise UsageError(f"experiment {name}: {module} has no experiment called {attribute}")
    return found


def experiment_of(
    config: dict[str, Any], path: str | Path, named: Definition[Any] | str | None = None
) -> Definition[Any]:
    """Return the experiment of a run: the one that is named, else the one that its config names.

    One that does not come with the program is found where its module is imported already: nothing
    is imported because a file names it.

    Args:
        config: Of the run.
        path: Of the run's folder, for the error.
        named: An experiment, or its name as of ``find_experiment``.

    Raises:
        UsageError: There is no experiment of that name.
        Failure: The config names none that is known here.
    """
    if named:
        return find_experiment(named) if isinstance(named, str) else named
    name = config.get("experiment")
    if isinstance(name, str) and name in EXPERIMENTS:
        return find_experiment(name)
    for module in [*sys.modules.values()]:
        found = getattr(module, "EXPERIMENT", None)
        if isinstance(found, Definition) and found.name == name:
            return found
    raise Failure(
        f"{Path(path, 'config.json')}: its experiment is {name!r:.40}, "
        "which does not come with this program.\n"
        "Name where it is: module:EXPERIMENT (on the command line with --experiment)."
    )


def import_modules(modules: Iterable[str]) -> None:
    """Import the modules in which a user registers networks, remedies or metrics.

    Raises:
        UsageError: One cannot be imported.
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # it is the user's own, and may do anything
            line = (str(error).splitlines() or [""])[0]
            raise UsageError(f"module {name}: {type(error).__name__}: {line}") from error

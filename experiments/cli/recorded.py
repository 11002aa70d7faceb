"""The options of commands that read a recorded run: where its data lies, and what it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from plasticity.protocol.experiment import Definition
from plasticity.protocol.names import experiment_of, import_modules
from plasticity.protocol.options import MAY_BE_EMPTY

if TYPE_CHECKING:
    from plasticity.results.record import RunFolder


@dataclass(frozen=True)
class Source:
    """Where what a run was made of lies now."""

    dataset: Annotated[
        str | None,
        tyro.conf.arg(metavar="NAME|FILE.npz", help_behavior_hint="(default: where it was)"),
    ] = None
    """The run's data set, if its file lies elsewhere now."""
    data_root: Path = Path("~/.cache/plasticity")
    """Folder that data sets are downloaded or computed into, once; MNIST's four files may lie in it
    as they are."""
    experiment: Annotated[
        str | None,
        tyro.conf.arg(metavar="MODULE:NAME", help_behavior_hint="(default: as the run says)"),
    ] = None
    """The experiment, if it is one of your own."""
    modules: Annotated[
        tuple[str, ...], MAY_BE_EMPTY, tyro.conf.arg(name="import", metavar="MODULE ...")
    ] = ()
    """Modules to import first, because they register networks, remedies or metrics of your own."""

    def experiment_of(self, folder: RunFolder) -> Definition[Any]:
        """Import the modules and return the experiment of a run.

        Raises:
            UsageError: There is no such module or experiment.
            Failure: The run names none that is known.
        """
        import_modules(self.modules)
        return experiment_of(folder.config, folder.path, self.experiment)

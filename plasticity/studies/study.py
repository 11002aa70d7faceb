"""A study: what it declares, and how one trains it and reads what came out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from plasticity.errors import Failure
from plasticity.studies.declaration import Declaration

if TYPE_CHECKING:
    from plasticity.studies.cells import Place
    from plasticity.studies.results import Results


@dataclass(frozen=True)
class Study(Declaration):
    """A study that can be trained."""

    def train(
        self,
        results: str | Path = "results",
        *,
        workers: int | None = None,
        cluster: str | None = None,
        dataset: str | Path | None = None,
        data_root: str | Path | None = None,
        progress: bool = True,
    ) -> None:
        """Train the cells that are not complete, on this machine or on a cluster.

        Args:
            results: Folder of the run folders.
            workers: Cells at a time on this machine; by default its physical cores.
            cluster: Address of a Dask scheduler, to train on its workers instead.
            dataset: Name or file of the data set, in place of the study's.
            data_root: Folder of data sets that are downloaded or computed.
            progress: Show a progress bar on standard error.

        Raises:
            Failure: Cells failed, with the reason of the first; or there are no workers.
        """
        from plasticity.studies.cells import cells, check_metrics
        from plasticity.studies.workers import train

        check_metrics(self)
        todo = cells(self, _place(dataset, data_root))
        folder = Path(results).expanduser().absolute()
        failed = train(todo, folder, workers=workers, address=cluster, progress=progress)
        if self.diagnosed:
            from plasticity.studies.growing import grow

            report = folder / "studies" / f"{self.name}-{self.digest()}"
            grow(self, folder, report, _place(dataset, data_root), workers or 1)
        if failed:
            (cell, why), *_ = failed
            reason = " ".join(why.split())
            raise Failure(
                f"{len(failed)} of {len(todo)} cells failed; {cell.arm} seed {cell.seed}: {reason}"
            )

    def load(
        self,
        results: str | Path = "results",
        *,
        dataset: str | Path | None = None,
        data_root: str | Path | None = None,
    ) -> Results:
        """Read what is recorded of the study so far; nothing is locked or written.

        Args:
            results: Folder of the run folders.
            dataset: Name or file of the data set, in place of the study's.
            data_root: Folder of data sets that are downloaded or computed.
        """
        from plasticity.studies.numbers import read_numbers
        from plasticity.studies.results import Results

        folder = Path(results).expanduser().absolute()
        return Results.of_numbers(read_numbers(self, folder, _place(dataset, data_root)))


def _place(dataset: str | Path | None, data_root: str | Path | None) -> Place:
    from plasticity.studies.cells import Place

    return Place(
        None if dataset is None else str(dataset), None if data_root is None else Path(data_root)
    )

"""Diagnosing the cells of a study: the branches stand in ``diagnosis/`` beside its report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plasticity.results.names import record_name
from plasticity.runs.diagnose import ROWS, BranchRows, Diagnosis, diagnose
from plasticity.studies.cells import Place, cells, folder_of, is_complete
from plasticity.studies.declaration import Declaration
from plasticity.studies.diagnosed import Diagnosed

FOLDER = "diagnosis"


def grow(
    study: Declaration, results: Path, folder: Path, place: Place | None, workers: int = 1
) -> None:
    """Grow the branches of what a study diagnoses, in the cells that are complete.

    Args:
        study: What is declared.
        results: The folder of run folders.
        folder: Of the study's report.
        place: Where the data lies.
        workers: Processes.
    """
    from plasticity.protocol.names import find_experiment
    from plasticity.results.record import read_run

    of_cells = cells(study, place)
    experiment = find_experiment(study.experiment)
    for wanted in study.diagnosed:
        mine = [c for c in of_cells if c.arm == wanted.arm and is_complete(c, results)]
        paths = [folder_of(cell, results) for cell in mine]
        if not paths:
            continue
        for _ in diagnose(
            experiment,
            [read_run(path.parent) for path in paths],
            arms=[*dict.fromkeys(path.name for path in paths)],
            at=wanted.at,
            tasks=wanted.tasks,
            interventions=wanted.interventions,
            dataset=place.dataset if place else None,
            data_root=(place and place.data_root) or Path("~/.cache/plasticity"),
            out=folder / FOLDER,
            workers=workers,
            modules=study.modules,
        ):
            pass


def read_diagnosis(
    study: Declaration, results: Path, folder: Path, place: Place | None
) -> Diagnosis | None:
    """Return what was diagnosed of a study's cells so far; None of a study that diagnoses nothing.

    Raises:
        RecordError: The rows were edited.
    """
    if not study.diagnosed:
        return None
    folders = {}
    for cell in cells(study, place):
        path = folder_of(cell, results)
        folders[path.parent.name.rpartition("-")[2], path.name] = cell.arm
    rows = []
    for row in BranchRows(folder / FOLDER).all():
        arm = folders.get((row["run"], row["folder"]))
        if arm is not None and any(_is_wanted(study, arm, row, w) for w in study.diagnosed):
            rows.append(row | {"arm": arm, "folder": f"{record_name(arm)}-study"})
    return Diagnosis(tuple(rows), folder / FOLDER / ROWS)


def _is_wanted(study: Declaration, arm: str, row: Mapping[str, Any], wanted: Diagnosed) -> bool:
    return (
        arm == wanted.arm
        and row["intervention"] in wanted.interventions
        and row["task"] < row["age"] + wanted.tasks
        and row["seed"] in study.seeds
    )

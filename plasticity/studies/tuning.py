"""Options of a study's arms: tried on seeds of their own, the whole curve shown.

Which option an arm is tuned by, its remedies say: UPGD has a learning rate of its own, and ReDo a
period. An arm whose remedies name none is tuned by the learning rate of its optimizer.
"""

from __future__ import annotations

import dataclasses
import io
import re
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from plasticity.errors import Failure, UsageError
from plasticity.protocol.names import find_experiment
from plasticity.statistics.tables import markdown_table
from plasticity.studies.cells import Cell, Place, cells, rows_of
from plasticity.studies.declaration import Declaration

RATE = "optimizer.learning-rate"


@dataclass(frozen=True)
class Trial:
    """An option of an arm, and what is tried for it.

    Attributes:
        arm: Its name.
        option: As on the command line, without the arm: ``redo.every``.
        values: In the order of the table.
    """

    arm: str
    option: str
    values: tuple[float, ...]


Scores = Mapping[Trial, Mapping[float, list[float]]]


def trials(study: Declaration) -> list[Trial]:
    """Return what is tried for each arm: what the study says, else what its remedies say.

    Raises:
        UsageError: There are no seeds for it, or an arm has no values.
    """
    found = [
        Trial(arm, option, tuple(values))
        for arm in study.arms
        for option, values in (study.tuning_values.get(arm) or _of_remedies(study, arm)).items()
    ]
    if not study.tuning_seeds or not all(trial.values for trial in found):
        raise UsageError(f"--tune: the study {study.name} has no rates or no tuning_seeds")
    return found


def _of_remedies(study: Declaration, arm: str) -> dict[str, tuple[float, ...]]:
    """Return the options that an arm's remedies name, or else the optimizer's learning rate."""
    config = Cell(study, arm, study.seeds[0]).choice.arms[arm]
    named = {
        f"{name}.{remedy.tuned.replace('_', '-')}": remedy.tries
        for name, remedy in config.remedies.items()
        if remedy.tuned
    }
    return named or {RATE: study.rates}


def tuning_cells(
    study: Declaration, place: Place | None = None
) -> dict[tuple[Trial, float], list[Cell]]:
    """Return the cells that tune a study, by trial and value.

    Raises:
        UsageError: The study has nothing to try, or no seeds for it.
    """
    return {
        (trial, value): cells(with_value(study, trial, value), place)
        for trial in trials(study)
        for value in trial.values
    }


def with_value(study: Declaration, trial: Trial, value: float) -> Declaration:
    """Return a study of one arm, with one of the values, on the seeds for tuning."""
    declared = study.of_arm.get(trial.arm, {})
    of_arm = {name.replace("-", "_"): v for name, v in {**declared, trial.option: value}.items()}
    return dataclasses.replace(
        study, arms=(trial.arm,), seeds=study.tuning_seeds, tuning_seeds=(), rates=(), compared=(),
        tuning_values={}, of_arm={trial.arm: of_arm},
    )  # fmt: skip


def late_scores(
    study: Declaration, results: Path, place: Place | None = None
) -> dict[Trial, dict[float, list[float]]]:
    """Return the mean score of the last tenth of the tasks: by trial and value, one for each seed.

    Args:
        study: With seeds for tuning.
        results: Folder of the run folders.
        place: Where the data lies.

    Returns:
        Seeds without a record are left out.
    """
    score, _ = find_experiment(study.experiment).score
    found: dict[Trial, dict[float, list[float]]] = {}
    for (trial, value), some in tuning_cells(study, place).items():
        of_value = found.setdefault(trial, {}).setdefault(value, [])
        for cell in some:
            rows = rows_of(cell, results)
            late = [row[score] for row in rows[-max(1, len(rows) // 10) :] if score in row]
            if late:
                of_value.append(statistics.mean(late))
    return found


def tuning_table(study: Declaration, scores: Scores) -> str:
    """Return the curve of each arm as a page of Markdown; the best value is bold.

    Arms that are tuned by the same option and values share a table.
    """
    _, words = find_experiment(study.experiment).score
    lines = [
        f"# Tuning of {study.name}",
        "",
        f"Mean {words} of the last tenth of the tasks, over {len(study.tuning_seeds)} seeds that "
        "are not evaluated. In brackets: the number of seeds, where some are missing. At the edge: "
        "a value beyond those tried may be better.",
    ]
    for option, values in dict.fromkeys((trial.option, trial.values) for trial in scores):
        lines += [
            "",
            f"## `{option}`",
            "",
            markdown_table(
                ["arm", *(f"{value:g}" for value in values), "best"],
                [
                    _cells(trial, of_values, len(study.tuning_seeds))
                    for trial, of_values in scores.items()
                    if (trial.option, trial.values) == (option, values)
                ],
            ).removesuffix("\n"),
        ]
    return "\n".join(lines) + "\n"


def _cells(trial: Trial, scores: Mapping[float, list[float]], seeds: int) -> list[str]:
    """Return the cells of an arm's line of the table."""
    means = {value: statistics.mean(some) for value, some in scores.items() if some}
    best = max(means, key=lambda value: means[value], default=None)
    entries = []
    for value, some in scores.items():
        entry = f"{means[value]:.4f}" if some else "none"
        entry = f"**{entry}**" if value == best else entry
        entries.append(f"{entry} ({len(some)})" if 0 < len(some) < seeds else entry)
    edge = best in (min(trial.values), max(trial.values))
    said = "none" if best is None else f"{best:g}, at the edge" if edge else f"{best:g}"
    return [trial.arm, *entries, said]


def write_tuning(study: Declaration, scores: Scores, folder: Path) -> Path:
    """Write what tuning a study has given; return the file.

    Args:
        study: Tuned.
        scores: What ``late_scores`` returned.
        folder: Written into.

    Raises:
        Failure: The file that is there has more seeds, and is kept; or there are none yet.
    """
    from plasticity.results.disk import locked_folder
    from plasticity.results.files import save_file

    text = tuning_table(study, scores)
    path = folder / "tuning.md"
    if path.exists():
        before, now = (seeds_of(table, study) for table in (path.read_text(), text))
        if any(now.get(entry, 0) < count for entry, count in before.items()):
            raise Failure(
                f"{path} has {sum(before.values())} seeds of arms and values, what is read now has "
                f"{sum(now.values())}: it is kept.\n"
                "Name other --results, or remove it to write it anew."
            )
    if not any(values for of_values in scores.values() for values in of_values.values()):
        raise Failure(f"{folder}: no value has been tried: there is nothing to write")
    with locked_folder(folder):
        return save_file(folder, "tuning.md", ".md", io.BytesIO(text.encode()))


def seeds_of(text: str, study: Declaration) -> dict[tuple[str, str, int], int]:
    """Return the number of seeds by option, arm and column of what ``tuning_table`` made."""
    found: dict[tuple[str, str, int], int] = {}
    option = ""
    for line in text.splitlines():
        if line.startswith("## "):
            option = line
        arm, *entries = [entry.strip() for entry in line.strip("|").split("|")]
        if arm in study.arms:
            for column, entry in enumerate(entries[:-1]):
                few = re.search(r"\((\d+)\)$", entry)
                all_of_them = 0 if entry == "none" else len(study.tuning_seeds)
                found[option, arm, column] = int(few[1]) if few else all_of_them
    return found

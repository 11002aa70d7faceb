"""Learning rates of a study's arms: tried on seeds of their own, the whole curve shown."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping
from pathlib import Path

from plasticity.errors import UsageError
from plasticity.protocol.names import find_experiment
from plasticity.studies.cells import Cell, cells, rows_of
from plasticity.studies.declaration import Declaration


def tuning_cells(study: Declaration) -> dict[float, list[Cell]]:
    """Return the cells that tune a study, by their learning rate.

    Raises:
        UsageError: The study names no rates or no seeds for it.
    """
    if not study.rates or not study.tuning_seeds:
        raise UsageError(f"--tune: the study {study.name} has no rates or no tuning_seeds")
    return {rate: cells(at_rate(study, rate)) for rate in study.rates}


def at_rate(study: Declaration, rate: float) -> Declaration:
    """Return a study whose arms all have this learning rate, with the seeds for tuning."""
    of_arm = {
        arm: {**study.of_arm.get(arm, {}), "optimizer.learning_rate": rate} for arm in study.arms
    }
    return dataclasses.replace(
        study, seeds=study.tuning_seeds, tuning_seeds=(), rates=(), of_arm=of_arm
    )


def late_scores(study: Declaration, results: Path) -> dict[str, dict[float, list[float]]]:
    """Return the mean score of the last tenth of the tasks: by arm and rate, one for each seed.

    Args:
        study: With rates and tuning seeds.
        results: Folder of the run folders.

    Returns:
        Seeds without a record are left out.
    """
    score, _ = find_experiment(study.experiment).score
    found: dict[str, dict[float, list[float]]] = {
        arm: {rate: [] for rate in study.rates} for arm in study.arms
    }
    for rate, some in tuning_cells(study).items():
        for cell in some:
            rows = rows_of(cell, results)
            late = [row[score] for row in rows[-max(1, len(rows) // 10) :] if score in row]
            if late:
                found[cell.arm][rate].append(statistics.mean(late))
    return found


def tuning_table(study: Declaration, scores: Mapping[str, Mapping[float, list[float]]]) -> str:
    """Return the curve of each arm as a page of Markdown; the best rate is bold."""
    _, words = find_experiment(study.experiment).score
    lines = [
        f"# Learning rates of {study.name}",
        "",
        f"Mean {words} of the last tenth of the tasks, over {len(study.tuning_seeds)} seeds that "
        "are not evaluated. In brackets: the number of seeds, where some are missing. At the edge: "
        "a rate beyond those tried may be better.",
        "",
        "| arm | " + " | ".join(f"{rate:g}" for rate in study.rates) + " | best |",
        "|---" * (len(study.rates) + 2) + "|",
    ]
    for arm, of_rates in scores.items():
        means = {rate: statistics.mean(values) for rate, values in of_rates.items() if values}
        best = max(means, key=lambda rate: means[rate], default=None)
        entries = []
        for rate, values in of_rates.items():
            entry = f"{means[rate]:.4f}" if values else "none"
            entry = f"**{entry}**" if rate == best else entry
            few = 0 < len(values) < len(study.tuning_seeds)
            entries.append(f"{entry} ({len(values)})" if few else entry)
        edge = best in (min(study.rates), max(study.rates))
        said = "none" if best is None else f"{best:g}, at the edge" if edge else f"{best:g}"
        lines.append(f"| {arm} | {' | '.join(entries)} | {said} |")
    return "\n".join(lines) + "\n"


def write_tuning(study: Declaration, results: Path, folder: Path) -> Path:
    """Write and print what tuning a study has given; return the file."""
    text = tuning_table(study, late_scores(study, results))
    print(text)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tuning.md"
    path.write_text(text)
    return path

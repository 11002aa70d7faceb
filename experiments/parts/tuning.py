"""Learning rates of a study's arms: tried on seeds of their own, the whole curve shown."""

from __future__ import annotations

import dataclasses
import io
import statistics
from collections.abc import Mapping
from pathlib import Path

from experiments.parts.experiment import UsageError
from experiments.parts.study import Cell, Study, cells, experiment_of, rows_of


def tuning_cells(study: Study) -> dict[float, list[Cell]]:
    """Return the cells that tune a study, by their learning rate.

    Raises:
        UsageError: The study names no rates or no seeds for it.
    """
    if not study.rates or not study.tuning_seeds:
        raise UsageError(f"--tune: the study {study.name} has no rates or no tuning_seeds")
    return {rate: cells(at_rate(study, rate)) for rate in study.rates}


def at_rate(study: Study, rate: float) -> Study:
    """Return a study whose arms all have this learning rate, with the seeds for tuning."""
    of_arms = {
        arm: (*study.of_arms.get(arm, ()), f"--{arm}.optimizer.learning-rate", repr(rate))
        for arm in study.arms
    }
    return dataclasses.replace(
        study, seeds=study.tuning_seeds, tuning_seeds=(), rates=(), of_arms=of_arms
    )


def late_scores(study: Study, results: Path) -> dict[str, dict[float, list[float]]]:
    """Return the mean score of the last tenth of the tasks: by arm and rate, one for each seed.

    Args:
        study: With rates and tuning seeds.
        results: Folder of the run folders.

    Returns:
        Seeds without a record are left out.
    """
    score, _ = experiment_of(study.experiment).score
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


def tuning_table(study: Study, scores: Mapping[str, Mapping[float, list[float]]]) -> str:
    """Return the curve of each arm as a page of Markdown; the best rate is bold."""
    _, words = experiment_of(study.experiment).score
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


def write_tuning(study: Study, results: Path, folder: Path) -> Path:
    """Write and print what tuning a study has given; return the file."""
    from plasticity.results.disk import disk_errors, make_folder
    from plasticity.results.files import save_file

    text = tuning_table(study, late_scores(study, results))
    print(text)
    with disk_errors(folder):
        make_folder(folder)
    return save_file(folder, "tuning.md", ".md", io.BytesIO(text.encode()))

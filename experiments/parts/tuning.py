"""Learning rates of a study's arms: tried on seeds of their own, the whole curve shown."""

from __future__ import annotations

import dataclasses
import re
import statistics
from collections.abc import Mapping
from pathlib import Path

from experiments.parts.experiment import Failure, UsageError
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
    """Write and print what tuning a study has given; return the file.

    Raises:
        Failure: The file that is there has more seeds, and is kept; or there are none yet.
    """
    scores = late_scores(study, results)
    text = tuning_table(study, scores)
    print(text)
    path = folder / "tuning.md"
    if path.exists():
        before, now = (seeds_of(table, study) for table in (path.read_text(), text))
        if any(now.get(entry, 0) < count for entry, count in before.items()):
            raise Failure(
                f"{path} has {sum(before.values())} seeds of arms and rates, what is read now has "
                f"{sum(now.values())}: it is kept.\n"
                "Name other --results, or remove it to write it anew."
            )
    if not any(values for of_rates in scores.values() for values in of_rates.values()):
        raise Failure(f"no rate has been tried in {results}: there is nothing to write")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def seeds_of(text: str, study: Study) -> dict[tuple[str, int], int]:
    """Return the number of seeds by arm and column of a table that ``tuning_table`` made."""
    found = {}
    for line in text.splitlines():
        arm, *entries = [entry.strip() for entry in line.strip("|").split("|")]
        if arm in study.arms:
            for column, entry in enumerate(entries[:-1]):
                few = re.search(r"\((\d+)\)$", entry)
                all_of_them = 0 if entry == "none" else len(study.tuning_seeds)
                found[arm, column] = int(few[1]) if few else all_of_them
    return found

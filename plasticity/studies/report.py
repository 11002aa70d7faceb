"""The report of a study, from records alone: ``report.md``, ``report.html``, a table, figures.

Nothing is trained, and no random number is drawn: the same records give the same files.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plasticity.errors import Failure
from plasticity.figures.labels import looks_of_names
from plasticity.figures.level_against_drop import level_against_drop
from plasticity.figures.over_seeds import over_tasks
from plasticity.learning.column import Column
from plasticity.protocol.columns import column_of
from plasticity.protocol.names import find_experiment
from plasticity.statistics.estimates import Change, Estimate
from plasticity.studies import report_text
from plasticity.studies.causes_section import add_causes
from plasticity.studies.cells import Place
from plasticity.studies.declaration import Declaration
from plasticity.studies.diagnosed import RECORD, load_diagnosis
from plasticity.studies.findings import (
    Finding,
    changes,
    comparisons,
    findings_of,
)
from plasticity.studies.numbers import Numbers, read_numbers, save_records
from plasticity.studies.page import PAGE, page_of
from plasticity.studies.rules import LARGER_SD

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".pdf")
SUMMARY = "summary.csv"


def write_report(
    study: Declaration, results: Path, folder: Path, place: Place | None = None
) -> Path:
    """Write the report of what a study's cells have recorded so far, and its numbers in records/.

    Args:
        study: What was declared.
        results: The folder of run folders.
        folder: Gets the files; it is made where there is none.
        place: Where the data lies.

    Returns:
        The path of ``report.md``.

    Raises:
        Failure: The report that is there has more; it is kept.
        RecordError: A record is damaged, or the disk is full or fails.
    """
    from plasticity.results.disk import locked_folder
    from plasticity.studies.growing import read_diagnosis

    found = read_numbers(study, results, place)
    diagnosis = read_diagnosis(study, results, folder, place)
    found = dataclasses.replace(found, diagnosis=diagnosis)
    keep_what_has_more(found, folder)  # before the folder is touched
    with locked_folder(folder):
        keep_what_has_more(found, folder)  # another process may have written it since
        save_records(found, folder / "records")
        if diagnosis is not None:  # rounded as the records have it
            found = dataclasses.replace(
                found, diagnosis=load_diagnosis(folder / "records" / RECORD)
            )
        return _write(found, folder)


def report_on(found: Numbers, folder: Path) -> Path:
    """Write the report of gathered numbers, as ``load_records`` gives them back, too.

    Args:
        found: The numbers.
        folder: Gets the files; it is made where there is none.

    Returns:
        The path of ``report.md``.

    Raises:
        Failure: The report that is there has more; it is kept.
        RecordError: The disk is full or fails.
    """
    from plasticity.results.disk import locked_folder

    keep_what_has_more(found, folder)
    with locked_folder(folder):
        keep_what_has_more(found, folder)
        return _write(found, folder)


def _write(found: Numbers, folder: Path) -> Path:
    """Write the report into a folder that is locked."""
    experiment = find_experiment(found.study.experiment)
    score, words = experiment.score
    arms, without_verdict = findings_of(found, score)
    # The order of all tables and figures.
    order = [*(one.arm for one in arms), *without_verdict]
    drawing = Drawing(found, order, {one.arm: one.loss.verdict for one in arms})
    parts = [
        report_text.heading(found), report_text.arms_of(found), report_text.rules_in_words(found),
        report_text.verdicts(arms, without_verdict),
    ]  # fmt: skip
    if any(found.of(arm, score) is not None for arm in order):
        figure = save_figure(folder, "accuracy", drawing.over_tasks(score))
        parts.append(f"![{words} over tasks]({figure})\n")
    if arms:
        headline = arms[0].headline
        title = f"{report_text.title_of_study(found.study)}: level against {headline}"
        drawn = level_against_drop(arms, title, found.study.drop_margin)
        figure = save_figure(folder, "level-against-drop", drawn)
        parts.append(f"![level against {headline}]({figure})\n")
    parts += add_causes(found.study, found.diagnosis, partial(save_figure, folder))
    parts += [
        report_text.pairs(comparisons(found, arms)),
        report_text.power(arms, len(found.study.arms)),
        report_text.skeptic(arms),
        report_text.missing(found),
    ]
    metrics = {name: changes(found, order, name) for name in found.names() if name != score}
    if metrics:
        text = (
            "Exploration: means over seeds with 95 % intervals, and no p values. Of a metric that "
            "is taken now and then, a tenth of the tasks at which it was taken counts."
        )
        parts.append(f"## Metrics\n\n{text}\n")
    for name, of_arms in metrics.items():
        file = save_figure(folder, f"metric-{name}", drawing.over_tasks(name))
        parts.append(report_text.metric(drawing.column(name), of_arms, file))
    summary = _summary(found, arms, order, metrics)
    _save(folder, SUMMARY, summary.encode())
    labels = {name: drawing.column(name).title for name in found.names()}
    _save(folder, PAGE, page_of(found, summary, labels).encode())
    return _save(folder, "report.md", "\n".join(filter(None, parts)).encode())


def keep_what_has_more(found: Numbers, folder: Path) -> None:
    """Refuse to replace the report of cells that are not complete in what was gathered.

    Args:
        found: What a new report would be about.
        folder: Of the report that is there, if any.

    Raises:
        Failure: With some of these cells.
    """
    there = complete_cells(folder)
    now = {(arm, seed) for arm in found.study.arms for seed in found.seeds(arm)}
    if lost := sorted(there - now):
        names = ", ".join(f"{arm} seed {seed}" for arm, seed in lost[:3])
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise Failure(
            f"{folder} has a report of {len(there)} complete cells, and is kept: {len(lost)} of "
            f"them are not complete in what is read now ({names}{more}).\n"
            "Name other --results, or remove that folder to write the report anew."
        )


def complete_cells(folder: Path) -> set[tuple[str, int]]:
    """Return arm and seed of the complete cells of the report in a folder; none if there is none.

    They are read from its summary.csv, whichever records the report is of.
    """
    try:
        with (folder / SUMMARY).open(newline="") as file:
            return {
                (line["arm"], int(seed))
                for line in csv.DictReader(file)
                for seed in line["seeds"].split()
            }
    except (OSError, ValueError, KeyError, AttributeError, csv.Error):  # not as it was written
        return set()


class Drawing:
    """Draws the figures of a study.

    Args:
        found: Its numbers.
        order: Of the arms.
        verdicts: By arm.
    """

    def __init__(self, found: Numbers, order: Sequence[str], verdicts: Mapping[str, str]) -> None:
        self._found, self._order = found, order
        self._verdicts = verdicts
        experiment = self._experiment = find_experiment(found.study.experiment)
        self._score, self._words = experiment.score
        self._title = report_text.title_of_study(found.study)
        arms = found.study.arms
        numbers = looks_of_names(experiment.registry, arms)
        self._looks = dict(zip(arms, numbers, strict=True))
        references = [reference for _, reference in found.study.compared]
        # The one that most are compared with.
        self._reference = max(references, key=references.count, default=found.study.arms[0])

    def column(self, name: str) -> Column:
        """Return what a column is called in tables and figures, and how it is drawn.

        The score is drawn in per cent, and never on a logarithmic axis.
        """
        column = column_of(self._experiment, name)
        if name != self._score:
            return column
        low, high = column.bounds
        return dataclasses.replace(
            column, label=self._words, unit="%", bounds=(100 * low, 100 * high), logarithmic=False
        )

    def over_tasks(self, name: str) -> Figure:
        """Draw a column over tasks."""
        values = {arm: self._found.of(arm, name) for arm in self._order}
        scale = 100 if name == self._score else 1
        series = {arm: scale * of for arm, of in values.items() if of is not None}
        column = self.column(name)
        return over_tasks(
            series, column.title, f"{self._title}: {column.title}", verdicts=self._verdicts,
            reference=self._reference, looks=self._looks, bounds=column.bounds,
            logarithmic=column.logarithmic,
        )  # fmt: skip


def save_figure(folder: Path, name: str, figure: Figure) -> str:
    """Write a figure in all formats, undated, and return the name of the first."""
    for suffix in FORMATS:
        buffer = io.BytesIO()
        undated = {"CreationDate": None} if suffix == ".pdf" else None
        figure.savefig(buffer, format=suffix[1:], metadata=undated)
        _save(folder, name + suffix, buffer.getvalue())
    return name + FORMATS[0]


def _save(folder: Path, name: str, content: bytes) -> Path:
    from plasticity.results.files import save_file

    return save_file(folder, name, Path(name).suffix, io.BytesIO(content))


def _summary(
    found: Numbers,
    arms: Sequence[Finding],
    order: Sequence[str],
    metrics: Mapping[str, Mapping[str, Change]],
) -> str:
    """Return all numbers as CSV, a line an arm: accuracies from 0 to 1, undefined ones empty."""
    by_name = {one.arm: one for one in arms}
    lines: list[dict[str, Any]] = []
    for arm in order:
        seeds = found.seeds(arm)
        line: dict[str, Any] = {"arm": arm, "n": len(seeds), "seeds": " ".join(map(str, seeds))}
        if one := by_name.get(arm):
            loss = one.loss
            line |= {"verdict": loss.verdict, "of": one.headline, "fragile": loss.fragile}
            line |= _numbers("early", one.early) | _numbers("level", one.level)
            line |= _numbers("deficit", one.deficit)
            line |= _numbers("drop", one.drop) | {
                "drop_margin": one.drop.margin, "drop_skewness": one.drop.skewness,
                "p_loses": loss.p_loses, "p_loses_adjusted": loss.p_loses_adjusted,
                "p_keeps": loss.p_keeps, "p_keeps_adjusted": loss.p_keeps_adjusted,
                "collapsed": loss.collapsed, "collapsed_at_most": loss.collapsed_at_most,
                "seeds_needed": report_text.needed(one),
                "seeds_needed_holm": report_text.needed(one, arms=len(found.study.arms)),
                "seeds_needed_large_sd": report_text.needed(one, times=LARGER_SD),
            }  # fmt: skip
            line |= _numbers("slope", one.slope) | {
                "slope_margin": one.slope.margin, "flat": one.slope.flat,
                "p_flat": one.slope.p, "p_flat_adjusted": one.slope.p_adjusted,
            }  # fmt: skip
            line |= _numbers("gap", one.gap) | _numbers("log_growth", one.growth)
            line |= _numbers("log_growth_in_all", one.growth_in_all)
            line["parameters"] = one.parameters
        for name, of_arms in metrics.items():
            if arm in of_arms:
                line |= _numbers(f"{name}_first", of_arms[arm].first)
                line |= _numbers(f"{name}_last", of_arms[arm].last)
        lines.append(line)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [*dict.fromkeys(key for line in lines for key in line)])
    writer.writeheader()
    writer.writerows(lines)
    return buffer.getvalue()


def _numbers(name: str, of: Estimate | None) -> dict[str, Any]:
    """Return mean, standard deviation and intervals as columns."""
    if of is None:
        return {}
    columns = {name: of.estimate, f"{name}_sd": of.sd}
    for percent, interval in ((90, of.interval_90), (95, of.interval_95)):
        low, high = interval or (None, None)
        columns |= {f"{name}_low_{percent}": low, f"{name}_high_{percent}": high}
    return columns
